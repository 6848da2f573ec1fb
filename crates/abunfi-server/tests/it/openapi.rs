//! The description agrees with the service: its examples are taken, its shapes are those of real answers.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Call, Seed, TestServer, on_every_backend, schema, unique};

/// The operations that were called, against the document.
struct Contract {
    document: Value,
    called: BTreeSet<String>,
}

impl Contract {
    fn operation(&self, method: &Method, template: &str) -> &Value {
        let method = method.as_str().to_lowercase();
        let operation = &self.document["paths"][template][&method];
        assert!(
            operation.is_object(),
            "{method} {template} is not described"
        );
        operation
    }

    /// The example of an operation's body.
    fn example(&self, method: &Method, template: &str) -> Value {
        let content = &self.operation(method, template)["requestBody"]["content"];
        let mut schema = &content["application/json"]["schema"];
        loop {
            if let Some(example) = schema["examples"].get(0) {
                return example.clone();
            }
            let next = schema["$ref"].as_str().or_else(|| {
                let choices = schema["oneOf"].as_array()?;
                choices.iter().find_map(|choice| choice["$ref"].as_str())
            });
            let next = next.unwrap_or_else(|| panic!("{template} has no example"));
            schema = self.document.pointer(&next[1..]).unwrap();
        }
    }

    /// Sends a call and holds its answer against the description.
    async fn check(&mut self, method: Method, template: &str, call: Call) -> Answer {
        let answer = call.send().await;
        let place = format!("{method} {template}");
        assert!(answer.status.is_success(), "{place}: {}", answer.text());
        let operation = self.operation(&method, template);
        let response = &operation["responses"][answer.status.as_str()];
        assert!(
            response.is_object(),
            "{place} does not describe {}",
            answer.status
        );
        let schema = &response["content"]["application/json"]["schema"];
        if schema.is_object() {
            let faults = schema::faults(&self.document, schema, &answer.json(), "");
            assert!(faults.is_empty(), "{place}: {faults:#?}\n{}", answer.text());
        } else if response["content"].is_null() {
            assert!(answer.body.is_empty(), "{place}: {}", answer.text());
        }
        for (name, _) in response["headers"].as_object().into_iter().flatten() {
            let is_for_some = ["Idempotent-Replayed", "X-Document-State", "X-Expires-At"]
                .contains(&name.as_str());
            assert!(
                is_for_some || answer.header(name).is_some(),
                "{place}: {name}"
            );
        }
        self.called
            .insert(format!("{} {template}", method.as_str().to_lowercase()));
        answer
    }
}

async fn every_operation_answers_as_described_and_takes_its_example(server: &TestServer) {
    let mut contract = Contract {
        document: server.get("/openapi.json").expect(200).await.json(),
        called: BTreeSet::new(),
    };
    let contract = &mut contract;
    for path in ["/health", "/livez", "/readyz", "/metrics"] {
        contract.check(Method::GET, path, server.get(path)).await;
    }
    check_users(contract, server).await;
    check_money(contract, server).await;
    check_documents(contract, server).await;
    check_the_rest(contract, server).await;
    let described: BTreeSet<_> = contract.document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object()
                .unwrap()
                .keys()
                .map(move |method| format!("{method} {path}"))
        })
        .collect();
    assert_eq!(contract.called, described, "every operation is called here");
}

async fn check_users(contract: &mut Contract, server: &TestServer) {
    let template = "/api/v1/users";
    let example = contract.example(&Method::POST, template);
    let made = contract
        .check(Method::POST, template, server.post("users").json(&example))
        .await;
    let user = made.text_at("/id");
    contract
        .check(Method::GET, template, server.get("users"))
        .await;
    let template = "/api/v1/users/{id}";
    contract
        .check(Method::GET, template, server.get(&format!("users/{user}")))
        .await;
    let example = contract.example(&Method::PATCH, template);
    let call = server.patch(&format!("users/{user}")).json(&example);
    contract.check(Method::PATCH, template, call).await;
    let template = "/api/v1/users/{id}/kyc";
    let example = contract.example(&Method::PUT, template);
    let call = server.put(&format!("users/{user}/kyc")).json(&example);
    contract.check(Method::PUT, template, call).await;
    let friend = json!({"email": "friend@example.com", "name": "F", "referred_by": made.at("/referral/code")});
    server.post("users").json(&friend).expect(201).await;
    let call = server.get(&format!("users/{user}/referrals"));
    contract
        .check(Method::GET, "/api/v1/users/{id}/referrals", call)
        .await;
}

