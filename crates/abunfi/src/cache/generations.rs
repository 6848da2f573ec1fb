//! Which values and which running loads an invalidation voids, without an index from tags to keys.
//!
//! Every key and every tag that something in L1 depends on has a counter. A load notes the counters before
//! it starts, its value keeps that note, and a value is valid only while all of them stand where they
//! stood. So an invalidation is one addition per name, it voids stored values and running loads alike, and
//! there is no moment between a check and a fill in which it could be missed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Fewer counters than this are never swept: a sweep walks all of them under the lock.
const FIRST_SWEEP: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Generations {
    keys: Counters,
    tags: Counters,
}

impl Generations {
    /// The counters of `key` and `tags` as they stand now. To be taken *before* anything is read.
    pub(super) fn note(&self, key: &str, tags: &[String]) -> Note {
        let key = std::iter::once(self.keys.get(key));
        let tags = tags.iter().map(|tag| self.tags.get(tag));
        Note(
            key.chain(tags)
                .map(|counter| (counter.load(Ordering::SeqCst), counter))
                .collect(),
        )
    }

    /// Voids every note on one of these names that was taken before.
    pub(super) fn void(&self, keys: &[String], tags: &[String]) {
        for key in keys {
            self.keys.advance(key);
        }
        for tag in tags {
            self.tags.advance(tag);
        }
    }
}

/// Where the counters stood.
#[derive(Debug)]
pub(super) struct Note(Box<[(u64, Arc<AtomicU64>)]>);

impl Note {
    /// Whether nothing noted was invalidated since.
    pub(super) fn holds(&self) -> bool {
        self.0
            .iter()
            .all(|(noted, counter)| counter.load(Ordering::SeqCst) == *noted)
    }
}

#[derive(Debug, Default)]
struct Counters(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    by_name: HashMap<Box<str>, Arc<AtomicU64>>,
    /// Sweep when the table has grown to this: twice what the last sweep left.
    sweep_at: usize,
}

impl Counters {
    fn get(&self, name: &str) -> Arc<AtomicU64> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = table.by_name.get(name) {
            return Arc::clone(counter);
        }
        if table.by_name.len() >= table.sweep_at.max(FIRST_SWEEP) {
            // Nobody but the table has it: no value and no load depends on it, and under the lock nobody
            // can begin to.
            table
                .by_name
                .retain(|_, counter| Arc::strong_count(counter) > 1);
            table.sweep_at = table.by_name.len() * 2;
        }
        let counter = Arc::new(AtomicU64::new(0));
        table.by_name.insert(name.into(), Arc::clone(&counter));
        counter
    }

    fn advance(&self, name: &str) {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a counter nothing depends on the name.
        if let Some(counter) = table.by_name.get(name) {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalidation_voids_the_notes_taken_before_it_and_no_others() {
        let generations = Generations::default();
        let tags = ["t".to_owned()];
        let by_key = generations.note("a", &[]);
        let by_tag = generations.note("b", &tags);
        let other = generations.note("t", &[]);
        generations.void(&["a".to_owned()], &tags);
        assert!(!by_key.holds());
        assert!(!by_tag.holds());
        assert!(other.holds(), "a key and a tag of one name are two things");
        assert!(generations.note("b", &tags).holds());
    }

    #[test]
    fn counters_that_nothing_depends_on_are_swept_and_the_others_stay_valid() {
        let generations = Generations::default();
        let kept = generations.note("kept", &[]);
        for n in 0..FIRST_SWEEP * 3 {
            drop(generations.note(&n.to_string(), &[]));
        }
        let left = generations.keys.0.lock().unwrap().by_name.len();
        assert!(left <= FIRST_SWEEP + 1, "{left}");
        assert!(kept.holds());
        generations.void(&["kept".to_owned()], &[]);
        assert!(!kept.holds());
    }
}
