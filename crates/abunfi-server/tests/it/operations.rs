//! Health, metrics, statistics.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Backend, Seed, TestServer, on_every_backend};

async fn health_names_three_databases_whatever_serves_them(server: &TestServer) {
    // The first probe may be a slow one: it opens connections.
    let end = Instant::now() + Duration::from_secs(20);
    let health = loop {
        let health = server.get("/health").by_nobody().send().await;
        if health.text_at("/status") == "OK" {
            break health;
        }
        assert!(Instant::now() < end, "{}", health.text());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(health.status, 200);
    let backends = match server.backend {
        Backend::Embedded => ["sqlite", "sqlite", "memory"],
        Backend::Servers => ["postgresql", "mongodb", "redis"],
    };
    for (name, backend) in ["postgresql", "mongodb", "redis"].into_iter().zip(backends) {
        assert_eq!(health.at(&format!("/databases/{name}/status")), "connected");
        assert_eq!(health.at(&format!("/databases/{name}/backend")), backend);
    }
    assert!(health.at("/databases/postgresql/latency_ms").is_number());
    assert!(!health.text().contains("://"));
    for probe in ["/livez", "/readyz"] {
        server.get(probe).by_nobody().expect(200).await;
    }
}

async fn statistics_have_a_section_for_everything(server: &TestServer) {
    crate::ledger_figures::told(&server.platform).await;
    let stats = server.get("stats").expect(200).await;
    let sections: Vec<_> = stats.json().as_object().unwrap().keys().cloned().collect();
    for section in [
        "postgres",
        "mongodb",
        "redis",
        "cache",
        "sessions",
        "rate_limits",
        "ledger",
        "outbox",
    ] {
        assert!(sections.iter().any(|name| name == section), "{section}");
        assert!(stats.at(&format!("/{section}")).is_object(), "{section}");
    }
    let ledger = json!({
        "waiting": 0,
        "checkpoint": {
            "number": 0, "at": null, "age_seconds": null, "signed": false,
            "rows_waiting": stats.at("/ledger/checkpoint/rows_waiting"),
        },
        "holds": {"overdue": 0, "oldest_overdue_seconds": 0},
        "idempotency_keys": {"past_retention": 0, "oldest_past_retention_seconds": 0},
    });
    assert_eq!(stats.at("/ledger"), ledger);
    let same = serde_json::to_value(server.platform.get_stats().await).unwrap();
    let same: Vec<_> = same.as_object().unwrap().keys().cloned().collect();
    assert_eq!(same, sections);
}

async fn metrics_count_requests_by_route(server: &TestServer) {
    let user = server.user().await;
    server.get(&format!("users/{user}")).expect(200).await;
    server.get("users/x").expect(404).await;
    server.get("/nowhere").expect(404).await;
    let metrics = server.get("/metrics").expect(200).await;
    assert!(
        metrics
            .header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    let text = metrics.text();
    let labels = |status: u16| {
        format!(
            "{{http_request_method=\"GET\",http_route=\"/api/v1/users/{{id}}\",http_response_status_code=\"{status}\"}}"
        )
    };
    for line in [
        format!(
            "http_server_request_duration_seconds_count{} 1",
            labels(200)
        ),
        format!(
            "http_server_request_duration_seconds_count{} 1",
            labels(404)
        ),
        "http_server_active_requests 1".to_owned(),
        "abunfi_log_store_dropped_total 0".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(text.contains("abunfi_store_up{store=\"postgresql\""));
    assert!(
        text.lines().any(|line| line.starts_with("abunfi_outbox_")),
        "{text}"
    );
    assert!(
        text.lines().any(|line| line.starts_with("abunfi_cache_")),
        "{text}"
    );
    assert!(!text.contains(&user), "no label holds an id");
    // The form of the text: each family said once, each line a name and a number.
    let mut families = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            assert!(families.insert(family.to_owned()), "{family} twice");
        } else if !line.starts_with('#') {
            let (_, value) = line.rsplit_once(' ').expect("a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}

async fn the_cache_is_emptied_by_tag_or_key(server: &TestServer) {
    server.delete("cache?tag=a").expect(204).await;
    server.delete("cache?key=a").expect(204).await;
    for bad in ["cache", "cache?tag=a&key=b", "cache?tag=", "cache?tags=a"] {
        server
            .delete(bad)
            .expect_problem(400, "invalid_parameter")
            .await;
    }
    let body = server.get("/health").expect(200).await.json();
    assert_ne!(body, json!({}));
}

on_every_backend!(
    health_names_three_databases_whatever_serves_them,
    statistics_have_a_section_for_everything,
    metrics_count_requests_by_route,
    the_cache_is_emptied_by_tag_or_key,
);
