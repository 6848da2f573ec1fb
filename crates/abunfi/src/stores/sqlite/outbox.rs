//! The work queue of effects that commits promised.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use uuid::Uuid;

use super::Sqlite;
use super::columns::{Columns, small};
use super::error::undecodable;
use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::ids;
use crate::outbox::{self, Backlog, Claimed, Effect, Store};

/// Promises, inside the caller's unit of work, that what is cached under `tags` will be removed: one row,
/// however many tags. Only for a platform that has an L2 (`RelationalOptions::outbox`).
pub(super) async fn enqueue(
    connection: &mut SqliteConnection,
    tags: Vec<String>,
    created_at: Timestamp,
) -> Result<(), sqlx::Error> {
    if tags.is_empty() {
        return Ok(());
    }
    let effect = serde_json::to_string(&Effect::Invalidate { tags })
        .map_err(|error| sqlx::Error::Encode(error.into()))?;
    let id = ids::uuid_v7(created_at);
    outbox::promised(id);
    sqlx::query("INSERT INTO outbox (id, effect, created_at) VALUES (?1, ?2, ?3)")
        .bind(id)
        .bind(effect)
        .bind(created_at.micros())
        .execute(connection)
        .await?;
    Ok(())
}

#[async_trait]
impl Store for Sqlite {
    async fn claim(
        &self,
        limit: u32,
        min_age: Duration,
        lease_for: Duration,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, StoreError> {
        let lease = Uuid::new_v4();
        self.relational
            .write(async |connection| {
                let rows = sqlx::query(
                    "UPDATE outbox SET lease = ?1, leased_until = ?2, attempts = attempts + 1
                     WHERE id IN (
                         SELECT id FROM outbox
                         WHERE created_at <= ?3 AND (leased_until IS NULL OR leased_until <= ?4)
                         ORDER BY created_at, id LIMIT ?5)
                     RETURNING id, effect, attempts",
                )
                .bind(lease)
                .bind(now.plus(lease_for).micros())
                .bind(now.minus(min_age).micros())
                .bind(now.micros())
                .bind(limit)
                .fetch_all(connection)
                .await?;
                let mut claimed = rows
                    .iter()
                    .map(|row| claimed_row(row, lease))
                    .collect::<Result<Vec<_>, _>>()?;
                // UUIDv7, so oldest first.
                claimed.sort_unstable_by_key(|claimed| claimed.id);
                Ok(claimed)
            })
            .await
    }

    async fn finish(&self, done: &[Claimed]) -> Result<(), StoreError> {
        if done.is_empty() {
            return Ok(());
        }
        self.relational
            .write(async |connection| {
                for claimed in done {
                    sqlx::query("DELETE FROM outbox WHERE id = ?1 AND lease = ?2")
                        .bind(claimed.id)
                        .bind(claimed.lease)
                        .execute(&mut *connection)
                        .await?;
                }
                Ok(())
            })
            .await
    }

    async fn pending(&self, limit: u32) -> Result<Vec<Uuid>, StoreError> {
        self.relational
            .read(async |connection| {
                sqlx::query_scalar("SELECT id FROM outbox ORDER BY created_at, id LIMIT ?1")
                    .bind(limit)
                    .fetch_all(connection)
                    .await
            })
            .await
    }

    async fn effects(&self, ids: &[Uuid]) -> Result<Vec<Effect>, StoreError> {
        self.relational
            .read(async |connection| {
                let mut effects = Vec::with_capacity(ids.len());
                for id in ids {
                    let row = sqlx::query("SELECT effect FROM outbox WHERE id = ?1")
                        .bind(id)
                        .fetch_optional(&mut *connection)
                        .await?;
                    if let Some(row) = row {
                        effects.push(effect(&row)?);
                    }
                }
                Ok(effects)
            })
            .await
    }

    async fn delete(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        self.relational
            .write(async |connection| {
                for id in ids {
                    sqlx::query("DELETE FROM outbox WHERE id = ?1")
                        .bind(id)
                        .execute(&mut *connection)
                        .await?;
                }
                Ok(())
            })
            .await
    }

    async fn backlog(&self) -> Result<Backlog, StoreError> {
        self.relational
            .read(async |connection| {
                let row = sqlx::query(
                    "SELECT count(*) AS pending, min(created_at) AS oldest FROM outbox",
                )
                .fetch_one(connection)
                .await?;
                Ok(Backlog {
                    pending: row.integer("pending")?,
                    oldest: row.optional_timestamp("oldest")?,
                })
            })
            .await
    }
}

fn claimed_row(row: &SqliteRow, lease: Uuid) -> Result<Claimed, sqlx::Error> {
    Ok(Claimed {
        id: row.id("id")?,
        effect: effect(row)?,
        lease,
        attempts: small("attempts", row.integer("attempts")?)?,
    })
}

fn effect(row: &SqliteRow) -> Result<Effect, sqlx::Error> {
    serde_json::from_str(row.try_get("effect")?).map_err(|error| undecodable("effect", error))
}
