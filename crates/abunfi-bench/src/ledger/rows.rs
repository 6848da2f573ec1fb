//! The rows of the table, and what it takes to measure each of their two sides.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::books::{Books, Database};
use super::requests::{self, BATCH, BATCH_CONNECTIONS, CONNECTIONS};
use super::{Options, array, seed, verify};
use crate::load::{self, Measured, Requests};
use crate::servers::Service;

/// How long each side runs once before it is measured.
const WARM_UP_PART: u32 = 2;

/// A row of the table.
pub(super) struct Row {
    pub(super) work: &'static str,
    pub(super) against: &'static str,
    pub(super) limit: Limit,
    pub(super) what: Work,
}

/// What the ratio must keep to, in percent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    /// Of work in a time.
    RateAtLeast(u64),
    /// Of the time that half of the requests take.
    TimeAtMost(u64),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    Singles { connections: usize },
    Batches,
    Idle,
    Hot,
    Large,
    Embedded,
    Verify,
}

const STATEMENTS: &str =
    "a transaction for each request, statement by statement, same pool and HTTP stack";

pub(super) const TABLE: [Row; 8] = [
    Row {
        work: "single durable deposits over HTTP, 64 connections",
        against: STATEMENTS,
        limit: Limit::RateAtLeast(400),
        what: Work::Singles { connections: 64 },
    },
    Row {
        work: "single durable deposits over HTTP, 256 connections",
        against: STATEMENTS,
        limit: Limit::RateAtLeast(600),
        what: Work::Singles { connections: 256 },
    },
    Row {
        work: "batches of 1,000 over HTTP",
        against: "raw array SQL writing the same rows",
        limit: Limit::RateAtLeast(60),
        what: Work::Batches,
    },
    Row {
        work: "one idle client: latency of one deposit",
        against: STATEMENTS,
        limit: Limit::TimeAtMost(120),
        what: Work::Idle,
    },
    Row {
        work: "hot account: all deposits on one user, 64 connections",
        against: "spread accounts",
        limit: Limit::RateAtLeast(70),
        what: Work::Hot,
    },
    Row {
        work: "many users, 64 connections",
        against: "few users",
        limit: Limit::RateAtLeast(80),
        what: Work::Large,
    },
    Row {
        work: "embedded (SQLite), single deposits, 64 connections",
        against: "a transaction for each request on the same file",
        limit: Limit::RateAtLeast(400),
        what: Work::Embedded,
    },
    Row {
        work: "abunfi verify",
        against: "COPY … TO of the same rows",
        limit: Limit::TimeAtMost(300),
        what: Work::Verify,
    },
];

/// The runs of both sides of a row; `None`: it cannot be measured yet.
pub(super) struct Pair {
    pub(super) ours: Vec<Run>,
    pub(super) theirs: Vec<Run>,
}

/// One measurement.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) measured: Measured,
    pub(crate) postings: i64,
    /// Bytes of the write-ahead log for each posting; PostgreSQL only.
    pub(crate) wal_per_posting: i64,
}

/// One side of a row.
enum Side<'b> {
    Http {
        address: SocketAddr,
        database: &'b Database,
        connections: usize,
        postings: i64,
        requests: Arc<Requests>,
    },
    Arrays,
    Verify,
    Copy,
}

/// The servers, all with their users.
pub(super) struct Bench {
    abunfi: PathBuf,
    folder: PathBuf,
    span: Duration,
    small_users: u64,
    large_users: u64,
    small: Database,
    large: Database,
    raw_url: String,
    pub(super) small_url: String,
    file: Database,
    service: Service,
    plain: Service,
    on_large: Option<Service>,
    embedded: Service,
    embedded_plain: Service,
    embedded_ids: Arc<Vec<String>>,
}

impl Bench {
    pub(super) async fn prepare(
        abunfi: &Path,
        server: &str,
        folder: &Path,
        options: &Options,
        span: Duration,
    ) -> Result<Self> {
        let wants = |row: u32| options.rows.is_empty() || options.rows.contains(&row);
        let small_url = seed::seeded(abunfi, server, folder, "small", options.users_small).await?;
        let raw_url = seed::create_database(server, "raw", Some("small")).await?;
        let large_url = if wants(6) {
            println!("seeding {} users …", options.users_large);
            seed::seeded(abunfi, server, folder, "large", options.users_large).await?
        } else {
            small_url.clone()
        };
        let this = std::env::current_exe()?;
        let start = |program: &Path, name: &str, url: Option<&str>, command: &str| {
            let data_dir = folder.join(name);
            std::fs::create_dir_all(&data_dir)?;
            Service::start(program, &data_dir, url, command)
        };
        let service = start(abunfi, "service", Some(&small_url), "serve")?;
        let plain = start(&this, "plain", Some(&small_url), "plain")?;
        let on_large = wants(6)
            .then(|| start(abunfi, "large", Some(&large_url), "serve"))
            .transpose()?;
        let embedded = start(abunfi, "embedded", None, "serve")?;
        for service in [&service, &plain, &embedded].into_iter().chain(&on_large) {
            service.wait_ready().await?;
        }
        let embedded_ids = embedded.seed(usize::try_from(options.users_small)?).await?;
        // On the same file, once that is there.
        let embedded_plain = start(&this, "embedded", None, "plain")?;
        embedded_plain.wait_ready().await?;
        Ok(Self {
            abunfi: abunfi.to_owned(),
            folder: folder.to_owned(),
            span,
            small_users: options.users_small,
            large_users: options.users_large,
            small: Database::Postgres(small_url.clone()),
            large: Database::Postgres(large_url),
            raw_url,
            small_url,
            file: Database::Sqlite(folder.join("embedded").join("abunfi.db")),
            service,
            plain,
            on_large,
            embedded,
            embedded_plain,
            embedded_ids: Arc::new(embedded_ids),
        })
    }

