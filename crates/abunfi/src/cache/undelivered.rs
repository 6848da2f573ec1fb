//! What L2 has not been told yet: until it has, it is not asked about these names.
//!
//! A name is noted here *before* L2 is told, and forgotten only when L2 has confirmed. So the names are
//! there while the call runs (and its caller may be dropped in the middle of it), after it failed, and for
//! as long as L2 is away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Names kept at most (about a megabyte); beyond it everything in L2 is dropped when it is back, which is
/// cheaper by then than naming what to drop.
pub(super) const MAX_NAMES: usize = 10_000;

/// Names told in one call when L2 is back: one script must not hold the server up.
pub(super) const BATCH_NAMES: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Name {
    Key(String),
    Tag(String),
}

#[derive(Debug, Default)]
pub(super) struct Undelivered {
    /// Whether there is anything below: what a reader looks at first.
    any: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next_ticket: u64,
    /// Each with the ticket of its newest invalidation: an older one's success says nothing about it.
    names: HashMap<Name, u64>,
    /// Too many names: all of L2 is to be dropped. The ticket tells one overflow from the next.
    overflow: Option<u64>,
}

/// Some names, as they were noted.
#[derive(Debug)]
pub(super) struct Batch {
    ticket: u64,
    pub(super) keys: Vec<String>,
    pub(super) tags: Vec<String>,
}

impl Undelivered {
    pub(super) fn note(&self, keys: &[String], tags: &[String]) -> Batch {
        let mut state = self.lock();
        let ticket = state.take_ticket();
        if state.names.len() + keys.len() + tags.len() > MAX_NAMES {
            state.names.clear();
            state.overflow = Some(ticket);
        }
        let keys_noted = keys.iter().cloned().map(Name::Key);
        let tags_noted = tags.iter().cloned().map(Name::Tag);
        // One call may itself name more than there is room for: the overflow covers the rest.
        for name in keys_noted.chain(tags_noted).take(MAX_NAMES) {
            state.names.insert(name, ticket);
        }
        self.any.store(true, Ordering::SeqCst);
        Batch {
            ticket,
            keys: keys.to_vec(),
            tags: tags.to_vec(),
        }
    }

    /// L2 has confirmed this batch.
    pub(super) fn settle(&self, batch: Batch) {
        let mut state = self.lock();
        let keys = batch.keys.into_iter().map(Name::Key);
        for name in keys.chain(batch.tags.into_iter().map(Name::Tag)) {
            if state.names.get(&name).is_some_and(|at| *at <= batch.ticket) {
                state.names.remove(&name);
            }
        }
        self.update_any(&state);
    }

    /// Whether L2 may hold an outdated value of this key.
    pub(super) fn concerns(&self, key: &str, tags: &[String]) -> bool {
        if !self.any.load(Ordering::SeqCst) {
            return false;
        }
        let state = self.lock();
        state.overflow.is_some()
            || state.names.contains_key(&Name::Key(key.to_owned()))
            || tags
                .iter()
                .any(|tag| state.names.contains_key(&Name::Tag(tag.clone())))
    }

    /// The next names to tell L2, with the ticket up to which they are settled by it.
    pub(super) fn batch(&self) -> Option<Batch> {
        if !self.any.load(Ordering::SeqCst) {
            return None;
        }
        let mut state = self.lock();
        let mut batch = Batch {
            ticket: state.take_ticket(),
            keys: Vec::new(),
            tags: Vec::new(),
        };
        for name in state.names.keys().take(BATCH_NAMES) {
            match name {
                Name::Key(key) => batch.keys.push(key.clone()),
                Name::Tag(tag) => batch.tags.push(tag.clone()),
            }
        }
        (batch.keys.len() + batch.tags.len() > 0).then_some(batch)
    }

    /// The overflow that a flush of L2 started from now on settles.
    pub(super) fn overflow(&self) -> Option<u64> {
        self.lock().overflow
    }

    pub(super) fn settle_overflow(&self, ticket: u64) {
        let mut state = self.lock();
        if state.overflow == Some(ticket) {
            state.overflow = None;
        }
        self.update_any(&state);
    }

    fn update_any(&self, state: &State) {
        let any = state.overflow.is_some() || !state.names.is_empty();
        self.any.store(any, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_name_is_settled_only_by_an_invalidation_that_is_not_older() {
        let undelivered = Undelivered::default();
        assert!(!undelivered.concerns("a", &names(&["t"])));
        let first = undelivered.note(&[], &names(&["t"]));
        let second = undelivered.note(&[], &names(&["t"]));
        assert!(undelivered.concerns("a", &names(&["t"])));
        assert!(!undelivered.concerns("t", &[]));
        undelivered.settle(first);
        assert!(undelivered.concerns("a", &names(&["t"])));
        undelivered.settle(second);
        assert!(!undelivered.concerns("a", &names(&["t"])));
    }

    #[test]
    fn what_is_noted_while_a_batch_is_told_stays_for_the_next() {
        let undelivered = Undelivered::default();
        undelivered.note(&names(&["a"]), &[]);
        let batch = undelivered.batch().unwrap();
        undelivered.note(&names(&["a"]), &[]);
        undelivered.settle(batch);
        assert!(undelivered.concerns("a", &[]));
        undelivered.settle(undelivered.batch().unwrap());
        assert!(undelivered.batch().is_none());
    }

    #[test]
    fn too_many_names_concern_everything_until_l2_was_emptied() {
        let undelivered = Undelivered::default();
        for n in 0..=MAX_NAMES {
            undelivered.note(&[n.to_string()], &[]);
        }
        assert!(undelivered.concerns("anything", &[]));
        let overflow = undelivered.overflow().unwrap();
        undelivered.settle_overflow(overflow);
        assert!(!undelivered.concerns("anything", &[]));
        assert!(
            undelivered.concerns(&MAX_NAMES.to_string(), &[]),
            "what overflowed is told as well"
        );
    }
}
