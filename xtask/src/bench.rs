//! Speeds as ratios: builds for release, then runs every comparison side by side in one go.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};

use crate::run::Workspace;

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Cached reads and deposits, beside a bare handler and `pgbench`
    Service {
        /// Seconds of each measurement
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// How often each is measured, interleaved; medians are shown
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// The ledger beside a transaction for each request and beside array SQL; fails when a ratio is missed
    Ledger {
        /// Seconds of each measurement
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// How often each side of a row is measured, interleaved; medians are compared
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Users of the large database
        #[arg(long, default_value_t = 1_000_000)]
        users_large: u64,
        /// Only these rows of the table, by number
        #[arg(long, value_delimiter = ',')]
        rows: Vec<u32>,
        /// Seconds in all, with what `cargo build` has made: nothing is built for release, no ratio is
        /// enforced, and everything else is
        #[arg(long)]
        smoke: bool,
    },
    /// Where the ledger's time goes: processor time, statements, plans, and (with `perf`) a flame graph
    Profile {
        /// Seconds of each measurement
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Where the results go; `target/bench/profile` when not given
        #[arg(long)]
        out: Option<PathBuf>,
        /// Seconds in all, with what `cargo build` has made; nothing is kept unless `--out` says where
        #[arg(long)]
        smoke: bool,
    },
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let smoke = matches!(
        options.what,
        What::Ledger { smoke: true, .. } | What::Profile { smoke: true, .. }
    );
    let profile = if smoke { "debug" } else { "release" };
    let mut build = vec![
        "build",
        "--package",
        "abunfi-cli",
        "--package",
        "abunfi-bench",
    ];
    if !smoke {
        build.push("--release");
    }
    ensure!(
        workspace.cargo(&build).status()?.success(),
        "the build failed"
    );
    let mut command = workspace.command(&workspace.target.join(profile).join("abunfi-bench"));
    match &options.what {
        What::Service { seconds, rounds } => {
            command
                .arg("service")
                .args(["--seconds", &seconds.to_string()])
                .args(["--rounds", &rounds.to_string()]);
        }
        What::Ledger {
            seconds,
            rounds,
            users_large,
            rows,
            smoke,
        } => {
            command
                .arg("ledger")
                .args(["--seconds", &seconds.to_string()])
                .args(["--rounds", &rounds.to_string()])
                .args(["--users-large", &users_large.to_string()])
                .arg("--json")
                .arg(workspace.target.join("bench").join("ledger.json"));
            for row in rows {
                command.args(["--rows", &row.to_string()]);
            }
            if *smoke {
                command.arg("--smoke");
            }
        }
        What::Profile {
            seconds,
            out,
            smoke,
        } => {
            command
                .arg("profile")
                .args(["--seconds", &seconds.to_string()]);
            if let Some(out) = out {
                // The program runs in the workspace, wherever this was called.
                command.arg("--out").arg(std::path::absolute(out)?);
            }
            if *smoke {
                command.arg("--smoke");
            }
        }
    }

    Ok(if command.status()?.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
