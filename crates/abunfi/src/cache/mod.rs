//! Cache-aside: an L1 in the process, an L2 in Redis, one flight per key.
//!
//! Invariant: an invalidation beats every fill that started before it. In L1 a fill holds a guard that
//! the invalidation voids; in L2 a fill needs its lease token, which the invalidation removes.
//!
//! Invariant: what L2 gives is served only while this instance knows of every commit of more than a second
//! ago that L2 may not have been told of (`coverage.rs`). A copy past its time that is served while it is
//! loaded again is one that nothing has invalidated.
//!
//! Invariant: no balance and no limit is ever *decided* from here.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::StoreError;

mod agreement;
mod coverage;
mod flights;
mod generations;
mod lease;
mod load;
mod local;
mod revalidations;
mod service;
#[cfg(test)]
mod tests;
mod undelivered;

pub use service::{Cache, CacheConfig, CacheStats, Cached, Hit};

/// The tag of everything that shows a user.
#[must_use]
pub fn user_tag(id: crate::ids::UserId) -> String {
    format!("user:{id}")
}

/// 128 random bits that a fill of L2 must show.
pub type LeaseToken = [u8; 16];

/// A value as L2 holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// JSON.
    pub value: String,
    pub stored_at: Timestamp,
    /// From here on it is stale; it may be served stale until the store drops it.
    pub fresh_until: Timestamp,
    pub tags: Vec<String>,
}

/// What [`Store::get_or_lease`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    Fresh(Stored),
    /// Past its time. With a lease when this caller is the one to refresh it.
    Stale {
        stored: Stored,
        lease: Option<LeaseToken>,
    },
    /// Nothing; this caller fills.
    Leased(LeaseToken),
    /// Nothing; another instance is filling.
    Busy,
}

/// L2. Each method is one atomic script, with the server's own clock.
///
/// `tags` are those of the key, the same ones at every call: an invalidation of one of them removes value
/// and lease of the key.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The value, fresh or stale; takes no lease.
    async fn get(&self, key: &str, tags: &[String]) -> Result<Option<Stored>, StoreError>;

    /// The value, or the lease of the key when nobody holds it. `token` becomes the lease, for at most
    /// `lease_for`. A value goes stale when the span from its `stored_at` to its `fresh_until` has passed
    /// on the server's clock: those of the instances need not agree.
    async fn get_or_lease(
        &self,
        key: &str,
        tags: &[String],
        token: LeaseToken,
        lease_for: Duration,
    ) -> Result<Lookup, StoreError>;

    /// Stores the value for `keep` if `token` still is the key's lease; whether it did.
    async fn fill(
        &self,
        key: &str,
        token: LeaseToken,
        stored: &Stored,
        keep: Duration,
    ) -> Result<bool, StoreError>;

    /// Gives the lease back unfilled.
    async fn release(&self, key: &str, token: LeaseToken) -> Result<(), StoreError>;

    /// Removes the values *and the leases* of `keys` and of all that carry one of `tags`, and tells the
    /// other instances.
    async fn invalidate(&self, keys: &[String], tags: &[String]) -> Result<(), StoreError>;

    /// Removes all that was there when it was called, values and leases, and tells the other instances.
    async fn flush(&self) -> Result<(), StoreError>;

    /// Invalidations by other instances, as they come; `Lost` whenever some may have been missed.
    fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Notice>;
}

/// What an instance learns from the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    Invalidated {
        keys: Vec<String>,
        tags: Vec<String>,
    },
    /// The subscription was interrupted, or all was flushed: nothing in L1 is known to be fresh.
    Lost,
}
