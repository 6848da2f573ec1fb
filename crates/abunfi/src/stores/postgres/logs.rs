//! The append-only log.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::Postgres;
use super::columns::{Columns, at, column, limit};
use super::error::undecodable;
use super::lane::scoped;
use crate::clock::Timestamp;
use crate::documents::canonical::canonical_json;
use crate::documents::{LogEntry, LogFilter, LogLevel, LogStore};
use crate::error::StoreError;
use crate::ledger::Page;

#[async_trait]
impl LogStore for Postgres {
    async fn append(&self, entries: &[LogEntry], expires_at: Timestamp) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.requests
            .write(|connection| {
                scoped(async move {
                    append(connection, entries, expires_at).await?;
                    Ok(())
                })
            })
            .await
    }

    async fn query(
        &self,
        filter: &LogFilter,
        page: &Page<(Timestamp, Uuid)>,
        now: Timestamp,
    ) -> Result<Vec<LogEntry>, StoreError> {
        self.requests
            .read(|connection| scoped(query(connection, filter, page, now)))
            .await
    }

    async fn purge(&self, now: Timestamp, rows: u32) -> Result<u64, StoreError> {
        self.background
            .write(|connection| {
                scoped(async move {
                    let done = sqlx::query(
                        "WITH gone AS MATERIALIZED (
                             SELECT id FROM logs WHERE expires_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)
                         DELETE FROM logs USING gone WHERE logs.id = gone.id",
                    )
                    .bind(at(now))
                    .bind(limit(rows))
                    .execute(connection)
                    .await?;
                    Ok(done.rows_affected())
                })
            })
            .await
    }
}

async fn append(
    connection: &mut PgConnection,
    entries: &[LogEntry],
    expires_at: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO logs (id, at, level, target, message, folded, fields, request_id, expires_at)
         SELECT *, $9 FROM unnest($1::uuid[], $2::timestamptz[], $3::smallint[], $4::text[], $5::text[],
             $6::text[], $7::text[], $8::text[])
         ON CONFLICT DO NOTHING",
    )
    .bind(column(entries, |entry| entry.id))
    .bind(column(entries, |entry| at(entry.at)))
    .bind(column(entries, |entry| entry.level.rank()))
    .bind(column(entries, |entry| entry.target.as_str()))
    .bind(column(entries, |entry| entry.message.as_str()))
    .bind(column(entries, |entry| folded(&entry.message)))
    .bind(column(entries, |entry| canonical_json(&entry.fields)))
    .bind(column(entries, |entry| entry.request_id.as_deref()))
    .bind(at(expires_at))
    .execute(connection)
    .await?;
    Ok(())
}

async fn query(
    connection: &mut PgConnection,
    filter: &LogFilter,
    page: &Page<(Timestamp, Uuid)>,
    now: Timestamp,
) -> Result<Vec<LogEntry>, sqlx::Error> {
    sqlx::query(
        "SELECT * FROM logs
         WHERE expires_at > $1
             AND ($2::smallint IS NULL OR level >= $2)
             AND ($3::text IS NULL OR target = $3)
             AND ($4::text IS NULL OR request_id = $4)
             AND ($5::timestamptz IS NULL OR at >= $5)
             AND ($6::timestamptz IS NULL OR at < $6)
             AND ($7::text IS NULL OR strpos(folded, $7) > 0)
             AND ($8::timestamptz IS NULL OR (at, id) < ($8, $9))
         ORDER BY at DESC, id DESC LIMIT $10",
    )
    .bind(at(now))
    .bind(filter.level.map(LogLevel::rank))
    .bind(&filter.target)
    .bind(&filter.request_id)
    .bind(filter.from.map(at))
    .bind(filter.to.map(at))
    .bind(filter.contains.as_deref().map(folded))
    .bind(page.after.map(|(time, _)| at(time)))
    .bind(page.after.map(|(_, id)| id))
    .bind(limit(page.limit))
    .fetch_all(connection)
    .await?
    .iter()
    .map(entry)
    .collect()
}

/// The form in which messages are searched. Folded here and not by the server, whose `lower()` and `ILIKE`
/// depend on the locale of the database (under `C` they know ASCII only).
fn folded(text: &str) -> String {
    text.to_lowercase()
}

fn entry(row: &PgRow) -> Result<LogEntry, sqlx::Error> {
    Ok(LogEntry {
        id: row.id("id")?,
        at: row.timestamp("at")?,
        level: LogLevel::from_rank(row.try_get("level")?)
            .ok_or_else(|| undecodable("level", "not a known value"))?,
        target: row.text("target")?,
        message: row.text("message")?,
        fields: row.json("fields")?,
        request_id: row.optional_text("request_id")?,
    })
}
