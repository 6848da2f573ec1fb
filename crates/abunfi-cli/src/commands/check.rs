//! `abunfi check`.

use std::process::ExitCode;

use abunfi::config::Loaded;
use abunfi::selftest::{self, Check, Report, Verdict};

use crate::{output, setup};

pub(crate) async fn run(loaded: Loaded, json: bool) -> anyhow::Result<ExitCode> {
    let platform = setup::open_for_command(loaded).await?;
    let report = Box::pin(selftest::run(&platform)).await;
    platform.close().await;
    if json {
        output::json(&report)?;
    } else {
        output::line(&shown(&report))?;
    }
    Ok(if report.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn shown(report: &Report) -> String {
    let mut lines = Vec::new();
    for part in &report.parts {
        lines.push(part.name.replace('_', " "));
        lines.extend(part.checks.iter().map(line));
    }
    let count = |verdict| {
        let checks = report.parts.iter().flat_map(|part| &part.checks);
        checks.filter(|check| check.verdict == verdict).count()
    };
    lines.push(String::new());
    lines.push(format!(
        "{} passed, {} failed, {} skipped, in {} ms",
        count(Verdict::Passed),
        count(Verdict::Failed),
        count(Verdict::Skipped),
        report.duration_ms
    ));
    lines.join("\n")
}

fn line(check: &Check) -> String {
    let mark = match check.verdict {
        Verdict::Passed => "ok    ",
        Verdict::Failed => "FAILED",
        Verdict::Skipped => "skip  ",
    };
    let reason = match &check.reason {
        Some(reason) => format!(": {reason}"),
        None => String::new(),
    };
    format!(
        "  {mark} {:>5} ms  {}{reason}",
        check.duration_ms, check.name
    )
}
