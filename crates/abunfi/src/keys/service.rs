//! What callers use of service keys.

use std::sync::Arc;

use super::*;
use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::context::Context;
use crate::error::StoreError;
use crate::ids::KeyId;
use crate::token::Token;
use crate::validation::Faults;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Unknown or revoked; which of these is not said.
    #[error("the key is not valid")]
    NotValid,
    #[error("there is no such key")]
    NotFound,
    #[error("the request is not valid")]
    Invalid(Faults),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A new key: the token is shown this once.
#[derive(Debug, Clone)]
pub struct CreatedKey {
    pub token: String,
    pub key: ServiceKey,
}

/// Who a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    /// `None`: the key of the configuration (`ABUNFI_ADMIN_KEY`), whose owner is `admin`.
    pub id: Option<KeyId>,
    pub owner: String,
    pub scopes: Vec<Scope>,
}

#[derive(Debug, Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    cache: Cache,
    clock: SharedClock,
    /// SHA-256 of `ABUNFI_ADMIN_KEY`.
    admin_hash: Option<[u8; 32]>,
}

impl Service {
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        cache: Cache,
        clock: SharedClock,
        admin_hash: Option<[u8; 32]>,
    ) -> Self {
        Self {
            store,
            cache,
            clock,
            admin_hash,
        }
    }

    /// Who this token is. Compared by hash, so in constant time with respect to the secret. A serving copy
    /// of at most ten minutes answers while the relational store is away; a revoked key is refused within
    /// a second everywhere.
    pub async fn authenticate(&self, token: &str) -> Result<Authenticated, Error> {
        todo!()
    }

    /// Durable on return.
    pub async fn create(
        &self,
        ctx: &Context,
        owner: &str,
        scopes: &[Scope],
    ) -> Result<CreatedKey, Error> {
        todo!()
    }

    /// All, newest first, revoked ones too.
    pub async fn list(&self) -> Result<Vec<ServiceKey>, StoreError> {
        self.store.list().await
    }

    pub async fn revoke(&self, ctx: &Context, id: KeyId) -> Result<ServiceKey, Error> {
        todo!()
    }

    /// Stores a key whose token the caller made, so that it can be written down before it is usable: a
    /// crash in between leaves a file that is taken up again, never a key that nobody has. Durable on
    /// return; a token that is stored already stays as it is.
    pub async fn adopt(
        &self,
        ctx: &Context,
        owner: &str,
        scopes: &[Scope],
        token: &Token,
    ) -> Result<ServiceKey, Error> {
        let now = self.clock.now();
        let key = ServiceKey {
            id: KeyId::new(now),
            owner: owner.to_owned(),
            scopes: scopes.to_vec(),
            token_hash: *token.hash().as_bytes(),
            created_at: now,
            revoked_at: None,
        };
        if let Some(stored) = self.store.find(&key.token_hash).await? {
            return Ok(stored);
        }
        match self.store.insert(ctx, &key).await {
            Ok(()) => Ok(key),
            // Another instance that starts beside this one may have stored it meanwhile.
            Err(error) => match self.store.find(&key.token_hash).await {
                Ok(Some(stored)) => Ok(stored),
                _ => Err(error.into()),
            },
        }
    }
}
