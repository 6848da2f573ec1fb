//! What is kept of an answer under its idempotency key.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::super::{
    BalanceAfter, Idempotency, Posted, StoredAnswer, Transaction, TransactionStatus,
};
use crate::audit::AmountsAfter;
use crate::clock::Timestamp;
use crate::context::Principal;
use crate::ids::{TransactionId, UserId};
use crate::money::Amount;

/// Which idempotency row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AnswerKey {
    pub user_id: UserId,
    pub principal: Principal,
    pub scope: Arc<str>,
    pub key: Arc<str>,
}

impl AnswerKey {
    #[must_use]
    pub fn of(user_id: UserId, idempotency: &Idempotency) -> Self {
        Self {
            user_id,
            principal: idempotency.principal.clone(),
            scope: idempotency.scope.clone(),
            key: idempotency.key.clone(),
        }
    }

    /// What stands for principal, scope and key in a store that keeps them short: the first half of SHA-256
    /// over the three, with a NUL (which none of them holds) between.
    #[must_use]
    pub fn hash(&self) -> uuid::Uuid {
        let hash: [u8; 32] = Sha256::new()
            .chain_update(self.principal.as_str())
            .chain_update([0])
            .chain_update(self.scope.as_bytes())
            .chain_update([0])
            .chain_update(self.key.as_bytes())
            .finalize()
            .into();
        uuid::Uuid::from_bytes(hash.first_chunk().copied().unwrap_or_default())
    }
}

/// How an answer is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// A finished transaction, and the audit row (by its `seq` in the account's chain) that finished it, say
    /// all of the answer, and neither ever changes: [`rebuild`] puts it together, byte for byte.
    Rows(TransactionId, i64),
    /// A refusal, or a transaction that may still change: JSON.
    Text(String),
}

impl Kept {
    /// # Errors
    /// Never in practice: an answer has no keys that are not texts.
    pub fn of(answer: &StoredAnswer) -> Result<Self, serde_json::Error> {
        match &answer.result {
            Ok(posted) if posted.transaction.status != TransactionStatus::Pending => {
                Ok(Self::Rows(posted.transaction.id, posted.balance.version))
            }
            _ => serde_json::to_string(answer).map(Self::Text),
        }
    }

    /// The rows that say it, if they do.
    #[must_use]
    pub const fn rows(&self) -> Option<(TransactionId, i64)> {
        match self {
            Self::Rows(id, seq) => Some((*id, *seq)),
            Self::Text(_) => None,
        }
    }

    /// The whole answer, if it has to be kept.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Rows(..) => None,
            Self::Text(text) => Some(text),
        }
    }
}

/// The answer that a finished transaction and the audit row that finished it stand for: see [`Kept::Rows`].
#[must_use]
pub fn rebuild(
    transaction: Transaction,
    request_id: Arc<str>,
    seq: i64,
    after: &AmountsAfter,
) -> StoredAnswer {
    let balance = BalanceAfter {
        asset: transaction.asset,
        available: after.available,
        locked: after.locked,
        total: after
            .available
            .checked_add(after.locked)
            .unwrap_or(Amount::MAX),
        shares: after.shares,
        locked_shares: after.locked_shares,
        version: seq,
    };
    StoredAnswer {
        request_id,
        result: Ok(Posted {
            transaction,
            balance,
        }),
    }
}

/// The idempotency row.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub fingerprint: [u8; 32],
    pub answer: StoredAnswer,
    pub at: Timestamp,
}
