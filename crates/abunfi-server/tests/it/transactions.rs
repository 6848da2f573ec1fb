//! Posting and settling, lists, the trail, the books.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::{Seed, TestServer, on_every_backend, unique};

async fn a_deposit_and_a_yield_arrive(server: &TestServer) {
    let user = server.user().await;
    let body = json!({
        "type": "deposit", "amount": "1500000.000000", "shares": "01.50", "client_reference": "order-1",
        "tx_hash": "0xAb", "block_number": 7, "gas_used": 21000, "gas_fee": "0.000000000021", "confirmations": 3,
        "exchange_rate": "25400.5", "amount_vnd": "38100000", "metadata": {"b": 1, "a": [1.5, "x"]},
    });
    let made = server.posted(&user, body).await;
    let id = made.text_at("/id");
    let address = format!("/api/v1/users/{user}/transactions/{id}");
    assert_eq!(made.header("location"), Some(address.as_str()));
    assert_eq!(made.text_at("/amount"), "1500000");
    assert_eq!(made.text_at("/shares"), "1.5");
    assert_eq!(made.text_at("/gas_fee"), "0.000000000021");
    assert_eq!(made.text_at("/status"), "confirmed");
    assert_eq!(made.at("/confirmed_at"), made.at("/created_at"));
    let balance = json!({
        "asset": "VND", "available": "1500000", "locked": "0", "total": "1500000", "shares": "1.5",
        "locked_shares": "0", "version": 1,
    });
    assert_eq!(made.at("/balance"), balance);
    let shown = server.get(&address).expect(200).await.json();
    let mut posted = made.json();
    posted.as_object_mut().unwrap().remove("balance");
    assert_eq!(shown, posted);
    let harvest = server
        .posted(&user, json!({"type": "yield_harvest", "amount": "0.5"}))
        .await;
    assert_eq!(harvest.text_at("/balance/total"), "1500000.5");
    let balances = server
        .get(&format!("users/{user}/balances"))
        .expect(200)
        .await;
    assert_eq!(balances.text_at("/data/0/total_yield_earned"), "0.5");
    assert_eq!(
        balances.at("/data/0/last_yield_at"),
        harvest.at("/created_at")
    );
}

async fn amounts_are_plain_decimal_strings(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}/transactions");
    for (amount, code) in [
        (json!("0"), "out_of_range"),
        (json!("0.000000"), "out_of_range"),
        (json!("1000000000000"), "out_of_range"),
        (json!("0.0000001"), "too_many_decimals"),
        (json!("1.0000000"), "too_many_decimals"),
        (json!("-1"), "bad_format"),
        (json!("+1"), "bad_format"),
        (json!(" 1"), "bad_format"),
        (json!("1e3"), "bad_format"),
        (json!(".5"), "bad_format"),
        (json!("5."), "bad_format"),
        (json!("1,5"), "bad_format"),
        (json!("٣"), "bad_format"),
        (json!(""), "bad_format"),
        (json!(1), "wrong_type"),
        (json!(1.5), "wrong_type"),
        (Value::Null, "required"),
    ] {
        let body = json!({"type": "deposit", "amount": amount});
        let refused = server.post(&address).key("k").json(&body);
        let refused = refused.expect_problem(422, "validation_failed").await;
        refused.has_faults(&[("/amount", code)]);
    }
    let largest = json!({"type": "deposit", "amount": "999999999999.999999"});
    let made = server.posted(&user, largest).await;
    assert_eq!(made.text_at("/balance/available"), "999999999999.999999");
    let one_more = json!({"type": "deposit", "amount": "0.000001"});
    let call = server.post(&address).key("over").json(&one_more);
    call.expect_problem(422, "amount_overflow").await;
    let body = json!({
        "type": "gift", "amount": "1", "status": "failed", "asset": "vnd", "shares": "x", "gas_fee": "0.0000000000000000001",
        "block_number": -1, "confirmations": 1.5, "metadata": [], "client_reference": "", "expires_at": "soon",
        "amuont": "1",
    });
    let refused = server.post(&address).key("k").json(&body);
    let refused = refused.expect_problem(422, "validation_failed").await;
    refused.has_faults(&[
        ("/amuont", "unknown_field"),
        ("/asset", "bad_format"),
        ("/block_number", "out_of_range"),
        ("/client_reference", "too_short"),
        ("/confirmations", "wrong_type"),
        ("/expires_at", "bad_format"),
        ("/gas_fee", "too_many_decimals"),
        ("/metadata", "wrong_type"),
        ("/shares", "bad_format"),
        ("/status", "not_allowed"),
        ("/type", "not_allowed"),
    ]);
}

