//! The same key gives the same answer, byte for byte.

use std::time::Duration;

use abunfi::keys::Scope;
use futures::FutureExt;
use futures::future::join_all;
use serde_json::json;

use crate::support::{Backend, Seed, TestServer, on_every_backend, with_config};

async fn a_replay_is_the_same_bytes(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}/transactions");
    let body = r#"{"type":"deposit","amount":"5","metadata":{"z":1.50,"a":{"y":[1,2],"b":1e2}}}"#;
    let first = server.post(&address).key("k").text(body).expect(201).await;
    assert!(first.header("idempotent-replayed").is_none());
    // Key order and spacing do not matter.
    let same = "{ \"metadata\" : {\"a\":{\"b\":1e2,\"y\":[1,2]},\"z\":1.50},\n\"amount\":\"5\", \"type\":\"deposit\" }";
    for body in [body, same] {
        let again = server.post(&address).key("k").text(body).expect(201).await;
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        assert_eq!(again.text(), first.text());
        assert_eq!(again.header("location"), first.header("location"));
        assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
    }
    // Also when the account has moved on since.
    server
        .posted(&user, json!({"type": "deposit", "amount": "1"}))
        .await;
    let again = server.post(&address).key("k").text(body).expect(201).await;
    assert_eq!(again.text(), first.text());
    assert_eq!(server.available(&user).await, "6");
}

async fn a_refusal_that_was_decided_is_replayed_too(server: &TestServer) {
    let user = server.user_with("5").await;
    let address = format!("users/{user}/transactions");
    let body = json!({"type": "withdraw", "amount": "6"});
    let call = || server.post(&address).key("k").json(&body);
    let first = call()
        .header("x-request-id", "first")
        .expect_problem(422, "insufficient_funds")
        .await;
    assert_eq!(first.text_at("/request_id"), "first");
    server
        .posted(&user, json!({"type": "deposit", "amount": "100"}))
        .await;
    let again = call()
        .header("x-request-id", "second")
        .expect_problem(422, "insufficient_funds")
        .await;
    assert_eq!(
        again.text(),
        first.text(),
        "although there would be enough by now"
    );
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("x-request-id"), Some("second"));
    let held = server.withdrawal(&user, "1").await;
    let confirm = format!("{address}/{held}/confirm");
    let done = server.post(&confirm).key("c").expect(200).await;
    let again = server
        .post(&confirm)
        .key("c")
        .json(&json!({}))
        .expect(200)
        .await;
    assert_eq!(again.text(), done.text());
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let refused = server
        .post(&confirm)
        .key("d")
        .expect_problem(409, "invalid_transition")
        .await;
    let again = server
        .post(&confirm)
        .key("d")
        .expect_problem(409, "invalid_transition")
        .await;
    assert_eq!(again.text(), refused.text());
}

async fn one_key_from_sixteen_clients_at_once_posts_once(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}/transactions");
    let body = json!({"type": "deposit", "amount": "7"});
    let calls = (0..16).map(|_| server.post(&address).key("one").json(&body).send());
    let answers = join_all(calls).await;
    for answer in &answers {
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert_eq!(answer.text(), answers[0].text());
    }
    let first = answers
        .iter()
        .filter(|answer| answer.header("idempotent-replayed").is_none());
    assert_eq!(first.count(), 1);
    assert_eq!(server.available(&user).await, "7");
}

async fn a_key_stands_for_one_request(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}/transactions");
    let post = |body: serde_json::Value| server.post(&address).key("k").json(&body);
    post(json!({"type": "deposit", "amount": "5"}))
        .expect(201)
        .await;
    let other = post(json!({"type": "deposit", "amount": "6"}));
    other.expect_problem(422, "idempotency_key_reused").await;
    // What is not stored does not use a key up.
    let call = server
        .post(&address)
        .key("v")
        .json(&json!({"type": "deposit", "amount": "x"}));
    call.expect_problem(422, "validation_failed").await;
    let call = server
        .post(&address)
        .key("v")
        .json(&json!({"type": "deposit", "amount": "1"}));
    call.expect(201).await;
    // On another user, and on another route, it is another key.
    let friend = server.user().await;
    let call = server
        .post(&format!("users/{friend}/transactions"))
        .key("k");
    let call = call.json(&json!({"type": "deposit", "amount": "5"}));
    assert!(
        call.expect(201)
            .await
            .header("idempotent-replayed")
            .is_none()
    );
    let held = server.withdrawal(&user, "1").await;
    let confirm = server
        .post(&format!("{address}/{held}/confirm"))
        .key("k")
        .expect(200)
        .await;
    assert!(confirm.header("idempotent-replayed").is_none());
}

