//! SQL past the adapter: to look at rows that no trait shows, and to try what the database must refuse.

use std::path::PathBuf;
use std::str::FromStr as _;

use abunfi_testkit::unique_name;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};

/// Where the test's database is. Each call opens a connection of its own, so nothing is left open.
#[derive(Debug, Clone)]
pub(crate) enum Raw {
    Postgres(String),
    Sqlite(PathBuf),
}

impl Raw {
    /// Runs one statement; how many rows it changed.
    pub(crate) async fn execute(&self, sql: &str) -> Result<u64, sqlx::Error> {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await?;
                let done = sqlx::query(sql).execute(&mut connection).await;
                connection.close().await?;
                Ok(done?.rows_affected())
            }
            Self::Sqlite(path) => {
                let mut connection = sqlite(path).await?;
                let done = sqlx::query(sql).execute(&mut connection).await;
                connection.close().await?;
                Ok(done?.rows_affected())
            }
        }
    }

    /// Another database on the same server (or in the same folder), with nothing in it.
    pub(crate) async fn empty_neighbour(&self) -> Self {
        match self {
            Self::Postgres(url) => {
                let name = unique_name();
                let create = format!(r#"CREATE DATABASE "{name}""#);
                self.execute(&create).await.expect("another database");
                let options = PgConnectOptions::from_str(url).expect("a URL");
                Self::Postgres(options.database(&name).to_url_lossy().to_string())
            }
            Self::Sqlite(path) => Self::Sqlite(path.with_file_name("neighbour.db")),
        }
    }

    /// Removes what [`empty_neighbour`](Self::empty_neighbour) of `of` made.
    pub(crate) async fn remove_neighbour(self, of: &Self) {
        if let Self::Postgres(url) = &self {
            let options = PgConnectOptions::from_str(url).expect("a URL");
            let name = options.get_database().expect("a database's name");
            let drop = format!(r#"DROP DATABASE "{name}" WITH (FORCE)"#);
            of.execute(&drop).await.expect("the other database goes");
        }
    }

    /// The one number that the query gives.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let numbers = self.numbers(sql).await;
        assert_eq!(numbers.len(), 1, "one row from {sql}");
        numbers[0]
    }

    /// The numbers in the first column.
    pub(crate) async fn numbers(&self, sql: &str) -> Vec<i64> {
        let query = AssertSqlSafe(sql.to_owned());
        let read = async {
            match self {
                Self::Postgres(url) => {
                    let mut connection = PgConnection::connect(url).await?;
                    let rows = sqlx::query(query).fetch_all(&mut connection).await?;
                    connection.close().await?;
                    rows.iter().map(|row| row.try_get(0)).collect()
                }
                Self::Sqlite(path) => {
                    let mut connection = sqlite(path).await?;
                    let rows = sqlx::query(query).fetch_all(&mut connection).await?;
                    connection.close().await?;
                    rows.iter().map(|row| row.try_get(0)).collect()
                }
            }
        };
        let numbers: Result<Vec<i64>, sqlx::Error> = read.await;
        numbers.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The texts in the first column.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        let query = AssertSqlSafe(sql.to_owned());
        let read = async {
            match self {
                Self::Postgres(url) => {
                    let mut connection = PgConnection::connect(url).await?;
                    let rows = sqlx::query(query).fetch_all(&mut connection).await?;
                    connection.close().await?;
                    rows.iter().map(|row| row.try_get(0)).collect()
                }
                Self::Sqlite(path) => {
                    let mut connection = sqlite(path).await?;
                    let rows = sqlx::query(query).fetch_all(&mut connection).await?;
                    connection.close().await?;
                    rows.iter().map(|row| row.try_get(0)).collect()
                }
            }
        };
        let texts: Result<Vec<String>, sqlx::Error> = read.await;
        texts.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}

async fn sqlite(path: &PathBuf) -> Result<SqliteConnection, sqlx::Error> {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(std::time::Duration::from_secs(10))
        .connect()
        .await
}