/// At the edges of what an amount may be: refused by field or by code, never wrapped.
async fn amounts_at_the_edges_are_exact(server: &TestServer) {
    const MOST: &str = "999999999999.999999";
    let user = server.user().await;
    let address = format!("users/{user}/transactions");
    let post = |body: Value| server.post(&address).key(&unique("edge-")).json(&body);
    let deposit = |amount: &str| json!({"type": "deposit", "amount": amount});
    for (amount, code) in [
        ("1000000000000", "out_of_range"),
        ("999999999999.9999999", "too_many_decimals"),
        ("0.0000001", "too_many_decimals"),
        ("0.000000", "out_of_range"),
        ("99999999999999999999999999999999999999999", "bad_format"),
    ] {
        let refused = post(deposit(amount))
            .expect_problem(422, "validation_failed")
            .await;
        refused.has_faults(&[("/amount", code)]);
        let body = json!({"type": "deposit", "amount": "1", "shares": amount});
        if code == "out_of_range" && amount.starts_with('0') {
            continue;
        }
        let refused = post(body).expect_problem(422, "validation_failed").await;
        refused.has_faults(&[("/shares", code)]);
    }
    post(deposit("0.000001")).expect(201).await;
    let over = [
        deposit(MOST),
        json!({"type": "yield_harvest", "amount": MOST}),
        json!({"type": "referral_bonus", "amount": MOST}),
    ];
    for body in over {
        post(body).expect_problem(422, "amount_overflow").await;
    }
    let most = post(deposit("999999999999.999998")).expect(201).await;
    assert_eq!(most.text_at("/balance/available"), MOST);
    post(deposit("0.000001"))
        .expect_problem(422, "amount_overflow")
        .await;
    // What is pending is met by the bound when it is confirmed.
    let pending = json!({"type": "deposit", "amount": "0.000001", "status": "pending"});
    let pending = post(pending).expect(201).await.text_at("/id");
    let confirm = server
        .post(&format!("{address}/{pending}/confirm"))
        .key(&unique("edge-"));
    confirm.expect_problem(422, "amount_overflow").await;
    // Held money counts as well.
    let hold = json!({"type": "withdraw", "amount": MOST, "status": "pending"});
    let held = post(hold).expect(201).await;
    assert_eq!(held.text_at("/balance/total"), MOST);
    post(deposit("0.000001"))
        .expect_problem(422, "amount_overflow")
        .await;
    let least = json!({"type": "withdraw", "amount": "0.000001"});
    let refused = post(least).expect_problem(422, "insufficient_funds").await;
    assert_eq!(refused.text_at("/available"), "0");
    let other = server.user().await;
    let items: Vec<Value> = (0..2)
        .map(|_| json!({"user_id": other, "type": "deposit", "amount": "600000000000"}))
        .collect();
    let batch = json!({"atomic": true, "transactions": items});
    let refused = server
        .post("transactions/batch")
        .key(&unique("edge-"))
        .json(&batch);
    let refused = refused.expect_problem(422, "batch_failed").await;
    assert_eq!(refused.at("/index"), 1);
    assert_eq!(refused.text_at("/error/code"), "amount_overflow");
    assert_eq!(server.available(&other).await, "0");
    let shares = |shares: &str| json!({"type": "deposit", "amount": "0.000001", "shares": shares});
    let address = format!("users/{other}/transactions");
    let post = |body: Value| server.post(&address).key(&unique("edge-")).json(&body);
    post(shares(MOST)).expect(201).await;
    post(shares("0.000001"))
        .expect_problem(422, "amount_overflow")
        .await;
}

