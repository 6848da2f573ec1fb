//! The ledger on PostgreSQL: set-based, so that a batch costs a fixed number of round trips.
//!
//! The order of statements matters (READ COMMITTED): first the account rows are locked, in the order of
//! their key; what else decides (answers, transactions, uses of references) is read by *later* statements,
//! which see all that committed before the locks were won. A subquery beside the lock would not.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Postgres;
use super::audit::{audit_row, select_audit_rows};
use super::columns::{Columns, at, json};
use super::error::{Abort, constraint, is_lock_timeout, undecodable};
use super::lane::{Lane, scoped};
use super::outbox;
use crate::audit::AuditRow;
use crate::cache::user_tag;
use crate::clock::Timestamp;
use crate::context::Context;
use crate::documents::Expected;
use crate::error::{StoreError, StoreKind};
use crate::faults::{self, Point};
use crate::ids::{TransactionId, UserId};
use crate::ledger::posting::{AccountKey, Books, References};
use crate::ledger::{
    Asset, AssetInfo, AtomicBatch, Backlog, Balance, BatchClaim, BatchKey, BatchOutcome, Command,
    Error, Outcome, Page, Stats, Store, Transaction, TransactionFilter, TrialBalance, asset_tag,
};
use crate::money::Amount;

mod assets;
mod load;
mod read;
mod write;

pub(super) use load::Locks;

type Result<T, E = sqlx::Error> = std::result::Result<T, E>;

/// The unique indexes that two units may race for although both looked before. The loser runs again, and
/// sees what the winner wrote.
const RACES: [&str; 4] = [
    "idempotency_keys_pkey",
    "batch_keys_pkey",
    "transactions_client_reference_key",
    "transactions_tx_hash_key",
];

/// Whether a unit looks for an answer under a key that its caller says is [new](crate::ledger::Idempotency::is_new).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NewKeys {
    /// It does not. If there is one after all, writing another is a race that is lost.
    Trusted,
    LookedUp,
}

/// Decides and writes `commands` on an open transaction; each has its own result.
///
/// # Errors
/// The driver's error; the transaction is to be rolled back then.
pub(super) async fn post_in(
    conn: &mut PgConnection,
    commands: &[Command],
    new_keys: NewKeys,
    locks: Locks,
) -> Result<Vec<Result<Outcome, Error>>> {
    let refs = match new_keys {
        NewKeys::Trusted => References::trusting(commands),
        NewKeys::LookedUp => References::of(commands),
    };
    let (mut books, mut outcomes) = decide(conn, commands, refs, locks).await?;
    // What writes no answer would not meet one that is there.
    let is_in_doubt = |(command, outcome): (&Command, _)| {
        let is_new = command.idempotency.as_ref().is_some_and(|key| key.is_new);
        is_new && leaves_no_answer(outcome)
    };
    if new_keys == NewKeys::Trusted && commands.iter().zip(&outcomes).any(is_in_doubt) {
        (books, outcomes) = decide(conn, commands, References::of(commands), locks).await?;
    }
    write::write(conn, &books).await?;
    faults::reach(Point::BeforeCommit);
    Ok(outcomes)
}

async fn decide(
    conn: &mut PgConnection,
    commands: &[Command],
    refs: References,
    locks: Locks,
) -> Result<(Books, Vec<Result<Outcome, Error>>)> {
    let mut books = load::load(conn, refs, locks).await?;
    let outcomes = commands
        .iter()
        .map(|command| books.decide(command))
        .collect();
    Ok((books, outcomes))
}

fn leaves_no_answer(outcome: &Result<Outcome, Error>) -> bool {
    let refusal = outcome.as_ref().map(|outcome| &outcome.answer.result);
    refusal.is_ok_and(|result| result.as_ref().is_err_and(|refusal| !refusal.is_final()))
}

#[async_trait]
impl Store for Postgres {
    async fn post(&self, commands: &[Command]) -> Result<Vec<Result<Outcome, Error>>, StoreError> {
        self.post_on(&self.postings, commands, None).await
    }

    async fn post_what_is_free(
        &self,
        commands: &[Command],
    ) -> Result<Vec<Result<Outcome, Error>>, StoreError> {
        // A row is mostly held by another posting, for some milliseconds: worth to be waited for once.
        self.post_on(&self.hasty, commands, Some(AtomicBool::new(false)))
            .await
    }

