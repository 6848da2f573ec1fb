#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::cache::{Cache, CacheConfig};
use crate::clock::{ManualClock, SharedClock};
use crate::context::Context;
use crate::error::StoreKind;
use crate::ids::{SessionId, UserId};
use crate::ledger::Page;
use crate::sessions::{self, Revocation, RevocationKind, Revocations, SessionRecord};
use crate::token::TokenHash;

/// Keys and revocations; of sessions it has none.
#[derive(Debug, Default)]
struct Fake {
    keys: Mutex<Vec<ServiceKey>>,
    revoked: Mutex<Vec<Revocation>>,
    away: AtomicBool,
}

impl Fake {
    fn reach(&self) -> Result<(), StoreError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(StoreError::unavailable(StoreKind::Relational, "away")),
            false => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl Store for Fake {
    async fn insert(&self, _ctx: &Context, key: &ServiceKey) -> Result<(), StoreError> {
        self.reach()?;
        self.keys.lock().unwrap().push(key.clone());
        Ok(())
    }

    async fn find(&self, token_hash: &[u8; 32]) -> Result<Option<ServiceKey>, StoreError> {
        self.reach()?;
        let keys = self.keys.lock().unwrap();
        Ok(keys
            .iter()
            .find(|key| key.token_hash == *token_hash)
            .cloned())
    }

    async fn list(&self) -> Result<Vec<ServiceKey>, StoreError> {
        self.reach()?;
        Ok(self.keys.lock().unwrap().clone())
    }

    async fn revoke(
        &self,
        _ctx: &Context,
        id: KeyId,
        at: Timestamp,
    ) -> Result<Option<ServiceKey>, StoreError> {
        self.reach()?;
        let mut keys = self.keys.lock().unwrap();
        let Some(key) = keys.iter_mut().find(|key| key.id == id) else {
            return Ok(None);
        };
        key.revoked_at.get_or_insert(at);
        let kind = RevocationKind::Key;
        let row = Revocation {
            kind,
            id: id.uuid(),
            at,
        };
        self.revoked.lock().unwrap().push(row);
        Ok(Some(key.clone()))
    }
}

#[async_trait::async_trait]
impl sessions::Store for Fake {
    async fn create(&self, _: &SessionRecord, _: u32) -> Result<(), sessions::Error> {
        Ok(())
    }

    async fn find(&self, _: &[u8; 32], _: Timestamp) -> Result<Option<SessionRecord>, StoreError> {
        Ok(None)
    }

    async fn list(
        &self,
        _: UserId,
        _: &Page<(Timestamp, SessionId)>,
        _: Timestamp,
    ) -> Result<Option<Vec<SessionRecord>>, StoreError> {
        Ok(None)
    }

    async fn rotate(
        &self,
        _: SessionId,
        _: &SessionRecord,
        _: Timestamp,
    ) -> Result<(), sessions::Error> {
        Err(sessions::Error::NotValid)
    }

    async fn revoke(&self, _: UserId, _: SessionId, _: Timestamp) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn revoke_all(&self, _: UserId, _: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn touch(
        &self,
        _: SessionId,
        _: UserId,
        _: Timestamp,
        _: Timestamp,
    ) -> Result<(), StoreError> {
        Ok(())
    }

    async fn revocations(&self, since: Timestamp, _: u32) -> Result<Vec<Revocation>, StoreError> {
        self.reach()?;
        let rows = self.revoked.lock().unwrap();
        Ok(rows.iter().filter(|row| row.at >= since).cloned().collect())
    }

    async fn purge(&self, _: Timestamp, _: Timestamp, _: u32) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn count(&self, _: Timestamp) -> Result<i64, StoreError> {
        Ok(0)
    }
}

const ADMIN_KEY: &str = "correct horse battery staple, twice";

struct World {
    store: Arc<Fake>,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> Self {
        Self {
            store: Arc::default(),
            clock: Arc::new(ManualClock::at(Timestamp::from_micros(
                1_790_000_000_000_000,
            ))),
        }
    }

