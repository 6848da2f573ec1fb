//! Speeds as ratios: every row runs side by side with what it is compared to, interleaved, in one run.
#![expect(clippy::print_stdout, reason = "a command's output is what it is for")]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use abunfi_testkit::programs;
use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

mod ledger;
mod load;
mod plain;
mod profile;
mod servers;
mod service;

#[derive(Parser)]
#[command(about = "Measures speeds as ratios, side by side in one run")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The service on PostgreSQL (fsync on) and embedded, beside a bare handler and `pgbench`.
    Service {
        /// The `abunfi` binary; that beside this program when not given.
        #[arg(long)]
        abunfi: Option<PathBuf>,
        /// Seconds of each measurement.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// How often each is measured, interleaved; medians are shown.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Users to spread the deposits over.
        #[arg(long, default_value_t = 1_000)]
        users: usize,
    },
    /// The ledger beside the ways of writing the same rows that it is measured by.
    Ledger(ledger::Options),
    /// Where the ledger's time goes: processor time, statements, plans, a flame graph.
    Profile(profile::Options),
    /// The service with a ledger that writes statement by statement: what others are compared to.
    Plain,
    /// Deposits to a service that runs, with the benchmarks' key, on users made for it: for profiling.
    Load {
        #[arg(long)]
        port: u16,
        #[arg(long, default_value_t = 64)]
        connections: usize,
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        #[arg(long, default_value_t = 1_000)]
        users: usize,
    },
    /// A bare handler that answers with the bytes of a file: what a cached read is compared to.
    Bare { port: u16, body: PathBuf },
}

/// The service's own, so that both sides of a row have the same.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Service {
            abunfi,
            seconds,
            rounds,
            users,
        } => {
            service::run(
                &abunfi_beside(abunfi)?,
                Duration::from_secs(seconds),
                rounds,
                users,
            )
            .await
        }
        What::Ledger(options) => ledger::run(options).await,
        What::Profile(options) => profile::run(options).await,
        What::Plain => plain::serve().await,
        What::Load {
            port,
            connections,
            seconds,
            users,
        } => service::load(port, connections, Duration::from_secs(seconds), users).await,
        What::Bare { port, body } => servers::bare(port, &body).await,
    }
}

/// The `abunfi` that is measured.
fn abunfi_beside(given: Option<PathBuf>) -> Result<PathBuf> {
    let abunfi = match given {
        Some(given) => given,
        None => std::env::current_exe()?.with_file_name("abunfi"),
    };
    // It runs in another folder.
    std::path::absolute(&abunfi).with_context(|| format!("no {}", abunfi.display()))
}

/// A client program of PostgreSQL: beside the server's, else on the `PATH`, else where Debian keeps the
/// versions side by side. They may run as anyone.
fn client_program(name: &str) -> Result<Command> {
    programs::find_postgres_client(name)
        .map(Command::new)
        .with_context(|| format!("cannot measure without `{name}`"))
}
