//! Users: making, finding, changing.

use std::collections::BTreeSet;

use futures::future::join_all;
use serde_json::json;

use crate::support::{Seed, TestServer, on_every_backend, unique};

const WALLET: &str = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";

async fn a_new_user_is_there_at_once_with_all_that_belongs_to_it(server: &TestServer) {
    let body = json!({
        "email": "An.Nguyen@Example.com", "name": "An", "wallet_address": WALLET.to_lowercase(),
        "phone": "+84901234567", "social": {"provider": "google", "id": "123"},
        "preferences": {"language": "en", "theme": "dark"}, "metadata": {"plan": "gold"},
    });
    let made = server.post("users").json(&body).expect(201).await;
    let id = made.text_at("/id");
    assert_eq!(
        made.header("location"),
        Some(format!("/api/v1/users/{id}").as_str())
    );
    assert_eq!(made.etag(), "\"1\"");
    let user = server.get(&format!("users/{id}")).expect(200).await;
    assert_eq!(user.json(), made.json());
    assert_eq!(user.text_at("/email"), "An.Nguyen@Example.com");
    assert_eq!(user.text_at("/wallet_address"), WALLET);
    assert_eq!(
        user.at("/social"),
        json!({"provider": "google", "id": "123"})
    );
    assert_eq!(user.text_at("/status"), "active");
    assert_eq!(user.at("/kyc"), json!({"status": "pending", "data": {}}));
    assert_eq!(user.at("/balances/0/asset"), "VND");
    assert_eq!(user.at("/balances/0/share_price"), "1000000");
    assert_eq!(user.at("/balances/0/version"), 0);
    assert_eq!(user.at("/preferences/language"), "en");
    assert_eq!(user.at("/preferences/theme"), "dark");
    assert_eq!(user.at("/preferences/notifications/email"), true);
    assert_eq!(user.at("/metadata"), json!({"plan": "gold"}));
    for absent in ["degraded", "document_state"] {
        assert!(user.json().get(absent).is_none(), "{absent}");
    }
}

async fn all_faults_of_a_body_come_at_once(server: &TestServer) {
    let body = json!({
        "email": "no", "wallet_address": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD", "phone": "0901",
        "social": {"provider": "myspace", "id": "", "x": 1}, "preferences": {"currency": "vnd"},
        "metadata": {"$set": 1}, "nickname": "An",
    });
    let refused = server.post("users").json(&body);
    let refused = refused.expect_problem(422, "validation_failed").await;
    refused.has_faults(&[
        ("/email", "bad_format"),
        ("/metadata/$set", "not_allowed"),
        ("/name", "required"),
        ("/nickname", "unknown_field"),
        ("/phone", "bad_format"),
        ("/preferences/currency", "bad_format"),
        ("/social/id", "too_short"),
        ("/social/provider", "not_allowed"),
        ("/social/x", "unknown_field"),
        ("/wallet_address", "bad_format"),
    ]);
    let long = json!({"email": "a@b.co", "name": "n".repeat(201)});
    let refused = server.post("users").json(&long);
    let refused = refused.expect_problem(422, "validation_failed").await;
    refused.has_faults(&[("/name", "too_long")]);
}

async fn an_identity_belongs_to_one_user(server: &TestServer) {
    let identities = json!({
        "email": "taken@example.com", "name": "An", "wallet_address": WALLET, "phone": "+84901234567",
        "social": {"provider": "apple", "id": "7"},
    });
    server.post("users").json(&identities).expect(201).await;
    for (field, value, code) in [
        ("email", json!("TAKEN@example.COM"), "email_taken"),
        (
            "wallet_address",
            json!(WALLET.to_lowercase()),
            "wallet_address_taken",
        ),
        ("phone", json!("+84901234567"), "phone_taken"),
        (
            "social",
            json!({"provider": "apple", "id": "7"}),
            "social_taken",
        ),
    ] {
        let email = format!("{}@example.com", unique("other"));
        let mut body = json!({"email": email, "name": "Binh"});
        body[field] = value.clone();
        server
            .post("users")
            .json(&body)
            .expect_problem(409, code)
            .await;
        let other = server.user().await;
        let patch = json!({ field: value });
        let call = server.patch(&format!("users/{other}")).json(&patch);
        call.expect_problem(409, code).await;
    }
    let found = server.get("users").expect(200).await;
    assert_eq!(
        found.at("/data").as_array().unwrap().len(),
        5,
        "refused users leave nothing"
    );
}

