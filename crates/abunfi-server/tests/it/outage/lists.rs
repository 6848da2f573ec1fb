//! A page of users costs a few statements, not one for each user: seen by a network on which each costs.

use std::time::{Duration, Instant};

use abunfi::config::Secret;
use abunfi_testkit::{Direction, FaultProxy, Flow, servers};
use serde_json::json;

use crate::support::{Backend, Seed, TestServer, create};

const USERS: usize = 40;
const DELAY: Duration = Duration::from_millis(30);

#[test]
fn a_page_of_users_with_documents_on_postgresql_takes_as_many_round_trips_as_one_user() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (stores, mut config) = create(Backend::Servers).await;
        let proxy = FaultProxy::before(&servers::require_postgres_url(), 5432)
            .await
            .unwrap();
        let direct = config.database_url.as_ref().unwrap().expose().to_owned();
        config.database_url = Some(Secret::new(proxy.url(&direct).unwrap()));
        config.mongodb_uri = None;
        config.redis_url = None;
        let server = TestServer::start(Backend::Servers, config).await;
        for n in 0..USERS {
            let user = server.user().await;
            server
                .put(&format!("users/{user}/metadata"))
                .json(&json!({ "of": user, "n": n }))
                .expect(200)
                .await;
        }
        // Statements are prepared, connections are there.
        page(&server, 1).await;
        page(&server, USERS).await;
        proxy.set(Direction::ToServer, Flow::Latency(DELAY));
        let one = quickest_page(&server, 1).await;
        let many = quickest_page(&server, USERS).await;
        proxy.set(Direction::ToServer, Flow::Pass);
        assert!(one > DELAY, "{one:?}: the delay was there");
        assert!(
            many < one * 3 + DELAY * 3,
            "one: {one:?}, {USERS}: {many:?}"
        );
        server.stop().await;
        stores.remove().await;
    });
}

/// Of three, the one that the machine's other work delayed least.
async fn quickest_page(server: &TestServer, limit: usize) -> Duration {
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        quickest = quickest.min(page(server, limit).await);
    }
    quickest
}

/// How long a page took. Every user has its own documents.
async fn page(server: &TestServer, limit: usize) -> Duration {
    let begun = Instant::now();
    let read = server
        .get(&format!("users?limit={limit}"))
        .expect(200)
        .await;
    let took = begun.elapsed();
    let data = read.at("/data");
    let users = data.as_array().unwrap();
    assert_eq!(users.len(), limit);
    for user in users {
        assert_eq!(user["metadata"]["of"], user["id"]);
        assert_eq!(user["preferences"]["language"], json!("vi"));
    }
    took
}
