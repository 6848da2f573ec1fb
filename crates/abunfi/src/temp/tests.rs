#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::clock::{ManualClock, Timestamp};
use crate::stores::memory::Memory;

fn service() -> (Service, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(
        1_790_000_000_000_000,
    )));
    let store = Arc::new(Memory::new(clock.clone()));
    (Service::new(store, clock.clone()), clock)
}

#[tokio::test]
async fn a_value_is_given_until_its_time_and_taken_once() {
    let (service, clock) = service();
    let ttl = Duration::from_secs(60);
    let put = service.put("a:b", json!({"code": 1}), ttl).await.unwrap();
    assert_eq!(service.get("a:b").await.unwrap(), put);
    assert_eq!(service.take("a:b").await.unwrap(), put);
    assert!(matches!(service.take("a:b").await, Err(Error::NotFound)));
    service.put("a:b", json!(1), ttl).await.unwrap();
    clock.advance(ttl);
    assert!(matches!(service.get("a:b").await, Err(Error::NotFound)));
    service.delete("a:b").await.unwrap();
}

#[tokio::test]
async fn all_faults_of_a_put_are_named() {
    let (service, _clock) = service();
    let text = json!("x".repeat(MAX_VALUE_BYTES));
    let Err(Error::Invalid(faults)) = service.put("a/b", text, Duration::ZERO).await else {
        panic!("it is refused");
    };
    let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
    assert_eq!(pointers, ["/key", "/ttl", "/value"]);
    let largest = json!("x".repeat(MAX_VALUE_BYTES - 2));
    service
        .put(&"k".repeat(200), largest, MAX_TTL)
        .await
        .unwrap();
    for key in ["", &"k".repeat(201), "é", "a b"] {
        assert!(
            matches!(service.get(key).await, Err(Error::NotFound)),
            "{key}"
        );
    }
}