async fn two_users_with_one_email_at_once_are_one_201_and_one_409(server: &TestServer) {
    for _ in 0..5 {
        let email = format!("{}@example.com", unique("twin"));
        let make = |email: String| async move {
            let body = json!({"email": email, "name": "An"});
            server.post("users").json(&body).send().await
        };
        let (a, b) = tokio::join!(make(email.clone()), make(email.to_uppercase()));
        let mut statuses = [a.status.as_u16(), b.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409], "{} {}", a.text(), b.text());
        let refused = if a.status == 409 { a } else { b };
        refused.check_problem(409, "email_taken", "twins");
    }
}

async fn users_are_found_by_each_identity(server: &TestServer) {
    let body = json!({
        "email": "Look@example.com", "name": "An", "wallet_address": WALLET, "phone": "+84901234567",
        "social": {"provider": "google", "id": "a:b"},
    });
    let made = server.post("users").json(&body).expect(201).await;
    let code = made.text_at("/referral/code");
    server.user().await;
    for query in [
        "email=look@EXAMPLE.com".to_owned(),
        format!("wallet_address={}", WALLET.to_lowercase()),
        format!("wallet_address={WALLET}"),
        "phone=%2B84901234567".to_owned(),
        "phone=+84901234567".to_owned(),
        "social=google:a:b".to_owned(),
        format!("referral_code={}", code.to_lowercase()),
    ] {
        let found = server.get(&format!("users?{query}")).expect(200).await;
        assert_eq!(found.at("/data"), json!([made.json()]), "{query}");
        assert!(found.at("/next_cursor").is_null());
    }
    let nobody = server
        .get("users?email=nobody@example.com")
        .expect(200)
        .await;
    assert_eq!(nobody.json(), json!({"data": [], "next_cursor": null}));
    for bad in [
        "email=no",
        "email=a@b.co&phone=%2B84901234567",
        "name=An",
        "email=a@b.co&email=a@b.co",
    ] {
        let call = server.get(&format!("users?{bad}"));
        call.expect_problem(400, "invalid_parameter").await;
    }
}

async fn pages_never_repeat_or_skip(server: &TestServer) {
    let mut before = BTreeSet::new();
    for _ in 0..7 {
        before.insert(server.user().await);
    }
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let query = match &cursor {
            None => "users?limit=2".to_owned(),
            Some(cursor) => format!("users?limit=2&cursor={cursor}"),
        };
        let page = server.get(&query).expect(200).await;
        let rows = page.at("/data");
        seen.extend(
            rows.as_array()
                .unwrap()
                .iter()
                .map(|user| user["id"].as_str().unwrap().to_owned()),
        );
        // Whoever comes while somebody reads must not move the pages.
        server.user().await;
        match page.at("/next_cursor") {
            serde_json::Value::Null => break,
            next => cursor = Some(next.as_str().unwrap().to_owned()),
        }
    }
    assert_eq!(seen.len(), 7, "{seen:?}");
    assert_eq!(seen.iter().cloned().collect::<BTreeSet<_>>(), before);
    let exactly = server.get("users?limit=200").expect(200).await;
    assert!(exactly.at("/next_cursor").is_null());
    for bad in ["0", "201", "-1", "x", "1.5", "+5", ""] {
        let call = server.get(&format!("users?limit={bad}"));
        call.expect_problem(400, "invalid_parameter").await;
    }
}

