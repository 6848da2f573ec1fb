//! L1: typed values in this process, bounded by bytes.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;

use super::generations::Note;
use crate::clock::Timestamp;

/// What an entry takes beside its value: key, pointers, times, notes.
const ENTRY_OVERHEAD_BYTES: u64 = 256;
/// A guess for the first size of the table; it grows.
const EXPECTED_ENTRY_BYTES: u64 = 2_048;

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
    pub(super) right_until: Timestamp,
    /// Until when it is fresh anywhere.
    pub(super) fresh_until: Timestamp,
}

impl Entry {
    pub(super) fn is_fresh(&self, now: Timestamp, epoch: u64) -> bool {
        now < self.right_until.min(self.fresh_until) && self.epoch == epoch && self.note.holds()
    }

    /// Whether it may answer in place of an authority that is away. An invalidated value never may.
    pub(super) fn may_be_stale(&self, now: Timestamp, stale_for: Duration) -> bool {
        now < self.fresh_until.plus(stale_for) && self.note.holds()
    }

    /// Whether only its own time is over: nothing invalidated it, and nobody else may have.
    pub(super) fn may_be_older(&self, now: Timestamp, epoch: u64, stale_for: Duration) -> bool {
        now < self.right_until && self.epoch == epoch && self.may_be_stale(now, stale_for)
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
