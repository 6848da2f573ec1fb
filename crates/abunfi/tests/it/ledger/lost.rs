//! A connection that breaks under a posting: nobody notices, and nothing is done twice.

use std::sync::Arc;
use std::time::Duration;

use abunfi::cache::{Cache, CacheConfig};
use abunfi::clock::SystemClock;
use abunfi::config::PostgresConfig;
use abunfi::error::StoreError;
use abunfi::ids::UserId;
use abunfi::ledger::{
    BatchRequest, Error, ItemResult, Outcome, PostRequest, RequestKey, Service, Store as _,
    TransactionType,
};
use abunfi::stores::RelationalOptions;
use abunfi::stores::postgres::Postgres;
use abunfi_testkit::FaultProxy;
use sqlx::Connection as _;
use tokio::time::sleep;

use super::bounds::lock_accounts;
use crate::support::make::{context, deposit, units, vnd};
use crate::support::{Raw, Relational, TOGETHER, on_one_backend};

on_one_backend!(postgres, Postgres:
    what_breaks_before_the_commit_is_done_on_another_connection,
    what_breaks_twice_is_not_done_and_may_be_sent_again,
    a_lost_answer_to_the_commit_is_asked_for_under_the_key,
    a_lost_commit_is_sent_again_under_the_key,
    without_a_key_a_lost_answer_is_an_unknown_outcome,
    a_batch_whose_commit_is_lost_is_asked_for_under_its_key,
    a_part_of_a_batch_whose_commit_is_lost_is_asked_for_under_its_keys,
    many_connections_that_break_at_once_are_no_absent_server,
);

/// The first statement of a connection that writes a posting; later ones have its name only.
const WRITING: &str = "INSERT INTO transactions";
/// With its closing NUL: "READ COMMITTED" is no commit.
const COMMIT: &[u8] = b"COMMIT\0";
/// Connections of the test's database that wait for a lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// A ledger that reaches its database through a proxy. Its connections are new: no statement is prepared yet.
async fn behind(stores: &Relational) -> (Service, Arc<Postgres>, FaultProxy) {
    let Raw::Postgres(url) = &stores.raw else {
        panic!("of PostgreSQL");
    };
    let proxy = FaultProxy::before(url, 5432).await.expect("a proxy");
    let options = RelationalOptions {
        migrate: false,
        ..TOGETHER
    };
    let config = PostgresConfig::default();
    let store = Postgres::connect(&proxy.url(url).expect("a URL"), &config, options).await;
    let store = Arc::new(store.expect("the store opens"));
    let clock = Arc::new(SystemClock);
    let cache = Cache::new(None, clock.clone(), CacheConfig::default(), true);
    let service = Service::new(store.clone(), store.clone(), cache, clock, vnd(), 2);
    (service, store, proxy)
}

fn key(name: &str) -> RequestKey {
    RequestKey {
        key: name.to_owned(),
        fingerprint: [1; 32],
    }
}

async fn post(service: &Service, user: UserId, key: Option<RequestKey>) -> Result<Outcome, Error> {
    let request = PostRequest::new(TransactionType::Deposit, units(1));
    service.post(&context(), user, request, key).await
}

async fn check(stores: &Relational, user: UserId, count: u64) {
    assert_eq!(stores.balance(user).await.0, units(count));
    stores.check_books().await;
}

async fn what_breaks_before_the_commit_is_done_on_another_connection(stores: &Relational) {
    let user = stores.user("An").await.id;
    let (service, _, proxy) = behind(stores).await;
    // With and without a key: it certainly was not done.
    for (times, key) in [None, Some(key("one"))].into_iter().enumerate() {
        proxy.drop_request(WRITING, 1);
        proxy.cut();
        let outcome = post(&service, user, key).await.unwrap();
        assert!(outcome.answer.result.is_ok() && !outcome.replayed);
        assert_eq!(proxy.lost_requests(), times + 1, "it did break");
    }
    check(stores, user, 2).await;
}

async fn what_breaks_twice_is_not_done_and_may_be_sent_again(stores: &Relational) {
    let user = stores.user("An").await.id;
    let (service, _, proxy) = behind(stores).await;
    proxy.drop_request(WRITING, 2);
    let error = post(&service, user, Some(key("one"))).await.unwrap_err();
    assert!(
        matches!(error, Error::Store(StoreError::Unavailable { .. })),
        "{error}"
    );
    assert_eq!(proxy.lost_requests(), 2);
    check(stores, user, 0).await;
    let outcome = post(&service, user, Some(key("one"))).await.unwrap();
    assert!(outcome.answer.result.is_ok() && !outcome.replayed);
    check(stores, user, 1).await;
}

async fn a_lost_answer_to_the_commit_is_asked_for_under_the_key(stores: &Relational) {
    let user = stores.user("An").await.id;
    let (service, _, proxy) = behind(stores).await;
    proxy.drop_response_after(COMMIT, 1);
    let outcome = post(&service, user, Some(key("one"))).await.unwrap();
    assert!(outcome.answer.result.is_ok() && !outcome.replayed);
    assert_eq!(proxy.lost_responses(), 1);
    let again = post(&service, user, Some(key("one"))).await.unwrap();
    assert!(again.replayed && again.answer == outcome.answer);
    check(stores, user, 1).await;
}

