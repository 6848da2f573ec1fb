//! L1: typed values in this process, bounded by bytes.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;

use super::generations::Note;
use crate::clock::{Clock, Timestamp};

/// What an entry takes beside its value: key, pointers, times, notes.
const ENTRY_OVERHEAD_BYTES: u64 = 256;
/// A guess for the first size of the table; it grows.
const EXPECTED_ENTRY_BYTES: u64 = 2_048;

/// As good as never, for a process.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3_600);

/// A moment by both clocks. What other instances have written must show within a second, so until when
/// something may be served is asked of the steady clock too: the machine's may be set back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) clock: Timestamp,
    steady: Instant,
}

impl Moment {
    pub(super) fn now(clock: &dyn Clock) -> Self {
        Self {
            clock: clock.now(),
            steady: Instant::now(),
        }
    }

    pub(super) fn plus(self, duration: Duration) -> Self {
        Self {
            clock: self.clock.plus(duration),
            steady: self.steady + duration.min(FAR),
        }
    }

    pub(super) fn min(self, other: Self) -> Self {
        Self {
            clock: self.clock.min(other.clock),
            steady: self.steady.min(other.steady),
        }
    }

    /// By each of the clocks.
    pub(super) fn is_before(self, until: Self) -> bool {
        self.clock < until.clock && self.steady < until.steady
    }
}

/// A value of any type, so that a hit parses nothing.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) value: Arc<dyn Any + Send + Sync>,
    /// The length of its JSON, which is near enough to what it takes.
    pub(super) bytes: u64,
    /// What voids it.
    pub(super) note: Arc<Note>,
    /// How often everything had been forgotten when its load began.
    pub(super) epoch: u64,
    /// When the authority was asked.
    pub(super) stored_at: Timestamp,
    /// Until when it shows what a reader may demand: other processes may have written since it was asked
    /// for.
    pub(super) right_until: Moment,
    /// Until when it is fresh anywhere.
    pub(super) fresh_until: Timestamp,
}

impl Entry {
    pub(super) fn is_fresh(&self, now: Moment, epoch: u64) -> bool {
        now.is_before(self.right_until)
            && now.clock < self.fresh_until
            && self.epoch == epoch
            && self.note.holds()
    }

    /// Whether it may answer in place of an authority that is away. An invalidated value never may.
    pub(super) fn may_be_stale(&self, now: Timestamp, stale_for: Duration) -> bool {
        now < self.fresh_until.plus(stale_for) && self.note.holds()
    }

    /// Whether only its own time is over: nothing invalidated it, and nobody else may have.
    pub(super) fn may_be_older(&self, now: Moment, epoch: u64, stale_for: Duration) -> bool {
        now.is_before(self.right_until)
            && self.epoch == epoch
            && self.may_be_stale(now.clock, stale_for)
    }

    /// `None`: the key is used for two types.
    pub(super) fn typed<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        Arc::clone(&self.value).downcast().ok()
    }
}

#[derive(Debug, Clone)]
struct Bytes;

impl quick_cache::Weighter<String, Arc<Entry>> for Bytes {
    fn weight(&self, key: &String, entry: &Arc<Entry>) -> u64 {
        let key_bytes = u64::try_from(key.len()).unwrap_or(u64::MAX);
        entry
            .bytes
            .saturating_add(key_bytes)
            .saturating_add(ENTRY_OVERHEAD_BYTES)
    }
}

#[derive(Debug)]
pub(super) struct Local {
    entries: Cache<String, Arc<Entry>, Bytes>,
}

impl Local {
    pub(super) fn new(max_bytes: u64) -> Self {
        let expected = usize::try_from(max_bytes / EXPECTED_ENTRY_BYTES).unwrap_or(usize::MAX);
        Self {
            entries: Cache::with_weighter(expected, max_bytes, Bytes),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.entries.get(key)
    }

    pub(super) fn insert(&self, key: &str, entry: Arc<Entry>) {
        self.entries.insert(key.to_owned(), entry);
    }

    /// Gives memory back; what makes the value invalid is its note.
    pub(super) fn remove(&self, key: &str) {
        self.entries.remove(key);
    }

    pub(super) fn entries(&self) -> u64 {
        u64::try_from(self.entries.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.entries.weight()
    }
}
