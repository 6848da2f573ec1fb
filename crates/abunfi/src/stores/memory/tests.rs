#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::error::StoreError;
use crate::health::Probe;
use crate::rate_limit::{Store as _, gcra};
use crate::temp::{Store as _, TempValue};

fn store() -> (Memory, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(
        1_790_000_000_000_000,
    )));
    (Memory::new(clock.clone()), clock)
}

fn value(text: String, clock: &ManualClock) -> TempValue {
    TempValue {
        value: json!(text),
        expires_at: clock.now().plus(Duration::from_secs(60)),
    }
}

#[tokio::test]
async fn limits_of_more_keys_than_there_is_room_for_forget_those_that_spent_least() {
    let (store, _clock) = store();
    let policy = gcra::Policy::new(5, Duration::from_secs(60)).unwrap();
    store.check("greedy", policy, 5).await.unwrap();
    for n in 0..rate_limit::MAX_KEYS + 10 {
        store.check(&n.to_string(), policy, 1).await.unwrap();
    }
    assert!(store.limits.len() <= rate_limit::MAX_KEYS);
    let greedy = store.check("greedy", policy, 1).await.unwrap();
    assert!(!greedy.allowed, "a flood of keys does not set anyone free");
}

#[tokio::test]
async fn limits_that_have_run_out_make_room_first() {
    let (store, clock) = store();
    let policy = gcra::Policy::new(5, Duration::from_secs(60)).unwrap();
    for n in 0..rate_limit::MAX_KEYS {
        store.check(&n.to_string(), policy, 1).await.unwrap();
    }
    clock.advance(Duration::from_secs(60));
    store.check("next", policy, 1).await.unwrap();
    assert_eq!(store.limits.len(), 1);
}

#[tokio::test]
async fn temporary_data_is_refused_when_the_memory_for_it_is_full_and_taken_again_later() {
    let (store, clock) = store();
    let ttl = Duration::from_secs(60);
    let big = value("x".repeat(1024 * 1024), &clock);
    let mut put = 0;
    let full = loop {
        match store.put(&put.to_string(), &big, ttl).await {
            Ok(()) => put += 1,
            Err(error) => break error,
        }
        assert!(put < 70, "it is bounded");
    };
    assert!(matches!(full, StoreError::Overloaded { .. }), "{full}");
    assert!(put > 60);
    store
        .put("0", &value("small".to_owned(), &clock), ttl)
        .await
        .unwrap();
    store
        .put("more", &value("small".to_owned(), &clock), ttl)
        .await
        .unwrap();
    clock.advance(ttl);
    store.put("again", &big, ttl).await.unwrap();
    assert_eq!(store.temp.size().0, 1, "what has expired is gone");
    store.delete("again").await.unwrap();
    assert_eq!(store.temp.size(), (0, 0));
}

#[tokio::test]
async fn the_number_of_values_is_bounded_too() {
    let (store, clock) = store();
    let ttl = Duration::from_secs(60);
    let tiny = value(String::new(), &clock);
    for n in 0..temp::MAX_VALUES {
        store.put(&n.to_string(), &tiny, ttl).await.unwrap();
    }
    let full = store.put("one more", &tiny, ttl).await.unwrap_err();
    assert!(matches!(full, StoreError::Overloaded { .. }));
    store.put("0", &tiny, ttl).await.unwrap();
    let shown = store.statistics().await.unwrap();
    assert_eq!(
        (&shown["backend"], &shown["keys"]),
        (&json!("memory"), &json!(temp::MAX_VALUES))
    );
}
