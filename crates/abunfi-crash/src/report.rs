//! What a run found and what it did, for people and for programs.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use abunfi::faults::Bug;
use serde::Serialize;

/// Violations of one check that are kept: one is enough, a thousand tell no more.
const KEPT: usize = 6;

/// What is checked. Each names what must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// No answer is a 500.
    ServerError,
    /// No refusal but those that the requests may meet.
    UnexpectedAnswer,
    /// All accounts sum to zero in every read.
    ZeroSum,
    /// A balance that is read is whole and not negative.
    Balance,
    /// A balance that is read is no older than what its reader has seen.
    ReadsGoForward,
    /// A replay is the first answer, byte for byte.
    Replay,
    /// What was acknowledged is in the books exactly once, as it was acknowledged.
    Acknowledged,
    /// What was refused, or certainly not done, is not in the books.
    NotDone,
    /// A hold is settled at most once.
    SettledOnce,
    /// Balances, holds and postings are those of the history, and no other.
    BooksAreTheHistory,
    /// What must hold of the ledger's rows.
    Rows,
    /// Audit chains are whole.
    Chains,
    /// After healing everything becomes known in time.
    Convergence,
    /// A service ends only when it is killed, and with success when it is asked.
    Process,
    /// The run did enough to mean something.
    DidWork,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = serde_json::to_value(self).unwrap_or_default();
        f.write_str(name.as_str().unwrap_or_default())
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Violation {
    pub check: Check,
    pub detail: String,
}

#[derive(Debug, Default)]
pub(crate) struct Violations(Mutex<Vec<Violation>>);

impl Violations {
    pub(crate) fn add(&self, check: Check, detail: impl Into<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.iter().filter(|known| known.check == check).count() < KEPT {
            let mut detail: String = detail.into();
            if let Some((end, _)) = detail.char_indices().nth(800) {
                detail.truncate(end);
            }
            all.push(Violation { check, detail });
        }
    }

    pub(crate) fn take(&self) -> Vec<Violation> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Figures of one cycle, or of all.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// Requests that were acknowledged, and the postings in them.
    pub acknowledged: u64,
    pub postings: u64,
    pub refused: u64,
    /// Said to be certainly not done, or never sent.
    pub not_done: u64,
    /// Requests whose outcome was unknown for a while.
    pub unknown: u64,
    /// Of those, the ones that had been done the first time.
    pub answers_lost: u64,
    pub replays: u64,
    pub reads: u64,
    pub trial_balances: u64,
    /// Services killed at random, and those that killed themselves at a named point.
    pub kills: u64,
    pub kills_at_point: u64,
    pub database_stops: u64,
    pub cuts: u64,
    /// Answers of the database to a COMMIT that the proxy lost.
    pub commits_lost: u64,
}

impl Figures {
    pub(crate) fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.acknowledged, other.acknowledged),
            (&mut self.postings, other.postings),
            (&mut self.refused, other.refused),
            (&mut self.not_done, other.not_done),
            (&mut self.unknown, other.unknown),
            (&mut self.answers_lost, other.answers_lost),
            (&mut self.replays, other.replays),
            (&mut self.reads, other.reads),
            (&mut self.trial_balances, other.trial_balances),
            (&mut self.kills, other.kills),
            (&mut self.kills_at_point, other.kills_at_point),
            (&mut self.database_stops, other.database_stops),
            (&mut self.cuts, other.cuts),
            (&mut self.commits_lost, other.commits_lost),
        ];
        for (sum, more) in pairs {
            *sum += more;
        }
    }

    /// Faults that fired.
    #[must_use]
    pub const fn faults(&self) -> u64 {
        self.kills + self.kills_at_point + self.database_stops + self.cuts + self.commits_lost
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Cycle {
    pub number: u32,
    pub nemesis: String,
    pub services: usize,
    pub figures: Figures,
    pub millis: u64,
    pub violations: Vec<Violation>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub seed: u64,
    pub backend: &'static str,
    pub bug: Option<&'static str>,
    pub clients: usize,
    pub cycles: Vec<Cycle>,
    pub total: Figures,
    /// Violations over the whole run, beside those of its cycles.
    pub violations: Vec<Violation>,
    /// Where the history is kept, after a violation.
    pub history: Option<PathBuf>,
}

impl Summary {
    pub fn all_violations(&self) -> impl Iterator<Item = &Violation> {
        let of_cycles = self.cycles.iter().flat_map(|cycle| &cycle.violations);
        of_cycles.chain(&self.violations)
    }

    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.all_violations().next().is_none()
    }

    /// The checks that failed.
    #[must_use]
    pub fn failed(&self) -> BTreeSet<Check> {
        self.all_violations()
            .map(|violation| violation.check)
            .collect()
    }

    /// Of those, the ones that tell of `bug`. Others may fail for any reason, a busy machine included.
    #[must_use]
    pub fn caught(&self, bug: Bug) -> BTreeSet<Check> {
        let mut failed = self.failed();
        failed.retain(|check| tells_of(bug, *check));
        failed
    }
}

