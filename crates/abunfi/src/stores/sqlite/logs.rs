//! The append-only log on SQLite, in the file of its own.

use async_trait::async_trait;
use serde_json::json;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite as Driver};
use uuid::Uuid;

use super::Sqlite;
use super::columns::{Columns, descending_from, hex, row_list, small};
use super::error::undecodable;
use crate::clock::Timestamp;
use crate::documents::canonical::canonical_json;
use crate::documents::{LogEntry, LogFilter, LogLevel, LogStore};
use crate::error::StoreError;
use crate::ledger::Page;

#[async_trait]
impl LogStore for Sqlite {
    async fn append(&self, entries: &[LogEntry], expires_at: Timestamp) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        let rows = row_list(entries, |entry| {
            json!([
                hex(entry.id),
                entry.at.micros(),
                entry.level.rank(),
                entry.target,
                entry.message,
                folded(&entry.message),
                canonical_json(&entry.fields),
                entry.request_id,
            ])
        });
        self.documents()?
            .write(async |connection| {
                // `WHERE true` tells the upsert from a join condition.
                sqlx::query(
                    "INSERT INTO logs (id, at, level, target, message, folded, fields, request_id, expires_at)
                     SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4,
                            value ->> 5, value ->> 6, value ->> 7, ?2
                     FROM json_each(?1) WHERE true ON CONFLICT (id) DO NOTHING",
                )
                .bind(rows)
                .bind(expires_at.micros())
                .execute(connection)
                .await?;
                Ok(())
            })
            .await
    }

    async fn query(
        &self,
        filter: &LogFilter,
        page: &Page<(Timestamp, Uuid)>,
        now: Timestamp,
    ) -> Result<Vec<LogEntry>, StoreError> {
        self.documents()?
            .read(async |connection| {
                matching(filter, page, now)
                    .build()
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(entry)
                    .collect()
            })
            .await
    }

    async fn purge(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.documents()?
            .write(async |connection| {
                let purged = sqlx::query(
                    "DELETE FROM logs WHERE rowid IN (
                         SELECT rowid FROM logs WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
                )
                .bind(now.micros())
                .bind(limit)
                .execute(connection)
                .await?;
                Ok(purged.rows_affected())
            })
            .await
    }
}

/// Only the conditions that are asked for, so that the planner can use the index of each.
fn matching(
    filter: &LogFilter,
    page: &Page<(Timestamp, Uuid)>,
    now: Timestamp,
) -> QueryBuilder<Driver> {
    let (at, id) = descending_from(page.after);
    let mut query = QueryBuilder::new("SELECT * FROM logs WHERE (at, id) < (");
    query.push_bind(at).push(", ").push_bind(id).push(")");
    query.push(" AND expires_at > ").push_bind(now.micros());
    if let Some(level) = filter.level {
        query.push(" AND level >= ").push_bind(level.rank());
    }
    if let Some(target) = &filter.target {
        query.push(" AND target = ").push_bind(target.clone());
    }
    if let Some(request_id) = &filter.request_id {
        query
            .push(" AND request_id = ")
            .push_bind(request_id.clone());
    }
    if let Some(from) = filter.from {
        query.push(" AND at >= ").push_bind(from.micros());
    }
    if let Some(to) = filter.to {
        query.push(" AND at < ").push_bind(to.micros());
    }
    if let Some(text) = &filter.contains {
        query.push(" AND instr(coalesce(folded, message), ");
        query.push_bind(text.to_lowercase()).push(") > 0");
    }
    query
        .push(" ORDER BY at DESC, id DESC LIMIT ")
        .push_bind(page.limit);
    query
}

/// The message in lower case, unless that is the message itself.
fn folded(message: &str) -> Option<String> {
    Some(message.to_lowercase()).filter(|folded| folded != message)
}

fn entry(row: &SqliteRow) -> Result<LogEntry, sqlx::Error> {
    let rank = small("level", row.integer("level")?)?;
    Ok(LogEntry {
        id: row.id("id")?,
        at: row.timestamp("at")?,
        level: LogLevel::from_rank(rank).ok_or_else(|| undecodable("level", "not a level"))?,
        target: row.text("target")?,
        message: row.text("message")?,
        fields: row.json("fields")?,
        request_id: row.optional_text("request_id")?,
    })
}
