//! L2 of the cache, and the whole cache over it: who reads after a write was answered sees it, whatever
//! happens to Redis meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use abunfi::cache::{Cache, CacheConfig, Cached, Hit, Lookup, Notice, Store, Stored};
use abunfi::clock::{Clock, SystemClock};
use abunfi::config::RedisConfig;
use abunfi::stores::redis::RedisStore;
use abunfi_testkit::unique_name;

mod outage;

const LEASE: Duration = Duration::from_secs(5);
const KEEP: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(60);
const KEY: &str = "profile:0198c0de-0000-7000-8000-000000000001";

fn tags() -> Vec<String> {
    vec![
        "user:0198c0de-0000-7000-8000-000000000001".to_owned(),
        "asset:VND".to_owned(),
    ]
}

fn config(prefix: &str) -> RedisConfig {
    RedisConfig {
        key_prefix: format!("{prefix}:"),
        // Tests share two cores: a deadline missed for lack of them would say nothing.
        deadline_ms: 2_000,
        connect_timeout_ms: 10_000,
        ..RedisConfig::default()
    }
}

async fn connect(url: &str, prefix: &str) -> RedisStore {
    RedisStore::connect(url, &config(prefix)).await.unwrap()
}

fn stored(value: &str, fresh_for: Duration) -> Stored {
    let now = SystemClock.now();
    Stored {
        value: value.to_owned(),
        stored_at: now,
        fresh_until: now.plus(fresh_for),
        tags: tags(),
    }
}

/// Takes the lease and fills.
async fn fill(store: &RedisStore, key: &str, value: &Stored) {
    let found = store
        .get_or_lease(key, &tags(), [1; 16], LEASE)
        .await
        .unwrap();
    let (Lookup::Leased(token)
    | Lookup::Stale {
        lease: Some(token), ..
    }) = found
    else {
        panic!("no lease but {found:?}");
    };
    assert!(store.fill(key, token, value, KEEP).await.unwrap());
}

/// Waits for what comes soon, and fails when it does not.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..1_200 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what}: not within thirty seconds");
}

/// What L2 promises, on a server of any form.
async fn keeps_its_promises(store: &RedisStore) {
    leases_go_to_one(store).await;
    invalidations_void_values_and_leases(store).await;
    stale_values_are_refreshed_by_one(store).await;
    everything_can_be_dropped(store).await;
}

async fn leases_go_to_one(store: &RedisStore) {
    let look = |token: u8| store.get_or_lease("leases", &[], [token; 16], LEASE);
    assert_eq!(look(1).await.unwrap(), Lookup::Leased([1; 16]));
    assert_eq!(look(2).await.unwrap(), Lookup::Busy);
    let value = Stored {
        tags: Vec::new(),
        ..stored("{\"a\":1.10}", TTL)
    };
    assert!(!store.fill("leases", [2; 16], &value, KEEP).await.unwrap());
    store.release("leases", [2; 16]).await.unwrap();
    assert_eq!(
        look(2).await.unwrap(),
        Lookup::Busy,
        "not one's own to give back"
    );
    store.release("leases", [1; 16]).await.unwrap();
    assert!(!store.fill("leases", [1; 16], &value, KEEP).await.unwrap());
    assert_eq!(look(2).await.unwrap(), Lookup::Leased([2; 16]));
    assert!(store.fill("leases", [2; 16], &value, KEEP).await.unwrap());
    assert_eq!(look(3).await.unwrap(), Lookup::Fresh(value.clone()));
    assert_eq!(store.get("leases", &[]).await.unwrap(), Some(value));
    assert_eq!(store.get("another", &[]).await.unwrap(), None);
    let brief = Duration::from_millis(50);
    let taken = store
        .get_or_lease("brief", &[], [1; 16], brief)
        .await
        .unwrap();
    assert_eq!(taken, Lookup::Leased([1; 16]));
    tokio::time::sleep(brief * 2).await;
    let again = store
        .get_or_lease("brief", &[], [2; 16], brief)
        .await
        .unwrap();
    assert_eq!(again, Lookup::Leased([2; 16]), "a lease runs out");
}

