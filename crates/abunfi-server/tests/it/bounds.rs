//! Under pressure: what is too much is turned away at once, what was accepted is done whatever becomes of its
//! caller, and nobody takes another's turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use abunfi::ids::UserId;
use abunfi::ledger::{
    BatchRequest, COMMIT_CHUNK, Error, ItemResult, PostRequest, RequestKey, TransactionType,
};
use abunfi::money::Amount;
use abunfi::{Config, Context, StoreError};
use futures::FutureExt;
use futures::future::join_all;
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{Backend, Seed, TestServer, create, unique, with_config};

with_config!(patient, |config| {
    config.postgres.deadline_ms = 40_000;
    config.sqlite.acquire_timeout_ms = 20_000;
    config.sqlite.deadline_ms = 20_000;
}; a_full_queue_turns_away_at_once_and_does_what_it_accepted,
   one_busy_account_does_not_starve_another,
   a_locked_account_neither_fails_nor_stops_its_neighbours,
   a_locked_account_neither_fails_nor_stops_the_others_of_a_batch,
   a_caller_that_hangs_up_does_not_stop_its_posting,
   a_caller_that_hangs_up_does_not_stop_its_batch,
   a_posting_inside_a_transaction_is_refused_at_once);

/// Postings of one account, past what may wait of one and is in work.
const FLOOD: usize = 1_500;

/// Holds up every posting to `user` until the sender is dropped.
async fn hold_up(server: &TestServer, user: &str) -> tokio::sync::oneshot::Sender<()> {
    let user: UserId = user.parse().unwrap();
    let platform = server.platform.clone();
    let (release, released) = tokio::sync::oneshot::channel();
    let (locked, is_locked) = tokio::sync::oneshot::channel();
    let once = std::sync::Mutex::new(Some((locked, released)));
    tokio::spawn(async move {
        let held = platform.execute_transaction(|transaction| {
            let once = once.lock().unwrap().take();
            async move {
                // SQLite has one writer, and this is it.
                if let Some(connection) = transaction.postgres() {
                    sqlx::query("SELECT 1 FROM accounts WHERE user_id = $1 FOR UPDATE")
                        .bind(user.uuid())
                        .execute(connection)
                        .await
                        .expect("the lock");
                }
                if let Some((locked, released)) = once {
                    locked.send(()).expect("the test waits");
                    let _dropped = released.await;
                }
                Ok(())
            }
            .boxed()
        });
        // How it ends does not matter: it only stood in the way.
        let _ended = held.await;
    });
    is_locked.await.expect("the lock is held");
    release
}

/// Posts 1 to `user`, past HTTP: thousands of connections would be the test's own trouble.
fn flood(server: &TestServer, user: &str, count: usize) -> JoinSet<Result<(), Error>> {
    let user: UserId = user.parse().unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let platform = server.platform.clone();
        calls.spawn(async move {
            let request = PostRequest::new(TransactionType::Deposit, Amount::parse("1").unwrap());
            let ctx = Context::system("flood");
            let outcome = platform.ledger().post(&ctx, user, request, None).await?;
            assert!(outcome.answer.result.is_ok(), "{outcome:?}");
            Ok(())
        });
    }
    calls
}

fn is_turned_away(ended: &Result<(), Error>) -> bool {
    matches!(ended, Err(Error::Store(StoreError::Overloaded { .. })))
}

/// Waits for the rest of a flood that may go on: how many were done, and how many were turned away because
/// they had waited too long, as they may on a slow machine. `ended` counts both as they come.
async fn settle(mut calls: JoinSet<Result<(), Error>>, ended: &AtomicUsize) -> (usize, usize) {
    let (mut done, mut late) = (0, 0);
    while let Some(outcome) = calls.join_next().await {
        let outcome = outcome.expect("a task");
        assert!(outcome.is_ok() || is_turned_away(&outcome), "{outcome:?}");
        done += usize::from(outcome.is_ok());
        late += usize::from(outcome.is_err());
        ended.fetch_add(1, Ordering::SeqCst);
    }
    (done, late)
}

