//! Every refusal of the contract by its code: none is missing, and each has its status and its members.

use std::collections::BTreeSet;

use abunfi::keys::Scope;
use abunfi_server::error::Code;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Seed, TestServer, on_every_backend};

/// Those that need a store that is away, a service that is full, a limit, or a bug. Each is provoked in the
/// test named beside it.
const ELSEWHERE: [(Code, &str); 6] = [
    (Code::IdempotencyInProgress, "idempotency::patient"),
    (Code::RateLimited, "limits::limited"),
    (Code::Overloaded, "http::narrow"),
    (Code::StoreUnavailable, "http::hurried, outage"),
    (Code::OutcomeUnknown, "outage"),
    (Code::Internal, "a bug, by definition"),
];

/// A call and the refusal that it meets.
struct Case {
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Body,
    code: &'static str,
    /// Members of the problem beyond the common ones.
    members: Value,
}

enum Body {
    None,
    Json(Value),
    Text(String),
    Typed(&'static str),
}

fn case(method: Method, path: impl Into<String>, body: Body, code: &'static str) -> Case {
    Case {
        method,
        path: path.into(),
        headers: Vec::new(),
        body,
        code,
        members: json!({}),
    }
}

impl Case {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn keyed(self) -> Self {
        let key = format!("refusal-{}", self.code);
        self.with("idempotency-key", key)
    }

    fn says(mut self, members: Value) -> Self {
        self.members = members;
        self
    }
}

/// Users and the like that the cases are about.
struct Scene {
    user: String,
    suspended: String,
    transactions: String,
    confirmed: String,
    cursor: String,
    reader: String,
}

async fn set(server: &TestServer) -> Scene {
    let body = json!({
        "email": "taken@example.com", "name": "An", "wallet_address": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "phone": "+84901234567", "social": {"provider": "google", "id": "123"},
    });
    let user = server
        .post("users")
        .json(&body)
        .expect(201)
        .await
        .text_at("/id");
    let suspended = server.user().await;
    let suspend = server
        .patch(&format!("users/{suspended}"))
        .json(&json!({"status": "suspended"}));
    suspend.expect(200).await;
    let deposit =
        json!({"type": "deposit", "amount": "10", "client_reference": "r", "tx_hash": "0x1"});
    let confirmed = server.posted(&user, deposit).await.text_at("/id");
    let reuse = json!({"type": "deposit", "amount": "1"});
    let transactions = format!("users/{user}/transactions");
    server
        .post(&transactions)
        .key("refusal-idempotency_key_reused")
        .json(&reuse)
        .expect(201)
        .await;
    let page = server.get("users?limit=1").expect(200).await;
    Scene {
        transactions,
        suspended,
        confirmed,
        cursor: page.text_at("/next_cursor"),
        reader: server.key("reader", &[Scope::Read]).await,
        user,
    }
}

fn bad_requests(scene: &Scene) -> Vec<Case> {
    let deep = format!("{}1{}", "[".repeat(41), "]".repeat(41));
    let deposit = || Body::Json(json!({"type": "deposit", "amount": "1"}));
    vec![
        case(
            Method::POST,
            "users",
            Body::Text("{".to_owned()),
            "malformed_json",
        ),
        case(Method::POST, "users", Body::Text(deep), "too_deep"),
        case(
            Method::GET,
            "users?limit=0",
            Body::None,
            "invalid_parameter",
        ),
        case(Method::GET, "users?cursor=x", Body::None, "invalid_cursor"),
        case(
            Method::GET,
            format!("logs?cursor={}", scene.cursor),
            Body::None,
            "cursor_mismatch",
        ),
        case(
            Method::POST,
            &scene.transactions,
            deposit(),
            "idempotency_key_missing",
        ),
        case(
            Method::POST,
            &scene.transactions,
            deposit(),
            "idempotency_key_invalid",
        )
        .with("idempotency-key", "a b"),
        case(Method::GET, "users", Body::None, "unauthenticated")
            .with("authorization", "Bearer nobody"),
        case(
            Method::POST,
            "users",
            Body::Json(json!({})),
            "insufficient_scope",
        )
        .with("authorization", format!("Bearer {}", scene.reader)),
        case(Method::GET, "users/x", Body::None, "not_found"),
        case(Method::DELETE, "users", Body::None, "method_not_allowed"),
        case(
            Method::POST,
            "users",
            Body::Text(" ".repeat(1024 * 1024 + 1)),
            "body_too_large",
        ),
        case(
            Method::POST,
            "users",
            Body::Typed("text/plain"),
            "unsupported_media_type",
        ),
    ]
}

fn conflicts(scene: &Scene) -> Vec<Case> {
    let user = |field: &str, value: Value| {
        let mut body = json!({"email": "free@example.com", "name": "B"});
        body[field] = value;
        Body::Json(body)
    };
    let deposit = |field: &str, value: &str| {
        let mut body = json!({"type": "deposit", "amount": "1"});
        body[field] = value.into();
        Body::Json(body)
    };
    let wallet = json!("0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed");
    let address = format!("users/{}", scene.user);
    vec![
        case(
            Method::POST,
            "users",
            user("email", json!("Taken@Example.com")),
            "email_taken",
        ),
        case(
            Method::POST,
            "users",
            user("wallet_address", wallet),
            "wallet_address_taken",
        ),
        case(
            Method::POST,
            "users",
            user("phone", json!("+84901234567")),
            "phone_taken",
        ),
        case(
            Method::POST,
            "users",
            user("social", json!({"provider": "google", "id": "123"})),
            "social_taken",
        ),
        case(
            Method::POST,
            &scene.transactions,
            deposit("client_reference", "r"),
            "client_reference_taken",
        )
        .keyed(),
        case(
            Method::POST,
            &scene.transactions,
            deposit("tx_hash", "0x1"),
            "tx_hash_taken",
        )
        .keyed(),
        case(
            Method::POST,
            format!("{}/{}/cancel", scene.transactions, scene.confirmed),
            Body::None,
            "invalid_transition",
        )
        .keyed()
        .says(json!({"from": "confirmed", "to": "cancelled"})),
        case(
            Method::POST,
            format!("users/{}/transactions", scene.suspended),
            deposit("amount", "1"),
            "user_not_active",
        )
        .keyed(),
        case(
            Method::PATCH,
            &address,
            Body::Json(json!({"status": "closed"})),
            "balance_not_zero",
        ),
        case(
            Method::PATCH,
            &address,
            Body::Json(json!({"name": "B"})),
            "version_mismatch",
        )
        .with("if-match", "\"99\""),
    ]
}

fn unprocessable(scene: &Scene) -> Vec<Case> {
    let withdraw = |body: Value| {
        let mut full = json!({"type": "withdraw", "amount": "1"});
        full.as_object_mut()
            .unwrap()
            .extend(body.as_object().unwrap().clone());
        Body::Json(full)
    };
    let post = |body: Body, code: &'static str| {
        case(Method::POST, &scene.transactions, body, code).keyed()
    };
    let item = json!({"user_id": scene.user, "type": "withdraw", "amount": "100"});
    let batch = Body::Json(json!({"atomic": true, "transactions": [item]}));
    vec![
        case(Method::POST, "users", Body::Json(json!({"name": "B"})), "validation_failed")
            .says(json!({"errors": [{"pointer": "/email", "code": "required", "detail": "this field is required"}]})),
        post(withdraw(json!({"amount": "12"})), "insufficient_funds").says(json!({"available": "11"})),
        post(withdraw(json!({"shares": "1"})), "insufficient_shares"),
        post(Body::Json(json!({"type": "deposit", "amount": "999999999999"})), "amount_overflow"),
        post(withdraw(json!({"asset": "NONE"})), "unknown_asset"),
        post(withdraw(json!({})), "idempotency_key_reused"),
        case(Method::POST, "transactions/batch", batch, "batch_failed").keyed().says(json!({"index": 0})),
    ]
}

