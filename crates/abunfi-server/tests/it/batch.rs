//! Many postings in one call.

use serde_json::{Value, json};

use crate::support::{Call, Seed, TestServer, on_every_backend};

fn call(server: &TestServer, key: &str, atomic: bool, items: &[Value]) -> Call {
    let body = json!({"atomic": atomic, "transactions": items});
    server.post("transactions/batch").key(key).json(&body)
}

fn deposit(user: &str, amount: &str) -> Value {
    json!({"user_id": user, "type": "deposit", "amount": amount})
}

fn withdraw(user: &str, amount: &str) -> Value {
    json!({"user_id": user, "type": "withdraw", "amount": amount})
}

async fn an_atomic_batch_is_all_or_nothing(server: &TestServer) {
    let (a, b) = (server.user_with("10").await, server.user().await);
    let items = [deposit(&b, "5"), withdraw(&a, "4"), withdraw(&b, "1")];
    let done = call(server, "ok", true, &items).expect(200).await;
    assert_eq!(done.text_at("/results/0/transaction/user_id"), b);
    assert_eq!(
        done.text_at("/results/1/transaction/balance/available"),
        "6"
    );
    assert_eq!(
        done.text_at("/results/2/transaction/balance/available"),
        "4"
    );
    let again = call(server, "ok", true, &items).expect(200).await;
    assert_eq!(again.text(), done.text());
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let items = [deposit(&b, "5"), withdraw(&a, "7"), withdraw(&a, "100")];
    let failed = call(server, "no", true, &items).header("x-request-id", "b-1");
    let failed = failed.expect_problem(422, "batch_failed").await;
    assert_eq!(failed.at("/index"), 1);
    assert_eq!(failed.text_at("/error/code"), "insufficient_funds");
    assert_eq!(failed.text_at("/error/available"), "6");
    assert_eq!(failed.text_at("/error/request_id"), "b-1");
    assert_eq!(failed.at("/error/status"), 422);
    assert_eq!(
        (
            server.available(&a).await.as_str(),
            server.available(&b).await.as_str()
        ),
        ("6", "4")
    );
    let again = call(server, "no", true, &items)
        .expect_problem(422, "batch_failed")
        .await;
    assert_eq!(again.text(), failed.text());
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let other = call(server, "no", true, &items[..1]);
    other.expect_problem(422, "idempotency_key_reused").await;
    let nobody = "0190f5a0-0000-7000-8000-000000000000";
    let failed = call(
        server,
        "nobody",
        true,
        &[deposit(&a, "1"), deposit(nobody, "1")],
    );
    let failed = failed.expect_problem(422, "batch_failed").await;
    assert_eq!(
        (failed.at("/index"), failed.text_at("/error/code")),
        (json!(1), "not_found".to_owned())
    );
    assert_eq!(server.available(&a).await, "6");
}

async fn faulty_items_of_other_batches_fail_alone(server: &TestServer) {
    let user = server.user_with("10").await;
    let items = [
        withdraw(&user, "4"),
        withdraw(&user, "40"),
        json!({"user_id": user, "type": "deposit", "amount": "1.0000001", "x": 1}),
        json!({"type": "deposit", "amount": "1"}),
        json!("deposit"),
        deposit("0190f5a0-0000-7000-8000-000000000000", "1"),
        deposit(&user, "1"),
    ];
    let done = call(server, "k", false, &items)
        .header("x-request-id", "first")
        .expect(200)
        .await;
    assert_eq!(done.at("/results").as_array().unwrap().len(), 7);
    assert_eq!(
        done.text_at("/results/0/transaction/balance/available"),
        "6"
    );
    assert_eq!(done.text_at("/results/1/error/code"), "insufficient_funds");
    assert_eq!(done.text_at("/results/1/error/request_id"), "first");
    assert_eq!(done.text_at("/results/2/error/code"), "validation_failed");
    let pointers: Vec<_> = done
        .at("/results/2/error/errors")
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| fault["pointer"].clone())
        .collect();
    assert_eq!(pointers, ["/transactions/2/amount", "/transactions/2/x"]);
    assert_eq!(
        done.text_at("/results/3/error/errors/0/pointer"),
        "/transactions/3/user_id"
    );
    assert_eq!(done.text_at("/results/4/error/errors/0/code"), "wrong_type");
    assert_eq!(done.text_at("/results/5/error/code"), "not_found");
    assert_eq!(
        done.text_at("/results/6/transaction/balance/available"),
        "7"
    );
    let again = call(server, "k", false, &items)
        .header("x-request-id", "second")
        .expect(200)
        .await;
    assert_eq!(again.text(), done.text());
    assert_eq!(server.available(&user).await, "7");
}

