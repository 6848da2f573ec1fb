//! Service keys: how back ends prove who they are, and what they may do.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::ids::KeyId;
use crate::ledger::words;

mod service;
#[cfg(test)]
mod tests;

pub use service::{Authenticated, CreatedKey, Error, Service};

words! {
    Scope {
        /// Every GET.
        Read = "read",
        /// Other calls.
        Write = "write",
        /// Posting, batch and settling.
        Money = "money",
        /// KYC, assets, cache, keys, `/stats`, `/metrics`, `/ledger`.
        Operate = "operate",
    }
}

/// A service key as it is stored: its token only as a hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceKey {
    pub id: KeyId,
    /// Whose key it is: outlives rotation, and owns the idempotency keys. 1–100 visible ASCII.
    pub owner: String,
    pub scopes: Vec<Scope>,
    #[serde(skip)]
    pub token_hash: [u8; 32],
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

/// What keys ask of the relational store.
#[async_trait::async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Durable on return, with an audit row in chain `system`.
    async fn insert(
        &self,
        ctx: &crate::context::Context,
        key: &ServiceKey,
    ) -> Result<(), StoreError>;

    /// By the token's hash; revoked ones are found too.
    async fn find(&self, token_hash: &[u8; 32]) -> Result<Option<ServiceKey>, StoreError>;

    /// All, newest first, revoked ones too.
    async fn list(&self) -> Result<Vec<ServiceKey>, StoreError>;

    /// Revokes with a revocation row and an audit row in chain `system`; `None`: there is no such key. A
    /// key that is revoked already stays as it is.
    async fn revoke(
        &self,
        ctx: &crate::context::Context,
        id: KeyId,
        at: Timestamp,
    ) -> Result<Option<ServiceKey>, StoreError>;
}
