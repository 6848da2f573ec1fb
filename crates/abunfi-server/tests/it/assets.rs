//! Assets.

use serde_json::json;

use crate::support::{Seed, TestServer, on_every_backend};

async fn an_asset_is_made_priced_and_shown(server: &TestServer) {
    let vnd = server.get("assets/VND").expect(200).await;
    assert_eq!(vnd.text_at("/share_price"), "1000000");
    server
        .get("assets/USDT")
        .expect_problem(404, "not_found")
        .await;
    let put = |price: &str| {
        server
            .put("assets/USDT")
            .json(&json!({"share_price": price}))
    };
    put("5")
        .header("if-match", "\"1\"")
        .expect_problem(412, "version_mismatch")
        .await;
    let made = put("1.50").header("if-none-match", "*").expect(201).await;
    assert_eq!(made.header("location"), Some("/api/v1/assets/USDT"));
    assert_eq!(made.text_at("/share_price"), "1.5");
    assert_eq!(made.etag(), "\"1\"");
    put("2")
        .header("if-none-match", "*")
        .expect_problem(412, "version_mismatch")
        .await;
    let priced = put("2").header("if-match", "\"1\"").expect(200).await;
    assert_eq!(
        (priced.etag().as_str(), priced.at("/version")),
        ("\"2\"", json!(2))
    );
    put("3")
        .header("if-match", "\"1\"")
        .expect_problem(412, "version_mismatch")
        .await;
    let shown = server.get("assets/USDT").expect(200).await;
    assert_eq!((shown.json(), shown.etag()), (priced.json(), priced.etag()));
    server
        .get("assets/USDT")
        .header("if-none-match", "\"2\"")
        .expect(304)
        .await;
    for bad in ["usdt", "USD-T", "ABCDEFGHIJKLM", "%C3%84"] {
        server
            .get(&format!("assets/{bad}"))
            .expect_problem(404, "not_found")
            .await;
        let put = server
            .put(&format!("assets/{bad}"))
            .json(&json!({"share_price": "1"}));
        put.expect_problem(404, "not_found").await;
    }
    for (price, code) in [
        (json!("0"), "out_of_range"),
        (json!("x"), "bad_format"),
        (json!(1), "wrong_type"),
    ] {
        let put = server
            .put("assets/USDT")
            .json(&json!({"share_price": price}));
        let refused = put.expect_problem(422, "validation_failed").await;
        refused.has_faults(&[("/share_price", code)]);
    }
}

async fn a_price_is_shown_with_the_balance_at_once(server: &TestServer) {
    let user = server.user().await;
    server.get(&format!("users/{user}")).expect(200).await;
    server
        .put("assets/VND")
        .json(&json!({"share_price": "1000001"}))
        .expect(200)
        .await;
    let shown = server.get(&format!("users/{user}")).expect(200).await;
    assert_eq!(shown.text_at("/balances/0/share_price"), "1000001");
}

on_every_backend!(
    an_asset_is_made_priced_and_shown,
    a_price_is_shown_with_the_balance_at_once
);
