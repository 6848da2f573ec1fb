//! The table as it is printed and kept.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::Options;
use super::rows::{Bench, Limit, Pair, Row, Run};

#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    rows: Vec<Line>,
}

/// What the figures belong to.
#[derive(Debug, Serialize)]
struct Machine {
    cores: usize,
    postgres: String,
    users_small: u64,
    users_large: u64,
    seconds: u64,
    rounds: usize,
}

#[derive(Debug, Serialize)]
struct Line {
    number: u32,
    work: &'static str,
    against: &'static str,
    limit: String,
    /// `None`: not run.
    result: Option<Compared>,
    met: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Compared {
    ratio_percent: u64,
    ours: Figures,
    theirs: Figures,
}

/// Of one side: the run in the middle, and the rates of all.
#[derive(Debug, Serialize)]
struct Figures {
    per_second: u64,
    p50_us: u128,
    p99_us: u128,
    p999_us: u128,
    errors: u64,
    postings: i64,
    wal_bytes_per_posting: i64,
    all_per_second: Vec<u64>,
    all_p50_us: Vec<u128>,
}

impl Report {
    pub(super) async fn new(bench: &Bench, options: &Options) -> Result<Self> {
        let mut connection = PgConnectOptions::from_str(&bench.small_url)?
            .disable_statement_logging()
            .connect()
            .await?;
        let postgres: String = sqlx::query_scalar("SHOW server_version")
            .fetch_one(&mut connection)
            .await?;
        connection.close().await?;
        Ok(Self {
            machine: Machine {
                cores: std::thread::available_parallelism().map_or(0, usize::from),
                postgres,
                users_small: options.users_small,
                users_large: options.users_large,
                seconds: options.seconds,
                rounds: options.rounds,
            },
            rows: Vec::new(),
        })
    }

    /// Adds a row, and prints it.
    pub(super) fn add(&mut self, number: u32, row: &Row, pair: Option<Pair>) {
        let limit = match row.limit {
            Limit::RateAtLeast(percent) => format!("at least {}", times(percent)),
            Limit::TimeAtMost(percent) => format!("at most {} its time", times(percent)),
        };
        let Some(pair) = pair else {
            println!(
                "{number}. {}: not run, since this abunfi cannot do it",
                row.work
            );
            self.rows.push(Line {
                number,
                work: row.work,
                against: row.against,
                limit,
                result: None,
                met: None,
            });
            return;
        };
        let by_time = matches!(row.limit, Limit::TimeAtMost(_));
        let (ours, theirs) = (
            Figures::of(pair.ours, by_time),
            Figures::of(pair.theirs, by_time),
        );
        let ratio_percent = if by_time {
            percent(ours.p50_us, theirs.p50_us)
        } else {
            percent(ours.per_second.into(), theirs.per_second.into())
        };
        let met = match row.limit {
            Limit::RateAtLeast(least) => ratio_percent >= least,
            Limit::TimeAtMost(most) => ratio_percent <= most,
        };
        println!(
            "{number}. {}: {} ({limit}) {}\n     ours   {ours}\n     theirs {theirs}: {}",
            row.work,
            times(ratio_percent),
            if met { "met" } else { "MISSED" },
            row.against,
        );
        self.rows.push(Line {
            number,
            work: row.work,
            against: row.against,
            limit,
            result: Some(Compared {
                ratio_percent,
                ours,
                theirs,
            }),
            met: Some(met),
        });
    }

    /// Writes the result, and fails when a limit is not kept (if that counts).
    pub(super) fn finish(&self, json: Option<&Path>, enforce: bool) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        if let Some(path) = json {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::write(path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
            println!("{}", path.display());
        }
        let missed: Vec<String> = self
            .rows
            .iter()
            .filter(|row| row.met == Some(false))
            .map(|row| row.number.to_string())
            .collect();
        ensure!(
            missed.is_empty() || !enforce,
            "missed: row {}",
            missed.join(", ")
        );
        Ok(())
    }
}

impl Figures {
    fn of(mut runs: Vec<Run>, by_time: bool) -> Self {
        let all_per_second = runs.iter().map(|run| run.measured.per_second).collect();
        let all_p50_us = runs
            .iter()
            .map(|run| run.measured.p50.as_micros())
            .collect();
        if by_time {
            runs.sort_unstable_by_key(|run| run.measured.p50);
        } else {
            runs.sort_unstable_by_key(|run| run.measured.per_second);
        }
        let errors = runs.iter().map(|run| run.measured.errors).sum();
        let run = runs.swap_remove(runs.len() / 2);
        Self {
            per_second: run.measured.per_second,
            p50_us: run.measured.p50.as_micros(),
            p99_us: run.measured.p99.as_micros(),
            p999_us: run.measured.p999.as_micros(),
            errors,
            postings: run.postings,
            wal_bytes_per_posting: run.wal_per_posting,
            all_per_second,
            all_p50_us,
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}/s, p50 {} µs, p99 {} µs, p99.9 {} µs, {} errors, {} bytes of WAL a posting",
            self.per_second,
            self.p50_us,
            self.p99_us,
            self.p999_us,
            self.errors,
            self.wal_bytes_per_posting
        )
    }
}

fn percent(part: u128, whole: u128) -> u64 {
    u64::try_from(part * 100 / whole.max(1)).unwrap_or(u64::MAX)
}

fn times(percent: u64) -> String {
    format!("{}.{:02} ×", percent / 100, percent % 100)
}
