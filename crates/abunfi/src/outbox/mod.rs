//! Effects that a commit promised: today, invalidations of L2 that a crash may have left undone.
//!
//! The row is written by the transaction that made the effect necessary, so it exists exactly if that
//! committed. It is a work queue, never a log position: serial ids become visible out of order, and a
//! reader by position loses events (measured: a third of them).

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::error::StoreError;

mod promises;
mod relay;
#[cfg(test)]
mod tests;
mod watch;
pub use promises::{Promises, collecting, promised};
pub use relay::Relay;
pub use watch::Watch;

/// An effect that is to be carried out at least once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Effect {
    /// Remove these tags from the cache. Idempotent, and in any order.
    Invalidate { tags: Vec<String> },
}

/// A row that this worker leased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    pub id: Uuid,
    pub effect: Effect,
    pub lease: Uuid,
    pub attempts: i32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    pub pending: i64,
    pub oldest: Option<Timestamp>,
}

#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Leases rows older than `min_age`, oldest first (those younger are being done by whoever wrote
    /// them).
    async fn claim(
        &self,
        limit: u32,
        min_age: Duration,
        lease_for: Duration,
        now: Timestamp,
    ) -> Result<Vec<Claimed>, StoreError>;

    /// Deletes rows whose lease is still this one's.
    async fn finish(&self, done: &[Claimed]) -> Result<(), StoreError>;

    /// The ids of the rows that are there, of any age, oldest first: at most `limit`.
    async fn pending(&self, limit: u32) -> Result<Vec<Uuid>, StoreError>;

    /// What these rows promise; those that are gone have been carried out.
    async fn effects(&self, ids: &[Uuid]) -> Result<Vec<Effect>, StoreError>;

    /// Deletes rows whose effect their own writer has carried out, whoever leased them.
    async fn delete(&self, ids: &[Uuid]) -> Result<(), StoreError>;

    async fn backlog(&self) -> Result<Backlog, StoreError>;
}
