//! The ledger's speed as ratios: each row of the table beside what it is compared to, in one run, taking
//! turns. Every measurement also counts the rows that it left in the database: what was not written right
//! was not fast.

use std::path::PathBuf;
use std::time::Duration;

use abunfi_testkit::{OwnPostgres, Postgres, programs};
use anyhow::{Result, ensure};
use clap::Args;

mod array;
mod books;
mod report;
pub(crate) mod requests;
mod rows;
mod seed;
mod verify;

pub(crate) use books::Database;
use report::Report;
use rows::Bench;
pub(crate) use rows::{Run, checked};
pub(crate) use seed::{connect, seeded};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The `abunfi` binary; that beside this program when not given.
    #[arg(long)]
    abunfi: Option<PathBuf>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// How often each side of a row is measured; medians are compared.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Users of the large database.
    #[arg(long, default_value_t = 1_000_000)]
    users_large: u64,
    /// Users of the small database.
    #[arg(long, default_value_t = 1_000)]
    users_small: u64,
    /// Only the rows whose number is named; all when empty.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<u32>,
    /// Seconds in all, and sizes to match: shows that everything works and is written right. Ratios are
    /// printed and not enforced.
    #[arg(long)]
    smoke: bool,
    /// Where the result goes, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Settings of a small production server rather than of a test's: room for the large database, and no
/// checkpoint in the middle of a measurement.
const POSTGRES_SETTINGS: [&str; 5] = [
    "shared_buffers=1GB",
    "max_wal_size=16GB",
    "min_wal_size=2GB",
    "wal_compression=on",
    "checkpoint_timeout=1h",
];

pub(crate) async fn run(mut options: Options) -> Result<()> {
    if options.smoke {
        options.seconds = 0;
        options.rounds = 1;
        options.users_small = 50;
        options.users_large = 500;
    }
    ensure!(options.rounds > 0, "at least one round");
    let span = if options.smoke {
        Duration::from_millis(400)
    } else {
        Duration::from_secs(options.seconds)
    };
    let server = start_postgres(&[]).await?;
    let folder = tempfile::tempdir()?;
    let abunfi = crate::abunfi_beside(options.abunfi.clone())?;
    let bench = Bench::prepare(&abunfi, &server.url(), folder.path(), &options, span).await?;
    let mut report = Report::new(&bench, &options).await?;
    for (number, row) in rows::TABLE.iter().enumerate() {
        let number = u32::try_from(number + 1)?;
        if !options.rows.is_empty() && !options.rows.contains(&number) {
            continue;
        }
        let measured = bench.measure(row, options.rounds).await?;
        report.add(number, row, measured);
    }
    report.finish(options.json.as_deref(), !options.smoke)
}

/// A server with the benchmarks' settings, and `more`.
pub(crate) async fn start_postgres(more: &[&str]) -> Result<OwnPostgres> {
    let mut kind = Postgres::new(programs::find_postgres()?)?;
    for setting in POSTGRES_SETTINGS.iter().chain(more) {
        kind = kind.with_setting(*setting);
    }
    tokio::task::spawn_blocking(move || OwnPostgres::start_with(kind)).await?
}
