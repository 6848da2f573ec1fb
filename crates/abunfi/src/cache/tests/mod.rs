#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use std::sync::Arc;
use tokio::sync::{Notify, broadcast};

mod revalidation;

use super::service::FOLLOW_PATIENCE;
use super::*;
use crate::clock::{ManualClock, SharedClock};
use crate::error::StoreKind;

const TTL: Duration = Duration::from_secs(60);
const KEY: &str = "profile";
/// How long something may take that is to come: longer than any machine is busy.
const PATIENCE: Duration = Duration::from_secs(20);

fn tags() -> Vec<String> {
    vec!["user".to_owned()]
}

/// A value and a lease.
type Entry = (Option<Stored>, Option<LeaseToken>);

/// What an L2 server holds, shared by the instances that reach it.
#[derive(Debug, Default)]
struct Server {
    entries: Mutex<HashMap<String, Entry>>,
    instances: Mutex<Vec<broadcast::Sender<Notice>>>,
}

/// One instance's way to it.
#[derive(Debug)]
struct L2 {
    server: Arc<Server>,
    clock: SharedClock,
    notices: broadcast::Sender<Notice>,
    away: AtomicBool,
    /// The next invalidation waits for this.
    hold_invalidation: Mutex<Option<Arc<Notify>>>,
    flushes: AtomicU64,
}

impl L2 {
    fn new(server: &Arc<Server>, clock: &SharedClock) -> Arc<Self> {
        let notices = broadcast::Sender::new(64);
        server.instances.lock().unwrap().push(notices.clone());
        Arc::new(Self {
            server: Arc::clone(server),
            clock: Arc::clone(clock),
            notices,
            away: AtomicBool::new(false),
            hold_invalidation: Mutex::new(None),
            flushes: AtomicU64::new(0),
        })
    }

    fn reach(&self) -> Result<(), StoreError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(StoreError::unavailable(StoreKind::KeyValue, "away")),
            false => Ok(()),
        }
    }

    fn tell(&self, notice: &Notice) {
        for other in self.server.instances.lock().unwrap().iter() {
            if !other.same_channel(&self.notices) {
                drop(other.send(notice.clone()));
            }
        }
    }
}

#[async_trait]
impl Store for L2 {
    async fn get(&self, key: &str, _tags: &[String]) -> Result<Option<Stored>, StoreError> {
        self.reach()?;
        let entries = self.server.entries.lock().unwrap();
        Ok(entries.get(key).and_then(|entry| entry.0.clone()))
    }

    async fn get_or_lease(
        &self,
        key: &str,
        tags: &[String],
        token: LeaseToken,
        _lease_for: Duration,
    ) -> Result<Lookup, StoreError> {
        self.reach()?;
        let mut entries = self.server.entries.lock().unwrap();
        let entry = entries.entry(key.to_owned()).or_default();
        assert_eq!(tags, super::tests::tags());
        let fresh = |stored: &Stored| self.clock.now() < stored.fresh_until;
        Ok(match (entry.0.clone(), entry.1) {
            (Some(stored), _) if fresh(&stored) => Lookup::Fresh(stored),
            (Some(stored), Some(_)) => Lookup::Stale {
                stored,
                lease: None,
            },
            (None, Some(_)) => Lookup::Busy,
            (stored, None) => {
                entry.1 = Some(token);
                match stored {
                    Some(stored) => Lookup::Stale {
                        stored,
                        lease: Some(token),
                    },
                    None => Lookup::Leased(token),
                }
            }
        })
    }

