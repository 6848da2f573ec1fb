//! Who may do what.

use abunfi::Context;
use abunfi::keys::Scope;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Call, Seed, TestServer, on_every_backend};

/// A route with a body that it takes, and the scopes of which one is enough.
struct Route {
    method: Method,
    path: String,
    body: Option<Value>,
    scopes: &'static [Scope],
    /// Whether a session of the user in the path may.
    by_session: bool,
}

fn call(server: &TestServer, route: &Route) -> Call {
    let call = server.call(route.method.clone(), &route.path).key("k");
    match &route.body {
        Some(body) => call.json(body),
        None => call,
    }
}

/// Every route but those at the root, those of `/session` and those that end what the test needs.
fn routes(user: &str, transaction: &str) -> Vec<Route> {
    use Scope::{Money, Operate, Read, Write};
    let mut routes = Vec::new();
    let mut add =
        |method: Method, path: &str, body: Option<Value>, scopes: &'static [Scope], by_session| {
            routes.push(Route {
                method,
                path: path.replace("{id}", user).replace("{tx}", transaction),
                body,
                scopes,
                by_session,
            });
        };
    for path in [
        "users/{id}",
        "users/{id}/referrals",
        "users/{id}/balances",
        "users/{id}/transactions",
        "users/{id}/transactions/stats",
        "users/{id}/transactions/{tx}",
        "users/{id}/transactions/{tx}/history",
        "users/{id}/history",
        "users/{id}/preferences",
        "users/{id}/metadata",
        "users/{id}/dashboard",
        "users/{id}/sessions",
    ] {
        add(Method::GET, path, None, &[Read], true);
    }
    for path in ["users", "dev-data/a", "logs"] {
        add(Method::GET, path, None, &[Read], false);
    }
    add(Method::GET, "assets/VND", None, &[Read, Operate], false);
    add(Method::GET, "ledger/trial-balance", None, &[Operate], false);
    add(Method::GET, "stats", None, &[Operate], false);
    add(Method::GET, "/metrics", None, &[Operate], false);
    let some = || Some(json!({"x": 1}));
    for path in ["users/{id}/preferences", "users/{id}/metadata"] {
        add(Method::PUT, path, some(), &[Write], true);
        add(Method::PATCH, path, some(), &[Write], true);
        add(Method::DELETE, path, None, &[Write], true);
    }
    add(
        Method::POST,
        "users/{id}/sessions",
        Some(json!({})),
        &[Write],
        true,
    );
    add(
        Method::PATCH,
        "users/{id}",
        Some(json!({"name": "B"})),
        &[Write],
        false,
    );
    add(
        Method::PUT,
        "users/{id}/kyc",
        Some(json!({"status": "verified"})),
        &[Operate],
        false,
    );
    let hold = json!({"type": "withdraw", "amount": "1", "status": "pending"});
    add(
        Method::POST,
        "users/{id}/transactions",
        Some(hold),
        &[Money],
        true,
    );
    for verb in ["submit", "confirm", "fail"] {
        add(
            Method::POST,
            &format!("users/{{id}}/transactions/{{tx}}/{verb}"),
            None,
            &[Money],
            false,
        );
    }
    let item = json!({"user_id": user, "type": "deposit", "amount": "1"});
    add(
        Method::POST,
        "transactions/batch",
        Some(json!({"atomic": true, "transactions": [item]})),
        &[Money],
        false,
    );
    let made = json!({"email": "made@example.com", "name": "Made"});
    add(Method::POST, "users", Some(made), &[Write], false);
    add(
        Method::PUT,
        "assets/VND",
        Some(json!({"share_price": "2"})),
        &[Operate],
        false,
    );
    add(Method::PUT, "dev-data/a/b", some(), &[Write], false);
    add(Method::PATCH, "dev-data/a/b", some(), &[Write], false);
    add(Method::GET, "dev-data/a/b", None, &[Read], false);
    add(Method::DELETE, "dev-data/a/b", None, &[Write], false);
    let entry = json!({"level": "info", "target": "t", "message": "m"});
    add(Method::POST, "logs", Some(entry), &[Write], false);
    add(
        Method::POST,
        "rate-limits/default/check",
        Some(json!({"key": "a"})),
        &[Write],
        false,
    );
    add(
        Method::PUT,
        "temp/a",
        Some(json!({"value": 1, "ttl": 60})),
        &[Write],
        false,
    );
    add(Method::GET, "temp/a", None, &[Read], false);
    add(Method::POST, "temp/a/take", None, &[Write], false);
    add(Method::DELETE, "temp/a", None, &[Write], false);
    add(Method::DELETE, "cache?tag=a", None, &[Operate], false);
    routes
}

