//! Loads in the background, of keys whose older copy is being served meanwhile: one per key, and few at once.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Loads at once. What is beyond them is served from its older copy and loaded a moment later: a burst of
/// values that run out together must not take the authority's connections from the requests.
pub(super) const MAX_RUNNING: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Revalidations(Arc<Mutex<HashSet<String>>>);

/// The duty to load a key; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Revalidation {
    running: Arc<Mutex<HashSet<String>>>,
    key: String,
}

impl Revalidations {
    /// `None`: it is being loaded already, or too many others are.
    pub(super) fn begin(&self, key: &str) -> Option<Revalidation> {
        let mut running = lock(&self.0);
        if running.len() >= MAX_RUNNING || !running.insert(key.to_owned()) {
            return None;
        }
        Some(Revalidation {
            running: Arc::clone(&self.0),
            key: key.to_owned(),
        })
    }
}

impl Drop for Revalidation {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.key);
    }
}

fn lock(running: &Mutex<HashSet<String>>) -> MutexGuard<'_, HashSet<String>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_for_each_key_and_few_at_once() {
        let revalidations = Revalidations::default();
        let first = revalidations.begin("a");
        assert!(first.is_some());
        assert!(revalidations.begin("a").is_none());
        let more: Vec<_> = (0..MAX_RUNNING)
            .filter_map(|n| revalidations.begin(&n.to_string()))
            .collect();
        assert_eq!(more.len(), MAX_RUNNING - 1);
        drop(first);
        assert!(revalidations.begin("a").is_some());
    }
}