async fn a_full_queue_turns_away_at_once_and_does_what_it_accepted(server: &TestServer) {
    let user = server.user().await;
    let release = hold_up(server, &user).await;
    let flooded = Instant::now();
    let mut calls = flood(server, &user, FLOOD);
    let mut turned_away = 0;
    // Those that are turned away end while the others are held up.
    while let Ok(Some(ended)) =
        tokio::time::timeout(Duration::from_millis(700), calls.join_next()).await
    {
        let ended = ended.expect("a task");
        assert!(is_turned_away(&ended), "{ended:?}");
        turned_away += 1;
    }
    assert!(turned_away > 0, "the queue has a bound");
    let begun = Instant::now();
    let refused = server
        .post(&format!("users/{user}/transactions"))
        .key("one-more")
        .json(&json!({"type": "deposit", "amount": "1"}))
        .expect_problem(503, "overloaded")
        .await;
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "at once, while the others are held up: {:?}",
        begun.elapsed()
    );
    assert!(refused.header("retry-after").is_some());
    drop(release);
    let accepted = FLOOD - turned_away;
    let (done, late) = settle(calls, &AtomicUsize::new(0)).await;
    assert!(done > 0);
    assert_eq!(
        done + late,
        accepted,
        "what was accepted is done, or said not to be"
    );
    // Five seconds are as long as a posting may wait.
    assert!(
        late == 0 || flooded.elapsed() > Duration::from_secs(5),
        "{late} were turned away that had not waited long"
    );
    assert_eq!(server.available(&user).await, done.to_string());
    // And the key of the one that was turned away is free.
    server
        .post(&format!("users/{user}/transactions"))
        .key("one-more")
        .json(&json!({"type": "deposit", "amount": "1"}))
        .expect(201)
        .await;
}

/// Deposits 1 for each of `users`, all at once, as single requests.
async fn deposit_for_each(
    server: &TestServer,
    users: &[String],
    key: &str,
) -> Vec<http::StatusCode> {
    let posts = users.iter().map(|user| {
        server
            .post(&format!("users/{user}/transactions"))
            .key(&format!("{key}-{user}"))
            .json(&json!({"type": "deposit", "amount": "1"}))
            .send()
    });
    let answers = join_all(posts).await;
    answers.iter().map(|answer| answer.status).collect()
}

async fn a_locked_account_neither_fails_nor_stops_its_neighbours(server: &TestServer) {
    // SQLite has one writer: whoever holds it up holds up everybody.
    if server.backend == Backend::Embedded {
        return;
    }
    let locked = server.user().await;
    let mut calm = Vec::new();
    for _ in 0..30 {
        calm.push(server.user().await);
    }
    let release = hold_up(server, &locked).await;
    let mut waiting = flood(server, &locked, 20);
    // So many that they share batches with those of the locked account, whatever its shard.
    for round in ["a", "b", "c"] {
        let answers = deposit_for_each(server, &calm, round).await;
        assert!(answers.iter().all(|status| *status == 201), "{answers:?}");
    }
    assert!(waiting.try_join_next().is_none(), "they wait for the lock");
    drop(release);
    while let Some(ended) = waiting.join_next().await {
        ended.expect("a task").expect("the account is free again");
    }
    assert_eq!(server.available(&locked).await, "20");
    assert_eq!(server.available(&calm[0]).await, "3");
}

