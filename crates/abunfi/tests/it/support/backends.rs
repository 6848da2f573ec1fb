//! The backends, and a database of its own for each test.

use std::str::FromStr as _;
use std::sync::Arc;

use abunfi::config::{PostgresConfig, SqliteConfig};
use abunfi::stores::RelationalOptions;
use abunfi::stores::postgres::Postgres;
use abunfi::stores::sqlite::Sqlite;
use abunfi_testkit::{servers, unique_name};
use sha2::{Digest as _, Sha256};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tempfile::TempDir;

use super::{Raw, Relational};

/// Connections of a test's pool: few, so that tests reach the bound, and many tests fit one server.
pub(crate) const POOL_SIZE: u32 = 8;

/// For everything that is bounded: many tests share the machine, and dozens of units queue on one row. What
/// hangs fails all the same, only later.
const PATIENCE_MS: u64 = 30_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Postgres,
    Sqlite,
}

/// A database that belongs to one test.
#[expect(
    clippy::large_enum_variant,
    reason = "one for each test, never moved in bulk"
)]
#[derive(Debug)]
pub(crate) enum Database {
    Postgres {
        server: PgConnectOptions,
        name: String,
    },
    Sqlite {
        dir: TempDir,
    },
}

impl Database {
    pub(crate) async fn create(backend: Backend) -> Self {
        match backend {
            Backend::Postgres => {
                let server = PgConnectOptions::from_str(&servers::require_postgres_url())
                    .expect("TEST_DATABASE_URL is a URL of PostgreSQL");
                let template = template(&server).await;
                let name = unique_name();
                let mut admin = connect(&server).await;
                run(
                    &mut admin,
                    format!(r#"CREATE DATABASE "{name}" TEMPLATE "{template}""#),
                )
                .await;
                Self::Postgres { server, name }
            }
            Backend::Sqlite => Self::Sqlite {
                dir: TempDir::with_prefix("abunfi-test-").expect("a temporary folder"),
            },
        }
    }

    pub(crate) async fn open(&self, options: RelationalOptions) -> Relational {
        match self {
            Self::Postgres { server, name } => {
                let url = url(server, name);
                let config = PostgresConfig {
                    max_connections: POOL_SIZE,
                    background_connections: 2,
                    acquire_timeout_ms: PATIENCE_MS,
                    deadline_ms: PATIENCE_MS,
                    commit_deadline_ms: PATIENCE_MS,
                    ..PostgresConfig::default()
                };
                let options = RelationalOptions {
                    migrate: false,
                    ..options
                };
                let store = Postgres::connect(&url, &config, options)
                    .await
                    .expect("the store opens");
                Relational::of(Backend::Postgres, Arc::new(store), Raw::Postgres(url))
            }
            Self::Sqlite { dir } => {
                let path = dir.path().join("abunfi.db");
                let config = SqliteConfig {
                    acquire_timeout_ms: PATIENCE_MS,
                    deadline_ms: PATIENCE_MS,
                    ..SqliteConfig::default()
                };
                let store = Sqlite::open(path.to_str().expect("a UTF-8 path"), &config, options)
                    .await
                    .expect("the store opens");
                Relational::of(Backend::Sqlite, Arc::new(store), Raw::Sqlite(path))
            }
        }
    }

    /// The test succeeded.
    pub(crate) async fn remove(self) {
        match self {
            Self::Postgres { server, name } => {
                let mut admin = connect(&server).await;
                run(
                    &mut admin,
                    format!(r#"DROP DATABASE "{name}" WITH (FORCE)"#),
                )
                .await;
            }
            Self::Sqlite { dir } => dir.close().expect("the folder goes"),
        }
    }

    /// The test failed: where its database is.
    pub(crate) fn keep(self) -> String {
        match self {
            Self::Postgres { name, .. } => name,
            Self::Sqlite { dir } => dir.keep().display().to_string(),
        }
    }
}

fn url(server: &PgConnectOptions, database: &str) -> String {
    server.clone().database(database).to_url_lossy().to_string()
}

async fn connect(server: &PgConnectOptions) -> PgConnection {
    PgConnection::connect_with(server)
        .await
        .expect("a connection to TEST_DATABASE_URL")
}

async fn run(connection: &mut PgConnection, sql: String) {
    let done = sqlx::query(AssertSqlSafe(sql.clone()))
        .execute(connection)
        .await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// A migrated database to copy, made by the first test that needs it: copying one takes a fraction of
/// migrating one. Its name holds the migrations' hash, so that a change of the schema makes another.
async fn template(server: &PgConnectOptions) -> String {
    /// Any number that no other advisory lock of these tests has.
    const LOCK: i64 = 7_117_366_011;

    let name = format!("abunfi_tmpl_{}", migrations_hash());
    let mut admin = connect(server).await;
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(LOCK)
        .execute(&mut admin)
        .await
        .expect("the lock");
    let there: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
            .bind(&name)
            .fetch_one(&mut admin)
            .await
            .expect("an answer");
    if !there {
        // Under another name until it is whole: whoever dies on the way leaves no half-made template.
        let making = unique_name();
        run(&mut admin, format!(r#"CREATE DATABASE "{making}""#)).await;
        migrate(&url(server, &making)).await;
        run(
            &mut admin,
            format!(r#"ALTER DATABASE "{making}" RENAME TO "{name}""#),
        )
        .await;
    }
    // Closing the connection gives the lock back.
    admin.close().await.expect("the connection ends");
    name
}

async fn migrate(url: &str) {
    Postgres::migrate(url, &PostgresConfig::default())
        .await
        .expect("the schema is brought up to date");
}

fn migrations_hash() -> String {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/stores/postgres/migrations"
    );
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the migrations")
        .map(|file| file.expect("a file").path())
        .collect();
    files.sort();
    let mut hasher = Sha256::new();
    for file in files {
        hasher.update(std::fs::read(file).expect("a migration"));
    }
    let hash: [u8; 32] = hasher.finalize().into();
    hex::encode(&hash[..8])
}