async fn every_route_needs_its_scope(server: &TestServer) {
    let user = server.user_with("10").await;
    let held = server.withdrawal(&user, "1").await;
    let mut keys = Vec::new();
    for scope in Scope::ALL {
        keys.push((*scope, server.key(scope.as_str(), &[*scope]).await));
    }
    for route in routes(&user, &held) {
        call(server, &route)
            .by_nobody()
            .expect_problem(401, "unauthenticated")
            .await;
        for (scope, token) in &keys {
            let answer = call(server, &route).by(token).send().await;
            let place = format!("{} {} by {scope}", route.method, route.path);
            if route.scopes.contains(scope) {
                assert!(
                    ![401, 403].contains(&answer.status.as_u16()),
                    "{place}: {}",
                    answer.text()
                );
                assert!(answer.status.as_u16() < 500, "{place}: {}", answer.text());
            } else {
                answer.check_problem(403, "insufficient_scope", &place);
            }
        }
    }
}

async fn a_session_reaches_its_own_user_only(server: &TestServer) {
    let user = server.user_with("10").await;
    let other = server.user_with("10").await;
    let held = server.withdrawal(&user, "1").await;
    let foreign = server.withdrawal(&other, "1").await;
    let (token, _) = server.session(&user).await;
    for route in routes(&user, &held) {
        let answer = call(server, &route).by(&token).send().await;
        let place = format!("own {} {}", route.method, route.path);
        if route.by_session {
            assert!(answer.status.is_success(), "{place}: {}", answer.text());
        } else {
            answer.check_problem(403, "insufficient_scope", &place);
        }
    }
    for route in routes(&other, &foreign) {
        let answer = call(server, &route).by(&token).send().await;
        let place = format!("another's {} {}", route.method, route.path);
        let is_users = route.path.starts_with("users/");
        let (status, code) = if is_users {
            (404, "not_found")
        } else {
            (403, "insufficient_scope")
        };
        answer.check_problem(status, code, &place);
    }
    let cancel = server
        .post(&format!("users/{other}/transactions/{foreign}/cancel"))
        .by(&token)
        .key("c");
    cancel.expect_problem(404, "not_found").await;
    let end = server.delete(&format!("users/{other}/sessions")).by(&token);
    end.expect_problem(404, "not_found").await;
}