async fn a_page_that_is_just_full_is_the_last(server: &TestServer) {
    for _ in 0..3 {
        server.user().await;
    }
    let page = server.get("users?limit=3").expect(200).await;
    assert_eq!(page.at("/data").as_array().unwrap().len(), 3);
    assert!(page.at("/next_cursor").is_null());
}

async fn a_patch_changes_what_it_names(server: &TestServer) {
    let body = json!({
        "email": "patch@example.com", "name": "An", "phone": "+84901234567", "wallet_address": WALLET,
        "social": {"provider": "google", "id": "1"},
    });
    let made = server.post("users").json(&body).expect(201).await;
    let address = format!("users/{}", made.text_at("/id"));
    let patch = json!({"name": "An Nguyen", "phone": null, "social": {"id": "2"}});
    let changed = server.patch(&address);
    let changed = changed
        .typed("application/merge-patch+json", patch.to_string())
        .expect(200)
        .await;
    assert_eq!(changed.text_at("/name"), "An Nguyen");
    assert!(changed.at("/phone").is_null());
    assert_eq!(
        changed.at("/social"),
        json!({"provider": "google", "id": "2"})
    );
    assert_eq!(changed.text_at("/wallet_address"), WALLET);
    assert_eq!(changed.at("/version"), 2);
    assert_eq!(changed.etag(), "\"2\"");
    assert_eq!(
        server.get(&address).expect(200).await.json(),
        changed.json()
    );
    // A phone that was given back is free.
    let other = server.user().await;
    let patch = json!({"phone": "+84901234567"});
    server
        .patch(&format!("users/{other}"))
        .json(&patch)
        .expect(200)
        .await;
    let same = server.patch(&address).json(&json!({})).expect(200).await;
    assert_eq!(
        same.at("/version"),
        2,
        "what changes nothing keeps the version"
    );
    let refused = server
        .patch(&address)
        .json(&json!({"name": null, "email": 5, "balance": "1", "status": "gone"}));
    let refused = refused.expect_problem(422, "validation_failed").await;
    refused.has_faults(&[
        ("/balance", "unknown_field"),
        ("/email", "wrong_type"),
        ("/name", "not_allowed"),
        ("/status", "not_allowed"),
    ]);
    let call = server.patch(&address).json(&json!([]));
    call.expect_problem(422, "validation_failed").await;
}

async fn a_status_moves_as_the_contract_says(server: &TestServer) {
    let user = server.user_with("10").await;
    let address = format!("users/{user}");
    let set = |status: &'static str| server.patch(&address).json(&json!({"status": status}));
    set("suspended").expect(200).await;
    set("active").expect(200).await;
    set("closed").expect_problem(409, "balance_not_zero").await;
    let withdrawal = server.withdrawal(&user, "10").await;
    set("closed").expect_problem(409, "balance_not_zero").await;
    let confirm = format!("{address}/transactions/{withdrawal}/confirm");
    server.post(&confirm).key("c").expect(200).await;
    set("closed").expect(200).await;
    let refused = set("active")
        .expect_problem(409, "invalid_transition")
        .await;
    assert_eq!(refused.text_at("/from"), "closed");
    assert_eq!(refused.text_at("/to"), "active");
    let history = server
        .get(&format!("{address}/history?chain=user"))
        .expect(200)
        .await;
    let moves: Vec<_> = history
        .at("/data")
        .as_array()
        .unwrap()
        .iter()
        .map(|row| format!("{} {}", row["seq"], row["new_status"].as_str().unwrap()))
        .collect();
    assert_eq!(moves, ["3 closed", "2 active", "1 suspended"]);
}

async fn a_pending_deposit_keeps_a_user_open(server: &TestServer) {
    let user = server.user().await;
    let body = json!({"type": "deposit", "amount": "1", "status": "pending"});
    server.posted(&user, body).await;
    let close = server
        .patch(&format!("users/{user}"))
        .json(&json!({"status": "closed"}));
    close.expect_problem(409, "balance_not_zero").await;
}