    /// Both sides in turn, after each has run once unmeasured.
    pub(super) async fn measure(&self, row: &Row, rounds: usize) -> Result<Option<Pair>> {
        if matches!(row.what, Work::Verify) && !verify::is_there(&self.abunfi)? {
            return Ok(None);
        }
        for side in self.sides(row.what)? {
            self.run(side, self.span / WARM_UP_PART).await?;
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let [our, their] = self.sides(row.what)?;
            ours.push(self.run(our, self.span).await?);
            theirs.push(self.run(their, self.span).await?);
        }
        Ok(Some(Pair { ours, theirs }))
    }

    fn sides(&self, work: Work) -> Result<[Side<'_>; 2]> {
        let on_small = |service: &Service, connections, requests| Side::Http {
            address: service.address,
            database: &self.small,
            connections,
            postings: 1,
            requests,
        };
        let spread = || requests::spread(self.small_users);
        let on_file = |service: &Service| Side::Http {
            address: service.address,
            database: &self.file,
            connections: CONNECTIONS,
            postings: 1,
            requests: requests::spread_over(Arc::clone(&self.embedded_ids)),
        };
        Ok(match work {
            Work::Singles { connections } => [
                on_small(&self.service, connections, spread()),
                on_small(&self.plain, connections, spread()),
            ],
            Work::Idle => [
                on_small(&self.service, 1, spread()),
                on_small(&self.plain, 1, spread()),
            ],
            Work::Hot => [
                on_small(&self.service, CONNECTIONS, requests::spread(1)),
                on_small(&self.service, CONNECTIONS, spread()),
            ],
            Work::Batches => [
                Side::Http {
                    address: self.service.address,
                    database: &self.small,
                    connections: BATCH_CONNECTIONS,
                    postings: i64::try_from(BATCH)?,
                    requests: requests::batches(self.small_users),
                },
                Side::Arrays,
            ],
            Work::Large => {
                let service = self.on_large.as_ref().context("no large database")?;
                let large = Side::Http {
                    address: service.address,
                    database: &self.large,
                    connections: CONNECTIONS,
                    postings: 1,
                    requests: requests::spread(self.large_users),
                };
                [large, on_small(&self.service, CONNECTIONS, spread())]
            }
            Work::Embedded => [on_file(&self.embedded), on_file(&self.embedded_plain)],
            Work::Verify => [Side::Verify, Side::Copy],
        })
    }

    async fn run(&self, side: Side<'_>, span: Duration) -> Result<Run> {
        match side {
            Side::Http {
                address,
                database,
                connections,
                postings,
                requests,
            } => {
                let before = database.count().await?;
                let measured = load::run(address, connections, span, requests).await?;
                checked(database, before, measured, postings).await
            }
            Side::Arrays => {
                let database = Database::Postgres(self.raw_url.clone());
                let before = database.count().await?;
                let run = array::run(&self.raw_url, BATCH_CONNECTIONS, span, self.small_users);
                checked(&database, before, run.await?, i64::try_from(BATCH)?).await
            }
            Side::Verify => verify::verify(&self.abunfi, &self.small_url, &self.folder).map(untold),
            Side::Copy => verify::copy(&self.small_url).map(untold),
        }
    }
}

/// The run, if it wrote what it was asked to, and nothing else.
pub(crate) async fn checked(
    database: &Database,
    before: Books,
    measured: Measured,
    postings: i64,
) -> Result<Run> {
    let after = database.count().await?.since(before);
    let done = i64::try_from(measured.answered - measured.errors)? * postings;
    ensure!(done > 0, "nothing was done");
    ensure!(
        after == Books::of(done, after.wal),
        "{done} deposits left {after:?}"
    );
    if measured.errors > 0 {
        bail!(
            "{} of {} requests failed",
            measured.errors,
            measured.answered
        );
    }
    Ok(Run {
        measured: Measured {
            per_second: measured.per_second * u64::try_from(postings)?,
            ..measured
        },
        postings: done,
        wal_per_posting: after.wal / done,
    })
}

/// A run that writes nothing.
fn untold(measured: Measured) -> Run {
    Run {
        measured,
        postings: 0,
        wal_per_posting: 0,
    }
}
