//! What the ledger refuses, and how.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Asset, TransactionStatus, words};
use crate::error::StoreError;
use crate::money::Amount;
use crate::validation::Faults;

/// A posting that broke a rule, decided from the locked account. It is the final answer to its
/// idempotency key, but for two: a replay gives it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Refusal {
    /// Never stored for replay: there is no user whom the key could belong to.
    #[error("there is no such user")]
    UserNotFound,
    #[error("there is no such transaction")]
    TransactionNotFound,
    #[error("the user is {status}; new postings need an active user")]
    UserNotActive { status: String },
    #[error("there is no asset {asset}")]
    UnknownAsset { asset: Asset },
    #[error("{available} is available")]
    InsufficientFunds { available: Amount },
    #[error("{available} shares are available")]
    InsufficientShares { available: Amount },
    #[error("the balance would reach 10^12 or more")]
    AmountOverflow,
    #[error("the client reference is in use by another transaction of the user")]
    ClientReferenceTaken,
    #[error("the transaction hash is in use by another transaction of the user and type")]
    TxHashTaken,
    /// `pending → submitted? → confirmed | failed | cancelled`; a session or an expiry may not cancel
    /// what was submitted.
    #[error("a transaction that is {from} cannot become {to}")]
    InvalidTransition { from: Stage, to: Stage },
    /// The time at which the hold was to end had come before it began. Decided with the posting and not
    /// before it, since a replay after that time is answered as the first request was. Never stored: like any
    /// fault of a body it leaves the key for the corrected one, and time only moves on, so that a retry is
    /// told the same.
    #[error("the time at which the hold expires has passed")]
    Expired,
}

impl Refusal {
    /// Whether it is the final answer to its key, and so stored.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::UserNotFound | Self::Expired)
    }
}

words! {
    /// Where a transaction stands: its status, and whether a pending withdrawal was submitted.
    Stage {
        Pending = "pending",
        Submitted = "submitted",
        Confirmed = "confirmed",
        Failed = "failed",
        Cancelled = "cancelled",
    }
}

impl Stage {
    #[must_use]
    pub const fn of(status: TransactionStatus, submitted: bool) -> Self {
        match status {
            TransactionStatus::Pending if submitted => Self::Submitted,
            TransactionStatus::Pending => Self::Pending,
            TransactionStatus::Confirmed => Self::Confirmed,
            TransactionStatus::Failed => Self::Failed,
            TransactionStatus::Cancelled => Self::Cancelled,
        }
    }
}

/// Why the ledger did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Faults of the request itself, all at once. Nothing is stored for the key.
    #[error("the request is not valid")]
    Invalid(Faults),
    /// The key was used before for a request that differs.
    #[error("the idempotency key was used for another request")]
    IdempotencyKeyReused,
    /// The first request with this key still runs.
    #[error("a request with this idempotency key is still running")]
    IdempotencyInProgress,
    /// The item of an atomic batch that failed first; nothing of the batch was done.
    #[error("item {index} of the batch failed: {refusal}")]
    BatchFailed {
        index: usize,
        refusal: Refusal,
        /// The request that was answered first.
        request_id: Arc<str>,
        replayed: bool,
    },
    /// `If-Match` or `If-None-Match` did not hold; the version that is there.
    #[error("the version is {current:?}")]
    VersionMismatch { current: Option<i64> },
    #[error("there is no such asset")]
    AssetNotFound,
    #[error(transparent)]
    Store(#[from] StoreError),
}
