//! Stores of a test's own: a folder, or names on the three shared servers.

use abunfi::Config;
use abunfi::config::Secret;
use abunfi_testkit::{servers, unique_name};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tempfile::TempDir;

/// What serves a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// One process, one folder.
    Embedded,
    /// PostgreSQL, MongoDB and Redis.
    Servers,
}

/// What is to be removed after a test.
pub(crate) struct Stores {
    folder: TempDir,
    /// The name on all three servers.
    name: Option<String>,
}

/// Fresh stores, and the configuration that names them.
pub(crate) async fn create(backend: Backend) -> (Stores, Config) {
    let folder = TempDir::new().expect("a folder");
    let mut config = Config {
        data_dir: folder.path().to_owned(),
        allow_unsafe_durability: true,
        ..Config::default()
    };
    let mut name = None;
    if backend == Backend::Servers {
        let unique = unique_name();
        let (maintenance, url) = postgres_urls(&unique);
        let mut connection = connect(&maintenance).await;
        let statement = format!("CREATE DATABASE {unique}");
        connection
            .execute(AssertSqlSafe(statement))
            .await
            .expect("a database");
        connection.close().await.expect("the connection closes");
        config.database_url = Some(Secret::new(url));
        config.mongodb_uri = Some(Secret::new(servers::require_mongodb_uri()));
        config.mongodb.database.clone_from(&unique);
        config.redis_url = Some(Secret::new(servers::require_redis_url()));
        config.redis.key_prefix = format!("{unique}:");
        // Many tests at once share one server.
        config.postgres.max_connections = 8;
        name = Some(unique);
    }
    (Stores { folder, name }, config)
}

/// The URL of the maintenance database, and that of the database `name` on the same server.
fn postgres_urls(name: &str) -> (String, String) {
    let maintenance = servers::require_postgres_url();
    let (base, query) = match maintenance.split_once('?') {
        Some((base, query)) => (base, format!("?{query}")),
        None => (maintenance.as_str(), String::new()),
    };
    let authority_end = base.find("://").expect("a URL") + 3;
    let server = match base[authority_end..].find('/') {
        Some(slash) => &base[..authority_end + slash],
        None => base,
    };
    let url = format!("{server}/{name}{query}");
    (maintenance, url)
}

async fn connect(url: &str) -> sqlx::PgConnection {
    url.parse::<sqlx::postgres::PgConnectOptions>()
        .expect("a URL")
        .connect()
        .await
        .expect("PostgreSQL answers")
}

impl Stores {
    pub(crate) async fn remove(self) {
        let Some(name) = self.name else { return };
        let mut connection = connect(&servers::require_postgres_url()).await;
        let statement = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        connection
            .execute(AssertSqlSafe(statement))
            .await
            .expect("the database goes");
        let mongodb = mongodb::Client::with_uri_str(servers::require_mongodb_uri())
            .await
            .expect("MongoDB answers");
        mongodb
            .database(&name)
            .drop()
            .await
            .expect("the document database goes");
    }

    /// Leaves everything as the failed test left it.
    pub(crate) fn keep(self) {
        let folder = self.folder.keep();
        let name = self.name.as_deref().unwrap_or("no server");
        eprintln!("kept: {} and {name}", folder.display());
    }
}
