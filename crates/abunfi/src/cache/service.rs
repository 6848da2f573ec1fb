//! The cache that callers use.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Store;
use crate::clock::SharedClock;

/// Bounds and times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheConfig {
    /// Bytes of values that L1 holds at most.
    pub l1_max_bytes: u64,
    /// Longest life in L1 when other instances may write (an external relational store), so that each is
    /// at most this far behind whatever becomes of the notices. One second by the contract.
    pub l1_shared_ttl_ms: u64,
    /// How long past its life a value may be served when the authority is away.
    pub stale_for_seconds: u32,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            l1_max_bytes: 64 * 1024 * 1024,
            l1_shared_ttl_ms: 1_000,
            stale_for_seconds: 3_600,
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hit {
    L1,
    L2,
    /// `fetch` was called now.
    Fetched,
    /// `fetch` failed, and an older copy answered.
    Stale,
}

/// A value with its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached<T> {
    pub value: T,
    pub hit: Hit,
    pub age: Duration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheStats {
    pub l1_hits: u64,
    pub l2_hits: u64,
    pub misses: u64,
    pub stale: u64,
    pub invalidations: u64,
    pub l2_errors: u64,
    pub l1_entries: u64,
    pub l1_bytes: u64,
}

/// Cheap to clone; all clones are one cache.
#[derive(Debug, Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    l2: Option<Arc<dyn Store>>,
    clock: SharedClock,
    config: CacheConfig,
    /// Whether other instances may write the same data.
    shared: bool,
}

impl Cache {
    /// `l2: None`: this process is all there is of the cache. `shared`: other processes may write the same
    /// data.
    #[must_use]
    pub fn new(
        l2: Option<Arc<dyn Store>>,
        clock: SharedClock,
        config: CacheConfig,
        shared: bool,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                l2,
                clock,
                config,
                shared,
            }),
        }
    }

    /// The value of `key`, from L1, L2 or `fetch`. One flight per key in this process, and one across
    /// processes by lease; others wait briefly or fetch by themselves. `fetch` runs outside any lock, and
    /// what it gives is kept for `ttl` unless the key or one of `tags` was invalidated meanwhile. With L2
    /// away it works without. An error of `fetch` is not cached; it gives way to a stale copy when
    /// `stale_on` says so of the error.
    pub async fn get_or_fetch<T, E, F>(
        &self,
        key: &str,
        tags: &[String],
        ttl: Duration,
        stale_on: fn(&E) -> bool,
        fetch: F,
    ) -> Result<Cached<Arc<T>>, E>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Send,
        F: Future<Output = Result<T, E>> + Send,
    {
        todo!()
    }

    /// The last known copy, fresh or not, without fetching: what answers while the authority is away.
    /// `tags` are those that it was cached with.
    pub async fn last_known<T>(&self, key: &str, tags: &[String]) -> Option<Cached<Arc<T>>>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        todo!()
    }

    /// Forgets keys and tags, here at once, in L2 and in other instances within a second. Called after the
    /// commit. What L2 could not be told is told it before it is used again.
    pub async fn invalidate(&self, keys: &[String], tags: &[String]) {
        todo!()
    }

    #[must_use]
    pub fn stats(&self) -> CacheStats {
        todo!()
    }
}
