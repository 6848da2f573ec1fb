//! What the ledger asks of a relational store. One method is one atomic unit.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Asset, AssetInfo, Balance, Error, Posted, Refusal, Stats, Transaction, TransactionStatus,
    TransactionType, TrialBalance,
};
use crate::audit::AuditRow;
use crate::clock::Timestamp;
use crate::context::{Context, Principal};
use crate::error::StoreError;
use crate::ids::{TransactionId, UserId};
use crate::money::{Amount, Decimal18};

/// Which request this is, so that it is done once. Scoped to the user, the principal and the route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    pub principal: Principal,
    /// The route with its ids (`post`, `confirm/{tx}`, `batch/{index}`, …): the same key elsewhere is
    /// another request.
    pub scope: Arc<str>,
    /// 1–255 visible ASCII characters, as the client gave it.
    pub key: Arc<str>,
    /// The caller has just claimed the key, so that hardly anything was done under it yet: another instance may have
    /// been faster, and a claim is purged before its answers. A store may do without looking for an answer as
    /// long as it cannot keep a second one.
    pub is_new: bool,
    /// SHA-256 over method, path and canonical body.
    pub fingerprint: [u8; 32],
}

/// One change of one account, ready to be decided.
#[derive(Debug, Clone)]
pub struct Command {
    pub user_id: UserId,
    /// Who asks for it. Shared by the commands of a batch.
    pub context: Arc<Context>,
    pub idempotency: Option<Idempotency>,
    /// The time it is said to have happened; within a chain it never runs backwards.
    pub at: Timestamp,
    pub action: Action,
}

#[derive(Debug, Clone)]
pub enum Action {
    /// A new transaction, `Pending` or `Confirmed`. Boxed, since it is by far the largest.
    Post(Box<Transaction>),
    /// End a pending transaction.
    Settle {
        transaction_id: TransactionId,
        to: Settlement,
        details: Box<Details>,
        /// Refuse when it was submitted: for sessions and for expiry.
        only_unsubmitted: bool,
        /// Fresh randomness for the commitment to the reason (see `audit`).
        salt: [u8; 32],
    },
    /// A pending withdrawal is on its way: no expiry, no cancelling by a session from here on.
    Submit {
        transaction_id: TransactionId,
        tx_hash: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settlement {
    Confirm,
    Fail,
    Cancel,
}

impl Settlement {
    #[must_use]
    pub const fn status(self) -> TransactionStatus {
        match self {
            Self::Confirm => TransactionStatus::Confirmed,
            Self::Fail => TransactionStatus::Failed,
            Self::Cancel => TransactionStatus::Cancelled,
        }
    }

    /// As it is called in routes: `confirm`, `fail`, `cancel`.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Confirm => "confirm",
            Self::Fail => "fail",
            Self::Cancel => "cancel",
        }
    }
}

/// What settling may add to a transaction; `None` leaves what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    pub reason: Option<String>,
    pub tx_hash: Option<String>,
    pub block_number: Option<i64>,
    pub gas_used: Option<i64>,
    pub gas_fee: Option<Decimal18>,
    pub confirmations: Option<i64>,
    pub error_message: Option<String>,
}

/// The final answer to a request, as it is kept for replays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredAnswer {
    /// The request that was answered first; a replay says it again, byte for byte.
    pub request_id: Arc<str>,
    pub result: Result<Posted, Refusal>,
}

/// What became of one command.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub answer: StoredAnswer,
    /// It was done by an earlier request with the same key.
    pub replayed: bool,
}

/// The key of a request over many users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchKey {
    pub principal: Principal,
    pub key: String,
    pub fingerprint: [u8; 32],
    pub at: Timestamp,
}

/// All of these, or none.
#[derive(Debug, Clone)]
pub struct AtomicBatch {
    pub key: Option<BatchKey>,
    pub request_id: Arc<str>,
    /// Their `idempotency` is `None`: the batch's key covers them.
    pub commands: Vec<Command>,
}

/// The final answer to an atomic batch, as it is kept for replays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchOutcome {
    pub request_id: Arc<str>,
    pub result: Result<Vec<Posted>, (usize, Refusal)>,
    #[serde(skip)]
    pub replayed: bool,
}

impl BatchOutcome {
    /// Whether it is the final answer to its key, and so stored. The body with a time that has passed may be
    /// corrected under the same key.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        !matches!(&self.result, Err((_, Refusal::Expired)))
    }
}

/// What [`Store::claim_batch`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchClaim {
    /// Nobody used the key before.
    New,
    /// The same batch was started before, by the request of this id: items that are done will replay.
    Again { request_id: Arc<str> },
}

/// What the sweeps have not come to yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Holds as [`Store::expired_holds`] finds them, by the time they expired.
    pub overdue_holds: Due,
    /// Keys as [`Store::purge_idempotency`] deletes them, of single requests and of batches, by the time they were
    /// made.
    pub old_keys: Due,
}

/// Rows whose time has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Due {
    /// Counted up to a bound.
    pub count: u64,
    pub oldest: Option<Timestamp>,
}

/// Which of a user's transactions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransactionFilter {
    pub kind: Option<TransactionType>,
    pub status: Option<TransactionStatus>,
    pub asset: Option<Asset>,
    /// Inclusive.
    pub from: Option<Timestamp>,
    /// Exclusive.
    pub to: Option<Timestamp>,
    pub client_reference: Option<String>,
    pub tx_hash: Option<String>,
}

