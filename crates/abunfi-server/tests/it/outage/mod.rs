//! A store goes away, in each of the ways it can, and comes back. Every server is behind a proxy of the
//! test's own, so nobody else notices.

use std::time::{Duration, Instant};

use abunfi::Config;
use abunfi::config::Secret;
use abunfi::error::{Error, StoreError};
use abunfi_testkit::{FaultProxy, servers};
use futures::FutureExt as _;
use serde_json::json;

use crate::support::{Backend, Seed, TestServer, create, unique};

mod lists;
mod one_second;

/// How long anything may take to recover: breakers, back-off and probes are all well below it.
const RECOVERY: Duration = Duration::from_secs(20);

/// With its closing NUL: "READ COMMITTED" is no commit.
const COMMIT: &[u8] = b"COMMIT\0";

struct Proxies {
    postgres: FaultProxy,
    mongodb: FaultProxy,
    redis: FaultProxy,
}

impl Proxies {
    /// Puts a proxy before each server that `config` names.
    async fn before(config: &mut Config) -> Self {
        let before = async |url: String, port| FaultProxy::before(&url, port).await.unwrap();
        let proxies = Self {
            postgres: before(servers::require_postgres_url(), 5432).await,
            mongodb: before(servers::require_mongodb_uri(), 27017).await,
            redis: before(servers::require_redis_url(), 6379).await,
        };
        let through = |url: &mut Option<Secret>, proxy: &FaultProxy| {
            let direct = url.as_ref().unwrap().expose().to_owned();
            *url = Some(Secret::new(proxy.url(&direct).unwrap()));
        };
        through(&mut config.database_url, &proxies.postgres);
        through(&mut config.mongodb_uri, &proxies.mongodb);
        through(&mut config.redis_url, &proxies.redis);
        proxies
    }
}

/// Runs `test` over three servers, each behind its proxy.
fn run(test: impl AsyncFnOnce(TestServer, &Proxies, Config) -> TestServer) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (stores, mut config) = create(Backend::Servers).await;
        let proxies = Proxies::before(&mut config).await;
        let server = TestServer::start(Backend::Servers, config.clone()).await;
        let server = test(server, &proxies, config).await;
        server.stop().await;
        stores.remove().await;
    });
}

