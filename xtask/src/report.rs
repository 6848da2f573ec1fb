//! What came out: the table at the end and the lines after it.

use std::time::Duration;

/// How one suite ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ran {
        passed: u64,
        failed: u64,
    },
    /// It could not run; `tests` is how many it would have been, where that is known.
    NotRun {
        tests: u64,
        why: Vec<String>,
        hint: Vec<String>,
    },
}

impl Outcome {
    /// Of a suite that is one check.
    pub(crate) fn check(ok: bool) -> Self {
        if ok {
            Self::Ran {
                passed: 1,
                failed: 0,
            }
        } else {
            Self::Ran {
                passed: 0,
                failed: 1,
            }
        }
    }
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) suite: &'static str,
    pub(crate) backend: String,
    pub(crate) outcome: Outcome,
    pub(crate) time: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    /// Tests that are marked `#[ignore]`.
    pub(crate) ignored: u64,
    /// Whether a suite that did not run counts as failed.
    pub(crate) strict: bool,
}

impl Report {
    /// Passed, failed and skipped.
    fn totals(&self) -> (u64, u64, u64) {
        self.rows.iter().fold(
            (0, 0, self.ignored),
            |(passed, failed, skipped), row| match &row.outcome {
                Outcome::Ran {
                    passed: p,
                    failed: f,
                } => (passed + p, failed + f, skipped),
                Outcome::NotRun { tests, .. } => (
                    passed,
                    failed + u64::from(self.strict),
                    skipped + (*tests).max(1),
                ),
            },
        )
    }

    pub(crate) fn ok(&self) -> bool {
        let (passed, failed, _) = self.totals();

        failed == 0 && passed > 0
    }

    pub(crate) fn print(&self) {
        let headings = ["suite", "backend", "passed", "failed", "time"].map(str::to_owned);
        let lines: Vec<[String; 5]> = std::iter::once(headings)
            .chain(self.rows.iter().map(|row| {
                let (passed, failed) = match &row.outcome {
                    Outcome::Ran { passed, failed } => (passed.to_string(), failed.to_string()),
                    Outcome::NotRun { .. } => ("not run".to_owned(), "-".to_owned()),
                };
                let time = format!("{:.1} s", row.time.as_secs_f64());
                [
                    row.suite.to_owned(),
                    row.backend.clone(),
                    passed,
                    failed,
                    time,
                ]
            }))
            .collect();
        let width = |column: usize| {
            lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(String::len)
                .max()
                .unwrap_or(0)
        };
        let [suites, backends, passed, failed, times] = [0, 1, 2, 3, 4].map(width);

        println!();
        for [suite, backend, p, f, time] in &lines {
            println!(
                "{suite:<suites$}  {backend:<backends$}  {p:>passed$}  {f:>failed$}  {time:>times$}"
            );
        }
        println!();
        for row in &self.rows {
            if let Outcome::NotRun { why, hint, .. } = &row.outcome {
                println!(
                    "not run: {} ({}): {}",
                    row.suite,
                    row.backend,
                    why.join("; ")
                );
                println!("         to run it: {}", hint.join("; "));
            }
        }
        let (passed, failed, skipped) = self.totals();
        println!("abunfi: {passed} passed, {failed} failed, {skipped} skipped");
    }
}

/// Passed and failed as the test runner's own summary says, or `None` where there is none.
///
/// Reads cargo-nextest's one line (`Summary [ 1.2s] 3 tests run: 2 passed (1 slow), 1 failed, 5
/// skipped`, where "skipped" is what the filter left out); else the one per program that plain
/// `cargo test` prints (`test result: ok. 3 passed; 0 failed; …`), summed. Not both: of a test that
/// fails, cargo-nextest shows what it printed, which is such a line again.
pub(crate) fn summary(output: &str) -> Option<(u64, u64)> {
    let lines = || output.lines().map(str::trim);
    if let Some(line) = lines().rfind(|line| line.starts_with("Summary [")) {
        return Some(counts(
            line.split_once("run:").map_or("", |(_, rest)| rest),
            ',',
        ));
    }

    lines()
        .filter_map(|line| line.strip_prefix("test result:"))
        .map(|rest| counts(rest, ';'))
        .reduce(|sum, more| (sum.0 + more.0, sum.1 + more.1))
}

/// Adds up `N passed`, and everything that is neither passed nor left out as failed.
fn counts(text: &str, separator: char) -> (u64, u64) {
    let (mut passed, mut failed) = (0, 0);
    // Brackets hold parts of what stands before them: `3 passed (1 slow, 1 flaky)`.
    let mut depth = 0_usize;
    let outside: String = text
        .chars()
        .filter(|c| {
            match c {
                '(' => depth += 1,
                ')' => {
                    depth = depth.saturating_sub(1);
                    return false;
                }
                _ => {}
            }
            depth == 0
        })
        .collect();
    for part in outside.split(separator) {
        let words: Vec<&str> = part.split_whitespace().collect();
        let number = words.iter().find_map(|word| word.parse::<u64>().ok());
        let Some(number) = number else { continue };
        if part.contains("passed") {
            passed += number;
        } else if ["failed", "timed out"]
            .iter()
            .any(|word| part.contains(word))
        {
            failed += number;
        }
    }

    (passed, failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nextest_s_summary_is_read() {
        let line = "     Summary [   0.005s] 13 tests run: 9 passed (1 slow, 2 leaky), 2 failed, \
                    1 timed out, 1 exec failed, 5 skipped";

        assert_eq!(summary(line), Some((9, 4)));
        assert_eq!(
            summary("Summary [ 0.1s] 1 test run: 1 passed, 0 skipped"),
            Some((1, 0))
        );
        assert_eq!(
            summary("    Summary [ 0.1s] 0 tests run: 0 passed, 3 skipped"),
            Some((0, 0))
        );
        assert_eq!(
            summary("Summary [ 0.1s] 2/9 tests run: 1 passed, 1 failed"),
            Some((1, 1))
        );
    }

    #[test]
    fn what_a_failing_test_printed_is_not_counted_again() {
        let text = "Summary [ 0.1s] 3 tests run: 2 passed, 1 failed, 6 skipped\n\
                    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 8 filtered out";

        assert_eq!(summary(text), Some((2, 1)));
    }

    #[test]
    fn cargo_test_s_summaries_are_summed() {
        let text = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out\n\
                    test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 9 filtered out";

        assert_eq!(summary(text), Some((4, 2)));
        assert_eq!(summary("error: could not compile"), None);
    }

    #[test]
    fn nothing_run_is_not_success_and_strictness_counts_what_is_missing() {
        let row = |outcome| Row {
            suite: "s",
            backend: String::new(),
            outcome,
            time: Duration::ZERO,
        };
        let missing = || Outcome::NotRun {
            tests: 7,
            why: Vec::new(),
            hint: Vec::new(),
        };
        let mut report = Report::default();
        assert!(!report.ok());

        report.rows = vec![row(Outcome::check(true)), row(missing())];
        assert!(report.ok());
        assert_eq!(report.totals(), (1, 0, 7));

        report.strict = true;
        assert!(!report.ok());
        assert_eq!(report.totals(), (1, 1, 7));
    }
}