    async fn post_atomic(&self, batch: &AtomicBatch) -> Result<BatchOutcome, Error> {
        self.postings
            .write(|conn| {
                scoped(async move {
                    let mut books =
                        load::load(conn, References::of(&batch.commands), Locks::Wait).await?;
                    // Read after the accounts are locked: an equal batch that ran meanwhile has committed.
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
                    let result = books.decide_all(&batch.commands);
                    write::write(conn, &books).await.map_err(race)?;
                    let outcome = BatchOutcome {
                        request_id: batch.request_id.clone(),
                        result,
                        replayed: false,
                    };
                    if let Some(key) = batch.key.as_ref().filter(|_| outcome.is_final()) {
                        let answer = to_json(&outcome)?;
                        insert_batch(conn, key, &batch.request_id, Some(answer))
                            .await
                            .map_err(race)?;
                    }
                    self.leave_invalidations(conn, &batch.commands).await?;
                    faults::reach(Point::BeforeCommit);
                    Ok(outcome)
                })
            })
            .await
    }

    async fn claim_batch(&self, key: &BatchKey, request_id: &str) -> Result<BatchClaim, Error> {
        self.requests
            .write(|conn| scoped(async move {
                let row = sqlx::query("SELECT fingerprint, request_id FROM batch_keys WHERE principal = $1 AND key = $2")
                    .bind(key.principal.as_str())
                    .bind(&key.key)
                    .fetch_optional(&mut *conn)
                    .await?;
                match row {
                    None => {
                        insert_batch(conn, key, request_id, None).await.map_err(race)?;
                        Ok(BatchClaim::New)
                    }
                    Some(row) if row.hash("fingerprint")? == key.fingerprint => {
                        Ok(BatchClaim::Again { request_id: row.text("request_id")?.into() })
                    }
                    Some(_) => Err(Abort::Refused(Error::IdempotencyKeyReused)),
                }
            }))
            .await
    }

    async fn balances(&self, user_id: UserId) -> Result<Option<Vec<Balance>>, StoreError> {
        self.requests
            .read(|conn| scoped(read::balances(conn, user_id)))
            .await
    }

    async fn balances_at(
        &self,
        user_id: UserId,
        then: Timestamp,
        default_asset: &Asset,
    ) -> Result<Option<Vec<Balance>>, StoreError> {
        self.requests
            .read(|conn| scoped(read::balances_at(conn, user_id, then, default_asset)))
            .await
    }

    async fn transaction(
        &self,
        user_id: UserId,
        id: TransactionId,
    ) -> Result<Option<Transaction>, StoreError> {
        self.requests
            .read(|conn| scoped(read::one(conn, user_id, id)))
            .await
    }

    async fn transactions(
        &self,
        user_id: UserId,
        filter: &TransactionFilter,
        page: &Page<TransactionId>,
    ) -> Result<Option<Vec<Transaction>>, StoreError> {
        self.requests
            .read(|conn| scoped(read::list(conn, user_id, filter, page)))
            .await
    }

    async fn transaction_history(
        &self,
        user_id: UserId,
        id: TransactionId,
        page: &Page<i64>,
    ) -> Result<Vec<AuditRow>, StoreError> {
        self.requests
            .read(|conn| scoped(history_of(conn, user_id, id, page)))
            .await
    }

    async fn stats(&self, user_id: UserId, since: Timestamp) -> Result<Option<Stats>, StoreError> {
        self.requests
            .read(|conn| scoped(read::stats(conn, user_id, since)))
            .await
    }

    async fn asset(&self, asset: &Asset) -> Result<Option<AssetInfo>, StoreError> {
        self.requests
            .read(|conn| scoped(assets::find(conn, asset)))
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
        self.requests
            .write(|conn| {
                scoped(async move {
                    let stored = assets::put(conn, ctx, asset, share_price, expected, now).await?;
                    if self.options.outbox {
                        outbox::enqueue(conn, vec![asset_tag(asset)], now).await?;
                    }
                    Ok(stored)
                })
            })
            .await
    }

    async fn trial_balance(&self) -> Result<Vec<TrialBalance>, StoreError> {
        self.trail
            .read(|conn| scoped(read::trial_balance(conn)))
            .await
    }

