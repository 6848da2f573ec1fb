//! Sessions.

use std::time::Duration;

use serde_json::json;

use crate::support::{Seed, TestServer, on_every_backend};

async fn a_session_is_made_shown_rotated_and_ended(server: &TestServer) {
    let user = server.user().await;
    let body = json!({"device": "Pixel 9", "ip": "203.0.113.7", "ttl": 3600});
    let made = server
        .post(&format!("users/{user}/sessions"))
        .json(&body)
        .expect(201)
        .await;
    let (token, id) = (made.text_at("/token"), made.text_at("/session/id"));
    assert!(token.starts_with("abs_") && token.len() == 47);
    assert_eq!(
        made.header("location"),
        Some(format!("/api/v1/users/{user}/sessions/{id}").as_str())
    );
    assert_eq!(made.text_at("/session/device"), "Pixel 9");
    assert_eq!(made.text_at("/session/ip"), "203.0.113.7");
    let own = server.get("session").by(&token).expect(200).await;
    assert_eq!(own.text_at("/id"), id);
    assert_eq!(own.text_at("/user_id"), user);
    assert_eq!(own.at("/current"), true);
    assert_eq!(own.at("/expires_at"), made.at("/session/expires_at"));
    let rotated = server.post("session/rotate").by(&token).expect(200).await;
    let fresh = rotated.text_at("/token");
    assert_ne!(fresh, token);
    assert_eq!(
        rotated.at("/session/expires_at"),
        made.at("/session/expires_at"),
        "no longer life"
    );
    server
        .get("session")
        .by(&token)
        .expect_problem(401, "unauthenticated")
        .await;
    server.get("session").by(&fresh).expect(200).await;
    server.delete("session").by(&fresh).expect(204).await;
    server
        .get("session")
        .by(&fresh)
        .expect_problem(401, "unauthenticated")
        .await;
}

async fn a_users_sessions_are_listed_and_revoked(server: &TestServer) {
    let user = server.user().await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.insert(0, server.session(&user).await);
    }
    let address = format!("users/{user}/sessions");
    let listed = server.get(&address).by(&sessions[1].0).expect(200).await;
    for (index, (_, id)) in sessions.iter().enumerate() {
        assert_eq!(listed.text_at(&format!("/data/{index}/id")), *id);
        assert_eq!(listed.at(&format!("/data/{index}/current")), index == 1);
    }
    assert!(!listed.text().contains("token"));
    let page = server.get(&format!("{address}?limit=2")).expect(200).await;
    let cursor = page.text_at("/next_cursor");
    let rest = server
        .get(&format!("{address}?limit=2&cursor={cursor}"))
        .expect(200)
        .await;
    assert_eq!(rest.text_at("/data/0/id"), sessions[2].1);
    let first = format!("{address}/{}", sessions[0].1);
    for _ in 0..2 {
        server.delete(&first).by(&sessions[1].0).expect(204).await;
    }
    server
        .get("session")
        .by(&sessions[0].0)
        .expect_problem(401, "unauthenticated")
        .await;
    server
        .delete(&format!("{address}/x"))
        .expect_problem(404, "not_found")
        .await;
    for _ in 0..2 {
        server.delete(&address).expect(204).await;
    }
    for (token, _) in &sessions {
        server
            .get("session")
            .by(token)
            .expect_problem(401, "unauthenticated")
            .await;
    }
    assert_eq!(
        server.get(&address).expect(200).await.at("/data"),
        json!([])
    );
}

async fn a_session_ends_with_its_time_or_its_user(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}/sessions");
    let short = server
        .post(&address)
        .json(&json!({"ttl": 3}))
        .expect(201)
        .await
        .text_at("/token");
    server.get("session").by(&short).expect(200).await;
    tokio::time::sleep(Duration::from_millis(3_300)).await;
    server
        .get("session")
        .by(&short)
        .expect_problem(401, "unauthenticated")
        .await;
    let (token, _) = server.session(&user).await;
    server.get("session").by(&token).expect(200).await;
    let suspend = server
        .patch(&format!("users/{user}"))
        .json(&json!({"status": "suspended"}));
    suspend.expect(200).await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    server
        .get("session")
        .by(&token)
        .expect_problem(401, "unauthenticated")
        .await;
    let refused = server.post(&address).json(&json!({}));
    refused.expect_problem(409, "user_not_active").await;
}

async fn a_session_cannot_outlive_itself_by_making_another(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}/sessions");
    let parent = server
        .post(&address)
        .json(&json!({"ttl": 60}))
        .expect(201)
        .await;
    let token = parent.text_at("/token");
    for body in [json!({}), json!({"ttl": 3600})] {
        let child = server
            .post(&address)
            .by(&token)
            .json(&body)
            .expect(201)
            .await;
        let end = child.text_at("/session/expires_at");
        assert!(end <= parent.text_at("/session/expires_at"), "{end}");
    }
}

async fn faults_of_a_session_come_at_once(server: &TestServer) {
    let user = server.user().await;
    let address = format!("users/{user}/sessions");
    server.post(&address).expect(201).await;
    let body = json!({"device": "", "ip": "localhost", "ttl": 0, "admin": true});
    let refused = server.post(&address).json(&body);
    let refused = refused.expect_problem(422, "validation_failed").await;
    refused.has_faults(&[
        ("/admin", "unknown_field"),
        ("/device", "too_short"),
        ("/ip", "bad_format"),
        ("/ttl", "out_of_range"),
    ]);
    for ttl in [json!("60"), json!(1.5)] {
        let refused = server.post(&address).json(&json!({"ttl": ttl}));
        let refused = refused.expect_problem(422, "validation_failed").await;
        refused.has_faults(&[("/ttl", "wrong_type")]);
    }
}

on_every_backend!(
    a_session_is_made_shown_rotated_and_ended,
    a_users_sessions_are_listed_and_revoked,
    a_session_ends_with_its_time_or_its_user,
    a_session_cannot_outlive_itself_by_making_another,
    faults_of_a_session_come_at_once,
);
