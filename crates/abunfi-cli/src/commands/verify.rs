//! `abunfi verify`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use abunfi::audit::checkpoint::PublicKey;
use abunfi::audit::verify::{Anchor, Options, Progress, Report};
use abunfi::config::Loaded;
use serde_json::json;

use crate::args::Verify;
use crate::failure::Misuse;
use crate::{anchor, output, setup};

/// How often a line on a terminal is written anew.
const ON_A_TERMINAL: Duration = Duration::from_millis(500);
/// How often a line is written elsewhere.
const ELSEWHERE: Duration = Duration::from_secs(10);

pub(crate) async fn run(loaded: Loaded, asked: &Verify, json: bool) -> anyhow::Result<ExitCode> {
    // Asked wrongly is said before anything is opened.
    let options = options(asked)?;
    let platform = setup::open_to_read(loaded).await?;
    if let Some(number) = options.since
        && !platform.verifier().has_checkpoint(number).await?
    {
        platform.close().await;
        return Err(Misuse(format!("there is no checkpoint {number}")).into());
    }
    let started = Instant::now();
    let progress = Arc::new(Lines::new(started));
    let report = platform.verifier().verify(&options, progress.clone()).await;
    progress.end();
    platform.close().await;
    let report = report?;
    let took = started.elapsed();
    if json {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let mut shown = serde_json::to_value(&report)?;
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("duration_ms".to_owned(), json!(millis));
        }
        output::json(&shown)?;
    } else {
        output::line(&shown(&report, took, &options.public_keys))?;
    }
    Ok(if report.clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn options(asked: &Verify) -> Result<Options, Misuse> {
    let mut options = Options {
        most_findings: asked.findings.into(),
        since: asked.since,
        ..Options::default()
    };
    if let Some(workers) = asked.workers {
        options.workers = workers.into();
    }
    for key in &asked.public_key {
        let bytes = hex::decode(key)
            .ok()
            .and_then(|bytes| bytes.try_into().ok());
        options.public_keys.push(bytes.ok_or_else(|| {
            Misuse(format!(
                "{key:?} is no public key: it has 64 hexadecimal digits"
            ))
        })?);
    }
    if let Some(file) = &asked.anchor {
        let anchor: Anchor = (&anchor::read(file)?).into();
        // Nobody outside the database vouches for a later one, and it would be believed.
        if let Some(since) = asked.since.filter(|since| *since > anchor.number) {
            return Err(Misuse(format!(
                "--since {since} is newer than what was published: the anchor is of checkpoint {}; give a --since up to \
                 that, or leave it out",
                anchor.number
            )));
        }
        options.anchor = Some(anchor);
    }
    Ok(options)
}

fn shown(report: &Report, took: Duration, trusted: &[PublicKey]) -> String {
    let read = &report.read;
    let mut lines: Vec<String> = report
        .findings
        .iter()
        .map(|finding| finding.to_string())
        .collect();
    let shown = u64::try_from(lines.len()).unwrap_or(u64::MAX);
    if report.disagreements > shown {
        lines.push(format!(
            "and {} more",
            report.disagreements.saturating_sub(shown)
        ));
    }
    if !lines.is_empty() {
        lines.push(String::new());
    }
    lines.push(format!(
        "read: {} audit rows in {} chains, {} accounts, {} transactions, {} entries, in {}.{:03} s",
        read.audit_rows,
        read.chains,
        read.accounts,
        read.transactions,
        read.entries,
        took.as_secs(),
        took.subsec_millis(),
    ));
    lines.push(format!(
        "personal content: {} as committed to, {} erased",
        read.private, read.erased
    ));
    let checkpoints = &report.checkpoints;
    lines.push(format!(
        "checkpoints: {}, over {} rows; not checkpointed yet: {} rows",
        checkpoints.count, checkpoints.covered_rows, read.not_checkpointed
    ));
    if let Some(hash) = &report.since_hash {
        lines.push(format!(
            "since: checkpoint {} with the hash {hash}, which is believed: compare it with what an \
             earlier clean run reported",
            report.since
        ));
    }
    if let (Some(number), Some(later)) = (checkpoints.anchored, checkpoints.not_anchored) {
        lines.push(format!(
            "anchored: up to checkpoint {number}; not anchored yet: {later} checkpoints"
        ));
    }
    lines.push(match (report.clean, report.disagreements) {
        (true, _) => verdict(report, !trusted.is_empty()),
        (false, 1) => "1 disagreement".to_owned(),
        (false, count) => format!("{count} disagreements"),
    });
    lines.join("\n")
}

/// What a clean report says, and no more than that: proved is only what somebody outside the database vouches for,
/// by a signature that was demanded or by what was published.
fn verdict(report: &Report, is_key_given: bool) -> String {
    let newest = &report.newest;
    let what = match report.since {
        0 => "the books agree".to_owned(),
        since => format!(
            "what has changed since checkpoint {since} agrees; what came before was not recomputed, and totals \
             by counterpart were not added up"
        ),
    };
    let number = newest.checkpoint;
    let signed_from = newest.signed_from.filter(|from| *from > 1);
    let from = signed_from.map_or_else(String::new, |from| format!(" (signed from {from} on)"));
    match (&newest.signed_by, report.checkpoints.anchored) {
        (Some(key), _) if is_key_given && report.since == 0 => {
            format!("the books are proved up to checkpoint {number}{from}, signed by {key}")
        }
        (Some(key), _) if is_key_given => {
            format!("{what}; checkpoint {number}{from} is signed by {key}")
        }
        (_, Some(published)) if report.since == 0 => {
            format!("the books are proved up to checkpoint {published}, which was published")
        }
        (_, Some(published)) => format!("{what}; checkpoint {published} was published"),
        (Some(key), None) => format!(
            "{what}; checkpoint {number}{from} is signed by {key}: compare it, or give it with --public-key"
        ),
        (None, None) if number == 0 => {
            format!("{what}; there is no checkpoint yet, so nothing is signed or anchored")
        }
        (None, None) => format!(
            "{what}; checkpoint {number} is not signed and was not compared with a published one, so only the \
             database vouches for it"
        ),
    }
}

/// Shows on standard error how far it is: one line that changes on a terminal, plain lines elsewhere.
struct Lines {
    started: Instant,
    is_terminal: bool,
    last: Mutex<Option<Instant>>,
}

impl Lines {
    fn new(started: Instant) -> Self {
        Self {
            started,
            is_terminal: std::io::stderr().is_terminal(),
            last: Mutex::new(None),
        }
    }

    /// Leaves the line that was written over.
    fn end(&self) {
        let was_shown = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some();
        if self.is_terminal && was_shown {
            eprintln!();
        }
    }
}

impl Progress for Lines {
    fn rows(&self, done: u64, total: u64) {
        let every = if self.is_terminal {
            ON_A_TERMINAL
        } else {
            ELSEWHERE
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.unwrap_or(self.started).elapsed() < every {
            return;
        }
        *last = Some(Instant::now());
        let line = progress(done, total, self.started.elapsed());
        if self.is_terminal {
            eprint!("\r{line}\x1b[K");
            // What is not shown now is shown by the next one.
            std::io::stderr().flush().unwrap_or_default();
        } else {
            eprintln!("{line}");
        }
    }
}

fn progress(done: u64, total: u64, took: Duration) -> String {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done.saturating_mul(1_000) / millis;
    let left = total.saturating_sub(done) / rate.max(1);
    format!("{done} of about {total} audit rows, {rate} a second, {left} s left")
}

#[cfg(test)]
mod tests {
    use abunfi::audit::verify::{Checkpoints, Counts, Newest};

    use super::*;

    /// A clean report on the newest checkpoint `number`, signed by `key` from `from` on.
    fn clean(since: i64, number: i64, from: Option<i64>, anchored: Option<i64>) -> Report {
        Report {
            since,
            since_hash: None,
            newest: Newest {
                checkpoint: number,
                signed_by: from.map(|_from| "1f0c".to_owned()),
                signed_from: from,
                ..Newest::default()
            },
            clean: true,
            read: Counts::default(),
            checkpoints: Checkpoints {
                anchored,
                not_anchored: anchored.map(|anchored| number - anchored),
                ..Checkpoints::default()
            },
            disagreements: 0,
            findings: Vec::new(),
        }
    }

    #[test]
    fn proved_is_only_what_somebody_outside_vouches_for() {
        let part = "what has changed since checkpoint 2 agrees; what came before was not recomputed, and totals \
                    by counterpart were not added up; ";
        let alone = "checkpoint 3 is not signed and was not compared with a published one, so only the database \
                     vouches for it";
        let compare = "is signed by 1f0c: compare it, or give it with --public-key";
        let cases = [
            (
                clean(0, 0, None, None),
                false,
                "the books agree; there is no checkpoint yet, so nothing is signed or anchored"
                    .to_owned(),
            ),
            (
                clean(0, 3, None, None),
                false,
                format!("the books agree; {alone}"),
            ),
            (clean(2, 3, None, None), false, format!("{part}{alone}")),
            (
                clean(0, 3, Some(1), None),
                false,
                format!("the books agree; checkpoint 3 {compare}"),
            ),
            (
                clean(0, 3, Some(2), None),
                false,
                format!("the books agree; checkpoint 3 (signed from 2 on) {compare}"),
            ),
            (
                clean(0, 3, Some(1), None),
                true,
                "the books are proved up to checkpoint 3, signed by 1f0c".to_owned(),
            ),
            (
                clean(0, 3, Some(2), Some(1)),
                true,
                "the books are proved up to checkpoint 3 (signed from 2 on), signed by 1f0c"
                    .to_owned(),
            ),
            (
                clean(2, 3, Some(1), None),
                true,
                format!("{part}checkpoint 3 is signed by 1f0c"),
            ),
            (
                clean(0, 3, None, Some(2)),
                false,
                "the books are proved up to checkpoint 2, which was published".to_owned(),
            ),
            (
                clean(2, 3, None, Some(2)),
                false,
                format!("{part}checkpoint 2 was published"),
            ),
        ];
        for (report, is_key_given, says) in cases {
            assert_eq!(verdict(&report, is_key_given), says);
        }
    }

    #[test]
    fn progress_has_a_rate_and_the_time_left() {
        assert_eq!(
            progress(50_000, 200_000, Duration::from_secs(5)),
            "50000 of about 200000 audit rows, 10000 a second, 15 s left"
        );
        assert_eq!(
            progress(0, 10, Duration::ZERO),
            "0 of about 10 audit rows, 0 a second, 10 s left"
        );
    }
}