async fn a_withdrawal_is_held_then_taken_or_given_back(server: &TestServer) {
    let user = server.user().await;
    let deposit = json!({"type": "deposit", "amount": "100", "shares": "10"});
    server.posted(&user, deposit).await;
    let hold = json!({"type": "withdraw", "amount": "30", "shares": "3", "status": "pending"});
    let parts = |answer: &crate::support::Answer| {
        ["available", "locked", "total", "shares", "locked_shares"]
            .map(|part| answer.text_at(&format!("/balance/{part}")))
    };
    let settle = |id: String, verb: &'static str| {
        let address = format!("users/{user}/transactions/{id}/{verb}");
        server.post(&address).key(&unique("settle-"))
    };
    let first = server.posted(&user, hold.clone()).await;
    assert_eq!(parts(&first), ["70", "30", "100", "7", "3"]);
    assert!(first.at("/confirmed_at").is_null());
    let body =
        json!({"reason": "paid out", "tx_hash": "0xf00", "confirmations": 12, "gas_fee": "0.1"});
    let confirmed = settle(first.text_at("/id"), "confirm")
        .json(&body)
        .expect(200)
        .await;
    assert_eq!(parts(&confirmed), ["70", "0", "70", "7", "0"]);
    assert_eq!(confirmed.text_at("/status"), "confirmed");
    assert_eq!(confirmed.text_at("/tx_hash"), "0xf00");
    assert_eq!(confirmed.at("/confirmations"), 12);
    assert!(confirmed.at("/confirmed_at").is_string());
    for (verb, status) in [("fail", "failed"), ("cancel", "cancelled")] {
        let held = server.posted(&user, hold.clone()).await;
        assert_eq!(parts(&held), ["40", "30", "70", "4", "3"]);
        let body = json!({"error_message": "no route"});
        let ended = settle(held.text_at("/id"), verb)
            .json(&body)
            .expect(200)
            .await;
        assert_eq!(parts(&ended), ["70", "0", "70", "7", "0"]);
        assert_eq!(ended.text_at("/status"), status);
        assert_eq!(ended.text_at("/error_message"), "no route");
        for again in ["confirm", "fail", "cancel", "submit"] {
            let refused = settle(held.text_at("/id"), again);
            let refused = refused.expect_problem(409, "invalid_transition").await;
            assert_eq!(
                refused.text_at("/from"),
                status,
                "a finished state is final"
            );
        }
    }
}

async fn what_was_submitted_is_on_its_way(server: &TestServer) {
    let user = server.user_with("100").await;
    let held = server.withdrawal(&user, "10").await;
    let address = format!("users/{user}/transactions/{held}");
    let submitted = server.post(&format!("{address}/submit")).key("s");
    let submitted = submitted.json(&json!({"tx_hash": "0x1"})).expect(200).await;
    assert!(submitted.at("/submitted_at").is_string());
    assert_eq!(submitted.text_at("/status"), "pending");
    assert_eq!(submitted.text_at("/tx_hash"), "0x1");
    let again = server.post(&format!("{address}/submit")).key("s2");
    again.expect_problem(409, "invalid_transition").await;
    let (token, _) = server.session(&user).await;
    let cancel = server
        .post(&format!("{address}/cancel"))
        .by(&token)
        .key("c");
    let refused = cancel.expect_problem(409, "invalid_transition").await;
    assert_eq!(refused.text_at("/from"), "submitted");
    assert_eq!(refused.text_at("/to"), "cancelled");
    server
        .post(&format!("{address}/fail"))
        .key("f")
        .expect(200)
        .await;
    assert_eq!(server.available(&user).await, "100");
    let deposit = json!({"type": "deposit", "amount": "1", "status": "pending"});
    let deposit = server.posted(&user, deposit).await.text_at("/id");
    let submit = server
        .post(&format!("users/{user}/transactions/{deposit}/submit"))
        .key("d");
    submit.expect_problem(409, "invalid_transition").await;
}

