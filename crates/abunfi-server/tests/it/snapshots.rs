//! The main shapes of the contract, as they are.

use serde_json::json;

use crate::support::{Backend, TestServer, run};

/// What differs from run to run.
const REDACTED: [&str; 12] = [
    ".id",
    ".user_id",
    ".created_at",
    ".updated_at",
    ".confirmed_at",
    ".referral.code",
    ".session.id",
    ".session.user_id",
    ".session.created_at",
    ".session.last_seen_at",
    ".session.idle_expires_at",
    ".session.expires_at",
];

async fn shapes(server: &TestServer) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for place in REDACTED {
        settings.add_redaction(place, "[varies]");
    }
    settings.add_redaction(".token", "[secret]");
    settings.add_redaction(".**.at", "[varies]");
    settings.add_redaction(".**.hash", "[varies]");
    settings.add_redaction(".**.previous_hash", "[varies]");
    settings.add_redaction(".**.transaction_id", "[varies]");
    let body = json!({"email": "an@example.com", "name": "An", "phone": "+84901234567", "metadata": {"plan": "gold"}});
    let user = server.post("users").json(&body).expect(201).await;
    let id = user.text_at("/id");
    let body = json!({"type": "deposit", "amount": "1500000", "shares": "1.5"});
    let call = server
        .post(&format!("users/{id}/transactions"))
        .key("k")
        .json(&body);
    let transaction = call.header("x-request-id", "snapshot").expect(201).await;
    let session = server
        .post(&format!("users/{id}/sessions"))
        .json(&json!({"device": "Pixel 9", "ttl": 60}));
    let session = session.expect(201).await;
    let history = server.get(&format!("users/{id}/history")).expect(200).await;
    let problem = server
        .post("users")
        .header("x-request-id", "snapshot")
        .json(&json!({"name": ""}));
    let problem = problem.expect_problem(422, "validation_failed").await;
    settings.bind(|| {
        insta::assert_json_snapshot!("user", user.json());
        insta::assert_json_snapshot!("transaction", transaction.json());
        insta::assert_json_snapshot!("session", session.json());
        insta::assert_json_snapshot!("history", history.json());
        insta::assert_json_snapshot!("problem", problem.json());
    });
}

#[test]
fn the_main_shapes_are_as_they_were() {
    run(Backend::Embedded, |_| {}, shapes);
}