async fn every_refusal_has_its_code(server: &TestServer) {
    let scene = set(server).await;
    let mut met = BTreeSet::new();
    let cases = [
        bad_requests(&scene),
        conflicts(&scene),
        unprocessable(&scene),
    ];
    for case in cases.into_iter().flatten() {
        let mut call = server.call(case.method.clone(), &case.path);
        for (name, value) in &case.headers {
            call = match *name {
                "authorization" => call.by(value.strip_prefix("Bearer ").unwrap()),
                name => call.header(name, value),
            };
        }
        let call = match case.body {
            Body::None => call,
            Body::Json(body) => call.json(&body),
            Body::Text(body) => call.text(body),
            Body::Typed(content_type) => call.typed(content_type, "{}"),
        };
        let code = Code::ALL
            .iter()
            .find(|code| code.as_str() == case.code)
            .expect("a code of the table");
        let answer = call.send().await;
        answer.check_problem(
            code.status().as_u16(),
            case.code,
            &format!("{} {}", case.method, case.path),
        );
        for (name, value) in case.members.as_object().unwrap() {
            assert_eq!(answer.json()[name], *value, "{}", answer.text());
        }
        met.insert(*code);
    }
    met.extend(ELSEWHERE.map(|(code, _)| code));
    let missing: Vec<_> = Code::ALL
        .iter()
        .filter(|code| !met.contains(code))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The table of the contract, word by word.
#[test]
fn the_table_is_that_of_the_contract() {
    let contract = [
        (
            400,
            "malformed_json too_deep invalid_parameter invalid_cursor cursor_mismatch idempotency_key_missing idempotency_key_invalid",
        ),
        (401, "unauthenticated"),
        (403, "insufficient_scope"),
        (404, "not_found"),
        (405, "method_not_allowed"),
        (
            409,
            "email_taken wallet_address_taken phone_taken social_taken client_reference_taken tx_hash_taken invalid_transition user_not_active balance_not_zero idempotency_in_progress",
        ),
        (412, "version_mismatch"),
        (413, "body_too_large"),
        (415, "unsupported_media_type"),
        (
            422,
            "validation_failed insufficient_funds insufficient_shares amount_overflow unknown_asset idempotency_key_reused batch_failed",
        ),
        (429, "rate_limited"),
        (500, "internal"),
        (503, "store_unavailable outcome_unknown overloaded"),
    ];
    let contract: Vec<(u16, &str)> = contract
        .into_iter()
        .flat_map(|(status, codes)| codes.split(' ').map(move |code| (status, code)))
        .collect();
    let ours: Vec<_> = Code::ALL
        .iter()
        .map(|code| (code.status().as_u16(), code.as_str()))
        .collect();
    assert_eq!(ours, contract);
}

on_every_backend!(every_refusal_has_its_code);
