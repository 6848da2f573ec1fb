//! One relational server seen through the traits of every domain.

use std::sync::Arc;

use super::OpenError;
use crate::config::Config;
use crate::health::Probe;
use crate::stores::RelationalOptions;
use crate::stores::postgres::Postgres;
use crate::stores::sqlite::Sqlite;
use crate::{audit, documents, keys, ledger, outbox, sessions, transaction, users};

/// The most batches in flight at once on PostgreSQL.
const MAX_POSTGRES_SHARDS: usize = 4;
/// SQLite has one writer.
const SQLITE_SHARDS: usize = 1;

/// At least two, so that one batch is made and decided while another is flushed: with a single one all callers
/// wait for it together, and then the server waits for all of them.
const MIN_POSTGRES_SHARDS: usize = 2;

/// Batches in flight at once on PostgreSQL: one for two cores. A batch costs the server a millisecond whatever
/// its size, so few large ones are cheaper than many small ones, as long as they keep the cores busy. Fewer for
/// a small pool: reads must find a connection however much is posted.
fn postgres_shards(connections: u32) -> usize {
    let wanted = std::thread::available_parallelism()
        .map_or(1, |cores| cores.get() / 2)
        .clamp(MIN_POSTGRES_SHARDS, MAX_POSTGRES_SHARDS);
    shards_within(connections, wanted).unwrap_or_else(|| {
        tracing::warn!(
            connections,
            needed = ledger::connections(1).saturating_add(1),
            "DATABASE_MAX_CONNECTIONS is so small that reads may have to wait for postings"
        );
        1
    })
}

/// The most shards, up to `wanted`, whose postings leave a connection to the others.
fn shards_within(connections: u32, wanted: usize) -> Option<usize> {
    let connections = usize::try_from(connections).unwrap_or(usize::MAX);
    (1..=wanted)
        .rev()
        .find(|shards| ledger::connections(*shards) < connections)
}

/// The handles of one relational store.
#[derive(Debug, Clone)]
pub(super) struct Relational {
    pub(super) users: Arc<dyn users::Store>,
    pub(super) ledger: Arc<dyn ledger::Store>,
    pub(super) audit: Arc<dyn audit::Store>,
    pub(super) verify: Arc<dyn audit::verify::Store>,
    pub(super) checkpoints: Arc<dyn audit::CheckpointStore>,
    pub(super) exports: Arc<dyn audit::ExportStore>,
    pub(super) heads: Arc<dyn documents::HeadStore>,
    pub(super) content: Arc<dyn documents::ContentStore>,
    pub(super) dev_data: Arc<dyn documents::DevDataStore>,
    pub(super) logs: Arc<dyn documents::LogStore>,
    pub(super) sessions: Arc<dyn sessions::Store>,
    pub(super) keys: Arc<dyn keys::Store>,
    pub(super) outbox: Arc<dyn outbox::Store>,
    pub(super) transactions: Arc<dyn transaction::Store>,
    pub(super) probe: Arc<dyn Probe>,
    pub(super) documents_probe: Arc<dyn Probe>,
    pub(super) backend: &'static str,
    /// Batches in flight at once.
    pub(super) shards: usize,
    /// Other processes may write the same data.
    pub(super) shared: bool,
    pub(super) server: Server,
}

#[expect(
    clippy::large_enum_variant,
    reason = "one for each platform, never moved in bulk"
)]
#[derive(Debug, Clone)]
pub(super) enum Server {
    Postgres(Postgres),
    Sqlite(Sqlite),
}

impl Server {
    pub(super) async fn close(&self) {
        match self {
            Self::Postgres(postgres) => postgres.close().await,
            Self::Sqlite(sqlite) => sqlite.close().await,
        }
    }
}

/// The handles of `$store`, which implements every trait.
macro_rules! handles {
    ($store:ident, $server:ident, $backend:literal, $shards:expr, $shared:literal) => {{
        let shared = Arc::new($store.clone());
        let documents_probe = $store.documents_probe();
        Relational {
            users: shared.clone(),
            ledger: shared.clone(),
            audit: shared.clone(),
            verify: shared.clone(),
            checkpoints: shared.clone(),
            exports: shared.clone(),
            heads: shared.clone(),
            content: shared.clone(),
            dev_data: shared.clone(),
            logs: shared.clone(),
            sessions: shared.clone(),
            keys: shared.clone(),
            outbox: shared.clone(),
            transactions: shared.clone(),
            probe: shared,
            documents_probe,
            backend: $backend,
            shards: $shards,
            shared: $shared,
            server: Server::$server($store),
        }
    }};
}

impl Relational {
    pub(super) async fn open(config: &Config) -> Result<Self, OpenError> {
        let options = RelationalOptions {
            holds_documents: config.mongodb_uri.is_none(),
            outbox: config.redis_url.is_some(),
            migrate: config.migrate_on_start,
            allow_unsafe_durability: config.allow_unsafe_durability,
        };
        if config.uses_postgres() {
            let postgres = Postgres::connect(&target(config), &config.postgres, options).await?;
            return Ok(handles!(
                postgres,
                Postgres,
                "postgresql",
                postgres_shards(config.postgres.max_connections),
                true
            ));
        }
        let sqlite = Sqlite::open(&target(config), &config.sqlite, options).await?;
        Ok(handles!(sqlite, Sqlite, "sqlite", SQLITE_SHARDS, false))
    }

    pub(super) async fn migrate(config: &Config) -> Result<(i64, i64), OpenError> {
        if config.uses_postgres() {
            Postgres::migrate(&target(config), &config.postgres).await
        } else {
            Sqlite::migrate(&target(config)).await
        }
    }
}

/// The URL of the configuration, or the file of the embedded database.
fn target(config: &Config) -> String {
    match &config.database_url {
        Some(url) => url.expose().to_owned(),
        None => config.data_dir.join("abunfi.db").display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PostgresConfig;

    #[test]
    fn postings_leave_a_connection_to_reads() {
        let default = PostgresConfig::default().max_connections;
        assert_eq!(shards_within(default, MAX_POSTGRES_SHARDS), Some(3));
        assert_eq!(shards_within(12, 4), Some(2));
        assert_eq!(shards_within(9, 4), Some(1));
        assert_eq!(shards_within(8, 4), None);
        for pool in 1..100 {
            if let Some(shards) = shards_within(pool, MAX_POSTGRES_SHARDS) {
                assert!(u32::try_from(ledger::connections(shards)).unwrap() < pool);
            }
        }
    }
}
