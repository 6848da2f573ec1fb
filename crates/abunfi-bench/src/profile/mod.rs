//! Where the ledger's time goes: processor time of the service and of PostgreSQL for a posting, the statements
//! that PostgreSQL ran, their plans, and a flame graph of the service.
//!
//! What costs time itself (plans, samples) has a span of its own beside the one that is measured.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use abunfi_testkit::OwnPostgres;
use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::ledger::requests::{self, BATCH, BATCH_CONNECTIONS, CONNECTIONS};
use crate::ledger::{self, Database, Run};
use crate::load::{self, Requests};
use crate::servers::Service;

mod cpu;
mod flame;
mod plans;
mod statements;

use cpu::Cpu;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The `abunfi` binary; that beside this program when not given.
    #[arg(long)]
    abunfi: Option<PathBuf>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Users that the postings are spread over.
    #[arg(long, default_value_t = 1_000)]
    users: u64,
    /// Where the results go; `target/bench/profile` when not given.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Seconds in all, and nothing kept unless `--out` says where: shows that everything works.
    #[arg(long)]
    smoke: bool,
}

/// Both have hooks in every statement, which cost a little even while they log nothing.
const MODULES: &str = "shared_preload_libraries=pg_stat_statements,auto_explain";

/// A sort of work.
#[derive(Clone, Copy)]
struct Work {
    name: &'static str,
    title: &'static str,
    connections: usize,
    postings: usize,
    requests: fn(u64) -> Arc<Requests>,
}

const WORKS: [Work; 2] = [
    Work {
        name: "batch",
        title: "batches of 1,000, 2 clients",
        connections: BATCH_CONNECTIONS,
        postings: BATCH,
        requests: requests::batches,
    },
    Work {
        name: "single",
        title: "single deposits, 64 connections",
        connections: CONNECTIONS,
        postings: 1,
        requests: requests::spread,
    },
];

/// How long the spans beside the measured one are.
struct Spans {
    warm_up: Duration,
    measured: Duration,
    plans: Duration,
    samples: Duration,
}

impl Spans {
    fn of(options: &Options) -> Self {
        if options.smoke {
            let each = Duration::from_millis(300);
            return Self {
                warm_up: each,
                measured: each,
                plans: each,
                samples: each,
            };
        }
        let measured = Duration::from_secs(options.seconds);
        Self {
            warm_up: measured / 2,
            measured,
            plans: Duration::from_secs(1),
            // Unwinding takes far longer than recording.
            samples: Duration::from_secs(2),
        }
    }
}

/// The servers.
struct Profiled {
    // Before its database, so that it does not miss it at the end.
    service: Service,
    postgres: OwnPostgres,
    database: Database,
    url: String,
    users: u64,
    spans: Spans,
}

pub(crate) async fn run(mut options: Options) -> Result<()> {
    if options.smoke {
        options.users = 50;
    }
    let spans = Spans::of(&options);
    ensure!(!spans.measured.is_zero(), "at least one second");
    let folder = tempfile::tempdir()?;
    let out = match &options.out {
        Some(out) => out.clone(),
        None if options.smoke => folder.path().join("out"),
        None => default_out()?,
    };
    std::fs::create_dir_all(&out)
        .with_context(|| format!("cannot make the folder {}", out.display()))?;
    let profiled = Profiled::start(&options, folder.path(), spans).await?;
    let mut summary = format!(
        "{}, {} processors, {} users, spans of {} ms\n\n{}\n",
        statements::version(&profiled.url).await?,
        std::thread::available_parallelism()?,
        options.users,
        profiled.spans.measured.as_millis(),
        head(),
    );
    for work in WORKS {
        let line = profiled.profile(work, &out, folder.path()).await?;
        writeln!(summary, "{line}")?;
    }
    println!("{summary}");
    std::fs::write(out.join("cpu.txt"), summary)?;
    if out.starts_with(folder.path()) {
        println!("statements and plans were written, and are not kept");
    } else {
        println!(
            "statements, plans and these figures are in {}",
            out.display()
        );
    }
    Ok(())
}

/// `target/bench/profile` of the `target` that this program was built into.
fn default_out() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).context("no target folder")?;
    Ok(target.join("bench").join("profile"))
}

