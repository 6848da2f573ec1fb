//! The crash loop: builds the service with fault injection, and lets it be killed.

use std::path::PathBuf;
use std::process::ExitCode;

use abunfi_testkit::programs;
use anyhow::{Result, ensure};
use clap::Args;

use crate::provide::{Installing, postgres_programs};
use crate::run::Workspace;

#[derive(Args)]
pub(crate) struct Options {
    /// How often something goes wrong for some seconds and the books are checked
    #[arg(long, default_value_t = 12)]
    cycles: u32,
    /// Repeats the choices of an earlier run (not its timing)
    #[arg(long)]
    seed: Option<u64>,
    /// `postgres`, which is started for this, or `sqlite`
    #[arg(long, default_value = "postgres")]
    backend: String,
    /// Run with each seeded bug instead, and fail unless each is found
    #[arg(long)]
    seeded: bool,
    /// Write the summary there as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    installing: Installing,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    // As `cargo xtask test` builds, so that after it nothing is built anew: the features of the tests are what gives
    // the binary its fault points.
    let build = ["build", "--workspace", "--all-targets"];
    ensure!(
        workspace.cargo(&build).status()?.success(),
        "the build failed"
    );
    let mut command = workspace.command(&workspace.built("abunfi-crash"));
    command
        .arg("--abunfi")
        .arg(workspace.built("abunfi"))
        .args(["--cycles", &options.cycles.to_string()])
        .args(["--backend", &options.backend]);
    if options.backend == "postgres" {
        let bin = postgres_programs(!options.installing.no_install)?;
        command.env(programs::POSTGRES_BIN, bin);
    }
    if let Some(seed) = options.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if options.seeded {
        command.arg("--seeded");
    }
    if let Some(path) = &options.json {
        command.arg("--json").arg(std::path::absolute(path)?);
    }
    let status = command.status()?;

    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