/// Waits until `holds`, within the bound of recovery.
async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let end = Instant::now() + RECOVERY;
    while !holds().await {
        assert!(Instant::now() < end, "not within {RECOVERY:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn nothing_is_left_to_apply(server: &TestServer) -> bool {
    let stats = server.platform.get_stats().await;
    stats.outbox.pointer("/documents/pending") == Some(&json!(0))
}

/// Rows of the outbox that outlive two looks void what the cache has of their tags, and so do documents that
/// are applied.
async fn nothing_is_left_to_do(server: &TestServer) -> bool {
    let stats = server.platform.get_stats().await;
    stats.outbox.pointer("/effects/pending") == Some(&json!(0))
        && nothing_is_left_to_apply(server).await
}

#[test]
fn money_goes_on_while_mongodb_is_frozen_and_documents_arrive_when_it_is_back() {
    run(async |server, proxies, _| {
        let user = server.user_with("10").await;
        eventually("applied", async || nothing_is_left_to_apply(&server).await).await;
        proxies.mongodb.freeze();
        for _ in 0..3 {
            let begun = Instant::now();
            server
                .posted(&user, json!({"type": "deposit", "amount": "1"}))
                .await;
            assert!(
                begun.elapsed() < Duration::from_secs(2),
                "money waited for MongoDB"
            );
        }
        assert_eq!(server.available(&user).await, "13");
        let metadata = format!("users/{user}/metadata");
        server
            .put(&metadata)
            .json(&json!({"goal": "house"}))
            .expect(200)
            .await;
        let read = server
            .get(&format!("users/{user}?cache=false"))
            .expect(200)
            .await;
        assert_eq!(read.at("/metadata"), json!({"goal": "house"}));
        assert_eq!(read.at("/degraded"), json!(["mongodb"]));
        let refused = server.put("dev-data/n/k").json(&json!(1)).expect(503).await;
        assert!(refused.header("retry-after").is_some());
        proxies.mongodb.thaw();
        eventually("applied", async || nothing_is_left_to_apply(&server).await).await;
        eventually("undegraded", async || {
            let read = server
                .get(&format!("users/{user}?cache=false"))
                .expect(200)
                .await;
            read.json().get("degraded").is_none()
        })
        .await;
        server
    });
}

#[test]
fn what_a_killed_service_committed_is_applied_after_the_next_start() {
    run(async |server, proxies, config| {
        let user = server.user().await;
        eventually("applied", async || nothing_is_left_to_apply(&server).await).await;
        proxies.mongodb.freeze();
        let metadata = format!("users/{user}/metadata");
        server
            .put(&metadata)
            .json(&json!({"n": 1}))
            .expect(200)
            .await;
        assert!(!nothing_is_left_to_apply(&server).await);
        // Gone without a word, as a crash would have it: the old process's relay runs no more.
        server.stop().await;
        proxies.mongodb.thaw();
        let server = TestServer::start(Backend::Servers, config).await;
        eventually("applied", async || nothing_is_left_to_apply(&server).await).await;
        let read = server.get(&metadata).expect(200).await;
        assert_eq!(read.json(), json!({"n": 1}));
        assert_eq!(
            read.header("x-document-state").unwrap_or("current"),
            "current"
        );
        server
    });
}

#[test]
fn without_redis_everything_works_but_temporary_data() {
    run(async |server, proxies, _| {
        let before = server.user_with("5").await;
        let (token, _) = server.session(&before).await;
        proxies.redis.down().await.unwrap();
        let user = server.user_with("7").await;
        assert_eq!(server.available(&user).await, "7");
        server.get(&format!("users/{before}")).expect(200).await;
        server
            .get(&format!("users/{user}/dashboard"))
            .expect(200)
            .await;
        server.get("session").by(&token).expect(200).await;
        let check = server
            .post("rate-limits/login/check")
            .json(&json!({"key": unique("k")}));
        assert_eq!(check.expect(200).await.at("/allowed"), json!(true));
        let temp = json!({"value": 1, "ttl": 60});
        server.put("temp/code").json(&temp).expect(503).await;
        proxies.redis.up().await.unwrap();
        eventually("temporary data", async || {
            server.put("temp/code").json(&temp).send().await.status == 200
        })
        .await;
        let took = server.post("temp/code/take").expect(200).await;
        assert_eq!(took.at("/value"), json!(1));
        server
    });
}

#[test]
fn a_commit_whose_answer_is_lost_is_unknown_and_its_key_settles_it() {
    run(async |server, proxies, _| {
        let user = server.user().await;
        let postings = format!("users/{user}/transactions");
        let key = unique("lost-");
        let body = json!({"type": "deposit", "amount": "1", "client_reference": key});
        // The posting's own, and that of the question what became of it; and all other work's.
        proxies.postgres.drop_response_after(COMMIT, 100);
        server
            .post(&postings)
            .key(&key)
            .json(&body)
            .expect_problem(503, "outcome_unknown")
            .await;
        proxies.postgres.disarm();
        eventually("settled", async || {
            server
                .post(&postings)
                .key(&key)
                .json(&body)
                .send()
                .await
                .status
                == 201
        })
        .await;
        let found = server
            .get(&format!("{postings}?client_reference={key}"))
            .expect(200)
            .await;
        assert_eq!(
            found.at("/data").as_array().unwrap().len(),
            1,
            "posted once"
        );
        let again = server
            .post(&postings)
            .key(&key)
            .json(&body)
            .expect(201)
            .await;
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        server
    });
}

#[test]
fn a_commit_whose_answer_is_lost_once_is_nobodys_trouble() {
    run(async |server, proxies, _| {
        let user = server.user().await;
        let postings = format!("users/{user}/transactions");
        // Other work commits too: often enough that some of the postings' commits are hit.
        for _ in 0..20 {
            proxies.postgres.drop_response_after(COMMIT, 1);
            let answer = server
                .post(&postings)
                .key(&unique("lost-"))
                .json(&json!({"type": "deposit", "amount": "1"}))
                .expect(201)
                .await;
            assert_eq!(answer.header("idempotent-replayed"), None);
            proxies.postgres.disarm();
        }
        assert!(proxies.postgres.lost_responses() > 0);
        assert_eq!(server.available(&user).await, "20");
        server
    });
}

#[test]
fn what_a_transaction_perhaps_changed_is_not_shown_from_the_cache() {
    run(async |server, proxies, _| {
        let user = server.user().await;
        let id: abunfi::ids::UserId = user.parse().unwrap();
        let profile = format!("users/{user}");
        let mut was_hit = false;
        for _ in 0..20 {
            eventually("done", async || nothing_is_left_to_do(&server).await).await;
            server.get(&profile).expect(200).await;
            let cached = server.get(&profile).expect(200).await;
            if cached.header("x-cache") != Some("hit") {
                continue;
            }
            proxies.postgres.drop_response_after(COMMIT, 1);
            let executed = server
                .platform
                .execute_transaction(move |tx| {
                    async move {
                        tx.invalidate(abunfi::cache::user_tag(id));
                        Ok(())
                    }
                    .boxed()
                })
                .await;
            let read = server.get(&profile).expect(200).await;
            proxies.postgres.disarm();
            // Other work commits too: until it is this commit that is hit.
            if let Err(Error::Store(StoreError::OutcomeUnknown { .. })) = executed {
                assert_eq!(read.header("x-cache"), Some("miss"));
                was_hit = true;
                break;
            }
        }
        assert!(was_hit, "a commit was hit");
        server
    });
}

#[test]
fn without_postgresql_money_is_refused_and_goes_on_by_itself_when_it_is_back() {
    run(async |server, proxies, _| {
        let user = server.user_with("5").await;
        let profile = format!("users/{user}");
        server.get(&profile).expect(200).await;
        proxies.postgres.down().await.unwrap();
        let body = json!({"type": "deposit", "amount": "1"});
        let key = unique("away-");
        let begun = Instant::now();
        let refused = server
            .post(&format!("{profile}/transactions"))
            .key(&key)
            .json(&body)
            .expect_problem(503, "store_unavailable")
            .await;
        assert!(refused.header("retry-after").is_some());
        assert!(begun.elapsed() < Duration::from_secs(10));
        let read = server.get(&profile).expect(200).await;
        assert!(matches!(read.header("x-cache"), Some("hit" | "stale")));
        eventually("noticed", async || {
            let health = server.get("/health").by_nobody().send().await;
            health.status == 503 && health.text_at("/status") == "DOWN"
        })
        .await;
        server.get("/livez").by_nobody().expect(200).await;
        let stats = server.get("stats").expect(200).await;
        for part in ["checkpoint", "holds", "idempotency_keys"] {
            let error = stats.at(&format!("/ledger/{part}"));
            assert_eq!(error, json!({"error": "postgresql is unavailable"}));
        }
        assert_eq!(stats.at("/ledger/waiting"), 0);
        assert!(stats.at("/redis/keys").is_number(), "{}", stats.text());
        proxies.postgres.up().await.unwrap();
        eventually("money goes on", async || {
            let posting = server
                .post(&format!("{profile}/transactions"))
                .key(&key)
                .json(&body);
            posting.send().await.status == 201
        })
        .await;
        assert_eq!(server.available(&user).await, "6");
        eventually("healthy", async || {
            server
                .get("/health")
                .by_nobody()
                .send()
                .await
                .text_at("/status")
                == "OK"
        })
        .await;
        server
    });
}
