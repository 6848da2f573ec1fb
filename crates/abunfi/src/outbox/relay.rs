//! Carries out what commits promised and a crash (or an absent Redis) left undone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Claimed, Effect, Store};
use crate::cache::Cache;
use crate::clock::{SharedClock, Timestamp};
use crate::error::StoreError;

/// Polling is what correctness rests on; nothing needs to wake the relay.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// How often rows are deleted whose invalidation this instance has carried out itself: before two polls of
/// another instance have seen them ([`super::Watch`]), and in one statement for all.
const DELETE_EVERY: Duration = Duration::from_millis(100);
/// Whoever committed invalidates right after it: until then a row is that one's. Nothing waits for this:
/// that L2 is not asked about what it may not have been told is the watch's to see to.
const MIN_AGE: Duration = Duration::from_secs(2);
/// How long a claim keeps other relays away: longer than the slowest round.
const LEASE_FOR: Duration = Duration::from_secs(10);
/// Rows of one claim.
const BATCH: u32 = 100;
/// Claims of one round, so that a round ends and shows a heartbeat.
const BATCHES_PER_ROUND: u32 = 50;
/// Rows that one statement deletes.
const MOST_DELETED: usize = 1_000;
/// A heartbeat that was never.
const NEVER: i64 = i64::MIN;

#[derive(Debug)]
pub struct Relay {
    store: Arc<dyn Store>,
    pub(super) cache: Cache,
    clock: SharedClock,
    heartbeat: AtomicI64,
}

impl Relay {
    #[must_use]
    pub fn new(store: Arc<dyn Store>, cache: Cache, clock: SharedClock) -> Self {
        Self {
            store,
            cache,
            clock,
            heartbeat: AtomicI64::new(NEVER),
        }
    }

    /// Runs until `stop`, polling every 500 ms; deletes what this instance has done itself in between.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut failing = false;
        loop {
            // A round that was begun is ended: what it claimed would else wait for its lease.
            match self.run_once().await {
                Ok(_) if failing => {
                    failing = false;
                    tracing::info!("the outbox is carried out again");
                }
                Ok(_) => {}
                Err(error) if failing => tracing::debug!(%error, "the outbox still waits"),
                Err(error) => {
                    failing = true;
                    tracing::warn!(%error, "the outbox waits");
                }
            }
            let next = Instant::now() + POLL_EVERY;
            while Instant::now() < next {
                tokio::select! {
                    () = stop.cancelled() => return self.delete_kept().await,
                    () = tokio::time::sleep(DELETE_EVERY) => {}
                }
                self.delete_kept().await;
            }
        }
    }

    /// Deletes the rows of promises that this instance has kept.
    async fn delete_kept(&self) {
        let kept = self.cache.take_kept();
        for ids in kept.chunks(MOST_DELETED) {
            if let Err(error) = self.store.delete(ids).await {
                tracing::debug!(%error, "the outbox keeps what is done until the relay finds it");
                return;
            }
        }
    }

    /// One round over what is due; how many effects were carried out.
    ///
    /// # Errors
    /// The outbox cannot be read, or L2 cannot be told. What was claimed comes up again when its lease has
    /// run out.
    pub async fn run_once(&self) -> Result<u64, StoreError> {
        let mut done = 0;
        for _ in 0..BATCHES_PER_ROUND {
            let now = self.clock.now();
            self.heartbeat.store(now.micros(), Ordering::Relaxed);
            let claimed = self.store.claim(BATCH, MIN_AGE, LEASE_FOR, now).await?;
            if claimed.is_empty() {
                break;
            }
            self.carry_out(&claimed).await?;
            self.store.finish(&claimed).await?;
            done += u64::try_from(claimed.len()).unwrap_or(u64::MAX);
        }
        Ok(done)
    }

    /// When the relay last showed that it runs, whether there was anything to do or not. One that is stuck
    /// looks like one that is done, but for this.
    #[must_use]
    pub fn heartbeat(&self) -> Option<Timestamp> {
        match self.heartbeat.load(Ordering::Relaxed) {
            NEVER => None,
            micros => Some(Timestamp::from_micros(micros)),
        }
    }

    async fn carry_out(&self, claimed: &[Claimed]) -> Result<(), StoreError> {
        let mut all = BTreeSet::new();
        for Claimed { effect, .. } in claimed {
            match effect {
                Effect::Invalidate { tags } => all.extend(tags.iter().cloned()),
            }
        }
        let tags: Vec<String> = all.into_iter().collect();
        self.cache.invalidate_confirmed(&[], &tags).await
    }
}
