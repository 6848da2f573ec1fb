//! What the verifier asks of a store. Each call is one short snapshot: whatever it hands over belongs
//! together, and it holds nothing when it returns.

use async_trait::async_trait;
use uuid::Uuid;

use super::rows::Sink;
use crate::error::StoreError;

/// How much there is, by the heads of the chains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    pub chains: u64,
    pub rows: u64,
}

/// A user and how many rows the heads of its chains announce.
pub type Size = (Uuid, u64);

#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// How much there is, roughly: for showing progress.
    async fn extent(&self) -> Result<Extent, StoreError>;

    /// The next users from `from` on, in the order of their ids, with their sizes, and up to where
    /// these are all that have a head: `None` when nobody comes after them. About `limit` of them.
    async fn sizes(&self, from: Uuid, limit: u32) -> Result<(Vec<Size>, Option<Uuid>), StoreError>;

    /// All rows of the users from `from` to `through`, unless the sink is full.
    async fn users(&self, from: Uuid, through: Uuid, sink: &mut dyn Sink)
    -> Result<(), StoreError>;

    /// Of the users from `from` to `through` the chains that changed since checkpoint `since`: whose heads are not
    /// where it has them, or whose leaves later checkpoints changed, or which have rows beyond their heads. Their
    /// rows from the one that it has on, and the transactions that the rows after it changed, whole.
    async fn users_since(
        &self,
        from: Uuid,
        through: Uuid,
        since: i64,
        sink: &mut dyn Sink,
    ) -> Result<(), StoreError>;

    /// The next user from `from` on that has an audit row or a head.
    async fn next_user(&self, from: Uuid) -> Result<Option<Uuid>, StoreError>;

    /// The heads of one user's chains: accounts and heads, and of each chain the newest leaf.
    async fn heads(&self, user: Uuid, sink: &mut dyn Sink) -> Result<(), StoreError>;

    /// The name of the next chain of a user that has rows, in byte order.
    async fn next_chain(&self, user: Uuid, after: &str) -> Result<Option<String>, StoreError>;

    /// Rows of one chain after `after` and up to `through`: leaves, private content, and audit rows with
    /// their transactions' types.
    async fn chain_part(
        &self,
        user: Uuid,
        chain: &str,
        after: i64,
        through: i64,
        sink: &mut dyn Sink,
    ) -> Result<(), StoreError>;

    /// A user's accounts and its next transactions from `from` on by id, at most `limit`, with all their
    /// audit rows (each transaction's in their order) and entries, and what has no transaction in that
    /// range of ids. Gives the last id of the range; `None` when it was the last range.
    async fn transactions_part(
        &self,
        user: Uuid,
        from: Uuid,
        limit: u32,
        sink: &mut dyn Sink,
    ) -> Result<Option<Uuid>, StoreError>;
}
