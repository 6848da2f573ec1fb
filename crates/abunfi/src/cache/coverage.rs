//! Up to when this instance knows of every commit that L2 may not have been told of.
//!
//! Whoever commits tells L2 before it answers. If it cannot (it crashed, or cannot reach Redis while this
//! instance can), L2 goes on giving what the commit has changed. The commit's outbox row says so to all:
//! [`outbox::Watch`](crate::outbox::Watch) reads them several times a second, and reports here up to which
//! moment all are known. Within [`PROMISE`] of that moment L2 is asked; later it is not, since a commit of
//! more than a second ago might be missing. So the promise needs nothing but the relational store, and
//! without that there are no writes to be missed.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How far what is served may be behind another instance's answer. The contract's second, less the time
/// in which an answer is put together and sent.
const PROMISE: Duration = Duration::from_millis(950);

/// Nobody watches: L2 is trusted, as where no other process writes.
const UNWATCHED: i64 = i64::MAX;
/// Somebody watches, and has not seen anything yet.
const NEVER: i64 = i64::MIN;

#[derive(Debug)]
pub(super) struct Coverage {
    /// What the moments below count from.
    origin: Instant,
    /// In microseconds.
    up_to: AtomicI64,
}

impl Coverage {
    pub(super) fn new() -> Self {
        Self {
            origin: Instant::now(),
            up_to: AtomicI64::new(UNWATCHED),
        }
    }

    pub(super) fn begin(&self) {
        self.up_to.store(NEVER, Ordering::SeqCst);
    }

    /// All that was committed before `moment` is told to L2, or is undelivered here.
    pub(super) fn reaches(&self, moment: Instant) {
        self.up_to.fetch_max(self.micros(moment), Ordering::SeqCst);
    }

    /// For how long what L2 gives now may be served: `None`, not at all.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        match self.up_to.load(Ordering::SeqCst) {
            UNWATCHED => Some(Duration::MAX),
            NEVER => None,
            up_to => {
                let age = self.micros(now).saturating_sub(up_to);
                let age = Duration::from_micros(u64::try_from(age).unwrap_or(0));
                PROMISE.checked_sub(age).filter(|left| !left.is_zero())
            }
        }
    }

    fn micros(&self, moment: Instant) -> i64 {
        let since = moment.saturating_duration_since(self.origin);
        i64::try_from(since.as_micros()).unwrap_or(UNWATCHED - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_known_holds_for_less_than_a_second() {
        let coverage = Coverage::new();
        let now = Instant::now();
        assert_eq!(coverage.left(now), Some(Duration::MAX), "nobody watches");
        coverage.begin();
        assert_eq!(coverage.left(now), None);
        coverage.reaches(now);
        let later = |millis| coverage.left(now + Duration::from_millis(millis));
        assert!(later(500).is_some_and(|left| left <= Duration::from_millis(450)));
        assert_eq!(later(1_000), None);
        coverage.reaches(now + Duration::from_millis(400));
        coverage.reaches(now);
        assert!(later(1_000).is_some(), "an older report takes nothing back");
    }
}
