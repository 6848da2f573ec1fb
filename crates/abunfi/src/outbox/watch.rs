//! Sees what other instances have committed and L2 may not have been told of.
//!
//! A writer tells L2 and then deletes its row, within about [`POLL_EVERY`]. So a row that two polls in a row
//! have seen is one whose writer crashed, or cannot reach L2: whatever L2 says about its tags may be out of
//! date, and this instance goes round it until it has told L2 itself. That needs no clock but this process's
//! and no position in a log: a late commit is simply there at the next poll, whatever its `created_at` says,
//! and rows leave only after L2 was told.
//!
//! A poll that has acted on all rows of the poll before it covers every commit until that one *began*; the
//! cache asks L2 only while that is less than a second ago (`cache/coverage.rs`). With a relational store that
//! is too slow to say so, or more rows than a poll reads, L2 is simply not asked.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Effect, Store};
use crate::cache::Cache;
use crate::error::StoreError;

/// Two polls, and what they take, fit into the promised second twice over.
const POLL_EVERY: Duration = Duration::from_millis(200);
/// After a pause this long between two polls the second one takes every row for undelivered.
const LONG_PAUSE: Duration = Duration::from_millis(400);
/// Rows that a poll reads. More are there only while Redis is away from all, and then L2 is of no use.
const MAX_ROWS: u32 = 1_000;
/// The pause after a poll that could not read all: it costs the store something, and nothing is gained.
const CROWDED_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Watch {
    store: Arc<dyn Store>,
    cache: Cache,
}

/// What the polls until now have seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// When the last poll began; `None`: there was none that saw all.
    began: Option<Instant>,
    rows: HashSet<Uuid>,
    /// Those that were acted on.
    acted: HashSet<Uuid>,
}

impl Watch {
    /// From now on `cache` asks L2 only as far as this says: [`run`](Self::run) must follow.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, cache: Cache) -> Self {
        cache.begin_coverage();
        Self { store, cache }
    }

    /// Runs until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = Seen::default();
        let mut failing = false;
        loop {
            let pause = match self.poll(&mut seen).await {
                Ok(is_complete) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("the outbox can be read again");
                    }
                    if is_complete {
                        POLL_EVERY
                    } else {
                        CROWDED_PAUSE
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "the outbox cannot be read: L2 of the cache is not used");
                    }
                    POLL_EVERY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One look; whether it saw all rows.
    pub(super) async fn poll(&self, seen: &mut Seen) -> Result<bool, StoreError> {
        let began = Instant::now();
        let rows = self.store.pending(MAX_ROWS + 1).await?;
        if rows.len() > usize::try_from(MAX_ROWS).unwrap_or(usize::MAX) {
            *seen = Seen::default();
            return Ok(false);
        }
        let rows: HashSet<Uuid> = rows.into_iter().collect();
        let last = seen
            .began
            .filter(|last| began.saturating_duration_since(*last) < LONG_PAUSE);
        seen.acted.retain(|id| rows.contains(id));
        let undelivered: Vec<Uuid> = rows
            .iter()
            .filter(|id| !seen.acted.contains(id))
            .filter(|id| last.is_none() || seen.rows.contains(id))
            .copied()
            .collect();
        self.distrust(&undelivered).await?;
        self.cache.covered(last.unwrap_or(began));
        seen.acted.extend(undelivered);
        seen.rows = rows;
        seen.began = Some(began);
        Ok(true)
    }

    async fn distrust(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        for effect in self.store.effects(ids).await? {
            match effect {
                Effect::Invalidate { tags } => self.cache.distrust(&tags),
            }
        }
        Ok(())
    }
}
