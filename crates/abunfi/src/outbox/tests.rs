#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::cache::{self, Cache, CacheConfig, LeaseToken, Lookup, Notice, Stored};
use crate::clock::SystemClock;
use crate::error::StoreKind;

/// Rows that are claimed until they are finished.
#[derive(Debug, Default)]
struct Rows(Mutex<Vec<Claimed>>);

#[async_trait]
impl Store for Rows {
    async fn claim(
        &self,
        limit: u32,
        _min_age: Duration,
        _lease_for: Duration,
        _now: Timestamp,
    ) -> Result<Vec<Claimed>, StoreError> {
        let rows = self.0.lock().unwrap();
        Ok(rows
            .iter()
            .take(usize::try_from(limit).unwrap())
            .cloned()
            .collect())
    }

    async fn finish(&self, done: &[Claimed]) -> Result<(), StoreError> {
        self.0.lock().unwrap().retain(|row| !done.contains(row));
        Ok(())
    }

    async fn pending(&self, limit: u32) -> Result<Vec<Uuid>, StoreError> {
        let rows = self.0.lock().unwrap();
        let limit = usize::try_from(limit).unwrap();
        Ok(rows.iter().take(limit).map(|row| row.id).collect())
    }

    async fn effects(&self, ids: &[Uuid]) -> Result<Vec<Effect>, StoreError> {
        let rows = self.0.lock().unwrap();
        let asked = rows.iter().filter(|row| ids.contains(&row.id));
        Ok(asked.map(|row| row.effect.clone()).collect())
    }

    async fn delete(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        self.0.lock().unwrap().retain(|row| !ids.contains(&row.id));
        Ok(())
    }

    async fn backlog(&self) -> Result<Backlog, StoreError> {
        Ok(Backlog::default())
    }
}

/// An L2 that notes what it is told.
#[derive(Debug)]
struct Told {
    tags: Mutex<Vec<String>>,
    away: AtomicBool,
    notices: broadcast::Sender<Notice>,
}

#[async_trait]
impl cache::Store for Told {
    async fn get(&self, _: &str, _: &[String]) -> Result<Option<Stored>, StoreError> {
        Ok(None)
    }

    async fn get_or_lease(
        &self,
        _: &str,
        _: &[String],
        _: LeaseToken,
        _: Duration,
    ) -> Result<Lookup, StoreError> {
        Ok(Lookup::Busy)
    }

    async fn fill(
        &self,
        _: &str,
        _: LeaseToken,
        _: &Stored,
        _: Duration,
    ) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn release(&self, _: &str, _: LeaseToken) -> Result<(), StoreError> {
        Ok(())
    }

    async fn invalidate(&self, _: &[String], tags: &[String]) -> Result<(), StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable(StoreKind::KeyValue, "away"));
        }
        self.tags.lock().unwrap().extend(tags.to_vec());
        Ok(())
    }

    async fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }
}

fn world(rows: u128) -> (Arc<Rows>, Arc<Told>, Arc<Relay>) {
    let claimed = (0..rows).map(|n| Claimed {
        id: Uuid::from_u128(n),
        effect: Effect::Invalidate {
            tags: vec![format!("tag {}", n % 10)],
        },
        lease: Uuid::nil(),
        attempts: 1,
    });
    let rows = Arc::new(Rows(Mutex::new(claimed.collect())));
    let told = Arc::new(Told {
        tags: Mutex::default(),
        away: AtomicBool::new(false),
        notices: broadcast::Sender::new(1),
    });
    let clock: crate::clock::SharedClock = Arc::new(SystemClock);
    let cache = Cache::new(
        Some(told.clone()),
        Arc::clone(&clock),
        CacheConfig::default(),
        true,
    );
    let relay = Arc::new(Relay::new(rows.clone(), cache, clock));
    (rows, told, relay)
}