impl TransactionFilter {
    /// The ids of what was made from `from` on, before `to`, and before `after`: at least the first, below the
    /// second. They sort by the time of `created_at`.
    pub(crate) fn ids(&self, after: Option<TransactionId>) -> (TransactionId, TransactionId) {
        let from = self
            .from
            .map_or(TransactionId(Uuid::nil()), TransactionId::earliest);
        let to = self
            .to
            .map_or(TransactionId(Uuid::max()), TransactionId::earliest);
        (from, after.map_or(to, |after| after.min(to)))
    }
}

/// A part of a list: at most `limit` rows that come after `after` in the list's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<C> {
    pub after: Option<C>,
    /// 1–200.
    pub limit: u32,
}

/// The relational side of the ledger.
///
/// Contract of all writes: one relational transaction at READ COMMITTED or stronger; accounts that are
/// missing are inserted, then all are locked in the order of `(user_id, asset)`; the decision is
/// [`Books::decide`](super::posting::Books::decide) over the locked rows; transactions, entries, audit rows,
/// account rows, idempotency rows and the outbox row commit together. When a method returns `Ok`, what
/// it says is durable. Serialization failures, deadlocks, unique violations and (once) a connection that breaks are
/// retried inside (bounded, with jitter) until the commit is sent; after that a lost answer is
/// [`StoreError::OutcomeUnknown`].
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Decides and commits all commands together, each with its own result: one that breaks a rule
    /// fails alone. The results are in the order of the commands.
    ///
    /// The outer error: nothing was committed (or the outcome of all is unknown).
    /// An inner error is [`Error::IdempotencyKeyReused`]; refusals are answers (see [`Outcome`]).
    async fn post(&self, commands: &[Command]) -> Result<Vec<Result<Outcome, Error>>, StoreError>;

    /// The same without waiting long for an account that another unit has locked: the commands of its user are
    /// [`StoreError::Conflict`] then, certainly not done, and the others are committed. (For a store with one
    /// writer it is [`post`](Self::post).)
    async fn post_what_is_free(
        &self,
        commands: &[Command],
    ) -> Result<Vec<Result<Outcome, Error>>, StoreError> {
        self.post(commands).await
    }

    /// All or nothing, with the batch's idempotency row in the same transaction, also when refused (unless
    /// the refusal [is not final](BatchOutcome::is_final)).
    /// The error may be [`Error::IdempotencyKeyReused`] or [`Error::Store`].
    async fn post_atomic(&self, batch: &AtomicBatch) -> Result<BatchOutcome, Error>;

    /// Writes the header of a batch that is not atomic, before its items, in a transaction of its own.
    /// [`Error::IdempotencyKeyReused`] when the fingerprint differs.
    async fn claim_batch(&self, key: &BatchKey, request_id: &str) -> Result<BatchClaim, Error>;

    /// The balances, ordered by asset; `None`: there is no such user.
    async fn balances(&self, user_id: UserId) -> Result<Option<Vec<Balance>>, StoreError>;

    /// The balances as they were at `at` (changes at that very time included), from the audit rows'
    /// amounts and the entries. Accounts without a change by then are left out, but for those that were there
    /// since their user was, by `at`: the one in `default_asset`, and any that nothing has changed to this day. They
    /// are zeros of version 0.
    async fn balances_at(
        &self,
        user_id: UserId,
        at: Timestamp,
        default_asset: &Asset,
    ) -> Result<Option<Vec<Balance>>, StoreError>;

    async fn transaction(
        &self,
        user_id: UserId,
        id: TransactionId,
    ) -> Result<Option<Transaction>, StoreError>;

    /// Newest first, by id, which is by `created_at`; the cursor is the id of the last row.
    /// `None`: there is no such user.
    async fn transactions(
        &self,
        user_id: UserId,
        filter: &TransactionFilter,
        page: &Page<TransactionId>,
    ) -> Result<Option<Vec<Transaction>>, StoreError>;

    /// The audit rows of one transaction, newest first (`seq` descending).
    async fn transaction_history(
        &self,
        user_id: UserId,
        id: TransactionId,
        page: &Page<i64>,
    ) -> Result<Vec<AuditRow>, StoreError>;

    /// Counts and sums over transactions created at `since` or later, by type and status, and by
    /// month and type (confirmed ones only), months ascending. `None`: there is no such user.
    async fn stats(&self, user_id: UserId, since: Timestamp) -> Result<Option<Stats>, StoreError>;

    async fn asset(&self, asset: &Asset) -> Result<Option<AssetInfo>, StoreError>;

    /// Creates the asset, or sets its price, with an audit row in chain `asset:{asset}`. `expected`:
    /// see [`Expected`](crate::documents::Expected).
    async fn put_asset(
        &self,
        ctx: &crate::context::Context,
        asset: &Asset,
        share_price: Amount,
        expected: crate::documents::Expected,
        at: Timestamp,
    ) -> Result<(AssetInfo, bool), Error>;

    /// Per asset, in one consistent read: sums over the totals in the account rows.
    async fn trial_balance(&self) -> Result<Vec<TrialBalance>, StoreError>;

    /// Pending withdrawals whose `expires_at` has passed and that were not submitted, at most `limit`.
    async fn expired_holds(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<(UserId, TransactionId)>, StoreError>;

    /// What is due at `now`, and the keys from before `keys_before`, each counted up to `up_to`. By indexes: it costs
    /// what it counts, however many rows there are.
    async fn backlog(
        &self,
        now: Timestamp,
        keys_before: Timestamp,
        up_to: u32,
    ) -> Result<Backlog, StoreError>;

    /// Deletes idempotency rows older than `before`, the oldest first, at most `limit` of single requests and as
    /// many of batches, so that neither waits for the other; how many went. Fewer than `limit`: what is still
    /// there is held by somebody else at this moment.
    async fn purge_idempotency(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;
}