async fn a_key_belongs_to_who_uses_it(server: &TestServer) {
    let user = server.user_with("100").await;
    let address = format!("users/{user}/transactions");
    let body = json!({"type": "withdraw", "amount": "1", "status": "pending"});
    let first = server.key("shop", &[Scope::Money]).await;
    let rotated = server.key("shop", &[Scope::Money]).await;
    let other = server.key("bank", &[Scope::Money]).await;
    let (session, _) = server.session(&user).await;
    let post = |token: &str| {
        server
            .post(&address)
            .by(token)
            .key("k")
            .json(&body)
            .expect(201)
    };
    let made = post(&first).await;
    assert_eq!(
        post(&rotated).await.text(),
        made.text(),
        "the owner outlives the key"
    );
    for stranger in [&other, &session] {
        let own = post(stranger).await;
        assert!(own.header("idempotent-replayed").is_none());
        assert_ne!(own.text_at("/id"), made.text_at("/id"));
    }
    let (second, _) = server.session(&user).await;
    let again = post(&second).await;
    assert_eq!(
        again.header("idempotent-replayed"),
        Some("true"),
        "the user outlives the session"
    );
    let rotated = server.post("session/rotate").by(&second).expect(200).await;
    let again = post(&rotated.text_at("/token")).await;
    assert_eq!(
        again.header("idempotent-replayed"),
        Some("true"),
        "and the rotation of its token"
    );
}

async fn a_key_must_be_there_and_well_formed(server: &TestServer) {
    let user = server.user_with("10").await;
    let held = server.withdrawal(&user, "1").await;
    let body = json!({"type": "deposit", "amount": "1"});
    let transactions = format!("users/{user}/transactions");
    let batch = json!({"atomic": true, "transactions": [{"user_id": user, "type": "deposit", "amount": "1"}]});
    let mut calls = vec![
        (transactions.clone(), Some(body.clone())),
        ("transactions/batch".to_owned(), Some(batch)),
    ];
    for verb in ["submit", "confirm", "fail", "cancel"] {
        calls.push((format!("{transactions}/{held}/{verb}"), None));
    }
    for (address, body) in calls {
        let call = || match &body {
            Some(body) => server.post(&address).json(body),
            None => server.post(&address),
        };
        call().expect_problem(400, "idempotency_key_missing").await;
        for bad in ["", "a b", &"x".repeat(256)] {
            call()
                .key(bad)
                .expect_problem(400, "idempotency_key_invalid")
                .await;
        }
        call()
            .key("a")
            .key("b")
            .expect_problem(400, "idempotency_key_invalid")
            .await;
    }
    let longest = "~".repeat(255);
    server
        .post(&transactions)
        .key(&longest)
        .json(&body)
        .expect(201)
        .await;
}

/// Holds the lock that postings to `user` need, for `time`.
async fn block(server: &TestServer, user: &str, time: Duration) {
    let user: abunfi::ids::UserId = user.parse().unwrap();
    let platform = server.platform.clone();
    let (locked, is_locked) = tokio::sync::oneshot::channel();
    let locked = std::sync::Mutex::new(Some(locked));
    let backend = server.backend;
    tokio::spawn(async move {
        let held = platform.execute_transaction(|transaction| {
            let locked = locked.lock().unwrap().take();
            async move {
                let row = transaction.postgres();
                // SQLite has one writer, and this is it.
                assert_eq!(row.is_some(), backend == Backend::Servers);
                if let Some(connection) = row {
                    sqlx::query("SELECT 1 FROM accounts WHERE user_id = $1 FOR UPDATE")
                        .bind(user.uuid())
                        .execute(connection)
                        .await
                        .expect("the lock");
                }
                if let Some(locked) = locked {
                    locked.send(()).expect("the test waits");
                }
                tokio::time::sleep(time).await;
                Ok(())
            }
            .boxed()
        });
        // How it ends does not matter: it only stood in the way.
        let _ended = held.await;
    });
    is_locked.await.expect("the lock is held");
}

