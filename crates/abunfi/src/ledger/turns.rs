//! How many batches there are at once, and how many connections postings take.
//!
//! A batch goes on when its caller hangs up, so what bounds callers does not bound it. And an atomic batch keeps
//! a connection for as long as it waits for a row: without turns, a few on one locked account would take all
//! connections, those of everybody's single postings and reads too.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::batcher::PATIENT_UNITS;
use super::commit::overloaded;
use super::lanes::{PARTS_IN_FLIGHT, PATIENT_BATCHES};
use crate::error::StoreError;

/// Batches that run or wait for a turn, also those of callers that went away: a bound of the memory that
/// they take.
pub const MAX_BATCHES: usize = 64;
/// Atomic batches that are at the store at once.
const ATOMIC_IN_FLIGHT: usize = 2;
/// An atomic batch that waited this long for its turn is turned away undone.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// The most connections that postings hold at once: of each shard one of the batcher and those of its lane's
/// parts, then those of the atomic batches and of who waits for a locked account.
pub(crate) const fn connections(shards: usize) -> usize {
    shards
        .saturating_mul(PARTS_IN_FLIGHT.saturating_add(1))
        .saturating_add(ATOMIC_IN_FLIGHT)
        .saturating_add(PATIENT_UNITS)
        .saturating_add(PATIENT_BATCHES)
}

/// Cheap to clone; all clones share the turns.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    batches: Arc<Semaphore>,
    atomic: Arc<Semaphore>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Default for Turns {
    fn default() -> Self {
        Self {
            batches: Arc::new(Semaphore::new(MAX_BATCHES)),
            atomic: Arc::new(Semaphore::new(ATOMIC_IN_FLIGHT)),
        }
    }
}

impl Turns {
    /// For a batch of any sort, from before it is begun until it has ended.
    ///
    /// # Errors
    /// `Overloaded`, at once.
    pub(super) fn batch(&self) -> Result<Turn, StoreError> {
        Arc::clone(&self.batches)
            .try_acquire_owned()
            .map(Turn)
            .map_err(|_full| overloaded("as many batches as are done at once are running"))
    }

    /// For an atomic batch while it is at the store.
    ///
    /// # Errors
    /// `Overloaded` when its turn did not come in time.
    pub(super) async fn atomic(&self) -> Result<Turn, StoreError> {
        match timeout(MAX_WAIT, Arc::clone(&self.atomic).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Turn(permit)),
            _ => Err(overloaded("too many atomic batches wait")),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn who_waits_too_long_for_a_turn_is_turned_away() {
        let turns = Turns::default();
        let held = [turns.atomic().await.unwrap(), turns.atomic().await.unwrap()];
        let started = Instant::now();
        let waited = timeout(2 * MAX_WAIT, turns.atomic()).await;
        assert!(matches!(waited, Ok(Err(StoreError::Overloaded { .. }))));
        assert!(started.elapsed() >= MAX_WAIT, "it may come yet");
        drop(held);
        turns.atomic().await.unwrap();
    }

    #[test]
    fn one_batch_too_many_is_turned_away_until_another_ends() {
        let turns = Turns::default();
        let mut running: Vec<Turn> = (0..MAX_BATCHES).map(|_| turns.batch().unwrap()).collect();
        assert!(matches!(turns.batch(), Err(StoreError::Overloaded { .. })));
        running.pop();
        turns.batch().unwrap();
    }
}
