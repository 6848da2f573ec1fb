//! Rate limits: for others, and on the platform's own routes.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::{Seed, TestServer, on_every_backend, with_config};

async fn a_policy_counts_what_it_allows(server: &TestServer) {
    let check = |key: &str| {
        server
            .post("rate-limits/login/check")
            .json(&json!({"key": key}))
            .expect(200)
    };
    for remaining in (0..5).rev() {
        let decision = check("ip:1").await.json();
        assert_eq!(decision["allowed"], true);
        assert_eq!(decision["limit"], 5);
        assert_eq!(decision["remaining"], remaining);
        assert_eq!(decision["retry_after"], 0);
        assert!(decision["reset_after"].as_u64().unwrap() >= 1);
    }
    let refused = check("ip:1").await.json();
    assert_eq!(
        (&refused["allowed"], &refused["remaining"]),
        (&json!(false), &json!(0))
    );
    assert!(
        (1..=12).contains(&refused["retry_after"].as_u64().unwrap()),
        "{refused}"
    );
    assert_eq!(
        check("ip:2").await.at("/allowed"),
        true,
        "another key is another count"
    );
    let default = server
        .post("rate-limits/default/check")
        .json(&json!({"key": "a", "cost": 60}))
        .expect(200);
    assert_eq!(default.await.at("/remaining"), 40);
    let again = server
        .post("rate-limits/default/check")
        .json(&json!({"key": "a", "cost": 60}))
        .expect(200);
    assert_eq!(again.await.at("/allowed"), false);
    let rest = server
        .post("rate-limits/default/check")
        .json(&json!({"key": "a", "cost": 40}))
        .expect(200);
    assert_eq!(rest.await.at("/allowed"), true, "a refusal charges nothing");
}

async fn many_at_once_are_counted_exactly(server: &TestServer) {
    let checks = (0..150).map(|_| {
        server
            .post("rate-limits/default/check")
            .json(&json!({"key": "many"}))
            .send()
    });
    let allowed = join_all(checks)
        .await
        .iter()
        .filter(|answer| answer.at("/allowed") == json!(true))
        .count();
    // One more becomes free every 600 ms.
    assert!((100..=110).contains(&allowed), "{allowed}");
}

async fn faults_and_unknown_policies_are_refused(server: &TestServer) {
    let call = server
        .post("rate-limits/nothing/check")
        .json(&json!({"key": "a"}));
    call.expect_problem(404, "not_found").await;
    let check = |body: Value| {
        let call = server.post("rate-limits/login/check").json(&body);
        call.expect_problem(422, "validation_failed")
    };
    check(json!({"keys": "a"}))
        .await
        .has_faults(&[("/key", "required"), ("/keys", "unknown_field")]);
    for cost in [json!(0), json!(-1), json!(5_000_000_000_u64)] {
        check(json!({"key": "a", "cost": cost}))
            .await
            .has_faults(&[("/cost", "out_of_range")]);
    }
    check(json!({"key": "", "cost": "1"}))
        .await
        .has_faults(&[("/cost", "wrong_type"), ("/key", "too_short")]);
}

async fn own_routes_are_limited_when_configured(server: &TestServer) {
    let user = server.user().await;
    let (token, _) = server.session(&user).await;
    let get = || server.get("session").by(&token);
    let first = get().expect(200).await;
    assert_eq!(first.header("ratelimit-policy"), Some("\"tiny\";q=3;w=60"));
    assert!(
        first
            .header("ratelimit")
            .unwrap()
            .starts_with("\"tiny\";r=2;t=")
    );
    get().expect(200).await;
    get().expect(200).await;
    let refused = get().expect_problem(429, "rate_limited").await;
    assert!(
        refused
            .header("ratelimit")
            .unwrap()
            .starts_with("\"tiny\";r=0;t=")
    );
    assert_eq!(
        refused.header("ratelimit-policy"),
        Some("\"tiny\";q=3;w=60")
    );
    // Guessing tokens is limited by address.
    for _ in 0..3 {
        let guess = server
            .get("users")
            .by("wrong-wrong-wrong-wrong-wrong-wrong");
        guess.expect_problem(401, "unauthenticated").await;
    }
    let guess = server
        .get("users")
        .by("wrong-wrong-wrong-wrong-wrong-wrong");
    guess.expect_problem(429, "rate_limited").await;
    server.get("/health").by_nobody().expect(200).await;
}

on_every_backend!(
    a_policy_counts_what_it_allows,
    many_at_once_are_counted_exactly,
    faults_and_unknown_policies_are_refused
);

with_config!(limited, |config| {
    let policy = abunfi::rate_limit::Policy {
        limit: 3,
        period_seconds: 60,
        when_away: abunfi::rate_limit::WhenAway::InProcess,
    };
    config.rate_limits.insert("tiny".to_owned(), policy);
    config.own_rate_limit = Some("tiny".to_owned());
}; own_routes_are_limited_when_configured);