async fn invalidations_void_values_and_leases(store: &RedisStore) {
    let all = tags();
    let by_key = (vec![KEY.to_owned()], Vec::new());
    let by_first = (Vec::new(), vec![all[0].clone()]);
    let by_second = (Vec::new(), vec![all[1].clone()]);
    for (keys, tags) in [by_key, by_first, by_second] {
        fill(store, KEY, &stored("1", TTL)).await;
        store.invalidate(&keys, &tags).await.unwrap();
        assert_eq!(store.get(KEY, &all).await.unwrap(), None);
        // The race: leased before, filled after.
        let leased = store.get_or_lease(KEY, &all, [7; 16], LEASE).await.unwrap();
        assert_eq!(leased, Lookup::Leased([7; 16]));
        store.invalidate(&keys, &tags).await.unwrap();
        store
            .fill(KEY, [7; 16], &stored("old", TTL), KEEP)
            .await
            .unwrap();
        assert_eq!(
            store.get(KEY, &all).await.unwrap(),
            None,
            "{keys:?} {tags:?}"
        );
        // And nobody is kept waiting by the lease that was voided.
        let next = store.get_or_lease(KEY, &all, [8; 16], LEASE).await.unwrap();
        assert_eq!(next, Lookup::Leased([8; 16]));
        store.release(KEY, [8; 16]).await.unwrap();
    }
    let many: Vec<String> = (0..1_200).map(|n| format!("many:{n}")).collect();
    store.invalidate(&many, &many).await.unwrap();
}

async fn stale_values_are_refreshed_by_one(store: &RedisStore) {
    let brief = Duration::from_millis(40);
    let value = stored("1", brief);
    fill(store, "stale", &value).await;
    tokio::time::sleep(brief * 2).await;
    let look = |token: u8| async move {
        store
            .get_or_lease("stale", &tags(), [token; 16], LEASE)
            .await
            .unwrap()
    };
    let one = Lookup::Stale {
        stored: value.clone(),
        lease: Some([1; 16]),
    };
    assert_eq!(look(1).await, one);
    let other = Lookup::Stale {
        stored: value.clone(),
        lease: None,
    };
    assert_eq!(look(2).await, other);
    assert_eq!(store.get("stale", &tags()).await.unwrap(), Some(value));
    assert!(
        store
            .fill("stale", [1; 16], &stored("2", TTL), KEEP)
            .await
            .unwrap()
    );
    assert!(matches!(look(3).await, Lookup::Fresh(Stored { value, .. }) if value == "2"));
}

async fn everything_can_be_dropped(store: &RedisStore) {
    fill(store, KEY, &stored("1", TTL)).await;
    let leased = store
        .get_or_lease("leased", &tags(), [1; 16], LEASE)
        .await
        .unwrap();
    assert_eq!(leased, Lookup::Leased([1; 16]));
    store.flush().await.unwrap();
    assert_eq!(store.get(KEY, &tags()).await.unwrap(), None);
    store
        .fill("leased", [1; 16], &stored("1", TTL), KEEP)
        .await
        .unwrap();
    assert_eq!(store.get("leased", &tags()).await.unwrap(), None);
}

/// An authority with a version, and an instance of the platform's cache.
struct Instance {
    cache: Cache,
    version: Arc<AtomicU64>,
}

impl Instance {
    async fn new(url: &str, prefix: &str, version: &Arc<AtomicU64>) -> Self {
        Self::over(&connect(url, prefix).await, version)
    }

    fn over(store: &RedisStore, version: &Arc<AtomicU64>) -> Self {
        let l2: Option<Arc<dyn Store>> = Some(Arc::new(store.clone()));
        let config = CacheConfig {
            // Only notices and notes keep L1 right here.
            l1_shared_ttl_ms: 60_000,
            ..CacheConfig::default()
        };
        Self {
            cache: Cache::new(l2, Arc::new(SystemClock), config, true),
            version: Arc::clone(version),
        }
    }

    async fn read(&self) -> (u64, Hit) {
        let fetch = async {
            let read = self.version.load(Ordering::SeqCst);
            tokio::task::yield_now().await;
            Ok::<_, ()>(read)
        };
        let Cached { value, hit, .. } = self
            .cache
            .get_or_fetch(KEY, &tags(), TTL, |()| false, fetch)
            .await
            .unwrap();
        (*value, hit)
    }

    async fn write(&self) -> u64 {
        let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
        self.cache.invalidate(&[], &tags()[..1]).await;
        version
    }
}

