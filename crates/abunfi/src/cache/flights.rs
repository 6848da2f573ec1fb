//! One load per key at a time in this process; the others wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::generations::Note;

/// The loads that are running, each with what it gives: `V`.
#[derive(Debug)]
pub(super) struct Flights<V> {
    running: Arc<Mutex<HashMap<String, Flight<V>>>>,
}

#[derive(Debug)]
struct Flight<V> {
    note: Arc<Note>,
    outcome: watch::Receiver<Option<Outcome<V>>>,
}

/// How a load ended.
#[derive(Debug, Clone)]
pub(super) enum Outcome<V> {
    Loaded(V),
    Failed,
}

/// What a caller does.
pub(super) enum Part<V> {
    Lead(Lead<V>),
    /// The receiver closes without an outcome when the leader was dropped.
    Follow(watch::Receiver<Option<Outcome<V>>>),
}

/// The duty to load. Dropped without [`land`](Lead::land), the followers look for a new leader.
#[derive(Debug)]
pub(super) struct Lead<V> {
    running: Arc<Mutex<HashMap<String, Flight<V>>>>,
    key: String,
    note: Arc<Note>,
    outcome: watch::Sender<Option<Outcome<V>>>,
}

impl<V> Flights<V> {
    pub(super) fn new() -> Self {
        Self {
            running: Arc::default(),
        }
    }

    /// Joins the load of `key`, or begins one. A load that was voided is not joined: who asks now must see
    /// what voided it.
    pub(super) fn join(&self, key: &str, note: impl FnOnce() -> Note) -> Part<V> {
        let mut running = lock(&self.running);
        if let Some(flight) = running.get(key)
            && flight.note.holds()
            && flight.outcome.has_changed().is_ok()
        {
            return Part::Follow(flight.outcome.clone());
        }
        let note = Arc::new(note());
        let (sender, receiver) = watch::channel(None);
        let flight = Flight {
            note: Arc::clone(&note),
            outcome: receiver,
        };
        running.insert(key.to_owned(), flight);
        Part::Lead(Lead {
            running: Arc::clone(&self.running),
            key: key.to_owned(),
            note,
            outcome: sender,
        })
    }
}

impl<V> Lead<V> {
    pub(super) fn note(&self) -> &Arc<Note> {
        &self.note
    }

    pub(super) fn land(self, outcome: Outcome<V>) {
        self.outcome.send_replace(Some(outcome));
    }
}

impl<V> Drop for Lead<V> {
    fn drop(&mut self) {
        let mut running = lock(&self.running);
        // A voided flight may have been replaced by a newer one, which is not this one's to end.
        if let Some(flight) = running.get(&self.key)
            && Arc::ptr_eq(&flight.note, &self.note)
        {
            running.remove(&self.key);
        }
    }
}

/// Waits for the leader: its outcome, or `None` when it was dropped.
pub(super) async fn outcome<V: Clone>(
    mut receiver: watch::Receiver<Option<Outcome<V>>>,
) -> Option<Outcome<V>> {
    let landed = receiver.wait_for(Option::is_some).await.ok()?;
    landed.clone()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