async fn check_money(contract: &mut Contract, server: &TestServer) {
    let user = server.user().await;
    let base = "/api/v1/users/{id}/transactions";
    let own = format!("users/{user}/transactions");
    let example = contract.example(&Method::POST, base);
    let call = server.post(&own).key("example").json(&example);
    contract.check(Method::POST, base, call).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(server.withdrawal(&user, "1").await);
    }
    for (id, verb) in [(0, "submit"), (0, "confirm"), (1, "fail"), (2, "cancel")] {
        let template = format!("{base}/{{tx}}/{verb}");
        let example = contract.example(&Method::POST, &template);
        let call = server
            .post(&format!("{own}/{}/{verb}", held[id]))
            .key(verb)
            .json(&example);
        contract.check(Method::POST, &template, call).await;
    }
    contract.check(Method::GET, base, server.get(&own)).await;
    let call = server.get(&format!("{own}/{}", held[0]));
    contract
        .check(Method::GET, &format!("{base}/{{tx}}"), call)
        .await;
    let call = server.get(&format!("{own}/{}/history", held[0]));
    contract
        .check(Method::GET, &format!("{base}/{{tx}}/history"), call)
        .await;
    contract
        .check(
            Method::GET,
            &format!("{base}/stats"),
            server.get(&format!("{own}/stats")),
        )
        .await;
    let item = |amount: &str| json!({"user_id": user, "type": "withdraw", "amount": amount});
    let body =
        json!({"atomic": false, "transactions": [item("1"), item("99999999999"), item("x")]});
    let call = server.post("transactions/batch").key("b").json(&body);
    contract
        .check(Method::POST, "/api/v1/transactions/batch", call)
        .await;
    for part in ["balances", "history", "dashboard"] {
        let call = server.get(&format!("users/{user}/{part}"));
        contract
            .check(Method::GET, &format!("/api/v1/users/{{id}}/{part}"), call)
            .await;
    }
    let template = "/api/v1/assets/{asset}";
    let example = contract.example(&Method::PUT, template);
    for _ in 0..2 {
        let call = server.put("assets/USDT").json(&example);
        contract.check(Method::PUT, template, call).await;
    }
    contract
        .check(Method::GET, template, server.get("assets/USDT"))
        .await;
    let call = server.get("ledger/trial-balance");
    contract
        .check(Method::GET, "/api/v1/ledger/trial-balance", call)
        .await;
}

async fn check_documents(contract: &mut Contract, server: &TestServer) {
    let user = server.user().await;
    let addresses = [
        (
            "/api/v1/users/{id}/preferences",
            format!("users/{user}/preferences"),
        ),
        (
            "/api/v1/users/{id}/metadata",
            format!("users/{user}/metadata"),
        ),
        (
            "/api/v1/dev-data/{namespace}/{key}",
            "dev-data/experiments/onboarding.v2?ttl=60".to_owned(),
        ),
    ];
    for (template, address) in addresses {
        let plain = address.split('?').next().unwrap();
        for method in [Method::PUT, Method::PUT, Method::PATCH] {
            let example = contract.example(&method, template);
            let call = server.call(method.clone(), &address).json(&example);
            contract.check(method, template, call).await;
        }
        contract
            .check(Method::GET, template, server.get(plain))
            .await;
        if template.contains("dev-data") {
            let call = server.get("dev-data/experiments");
            contract
                .check(Method::GET, "/api/v1/dev-data/{namespace}", call)
                .await;
        }
        contract
            .check(Method::DELETE, template, server.delete(plain))
            .await;
    }
    let template = "/api/v1/logs";
    let example = contract.example(&Method::POST, template);
    contract
        .check(Method::POST, template, server.post("logs").json(&example))
        .await;
    contract
        .check(Method::GET, template, server.get("logs"))
        .await;
}

