//! A circuit breaker: a store that keeps failing is not asked again until a probe shows that it is back, so
//! that requests fail at once instead of each waiting for its deadline.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::error::{StoreError, StoreKind};

/// Failures in a row after which the circuit opens: enough to ride out a lost connection or two.
const FAILURES_TO_OPEN: u32 = 5;
/// How long it stays open before one call is let through as a probe.
const OPEN_FOR: Duration = Duration::from_millis(500);

/// One for each store of a platform.
#[derive(Debug)]
pub struct Breaker {
    store: StoreKind,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed {
        failures: u32,
    },
    /// Nobody is let through before `until`; then one caller is, and `until` moves on for the others.
    Open {
        until: Instant,
    },
}

impl Breaker {
    #[must_use]
    pub const fn new(store: StoreKind) -> Self {
        Self {
            store,
            state: Mutex::new(State::Closed { failures: 0 }),
        }
    }

    /// Whether a call may go out now.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] at once while the circuit is open.
    pub fn admit(&self) -> Result<(), StoreError> {
        let mut state = self.lock();
        match *state {
            State::Closed { .. } => Ok(()),
            State::Open { until } if monotonic_now() < until => Err(StoreError::unavailable(
                self.store,
                "the circuit breaker is open",
            )),
            State::Open { .. } => {
                *state = State::Open {
                    until: monotonic_now() + OPEN_FOR,
                };
                Ok(())
            }
        }
    }

    /// Takes note of how a call went. Only a store that is away counts as a failure: an answer, even a
    /// refusal, shows that it is there.
    pub fn record<T>(&self, result: &Result<T, StoreError>) {
        let failed = matches!(
            result,
            Err(StoreError::Unavailable { .. } | StoreError::OutcomeUnknown { .. })
        );
        let mut state = self.lock();
        *state = match (*state, failed) {
            (_, false) => State::Closed { failures: 0 },
            (State::Closed { failures }, true) if failures + 1 < FAILURES_TO_OPEN => {
                State::Closed {
                    failures: failures + 1,
                }
            }
            (_, true) => State::Open {
                until: monotonic_now() + OPEN_FOR,
            },
        };
    }

    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(*self.lock(), State::Open { .. })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Deadlines and breakers measure spans, not times of day, so they need no `Clock`.
fn monotonic_now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> Result<(), StoreError> {
        Err(StoreError::unavailable(
            StoreKind::KeyValue,
            "connection refused",
        ))
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_on_the_first_answer() {
        let breaker = Breaker::new(StoreKind::KeyValue);
        for _ in 0..FAILURES_TO_OPEN {
            assert!(breaker.admit().is_ok());
            breaker.record(&away());
        }
        assert!(breaker.admit().is_err());
        std::thread::sleep(OPEN_FOR);
        assert!(breaker.admit().is_ok(), "one probe is let through");
        assert!(breaker.admit().is_err(), "and only one");
        breaker.record(&Ok(()));
        assert!(breaker.admit().is_ok());
    }

    #[test]
    fn an_answer_between_failures_keeps_it_closed() {
        let breaker = Breaker::new(StoreKind::Documents);
        for _ in 0..FAILURES_TO_OPEN * 3 {
            breaker.record(&away());
            breaker.record(&Ok(()));
        }
        assert!(!breaker.is_open());
    }
}
