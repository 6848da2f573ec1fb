#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::*;
use crate::cache::{Cache, CacheConfig};
use crate::clock::{Clock, ManualClock, SharedClock};
use crate::error::{StoreError, StoreKind};
use crate::ledger::Page;

/// A relational store with one user, that can be taken away.
#[derive(Debug, Default)]
struct Fake {
    rows: Mutex<Vec<SessionRecord>>,
    revoked: Mutex<Vec<Revocation>>,
    away: AtomicBool,
    finds: AtomicU64,
    touches: AtomicU64,
}

impl Fake {
    fn reach(&self) -> Result<(), StoreError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(StoreError::unavailable(StoreKind::Relational, "away")),
            false => Ok(()),
        }
    }

    fn revoke_row(&self, kind: RevocationKind, id: uuid::Uuid, at: Timestamp) {
        self.revoked
            .lock()
            .unwrap()
            .push(Revocation { kind, id, at });
    }
}

#[async_trait]
impl Store for Fake {
    async fn create(&self, session: &SessionRecord, _bound: u32) -> Result<(), Error> {
        self.reach()?;
        self.rows.lock().unwrap().push(session.clone());
        Ok(())
    }

    async fn find(
        &self,
        token_hash: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<SessionRecord>, StoreError> {
        self.reach()?;
        self.finds.fetch_add(1, Ordering::SeqCst);
        let rows = self.rows.lock().unwrap();
        let live = |row: &&SessionRecord| {
            row.token_hash == *token_hash && now < row.expires_at && now < row.idle_expires_at
        };
        Ok(rows.iter().find(live).cloned())
    }

    async fn list(
        &self,
        user_id: UserId,
        _page: &Page<(Timestamp, SessionId)>,
        _now: Timestamp,
    ) -> Result<Option<Vec<SessionRecord>>, StoreError> {
        self.reach()?;
        let all = self.rows.lock().unwrap().clone();
        Ok((user_id == user()).then_some(all))
    }

    async fn rotate(
        &self,
        old: SessionId,
        new: &SessionRecord,
        now: Timestamp,
    ) -> Result<(), Error> {
        if !self.revoke(new.user_id, old, now).await? {
            return Err(Error::NotValid);
        }
        self.rows.lock().unwrap().push(new.clone());
        Ok(())
    }

    async fn revoke(
        &self,
        _user_id: UserId,
        id: SessionId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.reach()?;
        let mut rows = self.rows.lock().unwrap();
        let before = rows.len();
        rows.retain(|row| row.id != id);
        self.revoke_row(RevocationKind::Session, id.uuid(), now);
        Ok(rows.len() < before)
    }

    async fn revoke_all(&self, user_id: UserId, now: Timestamp) -> Result<u64, StoreError> {
        self.reach()?;
        let ended = self.rows.lock().unwrap().drain(..).count();
        self.revoke_row(RevocationKind::User, user_id.uuid(), now);
        Ok(u64::try_from(ended).unwrap())
    }

    async fn touch(
        &self,
        id: SessionId,
        _user_id: UserId,
        last_seen_at: Timestamp,
        idle_expires_at: Timestamp,
    ) -> Result<(), StoreError> {
        self.reach()?;
        let mut rows = self.rows.lock().unwrap();
        for row in rows.iter_mut().filter(|row| row.id == id) {
            row.last_seen_at = last_seen_at;
            row.idle_expires_at = idle_expires_at;
        }
        self.touches.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn revocations(
        &self,
        since: Timestamp,
        _limit: u32,
    ) -> Result<Vec<Revocation>, StoreError> {
        self.reach()?;
        let rows = self.revoked.lock().unwrap();
        Ok(rows.iter().filter(|row| row.at >= since).cloned().collect())
    }

    async fn purge(
        &self,
        _now: Timestamp,
        _revoked_before: Timestamp,
        _limit: u32,
    ) -> Result<u64, StoreError> {
        self.reach().map(|()| 0)
    }

    async fn count(&self, _now: Timestamp) -> Result<i64, StoreError> {
        Ok(i64::try_from(self.rows.lock().unwrap().len()).unwrap())
    }
}

fn user() -> UserId {
    UserId(uuid::Uuid::from_u128(1))
}

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

    /// One instance of the platform.
    fn service(&self) -> Service {
        let clock: SharedClock = self.clock.clone();
        let cache = Cache::new(None, Arc::clone(&clock), CacheConfig::default(), false);
        let revocations = Revocations::new(self.store.clone(), Arc::clone(&clock));
        let policy = SessionPolicy {
            idle_ttl_seconds: 3_600,
            ..SessionPolicy::default()
        };
        Service::new(self.store.clone(), cache, clock, policy, revocations)
    }

    async fn away(&self, after: Duration) {
        self.store.away.store(true, Ordering::SeqCst);
        self.clock.advance(after);
    }
}

async fn login(service: &Service) -> (String, Session) {
    service.create(user(), NewSession::default()).await.unwrap()
}

fn is_refused(result: &Result<SessionRecord, Error>) -> bool {
    matches!(result, Err(Error::NotValid))
}

#[tokio::test]
async fn a_session_is_known_by_its_token_and_served_from_a_copy() {
    let world = World::new();
    let service = world.service();
    let (token, session) = login(&service).await;
    assert!(token.starts_with("abs_") && token.len() == 47);
    let shown = serde_json::to_string(&session).unwrap();
    assert!(!shown.contains(&token) && !shown.contains("hash"));
    for _ in 0..10 {
        let record = service.authenticate(&token).await.unwrap();
        assert_eq!((record.id, record.user_id), (session.id, user()));
    }
    assert_eq!(world.store.finds.load(Ordering::SeqCst), 1);
    for wrong in ["", "abs_", &token.replacen("abs_", "abk_", 1), &token[1..]] {
        assert!(is_refused(&service.authenticate(wrong).await), "{wrong}");
    }
}

#[tokio::test]
async fn it_ends_when_idle_and_at_its_time_whatever_happens() {
    let world = World::new();
    let service = world.service();
    let (idle, _) = login(&service).await;
    let brief = NewSession {
        ttl: Some(Duration::from_secs(7_200)),
        ..NewSession::default()
    };
    let (busy, _) = service.create(user(), brief).await.unwrap();
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(1_800));
        let record = service.authenticate(&busy).await.unwrap();
        assert_eq!(
            record.last_seen_at,
            world.clock.now(),
            "it counts as activity"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(is_refused(&service.authenticate(&idle).await));
    world.clock.advance(Duration::from_secs(1_800));
    assert!(is_refused(&service.authenticate(&busy).await));
}

#[tokio::test]
async fn activity_is_written_once_a_minute() {
    let world = World::new();
    let service = world.service();
    let (token, _) = login(&service).await;
    for _ in 0..24 {
        service.authenticate(&token).await.unwrap();
        world.clock.advance(Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let written = world.store.touches.load(Ordering::SeqCst);
    assert!(
        (3..=4).contains(&written),
        "{written} times in four minutes"
    );
}

#[tokio::test]
async fn a_copy_that_knows_of_no_activity_does_not_end_a_session() {
    let world = World::new();
    let service = world.service();
    let (token, session) = login(&service).await;
    world.clock.advance(Duration::from_secs(3_590));
    service.authenticate(&token).await.unwrap();
    // Another instance writes activity; this one's copy is from before.
    let (seen, idle) = (
        world.clock.now(),
        world.clock.now().plus(Duration::from_secs(3_600)),
    );
    world
        .store
        .touch(session.id, user(), seen, idle)
        .await
        .unwrap();
    world.clock.advance(Duration::from_secs(20));
    service.authenticate(&token).await.unwrap();
}

#[tokio::test]
async fn what_one_instance_revokes_every_instance_refuses_within_a_second() {
    let world = World::new();
    let (a, b) = (world.service(), world.service());
    let (one, session) = login(&a).await;
    let (two, _) = login(&a).await;
    for token in [&one, &two] {
        a.authenticate(token).await.unwrap();
        b.authenticate(token).await.unwrap();
    }
    world.clock.advance(Duration::from_micros(1));
    a.revoke(user(), session.id).await.unwrap();
    assert!(is_refused(&a.authenticate(&one).await), "here at once");
    a.authenticate(&two).await.unwrap();
    // No background task runs here: the request itself sees that what it knows is too old.
    world.clock.advance(Duration::from_secs(1));
    assert!(is_refused(&b.authenticate(&one).await));
    b.authenticate(&two).await.unwrap();
    a.revoke_all(user()).await.unwrap();
    assert!(is_refused(&a.authenticate(&two).await));
    b.refresh_revocations().await.unwrap();
    assert!(is_refused(&b.authenticate(&two).await));
    world.clock.advance(Duration::from_micros(1));
    let (again, _) = login(&a).await;
    b.authenticate(&again).await.unwrap();
}

#[tokio::test]
async fn sessions_of_a_user_who_was_suspended_end_although_copies_say_otherwise() {
    let world = World::new();
    let service = world.service();
    let (token, _) = login(&service).await;
    service.authenticate(&token).await.unwrap();
    world
        .store
        .revoke_row(RevocationKind::User, user().uuid(), world.clock.now());
    world.clock.advance(Duration::from_secs(1));
    assert!(is_refused(&service.authenticate(&token).await));
}

#[tokio::test]
async fn while_the_store_is_away_copies_answer_for_ten_minutes() {
    let world = World::new();
    let service = world.service();
    let (known, _) = login(&service).await;
    let (unknown, _) = login(&service).await;
    service.authenticate(&known).await.unwrap();
    world.away(Duration::from_secs(9 * 60)).await;
    service.authenticate(&known).await.unwrap();
    let new = service.authenticate(&unknown).await;
    assert!(matches!(
        new,
        Err(Error::Store(StoreError::Unavailable { .. }))
    ));
    world.away(Duration::from_secs(2 * 60)).await;
    let late = service.authenticate(&known).await;
    assert!(
        matches!(late, Err(Error::Store(StoreError::Unavailable { .. }))),
        "{late:?}"
    );
    world.store.away.store(false, Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(1));
    service.authenticate(&known).await.unwrap();
}

#[tokio::test]
async fn what_was_revoked_before_the_store_went_away_stays_refused() {
    let world = World::new();
    let (a, b) = (world.service(), world.service());
    let (token, session) = login(&a).await;
    b.authenticate(&token).await.unwrap();
    a.revoke(user(), session.id).await.unwrap();
    b.refresh_revocations().await.unwrap();
    world.away(Duration::from_secs(9 * 60)).await;
    assert!(is_refused(&b.authenticate(&token).await));
}

#[tokio::test]
async fn rotation_gives_a_new_token_for_the_same_life_and_ends_the_old_one() {
    let world = World::new();
    let service = world.service();
    let request = NewSession {
        device: Some("phone".to_owned()),
        ip: Some("2001:DB8::1".to_owned()),
        ttl: None,
    };
    let (old, session) = service.create(user(), request).await.unwrap();
    assert_eq!(session.ip.as_deref(), Some("2001:db8::1"));
    let record = service.authenticate(&old).await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    let (new, rotated) = service.rotate(&record).await.unwrap();
    assert!(rotated.current && rotated.id != session.id);
    assert_eq!(
        (rotated.expires_at, rotated.device),
        (session.expires_at, session.device)
    );
    assert!(is_refused(&service.authenticate(&old).await));
    service.authenticate(&new).await.unwrap();
    assert!(
        matches!(service.rotate(&record).await, Err(Error::NotValid)),
        "once only"
    );
}

#[tokio::test]
async fn all_faults_of_a_request_are_named_and_a_missing_user_is_said() {
    let world = World::new();
    let service = world.service();
    for ttl in [0, 30 * 24 * 3_600 + 1] {
        let request = NewSession {
            device: Some("d".repeat(201)),
            ip: Some("256.0.0.1".to_owned()),
            ttl: Some(Duration::from_secs(ttl)),
        };
        let Err(Error::Invalid(faults)) = service.create(user(), request).await else {
            panic!("it is refused");
        };
        let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.clone()).collect();
        assert_eq!(pointers, ["/device", "/ip", "/ttl"]);
    }
    let nul = NewSession {
        device: Some("a\0b".to_owned()),
        ..NewSession::default()
    };
    assert!(matches!(
        service.create(user(), nul).await,
        Err(Error::Invalid(_))
    ));
    let nobody = UserId(uuid::Uuid::from_u128(2));
    let gone = SessionId(uuid::Uuid::from_u128(3));
    assert!(matches!(
        service.revoke(nobody, gone).await,
        Err(Error::UserNotFound)
    ));
    service.revoke(user(), gone).await.unwrap();
    service.revoke_all(user()).await.unwrap();
}
