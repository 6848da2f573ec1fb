//! What a measurement left behind: rows counted in the database itself.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result};
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Row};

/// A database that is written to.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    Postgres(String),
    Sqlite(PathBuf),
}

/// Counts over a whole database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Books {
    pub(super) transactions: i64,
    pub(super) entries: i64,
    pub(super) audit: i64,
    pub(super) answers: i64,
    /// Of all accounts: how often they changed, and what came in, in whole units.
    pub(super) versions: i64,
    pub(super) deposited: i64,
    /// The write-ahead log's end, in bytes; PostgreSQL only.
    pub(super) wal: i64,
}

const COUNTS: &str = "SELECT (SELECT count(*) FROM transactions) AS transactions,
     (SELECT count(*) FROM entries) AS entries, (SELECT count(*) FROM audit) AS audit,
     (SELECT count(*) FROM idempotency_keys) AS answers";

impl Database {
    pub(crate) async fn count(&self) -> Result<Books> {
        match self {
            Self::Postgres(url) => {
                let mut connection = PgConnectOptions::from_str(url)?
                    .disable_statement_logging()
                    .connect()
                    .await?;
                let row = sqlx::query(sqlx::AssertSqlSafe(format!(
                    "{COUNTS}, sum(version)::bigint AS versions, (sum(deposited) / 1000000)::bigint AS deposited,
                     (pg_current_wal_lsn() - '0/0')::bigint AS wal FROM accounts"
                )))
                .fetch_one(&mut connection)
                .await
                .context("cannot count")?;
                let books = Books {
                    transactions: row.try_get("transactions")?,
                    entries: row.try_get("entries")?,
                    audit: row.try_get("audit")?,
                    answers: row.try_get("answers")?,
                    versions: row.try_get("versions")?,
                    deposited: row.try_get("deposited")?,
                    wal: row.try_get("wal")?,
                };
                connection.close().await?;
                Ok(books)
            }
            Self::Sqlite(path) => {
                let mut connection = SqliteConnectOptions::new()
                    .filename(path)
                    .disable_statement_logging()
                    .connect()
                    .await?;
                let row = sqlx::query(sqlx::AssertSqlSafe(format!(
                    "{COUNTS}, sum(version) AS versions, sum(deposited / 1000000) AS deposited FROM accounts"
                )))
                .fetch_one(&mut connection)
                .await
                .context("cannot count")?;
                let books = Books {
                    transactions: row.try_get("transactions")?,
                    entries: row.try_get("entries")?,
                    audit: row.try_get("audit")?,
                    answers: row.try_get("answers")?,
                    versions: row.try_get("versions")?,
                    deposited: row.try_get("deposited")?,
                    wal: 0,
                };
                connection.close().await?;
                Ok(books)
            }
        }
    }
}

impl Books {
    /// What came since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            transactions: self.transactions - earlier.transactions,
            entries: self.entries - earlier.entries,
            audit: self.audit - earlier.audit,
            answers: self.answers - earlier.answers,
            versions: self.versions - earlier.versions,
            deposited: self.deposited - earlier.deposited,
            wal: self.wal - earlier.wal,
        }
    }

    /// What `postings` deposits of 1 unit leave behind.
    pub(super) const fn of(postings: i64, wal: i64) -> Self {
        Self {
            transactions: postings,
            entries: 2 * postings,
            audit: postings,
            answers: postings,
            versions: postings,
            deposited: postings,
            wal,
        }
    }
}