async fn a_locked_account_neither_fails_nor_stops_the_others_of_a_batch(server: &TestServer) {
    if server.backend == Backend::Embedded {
        return;
    }
    let locked = server.user().await;
    let mut users = vec![locked.clone()];
    for _ in 0..10 {
        users.push(server.user().await);
    }
    let release = hold_up(server, &locked).await;
    let platform = server.platform.clone();
    let items: Vec<UserId> = users
        .iter()
        .cycle()
        .take(3 * users.len())
        .map(|user| user.parse().unwrap())
        .collect();
    let batch = tokio::spawn(async move {
        let deposit = || PostRequest::new(TransactionType::Deposit, Amount::parse("1").unwrap());
        let request = BatchRequest {
            atomic: false,
            items: items
                .into_iter()
                .map(|user| Ok((user, deposit())))
                .collect(),
        };
        let key = RequestKey {
            key: unique("batch-"),
            fingerprint: [1; 32],
        };
        let ctx = Context::system("batch");
        platform.ledger().batch(&ctx, request, key).await
    });
    let others = async {
        for user in &users[1..] {
            while server.available(user).await != "3" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    // Less than the lock may be waited for.
    let others = tokio::time::timeout(Duration::from_secs(15), others).await;
    others.expect("the others of the batch are done");
    assert!(!batch.is_finished(), "it waits for the locked account");
    drop(release);
    let answer = batch.await.expect("a task").expect("an answer");
    let is_posted = |result: &ItemResult| matches!(result, ItemResult::Posted(_));
    assert!(answer.results.iter().all(is_posted));
    assert_eq!(server.available(&locked).await, "3");
}

async fn one_busy_account_does_not_starve_another(server: &TestServer) {
    let (busy, calm) = (server.user().await, server.user().await);
    let release = hold_up(server, &busy).await;
    let mut calls = flood(server, &busy, FLOOD);
    let mut turned_away = 0;
    while let Ok(Some(_)) =
        tokio::time::timeout(Duration::from_millis(700), calls.join_next()).await
    {
        turned_away += 1;
    }
    let ended = Arc::new(AtomicUsize::new(0));
    let counting = tokio::spawn({
        let ended = Arc::clone(&ended);
        async move { settle(calls, &ended).await }
    });
    // Past HTTP too: what ends while an answer travels was not waited for.
    let mut calm_calls = flood(server, &calm, 1);
    let calm_posts = async {
        let posted = calm_calls.join_next().await.expect("one").expect("a task");
        let before = ended.load(Ordering::SeqCst);
        posted.expect("the calm account is served");
        before
    };
    let releases = async {
        // The calm one stands behind all the others when they may go on.
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(release);
    };
    let (before, ()) = tokio::join!(calm_posts, releases);
    let (done, late) = counting.await.expect("the flood ends");
    let accepted = FLOOD - turned_away;
    assert!(done > 0);
    assert_eq!(done + late, accepted);
    assert!(
        before * 4 <= accepted * 3,
        "the calm account waited for {before} of {accepted} postings of the busy one"
    );
}

async fn a_caller_that_hangs_up_does_not_stop_its_posting(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}/transactions");
    let body = json!({"type": "deposit", "amount": "7"});
    let release = hold_up(server, &user).await;
    let hung_up = tokio::time::timeout(
        Duration::from_secs(2),
        server.post(&address).key("hung-up").json(&body).send(),
    );
    assert!(
        hung_up.await.is_err(),
        "it is held up, and its caller leaves"
    );
    drop(release);
    // Not asked again: it is done by itself.
    let end = Instant::now() + Duration::from_secs(20);
    while server.available(&user).await != "7" {
        assert!(Instant::now() < end, "the posting went with its caller");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let again = server
        .post(&address)
        .key("hung-up")
        .json(&body)
        .expect(201)
        .await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(server.available(&user).await, "7");
}

async fn a_caller_that_hangs_up_does_not_stop_its_batch(server: &TestServer) {
    let user = server.user().await;
    // One item more than is committed together.
    let items = COMMIT_CHUNK + 1;
    let item = json!({"user_id": user, "type": "deposit", "amount": "1"});
    let body = json!({"atomic": false, "transactions": vec![item; items]});
    let release = hold_up(server, &user).await;
    let batch = server.post("transactions/batch").key("hung-up").json(&body);
    let hung_up = tokio::time::timeout(Duration::from_secs(2), batch.send());
    assert!(
        hung_up.await.is_err(),
        "it is held up, and its caller leaves"
    );
    drop(release);
    // Not asked again: the second part is done by itself, too.
    let end = Instant::now() + Duration::from_secs(20);
    while server.available(&user).await != items.to_string() {
        assert!(Instant::now() < end, "the batch went with its caller");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let batch = server.post("transactions/batch").key("hung-up").json(&body);
    let again = batch.expect(200).await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(server.available(&user).await, items.to_string());
}

/// It would wait for a second connection, and perhaps for rows that its own caller has locked.
async fn a_posting_inside_a_transaction_is_refused_at_once(server: &TestServer) {
    let user: UserId = server.user().await.parse().unwrap();
    let platform = server.platform.clone();
    let inside = server.platform.execute_transaction(|_transaction| {
        let platform = platform.clone();
        async move {
            let ctx = Context::system("inside");
            let one = || PostRequest::new(TransactionType::Deposit, Amount::parse("1").unwrap());
            let posted = platform.ledger().post(&ctx, user, one(), None).await;
            let is_refused =
                |error: &Error| matches!(error, Error::Store(StoreError::InsideTransaction { .. }));
            assert!(posted.is_err_and(|error| is_refused(&error)));
            for atomic in [true, false] {
                let request = BatchRequest {
                    atomic,
                    items: vec![Ok((user, one()))],
                };
                let key = RequestKey {
                    key: "inside".to_owned(),
                    fingerprint: [0; 32],
                };
                let posted = platform.ledger().batch(&ctx, request, key).await;
                assert!(posted.is_err_and(|error| is_refused(&error)));
            }
            Ok(())
        }
        .boxed()
    });
    inside.await.unwrap();
    assert_eq!(server.available(&user.to_string()).await, "0");
}

/// A stop finishes what was accepted, and a later start finds it.
#[test]
fn a_stop_drains_what_was_accepted() {
    crate::support::run(
        Backend::Embedded,
        |_| {},
        async |outer: &TestServer| {
            let folder = tempfile::TempDir::new().unwrap();
            let config = Config {
                data_dir: folder.path().to_owned(),
                ..outer.platform.config().clone()
            };
            let mut server = TestServer::start(Backend::Embedded, config.clone()).await;
            let user = server.user().await;
            let release = hold_up(&server, &user).await;
            let calls: Vec<_> = (0..40)
                .map(|_| {
                    let call = server
                        .post(&format!("users/{user}/transactions"))
                        .key(&unique("drained-"))
                        .json(&json!({"type": "deposit", "amount": "1"}));
                    tokio::spawn(call.send())
                })
                .collect();
            // They, and the one that asks.
            let all = "http_server_active_requests 41";
            let end = Instant::now() + Duration::from_secs(20);
            while !server
                .get("/metrics")
                .expect(200)
                .await
                .text()
                .contains(all)
            {
                assert!(Instant::now() < end, "they are not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            server.ask_to_stop();
            tokio::time::sleep(Duration::from_millis(200)).await;
            drop(release);
            for answer in join_all(calls).await {
                let answer = answer.unwrap();
                assert_eq!(answer.status, 201, "{}", answer.text());
            }
            server.stop().await;
            let server = TestServer::start(Backend::Embedded, config).await;
            assert_eq!(server.available(&user).await, "40");
            server.stop().await;
        },
    );
}

mod servers {
    use super::*;

    #[test]
    fn two_instances_under_load_lose_no_update() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (stores, config) = create(Backend::Servers).await;
            let first = TestServer::start(Backend::Servers, config.clone()).await;
            let second = TestServer::start(Backend::Servers, config).await;
            let users = [first.user_with("100").await, first.user_with("100").await];
            let calls = (0..240_usize).map(|index| {
                let server = if index % 2 == 0 { &first } else { &second };
                let user = &users[index / 2 % 2];
                let kind = if index % 3 == 0 {
                    "withdraw"
                } else {
                    "deposit"
                };
                server
                    .post(&format!("users/{user}/transactions"))
                    .key(&format!("load-{index}"))
                    .json(&json!({"type": kind, "amount": "1"}))
                    .send()
            });
            let mut expected = 200_i64;
            for (index, answer) in join_all(calls).await.into_iter().enumerate() {
                assert_eq!(answer.status, 201, "{}", answer.text());
                expected += if index % 3 == 0 { -1 } else { 1 };
            }
            let mut sum = 0;
            for user in &users {
                let seen = [first.available(user).await, second.available(user).await];
                assert_eq!(seen[0], seen[1]);
                sum += seen[0].parse::<i64>().unwrap();
            }
            assert_eq!(sum, expected);
            first.stop().await;
            second.stop().await;
            stores.remove().await;
        });
    }
}