async fn pending_of_other_types_changes_nothing(server: &TestServer) {
    let user = server.user_with("5").await;
    for kind in ["deposit", "yield_harvest", "referral_bonus"] {
        let pending = server
            .posted(
                &user,
                json!({"type": kind, "amount": "1", "status": "pending"}),
            )
            .await;
        assert_eq!(pending.text_at("/balance/total"), "5");
        let confirm = format!(
            "users/{user}/transactions/{}/confirm",
            pending.text_at("/id")
        );
        let confirmed = server.post(&confirm).key(kind).expect(200).await;
        assert_eq!(confirmed.text_at("/balance/total"), "6");
        let taken = server
            .posted(&user, json!({"type": "withdraw", "amount": "1"}))
            .await;
        assert_eq!(taken.text_at("/balance/total"), "5");
    }
}

async fn nobody_overdraws(server: &TestServer) {
    let user = server.user_with("40").await;
    let address = format!("users/{user}/transactions");
    let calls = (0..64).map(|index| {
        let body = json!({"type": "withdraw", "amount": "1"});
        server
            .post(&address)
            .key(&format!("w{index}"))
            .json(&body)
            .send()
    });
    let answers = join_all(calls).await;
    let done = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(done, 40);
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        refused.check_problem(422, "insufficient_funds", "overdraw");
        assert_eq!(refused.text_at("/available"), "0");
    }
    assert_eq!(server.available(&user).await, "0");
    let deposit = json!({"type": "deposit", "amount": "10", "shares": "1"});
    server.posted(&user, deposit).await;
    let body = json!({"type": "withdraw", "amount": "1", "shares": "2"});
    let refused = server.post(&address).key("shares").json(&body);
    refused.expect_problem(422, "insufficient_shares").await;
    let body = json!({"type": "withdraw", "amount": "10.000001"});
    let refused = server.post(&address).key("more").json(&body);
    let refused = refused.expect_problem(422, "insufficient_funds").await;
    assert_eq!(refused.text_at("/available"), "10");
}

async fn references_and_hashes_are_unique_for_good(server: &TestServer) {
    let user = server.user_with("10").await;
    let other = server.user().await;
    let body = json!({"type": "deposit", "amount": "1", "client_reference": "r", "tx_hash": "0x1"});
    server.posted(&user, body.clone()).await;
    server.posted(&other, body).await;
    let address = format!("users/{user}/transactions");
    let refuse = |body: Value, code: &'static str| {
        let call = server.post(&address).key(&unique("r")).json(&body);
        call.expect_problem(409, code)
    };
    refuse(
        json!({"type": "withdraw", "amount": "1", "client_reference": "r"}),
        "client_reference_taken",
    )
    .await;
    refuse(
        json!({"type": "deposit", "amount": "1", "tx_hash": "0x1"}),
        "tx_hash_taken",
    )
    .await;
    // Of another type the hash is another.
    let same = json!({"type": "withdraw", "amount": "1", "tx_hash": "0x1", "status": "pending"});
    let held = server.posted(&user, same).await.text_at("/id");
    server
        .post(&format!("{address}/{held}/cancel"))
        .key("c")
        .expect(200)
        .await;
    refuse(
        json!({"type": "withdraw", "amount": "1", "tx_hash": "0x1"}),
        "tx_hash_taken",
    )
    .await;
    let held = server.withdrawal(&user, "1").await;
    let confirm = server
        .post(&format!("{address}/{held}/confirm"))
        .key("h")
        .json(&json!({"tx_hash": "0x1"}));
    confirm.expect_problem(409, "tx_hash_taken").await;
}

