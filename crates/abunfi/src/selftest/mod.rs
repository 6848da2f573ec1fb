//! Named checks of a whole platform: the command line, the HTTP API and the tests run the same list.
//!
//! Invariant: nothing is left behind. What would leave rows (users, money, sessions) happens inside a
//! relational transaction that is rolled back at the end; the rest has random names and is removed, or, for
//! counters of rate limits, goes by itself within a period. What cannot be checked so is listed as skipped.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::DatabaseService;
use crate::ledger::words;

mod caching;
mod connections;
mod documents;
mod hybrid_users;
mod rate_limiting;
mod relational;
mod runner;
mod sample;
mod sessions;

words! {
    Verdict { Passed = "passed", Failed = "failed", Skipped = "skipped" }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was found to hold, as a sentence.
    pub name: String,
    pub verdict: Verdict,
    /// Why it failed or was skipped.
    pub reason: Option<String>,
    pub duration_ms: u64,
}

/// One of the seven parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// `connections`, `relational_operations`, `document_operations`, `caching`, `hybrid_user_operations`,
    /// `rate_limiting`, `sessions`.
    pub name: String,
    pub checks: Vec<Check>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// No check failed.
    pub passed: bool,
    pub parts: Vec<Part>,
    pub duration_ms: u64,
}

/// Runs all seven parts against `platform`, and leaves nothing behind. Each check has a deadline, so this
/// ends whatever the stores do.
pub async fn run(platform: &DatabaseService) -> Report {
    let started = Instant::now();
    let parts = vec![
        connections::run(platform).await,
        relational::run(platform).await,
        documents::run(platform).await,
        caching::run(platform).await,
        hybrid_users::run(platform).await,
        rate_limiting::run(platform).await,
        sessions::run(platform).await,
    ];
    let failed = |check: &Check| check.verdict == Verdict::Failed;
    Report {
        passed: !parts.iter().any(|part| part.checks.iter().any(failed)),
        parts,
        duration_ms: runner::millis_since(started),
    }
}
