//! `cargo xtask crash` builds the service with fault injection and runs this.

#![allow(clippy::print_stdout, reason = "a command line tool says what it does")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use abunfi::faults::Bug;
use abunfi_crash::report::{Check, Summary, head, row};
use abunfi_crash::{Backend, Options, run};
use anyhow::{Context as _, Result};
use clap::Parser;

/// Cycles within which a seeded bug must be found: a round of every nemesis, and half of another.
const SEEDED_CYCLES: u32 = 9;

#[derive(Parser)]
#[command(about = "Kills, cuts and stops things while clients post, and checks the books")]
struct Cli {
    /// The binary `abunfi`, built with the feature `fault-injection`
    #[arg(long)]
    abunfi: PathBuf,
    #[arg(long, default_value_t = 12)]
    cycles: u32,
    /// Repeats the choices of an earlier run (not its timing)
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, value_enum, default_value_t = Backend::Postgres)]
    backend: Backend,
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// How long things go wrong in each cycle
    #[arg(long, default_value_t = 3_000)]
    window_ms: u64,
    /// Requests that each cycle must acknowledge
    #[arg(long, default_value_t = 100)]
    minimum: u64,
    /// Run with each seeded bug, and fail unless each is found
    #[arg(long)]
    seeded: bool,
    /// Only this seeded bug
    #[arg(long, value_parser = bug)]
    bug: Option<Bug>,
    /// Write the summary there as JSON (`-`: to the standard output, with nothing else)
    #[arg(long)]
    json: Option<PathBuf>,
}

fn bug(name: &str) -> Result<Bug, String> {
    let known = Bug::ALL.into_iter().find(|bug| bug.name() == name);
    known.ok_or_else(|| format!("one of {:?}", Bug::ALL.map(Bug::name)))
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let quiet = cli
        .json
        .as_ref()
        .is_some_and(|path| path.as_os_str() == "-");
    let seed = cli
        .seed
        .unwrap_or_else(|| u64::from_le_bytes(abunfi::ids::random_bytes()) >> 16);
    let mut options = Options::new(cli.abunfi, cli.backend, cli.cycles, seed);
    options.clients = cli.clients;
    options.window = Duration::from_millis(cli.window_ms);
    options.minimum = cli.minimum;
    let mut summaries = Vec::new();
    let mut good = true;
    if cli.seeded || cli.bug.is_some() {
        let bugs = Bug::ALL.into_iter().filter(|bug| {
            // SQLite has one writer: there is no lock to skip.
            let possible = cli.backend == Backend::Postgres || *bug != Bug::SkipLock;
            possible && cli.bug.is_none_or(|only| only == *bug)
        });
        options.cycles = SEEDED_CYCLES;
        options.stop_early = true;
        let mut caught = Vec::new();
        for bug in bugs {
            options.bug = Some(bug);
            let summary = one(&options, quiet).await?;
            good &= !summary.caught(bug).is_empty();
            caught.push((bug, summary.caught(bug)));
            summaries.push(summary);
        }
        if !quiet {
            show_caught(&caught, &summaries);
        }
    } else {
        let summary = one(&options, quiet).await?;
        good = summary.is_sound();
        summaries.push(summary);
    }
    write_json(cli.json, &summaries)?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn one(options: &Options, quiet: bool) -> Result<Summary> {
    if !quiet {
        let bug = options
            .bug
            .map_or(String::new(), |bug| format!(", seeded bug {}", bug.name()));
        println!(
            "seed {}, {}, {} clients{bug}",
            options.seed,
            options.backend.name(),
            options.clients
        );
        println!("{}", head());
    }
    let summary = run(options, |cycle| {
        if !quiet {
            let number = cycle.number.to_string();
            let found = cycle.violations.len();
            println!(
                "{}",
                row(
                    &number,
                    &cycle.nemesis,
                    cycle.services,
                    &cycle.figures,
                    cycle.millis,
                    found
                )
            );
        }
    })
    .await?;
    if !quiet {
        let millis = summary.cycles.iter().map(|cycle| cycle.millis).sum();
        let found = summary.all_violations().count();
        println!("{}", row("all", "", 0, &summary.total, millis, found));
        for violation in summary.all_violations().take(10) {
            let mut detail: String = violation.detail.chars().take(240).collect();
            if detail.len() < violation.detail.len() {
                detail.push('…');
            }
            println!("  {}: {detail}", violation.check);
        }
        if let Some(history) = &summary.history {
            println!(
                "  the history is kept in {} (seed {})",
                history.display(),
                summary.seed
            );
        }
    }
    Ok(summary)
}

fn show_caught(caught: &[(Bug, BTreeSet<Check>)], summaries: &[Summary]) {
    println!("\n{:<32} {:>6}  caught by", "seeded bug", "cycles");
    for ((bug, caught), summary) in caught.iter().zip(summaries) {
        let by: Vec<String> = caught.iter().map(Check::to_string).collect();
        let by = if by.is_empty() {
            "NOTHING: the crash loop is blind to it".to_owned()
        } else {
            by.join(", ")
        };
        println!("{:<32} {:>6}  {by}", bug.name(), summary.cycles.len());
    }
}

fn write_json(to: Option<PathBuf>, summaries: &[Summary]) -> Result<()> {
    let Some(path) = to else { return Ok(()) };
    let text = serde_json::to_string_pretty(summaries)?;
    if path.as_os_str() == "-" {
        println!("{text}");
        return Ok(());
    }
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
