//! What checkpoints ask of a relational store.

use async_trait::async_trait;
use uuid::Uuid;

use super::checkpoint::{Checkpoint, Leaf, LeafChange, Signer};
use super::{Hash, Head, UserRange};
use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::ids::UserId;

/// What became of an attempt to make a checkpoint.
#[expect(
    clippy::large_enum_variant,
    reason = "one every few minutes, never moved in bulk"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// It is durable. `chains`: how many it found changed; `more`: others are left for the next one, at once.
    Made {
        checkpoint: Checkpoint,
        chains: u64,
        more: bool,
    },
    /// No chain has changed since the last one (`more`: among those that were looked at).
    Nothing { more: bool },
    /// Another instance is at it.
    Busy,
    /// There is something new, no key to sign with, and the newest checkpoint, of that number, is signed: one
    /// that is not would undo what the signatures before it vouch for. Nothing was changed.
    NeedsKey { newest: i64 },
}

/// A leaf with what it holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafState {
    pub leaf: Leaf,
    pub head: Head,
    /// The checkpoint that gave it this head.
    pub checkpoint: i64,
}

/// A leaf with what it held as of some checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafAsOf {
    pub leaf: Leaf,
    /// The change that gave it its head as of then; `None`: it came later, or never.
    pub held: Option<LeafChange>,
    /// Some checkpoint gave it a row. A leaf and its first change are written together, so there is none without
    /// unless somebody wrote it by hand.
    pub is_used: bool,
}

/// A row of the stored tree; see [`merkle`](super::merkle).
pub type StoredTile = ((u32, u64), Vec<Hash>);

/// Checkpoints, leaves and their changes are only ever appended; the database itself refuses anything else.
#[async_trait]
pub trait CheckpointStore: Send + Sync + std::fmt::Debug {
    /// Whose checkpoints these are.
    async fn ledger_id(&self) -> Result<Uuid, StoreError>;

    /// Makes the next checkpoint over every chain that has grown since the last one, at most `max_chains` of
    /// them, in one relational transaction. Only one is made at a time, whatever the number of instances.
    ///
    /// What has changed goes by the order of transactions and never by time, so that a row that commits
    /// late is in the next checkpoint at the latest. A leaf never goes back: a chain that is shorter than
    /// its leaf says keeps its leaf, which is what verification then finds.
    ///
    /// Once a checkpoint is signed, all later ones are: without a `signer` none is made.
    async fn make_checkpoint(
        &self,
        signer: Option<&Signer>,
        at: Timestamp,
        max_chains: u32,
    ) -> Result<Attempt, StoreError>;

    /// Rows of the trail that no checkpoint has looked at yet, counted up to `up_to`. May count a few too
    /// many, never too few.
    async fn rows_waiting(&self, up_to: u32) -> Result<u64, StoreError>;

    async fn newest_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError>;

    /// Checkpoints after that number, ascending, at most `limit`.
    async fn checkpoints(&self, after: i64, limit: u32) -> Result<Vec<Checkpoint>, StoreError>;

    /// What checkpoints changed, by `(checkpoint, leaf)` ascending, after that pair, at most `limit`.
    async fn leaf_changes(
        &self,
        after: (i64, i64),
        limit: u32,
    ) -> Result<Vec<LeafChange>, StoreError>;

    /// Leaves after that one (−1: from the first), ascending, at most `limit`, as they are now.
    async fn leaves(&self, after: i64, limit: u32) -> Result<Vec<LeafState>, StoreError>;

    /// Every leaf after that one ([`i64::MIN`]: from the first, whatever its number), ascending, at most `limit`,
    /// with what it held as of checkpoint `number`: one look into an index for each, however often it changed.
    async fn leaves_as_of(
        &self,
        number: i64,
        after: i64,
        limit: u32,
    ) -> Result<Vec<LeafAsOf>, StoreError>;

    /// Leaves after the one and up to the other that no checkpoint ever gave a row, ascending, at most `limit`.
    /// Leaf and first change are written together, so there are none unless somebody wrote them by hand.
    async fn unused_leaves(
        &self,
        after: i64,
        through: i64,
        limit: u32,
    ) -> Result<Vec<Leaf>, StoreError>;

    /// The leaves of a user's chains (or of the one that is named), by leaf, with what each held as of
    /// checkpoint `number`; those that came later are left out. The user may be
    /// [`PLATFORM`](super::PLATFORM).
    async fn leaves_of(
        &self,
        user_id: UserId,
        chain: Option<&str>,
        number: i64,
    ) -> Result<Vec<LeafState>, StoreError>;

    /// The leaves of all chains of these users, in any order, with what each held as of checkpoint `number`;
    /// those that came later are left out.
    async fn leaves_of_users(
        &self,
        users: UserRange,
        number: i64,
    ) -> Result<Vec<LeafState>, StoreError>;

    /// Rows of the stored tree, in the order asked for; those that are missing are left out.
    async fn tiles(&self, places: &[(u32, u64)]) -> Result<Vec<StoredTile>, StoreError>;
}