#[tokio::test]
async fn a_round_carries_out_all_that_is_due_and_names_each_tag_of_a_batch_once() {
    let (rows, told, relay) = world(250);
    assert_eq!(relay.heartbeat(), None);
    assert_eq!(relay.run_once().await.unwrap(), 250);
    assert!(rows.0.lock().unwrap().is_empty());
    assert_eq!(
        told.tags.lock().unwrap().len(),
        30,
        "ten in each of three batches"
    );
    assert!(relay.heartbeat().is_some());
}

#[tokio::test]
async fn nothing_is_finished_that_l2_was_not_told() {
    let (rows, told, relay) = world(3);
    told.away.store(true, Ordering::SeqCst);
    relay.run_once().await.unwrap_err();
    assert_eq!(rows.0.lock().unwrap().len(), 3);
    told.away.store(false, Ordering::SeqCst);
    assert_eq!(relay.run_once().await.unwrap(), 3);
}

#[tokio::test]
async fn it_runs_until_it_is_told_to_stop() {
    let (rows, _told, relay) = world(3);
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay.run(stop.clone()));
    while !rows.0.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    running.await.unwrap();
}

/// What was asked for, in order, and what the cache does with `tag` afterwards.
async fn reads(cache: &Cache, tag: &str) -> cache::Hit {
    let fetch = async { Ok::<_, ()>(1_u64) };
    let cached = cache
        .get_or_fetch(
            "k",
            &[tag.to_owned()],
            Duration::from_secs(60),
            |()| false,
            fetch,
        )
        .await
        .unwrap();
    cached.hit
}

/// Waits until L2 was told of so many tags.
async fn l2_is_told(told: &Told, tags: usize) {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while told.tags.lock().unwrap().len() < tags {
        assert!(std::time::Instant::now() < end, "L2 is not told");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(told.tags.lock().unwrap().len(), tags);
}

#[tokio::test]
async fn a_row_that_two_looks_have_seen_is_distrusted_and_one_that_is_gone_is_not() {
    let (rows, told, relay) = world(2);
    let cache = relay.cache.clone();
    let ids: Vec<Uuid> = rows.0.lock().unwrap().iter().map(|row| row.id).collect();
    let all = std::mem::take(&mut *rows.0.lock().unwrap());
    let watch = Watch::new(rows.clone(), cache.clone());
    let mut seen = watch::Seen::default();
    assert!(watch.poll(&mut seen).await.unwrap());
    assert_eq!(reads(&cache, "tag 0").await, cache::Hit::Fetched);
    assert_eq!(reads(&cache, "tag 0").await, cache::Hit::L1);
    // Two commits appear; the writer of the second tells L2 and deletes its row.
    *rows.0.lock().unwrap() = all;
    watch.poll(&mut seen).await.unwrap();
    assert_eq!(
        reads(&cache, "tag 0").await,
        cache::Hit::L1,
        "its writer is at it"
    );
    rows.delete(&ids[1..]).await.unwrap();
    watch.poll(&mut seen).await.unwrap();
    assert_eq!(reads(&cache, "tag 0").await, cache::Hit::Fetched);
    l2_is_told(&told, 1).await;
    assert_eq!(
        *told.tags.lock().unwrap(),
        ["tag 0"],
        "this instance tells L2"
    );
    // Looked at again after a long pause: what was acted on is not acted on again.
    watch.poll(&mut seen).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(told.tags.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn after_a_pause_and_at_the_start_every_row_is_distrusted_at_once() {
    let (rows, told, relay) = world(3);
    let watch = Watch::new(rows, relay.cache.clone());
    watch.poll(&mut watch::Seen::default()).await.unwrap();
    l2_is_told(&told, 3).await;
}

#[tokio::test]
async fn more_rows_than_are_read_leave_l2_alone() {
    let (rows, told, relay) = world(1_001);
    let watch = Watch::new(rows, relay.cache.clone());
    assert!(!watch.poll(&mut watch::Seen::default()).await.unwrap());
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(told.tags.lock().unwrap().is_empty());
}
