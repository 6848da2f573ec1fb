//! The books themselves, past the service: asked in SQL, and chain by chain.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use abunfi::audit::{self, GENESIS};
use abunfi::config::{PostgresConfig, SqliteConfig};
use abunfi::ids::UserId;
use abunfi::stores::RelationalOptions;
use abunfi::stores::postgres::Postgres;
use abunfi::stores::sqlite::Sqlite;
use abunfi_testkit::books::all_violations;
use anyhow::{Context as _, Result};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Row as _};

use crate::report::{Check, Violations};

/// Rows of a chain that are read at a time.
const PAGE: u32 = 500;

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

    async fn chains(&self) -> Result<Arc<dyn audit::Store>> {
        let options = RelationalOptions {
            holds_documents: true,
            outbox: false,
            migrate: false,
            allow_unsafe_durability: false,
        };
        Ok(match self {
            Self::Postgres(url) => {
                let config = PostgresConfig {
                    max_connections: 1,
                    ..PostgresConfig::default()
                };
                Arc::new(Postgres::connect(url, &config, options).await?)
            }
            Self::Sqlite(path) => {
                let path = path.to_str().context("a UTF-8 path")?;
                Arc::new(Sqlite::open(path, &SqliteConfig::default(), options).await?)
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

/// Verifies the books; each time from where the last one ended.
#[derive(Debug, Default)]
pub(crate) struct Verifier {
    /// The last verified row of each user's chain: its number and its hash.
    verified: BTreeMap<UserId, (i64, [u8; 32])>,
}

impl Verifier {
    /// All that must hold of the books whatever was posted. This is the place for `abunfi verify`, which
    /// looks at everything; until then the rows and the chains are checked here.
    pub(crate) async fn verify(
        &mut self,
        place: &Place,
        users: &[String],
        violations: &Violations,
    ) -> Result<()> {
        let rows = format!(
            "SELECT what FROM ({}) AS found WHERE violations <> 0",
            all_violations()
        );
        for what in place.texts(&rows).await.context("asking the rows")? {
            violations.add(Check::Rows, what);
        }
        let chains = place.chains().await?;
        for user in users {
            self.verify_chain(&*chains, user.parse()?, violations)
                .await?;
        }
        Ok(())
    }

    async fn verify_chain(
        &mut self,
        chains: &dyn audit::Store,
        user: UserId,
        violations: &Violations,
    ) -> Result<()> {
        let (mut seq, mut hash) = self.verified.get(&user).copied().unwrap_or((0, GENESIS));
        loop {
            let rows = chains.chain(user, "VND", seq, PAGE).await?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                let entry = row.entry;
                let follows = entry.seq == seq + 1 && entry.previous_hash == hash;
                if !follows || entry.hash != entry.computed_hash() {
                    let what = format!("{user}: row {} does not follow row {seq}", entry.seq);
                    violations.add(Check::Chains, what);
                    return Ok(());
                }
                (seq, hash) = (entry.seq, entry.hash);
            }
        }
        self.verified.insert(user, (seq, hash));
        Ok(())
    }
}