    async fn fill(
        &self,
        key: &str,
        token: LeaseToken,
        stored: &Stored,
        _keep: Duration,
    ) -> Result<bool, StoreError> {
        self.reach()?;
        let mut entries = self.server.entries.lock().unwrap();
        match entries.get_mut(key) {
            Some(entry) if entry.1 == Some(token) => {
                *entry = (Some(stored.clone()), None);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn release(&self, key: &str, token: LeaseToken) -> Result<(), StoreError> {
        let mut entries = self.server.entries.lock().unwrap();
        if let Some(entry) = entries.get_mut(key)
            && entry.1 == Some(token)
        {
            entry.1 = None;
        }
        Ok(())
    }

    async fn invalidate(&self, keys: &[String], tags: &[String]) -> Result<(), StoreError> {
        let hold = self.hold_invalidation.lock().unwrap().take();
        if let Some(hold) = hold {
            hold.notified().await;
        }
        self.reach()?;
        let mut entries = self.server.entries.lock().unwrap();
        entries.retain(|key, _| !keys.contains(key) && tags.is_empty());
        drop(entries);
        self.tell(&Notice::Invalidated {
            keys: keys.to_vec(),
            tags: tags.to_vec(),
        });
        Ok(())
    }

    async fn flush(&self) -> Result<(), StoreError> {
        self.reach()?;
        self.flushes.fetch_add(1, Ordering::SeqCst);
        self.server.entries.lock().unwrap().clear();
        self.tell(&Notice::Lost);
        Ok(())
    }

    fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }
}

/// An authority with a version, one L2 server, and instances that share both.
struct World {
    clock: Arc<ManualClock>,
    server: Arc<Server>,
    version: Arc<AtomicU64>,
    fetches: Arc<AtomicU64>,
    config: CacheConfig,
}

struct Instance {
    cache: Cache,
    l2: Option<Arc<L2>>,
    version: Arc<AtomicU64>,
    fetches: Arc<AtomicU64>,
}

impl World {
    fn new() -> Self {
        let start = Timestamp::from_micros(1_790_000_000_000_000);
        Self {
            clock: Arc::new(ManualClock::at(start)),
            server: Arc::default(),
            version: Arc::new(AtomicU64::new(1)),
            fetches: Arc::default(),
            config: CacheConfig::default(),
        }
    }

    /// With another time that a read waits for the stores while there is an older copy. The clock that this
    /// is measured by is the machine's.
    fn with_soft_timeout(millis: u64) -> Self {
        let mut world = Self::new();
        world.config.soft_timeout_ms = millis;
        world
    }

    /// Waits until nothing is left in L2: until it was told what it could not be told before.
    async fn l2_is_empty(&self) {
        let end = std::time::Instant::now() + PATIENCE;
        while !self.server.entries.lock().unwrap().is_empty() {
            assert!(std::time::Instant::now() < end, "L2 is not told");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn alone(&self) -> Instance {
        self.instance(None, false)
    }

    fn with_l2(&self) -> Instance {
        let clock: SharedClock = self.clock.clone();
        self.instance(Some(L2::new(&self.server, &clock)), true)
    }

    fn instance(&self, l2: Option<Arc<L2>>, shared: bool) -> Instance {
        let store = l2.clone().map(|l2| -> Arc<dyn Store> { l2 });
        Instance {
            cache: Cache::new(store, self.clock.clone(), self.config.clone(), shared),
            l2,
            version: Arc::clone(&self.version),
            fetches: Arc::clone(&self.fetches),
        }
    }
}

impl Instance {
    /// What a caller sees: version and where it came from.
    async fn read(&self) -> (u64, Hit) {
        let cached = self.try_read(async { Ok(()) }).await.unwrap();
        (*cached.value, cached.hit)
    }

    async fn read_while_away(&self) -> Result<(u64, Hit), ()> {
        let cached = self.try_read(async { Err(()) }).await?;
        Ok((*cached.value, cached.hit))
    }

    /// Reads the version, then waits for `after`, like a slow answer.
    async fn try_read(
        &self,
        after: impl Future<Output = Result<(), ()>> + Send,
    ) -> Result<Cached<Arc<u64>>, ()> {
        let fetch = async {
            let read = self.version.load(Ordering::SeqCst);
            self.fetches.fetch_add(1, Ordering::SeqCst);
            after.await.map(|()| read)
        };
        let stale_on = |_: &()| true;
        self.cache
            .get_or_fetch(KEY, &tags(), TTL, stale_on, fetch)
            .await
    }

    /// Commits a new version and tells the cache.
    async fn write(&self) -> u64 {
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        self.cache.invalidate(&[], &tags()).await;
        version
    }
}

/// A load that has read the old version and waits.
async fn slow_load(
    instance: &Arc<Instance>,
) -> (Arc<Notify>, tokio::task::JoinHandle<Cached<Arc<u64>>>) {
    let (go, began) = (
        Arc::new(Notify::new()),
        instance.fetches.load(Ordering::SeqCst),
    );
    let load = tokio::spawn({
        let (instance, go) = (Arc::clone(instance), Arc::clone(&go));
        async move {
            let wait = async {
                go.notified().await;
                Ok(())
            };
            instance.try_read(wait).await.unwrap()
        }
    });
    while instance.fetches.load(Ordering::SeqCst) == began {
        tokio::task::yield_now().await;
    }
    (go, load)
}

#[tokio::test]
async fn a_hit_gives_the_same_value_without_fetching() {
    let instance = World::new().alone();
    assert_eq!(instance.read().await, (1, Hit::Fetched));
    assert_eq!(instance.read().await, (1, Hit::L1));
    instance.version.store(7, Ordering::SeqCst);
    assert_eq!(instance.read().await, (1, Hit::L1));
    instance.cache.invalidate(&[KEY.to_owned()], &[]).await;
    assert_eq!(instance.read().await, (7, Hit::Fetched));
    let stats = instance.cache.stats();
    assert_eq!((stats.l1_hits, stats.misses, stats.l1_entries), (2, 2, 1));
    assert!(stats.l1_bytes > 0);
}

#[tokio::test]
async fn an_invalidation_voids_the_load_that_began_before_it() {
    for by_key in [true, false] {
        let instance = Arc::new(World::new().alone());
        let (go, load) = slow_load(&instance).await;
        instance.version.store(2, Ordering::SeqCst);
        match by_key {
            true => instance.cache.invalidate(&[KEY.to_owned()], &[]).await,
            false => instance.cache.invalidate(&[], &tags()).await,
        }
        go.notify_one();
        assert_eq!(*load.await.unwrap().value, 1, "it began before the write");
        assert_eq!(instance.read().await, (2, Hit::Fetched), "by key: {by_key}");
    }
}

#[tokio::test]
async fn who_asks_after_an_invalidation_does_not_wait_for_the_load_that_it_voided() {
    let instance = Arc::new(World::new().alone());
    let (go, old) = slow_load(&instance).await;
    instance.write().await;
    // Who follows the voided load gives up after that long, and then loads as well.
    let read = tokio::time::timeout(FOLLOW_PATIENCE, instance.read()).await;
    assert_eq!(read.unwrap(), (2, Hit::Fetched), "without waiting");
    go.notify_one();
    assert_eq!(*old.await.unwrap().value, 1);
    assert_eq!(
        instance.read().await,
        (2, Hit::L1),
        "and it does not overwrite"
    );
}

#[tokio::test]
async fn callers_at_once_are_one_fetch() {
    let instance = Arc::new(World::new().alone());
    let (go, first) = slow_load(&instance).await;
    let others: Vec<_> = (0..16)
        .map(|_| {
            let instance = Arc::clone(&instance);
            tokio::spawn(async move { instance.read().await })
        })
        .collect();
    tokio::task::yield_now().await;
    go.notify_one();
    assert_eq!(first.await.unwrap().hit, Hit::Fetched);
    for other in others {
        assert_eq!(other.await.unwrap().0, 1);
    }
    assert_eq!(instance.fetches.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn when_the_one_who_loads_goes_away_another_one_loads() {
    let instance = Arc::new(World::new().alone());
    let (_go, first) = slow_load(&instance).await;
    let second = tokio::spawn({
        let instance = Arc::clone(&instance);
        async move { instance.read().await }
    });
    tokio::task::yield_now().await;
    first.abort();
    assert_eq!(second.await.unwrap(), (1, Hit::Fetched));
    assert_eq!(instance.read().await, (1, Hit::L1));
}

#[tokio::test]
async fn an_error_is_not_cached_and_gives_way_to_an_older_copy_within_bounds() {
    let world = World::new();
    let instance = world.alone();
    assert_eq!(instance.read_while_away().await, Err(()));
    assert_eq!(instance.read().await, (1, Hit::Fetched));
    world.clock.advance(TTL * 2);
    assert_eq!(instance.read_while_away().await, Ok((1, Hit::Stale)));
    let known = instance.cache.last_known::<u64>(KEY, &tags()).await;
    assert_eq!(known.unwrap().age, TTL * 2);
    world.clock.advance(Duration::from_secs(3_600));
    assert_eq!(instance.read_while_away().await, Err(()));
}

#[tokio::test]
async fn what_was_invalidated_never_stands_in() {
    let world = World::new();
    for instance in [world.alone(), world.with_l2()] {
        instance.read().await;
        instance.write().await;
        assert_eq!(instance.read_while_away().await, Err(()));
        assert!(
            instance
                .cache
                .last_known::<u64>(KEY, &tags())
                .await
                .is_none()
        );
    }
}

#[tokio::test]
async fn a_value_runs_out_near_its_time() {
    let world = World::new();
    let instance = world.alone();
    instance.read().await;
    world.clock.advance(TTL * 89 / 100);
    assert_eq!(instance.read().await.1, Hit::L1);
    world.clock.advance(TTL * 22 / 100);
    assert_eq!(instance.read().await.1, Hit::Fetched);
}

#[tokio::test]
async fn memory_is_bounded_by_bytes() {
    let world = World::new();
    let config = CacheConfig {
        l1_max_bytes: 100_000,
        ..CacheConfig::default()
    };
    let cache = Cache::new(None, world.clock.clone(), config, false);
    for n in 0..1_000 {
        let value = async { Ok::<_, ()>("x".repeat(1_000)) };
        cache
            .get_or_fetch(&n.to_string(), &[], TTL, |_| false, value)
            .await
            .unwrap();
    }
    let stats = cache.stats();
    assert!(
        stats.l1_bytes <= 100_000 && stats.l1_entries > 20,
        "{stats:?}"
    );
}

#[tokio::test]
async fn another_instance_is_served_by_l2_and_where_others_write_l1_is_brief() {
    let world = World::new();
    let (a, b) = (world.with_l2(), world.with_l2());
    assert_eq!(a.read().await, (1, Hit::Fetched));
    assert_eq!(b.read().await, (1, Hit::L2));
    assert_eq!(b.read().await, (1, Hit::L1));
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(b.read().await, (1, Hit::L2));
}

#[tokio::test]
async fn an_invalidation_by_another_instance_voids_the_fill_of_l1_and_l2() {
    let world = World::new();
    let (a, b) = (Arc::new(world.with_l2()), world.with_l2());
    let (go, load) = slow_load(&a).await;
    b.write().await;
    go.notify_one();
    load.await.unwrap();
    // The notice is on its way; L2 refuses the fill whatever becomes of it.
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(b.read().await, (2, Hit::Fetched));
    assert_eq!(a.read().await, (2, Hit::L2));
}

#[tokio::test]
async fn instances_at_once_are_one_fetch() {
    let world = World::new();
    let (a, b) = (Arc::new(world.with_l2()), Arc::new(world.with_l2()));
    let (go, first) = slow_load(&a).await;
    let second = tokio::spawn(async move { b.read().await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    go.notify_one();
    first.await.unwrap();
    assert_eq!(second.await.unwrap(), (1, Hit::L2));
    assert_eq!(world.fetches.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_lease_whose_owner_went_away_is_given_back() {
    let world = World::new();
    let (a, b) = (Arc::new(world.with_l2()), world.with_l2());
    let (_go, first) = slow_load(&a).await;
    first.abort();
    drop(first.await);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(b.read().await, (1, Hit::Fetched));
    assert_eq!(a.read().await, (1, Hit::L2));
}

#[tokio::test]
async fn what_l2_could_not_be_told_does_not_come_back() {
    let world = World::new();
    let a = world.with_l2();
    a.read().await;
    let l2 = a.l2.as_ref().unwrap();
    l2.away.store(true, Ordering::SeqCst);
    assert_eq!(a.write().await, 2);
    assert_eq!(a.read().await, (2, Hit::Fetched));
    // L2 is back, with the old value. The clock has moved on, so L1 does not answer.
    l2.away.store(false, Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(a.read().await, (2, Hit::Fetched), "round L2");
    world.l2_is_empty().await;
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(
        a.read().await,
        (2, Hit::Fetched),
        "L2 was told, and is empty"
    );
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(a.read().await, (2, Hit::L2), "and is used again");
}

#[tokio::test]
async fn while_l2_is_being_told_readers_go_round_it() {
    let world = World::new();
    let a = Arc::new(world.with_l2());
    a.read().await;
    let hold = Arc::new(Notify::new());
    let l2 = a.l2.as_ref().unwrap();
    *l2.hold_invalidation.lock().unwrap() = Some(Arc::clone(&hold));
    let writer = tokio::spawn({
        let a = Arc::clone(&a);
        async move { a.write().await }
    });
    tokio::task::yield_now().await;
    assert_eq!(a.read().await, (2, Hit::Fetched));
    hold.notify_one();
    writer.await.unwrap();
    assert_eq!(a.read().await.0, 2);
}

#[tokio::test]
async fn l2_is_told_even_if_the_writer_goes_away_meanwhile() {
    let world = World::new();
    let (a, b) = (Arc::new(world.with_l2()), world.with_l2());
    a.read().await;
    let l2 = a.l2.as_ref().unwrap();
    *l2.hold_invalidation.lock().unwrap() = Some(Arc::default());
    let writer = tokio::spawn({
        let a = Arc::clone(&a);
        async move { a.write().await }
    });
    tokio::task::yield_now().await;
    writer.abort();
    world.l2_is_empty().await;
    assert_eq!(b.read().await, (2, Hit::Fetched));
}

#[tokio::test]
async fn too_much_to_tell_empties_l2() {
    let world = World::new();
    let a = world.with_l2();
    a.read().await;
    let l2 = a.l2.as_ref().unwrap();
    l2.away.store(true, Ordering::SeqCst);
    let many: Vec<String> = (0..6_000).map(|n| n.to_string()).collect();
    a.cache.invalidate(&many, &[]).await;
    let more: Vec<String> = many.iter().map(|n| format!("more {n}")).collect();
    a.cache.invalidate(&more, &[]).await;
    l2.away.store(false, Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(
        a.read().await,
        (1, Hit::Fetched),
        "nothing in L2 is trusted"
    );
    world.l2_is_empty().await;
    // And not again.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(l2.flushes.load(Ordering::SeqCst), 1);
    assert!(l2.server.entries.lock().unwrap().is_empty());
}

#[tokio::test]
async fn after_lost_notices_nothing_counts_as_fresh_but_all_may_stand_in() {
    let world = World::new();
    let a = world.with_l2();
    a.read().await;
    drop(a.l2.as_ref().unwrap().notices.send(Notice::Lost));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(a.read().await, (1, Hit::L2), "L1 does not answer");
    drop(a.l2.as_ref().unwrap().notices.send(Notice::Lost));
    tokio::time::sleep(Duration::from_millis(20)).await;
    a.l2.as_ref().unwrap().away.store(true, Ordering::SeqCst);
    assert_eq!(a.read_while_away().await, Ok((1, Hit::Stale)));
}

#[tokio::test]
async fn a_value_of_another_shape_is_a_miss() {
    let instance = World::new().with_l2();
    instance.read().await;
    let other = instance
        .cache
        .get_or_fetch(KEY, &tags(), TTL, |()| false, async {
            Ok("text".to_owned())
        })
        .await
        .unwrap();
    assert_eq!((other.value.as_str(), other.hit), ("text", Hit::Fetched));
}

/// Whatever the interleaving: who reads after a write was answered, on the instance that answered it, sees
/// it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_and_readers_at_once_never_read_behind_a_write_that_was_answered() {
    let world = World::new();
    let (a, b) = (Arc::new(world.with_l2()), Arc::new(world.with_l2()));
    let mut tasks = Vec::new();
    for instance in [&a, &b] {
        let answered = Arc::new(AtomicU64::new(0));
        for task in 0..8 {
            let (instance, answered) = (Arc::clone(instance), Arc::clone(&answered));
            tasks.push(tokio::spawn(async move {
                for _ in 0..300 {
                    if task < 2 {
                        let version = instance.write().await;
                        answered.fetch_max(version, Ordering::SeqCst);
                    }
                    let before = answered.load(Ordering::SeqCst);
                    let slow = async {
                        tokio::task::yield_now().await;
                        Ok(())
                    };
                    let seen = *instance.try_read(slow).await.unwrap().value;
                    assert!(seen >= before, "read {seen} after {before} was answered");
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(
        world.version.load(Ordering::SeqCst) > 1_000,
        "enough was written"
    );
    let hits = a.cache.stats().l1_hits + a.cache.stats().l2_hits;
    assert!(hits > 0, "and something was cached");
}