async fn a_suspended_user_settles_but_does_not_post(server: &TestServer) {
    let user = server.user_with("10").await;
    let held = server.withdrawal(&user, "4").await;
    let suspend = server
        .patch(&format!("users/{user}"))
        .json(&json!({"status": "suspended"}));
    suspend.expect(200).await;
    let address = format!("users/{user}/transactions");
    let body = json!({"type": "deposit", "amount": "1"});
    let post = server.post(&address).key("p").json(&body);
    post.expect_problem(409, "user_not_active").await;
    let confirm = server.post(&format!("{address}/{held}/confirm")).key("c");
    assert_eq!(confirm.expect(200).await.text_at("/balance/total"), "6");
}

async fn assets_are_kept_apart(server: &TestServer) {
    let user = server.user_with("10").await;
    let address = format!("users/{user}/transactions");
    let usdt = json!({"type": "deposit", "amount": "3", "asset": "USDT"});
    let unknown = server.post(&address).key("u").json(&usdt);
    unknown.expect_problem(422, "unknown_asset").await;
    server
        .put("assets/USDT")
        .json(&json!({"share_price": "1"}))
        .expect(201)
        .await;
    server.posted(&user, usdt).await;
    let balances = server
        .get(&format!("users/{user}/balances"))
        .expect(200)
        .await;
    assert_eq!(balances.text_at("/data/0/asset"), "USDT");
    assert_eq!(balances.text_at("/data/0/available"), "3");
    assert_eq!(balances.text_at("/data/1/available"), "10");
    let history = server
        .get(&format!("users/{user}/history?chain=USDT"))
        .expect(200)
        .await;
    assert_eq!(history.at("/data").as_array().unwrap().len(), 1);
    let books = server.get("ledger/trial-balance").expect(200).await;
    for row in books.at("/data").as_array().unwrap() {
        assert_eq!(row["net"], "0", "{row}");
        if row["asset"] == "USDT" {
            assert_eq!(
                (&row["users"], &row["custody"]),
                (&json!("3"), &json!("-3"))
            );
        }
    }
}

