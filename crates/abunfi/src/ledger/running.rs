//! A duplicate of a request that runs waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::Error;

/// How long a request waits for an earlier one with the same key that still runs.
const DUPLICATE_WAIT: Duration = Duration::from_secs(5);

/// The idempotency keys that this process works on. A duplicate waits here for the first, without a
/// connection; duplicates in other processes wait in the database for the account's row lock.
#[derive(Debug, Clone, Default)]
pub(super) struct Running(Arc<Mutex<HashMap<String, watch::Receiver<()>>>>);

/// Marks a key as worked on until it is dropped.
#[derive(Debug)]
pub(super) struct RunningGuard {
    running: Running,
    name: String,
    /// Dropping it wakes those who wait.
    _done: watch::Sender<()>,
}

impl Running {
    /// Waits for whoever works on it.
    ///
    /// # Errors
    /// [`Error::IdempotencyInProgress`] when that takes too long.
    pub(super) async fn enter(&self, name: String) -> Result<RunningGuard, Error> {
        let deadline = Instant::now() + DUPLICATE_WAIT;
        loop {
            let mut other = {
                let mut running = self.lock();
                match running.get(&name) {
                    Some(other) => other.clone(),
                    None => {
                        let (done, wait) = watch::channel(());
                        running.insert(name.clone(), wait);
                        return Ok(RunningGuard {
                            running: self.clone(),
                            name,
                            _done: done,
                        });
                    }
                }
            };
            // The sender never sends: an error means that it was dropped, which is what is waited for.
            if timeout_at(deadline, other.changed()).await.is_err() {
                return Err(Error::IdempotencyInProgress);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, watch::Receiver<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.running.lock().remove(&self.name);
    }
}