async fn check_the_rest(contract: &mut Contract, server: &TestServer) {
    let user = server.user().await;
    let template = "/api/v1/users/{id}/sessions";
    let address = format!("users/{user}/sessions");
    let example = contract.example(&Method::POST, template);
    let made = contract
        .check(Method::POST, template, server.post(&address).json(&example))
        .await;
    let token = made.text_at("/token");
    contract
        .check(Method::GET, template, server.get(&address))
        .await;
    contract
        .check(
            Method::GET,
            "/api/v1/session",
            server.get("session").by(&token),
        )
        .await;
    let call = server.post("session/rotate").by(&token);
    let token = contract
        .check(Method::POST, "/api/v1/session/rotate", call)
        .await
        .text_at("/token");
    contract
        .check(
            Method::DELETE,
            "/api/v1/session",
            server.delete("session").by(&token),
        )
        .await;
    let (_, session) = server.session(&user).await;
    let call = server.delete(&format!("{address}/{session}"));
    contract
        .check(Method::DELETE, "/api/v1/users/{id}/sessions/{sid}", call)
        .await;
    contract
        .check(Method::DELETE, template, server.delete(&address))
        .await;
    let template = "/api/v1/rate-limits/{policy}/check";
    let example = contract.example(&Method::POST, template);
    let call = server.post("rate-limits/login/check").json(&example);
    contract.check(Method::POST, template, call).await;
    let template = "/api/v1/temp/{key}";
    let key = unique("otp:");
    let address = format!("temp/{key}");
    let example = contract.example(&Method::PUT, template);
    contract
        .check(Method::PUT, template, server.put(&address).json(&example))
        .await;
    contract
        .check(Method::GET, template, server.get(&address))
        .await;
    let call = server.post(&format!("{address}/take"));
    contract
        .check(Method::POST, "/api/v1/temp/{key}/take", call)
        .await;
    contract
        .check(Method::DELETE, template, server.delete(&address))
        .await;
    contract
        .check(
            Method::DELETE,
            "/api/v1/cache",
            server.delete("cache?tag=a"),
        )
        .await;
    contract
        .check(Method::GET, "/api/v1/stats", server.get("stats"))
        .await;
}

async fn a_refusal_has_the_shape_that_is_described(server: &TestServer) {
    let document = server.get("/openapi.json").expect(200).await.json();
    let problem = &document["components"]["schemas"]["Problem"];
    let user = server.user().await;
    let refusals = [
        server.post("users").json(&json!({"x": 1})).send().await,
        server.get("users/x").send().await,
        server
            .post(&format!("users/{user}/transactions"))
            .key("k")
            .json(&json!({"type": "withdraw", "amount": "1"}))
            .send()
            .await,
        server
            .patch(&format!("users/{user}"))
            .header("if-match", "\"9\"")
            .json(&json!({}))
            .send()
            .await,
    ];
    for refused in refusals {
        let faults = schema::faults(&document, problem, &refused.json(), "");
        assert!(faults.is_empty(), "{faults:#?}\n{}", refused.text());
    }
}

async fn examples_of_answers_have_the_members_of_real_ones(server: &TestServer) {
    let document = server.get("/openapi.json").expect(200).await.json();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut count = 0;
    for (name, schema) in schemas {
        for example in schema["examples"].as_array().into_iter().flatten() {
            let faults = schema::faults(&document, schema, example, "");
            assert!(faults.is_empty(), "{name}: {faults:#?}");
            count += 1;
        }
    }
    assert!(count > 15, "{count}");
    let user = server.user().await;
    let deposit = json!({"type": "deposit", "amount": "1"});
    let real = [
        (
            "User",
            server.get(&format!("users/{user}")).expect(200).await,
        ),
        ("PostedTransaction", server.posted(&user, deposit).await),
        (
            "TokenAndSession",
            server
                .post(&format!("users/{user}/sessions"))
                .expect(201)
                .await,
        ),
        (
            "Problem",
            server.post("users").json(&json!({})).send().await,
        ),
    ];
    for (name, answer) in real {
        assert_eq!(
            members(&schemas[name]["examples"][0]),
            members(&answer.json()),
            "{name}"
        );
    }
}

/// The names of all members, inside too; what is inside of lists counts once.
fn members(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                found.extend(
                    members(value)
                        .into_iter()
                        .map(|inner| format!("{name}/{inner}")),
                );
            }
        }
        Value::Array(items) => found.extend(items.iter().flat_map(members)),
        _ => {}
    }
    found
}

on_every_backend!(
    every_operation_answers_as_described_and_takes_its_example,
    a_refusal_has_the_shape_that_is_described,
    examples_of_answers_have_the_members_of_real_ones,
);