impl Profiled {
    async fn start(options: &Options, folder: &Path, spans: Spans) -> Result<Self> {
        let abunfi = crate::abunfi_beside(options.abunfi.clone())?;
        let postgres = ledger::start_postgres(&[MODULES])
            .await
            .context("no PostgreSQL with pg_stat_statements and auto_explain, which are among its contrib modules")?;
        let server = postgres.url();
        statements::prepare(&server).await?;
        let url = ledger::seeded(&abunfi, &server, folder, "profiled", options.users).await?;
        let data_dir = folder.join("service");
        std::fs::create_dir_all(&data_dir)?;
        let service = Service::start(&abunfi, &data_dir, Some(&url), "serve")?;
        service.wait_ready().await?;
        Ok(Self {
            service,
            postgres,
            database: Database::Postgres(url.clone()),
            url,
            users: options.users,
            spans,
        })
    }

    /// All of one sort of work; its line of the summary.
    async fn profile(&self, work: Work, out: &Path, folder: &Path) -> Result<String> {
        println!("{} …", work.title);
        let file = |what: &str, end: &str| out.join(format!("{what}-{}.{end}", work.name));
        self.load(work, self.spans.warm_up).await?;

        let (run, cpu, top) = self.measure(work).await?;
        std::fs::write(file("statements", "txt"), top)?;

        let server = self.postgres.url();
        let log = self.postgres.log();
        let logged = std::fs::metadata(&log)?.len();
        plans::switch(&server, true).await?;
        let planned = self.load(work, self.spans.plans).await;
        plans::switch(&server, false).await?;
        planned?;
        std::fs::write(file("plan", "txt"), plans::of(&log, logged)?)?;

        let svg = file("service", "svg");
        match flame::perf() {
            Ok(perf) => {
                let samples = flame::record(
                    &perf,
                    self.service.id(),
                    self.spans.samples,
                    &folder.join("perf.data"),
                )?;
                // A moment longer than perf watches, which takes its time to begin.
                self.load(work, self.spans.samples + flame::LEAD).await?;
                let title = format!("abunfi serve: {}", work.title);
                let drawn = tokio::task::spawn_blocking(move || samples.draw(&title, &svg));
                drawn.await?.context("cannot draw the flame graph")?;
            }
            Err(why) => println!("no flame graph: {why}"),
        }
        Ok(line(work, &run, cpu))
    }

    async fn load(&self, work: Work, span: Duration) -> Result<load::Measured> {
        let requests = (work.requests)(self.users);
        let measured = load::run(self.service.address, work.connections, span, requests).await?;
        ensure!(measured.answered > 0, "nothing was answered");
        ensure!(measured.errors == 0, "{} requests failed", measured.errors);
        Ok(measured)
    }

    /// Counting what was written is work for PostgreSQL too: it is not in the processor's time, and not
    /// among the statements.
    async fn measure(&self, work: Work) -> Result<(Run, Option<[Cpu; 2]>, String)> {
        let postgres = self.postgres.id().context("PostgreSQL does not run")?;
        let times = || Some([cpu::of_process(self.service.id())?, cpu::of_tree(postgres)?]);
        let before = self.database.count().await?;
        statements::reset(&self.postgres.url()).await?;
        let start = times();
        let measured = self.load(work, self.spans.measured).await?;
        let cpu = start.zip(times()).map(|([service, postgres], end)| {
            let [service_end, postgres_end] = end;
            [service_end.since(service), postgres_end.since(postgres)]
        });
        let top = statements::top(&self.postgres.url(), &self.url).await?;
        let postings = i64::try_from(work.postings)?;
        let run = ledger::checked(&self.database, before, measured, postings).await?;
        Ok((run, cpu, top))
    }
}

fn head() -> String {
    format!(
        "{:<34}{:>12}{:>10}{:>14}{:>15}{:>13}",
        "", "postings/s", "p50 µs", "service µs", "PostgreSQL µs", "WAL bytes"
    )
}

/// What one posting took of both, and of the write-ahead log.
fn line(work: Work, run: &Run, cpu: Option<[Cpu; 2]>) -> String {
    let each = |which: fn([Cpu; 2]) -> Cpu| {
        cpu.map_or_else(
            || "only on Linux".to_owned(),
            |cpu| which(cpu).for_each_of(u64::try_from(run.postings).unwrap_or(0)),
        )
    };
    format!(
        "{:<34}{:>12}{:>10}{:>14}{:>15}{:>13}",
        work.title,
        run.measured.per_second,
        run.measured.p50.as_micros(),
        each(|[service, _]| service),
        each(|[_, postgres]| postgres),
        run.wal_per_posting
    )
}
