//! Runs one check after the other, each with its deadline, and notes what became of it.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures::FutureExt;

use super::{Check, Part, Verdict};

/// How long one check may take. Stores have deadlines of their own below this; it ends what forgot one.
const CHECK_DEADLINE: Duration = Duration::from_secs(15);

/// Why a check did not pass.
#[derive(Debug)]
pub(super) enum Because {
    Failed(String),
    Skipped(String),
}

/// What a check found.
pub(super) type Found = Result<(), Because>;

impl<E: std::error::Error> From<E> for Because {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Fails the check unless `holds`.
pub(super) fn ensure(holds: bool, reason: impl Into<String>) -> Found {
    if holds {
        Ok(())
    } else {
        Err(Because::Failed(reason.into()))
    }
}

pub(super) fn skip(reason: impl Into<String>) -> Found {
    Err(Because::Skipped(reason.into()))
}

/// One part, being run.
#[derive(Debug)]
pub(super) struct PartRun {
    part: Part,
    deadline: Duration,
}

impl PartRun {
    pub(super) fn new(name: &str) -> Self {
        Self {
            part: Part {
                name: name.to_owned(),
                checks: Vec::new(),
            },
            deadline: CHECK_DEADLINE,
        }
    }

    /// Runs one check; a panic in it is its failure and no more.
    pub(super) async fn check(&mut self, name: &str, body: impl Future<Output = Found>) {
        let started = Instant::now();
        let body = AssertUnwindSafe(body).catch_unwind();
        // Boxed: the futures of whole services are large.
        let (verdict, reason) = match tokio::time::timeout(self.deadline, Box::pin(body)).await {
            Ok(Ok(Ok(()))) => (Verdict::Passed, None),
            Ok(Ok(Err(Because::Failed(reason)))) => (Verdict::Failed, Some(reason)),
            Ok(Ok(Err(Because::Skipped(reason)))) => (Verdict::Skipped, Some(reason)),
            Ok(Err(panic)) => (Verdict::Failed, Some(said(panic.as_ref()))),
            Err(_elapsed) => {
                let reason = format!("did not end within {:?}", self.deadline);
                (Verdict::Failed, Some(reason))
            }
        };
        self.part.checks.push(Check {
            name: name.to_owned(),
            verdict,
            reason,
            duration_ms: millis_since(started),
        });
    }

    pub(super) fn done(self) -> Part {
        self.part
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_default())
}

pub(super) fn millis_since(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::panic,
        clippy::indexing_slicing,
        reason = "the check under test panics"
    )]

    use super::*;

    #[tokio::test]
    async fn a_check_passes_fails_is_skipped_panics_or_runs_out_of_time() {
        let mut part = PartRun::new("part");
        part.check("passes", async { Ok(()) }).await;
        part.check("fails", async { ensure(false, "no") }).await;
        part.check("fails by an error", async { Err(std::fmt::Error)? })
            .await;
        part.check("is skipped", async { skip("not here") }).await;
        part.check("panics", async { panic!("boom {}", 1) }).await;
        part.deadline = Duration::from_millis(50);
        part.check("hangs", std::future::pending()).await;
        let part = part.done();
        let found: Vec<_> = part
            .checks
            .iter()
            .map(|check| (check.verdict, check.reason.as_deref()))
            .collect();
        assert_eq!(found[0], (Verdict::Passed, None));
        assert_eq!(found[1], (Verdict::Failed, Some("no")));
        assert_eq!(found[2].0, Verdict::Failed);
        assert_eq!(found[3], (Verdict::Skipped, Some("not here")));
        assert_eq!(found[4], (Verdict::Failed, Some("panicked: boom 1")));
        assert_eq!(found[5], (Verdict::Failed, Some("did not end within 50ms")));
    }
}
