//! The dashboard.

use serde_json::json;

use crate::support::{Seed, TestServer, on_every_backend};

async fn a_dashboard_is_one_cached_read_that_shows_every_write(server: &TestServer) {
    let user = server.user_with("100").await;
    let address = format!("users/{user}/dashboard");
    let first = server.get(&address).expect(200).await;
    assert_eq!(first.header("x-cache"), Some("miss"));
    let members: Vec<_> = first.json().as_object().unwrap().keys().cloned().collect();
    for member in [
        "user",
        "balances",
        "transactions",
        "stats",
        "preferences",
        "generated_at",
    ] {
        assert!(members.iter().any(|name| name == member), "{member}");
    }
    assert_eq!(members.len(), 6);
    let shown = server.get(&format!("users/{user}")).expect(200).await;
    assert_eq!(first.at("/user"), shown.json());
    assert_eq!(first.at("/balances"), shown.at("/balances"));
    assert_eq!(first.at("/preferences"), shown.at("/preferences"));
    let mut voided = 0;
    let first = loop {
        let (first, second) = server.read_and_hit(&address).await;
        assert_eq!(second.body, first.body);
        let unchanged = server
            .get(&address)
            .header("if-none-match", &first.etag())
            .send()
            .await;
        // Made anew in between, it is another one.
        if unchanged.status == 200 && unchanged.header("x-cache") != Some("hit") && voided < 10 {
            voided += 1;
            continue;
        }
        assert_eq!(unchanged.status, 304);
        assert!(unchanged.body.is_empty());
        break first;
    };
    for index in 1..=11 {
        server
            .posted(&user, json!({"type": "deposit", "amount": "1"}))
            .await;
        let shown = server.get(&address).expect(200).await;
        assert_eq!(
            shown.text_at("/balances/0/available"),
            (100 + index).to_string()
        );
    }
    let last = server
        .get(&address)
        .header("if-none-match", &first.etag())
        .expect(200)
        .await;
    assert_eq!(last.at("/transactions").as_array().unwrap().len(), 10);
    let listed = server
        .get(&format!("users/{user}/transactions?limit=10"))
        .expect(200)
        .await;
    assert_eq!(last.at("/transactions"), listed.at("/data"));
    let stats = server
        .get(&format!("users/{user}/transactions/stats"))
        .expect(200)
        .await;
    assert_eq!(last.at("/stats"), stats.json());
    let preferences = server
        .patch(&format!("users/{user}/preferences"))
        .json(&json!({"language": "en"}));
    preferences.expect(200).await;
    assert_eq!(
        server
            .get(&address)
            .expect(200)
            .await
            .text_at("/preferences/language"),
        "en"
    );
}

on_every_backend!(a_dashboard_is_one_cached_read_that_shows_every_write);