async fn lists_are_filtered_and_paged(server: &TestServer) {
    let user = server.user_with("100").await;
    let address = format!("users/{user}/transactions");
    let mut ids = Vec::new();
    for index in 0..5 {
        let body = json!({"type": "withdraw", "amount": "1", "status": "pending", "client_reference": format!("w{index}")});
        ids.insert(0, server.posted(&user, body).await.text_at("/id"));
    }
    let list = |query: &str| server.get(&format!("{address}?{query}")).expect(200);
    let ids_of = |answer: &crate::support::Answer| -> Vec<String> {
        let rows = answer.at("/data");
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| row["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids_of(&list("type=withdraw").await), ids);
    assert_eq!(ids_of(&list("status=pending&asset=VND").await), ids);
    assert_eq!(ids_of(&list("client_reference=w4").await), ids[..1]);
    assert!(ids_of(&list("tx_hash=0x1").await).is_empty());
    assert!(ids_of(&list("asset=USDT").await).is_empty());
    assert_eq!(ids_of(&list("type=deposit").await).len(), 1);
    let time = server
        .get(&format!("{address}/{}", ids[1]))
        .expect(200)
        .await
        .text_at("/created_at");
    assert_eq!(ids_of(&list(&format!("from={time}")).await), ids[..2]);
    assert_eq!(
        ids_of(&list(&format!("type=withdraw&to={time}")).await),
        ids[2..]
    );
    let page = list("type=withdraw&limit=3").await;
    let cursor = page.text_at("/next_cursor");
    let rest = list(&format!("type=withdraw&limit=200&cursor={cursor}")).await;
    assert_eq!([ids_of(&page), ids_of(&rest)].concat(), ids);
    assert!(rest.at("/next_cursor").is_null());
    let refuse = |query: String, code: &'static str| {
        server
            .get(&format!("{address}?{query}"))
            .expect_problem(400, code)
    };
    refuse(format!("type=deposit&cursor={cursor}"), "cursor_mismatch").await;
    refuse(format!("cursor={cursor}"), "cursor_mismatch").await;
    refuse("cursor=AAAA".to_owned(), "invalid_cursor").await;
    refuse("cursor=".to_owned(), "invalid_cursor").await;
    let other = server.user().await;
    let foreign = server.get(&format!(
        "users/{other}/transactions?type=withdraw&cursor={cursor}"
    ));
    foreign.expect_problem(400, "cursor_mismatch").await;
    for bad in [
        "type=gift",
        "status=done",
        "asset=vnd",
        "from=yesterday",
        "colour=red",
        "tx_hash=",
        "client_reference=%00",
    ] {
        refuse(bad.to_owned(), "invalid_parameter").await;
    }
    let offset = list("from=2020-01-01T00:00:00+07:00").await;
    assert_eq!(ids_of(&offset).len(), 6, "a `+` that nobody escaped");
}

async fn the_trail_tells_every_change(server: &TestServer) {
    let user = server.user_with("100").await;
    let held = server.withdrawal(&user, "30").await;
    let address = format!("users/{user}/transactions/{held}");
    let (token, session) = server.session(&user).await;
    let cancel = server
        .post(&format!("{address}/cancel"))
        .by(&token)
        .key("c");
    let cancel = cancel
        .header("x-request-id", "cancel-1")
        .json(&json!({"reason": "changed my mind"}));
    cancel.expect(200).await;
    let trail = server.get(&format!("{address}/history")).expect(200).await;
    let rows = trail.at("/data");
    assert_eq!(rows.as_array().unwrap().len(), 2);
    let last = &rows[0];
    assert_eq!(last["chain"], "VND");
    assert_eq!(last["seq"], 3);
    assert_eq!(last["transaction_id"], held);
    assert_eq!(last["action"], "cancel");
    assert_eq!(
        (&last["previous_status"], &last["new_status"]),
        (&json!("pending"), &json!("cancelled"))
    );
    assert_eq!(
        (
            &last["amount"],
            &last["available_after"],
            &last["locked_after"]
        ),
        (&json!("30"), &json!("100"), &json!("0"))
    );
    assert_eq!(
        last["actor"],
        json!({"kind": "session", "id": user, "session_id": session})
    );
    assert_eq!(last["reason"], "changed my mind");
    assert_eq!(last["request_id"], "cancel-1");
    assert_eq!(last["previous_hash"], rows[1]["hash"]);
    let first = server
        .get(&format!("{address}/history?limit=1"))
        .expect(200)
        .await;
    let cursor = first.text_at("/next_cursor");
    let rest = server
        .get(&format!("{address}/history?limit=1&cursor={cursor}"))
        .expect(200)
        .await;
    assert_eq!(rest.at("/data/0"), rows[1]);
    assert!(rest.at("/next_cursor").is_null());
    let all = server
        .get(&format!("users/{user}/history"))
        .expect(200)
        .await;
    let seqs: Vec<_> = all
        .at("/data")
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["seq"].clone())
        .collect();
    assert_eq!(seqs, [3, 2, 1]);
    let mut paged = Vec::new();
    let mut query = format!("users/{user}/history?limit=1");
    loop {
        let page = server.get(&query).expect(200).await;
        paged.push(page.at("/data/0/seq"));
        match page.at("/next_cursor") {
            Value::String(cursor) => {
                query = format!("users/{user}/history?limit=1&cursor={cursor}")
            }
            _ => break,
        }
    }
    assert_eq!(paged, [3, 2, 1]);
    let bad = server.get(&format!("users/{user}/history?chain=x"));
    bad.expect_problem(400, "invalid_parameter").await;
    let of_other = server.user().await;
    let foreign = server.get(&format!("users/{of_other}/transactions/{held}/history"));
    foreign.expect_problem(404, "not_found").await;
    let foreign = server.get(&format!("users/{of_other}/transactions/{held}"));
    foreign.expect_problem(404, "not_found").await;
    let foreign = server
        .post(&format!("users/{of_other}/transactions/{held}/confirm"))
        .key("x");
    foreign.expect_problem(404, "not_found").await;
}

