//! Speeds as ratios: builds for release, then runs every comparison side by side in one go.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;

use crate::run::Workspace;

#[derive(Args)]
pub(crate) struct Options {
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How often each is measured, interleaved; medians are shown
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let build = [
        "build",
        "--release",
        "--package",
        "abunfi-cli",
        "--package",
        "abunfi-bench",
    ];
    ensure!(
        workspace.cargo(&build).status()?.success(),
        "the build failed"
    );
    let release = workspace.target.join("release");
    let status = workspace
        .command(&release.join("abunfi-bench"))
        .arg("service")
        .arg("--abunfi")
        .arg(release.join("abunfi"))
        .args(["--seconds", &options.seconds.to_string()])
        .args(["--rounds", &options.rounds.to_string()])
        .status()?;

    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
