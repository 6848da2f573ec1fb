#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::{ManualClock, Timestamp};
use crate::error::StoreKind;
use crate::stores::memory::Memory;

#[derive(Debug)]
struct Away;

#[async_trait]
impl Store for Away {
    async fn check(
        &self,
        _key: &str,
        _policy: gcra::Policy,
        _cost: u32,
    ) -> Result<gcra::Decision, StoreError> {
        Err(StoreError::unavailable(StoreKind::KeyValue, "away"))
    }
}

fn policies() -> BTreeMap<String, Policy> {
    let mut policies = Service::first_policies();
    let strict = Policy {
        limit: 3,
        period_seconds: 7,
        when_away: WhenAway::Refuse,
    };
    policies.insert("strict".to_owned(), strict);
    policies
}

fn service(store: Option<Arc<dyn Store>>, instances: u32) -> (Service, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(
        1_790_000_000_000_000,
    )));
    let memory: Arc<dyn Store> = Arc::new(Memory::new(clock.clone()));
    let store = store.unwrap_or_else(|| Arc::clone(&memory));
    (Service::new(store, memory, policies(), instances), clock)
}

#[tokio::test]
async fn five_logins_a_minute_and_waits_in_whole_seconds_rounded_up() {
    let (service, clock) = service(None, 1);
    for remaining in [4, 3, 2, 1, 0] {
        let decision = service.check("login", "an", 1).await.unwrap();
        assert_eq!(
            (decision.allowed, decision.remaining, decision.retry_after),
            (true, remaining, 0)
        );
    }
    clock.advance(Duration::from_micros(1));
    let refused = service.check("login", "an", 1).await.unwrap();
    let expected = Decision {
        allowed: false,
        limit: 5,
        remaining: 0,
        retry_after: 12,
        reset_after: 60,
    };
    assert_eq!(refused, expected);
    clock.advance(Duration::from_secs(refused.retry_after));
    assert!(service.check("login", "an", 1).await.unwrap().allowed);
    assert!(
        service.check("default", "an", 1).await.unwrap().allowed,
        "policies are apart"
    );
    let stats = service.stats();
    assert_eq!(
        (&stats["checks"], &stats["refused"]),
        (&8.into(), &1.into())
    );
}

#[tokio::test]
async fn while_the_store_is_away_each_instance_has_its_share_or_refuses() {
    let (service, _clock) = service(Some(Arc::new(Away)), 2);
    // Half of five, rounded up.
    for _ in 0..3 {
        let decision = service.check("login", "an", 1).await.unwrap();
        assert_eq!((decision.allowed, decision.limit), (true, 3));
    }
    assert!(!service.check("login", "an", 1).await.unwrap().allowed);
    assert!(
        service.check("login", "binh", 5).await.unwrap().allowed,
        "more than the share"
    );
    let refused = service.check("strict", "an", 1).await.unwrap_err();
    assert!(matches!(
        refused,
        Error::Store(StoreError::Unavailable { .. })
    ));
    assert_eq!(service.stats()["counted_in_process"], 5);
}

#[tokio::test]
async fn what_cannot_be_checked_is_refused_by_name() {
    let (service, _clock) = service(None, 1);
    let unknown = service.check("nope", "an", 1).await.unwrap_err();
    assert!(matches!(unknown, Error::UnknownPolicy));
    let long = "é".repeat(201);
    for (key, cost, pointer) in [
        ("", 1, "/key"),
        (long.as_str(), 1, "/key"),
        ("an", 6, "/cost"),
    ] {
        let Err(Error::Invalid(faults)) = service.check("login", key, cost).await else {
            panic!("{key} {cost} is refused");
        };
        assert_eq!(faults.into_vec()[0].pointer, pointer);
    }
    assert!(
        service
            .check("login", &"é".repeat(200), 5)
            .await
            .unwrap()
            .allowed
    );
}