async fn a_lost_commit_is_sent_again_under_the_key(stores: &Relational) {
    let user = stores.user("An").await.id;
    let (service, _, proxy) = behind(stores).await;
    // The server may keep the rows locked for longer than the service waits: until it has seen the end of the
    // connection in time.
    for tries in 1..=20 {
        proxy.drop_request(COMMIT, 1);
        let posted = post(&service, user, Some(key("one"))).await;
        assert_eq!(proxy.lost_requests(), tries);
        match posted {
            Ok(outcome) => {
                assert!(outcome.answer.result.is_ok() && !outcome.replayed);
                return check(stores, user, 1).await;
            }
            Err(Error::Store(StoreError::OutcomeUnknown { .. })) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it was never sent again");
}

async fn without_a_key_a_lost_answer_is_an_unknown_outcome(stores: &Relational) {
    let user = stores.user("An").await.id;
    let (service, _, proxy) = behind(stores).await;
    // More than failures in a row for which the circuit breaker opens.
    for _ in 0..6 {
        proxy.drop_response_after(COMMIT, 1);
        let error = post(&service, user, None).await.unwrap_err();
        assert!(
            matches!(error, Error::Store(StoreError::OutcomeUnknown { .. })),
            "{error}"
        );
    }
    check(stores, user, 6).await;
    post(&service, user, None).await.unwrap();
    check(stores, user, 7).await;
}

fn batch(atomic: bool, users: &[UserId]) -> BatchRequest {
    let request = PostRequest::new(TransactionType::Deposit, units(1));
    let items = users.iter().map(|user| Ok((*user, request.clone())));
    BatchRequest {
        atomic,
        items: items.collect(),
    }
}

/// Of the atomic one its only commit; of the other the one that claims its key.
async fn a_batch_whose_commit_is_lost_is_asked_for_under_its_key(stores: &Relational) {
    let (an, binh) = (stores.user("An").await.id, stores.user("Binh").await.id);
    let (service, _, proxy) = behind(stores).await;
    for (before, atomic) in [true, false].into_iter().enumerate() {
        proxy.drop_response_after(COMMIT, 1);
        for is_again in [false, true] {
            let request = batch(atomic, &[an, binh, an]);
            let key = key(&format!("atomic: {atomic}"));
            let answer = service.batch(&context(), request, key).await.unwrap();
            assert_eq!((answer.replayed, answer.results.len()), (is_again, 3));
            assert_eq!(proxy.lost_responses(), before + 1);
        }
    }
    check(stores, an, 4).await;
    check(stores, binh, 2).await;
}

async fn a_part_of_a_batch_whose_commit_is_lost_is_asked_for_under_its_keys(stores: &Relational) {
    let user = stores.user("An").await.id;
    let (service, _, proxy) = behind(stores).await;
    let service = Arc::new(service);
    // Where the machine is slow, the account is locked for longer than the part waits: then it does nothing.
    for tries in 1..=20 {
        let lock = lock_accounts(stores, user).await;
        let posting = tokio::spawn({
            let service = Arc::clone(&service);
            async move {
                let key = key(&format!("batch {tries}"));
                service
                    .batch(&context(), batch(false, &[user, user]), key)
                    .await
            }
        });
        // Its key is claimed, and the commit of its part is the next.
        while stores.raw.number(WAITING).await == 0 && !posting.is_finished() {
            sleep(Duration::from_millis(2)).await;
        }
        proxy.drop_response_after(COMMIT, 1);
        lock.close().await.unwrap();
        let answer = posting.await.unwrap();
        proxy.disarm();
        let is_posted = |result: &ItemResult| matches!(result, ItemResult::Posted(_));
        if let Ok(answer) = answer
            && answer.results.iter().all(is_posted)
            && proxy.lost_responses() == tries
        {
            assert!(!answer.replayed);
            stores.check_books().await;
            return;
        }
    }
    panic!("no part was hit");
}

/// As many as would open the circuit breaker, if each were a failure of the server.
async fn many_connections_that_break_at_once_are_no_absent_server(stores: &Relational) {
    const USERS: usize = 8;
    let (_, store, proxy) = behind(stores).await;
    let (mut users, mut locks, mut postings) = (Vec::new(), Vec::new(), Vec::new());
    for name in 0..USERS {
        let user = stores.user(&format!("user-{name}")).await.id;
        users.push(user);
        locks.push(lock_accounts(stores, user).await);
        let store = Arc::clone(&store);
        postings.push(tokio::spawn(async move {
            store.post(&[deposit(user, 1)]).await
        }));
    }
    while stores.raw.number(WAITING).await < i64::try_from(USERS).unwrap() {
        assert!(postings.iter().all(|posting| !posting.is_finished()));
        sleep(Duration::from_millis(10)).await;
    }
    proxy.cut();
    for lock in locks {
        lock.close().await.unwrap();
    }
    for posting in postings {
        let outcomes = posting.await.unwrap().unwrap();
        assert!(outcomes[0].is_ok(), "{outcomes:?}");
    }
    for user in users {
        check(stores, user, 1).await;
    }
}
