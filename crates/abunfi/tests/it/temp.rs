//! Temporary data: what is put is there as it was until its time, and of many who take it one has it.

use std::sync::Arc;
use std::time::Duration;

use abunfi::clock::{Clock, SystemClock};
use abunfi::config::RedisConfig;
use abunfi::stores::memory::Memory;
use abunfi::stores::redis::RedisStore;
use abunfi::temp::{Store, TempValue};
use abunfi_testkit::{servers, unique_name};
use serde_json::{Value, json};

const TTL: Duration = Duration::from_secs(60);

async fn redis_store() -> Arc<dyn Store> {
    let config = RedisConfig {
        key_prefix: unique_name(),
        deadline_ms: 2_000,
        // Many tests start at once.
        connect_timeout_ms: 10_000,
        ..RedisConfig::default()
    };
    let url = servers::require_redis_url();
    Arc::new(RedisStore::connect(&url, &config).await.unwrap())
}

fn memory_store() -> Arc<dyn Store> {
    Arc::new(Memory::new(Arc::new(SystemClock)))
}

fn value(value: Value, ttl: Duration) -> TempValue {
    TempValue {
        value,
        expires_at: SystemClock.now().plus(ttl),
    }
}

async fn what_is_put_is_there_as_it_was(store: Arc<dyn Store>) {
    // Numbers that a careless reader changes.
    let text = r#"{"float": 0.1000000000000000055511151231257827, "one": 1.0, "big": 18446744073709551615,
        "tiny": 5e-324, "text": "é\u0000\n", "list": [null, true, {}]}"#;
    let exact: Value = abunfi::documents::parse::parse_json(text.as_bytes(), 8)
        .unwrap()
        .into_value()
        .unwrap();
    let put = value(exact, TTL);
    store.put("k", &put, TTL).await.unwrap();
    assert_eq!(store.get("k").await.unwrap(), Some(put.clone()));
    let newer = value(json!("newer"), TTL);
    store.put("k", &newer, TTL).await.unwrap();
    assert_eq!(store.get("k").await.unwrap(), Some(newer));
    store.delete("k").await.unwrap();
    store.delete("k").await.unwrap();
    assert_eq!(store.get("k").await.unwrap(), None);
    assert_eq!(store.take("k").await.unwrap(), None);
}

async fn of_many_who_take_it_one_has_it(store: Arc<dyn Store>) {
    for round in 0..20 {
        let put = value(json!(round), TTL);
        store.put("code", &put, TTL).await.unwrap();
        let takers = (0..16).map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.take("code").await.unwrap() })
        });
        let mut taken = Vec::new();
        for taker in takers.collect::<Vec<_>>() {
            taken.extend(taker.await.unwrap());
        }
        assert_eq!(taken, [put]);
    }
}

async fn it_goes_at_its_time(store: Arc<dyn Store>) {
    // Long enough for three round trips on a busy machine.
    let brief = Duration::from_secs(2);
    store
        .put("k", &value(json!(1), brief), brief)
        .await
        .unwrap();
    store
        .put("longer", &value(json!(2), TTL), TTL)
        .await
        .unwrap();
    assert!(store.get("k").await.unwrap().is_some());
    tokio::time::sleep(brief + Duration::from_millis(200)).await;
    assert_eq!(store.get("k").await.unwrap(), None);
    assert_eq!(store.take("k").await.unwrap(), None);
    assert!(store.take("longer").await.unwrap().is_some());
}

macro_rules! on_every_backend {
    ($($name:ident),+ $(,)?) => {
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                super::$name(super::redis_store().await).await;
            })+
        }
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                super::$name(super::memory_store()).await;
            })+
        }
    };
}

on_every_backend!(
    what_is_put_is_there_as_it_was,
    of_many_who_take_it_one_has_it,
    it_goes_at_its_time,
);
