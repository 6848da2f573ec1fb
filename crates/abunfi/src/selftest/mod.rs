//! Named checks of a whole platform: the command line, the HTTP API and the tests run the same list.

use serde::{Deserialize, Serialize};

use crate::DatabaseService;
use crate::ledger::words;

words! {
    Verdict { Passed = "passed", Failed = "failed", Skipped = "skipped" }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
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
    pub passed: bool,
    pub parts: Vec<Part>,
    pub duration_ms: u64,
}

/// Runs all seven parts against `platform`, and leaves nothing behind.
pub async fn run(platform: &DatabaseService) -> Report {
    todo!()
}
