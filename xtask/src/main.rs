//! The project's own commands, without anything to install but Rust: `cargo xtask --help`.

#![allow(clippy::print_stdout, reason = "a command line tool says what it does")]
#![cfg_attr(
    test,
    allow(
        clippy::expect_used,
        reason = "a test that cannot set its scene must stop"
    )
)]

mod bench;
mod crash;
mod layering;
mod openapi;
mod provide;
mod report;
mod run;
mod suites;
mod test;
mod tools;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::run::Workspace;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Abunfi's own commands"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every check and test, on servers that this command finds, installs or starts
    Test(test::Options),
    /// Start the servers that the tests use, say where they are, and keep them until Ctrl-C
    Servers(provide::Installing),
    /// Measure speeds as ratios, side by side in one run, on a PostgreSQL of its own
    Bench(bench::Options),
    /// Kill the service, stop its database and cut its connections while clients post, and check the books
    Crash(crash::Options),
    /// Write docs/openapi.json anew from the code
    Openapi,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let cli = Cli::parse();
    let workspace = Workspace::find()?;

    match cli.command {
        Command::Test(options) => test::run(&workspace, &options),
        Command::Servers(options) => provide::serve(&workspace, options),
        Command::Bench(options) => bench::run(&workspace, &options),
        Command::Crash(options) => crash::run(&workspace, &options),
        Command::Openapi => openapi::write(&workspace),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
