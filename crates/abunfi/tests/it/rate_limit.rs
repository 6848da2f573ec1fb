//! Rate limits: every backend decides as the arithmetic does, and of many at once lets the limit through.

use std::sync::Arc;
use std::time::Duration;

use abunfi::clock::SystemClock;
use abunfi::config::RedisConfig;
use abunfi::rate_limit::{Store, gcra};
use abunfi::stores::memory::Memory;
use abunfi::stores::redis::RedisStore;
use abunfi_testkit::{servers, unique_name};

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

/// Long enough that nothing comes back while a test runs.
fn policy(limit: u32) -> gcra::Policy {
    gcra::Policy::new(limit, Duration::from_secs(3_600)).unwrap()
}

async fn many_at_once_are_let_through_up_to_the_limit(store: Arc<dyn Store>) {
    let checks = (0..64).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.check("k", policy(40), 1).await.unwrap().allowed })
    });
    let mut allowed = 0;
    for check in checks.collect::<Vec<_>>() {
        allowed += usize::from(check.await.unwrap());
    }
    assert_eq!(allowed, 40);
    assert!(store.check("another", policy(40), 1).await.unwrap().allowed);
}

async fn answers_say_what_is_left_and_how_long_to_wait(store: Arc<dyn Store>) {
    let hour_us = 3_600_000_000;
    let first = store.check("k", policy(4), 1).await.unwrap();
    assert_eq!((first.allowed, first.remaining), (true, 3));
    assert_eq!(first.retry_after_us, Some(0));
    assert_eq!(first.reset_after_us, hour_us / 4);
    assert!(first.new_tat.is_some());

    let peek = store.check("k", policy(4), 0).await.unwrap();
    assert_eq!(
        (peek.allowed, peek.remaining, peek.new_tat),
        (true, 3, None)
    );

    let rest = store.check("k", policy(4), 3).await.unwrap();
    assert_eq!((rest.allowed, rest.remaining), (true, 0));
    for _ in 0..3 {
        // Asking again does not prolong the wait.
        let refused = store.check("k", policy(4), 2).await.unwrap();
        assert_eq!((refused.allowed, refused.remaining), (false, 0));
        let wait = refused.retry_after_us.unwrap();
        assert!(
            wait <= hour_us / 2 && wait > hour_us / 2 - 60_000_000,
            "{wait}"
        );
        assert!(refused.reset_after_us <= hour_us);
        assert_eq!(refused.new_tat, None);
    }
    let never = store.check("fresh", policy(4), 5).await.unwrap();
    assert_eq!((never.allowed, never.retry_after_us), (false, None));
    let huge = store.check("fresh", policy(4), u32::MAX).await.unwrap();
    assert!(!huge.allowed);
}

async fn what_was_spent_comes_back(store: Arc<dyn Store>) {
    // One comes back every two seconds: the calls between take less, also on a busy machine.
    let quick = gcra::Policy::new(2, Duration::from_secs(4)).unwrap();
    assert!(store.check("k", quick, 2).await.unwrap().allowed);
    assert!(!store.check("k", quick, 1).await.unwrap().allowed);
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert!(store.check("k", quick, 1).await.unwrap().allowed);
    assert!(!store.check("k", quick, 2).await.unwrap().allowed);
}

async fn a_limit_that_is_lowered_locks_nobody_out_for_longer(store: Arc<dyn Store>) {
    store.check("k", policy(1), 1).await.unwrap();
    let lowered = gcra::Policy::new(10, Duration::from_secs(1)).unwrap();
    let refused = store.check("k", lowered, 1).await.unwrap();
    assert!(
        !refused.allowed && refused.reset_after_us <= 1_000_000,
        "{refused:?}"
    );
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
    many_at_once_are_let_through_up_to_the_limit,
    answers_say_what_is_left_and_how_long_to_wait,
    what_was_spent_comes_back,
    a_limit_that_is_lowered_locks_nobody_out_for_longer,
);
