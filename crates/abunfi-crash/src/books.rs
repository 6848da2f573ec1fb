//! The books themselves, past the service: asked in SQL, and by the program's own verifier.

use std::path::PathBuf;
use std::sync::Arc;

use abunfi::audit::verify::{self, Options, Verifier};
use abunfi::config::{PostgresConfig, SqliteConfig};
use abunfi::stores::RelationalOptions;
use abunfi::stores::postgres::Postgres;
use abunfi::stores::sqlite::Sqlite;
use abunfi_testkit::books::all_violations;
use anyhow::{Context as _, Result};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Row as _};

use crate::report::{Check, Violations};

/// Where the database is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Postgres(String),
    Sqlite(PathBuf),
}

impl Place {
    /// The text in the first column of each row. `{id:c}` in the query stands for the id in column `c` as
    /// 32 digits.
    pub(crate) async fn texts(&self, sql: &str) -> Result<Vec<String>> {
        match self {
            Self::Postgres(url) => {
                let sql = with_ids(sql, |column| {
                    format!("replace(CAST({column} AS text), '-', '')")
                });
                let mut connection = PgConnection::connect(url).await?;
                let rows = sqlx::query(AssertSqlSafe(sql))
                    .fetch_all(&mut connection)
                    .await?;
                connection.close().await?;
                rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
            }
            Self::Sqlite(path) => {
                let sql = with_ids(sql, |column| format!("lower(hex({column}))"));
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .busy_timeout(std::time::Duration::from_secs(10));
                let mut connection = options.connect().await?;
                let rows = sqlx::query(AssertSqlSafe(sql))
                    .fetch_all(&mut connection)
                    .await?;
                connection.close().await?;
                rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
            }
        }
    }

    /// Runs one statement on PostgreSQL; nothing elsewhere.
    pub(crate) async fn execute(&self, sql: &'static str) -> Result<()> {
        if let Self::Postgres(url) = self {
            let mut connection = PgConnection::connect(url).await?;
            sqlx::query(sql).execute(&mut connection).await?;
            connection.close().await?;
        }
        Ok(())
    }

    async fn verifier(&self) -> Result<Verifier> {
        let options = RelationalOptions {
            holds_documents: true,
            outbox: false,
            migrate: false,
            allow_unsafe_durability: false,
        };
        Ok(match self {
            Self::Postgres(url) => {
                let config = PostgresConfig {
                    max_connections: 4,
                    ..PostgresConfig::default()
                };
                let store = Arc::new(Postgres::connect(url, &config, options).await?);
                Verifier::new(store.clone(), store)
            }
            Self::Sqlite(path) => {
                let path = path.to_str().context("a UTF-8 path")?;
                let store = Arc::new(Sqlite::open(path, &SqliteConfig::default(), options).await?);
                Verifier::new(store.clone(), store)
            }
        })
    }
}

fn with_ids(sql: &str, id: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once("{id:") {
        let (column, after) = after.split_once('}').unwrap_or((after, ""));
        text.push_str(before);
        text.push_str(&id(column));
        rest = after;
    }
    text + rest
}

/// An id as its digits alone, as the queries give it.
pub(crate) fn digits(id: &str) -> String {
    id.replace('-', "")
}

/// All that must hold of the books whatever was posted: the rows in SQL, and what `abunfi verify` looks at.
pub(crate) async fn verify(place: &Place, violations: &Violations) -> Result<()> {
    let rows = format!(
        "SELECT what FROM ({}) AS found WHERE violations <> 0",
        all_violations()
    );
    for what in place.texts(&rows).await.context("asking the rows")? {
        violations.add(Check::Rows, what);
    }
    let verifier = place.verifier().await?;
    let report = verifier
        .verify(&Options::default(), Arc::new(()))
        .await
        .context("verifying")?;
    if !report.clean && report.findings.is_empty() {
        violations.add(Check::Rows, "the books are not clean, and nothing says why");
    }
    for finding in report.findings {
        violations.add(check_of(&finding.place), finding.to_string());
    }
    Ok(())
}

/// Whether it is about the trail or about what the trail tells of.
const fn check_of(place: &verify::Place) -> Check {
    match place {
        verify::Place::AuditRow { .. }
        | verify::Place::Private { .. }
        | verify::Place::ChainHead { .. }
        | verify::Place::Checkpoint { .. }
        | verify::Place::Leaf { .. }
        | verify::Place::ChainLeaf { .. } => Check::Chains,
        verify::Place::Account { .. }
        | verify::Place::Transaction { .. }
        | verify::Place::Entry { .. }
        | verify::Place::Asset { .. } => Check::Rows,
    }
}