async fn a_number_out_of_range_fails_its_item_only(server: &TestServer) {
    let user = server.user().await;
    let body = format!(
        r#"{{"atomic": false, "transactions": [
            {{"user_id": "{user}", "type": "deposit", "amount": "1", "block_number": 99999999999999999999999}},
            {{"user_id": "{user}", "type": "deposit", "amount": "2"}}]}}"#
    );
    let done = server
        .post("transactions/batch")
        .key("k")
        .text(body.clone())
        .expect(200)
        .await;
    assert_eq!(
        done.text_at("/results/0/error/errors/0/pointer"),
        "/transactions/0/block_number"
    );
    assert_eq!(
        done.text_at("/results/0/error/errors/0/code"),
        "out_of_range"
    );
    assert_eq!(done.text_at("/results/1/transaction/amount"), "2");
    let atomic = body.replace("false", "true");
    let refused = server.post("transactions/batch").key("a").text(atomic);
    let refused = refused.expect_problem(422, "batch_failed").await;
    assert_eq!(refused.at("/index"), 0);
}

/// Faulty items, unknown users, expired holds, refusals: some of it is stored, some found anew, and the replay
/// of it all is the same bytes, and says that it is one.
async fn a_batch_with_every_kind_of_item_is_replayed_as_it_was(server: &TestServer) {
    let user = server.user().await;
    let nobody = "0190f5a0-0000-7000-8000-000000000000";
    let expired = json!({"user_id": user, "type": "withdraw", "amount": "1", "status": "pending",
        "expires_at": "2020-01-01T00:00:00Z"});
    let items = [
        deposit(&user, "5"),
        deposit(nobody, "1"),
        withdraw(&user, "6"),
        deposit(&user, "0.0000001"),
        expired,
    ];
    let first = call(server, "k", false, &items).expect(200).await;
    assert!(first.header("idempotent-replayed").is_none());
    let codes: Vec<String> = (1..5)
        .map(|index| first.text_at(&format!("/results/{index}/error/code")))
        .collect();
    let expected = [
        "not_found",
        "insufficient_funds",
        "validation_failed",
        "validation_failed",
    ];
    assert_eq!(codes, expected);
    assert_eq!(
        first.text_at("/results/4/error/errors/0/pointer"),
        "/transactions/4/expires_at"
    );
    for _ in 0..2 {
        let again = call(server, "k", false, &items).expect(200).await;
        assert_eq!(again.text(), first.text());
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
    }
    // Also when nothing of it is stored.
    let items = [deposit(nobody, "1"), deposit(&user, "x")];
    let first = call(server, "n", false, &items).expect(200).await;
    assert!(first.header("idempotent-replayed").is_none());
    let again = call(server, "n", false, &items).expect(200).await;
    assert_eq!(again.text(), first.text());
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(server.available(&user).await, "5");
}

async fn the_frame_of_a_batch_is_checked(server: &TestServer) {
    let user = server.user().await;
    let refuse = |body: Value| {
        let call = server.post("transactions/batch").key("k").json(&body);
        call.expect_problem(422, "validation_failed")
    };
    let item = deposit(&user, "1");
    refuse(json!({"transactions": [item]}))
        .await
        .has_faults(&[("/atomic", "required")]);
    refuse(json!({"atomic": "yes", "transactions": 5, "x": 1}))
        .await
        .has_faults(&[
            ("/atomic", "wrong_type"),
            ("/transactions", "wrong_type"),
            ("/x", "unknown_field"),
        ]);
    refuse(json!({"atomic": false, "transactions": []}))
        .await
        .has_faults(&[("/transactions", "too_short")]);
    let many = vec![item.clone(); 1_001];
    refuse(json!({"atomic": false, "transactions": many}))
        .await
        .has_faults(&[("/transactions", "too_long")]);
    assert_eq!(server.available(&user).await, "0");
}

