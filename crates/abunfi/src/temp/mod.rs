//! Temporary data: put, get, take once. It lives in the key-value store only, and may be lost with it.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::error::StoreError;

mod service;
#[cfg(test)]
mod tests;

pub use service::{Error, Service};

/// The longest time to live: 30 days.
pub const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// The largest value, as JSON: 64 KiB, so that many fit in memory.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;

/// A value and when it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TempValue {
    pub value: Value,
    pub expires_at: Timestamp,
}

#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    async fn put(&self, key: &str, value: &TempValue, ttl: Duration) -> Result<(), StoreError>;
    async fn get(&self, key: &str) -> Result<Option<TempValue>, StoreError>;
    /// Gets and removes in one atomic step: of many callers at once, one has it.
    async fn take(&self, key: &str) -> Result<Option<TempValue>, StoreError>;
    async fn delete(&self, key: &str) -> Result<(), StoreError>;
}
