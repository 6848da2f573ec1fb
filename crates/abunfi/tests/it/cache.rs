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
    for _ in 0..400 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what}: not within ten seconds");
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
    use abunfi::error::StoreError;
    use abunfi::rate_limit::Store as _;
    use abunfi_testkit::{OwnRedis, servers};

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

    /// Servers of their own, since they are broken on purpose.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn outage_l2_comes_back_by_itself_and_brings_nothing_back() {
        let mut server = OwnRedis::start().unwrap();
        let version = Arc::new(AtomicU64::new(1));
        let store = connect(&server.url(), "p").await;
        let a = Instance::over(&store, &version);
        assert_eq!(a.read().await, (1, Hit::Fetched));
        let mut client = ::redis::Client::open(server.url())
            .unwrap()
            .get_connection()
            .unwrap();
        // The server will come back with this, the state before the write.
        ::redis::cmd("SAVE").exec(&mut client).unwrap();
        assert_eq!(a.write().await, 2);
        server.kill();
        assert_eq!(a.read().await, (2, Hit::Fetched));
        assert_eq!(a.write().await, 3);
        assert_eq!(a.read().await, (3, Hit::Fetched), "without L2");
        server.start_again().unwrap();
        let mut client = ::redis::Client::open(server.url())
            .unwrap()
            .get_connection()
            .unwrap();
        let keys: u64 = ::redis::cmd("DBSIZE").query(&mut client).unwrap();
        assert!(keys > 0, "the old state is back");
        eventually("the connection is back", async || {
            store.get("x", &[]).await.is_ok()
        })
        .await;
        let b = Instance::over(&store, &version);
        assert_eq!(b.read().await.0, 3, "nothing comes back");
        eventually("L2 serves again", async || {
            a.cache.invalidate(&[], &tags()).await;
            a.read().await;
            Instance::over(&store, &version).read().await == (3, Hit::L2)
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn outage_what_could_not_be_told_is_told_when_the_server_thaws() {
        let server = OwnRedis::start().unwrap();
        let version = Arc::new(AtomicU64::new(1));
        let quick = RedisConfig {
            deadline_ms: 150,
            ..config("p")
        };
        let store = RedisStore::connect(&server.url(), &quick).await.unwrap();
        let a = Instance::over(&store, &version);
        a.read().await;
        server.freeze();
        let began = std::time::Instant::now();
        assert_eq!(a.write().await, 2);
        assert_eq!(a.read().await, (2, Hit::Fetched));
        assert!(began.elapsed() < Duration::from_secs(2), "it does not hang");
        server.thaw();
        eventually("the connection is back", async || {
            store.get("x", &[]).await.is_ok()
        })
        .await;
        eventually("L2 has been told", async || {
            let l2 = store.get(KEY, &tags()).await;
            matches!(l2, Ok(None)) || matches!(l2, Ok(Some(stored)) if stored.value == "2")
        })
        .await;
        assert_eq!(a.read().await.0, 2);
    }

    #[tokio::test]
    async fn outage_silence_and_a_lost_connection_are_told_as_losses() {
        let mut server = OwnRedis::start().unwrap();
        let store = connect(&server.url(), "p").await;
        let mut notices = store.subscribe();
        server.freeze();
        let silent = tokio::time::timeout(Duration::from_secs(3), notices.recv()).await;
        assert_eq!(silent.unwrap().unwrap(), Notice::Lost);
        server.thaw();
        server.stop();
        let lost = tokio::time::timeout(Duration::from_secs(3), notices.recv()).await;
        assert_eq!(lost.unwrap().unwrap(), Notice::Lost);
    }

    #[tokio::test]
    async fn outage_an_absent_server_is_refused_at_once_and_used_when_it_comes() {
        let mut server = OwnRedis::start().unwrap();
        server.stop();
        let store = connect(&server.url(), "p").await;
        let began = std::time::Instant::now();
        for _ in 0..20 {
            let error = store.get(KEY, &tags()).await.unwrap_err();
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        }
        assert!(began.elapsed() < Duration::from_millis(500));
        server.start_again().unwrap();
        let policy = abunfi::rate_limit::gcra::Policy::new(5, TTL).unwrap();
        eventually("it is used", async || {
            store.check("k", policy, 1).await.is_ok()
        })
        .await;
    }

    mod cluster {
        use super::*;
        use std::path::Path;
        use std::process::Command;

        use abunfi_testkit::{Kind, Own, Redis, Stop, programs};

        /// A node of a Cluster.
        #[derive(Debug)]
        struct Node(Redis);

        impl Kind for Node {
            const NAME: &'static str = "Redis Cluster node";

            fn prepare(&mut self, dir: &Path) -> anyhow::Result<()> {
                self.0.prepare(dir)
            }

            fn command(&self, dir: &Path, port: u16) -> Command {
                let mut command = self.0.command(dir, port);
                command.args(["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]);
                // Where the port plus 10,000 may not exist.
                let bus = abunfi_testkit::free_port().expect("a port");
                command.args(["--cluster-port", &bus.to_string()]);
                command
            }

            fn is_ready(&self, dir: &Path, port: u16, id: u32) -> bool {
                self.0.is_ready(dir, port, id)
            }

            fn url(&self, port: u16) -> String {
                self.0.url(port)
            }

            fn orderly(&self) -> Stop {
                self.0.orderly()
            }

            fn at_once(&self) -> Stop {
                self.0.at_once()
            }
        }

        /// Three masters that share the slots.
        async fn cluster() -> (Vec<Own<Node>>, String) {
            let nodes: Vec<_> = (0..3)
                .map(|_| {
                    let redis = Redis::new(programs::find_redis().unwrap());
                    Own::start_with(Node(redis)).unwrap()
                })
                .collect();
            let hosts: Vec<_> = nodes
                .iter()
                .map(|node| node.address().to_string())
                .collect();
            let bounds = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)];
            let mut first = ::redis::Client::open(nodes[0].url())
                .unwrap()
                .get_connection()
                .unwrap();
            for (node, (from, to)) in nodes.iter().zip(bounds) {
                let mut client = ::redis::Client::open(node.url())
                    .unwrap()
                    .get_connection()
                    .unwrap();
                let mut add = ::redis::cmd("CLUSTER");
                add.arg("ADDSLOTSRANGE")
                    .arg(from)
                    .arg(to)
                    .exec(&mut client)
                    .unwrap();
                let info: String = ::redis::cmd("CONFIG")
                    .arg("GET")
                    .arg("cluster-port")
                    .query::<Vec<String>>(&mut client)
                    .unwrap()
                    .pop()
                    .unwrap();
                let mut meet = ::redis::cmd("CLUSTER");
                meet.arg("MEET")
                    .arg("127.0.0.1")
                    .arg(node.address().port())
                    .arg(info);
                meet.exec(&mut first).unwrap();
            }
            eventually("the cluster is formed", async || {
                nodes.iter().all(|node| {
                    let mut client = ::redis::Client::open(node.url())
                        .unwrap()
                        .get_connection()
                        .unwrap();
                    let info: String = ::redis::cmd("CLUSTER")
                        .arg("INFO")
                        .query(&mut client)
                        .unwrap();
                    info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
                })
            })
            .await;
            let url = format!("redis+cluster://{}", hosts.join(","));
            (nodes, url)
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn a_cluster_keeps_the_same_promises() {
            let (mut nodes, url) = cluster().await;
            let store = connect(&url, "p").await;
            keeps_its_promises(&store).await;
            nobody_reads_behind(&url, "q", 50).await;
            let statistics = abunfi::health::Probe::statistics(&store).await.unwrap();
            assert_eq!(statistics["nodes"], 3);

            // A node goes and comes back with what it had: the whole cache is forgotten.
            fill(&store, "before", &stored("1", TTL)).await;
            for node in &mut nodes {
                let mut client = ::redis::Client::open(node.url())
                    .unwrap()
                    .get_connection()
                    .unwrap();
                ::redis::cmd("SAVE").exec(&mut client).unwrap();
            }
            nodes[1].kill();
            nodes[1].start_again().unwrap();
            eventually("it is forgotten", async || {
                matches!(store.get("before", &tags()).await, Ok(None))
            })
            .await;
        }
    }

    mod sentinel {
        use super::*;
        use std::path::Path;
        use std::process::Command;

        use abunfi_testkit::{Kind, Own, Redis, Stop, programs};

        /// One Sentinel that alone decides.
        #[derive(Debug)]
        struct Sentinel {
            redis: Redis,
            master_port: u16,
        }

        impl Kind for Sentinel {
            const NAME: &'static str = "Redis Sentinel";

            fn prepare(&mut self, dir: &Path) -> anyhow::Result<()> {
                let monitor = format!("sentinel monitor main 127.0.0.1 {} 1", self.master_port);
                let down = "sentinel down-after-milliseconds main 500";
                let config = format!("{monitor}\n{down}\nsentinel failover-timeout main 2000\n");
                Ok(std::fs::write(dir.join("sentinel.conf"), config)?)
            }

            fn command(&self, dir: &Path, port: u16) -> Command {
                let mut command = Command::new(programs::find_redis().expect("a Redis"));
                command.arg(dir.join("sentinel.conf")).arg("--sentinel");
                command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
                command
            }

            fn is_ready(&self, dir: &Path, port: u16, id: u32) -> bool {
                self.redis.is_ready(dir, port, id)
            }

            fn url(&self, port: u16) -> String {
                format!("redis+sentinel://127.0.0.1:{port}/main")
            }

            fn orderly(&self) -> Stop {
                self.redis.orderly()
            }

            fn at_once(&self) -> Stop {
                self.redis.at_once()
            }
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn outage_after_a_failover_the_new_master_is_used_without_what_the_old_one_cached() {
            let (mut master, replica) = (OwnRedis::start().unwrap(), OwnRedis::start().unwrap());
            let mut client = ::redis::Client::open(replica.url())
                .unwrap()
                .get_connection()
                .unwrap();
            let mut follow = ::redis::cmd("REPLICAOF");
            follow
                .arg("127.0.0.1")
                .arg(master.address().port())
                .exec(&mut client)
                .unwrap();
            let kind = Sentinel {
                redis: Redis::new(programs::find_redis().unwrap()),
                master_port: master.address().port(),
            };
            let sentinel = Own::start_with(kind).unwrap();
            let version = Arc::new(AtomicU64::new(1));
            let store = connect(&sentinel.url(), "p").await;
            let a = Instance::over(&store, &version);
            assert_eq!(a.read().await, (1, Hit::Fetched));
            eventually("the replica has the value", async || {
                let keys: u64 = ::redis::cmd("DBSIZE").query(&mut client).unwrap();
                keys > 0
            })
            .await;
            a.write().await;
            eventually("the Sentinel knows the replica", async || {
                let port = sentinel.address().port();
                let mut asked = ::redis::Client::open(format!("redis://127.0.0.1:{port}"))
                    .unwrap()
                    .get_connection()
                    .unwrap();
                let info: String = ::redis::cmd("INFO")
                    .arg("sentinel")
                    .query(&mut asked)
                    .unwrap();
                info.contains("slaves=1")
            })
            .await;
            master.kill();
            assert_eq!(a.read().await.0, 2);
            eventually("the new master serves", async || {
                store.get("x", &[]).await.is_ok()
            })
            .await;
            let b = Instance::over(&store, &version);
            assert_eq!(
                b.read().await,
                (2, Hit::Fetched),
                "its copies of the old master's cache are not used"
            );
        }
    }
}
