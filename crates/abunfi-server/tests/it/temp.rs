//! Temporary data.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::{TestServer, on_every_backend};

async fn a_value_is_put_looked_at_and_taken_once(server: &TestServer) {
    let address = "temp/otp:84901234567";
    let put = server
        .put(address)
        .json(&json!({"value": {"code": "314159"}, "ttl": 300}))
        .expect(200)
        .await;
    assert_eq!(put.at("/value"), json!({"code": "314159"}));
    let shown = server.get(address).expect(200).await;
    assert_eq!(shown.json(), put.json());
    assert!(shown.text_at("/expires_at").ends_with('Z'));
    let takes = join_all((0..16).map(|_| server.post("temp/otp:84901234567/take").send())).await;
    let taken: Vec<_> = takes.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].json(), put.json());
    for lost in takes.iter().filter(|answer| answer.status != 200) {
        lost.check_problem(404, "not_found", "a lost race");
    }
    server.get(address).expect_problem(404, "not_found").await;
    server
        .put(address)
        .json(&json!({"value": null, "ttl": 60}))
        .expect(200)
        .await;
    assert_eq!(
        server.get(address).expect(200).await.at("/value"),
        Value::Null
    );
    for _ in 0..2 {
        server.delete(address).expect(204).await;
    }
    server.get(address).expect_problem(404, "not_found").await;
}

async fn a_value_goes_with_its_time(server: &TestServer) {
    server
        .put("temp/short")
        .json(&json!({"value": 1, "ttl": 3}))
        .expect(200)
        .await;
    server.get("temp/short").expect(200).await;
    tokio::time::sleep(Duration::from_millis(3_300)).await;
    server
        .get("temp/short")
        .expect_problem(404, "not_found")
        .await;
    server
        .post("temp/short/take")
        .expect_problem(404, "not_found")
        .await;
}

async fn faults_come_at_once(server: &TestServer) {
    let put = |body: Value| {
        server
            .put("temp/a")
            .json(&body)
            .expect_problem(422, "validation_failed")
    };
    put(json!({"x": 1})).await.has_faults(&[
        ("/ttl", "required"),
        ("/value", "required"),
        ("/x", "unknown_field"),
    ]);
    put(json!({"value": 1, "ttl": 0}))
        .await
        .has_faults(&[("/ttl", "out_of_range")]);
    put(json!({"value": 1, "ttl": 30 * 24 * 3600 + 1}))
        .await
        .has_faults(&[("/ttl", "out_of_range")]);
    put(json!({"value": 1, "ttl": "60"}))
        .await
        .has_faults(&[("/ttl", "wrong_type")]);
    put(json!({"value": "x".repeat(64 * 1024), "ttl": 60}))
        .await
        .has_faults(&[("/value", "too_long")]);
    let bad = server
        .put("temp/a%20b")
        .json(&json!({"value": 1, "ttl": 60}));
    bad.expect_problem(422, "validation_failed").await;
    server
        .get("temp/a%20b")
        .expect_problem(404, "not_found")
        .await;
}

on_every_backend!(
    a_value_is_put_looked_at_and_taken_once,
    a_value_goes_with_its_time,
    faults_come_at_once
);
