#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::*;

/// A store that answers as a test tells it to.
#[derive(Debug)]
struct Stub {
    kind: StoreKind,
    answer: Mutex<Answer>,
}

#[derive(Debug, Clone)]
enum Answer {
    After(Duration),
    Fails(StoreError),
}

impl Stub {
    fn new(kind: StoreKind) -> Arc<Self> {
        Arc::new(Self {
            kind,
            answer: Mutex::new(Answer::After(Duration::ZERO)),
        })
    }

    fn set(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }
}

#[async_trait]
impl Probe for Stub {
    fn kind(&self) -> StoreKind {
        self.kind
    }

    fn backend(&self) -> &'static str {
        "stub"
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let answer = self.answer.lock().unwrap().clone();
        match answer {
            Answer::After(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            Answer::Fails(error) => Err(error),
        }
    }

    async fn statistics(&self) -> Result<Value, StoreError> {
        self.ping().await?;
        Ok(json!({"backend": "stub"}))
    }
}

fn service() -> (Service, [Arc<Stub>; 3]) {
    let stubs = [
        StoreKind::Relational,
        StoreKind::Documents,
        StoreKind::KeyValue,
    ]
    .map(Stub::new);
    let mut probes: Vec<Arc<dyn Probe>> = Vec::new();
    for stub in &stubs {
        probes.push(stub.clone());
    }
    (Service::new(probes), stubs)
}

fn secret(kind: StoreKind) -> Answer {
    Answer::Fails(StoreError::unavailable(
        kind,
        "postgres://me:hunter2@10.0.0.7 refused",
    ))
}

#[tokio::test]
async fn the_whole_is_ok_degraded_or_down() {
    let (service, [relational, documents, _key_value]) = service();
    assert_eq!(service.health().status, Overall::Down, "not probed yet");
    assert_eq!(service.probe_now().await.status, Overall::Ok);
    assert_eq!(service.health().status, Overall::Ok);
    documents.set(secret(StoreKind::Documents));
    assert_eq!(service.probe_now().await.status, Overall::Degraded);
    relational.set(secret(StoreKind::Relational));
    assert_eq!(service.probe_now().await.status, Overall::Down);
    let shown = serde_json::to_string(&service.health()).unwrap();
    assert!(
        !shown.contains("hunter2") && !shown.contains("10.0.0.7"),
        "{shown}"
    );
    relational.set(Answer::After(Duration::ZERO));
    documents.set(Answer::After(Duration::ZERO));
    assert_eq!(service.probe_now().await.status, Overall::Ok, "it recovers");
}

#[tokio::test]
async fn a_slow_store_is_degraded_and_a_stuck_one_holds_nothing_up() {
    let (service, [_relational, documents, key_value]) = service();
    documents.set(Answer::After(Duration::from_millis(300)));
    key_value.set(Answer::After(Duration::from_secs(60)));
    let began = tokio::time::Instant::now();
    let health = service.probe_now().await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(
        health.databases.postgresql.status,
        DatabaseStatus::Connected
    );
    assert_eq!(health.databases.mongodb.status, DatabaseStatus::Degraded);
    assert!(health.databases.mongodb.latency_ms.unwrap() >= 300.0);
    assert_eq!(health.databases.redis.status, DatabaseStatus::Disconnected);
}

#[tokio::test]
async fn statistics_of_a_store_that_is_away_are_its_error() {
    let (service, [relational, ..]) = service();
    assert_eq!(
        service.statistics(StoreKind::Relational).await,
        json!({"backend": "stub"})
    );
    relational.set(secret(StoreKind::Relational));
    let away = service.statistics(StoreKind::Relational).await;
    assert_eq!(
        away,
        json!({"backend": "stub", "error": "it cannot be reached"})
    );
}
