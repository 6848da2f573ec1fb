//! The cache on servers of its own, since they are broken on purpose: stopped, frozen, failed over.

use super::*;
use abunfi::error::StoreError;
use abunfi::rate_limit::Store as _;
use abunfi_testkit::OwnRedis;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn l2_comes_back_by_itself_and_brings_nothing_back() {
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
async fn what_could_not_be_told_is_told_when_the_server_thaws() {
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
    assert!(began.elapsed() < Duration::from_secs(5), "it does not hang");
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
async fn silence_and_a_lost_connection_are_told_as_losses() {
    let mut server = OwnRedis::start().unwrap();
    let store = connect(&server.url(), "p").await;
    let mut notices = store.subscribe();
    server.freeze();
    let silent = tokio::time::timeout(Duration::from_secs(10), notices.recv()).await;
    assert_eq!(silent.unwrap().unwrap(), Notice::Lost);
    server.thaw();
    server.stop();
    let lost = tokio::time::timeout(Duration::from_secs(10), notices.recv()).await;
    assert_eq!(lost.unwrap().unwrap(), Notice::Lost);
}

#[tokio::test]
async fn an_absent_server_is_refused_at_once_and_used_when_it_comes() {
    let mut server = OwnRedis::start().unwrap();
    server.stop();
    let store = connect(&server.url(), "p").await;
    let began = std::time::Instant::now();
    for _ in 0..20 {
        let error = store.get(KEY, &tags()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "none waits");
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
    async fn after_a_failover_the_new_master_is_used_without_what_the_old_one_cached() {
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