async fn a_faulty_item_fails_an_atomic_batch(server: &TestServer) {
    let user = server.user().await;
    let faulty = |amount: &str| json!({"user_id": "x", "type": "deposit", "amount": amount});
    let items = [deposit(&user, "1"), faulty("-1"), faulty("1")];
    let refused = call(server, "k", true, &items).header("x-request-id", "b-1");
    let refused = refused.expect_problem(422, "batch_failed").await;
    assert_eq!(refused.at("/index"), 1);
    assert_eq!(refused.text_at("/error/code"), "validation_failed");
    assert_eq!(refused.text_at("/error/request_id"), "b-1");
    assert_eq!(refused.at("/error/errors").as_array().unwrap().len(), 2);
    refused.has_faults(&[
        ("/transactions/1/amount", "bad_format"),
        ("/transactions/1/user_id", "bad_format"),
        ("/transactions/2/user_id", "bad_format"),
    ]);
    assert_eq!(server.available(&user).await, "0");
    // Nothing is stored for the key.
    call(server, "k", true, &items[..1]).expect(200).await;
}

async fn a_time_that_has_passed_is_a_fault_of_its_item(server: &TestServer) {
    let user = server.user_with("10").await;
    let hold = |end: &str| json!({"user_id": user, "type": "withdraw", "amount": "1", "status": "pending", "expires_at": end});
    let past = [deposit(&user, "1"), hold("2020-01-01T00:00:00Z")];
    let good = [deposit(&user, "1"), hold("2100-01-01T00:00:00Z")];
    for _ in 0..2 {
        let refused = call(server, "k", true, &past).header("x-request-id", "b-1");
        let refused = refused.expect_problem(422, "batch_failed").await;
        assert_eq!(refused.at("/index"), 1);
        assert_eq!(refused.text_at("/error/code"), "validation_failed");
        assert_eq!(refused.header("idempotent-replayed"), None);
        refused.has_faults(&[("/transactions/1/expires_at", "out_of_range")]);
    }
    assert_eq!(server.available(&user).await, "10");
    // Nothing is stored for the key.
    call(server, "k", true, &good).expect(200).await;
    assert_eq!(server.available(&user).await, "10");

    let each = call(server, "each", false, &past).expect(200).await;
    let pointer = "/results/1/error/errors/0/pointer";
    assert_eq!(each.text_at(pointer), "/transactions/1/expires_at");
    let again = call(server, "each", false, &past).expect(200).await;
    assert_eq!(again.text(), each.text());
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(server.available(&user).await, "11");
}

async fn a_thousand_items_fit(server: &TestServer) {
    let users = [server.user().await, server.user().await];
    let items: Vec<_> = (0..1_000)
        .map(|index| deposit(&users[index % 2], "1"))
        .collect();
    for (atomic, available) in [(true, "500"), (false, "1000")] {
        let done = call(server, &format!("{atomic}"), atomic, &items)
            .expect(200)
            .await;
        assert_eq!(done.at("/results").as_array().unwrap().len(), 1_000);
        assert_eq!(server.available(&users[0]).await, available);
    }
}

on_every_backend!(
    an_atomic_batch_is_all_or_nothing,
    faulty_items_of_other_batches_fail_alone,
    a_time_that_has_passed_is_a_fault_of_its_item,
    a_number_out_of_range_fails_its_item_only,
    a_batch_with_every_kind_of_item_is_replayed_as_it_was,
    the_frame_of_a_batch_is_checked,
    a_faulty_item_fails_an_atomic_batch,
    a_thousand_items_fit,
);
