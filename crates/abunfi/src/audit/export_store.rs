//! What an export reads: pages of whole users, each page a few short reads.

use async_trait::async_trait;

use super::{Entry, Head};
use crate::clock::Timestamp;
use crate::context::Context;
use crate::error::StoreError;
use crate::ids::{TransactionId, UserId};

/// Where a chain ended when it was asked, and for an account's chain, what the account held then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportHead {
    pub user_id: UserId,
    pub chain: String,
    pub head: Head,
    pub balances: Option<Balances>,
}

/// An account's amounts and totals, in micro-units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balances {
    pub available: i64,
    pub locked: i64,
    pub shares: i64,
    pub locked_shares: i64,
    pub deposited: i64,
    pub withdrawn: i64,
    pub yield_earned: i64,
    pub bonuses: i64,
    pub fees: i64,
}

/// What an outsider needs of a transaction; nothing personal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedTransaction {
    pub user_id: UserId,
    pub id: TransactionId,
    pub kind: String,
    pub status: String,
    pub asset: String,
    pub amount: i64,
    pub shares: i64,
}

/// One leg of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedEntry {
    pub user_id: UserId,
    pub transaction_id: TransactionId,
    pub account: String,
    pub asset: String,
    pub amount: i64,
}

/// Users from the first to the last, both included, by the bytes of their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserRange {
    pub first: UserId,
    pub last: UserId,
}

/// Rows of one chain: those after the one `seq` and up to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainPart {
    pub user_id: UserId,
    pub chain: String,
    pub after: i64,
    pub through: i64,
}

impl ChainPart {
    /// How many rows it has, if none is missing.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let rows = self.through.saturating_sub(self.after);
        u64::try_from(rows).unwrap_or_default()
    }
}

#[async_trait]
pub trait ExportStore: Send + Sync + std::fmt::Debug {
    /// The next `users` users after `after` who have a chain, all heads of each, in one short snapshot, by
    /// user and chain. The platform, whose id is the lowest, is the first of them.
    async fn export_heads(
        &self,
        after: Option<UserId>,
        users: u32,
    ) -> Result<Vec<ExportHead>, StoreError>;

    /// Rows of the trail by user, chain and `seq`, after that place, at most `limit`.
    async fn export_rows(
        &self,
        users: UserRange,
        after: Option<(UserId, &str, i64)>,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError>;

    /// All rows of these parts, in their order, and by `seq` in each: as many as they are long, so the caller
    /// sees to it that they are few.
    async fn export_parts(&self, parts: &[ChainPart]) -> Result<Vec<Entry>, StoreError>;

    /// Transactions by user and id, after that place, at most `limit`.
    async fn export_transactions(
        &self,
        users: UserRange,
        after: Option<(UserId, TransactionId)>,
        limit: u32,
    ) -> Result<Vec<ExportedTransaction>, StoreError>;

    /// Entries by user, transaction and account, after that place, at most `limit`.
    async fn export_entries(
        &self,
        users: UserRange,
        after: Option<(UserId, TransactionId, &str)>,
        limit: u32,
    ) -> Result<Vec<ExportedEntry>, StoreError>;

    /// Deletes the personal content of a user's trail, and says so with a row `erase` in the user's chain, in
    /// one commit; how many values went. `None`: there is no such user. Without anything left to erase
    /// nothing is written.
    async fn erase(
        &self,
        ctx: &Context,
        user_id: UserId,
        at: Timestamp,
    ) -> Result<Option<u64>, StoreError>;
}