async fn an_identity_check_is_audited(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}/kyc");
    let body = json!({"status": "verified", "data": {"level": 2}, "reason": "passport"});
    let call = server
        .put(&address)
        .header("x-request-id", "kyc-1")
        .json(&body);
    let changed = call.expect(200).await;
    assert_eq!(
        changed.at("/kyc"),
        json!({"status": "verified", "data": {"level": 2}})
    );
    assert_eq!(changed.etag(), "\"2\"");
    let kept = server
        .put(&address)
        .json(&json!({"status": "rejected"}))
        .expect(200)
        .await;
    assert_eq!(
        kept.at("/kyc"),
        json!({"status": "rejected", "data": {"level": 2}})
    );
    let history = server
        .get(&format!("users/{user}/history?chain=user"))
        .expect(200)
        .await;
    let first = history.at("/data/1");
    assert_eq!(first["reason"], "passport");
    assert_eq!(first["request_id"], "kyc-1");
    assert_eq!(first["seq"], 1);
    assert_eq!(first["actor"]["kind"], "service_key");
    assert_eq!(first["previous_status"], "pending");
    assert_eq!(first["new_status"], "verified");
    assert_eq!(first["previous_hash"], "0".repeat(64));
    assert_eq!(history.at("/data/0/previous_hash"), first["hash"]);
    let refused = server
        .put(&address)
        .json(&json!({"status": "maybe", "data": []}));
    let refused = refused.expect_problem(422, "validation_failed").await;
    refused.has_faults(&[("/data", "wrong_type"), ("/status", "not_allowed")]);
}