    async fn expired_holds(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<(UserId, TransactionId)>, StoreError> {
        self.background
            .read(|conn| scoped(read::expired_holds(conn, now, limit)))
            .await
    }

    async fn backlog(
        &self,
        now: Timestamp,
        keys_before: Timestamp,
        up_to: u32,
    ) -> Result<Backlog, StoreError> {
        self.background
            .read(|conn| scoped(read::backlog(conn, now, keys_before, up_to)))
            .await
    }

    async fn purge_idempotency(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.background
            .write(|conn| {
                scoped(async move {
                    let mut gone: u64 = 0;
                    // What a writer holds is left for the next time; MATERIALIZED: never more than LIMIT.
                    for statement in [
                        "WITH old AS MATERIALIZED (
                         SELECT user_id, key_hash FROM idempotency_keys WHERE created_at < $1
                         ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)
                     DELETE FROM idempotency_keys AS k USING old
                     WHERE (k.user_id, k.key_hash) = (old.user_id, old.key_hash)",
                        "WITH old AS MATERIALIZED (
                         SELECT principal, key FROM batch_keys WHERE created_at < $1
                         ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)
                     DELETE FROM batch_keys AS k USING old
                     WHERE (k.principal, k.key) = (old.principal, old.key)",
                    ] {
                        let deleted = sqlx::query(statement)
                            .bind(at(before))
                            .bind(i64::from(limit))
                            .execute(&mut *conn)
                            .await?;
                        gone += deleted.rows_affected();
                    }
                    Ok(gone)
                })
            })
            .await
    }
}

impl Postgres {
    /// `skips`: whether locked accounts are skipped, from the first time on that one was waited for in vain.
    async fn post_on(
        &self,
        lane: &Lane,
        commands: &[Command],
        skips: Option<AtomicBool>,
    ) -> Result<Vec<Result<Outcome, Error>>, StoreError> {
        // Whatever the first attempt failed for, the next one looks.
        let is_first = AtomicBool::new(true);
        let (is_first, skips) = (&is_first, &skips);
        lane.write(|conn| {
            let new_keys = if is_first.swap(false, Ordering::Relaxed) {
                NewKeys::Trusted
            } else {
                NewKeys::LookedUp
            };
            let locks = match skips {
                Some(skips) if skips.load(Ordering::Relaxed) => Locks::Skip,
                _ => Locks::Wait,
            };
            scoped(async move {
                let posted = post_in(conn, commands, new_keys, locks).await;
                let outcomes = posted.map_err(|error| match skips {
                    Some(skips) if is_lock_timeout(&error) => {
                        if skips.swap(true, Ordering::Relaxed) {
                            // Not an account's row: which command it is of, halving finds.
                            let store = StoreKind::Relational;
                            return Abort::Refused(StoreError::Conflict { store });
                        }
                        Abort::Again("an account is locked")
                    }
                    _ => race(error),
                })?;
                self.leave_invalidations(conn, commands).await?;
                Ok(outcomes)
            })
        })
        .await
    }

    /// One outbox row for all users that the commands concern, when there is an L2 that shows them.
    async fn leave_invalidations(
        &self,
        conn: &mut PgConnection,
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
    conn: &mut PgConnection,
    user_id: UserId,
    id: TransactionId,
    page: &Page<i64>,
) -> Result<Vec<AuditRow>> {
    let rows = sqlx::query(select_audit_rows!(
        "WHERE entry.user_id = $1 AND entry.transaction_id = $2 AND ($3::bigint IS NULL OR entry.seq < $3)
         ORDER BY entry.seq DESC LIMIT $4"
    ))
    .bind(user_id.uuid())
    .bind(id.uuid())
    .bind(page.after)
    .bind(i64::from(page.limit))
    .fetch_all(conn)
    .await?;
    rows.iter().map(audit_row).collect()
}

/// A race for a unique index that the body cannot see now runs the unit again.
fn race<E>(error: sqlx::Error) -> Abort<E> {
    match constraint(&error).and_then(|name| RACES.into_iter().find(|race| *race == name)) {
        Some(name) => Abort::Again(name),
        None => Abort::Driver(error),
    }
}

/// The stored answer of a batch, or that the key belongs to another one.
async fn read_batch(
    conn: &mut PgConnection,
    key: &BatchKey,
) -> Result<Option<Result<BatchOutcome, Error>>> {
    let row =
        sqlx::query("SELECT fingerprint, answer FROM batch_keys WHERE principal = $1 AND key = $2")
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
    conn: &mut PgConnection,
    key: &BatchKey,
    request_id: &str,
    answer: Option<String>,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO batch_keys (principal, key, fingerprint, request_id, answer, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(key.principal.as_str())
    .bind(&key.key)
    .bind(key.fingerprint.to_vec())
    .bind(request_id)
    .bind(answer)
    .bind(at(key.at))
    .execute(conn)
    .await?;
    Ok(())
}

fn key_arrays<'a>(keys: impl Iterator<Item = &'a AccountKey>) -> (Vec<Uuid>, Vec<&'a str>) {
    keys.map(|(user, asset)| (user.uuid(), asset.as_str()))
        .unzip()
}

/// A stored answer, number for number as it was written.
fn from_json<T: serde::de::DeserializeOwned>(column: &str, text: &str) -> Result<T> {
    serde_json::from_value(json(column, text)?).map_err(|error| undecodable(column, error))
}

fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}
