//! The developers' data.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{TestServer, on_every_backend};

async fn a_value_is_made_replaced_patched_and_removed(server: &TestServer) {
    let address = "dev-data/app.v1/feature:one";
    server.get(address).expect_problem(404, "not_found").await;
    server
        .patch(address)
        .json(&json!({}))
        .expect_problem(404, "not_found")
        .await;
    let made = server
        .put(address)
        .json(&json!({"on": true}))
        .expect(201)
        .await;
    assert_eq!(made.json(), json!({"on": true}));
    assert_eq!(
        made.header("location"),
        Some("/api/v1/dev-data/app.v1/feature:one")
    );
    let first: i64 = made.etag().trim_matches('"').parse().unwrap();
    let second = format!("\"{}\"", first + 1);
    let replaced = server
        .put(address)
        .json(&json!({"on": false, "n": 1}))
        .expect(200)
        .await;
    assert_eq!(replaced.etag(), second);
    let patched = server
        .patch(address)
        .json(&json!({"n": null, "m": 2}))
        .expect(200)
        .await;
    assert_eq!(patched.json(), json!({"on": false, "m": 2}));
    let shown = server.get(address).expect(200).await;
    assert_eq!(
        (shown.json(), shown.etag()),
        (patched.json(), patched.etag())
    );
    server
        .get(address)
        .header("if-none-match", &shown.etag())
        .expect(304)
        .await;
    let stale = server
        .put(address)
        .header("if-match", &second)
        .json(&json!(1));
    stale.expect_problem(412, "version_mismatch").await;
    let create = server
        .put(address)
        .header("if-none-match", "*")
        .json(&json!(1));
    create.expect_problem(412, "version_mismatch").await;
    let stale = server.delete(address).header("if-match", &second);
    stale.expect_problem(412, "version_mismatch").await;
    for _ in 0..2 {
        server.delete(address).expect(204).await;
    }
    server.get(address).expect_problem(404, "not_found").await;
    let create = server
        .put(address)
        .header("if-none-match", "*")
        .json(&json!(1));
    create.expect(201).await;
    // Whoever knows what was there before does not take this for it.
    let known = server.get(address).header("if-none-match", &made.etag());
    known.expect(200).await;
    let overwrite = server.put(address).header("if-match", &made.etag());
    let overwrite = overwrite.json(&json!(2));
    overwrite.expect_problem(412, "version_mismatch").await;
    for value in [
        json!([1, "x"]),
        json!("text"),
        json!(1.5),
        json!(false),
        Value::Null,
    ] {
        let put = server.put(address).json(&value).expect(200).await;
        assert_eq!(put.json(), value);
        assert_eq!(server.get(address).expect(200).await.json(), value);
    }
}

async fn a_value_lives_as_long_as_it_was_given(server: &TestServer) {
    let address = "dev-data/app/short";
    let made = server
        .put(&format!("{address}?ttl=1"))
        .json(&json!(1))
        .expect(201)
        .await;
    assert!(made.header("x-expires-at").unwrap().ends_with('Z'));
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    server.get(address).expect_problem(404, "not_found").await;
    assert_eq!(
        server.get("dev-data/app").expect(200).await.at("/data"),
        json!([])
    );
    server.put(address).json(&json!(2)).expect(201).await;
    assert!(
        server
            .get(address)
            .expect(200)
            .await
            .header("x-expires-at")
            .is_none()
    );
    for bad in ["0", "-1", "1.5", "x", "99999999999999999999", ""] {
        let put = server.put(&format!("{address}?ttl={bad}")).json(&json!(1));
        put.expect_problem(400, "invalid_parameter").await;
    }
    let put = server.put(&format!("{address}?tll=5")).json(&json!(1));
    put.expect_problem(400, "invalid_parameter").await;
}

async fn a_namespace_is_listed_by_key(server: &TestServer) {
    for key in ["b", "a:2", "a:1", "a:3", "B"] {
        server
            .put(&format!("dev-data/list/{key}"))
            .json(&json!({"key": key}))
            .expect(201)
            .await;
    }
    server
        .put("dev-data/other/a:9")
        .json(&json!(1))
        .expect(201)
        .await;
    let keys = |answer: &crate::support::Answer| -> Vec<String> {
        let rows = answer.at("/data");
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| row["key"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = server.get("dev-data/list").expect(200).await;
    assert_eq!(keys(&all), ["B", "a:1", "a:2", "a:3", "b"]);
    assert_eq!(
        all.at("/data/0"),
        json!({"key": "B", "value": {"key": "B"}, "expires_at": null})
    );
    let page = server
        .get("dev-data/list?prefix=a:&limit=2")
        .expect(200)
        .await;
    assert_eq!(keys(&page), ["a:1", "a:2"]);
    let cursor = page.text_at("/next_cursor");
    let rest = server
        .get(&format!("dev-data/list?prefix=a:&limit=2&cursor={cursor}"))
        .expect(200)
        .await;
    assert_eq!(keys(&rest), ["a:3"]);
    assert!(rest.at("/next_cursor").is_null());
    let other = server.get(&format!("dev-data/list?prefix=b&cursor={cursor}"));
    other.expect_problem(400, "cursor_mismatch").await;
    server
        .get("dev-data/list?prefix=%25")
        .expect_problem(400, "invalid_parameter")
        .await;
}

async fn names_and_values_have_their_limits(server: &TestServer) {
    let long = "x".repeat(201);
    for bad in ["a%20b", "%C3%A4", "a%2Fb", "a%00", long.as_str()] {
        server
            .get(&format!("dev-data/app/{bad}"))
            .expect_problem(404, "not_found")
            .await;
        server
            .get(&format!("dev-data/{bad}"))
            .expect_problem(404, "not_found")
            .await;
        let put = server.put(&format!("dev-data/app/{bad}")).json(&json!(1));
        put.expect_problem(422, "validation_failed").await;
        let put = server.put(&format!("dev-data/{bad}/key")).json(&json!(1));
        put.expect_problem(422, "validation_failed").await;
    }
    let longest = "x".repeat(200);
    server
        .put(&format!("dev-data/{longest}/{longest}"))
        .json(&json!(1))
        .expect(201)
        .await;
    for body in [
        r#"{"$a":1}"#,
        r#"{"a.b":1}"#,
        r#""\u0000""#,
        "9223372036854775808",
    ] {
        let put = server.put("dev-data/app/key").text(body);
        put.expect_problem(422, "validation_failed").await;
    }
}

on_every_backend!(
    a_value_is_made_replaced_patched_and_removed,
    a_value_lives_as_long_as_it_was_given,
    a_namespace_is_listed_by_key,
    names_and_values_have_their_limits,
);