    fn service(&self) -> Service {
        let clock: SharedClock = self.clock.clone();
        let cache = Cache::new(None, Arc::clone(&clock), CacheConfig::default(), false);
        let revocations = Revocations::new(self.store.clone(), Arc::clone(&clock));
        let admin = *TokenHash::of(ADMIN_KEY).as_bytes();
        Service::new(self.store.clone(), cache, clock, Some(admin), revocations)
    }
}

fn ctx() -> Context {
    Context::system("test")
}

#[tokio::test]
async fn a_key_is_known_by_its_token_with_each_scope_once() {
    let world = World::new();
    let service = world.service();
    let scopes = [Scope::Money, Scope::Read, Scope::Money];
    let made = service.create(&ctx(), "shop", &scopes).await.unwrap();
    assert!(made.token.starts_with("abk_"));
    let known = service.authenticate(&made.token).await.unwrap();
    assert_eq!(
        (known.id, known.owner.as_str()),
        (Some(made.key.id), "shop")
    );
    assert_eq!(known.scopes, [Scope::Read, Scope::Money]);
    let stored = serde_json::to_string(&service.list().await.unwrap()).unwrap();
    assert!(!stored.contains(&made.token));
    for wrong in [
        "",
        "abk_",
        &made.token.replacen("abk_", "abs_", 1),
        &made.token[1..],
    ] {
        assert!(
            matches!(service.authenticate(wrong).await, Err(Error::NotValid)),
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn the_key_of_the_configuration_has_all_scopes_and_needs_no_store() {
    let world = World::new();
    world.store.away.store(true, Ordering::SeqCst);
    let service = world.service();
    let admin = service.authenticate(ADMIN_KEY).await.unwrap();
    assert_eq!((admin.id, admin.owner.as_str()), (None, "admin"));
    assert_eq!(admin.scopes, Scope::ALL);
    let wrong = service
        .authenticate("correct horse battery staple, once")
        .await;
    assert!(matches!(wrong, Err(Error::NotValid)));
}

#[tokio::test]
async fn a_revoked_key_is_refused_here_at_once_and_elsewhere_within_a_second() {
    let world = World::new();
    let (a, b) = (world.service(), world.service());
    let made = a.create(&ctx(), "shop", &[Scope::Read]).await.unwrap();
    for service in [&a, &b] {
        service.authenticate(&made.token).await.unwrap();
    }
    a.revoke(&ctx(), made.key.id).await.unwrap();
    assert!(matches!(
        a.authenticate(&made.token).await,
        Err(Error::NotValid)
    ));
    world.clock.advance(Duration::from_secs(1));
    assert!(matches!(
        b.authenticate(&made.token).await,
        Err(Error::NotValid)
    ));
    // Long after, when nobody remembers the revocation, the store does.
    world.clock.advance(Duration::from_secs(3_600));
    assert!(matches!(
        b.authenticate(&made.token).await,
        Err(Error::NotValid)
    ));
    let unknown = KeyId(uuid::Uuid::from_u128(1));
    assert!(matches!(
        a.revoke(&ctx(), unknown).await,
        Err(Error::NotFound)
    ));
}

#[tokio::test]
async fn while_the_store_is_away_copies_answer_for_ten_minutes() {
    let world = World::new();
    let service = world.service();
    let known = service
        .create(&ctx(), "shop", &[Scope::Read])
        .await
        .unwrap();
    let unknown = service
        .create(&ctx(), "shop", &[Scope::Read])
        .await
        .unwrap();
    service.authenticate(&known.token).await.unwrap();
    world.store.away.store(true, Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(9 * 60));
    service.authenticate(&known.token).await.unwrap();
    let new = service.authenticate(&unknown.token).await;
    assert!(matches!(
        new,
        Err(Error::Store(StoreError::Unavailable { .. }))
    ));
    world.clock.advance(Duration::from_secs(2 * 60));
    let late = service.authenticate(&known.token).await;
    assert!(matches!(
        late,
        Err(Error::Store(StoreError::Unavailable { .. }))
    ));
}

#[tokio::test]
async fn all_faults_of_a_new_key_are_named() {
    let world = World::new();
    let service = world.service();
    for owner in ["", "two words", "é", &"o".repeat(101)] {
        let Err(Error::Invalid(faults)) = service.create(&ctx(), owner, &[]).await else {
            panic!("{owner} is refused");
        };
        let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/owner", "/scopes"], "{owner}");
    }
}
