//! Preferences and metadata.

use serde_json::{Value, json};

use crate::support::{Seed, TestServer, on_every_backend};

fn defaults() -> Value {
    json!({"language": "vi", "currency": "VND", "notifications": {"email": true, "push": true, "sms": false}})
}

async fn preferences_are_replaced_patched_and_reset(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}/preferences");
    let first = server.get(&address).expect(200).await;
    assert_eq!(first.json(), defaults());
    assert!(first.header("x-document-state").is_none());
    let patch =
        json!({"language": "en", "notifications": {"sms": true, "push": null}, "theme": "dark"});
    let patched = server.patch(&address);
    let patched = patched
        .typed("application/merge-patch+json", patch.to_string())
        .expect(200)
        .await;
    assert_eq!(patched.at("/language"), "en");
    assert_eq!(patched.at("/notifications/sms"), true);
    assert_eq!(
        patched.at("/notifications/push"),
        true,
        "what is missing is the default"
    );
    assert_eq!(patched.at("/theme"), "dark");
    assert_ne!(patched.etag(), first.etag());
    let shown = server.get(&address).expect(200).await;
    assert_eq!(
        (shown.json(), shown.etag()),
        (patched.json(), patched.etag())
    );
    let put = server
        .put(&address)
        .json(&json!({"currency": "USD"}))
        .expect(200)
        .await;
    assert_eq!(put.at("/currency"), "USD");
    assert_eq!(put.at("/language"), "vi");
    assert!(put.json().get("theme").is_none());
    for _ in 0..2 {
        server.delete(&address).expect(204).await;
        assert_eq!(server.get(&address).expect(200).await.json(), defaults());
    }
    let user = server.get(&format!("users/{user}")).expect(200).await;
    assert_eq!(user.at("/preferences"), defaults());
}

async fn metadata_is_free_json(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}/metadata");
    assert_eq!(server.get(&address).expect(200).await.json(), json!({}));
    let free = r#"{"z":1.5,"a":{"n":null,"list":[1,{"x":"ü"}]},"big":9223372036854775807,"small":-9223372036854775808}"#;
    let put = server.put(&address).text(free).expect(200).await;
    assert_eq!(put.json(), serde_json::from_str::<Value>(free).unwrap());
    assert_eq!(server.get(&address).expect(200).await.json(), put.json());
    let patched = server
        .patch(&address)
        .json(&json!({"a": {"n": 1, "list": null}, "z": null}))
        .expect(200)
        .await;
    assert_eq!(patched.at("/a"), json!({"n": 1}));
    assert!(patched.json().get("z").is_none());
    for _ in 0..2 {
        server.delete(&address).expect(204).await;
        assert_eq!(server.get(&address).expect(200).await.json(), json!({}));
    }
}

async fn versions_guard_documents(server: &TestServer) {
    let user = server.user().await;
    for kind in ["preferences", "metadata"] {
        let address = format!("users/{user}/{kind}");
        let tag = server.get(&address).expect(200).await.etag();
        server
            .get(&address)
            .header("if-none-match", &tag)
            .expect(304)
            .await;
        let put = |value: i64| server.put(&address).json(&json!({"n": value}));
        let written = put(1).header("if-match", &tag).expect(200).await;
        put(2)
            .header("if-match", &tag)
            .expect_problem(412, "version_mismatch")
            .await;
        let patch = server.patch(&address).json(&json!({"n": 3}));
        patch
            .header("if-match", &tag)
            .expect_problem(412, "version_mismatch")
            .await;
        let delete = server.delete(&address).header("if-match", &tag);
        delete.expect_problem(412, "version_mismatch").await;
        put(4)
            .header("if-none-match", "*")
            .expect_problem(412, "version_mismatch")
            .await;
        server
            .get(&address)
            .header("if-none-match", &tag)
            .expect(200)
            .await;
        let now = server.get(&address).expect(200).await;
        assert_eq!((now.at("/n"), now.etag()), (json!(1), written.etag()));
        server
            .delete(&address)
            .header("if-match", &now.etag())
            .expect(204)
            .await;
        let made = put(5).header("if-none-match", "*").expect(200).await;
        assert_eq!(made.at("/n"), 5, "create only, after it was deleted");
    }
}

async fn what_no_backend_can_hold_is_refused_by_all(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}/metadata");
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(32), "]".repeat(32));
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(256 * 1024));
    for (body, pointer, code) in [
        (r#"{"":1}"#, "/", "too_short"),
        (r#"{"$set":1}"#, "/$set", "not_allowed"),
        (r#"{"a":{"b.c":1}}"#, "/a/b.c", "not_allowed"),
        (r#"{"a\u0000":1}"#, "/a\u{0}", "not_allowed"),
        (r#"{"a":["x\u0000y"]}"#, "/a/0", "not_allowed"),
        (r#"{"a":9223372036854775808}"#, "/a", "out_of_range"),
        (r#"{"a":-9223372036854775809}"#, "/a", "out_of_range"),
        (r#"{"a":1e400}"#, "/a", "out_of_range"),
        ("[]", "", "wrong_type"),
        ("null", "", "wrong_type"),
        (large.as_str(), "", "too_long"),
    ] {
        for kind in ["metadata", "preferences"] {
            let call = server
                .put(&format!("users/{user}/{kind}"))
                .text(body.to_owned());
            let refused = call.expect_problem(422, "validation_failed").await;
            let faults = refused.faults();
            let expected = (pointer.to_owned(), code.to_owned());
            assert!(faults.contains(&expected), "{body:.60}: {faults:?}");
        }
    }
    let refused = server
        .put(&address)
        .text(deep)
        .expect_problem(422, "validation_failed")
        .await;
    assert!(
        refused
            .faults()
            .iter()
            .any(|(_, code)| code == "out_of_range")
    );
    let deepest = format!("{{\"a\":{}1{}}}", "[".repeat(31), "]".repeat(31));
    server.put(&address).text(deepest).expect(200).await;
    let patch = server.patch(&address).text(r#"{"$x": 1}"#);
    patch.expect_problem(422, "validation_failed").await;
    let refused = server.put(&format!("users/{user}/preferences"));
    let body = json!({"language": "fr", "currency": "dong", "notifications": {"email": "yes"}});
    let refused = refused
        .json(&body)
        .expect_problem(422, "validation_failed")
        .await;
    refused.has_faults(&[
        ("/currency", "bad_format"),
        ("/language", "not_allowed"),
        ("/notifications/email", "wrong_type"),
    ]);
}

async fn bodies_are_of_the_right_type(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}/metadata");
    let put = server
        .put(&address)
        .typed("application/merge-patch+json", "{}");
    put.expect_problem(415, "unsupported_media_type").await;
    let patch = server
        .patch(&address)
        .typed("application/json-patch+json", "[]");
    patch.expect_problem(415, "unsupported_media_type").await;
}

on_every_backend!(
    preferences_are_replaced_patched_and_reset,
    metadata_is_free_json,
    versions_guard_documents,
    what_no_backend_can_hold_is_refused_by_all,
    bodies_are_of_the_right_type,
);
