//! What can go wrong below every domain: a store that does not answer.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// One of the three stores, by the work it does. Its names in health and statistics are those of the
/// databases it was made for, whatever serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum StoreKind {
    #[serde(rename = "postgresql")]
    Relational,
    #[serde(rename = "mongodb")]
    Documents,
    #[serde(rename = "redis")]
    KeyValue,
}

impl StoreKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Relational => "postgresql",
            Self::Documents => "mongodb",
            Self::KeyValue => "redis",
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A store could not do what it was asked. `reason` is for logs and operators: it never holds a
/// secret, and never reaches a client.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Certainly **not** done: the store is away, the deadline passed before the commit was sent, or
    /// the circuit breaker is open.
    #[error("{store} is unavailable: {reason}")]
    Unavailable { store: StoreKind, reason: String },
    /// A commit (or another write) was sent and its answer lost: it may or may not be done. The same
    /// idempotency key settles it.
    #[error("{store}: the outcome is unknown: {reason}")]
    OutcomeUnknown { store: StoreKind, reason: String },
    /// A bounded queue or pool is full: certainly not done, try again after `retry_after`.
    #[error("{store} is overloaded: {reason}")]
    Overloaded {
        store: StoreKind,
        reason: String,
        retry_after: Duration,
    },
    /// A serialization failure or a deadlock: certainly not done, and running it again may help. Only
    /// the body of `execute_transaction` ever sees it; everything else repeats by itself.
    #[error("{store}: the transaction conflicted with another")]
    Conflict { store: StoreKind },
    /// A store was called between BEGIN and COMMIT of a relational transaction: a bug of the caller,
    /// since under load it deadlocks the pool. Nothing was done.
    #[error("{store} was called inside a relational transaction")]
    InsideTransaction { store: StoreKind },
    /// What the store said makes no sense to this program: a bug, or a damaged store.
    #[error("{store}: unexpected: {reason}")]
    Unexpected { store: StoreKind, reason: String },
}

impl StoreError {
    #[must_use]
    pub fn unavailable(store: StoreKind, reason: impl fmt::Display) -> Self {
        Self::Unavailable {
            store,
            reason: reason.to_string(),
        }
    }

    #[must_use]
    pub fn unexpected(store: StoreKind, reason: impl fmt::Display) -> Self {
        Self::Unexpected {
            store,
            reason: reason.to_string(),
        }
    }

    #[must_use]
    pub const fn store(&self) -> StoreKind {
        match self {
            Self::Unavailable { store, .. }
            | Self::OutcomeUnknown { store, .. }
            | Self::Overloaded { store, .. }
            | Self::Conflict { store }
            | Self::InsideTransaction { store }
            | Self::Unexpected { store, .. } => *store,
        }
    }

    /// Whether the store itself is away, so that a fallback may answer in its place.
    #[must_use]
    pub const fn is_away(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Overloaded { .. })
    }
}

/// Any error of the platform: what the façade's calls and the body of `execute_transaction` give.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Users(#[from] crate::users::Error),
    #[error(transparent)]
    Ledger(#[from] crate::ledger::Error),
    #[error(transparent)]
    Documents(#[from] crate::documents::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller's own reason to roll back.
    #[error(transparent)]
    Other(#[from] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// The store's error inside, if a store is what failed.
    #[must_use]
    pub fn store_error(&self) -> Option<&StoreError> {
        use crate::{documents, ledger, users};
        match self {
            Self::Store(error)
            | Self::Users(
                users::Error::Store(error)
                | users::Error::Documents(documents::Error::Store(error)),
            )
            | Self::Ledger(ledger::Error::Store(error))
            | Self::Documents(documents::Error::Store(error)) => Some(error),
            _ => None,
        }
    }
}
