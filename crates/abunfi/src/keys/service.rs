//! What callers use of service keys.

use std::sync::Arc;
use std::time::Duration;

use subtle::ConstantTimeEq;

use super::*;
use crate::cache::{Cache, Cached};
use crate::clock::SharedClock;
use crate::context::Context;
use crate::error::{StoreError, StoreKind};
use crate::ids::random_bytes;
use crate::sessions::{GRACE, RevocationKind, Revocations, Trust};
use crate::token::{Token, TokenHash, TokenKind};
use crate::validation::{FaultCode, Faults, check_name};

/// How long a serving copy is fresh.
const COPY_TTL: Duration = Duration::from_secs(60);
/// The owner of the key of the configuration.
const ADMIN: &str = "admin";

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
    revocations: Revocations,
}

impl Service {
    /// `revocations`: the same as the sessions'.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        cache: Cache,
        clock: SharedClock,
        admin_hash: Option<[u8; 32]>,
        revocations: Revocations,
    ) -> Self {
        Self {
            store,
            cache,
            clock,
            admin_hash,
            revocations,
        }
    }

    /// Who this token is. Compared by hash, so in constant time with respect to the secret. A serving copy
    /// of at most ten minutes answers while the relational store is away; a revoked key is refused within
    /// a second everywhere.
    pub async fn authenticate(&self, token: &str) -> Result<Authenticated, Error> {
        if self.is_admin(token) {
            return Ok(Authenticated {
                id: None,
                owner: ADMIN.to_owned(),
                scopes: Scope::ALL.to_vec(),
            });
        }
        let hash = key_hash(token).ok_or(Error::NotValid)?;
        let key = match self.revocations.check().await? {
            Trust::Copies => self.find_with_copies(&hash).await?,
            Trust::StoreOnly => Arc::new(self.find(&hash).await?),
        };
        if self.revocations.refuse_key(key.id) {
            return Err(Error::NotValid);
        }
        Ok(Authenticated {
            id: Some(key.id),
            owner: key.owner.clone(),
            scopes: key.scopes.clone(),
        })
    }

    /// Durable on return.
    pub async fn create(
        &self,
        ctx: &Context,
        owner: &str,
        scopes: &[Scope],
    ) -> Result<CreatedKey, Error> {
        check(owner, scopes).map_err(Error::Invalid)?;
        let now = self.clock.now();
        let token = Token::from_random(TokenKind::ServiceKey, random_bytes());
        let all = Scope::ALL.iter().copied();
        let key = ServiceKey {
            id: KeyId::new(now),
            owner: owner.to_owned(),
            // Each once, in one order.
            scopes: all.filter(|scope| scopes.contains(scope)).collect(),
            token_hash: *token.hash().as_bytes(),
            created_at: now,
            revoked_at: None,
        };
        self.store.insert(ctx, &key).await?;
        Ok(CreatedKey {
            token: token.expose().to_owned(),
            key,
        })
    }

    /// All, newest first, revoked ones too.
    pub async fn list(&self) -> Result<Vec<ServiceKey>, StoreError> {
        self.store.list().await
    }

    /// Durable on return; refused here from now on, elsewhere within a second.
    pub async fn revoke(&self, ctx: &Context, id: KeyId) -> Result<ServiceKey, Error> {
        let revoked = self.store.revoke(ctx, id, self.clock.now()).await?;
        let key = revoked.ok_or(Error::NotFound)?;
        self.revocations.note(RevocationKind::Key, id.uuid());
        Ok(key)
    }

    fn is_admin(&self, token: &str) -> bool {
        let given = TokenHash::of(token);
        self.admin_hash
            .is_some_and(|admin| bool::from(admin.ct_eq(given.as_bytes())))
    }

    async fn find(&self, hash: &TokenHash) -> Result<ServiceKey, Error> {
        let found = self.store.find(hash.as_bytes()).await?;
        found
            .filter(|key| key.revoked_at.is_none())
            .ok_or(Error::NotValid)
    }

    async fn find_with_copies(&self, hash: &TokenHash) -> Result<Arc<ServiceKey>, Error> {
        let name = format!("key:{}", hash.to_hex());
        let is_away = |error: &Error| matches!(error, Error::Store(error) if error.is_away());
        let Cached { value, age, .. } = self
            .cache
            .get_or_fetch(&name, &[], COPY_TTL, is_away, self.find(hash))
            .await?;
        if age >= GRACE {
            return Err(Error::Store(StoreError::unavailable(
                StoreKind::Relational,
                "the serving copy is older than the grace",
            )));
        }
        Ok(value)
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

fn check(owner: &str, scopes: &[Scope]) -> Result<(), Faults> {
    let mut faults = Faults::new();
    if let Err(invalid) = check_name(owner) {
        faults.push(invalid.at("/owner"));
    }
    if scopes.is_empty() {
        faults.add("/scopes", FaultCode::TooShort, "must name at least one");
    }
    faults.into_result()
}

/// `None`: not the form of a service key.
fn key_hash(token: &str) -> Option<TokenHash> {
    let token = Token::parse(token)?;
    (token.kind() == TokenKind::ServiceKey).then(|| token.hash())
}