/// Whether a failure of `check` says that the books or the answers are wrong in the way in which `bug` makes
/// them wrong.
#[must_use]
pub fn tells_of(bug: Bug, check: Check) -> bool {
    let named: &[Check] = match bug {
        Bug::AcknowledgeBeforeCommit => &[
            Check::Acknowledged,
            Check::ReadsGoForward,
            Check::Replay,
            Check::BooksAreTheHistory,
        ],
        Bug::AnswerInItsOwnTransaction => &[
            Check::Acknowledged,
            Check::NotDone,
            Check::SettledOnce,
            Check::Replay,
            Check::BooksAreTheHistory,
        ],
        Bug::SkipLock => &[
            Check::BooksAreTheHistory,
            Check::ZeroSum,
            Check::Balance,
            Check::Rows,
            Check::Chains,
        ],
        Bug::AuditOutside => &[Check::Rows, Check::Chains],
    };
    named.contains(&check)
}

/// The head of the table of cycles.
#[must_use]
pub fn head() -> String {
    format!(
        "{:>5} {:<22} {:>4} {:>6} {:>8} {:>7} {:>8} {:>7} {:>6} {:>7} {:>5} {:>5} {:>4} {:>4} {:>6} {:>6}  violations",
        "cycle",
        "nemesis",
        "svc",
        "acked",
        "postings",
        "refused",
        "not done",
        "unknown",
        "lost",
        "replays",
        "reads",
        "kills",
        "db",
        "cuts",
        "commit",
        "s"
    )
}

/// One row of it.
#[must_use]
pub fn row(
    name: &str,
    nemesis: &str,
    services: usize,
    f: &Figures,
    millis: u64,
    violations: usize,
) -> String {
    format!(
        "{:>5} {:<22} {:>4} {:>6} {:>8} {:>7} {:>8} {:>7} {:>6} {:>7} {:>5} {:>5} {:>4} {:>4} {:>6} {:>4}.{}  {}",
        name,
        nemesis,
        services,
        f.acknowledged,
        f.postings,
        f.refused,
        f.not_done,
        f.unknown,
        f.answers_lost,
        f.replays,
        f.reads + f.trial_balances,
        f.kills + f.kills_at_point,
        f.database_stops,
        f.cuts,
        f.commits_lost,
        millis / 1_000,
        millis % 1_000 / 100,
        violations
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(checks: &[Check]) -> Summary {
        Summary {
            seed: 0,
            backend: "sqlite",
            bug: None,
            clients: 0,
            cycles: Vec::new(),
            total: Figures::default(),
            violations: checks
                .iter()
                .map(|check| Violation {
                    check: *check,
                    detail: String::new(),
                })
                .collect(),
            history: None,
        }
    }

    #[test]
    fn a_busy_machine_catches_no_bug() {
        let busy = failing(&[
            Check::DidWork,
            Check::Process,
            Check::Convergence,
            Check::ServerError,
            Check::UnexpectedAnswer,
        ]);
        for bug in Bug::ALL {
            assert!(busy.caught(bug).is_empty(), "{}", bug.name());
        }
        let seen = failing(&[Check::DidWork, Check::Rows]);
        assert_eq!(
            seen.caught(Bug::AuditOutside),
            BTreeSet::from([Check::Rows])
        );
    }
}