async fn a_duplicate_waits_for_the_first_and_is_told_when_that_lasts(server: &TestServer) {
    let user = server.user_with("10").await;
    let address = format!("users/{user}/transactions");
    let body = json!({"type": "deposit", "amount": "1"});
    let post = || server.post(&address).key("slow").json(&body).send();
    block(server, &user, Duration::from_secs(10)).await;
    let first = post();
    let second = async {
        // Whoever comes later is the duplicate.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        post().await
    };
    let (first, second) = tokio::join!(first, second);
    second.check_problem(409, "idempotency_in_progress", "a duplicate");
    assert_eq!(first.status, 201, "{}", first.text());
    let later = post().await;
    assert_eq!((later.status.as_u16(), later.text()), (201, first.text()));
    block(server, &user, Duration::from_secs(1)).await;
    let body = json!({"type": "deposit", "amount": "2"});
    let post = || server.post(&address).key("short").json(&body).send();
    let (first, second) = tokio::join!(post(), post());
    assert_eq!((first.status.as_u16(), second.text()), (201, first.text()));
}

async fn a_hold_is_replayed_after_it_should_have_expired(server: &TestServer) {
    let user = server.user_with("10").await;
    let address = format!("users/{user}/transactions");
    // Time enough for three postings on a busy machine.
    let lasts = Duration::from_secs(6);
    let now = || abunfi::clock::Clock::now(&abunfi::clock::SystemClock);
    let soon = now().plus(lasts);
    let body = json!({"type": "withdraw", "amount": "1", "status": "pending", "expires_at": soon});
    let hold = |key: &str| server.post(&address).key(key).json(&body);
    let first = hold("k").expect(201).await;
    let mut item = body.clone();
    item["user_id"] = json!(user);
    let batches = [true, false].map(|atomic| json!({"atomic": atomic, "transactions": [item]}));
    let batch = |index: usize| {
        let call = server
            .post("transactions/batch")
            .key(["all", "each"][index]);
        call.json(&batches[index]).expect(200)
    };
    let (all, each) = (batch(0).await, batch(1).await);
    assert!(
        each.at("/results/0").get("transaction").is_some(),
        "{}",
        each.text()
    );
    while now() <= soon.plus(Duration::from_millis(100)) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let again = hold("k").expect(201).await;
    assert_eq!(again.text(), first.text());
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    for (index, first) in [all, each].into_iter().enumerate() {
        let again = batch(index).await;
        assert_eq!(again.text(), first.text());
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
    }
    // For a new request the time has passed, and its key stays free for the corrected one.
    let refused = hold("late").expect_problem(422, "validation_failed").await;
    refused.has_faults(&[("/expires_at", "out_of_range")]);
    let mut corrected = body.clone();
    corrected["expires_at"] = json!(soon.plus(Duration::from_secs(600)));
    let call = server.post(&address).key("late").json(&corrected);
    let done = call.expect(201).await;
    assert_eq!(done.header("idempotent-replayed"), None);
}

on_every_backend!(
    a_hold_is_replayed_after_it_should_have_expired,
    a_replay_is_the_same_bytes,
    a_refusal_that_was_decided_is_replayed_too,
    one_key_from_sixteen_clients_at_once_posts_once,
    a_key_stands_for_one_request,
    a_key_belongs_to_who_uses_it,
    a_key_must_be_there_and_well_formed,
);

with_config!(patient, |config| {
    // Locks are waited for half as long.
    config.postgres.deadline_ms = 30_000;
    config.sqlite.acquire_timeout_ms = 30_000;
    config.sqlite.deadline_ms = 30_000;
}; a_duplicate_waits_for_the_first_and_is_told_when_that_lasts);
