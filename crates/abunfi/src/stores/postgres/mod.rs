//! The relational store on PostgreSQL 15 and newer, which can also be the document store.
//!
//! One file for each domain it serves. What they share: [`lane`] (units of work, reads, deadlines),
//! [`pool`], [`error`] (what the driver's errors mean), [`columns`] (reading rows), and
//! [`audit`]'s and [`outbox`]'s ways to write a row inside somebody's unit of work.
//!
//! Lock order, in every unit of work: user row, accounts by asset, document heads by kind, chain heads.
//! It keeps no session state (nothing but `SET LOCAL`, no `LISTEN`, no session-level advisory locks,
//! except while migrating), so a transaction-pooling PgBouncer may stand between; `DATABASE_DIRECT_URL`
//! then leads past it for migrations.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;

use crate::OpenError;
use crate::config::PostgresConfig;
use crate::error::StoreKind;
use crate::ids::UserId;
use crate::stores::RelationalOptions;
use crate::stores::breaker::Breaker;

mod audit;
mod audit_verify;
mod checkpoints;
mod columns;
mod content;
mod dev_data;
mod error;
mod export;
mod heads;
mod keys;
mod lane;
mod leaves;
mod ledger;
mod logs;
mod open;
mod outbox;
mod pool;
mod probe;
mod sessions;
mod transaction;
mod users;

use lane::Lane;

/// A checkpoint over many chains, and one page of a large chain, take longer than a request may.
const TRAIL_DEADLINE_MS: u64 = 60_000;
/// Opened when they are needed.
const TRAIL_CONNECTIONS: u32 = 3;
/// How long a unit over many accounts waits for one that another holds: units of other instances take some ten
/// milliseconds.
const HASTE: Duration = Duration::from_millis(250);
/// Snapshots that are read at once, at most. Opened when they are needed, too.
const SNAPSHOT_CONNECTIONS: u32 = 16;

/// A PostgreSQL server as the relational store. Cheap to clone; all clones share the connections.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// For what a request waits for.
    requests: Lane,
    /// The same connections, for postings.
    postings: Lane,
    /// And for postings that do not wait long for a row.
    hasty: Lane,
    /// For the relay and the sweeps, so that background work cannot starve requests.
    background: Lane,
    /// For reading much in short snapshots, as the verifier does.
    snapshots: Lane,
    /// For checkpoints, and for reading the trail as a whole: few connections, longer deadlines.
    trail: Lane,
    breaker: Arc<Breaker>,
    options: RelationalOptions,
}

impl Postgres {
    /// Connects, checks the server, and migrates the schema if told to.
    ///
    /// # Errors
    /// [`OpenError::Configuration`] for a URL that cannot be read (never echoed) and for a server that this
    /// program must not run on; [`OpenError::SchemaTooNew`], [`OpenError::SchemaTooOld`];
    /// [`OpenError::Store`] when the server cannot be reached.
    pub async fn connect(
        url: &str,
        config: &PostgresConfig,
        options: RelationalOptions,
    ) -> Result<Self, OpenError> {
        let target = open::Target::parse(open::DATABASE_URL, url)?;
        open::prepare(&target, config, options).await?;
        let breaker = Arc::new(Breaker::new(StoreKind::Relational));
        let lane = |connections| target.lane(&breaker, config, connections);
        let patient = PostgresConfig {
            deadline_ms: config.deadline_ms.max(TRAIL_DEADLINE_MS),
            ..config.clone()
        };
        let requests = lane(config.max_connections);
        Ok(Self {
            trail: target.lane(&breaker, &patient, TRAIL_CONNECTIONS),
            postings: requests.by_keys(None),
            hasty: requests.by_keys(Some(HASTE)),
            requests,
            background: lane(config.background_connections),
            snapshots: target.lane(&breaker, &patient, SNAPSHOT_CONNECTIONS),
            breaker,
            options,
        })
    }

    /// Brings the schema up to date; gives its version before and after. For `abunfi migrate`.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect).
    pub async fn migrate(url: &str, config: &PostgresConfig) -> Result<(i64, i64), OpenError> {
        let target = open::Target::parse(open::DATABASE_URL, url)?;
        open::migrate(&target, config).await
    }

    /// The newest schema version that this program knows.
    #[must_use]
    pub fn schema_version() -> i64 {
        open::known_version()
    }

    /// The circuit breaker of this store.
    #[must_use]
    pub fn breaker(&self) -> &Arc<Breaker> {
        &self.breaker
    }

    /// Refuses new work and closes the connections that are idle.
    pub async fn close(&self) {
        self.requests.close().await;
        self.background.close().await;
        self.snapshots.close().await;
        self.trail.close().await;
    }
}

/// For lists of what belongs to a user, when they are empty: is there nothing, or no such user?
async fn user_exists(connection: &mut PgConnection, id: UserId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM users WHERE user_id = $1)")
        .bind(id.0)
        .fetch_one(connection)
        .await
}
