//! Stores that count what is read of them: so that a test says that a cost follows what changed, and no clock does.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use abunfi::audit::checkpoint::{Checkpoint, Leaf, LeafChange, Signer};
use abunfi::audit::{
    Attempt, ChainPart, CheckpointStore, Entry, ExportHead, ExportStore, ExportedEntry,
    ExportedTransaction, LeafAsOf, LeafState, StoredTile, UserRange,
};
use abunfi::clock::Timestamp;
use abunfi::context::Context;
use abunfi::error::StoreError;
use abunfi::ids::{TransactionId, UserId};
use uuid::Uuid;

use super::Relational;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// What checkpoints changed.
    Changes,
    /// Leaves, with what they hold or held.
    Leaves,
    Heads,
    /// Of the trail.
    Trail,
    /// Not rows, but how often any of these was asked for.
    Reads,
}

#[derive(Debug)]
pub(crate) struct Counted {
    checkpoints: Arc<dyn CheckpointStore>,
    exports: Arc<dyn ExportStore>,
    counts: [AtomicI64; 5],
}

impl Counted {
    pub(crate) fn of(stores: &Relational) -> Self {
        Self {
            checkpoints: stores.checkpoints.clone(),
            exports: stores.exports.clone(),
            counts: Default::default(),
        }
    }

    pub(crate) fn read(&self, rows: Rows) -> i64 {
        self.count(rows).load(Ordering::Relaxed)
    }

    fn count(&self, rows: Rows) -> &AtomicI64 {
        let [changes, leaves, heads, trail, reads] = &self.counts;
        match rows {
            Rows::Changes => changes,
            Rows::Leaves => leaves,
            Rows::Heads => heads,
            Rows::Trail => trail,
            Rows::Reads => reads,
        }
    }

    fn counted<T>(
        &self,
        rows: Rows,
        page: Result<Vec<T>, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let page = page?;
        let read = i64::try_from(page.len()).unwrap();
        self.count(rows).fetch_add(read, Ordering::Relaxed);
        self.count(Rows::Reads).fetch_add(1, Ordering::Relaxed);
        Ok(page)
    }
}

#[async_trait::async_trait]
impl CheckpointStore for Counted {
    async fn ledger_id(&self) -> Result<Uuid, StoreError> {
        self.checkpoints.ledger_id().await
    }

    async fn make_checkpoint(
        &self,
        signer: Option<&Signer>,
        at: Timestamp,
        max_chains: u32,
    ) -> Result<Attempt, StoreError> {
        self.checkpoints
            .make_checkpoint(signer, at, max_chains)
            .await
    }

    async fn rows_waiting(&self, up_to: u32) -> Result<u64, StoreError> {
        self.checkpoints.rows_waiting(up_to).await
    }

    async fn newest_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.checkpoints.newest_checkpoint().await
    }

    async fn checkpoints(&self, after: i64, limit: u32) -> Result<Vec<Checkpoint>, StoreError> {
        self.checkpoints.checkpoints(after, limit).await
    }

    async fn leaf_changes(
        &self,
        after: (i64, i64),
        limit: u32,
    ) -> Result<Vec<LeafChange>, StoreError> {
        let page = self.checkpoints.leaf_changes(after, limit).await;
        self.counted(Rows::Changes, page)
    }

    async fn leaves(&self, after: i64, limit: u32) -> Result<Vec<LeafState>, StoreError> {
        let page = self.checkpoints.leaves(after, limit).await;
        self.counted(Rows::Leaves, page)
    }

    async fn leaves_as_of(
        &self,
        number: i64,
        after: i64,
        limit: u32,
    ) -> Result<Vec<LeafAsOf>, StoreError> {
        let page = self.checkpoints.leaves_as_of(number, after, limit).await;
        self.counted(Rows::Leaves, page)
    }

    async fn unused_leaves(
        &self,
        after: i64,
        through: i64,
        limit: u32,
    ) -> Result<Vec<Leaf>, StoreError> {
        let page = self.checkpoints.unused_leaves(after, through, limit).await;
        self.counted(Rows::Leaves, page)
    }

    async fn leaves_of(
        &self,
        user_id: UserId,
        chain: Option<&str>,
        number: i64,
    ) -> Result<Vec<LeafState>, StoreError> {
        let page = self.checkpoints.leaves_of(user_id, chain, number).await;
        self.counted(Rows::Leaves, page)
    }

    async fn leaves_of_users(
        &self,
        users: UserRange,
        number: i64,
    ) -> Result<Vec<LeafState>, StoreError> {
        let page = self.checkpoints.leaves_of_users(users, number).await;
        self.counted(Rows::Leaves, page)
    }

    async fn tiles(&self, places: &[(u32, u64)]) -> Result<Vec<StoredTile>, StoreError> {
        self.checkpoints.tiles(places).await
    }
}

#[async_trait::async_trait]
impl ExportStore for Counted {
    async fn export_heads(
        &self,
        after: Option<UserId>,
        users: u32,
    ) -> Result<Vec<ExportHead>, StoreError> {
        let page = self.exports.export_heads(after, users).await;
        self.counted(Rows::Heads, page)
    }

    async fn export_rows(
        &self,
        users: UserRange,
        after: Option<(UserId, &str, i64)>,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        let page = self.exports.export_rows(users, after, limit).await;
        self.counted(Rows::Trail, page)
    }

    async fn export_parts(&self, parts: &[ChainPart]) -> Result<Vec<Entry>, StoreError> {
        let page = self.exports.export_parts(parts).await;
        self.counted(Rows::Trail, page)
    }

    async fn export_transactions(
        &self,
        users: UserRange,
        after: Option<(UserId, TransactionId)>,
        limit: u32,
    ) -> Result<Vec<ExportedTransaction>, StoreError> {
        self.exports.export_transactions(users, after, limit).await
    }

    async fn export_entries(
        &self,
        users: UserRange,
        after: Option<(UserId, TransactionId, &str)>,
        limit: u32,
    ) -> Result<Vec<ExportedEntry>, StoreError> {
        self.exports.export_entries(users, after, limit).await
    }

    async fn erase(
        &self,
        ctx: &Context,
        user_id: UserId,
        at: Timestamp,
    ) -> Result<Option<u64>, StoreError> {
        self.exports.erase(ctx, user_id, at).await
    }
}