async fn a_session_asks_for_a_withdrawal_and_nothing_else(server: &TestServer) {
    let user = server.user_with("10").await;
    let (token, session) = server.session(&user).await;
    let address = format!("users/{user}/transactions");
    let ask = |key: &str, body: Value| server.post(&address).by(&token).key(key).json(&body);
    for (index, body) in [
        json!({"type": "withdraw", "amount": "1"}),
        json!({"type": "withdraw", "amount": "1", "status": "confirmed"}),
        json!({"type": "deposit", "amount": "1", "status": "pending"}),
        json!({"type": "yield_harvest", "amount": "1", "status": "pending"}),
        json!({"type": "gift", "amount": "x", "status": "pending"}),
        json!({}),
    ]
    .into_iter()
    .enumerate()
    {
        ask(&format!("k{index}"), body)
            .expect_problem(403, "insufficient_scope")
            .await;
    }
    let good = json!({"type": "withdraw", "amount": "4", "status": "pending"});
    let call = server.post(&address).by(&token).json(&good);
    call.expect_problem(400, "idempotency_key_missing").await;
    let held = ask("good", good).expect(201).await.text_at("/id");
    let history = server
        .get(&format!("{address}/{held}/history"))
        .expect(200)
        .await;
    assert_eq!(
        history.at("/data/0/actor"),
        json!({"kind": "session", "id": user, "session_id": session})
    );
    let cancel = |id: &str| {
        server
            .post(&format!("{address}/{id}/cancel"))
            .by(&token)
            .key("cancel")
    };
    cancel(&held).expect(200).await;
    let deposit = json!({"type": "deposit", "amount": "1", "status": "pending"});
    let deposit = server.posted(&user, deposit).await.text_at("/id");
    cancel(&deposit)
        .expect_problem(403, "insufficient_scope")
        .await;
    cancel("0190f5a0-0000-7000-8000-000000000000")
        .expect_problem(404, "not_found")
        .await;
    cancel("x").expect_problem(404, "not_found").await;
}

async fn tokens_must_be_whole_and_alone(server: &TestServer) {
    let (token, _) = server.session(&server.user().await).await;
    let bearer = |value: &str| {
        server
            .get("users")
            .by_nobody()
            .header("authorization", value)
    };
    let admin = &server.admin;
    bearer(&format!("bearer {admin}")).expect(200).await;
    for bad in [
        admin.clone(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Basic {admin}"),
        format!("Bearer {admin}x"),
        format!("Bearer {} {admin}", "x"),
        format!("Bearer {}", &token[..46]),
        format!("Bearer abs_{}", "A".repeat(43)),
        format!("Bearer abk_{}", "A".repeat(43)),
        format!("Bearer {}", "x".repeat(5_000)),
    ] {
        let refused = bearer(&bad).expect_problem(401, "unauthenticated").await;
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        assert!(!refused.text().contains(admin), "no secret comes back");
    }
    let twice =
        bearer(&format!("Bearer {admin}")).header("authorization", &format!("Bearer {admin}"));
    twice.expect_problem(401, "unauthenticated").await;
    // A session's routes are not for keys.
    server
        .get("session")
        .expect_problem(403, "insufficient_scope")
        .await;
    server
        .post("session/rotate")
        .expect_problem(403, "insufficient_scope")
        .await;
    server
        .delete("session")
        .expect_problem(403, "insufficient_scope")
        .await;
}

async fn who_asks_is_settled_before_what_is_asked(server: &TestServer) {
    let nobody = server.post("users").by_nobody().text("{");
    nobody.expect_problem(401, "unauthenticated").await;
    let reader = server.key("reader", &[Scope::Read]).await;
    let call = server.post("users").by(&reader).typed("text/plain", "{");
    call.expect_problem(403, "insufficient_scope").await;
    let call = server.get("users/x?colour=red").by_nobody();
    call.expect_problem(401, "unauthenticated").await;
}

async fn a_revoked_key_is_refused_within_a_second(server: &TestServer) {
    let context = Context::system("tests");
    let made = server
        .platform
        .keys()
        .create(&context, "gone", &[Scope::Read])
        .await
        .unwrap();
    server.get("users").by(&made.token).expect(200).await;
    server
        .platform
        .keys()
        .revoke(&context, made.key.id)
        .await
        .unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let call = server.get("users").by(&made.token);
    call.expect_problem(401, "unauthenticated").await;
}

on_every_backend!(
    every_route_needs_its_scope,
    a_session_reaches_its_own_user_only,
    a_session_asks_for_a_withdrawal_and_nothing_else,
    tokens_must_be_whole_and_alone,
    who_asks_is_settled_before_what_is_asked,
    a_revoked_key_is_refused_within_a_second,
);
