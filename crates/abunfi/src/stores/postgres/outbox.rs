//! The work queue of effects that commits promised.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::Postgres;
use super::columns::{Columns, at, column, limit};
use super::error::{Abort, undecodable};
use super::lane::scoped;
use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::ids;
use crate::outbox::{self, Backlog, Claimed, Effect, Store};

/// Promises, inside the caller's unit of work, that what is cached under `tags` will be removed: one row,
/// however many tags. Only for a platform that has an L2 (`RelationalOptions::outbox`).
pub(super) async fn enqueue(
    connection: &mut PgConnection,
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
    sqlx::query("INSERT INTO outbox (id, effect, created_at) VALUES ($1, $2, $3)")
        .bind(id)
        .bind(effect)
        .bind(at(created_at))
        .execute(connection)
        .await?;
    Ok(())
}

#[async_trait]
impl Store for Postgres {
    async fn claim(
        &self,
        rows: u32,
        min_age: Duration,
        lease_for: Duration,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, StoreError> {
        self.background
            .write(|connection| scoped(claim(connection, rows, min_age, lease_for, now)))
            .await
    }

    async fn finish(&self, done: &[Claimed]) -> Result<(), StoreError> {
        if done.is_empty() {
            return Ok(());
        }
        let ids = &column(done, |claimed| claimed.id);
        let leases = &column(done, |claimed| claimed.lease);
        self.background
            .write(|connection| {
                scoped(async move {
                    sqlx::query(
                    "DELETE FROM outbox USING unnest($1::uuid[], $2::uuid[]) AS done (id, lease)
                     WHERE outbox.id = done.id AND outbox.lease = done.lease",
                )
                .bind(ids)
                .bind(leases)
                .execute(connection)
                .await?;
                    Ok(())
                })
            })
            .await
    }

    async fn pending(&self, rows: u32) -> Result<Vec<Uuid>, StoreError> {
        self.background
            .read(|connection| {
                scoped(async move {
                    sqlx::query_scalar("SELECT id FROM outbox ORDER BY created_at, id LIMIT $1")
                        .bind(limit(rows))
                        .fetch_all(connection)
                        .await
                })
            })
            .await
    }

    async fn effects(&self, ids: &[Uuid]) -> Result<Vec<Effect>, StoreError> {
        self.background
            .read(|connection| {
                scoped(async move {
                    let rows = sqlx::query("SELECT effect FROM outbox WHERE id = ANY($1)")
                        .bind(ids)
                        .fetch_all(connection)
                        .await?;
                    rows.iter().map(effect).collect()
                })
            })
            .await
    }

    async fn delete(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        self.background
            .write(|connection| {
                scoped(async move {
                    sqlx::query("DELETE FROM outbox WHERE id = ANY($1)")
                        .bind(ids)
                        .execute(connection)
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    async fn backlog(&self) -> Result<Backlog, StoreError> {
        self.background
            .read(|connection| {
                scoped(async move {
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
            })
            .await
    }
}

async fn claim(
    connection: &mut PgConnection,
    rows: u32,
    min_age: Duration,
    lease_for: Duration,
    now: Timestamp,
) -> Result<Vec<Claimed>, Abort<StoreError>> {
    let lease = Uuid::new_v4();
    // SKIP LOCKED is safe here: invalidations may be done in any order, and twice. MATERIALIZED: the rows
    // are chosen and locked once, so never more than LIMIT.
    let rows = sqlx::query(
        "WITH due AS MATERIALIZED (
             SELECT id FROM outbox
             WHERE created_at <= $1 AND (leased_until IS NULL OR leased_until <= $2)
             ORDER BY created_at, id LIMIT $3 FOR UPDATE SKIP LOCKED),
         claimed AS (
             UPDATE outbox SET lease = $4, leased_until = $5, attempts = attempts + 1
             FROM due WHERE outbox.id = due.id RETURNING outbox.*)
         SELECT * FROM claimed ORDER BY created_at, id",
    )
    .bind(at(now.minus(min_age)))
    .bind(at(now))
    .bind(limit(rows))
    .bind(lease)
    .bind(at(now.plus(lease_for)))
    .fetch_all(connection)
    .await?;
    let claimed = rows.iter().map(|row| claimed_row(row, lease));
    Ok(claimed.collect::<Result<_, _>>()?)
}

fn claimed_row(row: &PgRow, lease: Uuid) -> Result<Claimed, sqlx::Error> {
    Ok(Claimed {
        id: row.id("id")?,
        effect: effect(row)?,
        lease,
        attempts: row.try_get("attempts")?,
    })
}

fn effect(row: &PgRow) -> Result<Effect, sqlx::Error> {
    serde_json::from_str(row.try_get("effect")?).map_err(|error| undecodable("effect", error))
}
