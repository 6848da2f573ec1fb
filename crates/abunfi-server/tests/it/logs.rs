//! The append-only log.

use serde_json::{Value, json};

use crate::support::{Answer, TestServer, on_every_backend};

fn messages(answer: &Answer) -> Vec<String> {
    let rows = answer.at("/data");
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| row["message"].as_str().unwrap().to_owned())
        .collect()
}

async fn entries_are_written_and_found(server: &TestServer) {
    let one = json!({"level": "info", "target": "app.pay", "message": "Paid 100%", "fields": {"step": 3}, "request_id": "r-1"});
    let accepted = server.post("logs").json(&one).expect(202).await;
    assert_eq!(accepted.json(), json!({"accepted": 1}));
    let at = |second: u32| format!("2026-01-01T00:00:0{second}Z");
    let many = json!([
        {"level": "trace", "target": "app.pay", "message": "first", "at": at(1)},
        {"level": "error", "target": "app.auth", "message": "second", "at": at(2)},
        {"level": "warn", "target": "app.pay", "message": "line\nbreak", "at": at(3)},
    ]);
    server.post("logs").json(&many).expect(202).await;
    let list = |query: &str| server.get(&format!("logs?{query}")).expect(200);
    let all = list("").await;
    assert_eq!(
        messages(&all),
        ["Paid 100%", "line\nbreak", "second", "first"]
    );
    let newest = all.at("/data/0");
    assert_eq!(
        (&newest["level"], &newest["fields"], &newest["request_id"]),
        (&json!("info"), &json!({"step": 3}), &json!("r-1"))
    );
    assert!(newest["at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(
        messages(&list("level=warn").await),
        ["line\nbreak", "second"]
    );
    assert_eq!(
        messages(&list("target=app.pay&level=info").await),
        ["Paid 100%", "line\nbreak"]
    );
    assert_eq!(messages(&list("request_id=r-1").await), ["Paid 100%"]);
    assert_eq!(messages(&list("q=PAID%20100%25").await), ["Paid 100%"]);
    assert_eq!(messages(&list("q=%25").await), ["Paid 100%"], "no wildcard");
    assert_eq!(
        messages(&list(&format!("from={}&to={}", at(2), at(3))).await),
        ["second"]
    );
    let page = list("limit=3").await;
    let cursor = page.text_at("/next_cursor");
    assert_eq!(
        messages(&list(&format!("limit=3&cursor={cursor}")).await),
        ["first"]
    );
    for bad in ["level=fatal", "from=x", "request_id=a%20b", "module=x"] {
        server
            .get(&format!("logs?{bad}"))
            .expect_problem(400, "invalid_parameter")
            .await;
    }
}

async fn faulty_entries_are_refused_together(server: &TestServer) {
    let refuse = |body: Value| {
        let call = server.post("logs").json(&body);
        call.expect_problem(422, "validation_failed")
    };
    let good = json!({"level": "info", "target": "t", "message": "m"});
    let refused =
        refuse(json!([good, {"level": "loud", "message": "", "fields": [], "at": "x", "to": 1}]))
            .await;
    refused.has_faults(&[
        ("/1/at", "bad_format"),
        ("/1/fields", "wrong_type"),
        ("/1/level", "not_allowed"),
        ("/1/message", "too_short"),
        ("/1/target", "required"),
        ("/1/to", "unknown_field"),
    ]);
    refuse(json!([])).await.has_faults(&[("", "too_short")]);
    refuse(json!(vec![good.clone(); 1_001]))
        .await
        .has_faults(&[("", "too_long")]);
    refuse(json!("message"))
        .await
        .has_faults(&[("", "wrong_type")]);
    refuse(json!({"level": "info", "target": "t", "message": "a\u{0}b"}))
        .await
        .has_faults(&[("/message", "not_allowed")]);
    assert_eq!(server.get("logs").expect(200).await.at("/data"), json!([]));
    server
        .post("logs")
        .json(&json!(vec![good; 1_000]))
        .expect(202)
        .await;
}

on_every_backend!(
    entries_are_written_and_found,
    faulty_entries_are_refused_together
);