async fn referrals_are_counted_and_listed(server: &TestServer) {
    let referrer = server.user().await;
    let code = server
        .get(&format!("users/{referrer}"))
        .expect(200)
        .await
        .text_at("/referral/code");
    assert_eq!(code.len(), 8);
    let mut referred = Vec::new();
    for _ in 0..3 {
        let email = format!("{}@example.com", unique("friend"));
        let body = json!({"email": email, "name": "Friend", "referred_by": code});
        let made = server.post("users").json(&body).expect(201).await;
        assert_eq!(made.text_at("/referral/referred_by"), referrer);
        referred.insert(0, made.text_at("/id"));
    }
    let user = server.get(&format!("users/{referrer}")).expect(200).await;
    assert_eq!(
        user.at("/referral/count"),
        3,
        "shown at once, cached or not"
    );
    let page = server
        .get(&format!("users/{referrer}/referrals?limit=2"))
        .expect(200)
        .await;
    assert_eq!(page.text_at("/code"), code);
    assert_eq!(page.at("/count"), 3);
    let cursor = page.text_at("/next_cursor");
    let rest = server.get(&format!(
        "users/{referrer}/referrals?limit=2&cursor={cursor}"
    ));
    let rest = rest.expect(200).await;
    let ids = |answer: &crate::support::Answer| -> Vec<String> {
        let rows = answer.at("/data");
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| row["user_id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!([ids(&page), ids(&rest)].concat(), referred);
    let body = json!({"email": "x@example.com", "name": "X", "referred_by": "ZZZZZZZZ"});
    let refused = server
        .post("users")
        .json(&body)
        .expect_problem(422, "validation_failed")
        .await;
    refused.has_faults(&[("/referred_by", "not_allowed")]);
}

async fn tags_guard_reads_and_writes(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}");
    let tag = server.get(&address).expect(200).await.etag();
    let not_modified = server
        .get(&address)
        .header("if-none-match", &tag)
        .expect(304)
        .await;
    assert!(not_modified.body.is_empty());
    assert_eq!(not_modified.etag(), tag);
    let listed = format!("\"x\", W/{tag}");
    server
        .get(&address)
        .header("if-none-match", &listed)
        .expect(304)
        .await;
    // The tag covers the whole body: balances too.
    server
        .posted(&user, json!({"type": "deposit", "amount": "5"}))
        .await;
    let fresh = server
        .get(&address)
        .header("if-none-match", &tag)
        .expect(200)
        .await;
    assert_ne!(fresh.etag(), tag);
    // A version covers what PATCH and KYC change, so the older tag still holds for a write.
    let rename = |name: &str| server.patch(&address).json(&json!({"name": name}));
    let changed = rename("B").header("if-match", &tag).expect(200).await;
    assert_eq!(changed.etag(), "\"2\"");
    rename("C")
        .header("if-match", &tag)
        .expect_problem(412, "version_mismatch")
        .await;
    rename("C")
        .header("if-match", "\"1\"")
        .expect_problem(412, "version_mismatch")
        .await;
    rename("C")
        .header("if-match", "W/\"2\"")
        .expect_problem(412, "version_mismatch")
        .await;
    rename("C")
        .header("if-match", "\"abc\"")
        .expect_problem(412, "version_mismatch")
        .await;
    rename("C")
        .header("if-none-match", "*")
        .expect_problem(412, "version_mismatch")
        .await;
    rename("C")
        .header("if-match", "2")
        .expect_problem(400, "invalid_parameter")
        .await;
    rename("C").header("if-match", "\"2\"").expect(200).await;
    rename("D").header("if-match", "*").expect(200).await;
    let kyc = server
        .put(&format!("{address}/kyc"))
        .json(&json!({"status": "verified"}));
    kyc.header("if-match", "\"3\"")
        .expect_problem(412, "version_mismatch")
        .await;
    let user = server.get(&address).expect(200).await;
    assert_eq!(
        (user.text_at("/name"), user.at("/version")),
        ("D".to_owned(), json!(4))
    );
}

async fn the_cache_says_what_it_did_and_shows_every_write(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}");
    let source = |answer: &crate::support::Answer| answer.header("x-cache").unwrap().to_owned();
    let first = server.get(&address).expect(200).await;
    assert_eq!(source(&first), "miss");
    assert_eq!(first.header("age"), Some("0"));
    let (first, second) = server.read_and_hit(&address).await;
    assert_eq!(second.body, first.body);
    let bypass = server
        .get(&format!("{address}?cache=false"))
        .expect(200)
        .await;
    assert_eq!(source(&bypass), "bypass");
    assert_eq!(bypass.json(), first.json());
    server
        .get(&format!("{address}?cache=no"))
        .expect_problem(400, "invalid_parameter")
        .await;
    for amount in 1..=5 {
        server
            .posted(&user, json!({"type": "deposit", "amount": "1"}))
            .await;
        let shown = server.get(&address).expect(200).await;
        assert_eq!(shown.text_at("/balances/0/available"), amount.to_string());
    }
    let preferences = format!("{address}/preferences");
    server
        .patch(&preferences)
        .json(&json!({"language": "en"}))
        .expect(200)
        .await;
    assert_eq!(
        server
            .get(&address)
            .expect(200)
            .await
            .text_at("/preferences/language"),
        "en"
    );
    server
        .delete(&format!("cache?tag=user:{user}"))
        .expect(204)
        .await;
    assert_eq!(source(&server.get(&address).expect(200).await), "miss");
}

