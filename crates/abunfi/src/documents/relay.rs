//! Brings what was committed to the document store, whatever happened in between.
//!
//! There is no queue: a head whose newest version is not applied is the work, so several writes while the
//! document store is away become one apply of the newest. What an apply says is settled by the head: it
//! is finished only while the lease **and** the version are still the row's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Applied, Claimed, ContentStore, DocumentKey, HeadStore};
use crate::clock::{SharedClock, Timestamp};
use crate::error::{StoreError, StoreKind};
use crate::ids::random_bytes;

/// How long a commit of another process, or one whose wake-up was lost, waits at most.
const POLL: Duration = Duration::from_millis(500);
/// Heads claimed at once: enough to keep the appliers busy, few enough that their leases do not run out
/// and that their images (256 KiB each) fit in memory.
const BATCH: u32 = 64;
/// Applies that run at once, so that catching up leaves connections to those who read.
const CONCURRENCY: usize = 8;
/// Batches in one round: then the heartbeat shows, and a stop is seen.
const MAX_BATCHES: usize = 16;
/// Longer than an apply can take (three deadlines), so that nobody repeats what is still running.
const LEASE: Duration = Duration::from_secs(15);
/// The pause after a first failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause while the store is away: so all is on its way within this time of its return.
const LONGEST_PAUSE_AWAY: Duration = Duration::from_secs(5);
/// The longest pause of a document that the store, being there, refuses.
const LONGEST_PAUSE_REFUSED: Duration = Duration::from_secs(300);
/// How often a writer's own apply looks again, when others write the same document.
const OWN_ROUNDS: usize = 32;
/// The pause between those looks, while another worker holds the lease.
const OWN_PAUSE: Duration = Duration::from_millis(20);

/// What the relay did, for `stats` and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayStats {
    pub applied: u64,
    pub failed: u64,
    pub foreign: u64,
    /// When the worker last ended a round, whether or not there was anything to do: a stuck worker looks
    /// caught up by every other figure.
    pub heartbeat: Option<Timestamp>,
}

/// The worker. Any number may run, in any number of processes.
#[derive(Debug)]
pub struct Relay {
    heads: Arc<dyn HeadStore>,
    content: Arc<dyn ContentStore>,
    clock: SharedClock,
    wake: Notify,
    /// The last apply failed since the store is away: the next one is a probe, alone.
    is_away: AtomicBool,
    applied: AtomicU64,
    failed: AtomicU64,
    foreign: AtomicU64,
    heartbeat: AtomicI64,
}

/// What became of one head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Applied,
    /// It was written again meanwhile: the newer version is work of its own.
    Superseded,
    Foreign,
}

/// What became of a writer's own apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnApply {
    Applied,
    /// The relay does what is left. `store_away`: since the document store did not answer.
    Left {
        store_away: bool,
    },
}

impl Relay {
    #[must_use]
    pub fn new(
        heads: Arc<dyn HeadStore>,
        content: Arc<dyn ContentStore>,
        clock: SharedClock,
    ) -> Self {
        Self {
            heads,
            content,
            clock,
            wake: Notify::new(),
            is_away: AtomicBool::new(false),
            applied: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
            heartbeat: AtomicI64::new(i64::MIN),
        }
    }