/// Two instances write and read at once. Nobody reads behind what its own instance answered; and in the
/// end, within a second, nobody reads behind anyone.
async fn nobody_reads_behind(url: &str, prefix: &str, rounds: usize) {
    let version = Arc::new(AtomicU64::new(1));
    let a = Arc::new(Instance::new(url, prefix, &version).await);
    let b = Arc::new(Instance::new(url, prefix, &version).await);
    let mut tasks = Vec::new();
    for instance in [&a, &b] {
        let answered = Arc::new(AtomicU64::new(0));
        for task in 0..6 {
            let (instance, answered) = (Arc::clone(instance), Arc::clone(&answered));
            tasks.push(tokio::spawn(async move {
                for _ in 0..rounds {
                    if task == 0 {
                        answered.fetch_max(instance.write().await, Ordering::SeqCst);
                    }
                    let before = answered.load(Ordering::SeqCst);
                    let (seen, _) = instance.read().await;
                    assert!(seen >= before, "read {seen} after {before} was answered");
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let last = version.load(Ordering::SeqCst);
    assert!(last > u64::try_from(rounds).unwrap(), "enough was written");
    tokio::time::sleep(Duration::from_secs(1)).await;
    for instance in [&a, &b] {
        assert_eq!(instance.read().await.0, last);
        let stats = instance.cache.stats();
        assert!(
            stats.l1_hits > 0 && stats.l2_hits + stats.misses > 0,
            "{stats:?}"
        );
    }
}

mod redis {
    use super::*;
    use abunfi_testkit::servers;

    #[tokio::test]
    async fn l2_keeps_its_promises() {
        let store = connect(&servers::require_redis_url(), &unique_name()).await;
        keeps_its_promises(&store).await;
        let refused = store
            .get_or_lease(KEY, &tags(), [1; 16], LEASE)
            .await
            .unwrap();
        assert_eq!(refused, Lookup::Leased([1; 16]));
        store.invalidate(&[], &tags()).await.unwrap();
        let filled = store
            .fill(KEY, [1; 16], &stored("1", TTL), KEEP)
            .await
            .unwrap();
        assert!(!filled, "on one server the refusal is told");
    }

    #[tokio::test]
    async fn long_values_are_stored_compressed_and_come_back_the_same() {
        let (url, prefix) = (servers::require_redis_url(), unique_name());
        let store = connect(&url, &prefix).await;
        let long = format!("[{}0]", "\"tiết kiệm\",".repeat(4_000));
        fill(&store, KEY, &stored(&long, TTL)).await;
        let found = store.get(KEY, &tags()).await.unwrap().unwrap();
        assert_eq!(found.value, long);
        let found = store.get_or_lease(KEY, &tags(), [1; 16], LEASE).await;
        assert!(matches!(found.unwrap(), Lookup::Fresh(stored) if stored.value == long));

        let mut client = ::redis::Client::open(url)
            .unwrap()
            .get_connection()
            .unwrap();
        let names: Vec<String> = ::redis::cmd("KEYS")
            .arg(format!("{prefix}:*"))
            .query(&mut client)
            .unwrap();
        let length = |name: &String| {
            let mut length = ::redis::cmd("HSTRLEN");
            let length = length.arg(name).arg("value").query::<usize>(&mut client);
            // Of tags and counters, which are no hashes, there is none.
            length.unwrap_or(0)
        };
        let length = names.iter().map(length).max().unwrap();
        assert!((1..long.len() / 3).contains(&length), "{length}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nobody_reads_behind_a_write_that_was_answered() {
        nobody_reads_behind(&servers::require_redis_url(), &unique_name(), 200).await;
    }

    #[tokio::test]
    async fn other_instances_hear_of_an_invalidation_and_platforms_do_not_meet() {
        let (url, prefix) = (servers::require_redis_url(), unique_name());
        let (a, b) = (connect(&url, &prefix).await, connect(&url, &prefix).await);
        let stranger = connect(&url, &unique_name()).await;
        let (mut own, mut other, mut none) = (a.subscribe(), b.subscribe(), stranger.subscribe());
        a.invalidate(&[KEY.to_owned()], &tags()[..1]).await.unwrap();
        a.flush().await.unwrap();
        let mut heard = Vec::new();
        while heard.last() != Some(&Notice::Lost) {
            heard.push(other.recv().await.unwrap());
        }
        let by_key = Notice::Invalidated {
            keys: vec![KEY.to_owned()],
            tags: Vec::new(),
        };
        let by_tag = Notice::Invalidated {
            keys: Vec::new(),
            tags: tags()[..1].to_vec(),
        };
        assert_eq!(heard, [by_key, by_tag, Notice::Lost]);
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(own.try_recv().is_err(), "one's own are not told");
        assert!(none.try_recv().is_err());
    }
}