async fn a_user_who_is_not_there_is_not_found_anywhere(server: &TestServer) {
    let absent = "0190f5a0-0000-7000-8000-000000000000";
    let gets = [
        "",
        "/referrals",
        "/balances",
        "/balances?at=2026-01-01T00:00:00Z",
        "/transactions",
        "/transactions/stats",
        "/history",
        "/preferences",
        "/metadata",
        "/dashboard",
        "/sessions",
        "/transactions/0190f5a0-0000-7000-8000-000000000001",
        "/transactions/0190f5a0-0000-7000-8000-000000000001/history",
    ];
    for id in [
        absent,
        "not-an-id",
        "0190F5A0000070008000000000000000",
        "%00",
        "%FF",
    ] {
        for rest in gets {
            let call = server.get(&format!("users/{id}{rest}"));
            call.expect_problem(404, "not_found").await;
        }
        let address = format!("users/{id}");
        let object = json!({});
        let name = json!({"name": "B"});
        server
            .patch(&address)
            .json(&name)
            .expect_problem(404, "not_found")
            .await;
        let kyc = server
            .put(&format!("{address}/kyc"))
            .json(&json!({"status": "verified"}));
        kyc.expect_problem(404, "not_found").await;
        for document in ["preferences", "metadata"] {
            let address = format!("{address}/{document}");
            server
                .put(&address)
                .json(&object)
                .expect_problem(404, "not_found")
                .await;
            server
                .patch(&address)
                .json(&object)
                .expect_problem(404, "not_found")
                .await;
            server
                .delete(&address)
                .expect_problem(404, "not_found")
                .await;
        }
        let deposit = json!({"type": "deposit", "amount": "1"});
        let post = server
            .post(&format!("{address}/transactions"))
            .key("k")
            .json(&deposit);
        post.expect_problem(404, "not_found").await;
        let sessions = format!("{address}/sessions");
        server
            .post(&sessions)
            .json(&object)
            .expect_problem(404, "not_found")
            .await;
        server
            .delete(&sessions)
            .expect_problem(404, "not_found")
            .await;
    }
}

async fn as_many_requests_as_four_times_the_pool_all_end(server: &TestServer) {
    let user = server.user_with("100").await;
    let pool = server.platform.config().postgres.max_connections * 4;
    let calls = (0..pool).map(|index| {
        let user = user.clone();
        async move {
            if index % 2 == 0 {
                let body = json!({"type": "deposit", "amount": "1"});
                server.posted(&user, body).await;
            } else {
                server
                    .get(&format!("users/{user}?cache=false"))
                    .expect(200)
                    .await;
            }
        }
    });
    let all = tokio::time::timeout(std::time::Duration::from_secs(30), join_all(calls));
    all.await.expect("none hangs");
    assert_eq!(server.available(&user).await, (100 + pool / 2).to_string());
}

async fn a_list_shows_each_users_own_documents(server: &TestServer) {
    for n in 0..5 {
        let user = server.user().await;
        let metadata = json!({ "of": user, "n": n });
        server
            .put(&format!("users/{user}/metadata"))
            .json(&metadata)
            .expect(200)
            .await;
        if n == 0 {
            let path = format!("users/{user}/preferences");
            server.delete(&path).expect(204).await;
        }
    }
    let page = server.get("users").expect(200).await;
    let data = page.at("/data");
    let users = data.as_array().unwrap();
    assert_eq!(users.len(), 5);
    for user in users {
        assert_eq!(user["metadata"]["of"], user["id"]);
        let alone = server.get(&format!(
            "users/{}?cache=false",
            user["id"].as_str().unwrap()
        ));
        assert_eq!(&alone.expect(200).await.json(), user);
    }
}

on_every_backend!(
    a_list_shows_each_users_own_documents,
    a_new_user_is_there_at_once_with_all_that_belongs_to_it,
    all_faults_of_a_body_come_at_once,
    an_identity_belongs_to_one_user,
    two_users_with_one_email_at_once_are_one_201_and_one_409,
    users_are_found_by_each_identity,
    pages_never_repeat_or_skip,
    a_page_that_is_just_full_is_the_last,
    a_patch_changes_what_it_names,
    a_status_moves_as_the_contract_says,
    a_pending_deposit_keeps_a_user_open,
    an_identity_check_is_audited,
    referrals_are_counted_and_listed,
    tags_guard_reads_and_writes,
    the_cache_says_what_it_did_and_shows_every_write,
    a_user_who_is_not_there_is_not_found_anywhere,
    as_many_requests_as_four_times_the_pool_all_end,
);