async fn balances_are_known_for_any_time(server: &TestServer) {
    let user = server.user().await;
    let first = server
        .posted(&user, json!({"type": "deposit", "amount": "10"}))
        .await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let second = server
        .posted(
            &user,
            json!({"type": "withdraw", "amount": "4", "status": "pending"}),
        )
        .await;
    let at = |time: String| {
        server
            .get(&format!("users/{user}/balances?at={time}"))
            .expect(200)
    };
    let before = at(first.text_at("/created_at")).await;
    assert_eq!(before.text_at("/data/0/available"), "10");
    let after = at(second.text_at("/created_at")).await;
    assert_eq!(after.text_at("/data/0/available"), "6");
    assert_eq!(after.text_at("/data/0/locked"), "4");
    let none = at("2020-01-01T00:00:00Z".to_owned()).await;
    assert_eq!(none.json(), json!({"data": []}));
    let bad = server.get(&format!("users/{user}/balances?at=now"));
    bad.expect_problem(400, "invalid_parameter").await;
}

async fn statistics_count_and_sum(server: &TestServer) {
    let user = server.user_with("100").await;
    server
        .posted(&user, json!({"type": "deposit", "amount": "0.5"}))
        .await;
    server.withdrawal(&user, "30").await;
    let stats = server
        .get(&format!("users/{user}/transactions/stats"))
        .expect(200)
        .await;
    let by_type = stats.at("/by_type");
    let by_type = by_type.as_array().unwrap();
    let deposits = json!({"type": "deposit", "status": "confirmed", "count": 2, "sum": "100.5"});
    assert!(by_type.contains(&deposits), "{by_type:?}");
    let held = json!({"type": "withdraw", "status": "pending", "count": 1, "sum": "30"});
    assert!(by_type.contains(&held), "{by_type:?}");
    let month = stats.at("/by_month/0");
    assert_eq!(
        (&month["type"], &month["count"], &month["sum"]),
        (&json!("deposit"), &json!(2), &json!("100.5"))
    );
    assert_eq!(month["month"].as_str().unwrap().len(), 7);
}

async fn only_a_pending_withdrawal_expires(server: &TestServer) {
    let user = server.user_with("10").await;
    let address = format!("users/{user}/transactions");
    let late = json!({"type": "deposit", "amount": "1", "expires_at": "2100-01-01T00:00:00Z"});
    let refused = server.post(&address).key("a").json(&late);
    let refused = refused.expect_problem(422, "validation_failed").await;
    refused.has_faults(&[("/expires_at", "not_allowed")]);
    let past = json!({"type": "withdraw", "amount": "1", "status": "pending", "expires_at": "2020-01-01T00:00:00Z"});
    let refused = server.post(&address).key("b").json(&past);
    let refused = refused.expect_problem(422, "validation_failed").await;
    refused.has_faults(&[("/expires_at", "out_of_range")]);
    let good = json!({"type": "withdraw", "amount": "1", "status": "pending", "expires_at": "2100-01-01T07:00:00+07:00"});
    // With the same key: a fault of the body leaves it.
    let made = server.post(&address).key("b").json(&good).expect(201).await;
    assert_eq!(made.text_at("/expires_at"), "2100-01-01T00:00:00Z");
}

on_every_backend!(
    a_deposit_and_a_yield_arrive,
    amounts_are_plain_decimal_strings,
    amounts_at_the_edges_are_exact,
    a_withdrawal_is_held_then_taken_or_given_back,
    what_was_submitted_is_on_its_way,
    pending_of_other_types_changes_nothing,
    nobody_overdraws,
    references_and_hashes_are_unique_for_good,
    a_suspended_user_settles_but_does_not_post,
    assets_are_kept_apart,
    lists_are_filtered_and_paged,
    the_trail_tells_every_change,
    balances_are_known_for_any_time,
    statistics_count_and_sum,
    only_a_pending_withdrawal_expires,
);
