//! The command `abunfi`: runs the service, and looks after it.
//!
//! Exit codes: 0 all is well; 1 what was asked failed; 2 it was asked wrongly, or the configuration is not
//! valid.

use std::process::ExitCode;

use clap::Parser;

mod actor;
mod anchor;
mod args;
mod commands;
mod failure;
mod first_key;
mod logging;
mod output;
mod setup;

use args::{Cli, Command};

/// A posting makes some hundred small allocations on one thread and frees them on another, which is where
/// this allocator is twice as fast as the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => failure::report(&error, cli.json),
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    // Needs no configuration, so that it works wherever the program does.
    if let Command::Openapi = cli.command {
        return commands::openapi::run();
    }
    if let Command::Audit(audit) = &cli.command
        && let Some(done) = commands::audit::run_offline(audit, cli.json)
    {
        return done;
    }
    let loaded = setup::load(&cli.settings)?;
    if let Command::Config = cli.command {
        return commands::config::run(&loaded, cli.json);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(Box::pin(async {
        match &cli.command {
            Command::Serve => commands::serve::run(loaded, cli.json).await,
            Command::Check => commands::check::run(loaded, cli.json).await,
            Command::Verify(verify) => commands::verify::run(loaded, verify, cli.json).await,
            Command::Accounts { asset } => {
                commands::accounts::run(loaded, asset.as_deref(), cli.json).await
            }
            Command::Migrate => commands::migrate::run(loaded, cli.json).await,
            Command::Keys(keys) => commands::keys::run(loaded, keys, cli.json).await,
            Command::Audit(audit) => commands::audit::run(loaded, audit, cli.json).await,
            Command::Stats => commands::stats::run(loaded, cli.json).await,
            Command::Config | Command::Openapi => Ok(ExitCode::SUCCESS),
        }
    }))
}
