//! The ledger on SQLite: set-based, so that a batch costs a fixed number of statements.
//!
//! The unit of work holds the only writer, so everything it loads stays true until its commit: the order in
//! which it reads does not matter, and nothing is run again.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;

use super::audit::{audit_row, select_audit_rows};
use super::columns::{Columns, json};
use super::error::{Abort, undecodable};
use super::{Sqlite, outbox};
use crate::audit::AuditRow;
use crate::cache::user_tag;
use crate::clock::Timestamp;
use crate::context::Context;
use crate::documents::Expected;
use crate::error::StoreError;
use crate::faults::{self, Point};
use crate::ids::{TransactionId, UserId};
use crate::ledger::{
    Asset, AssetInfo, AtomicBatch, Backlog, Balance, BatchClaim, BatchKey, BatchOutcome, Command,
    Error, Outcome, Page, Stats, Store, Transaction, TransactionFilter, TrialBalance, asset_tag,
};
use crate::money::Amount;

mod assets;
mod load;
mod read;
mod write;

type Result<T, E = sqlx::Error> = std::result::Result<T, E>;

/// Decides and writes `commands` inside the caller's unit of work; each has its own result.
///
/// # Errors
/// The driver's error; the unit is to be rolled back then.
pub(super) async fn post_in(
    conn: &mut SqliteConnection,
    commands: &[Command],
) -> Result<Vec<Result<Outcome, Error>>> {
    let mut books = load::load(conn, commands).await?;
    let outcomes = commands
        .iter()
        .map(|command| books.decide(command))
        .collect();
    write::write(conn, &books).await?;
    faults::reach(Point::BeforeCommit);
    Ok(outcomes)
}

#[async_trait]
impl Store for Sqlite {
    async fn post(&self, commands: &[Command]) -> Result<Vec<Result<Outcome, Error>>, StoreError> {
        self.relational
            .write(async |conn| {
                let outcomes = post_in(conn, commands).await?;
                self.leave_invalidations(conn, commands).await?;
                Ok(outcomes)
            })
            .await
    }

    async fn post_atomic(&self, batch: &AtomicBatch) -> Result<BatchOutcome, Error> {
        self.relational
            .write(async |conn| {
                if let Some(key) = &batch.key
                    && let Some(known) = read_batch(conn, key).await?
                {
                    return known
                        .map(|answer| BatchOutcome {
                            replayed: true,
                            ..answer
                        })
                        .map_err(Abort::Refused);
                }
                let mut books = load::load(conn, &batch.commands).await?;
                let result = books.decide_all(&batch.commands);
                write::write(conn, &books).await?;
                let outcome = BatchOutcome {
                    request_id: batch.request_id.clone(),
                    result,
                    replayed: false,
                };
                if let Some(key) = batch.key.as_ref().filter(|_| outcome.is_final()) {
                    let answer = to_json(&outcome)?;
                    insert_batch(conn, key, &batch.request_id, Some(answer)).await?;
                }
                self.leave_invalidations(conn, &batch.commands).await?;
                faults::reach(Point::BeforeCommit);
                Ok(outcome)
            })
            .await
    }

    async fn claim_batch(&self, key: &BatchKey, request_id: &str) -> Result<BatchClaim, Error> {
        self.relational
            .write(async |conn| {
                let row = sqlx::query(
                    "SELECT fingerprint, request_id FROM batch_keys WHERE principal = ?1 AND key = ?2",
                )
                .bind(key.principal.as_str())
                .bind(&key.key)
                .fetch_optional(&mut *conn)
                .await?;
                match row {
                    None => {
                        insert_batch(conn, key, request_id, None).await?;
                        Ok(BatchClaim::New)
                    }
                    Some(row) if row.hash("fingerprint")? == key.fingerprint => {
                        Ok(BatchClaim::Again {
                            request_id: row.text("request_id")?.into(),
                        })
                    }
                    Some(_) => Err(Abort::Refused(Error::IdempotencyKeyReused)),
                }
            })
            .await
    }

    async fn balances(&self, user_id: UserId) -> Result<Option<Vec<Balance>>, StoreError> {
        self.relational
            .read(async |conn| read::balances(conn, user_id).await)
            .await
    }

    async fn balances_at(
        &self,
        user_id: UserId,
        then: Timestamp,
        default_asset: &Asset,
    ) -> Result<Option<Vec<Balance>>, StoreError> {
        self.relational
            .read(async |conn| read::balances_at(conn, user_id, then, default_asset).await)
            .await
    }

    async fn transaction(
        &self,
        user_id: UserId,
        id: TransactionId,
    ) -> Result<Option<Transaction>, StoreError> {
        self.relational
            .read(async |conn| read::one(conn, user_id, id).await)
            .await
    }

    async fn transactions(
        &self,
        user_id: UserId,
        filter: &TransactionFilter,
        page: &Page<TransactionId>,
    ) -> Result<Option<Vec<Transaction>>, StoreError> {
        self.relational
            .snapshot(async |conn| read::list(conn, user_id, filter, page).await)
            .await
    }

    async fn transaction_history(
        &self,
        user_id: UserId,
        id: TransactionId,
        page: &Page<i64>,
    ) -> Result<Vec<AuditRow>, StoreError> {
        self.relational
            .read(async |conn| history_of(conn, user_id, id, page).await)
            .await
    }

