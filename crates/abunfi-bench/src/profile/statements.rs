//! What PostgreSQL did, statement by statement, as `pg_stat_statements` counts.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use sqlx::{Connection, Row};

use crate::ledger::connect;

/// In the server's own database, from where it shows those of all: what is profiled stays as the platform
/// made it.
pub(super) async fn prepare(server: &str) -> Result<()> {
    run(server, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await
}

pub(super) async fn reset(server: &str) -> Result<()> {
    run(server, "SELECT pg_stat_statements_reset()").await
}

async fn run(server: &str, sql: &'static str) -> Result<()> {
    let mut connection = connect(server).await?;
    sqlx::raw_sql(sql)
        .execute(&mut connection)
        .await
        .with_context(|| format!("cannot run: {sql}"))?;
    connection.close().await?;
    Ok(())
}

pub(super) async fn version(url: &str) -> Result<String> {
    let mut connection = connect(url).await?;
    let version: String =
        sqlx::query_scalar("SELECT 'PostgreSQL ' || current_setting('server_version')")
            .fetch_one(&mut connection)
            .await?;
    connection.close().await?;
    Ok(version)
}

const TOP: &str = "
SELECT calls::text, round(total_exec_time::numeric, 1)::text, round(mean_exec_time::numeric, 3)::text,
       rows::text, shared_blks_hit::text, shared_blks_dirtied::text, wal_bytes::text,
       left(trim(regexp_replace(query, '\\s+', ' ', 'g')), 100)
FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
WHERE d.datname = $1 ORDER BY total_exec_time DESC LIMIT 20";

const HEAD: [&str; 8] = [
    "calls",
    "total ms",
    "mean ms",
    "rows",
    "hit",
    "dirtied",
    "WAL bytes",
    "statement",
];

/// The statements on the database of `url` that took longest, as a table.
pub(super) async fn top(server: &str, url: &str) -> Result<String> {
    let (_, database) = url.rsplit_once('/').context("a URL without a database")?;
    let mut connection = connect(server).await?;
    let rows = sqlx::query(TOP)
        .bind(database)
        .fetch_all(&mut connection)
        .await?;
    connection.close().await?;
    let mut table = vec![HEAD.map(str::to_owned)];
    for row in &rows {
        let mut cells = HEAD.map(str::to_owned);
        for (at, cell) in cells.iter_mut().enumerate() {
            *cell = row.try_get(at)?;
        }
        table.push(cells);
    }
    let mut text = String::new();
    for [calls, total, mean, rows, hit, dirtied, wal, query] in table {
        writeln!(
            text,
            "{calls:>9}{total:>11}{mean:>10}{rows:>10}{hit:>11}{dirtied:>9}{wal:>13}  {query}"
        )?;
    }
    Ok(text)
}