    /// Runs until `stop`: polls every 500 ms, and whenever it is woken.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = poll.tick() => {}
                () = self.wake.notified() => {}
            }
            // Never dropped in the middle: a lease that nobody gives back delays the document.
            if let Err(error) = self.run_once().await {
                tracing::debug!(%error, "the relay could not read its work");
            }
        }
    }

    /// Tells the worker of this process that there is something to do.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// One round over what is due; how many were applied. For tests and for shutdown.
    pub async fn run_once(&self) -> Result<u64, StoreError> {
        let round = self.round().await;
        self.heartbeat
            .store(self.clock.now().micros(), Ordering::Relaxed);
        round
    }

    async fn round(&self) -> Result<u64, StoreError> {
        let mut applied = 0;
        for _batch in 0..MAX_BATCHES {
            let limit = if self.is_away.load(Ordering::Relaxed) {
                1
            } else {
                BATCH
            };
            let claimed = self
                .heads
                .claim(limit, LEASE, None, self.clock.now())
                .await?;
            if claimed.is_empty() {
                break;
            }
            let outcomes: Vec<_> = futures::stream::iter(claimed)
                .map(|claimed| async move { self.process(&claimed).await })
                .buffer_unordered(CONCURRENCY)
                .collect()
                .await;
            for outcome in outcomes {
                if outcome? == Some(Outcome::Applied) {
                    applied += 1;
                }
            }
            if self.is_away.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(applied)
    }

    /// Applies one head now, right after its commit. Ends by itself; a caller who waits no longer lets
    /// it run on.
    pub(super) async fn apply_own(&self, key: DocumentKey) -> OwnApply {
        let result = self.try_own(key).await;
        if result != OwnApply::Applied {
            self.wake();
        }
        result
    }

    async fn try_own(&self, key: DocumentKey) -> OwnApply {
        let left = OwnApply::Left { store_away: false };
        for _round in 0..OWN_ROUNDS {
            let claimed = self
                .heads
                .claim(1, LEASE, Some(key), self.clock.now())
                .await;
            match claimed.map(|mut claimed| claimed.pop()) {
                Ok(Some(claimed)) => match self.process(&claimed).await {
                    Ok(Some(Outcome::Applied)) => return OwnApply::Applied,
                    Ok(Some(Outcome::Superseded)) => {}
                    Ok(Some(Outcome::Foreign)) | Err(_) => return left,
                    Ok(None) => {
                        let store_away = self.is_away.load(Ordering::Relaxed);
                        return OwnApply::Left { store_away };
                    }
                },
                // Done already, or in another worker's hands.
                Ok(None) => match self.is_applied(key).await {
                    Ok(true) => return OwnApply::Applied,
                    Ok(false) => tokio::time::sleep(OWN_PAUSE).await,
                    Err(_) => return left,
                },
                Err(_) => return left,
            }
        }
        left
    }

    async fn is_applied(&self, key: DocumentKey) -> Result<bool, StoreError> {
        let heads = self.heads.heads(key.user_id).await?.unwrap_or_default();
        Ok(heads
            .iter()
            .find(|head| head.kind == key.kind)
            .is_none_or(|head| head.applied_version >= head.version))
    }

    /// Applies and settles one head. `None`: the document store failed; it is due again later.
    ///
    /// # Errors
    /// Those of the relational store: the lease runs out by itself.
    async fn process(&self, claimed: &Claimed) -> Result<Option<Outcome>, StoreError> {
        let applied = self
            .content
            .apply(
                claimed.key,
                claimed.version,
                claimed.hash,
                claimed.image.as_deref(),
            )
            .await;
        self.is_away
            .store(applied.as_ref().is_err_and(is_no_answer), Ordering::Relaxed);
        match applied {
            Ok(Applied::Done) => self.finish(claimed).await.map(Some),
            Ok(Applied::Newer(found)) => self.settle_newer(claimed, found).await.map(Some),
            Ok(Applied::Foreign) => self.set_aside(claimed).await.map(Some),
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let next_at = self.clock.now().plus(pause(claimed.attempts, &error));
                tracing::debug!(%error, user_id = %claimed.key.user_id, kind = %claimed.key.kind,
                    attempts = claimed.attempts, "a document is not applied yet");
                self.heads.release(claimed, next_at, false).await?;
                Ok(None)
            }
        }
    }

    async fn finish(&self, claimed: &Claimed) -> Result<Outcome, StoreError> {
        if self.heads.finish(claimed, self.clock.now()).await? {
            self.applied.fetch_add(1, Ordering::Relaxed);
            return Ok(Outcome::Applied);
        }
        self.supersede(claimed).await
    }

    async fn supersede(&self, claimed: &Claimed) -> Result<Outcome, StoreError> {
        self.heads.release(claimed, self.clock.now(), false).await?;
        Ok(Outcome::Superseded)
    }

    /// Something newer than what was claimed is as good only if this platform wrote it: then the head has
    /// moved on to it. A version above the head is of a past that the relational store has lost.
    async fn settle_newer(&self, claimed: &Claimed, found: i64) -> Result<Outcome, StoreError> {
        let heads = self.heads.heads(claimed.key.user_id).await?;
        let is_known = heads
            .unwrap_or_default()
            .iter()
            .any(|head| head.kind == claimed.key.kind && head.version >= found);
        if is_known {
            self.supersede(claimed).await
        } else {
            self.set_aside(claimed).await
        }
    }

    async fn set_aside(&self, claimed: &Claimed) -> Result<Outcome, StoreError> {
        self.foreign.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(user_id = %claimed.key.user_id, kind = %claimed.key.kind,
            version = claimed.version, "the document store holds a foreign document: set aside");
        self.heads.release(claimed, self.clock.now(), true).await?;
        Ok(Outcome::Foreign)
    }

    #[must_use]
    pub fn stats(&self) -> RelayStats {
        let heartbeat = self.heartbeat.load(Ordering::Relaxed);
        RelayStats {
            applied: self.applied.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            foreign: self.foreign.load(Ordering::Relaxed),
            heartbeat: (heartbeat != i64::MIN).then(|| Timestamp::from_micros(heartbeat)),
        }
    }
}

/// Whether the document store failed to answer: an unknown outcome is repeated like a certain failure,
/// since an apply is idempotent.
fn is_no_answer(error: &StoreError) -> bool {
    error.store() == StoreKind::Documents
        && (error.is_away() || matches!(error, StoreError::OutcomeUnknown { .. }))
}

/// Exponential, with jitter over the upper half, so that what failed together does not come back
/// together.
fn pause(attempts: i32, error: &StoreError) -> Duration {
    let longest = if is_no_answer(error) {
        LONGEST_PAUSE_AWAY
    } else {
        LONGEST_PAUSE_REFUSED
    };
    let doublings = u32::try_from(attempts.saturating_sub(1))
        .unwrap_or(0)
        .min(16);
    let full = FIRST_PAUSE.saturating_mul(1 << doublings).min(longest);
    let [random] = random_bytes::<1>();
    full / 2 + full * u32::from(random) / 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_are_spread() {
        let away = StoreError::unavailable(StoreKind::Documents, "x");
        let refused = StoreError::unexpected(StoreKind::Documents, "x");
        for attempts in [i32::MIN, 0, 1, 2, 5, 100, i32::MAX] {
            assert!(pause(attempts, &away) <= LONGEST_PAUSE_AWAY);
            assert!(pause(attempts, &refused) <= LONGEST_PAUSE_REFUSED);
            assert!(pause(attempts, &away) >= FIRST_PAUSE / 2);
        }
        assert!(pause(100, &away) >= LONGEST_PAUSE_AWAY / 2);
        assert!(pause(100, &refused) >= LONGEST_PAUSE_REFUSED / 2);
        let spread: std::collections::HashSet<_> = (0..50).map(|_| pause(3, &away)).collect();
        assert!(spread.len() > 10);
    }
}