    async fn stats(&self, user_id: UserId, since: Timestamp) -> Result<Option<Stats>, StoreError> {
        self.relational
            .snapshot(async |conn| read::stats(conn, user_id, since).await)
            .await
    }

    async fn asset(&self, asset: &Asset) -> Result<Option<AssetInfo>, StoreError> {
        self.relational
            .read(async |conn| assets::find(conn, asset).await)
            .await
    }

    async fn put_asset(
        &self,
        ctx: &Context,
        asset: &Asset,
        share_price: Amount,
        expected: Expected,
        now: Timestamp,
    ) -> Result<(AssetInfo, bool), Error> {
        self.relational
            .write(async |conn| {
                let stored = assets::put(conn, ctx, asset, share_price, expected, now).await?;
                if self.options.outbox {
                    outbox::enqueue(conn, vec![asset_tag(asset)], now).await?;
                }
                Ok(stored)
            })
            .await
    }

    async fn trial_balance(&self) -> Result<Vec<TrialBalance>, StoreError> {
        self.relational
            .read(async |conn| read::trial_balance(conn).await)
            .await
    }

    async fn expired_holds(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<(UserId, TransactionId)>, StoreError> {
        self.relational
            .read(async |conn| read::expired_holds(conn, now, limit).await)
            .await
    }

    async fn backlog(
        &self,
        now: Timestamp,
        keys_before: Timestamp,
        up_to: u32,
    ) -> Result<Backlog, StoreError> {
        self.relational
            .read(async |conn| read::backlog(conn, now, keys_before, up_to).await)
            .await
    }

    async fn purge_idempotency(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.relational
            .write(async |conn| {
                let mut gone: u64 = 0;
                for statement in [
                    "DELETE FROM idempotency_keys WHERE (user_id, principal, scope, key) IN
                         (SELECT user_id, principal, scope, key FROM idempotency_keys WHERE created_at < ?1
                          ORDER BY created_at LIMIT ?2)",
                    "DELETE FROM batch_keys WHERE rowid IN
                         (SELECT rowid FROM batch_keys WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)",
                ] {
                    let deleted = sqlx::query(statement)
                        .bind(before.micros())
                        .bind(i64::from(limit))
                        .execute(&mut *conn)
                        .await?;
                    gone = gone.saturating_add(deleted.rows_affected());
                }
                Ok(gone)
            })
            .await
    }
}

impl Sqlite {
    /// One outbox row for all users that the commands concern, when there is an L2 that shows them.
    async fn leave_invalidations(
        &self,
        conn: &mut SqliteConnection,
        commands: &[Command],
    ) -> Result<()> {
        let Some(first) = commands.first().filter(|_| self.options.outbox) else {
            return Ok(());
        };
        let users: BTreeSet<UserId> = commands.iter().map(|command| command.user_id).collect();
        outbox::enqueue(conn, users.into_iter().map(user_tag).collect(), first.at).await
    }
}

async fn history_of(
    conn: &mut SqliteConnection,
    user_id: UserId,
    id: TransactionId,
    page: &Page<i64>,
) -> Result<Vec<AuditRow>> {
    let rows = sqlx::query(select_audit_rows!(
        "WHERE entry.user_id = ?1 AND entry.transaction_id = ?2 AND entry.seq < ?3
         ORDER BY entry.seq DESC LIMIT ?4"
    ))
    .bind(user_id.uuid())
    .bind(id.uuid())
    .bind(page.after.unwrap_or(i64::MAX))
    .bind(page.limit)
    .fetch_all(conn)
    .await?;
    rows.iter().map(audit_row).collect()
}

/// The stored answer of a batch, or that the key belongs to another one.
async fn read_batch(
    conn: &mut SqliteConnection,
    key: &BatchKey,
) -> Result<Option<Result<BatchOutcome, Error>>> {
    let row =
        sqlx::query("SELECT fingerprint, answer FROM batch_keys WHERE principal = ?1 AND key = ?2")
            .bind(key.principal.as_str())
            .bind(&key.key)
            .fetch_optional(conn)
            .await?;
    let Some(row) = row else { return Ok(None) };
    match row.optional_text("answer")? {
        // A batch that is not atomic has no answer of its own, and another fingerprint.
        Some(answer) if row.hash("fingerprint")? == key.fingerprint => {
            Ok(Some(Ok(from_json("answer", &answer)?)))
        }
        _ => Ok(Some(Err(Error::IdempotencyKeyReused))),
    }
}

async fn insert_batch(
    conn: &mut SqliteConnection,
    key: &BatchKey,
    request_id: &str,
    answer: Option<String>,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO batch_keys (principal, key, fingerprint, request_id, answer, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )
    .bind(key.principal.as_str())
    .bind(&key.key)
    .bind(key.fingerprint.as_slice())
    .bind(request_id)
    .bind(answer)
    .bind(key.at.micros())
    .execute(conn)
    .await?;
    Ok(())
}

/// A stored answer, number for number as it was written.
fn from_json<T: serde::de::DeserializeOwned>(column: &str, text: &str) -> Result<T> {
    serde_json::from_value(json(column, text)?).map_err(|error| undecodable(column, error))
}

fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}
