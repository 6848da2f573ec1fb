//! Money under fire, in the manner of Jepsen: many clients post over HTTP while the service is killed, the
//! database is stopped at once, connections are cut and answers are lost. Then everything is healed, what is
//! unknown is asked again with its key until it is known, and the books must be what the clients were told.
//!
//! For tests only. `docs/testing.md` says how to run it, and what it checks.

mod books;
mod check;
mod client;
mod history;
mod nemesis;
mod operations;
mod random;
pub mod report;
mod service;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use abunfi::faults::Bug;
use abunfi_testkit::{FaultProxy, OwnPostgres};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::books::{Place, verify};
use crate::check::Model;
use crate::client::{Client, Shared, watch_books};
use crate::history::{Entry, Journal};
use crate::nemesis::{Nemesis, Window, World};
use crate::random::Random;
use crate::report::{Check, Cycle, Figures, Summary, Violations, tells_of};
use crate::service::Service;

const USERS: usize = 16;
/// Clients that send batches of several commits when those are to be interrupted.
const LARGE_SENDERS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    Postgres,
    Sqlite,
}

impl Backend {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    /// The binary `abunfi`, built with `fault-injection`.
    pub program: PathBuf,
    pub backend: Backend,
    pub cycles: u32,
    pub seed: u64,
    /// A bug that the services have, which is to be found.
    pub bug: Option<Bug>,
    pub clients: usize,
    /// How long things go wrong in each cycle.
    pub window: Duration,
    /// Requests that each cycle must acknowledge; on a busy machine it lasts longer for that, within bounds.
    pub minimum: u64,
    /// End with the first cycle that finds something; the bug, if there is one.
    pub stop_early: bool,
}

impl Options {
    #[must_use]
    pub fn new(program: PathBuf, backend: Backend, cycles: u32, seed: u64) -> Self {
        Self {
            program,
            backend,
            cycles,
            seed,
            bug: None,
            clients: 32,
            window: Duration::from_secs(3),
            minimum: 100,
            stop_early: false,
        }
    }
}

/// Runs the cycles; each is shown to `watch` when it is done. The history is kept if anything was found.
///
/// # Errors
/// When the run itself cannot go on: a server that does not start, a file that cannot be written. What the
/// checks find is in the summary.
pub async fn run(options: &Options, mut watch: impl FnMut(&Cycle)) -> Result<Summary> {
    let dir = tempfile::Builder::new().prefix("abunfi-crash-").tempdir()?;
    let mut run = Run::prepare(options, dir.path().to_owned()).await?;
    let mut summary = Summary {
        seed: options.seed,
        backend: options.backend.name(),
        bug: options.bug.map(Bug::name),
        clients: options.clients,
        cycles: Vec::new(),
        total: Figures::default(),
        violations: Vec::new(),
        history: None,
    };
    let mut failure = None;
    for number in 0..options.cycles {
        match run.cycle(number).await {
            Ok(cycle) => {
                watch(&cycle);
                summary.total.add(&cycle.figures);
                let found = cycle.violations.iter().any(|violation| {
                    let check = violation.check;
                    options.bug.is_none_or(|bug| tells_of(bug, check))
                });
                summary.cycles.push(cycle);
                if found && options.stop_early {
                    break;
                }
            }
            Err(error) => {
                failure = Some(error.context(format!("cycle {number} of seed {}", options.seed)));
                break;
            }
        }
    }
    if failure.is_none() {
        run.finish(&summary.total, summary.cycles.len()).await;
    }
    summary.violations = run.shared.violations.take();
    drop(run);
    if failure.is_some() || !summary.is_sound() {
        summary.history = Some(dir.keep());
    }
    match failure {
        Some(error) => Err(error.context(format!("the history is kept in {:?}", summary.history))),
        None => Ok(summary),
    }
}

struct Run {
    options: Options,
    world: World,
    /// The second service, while it does not take part.
    spare: Option<Service>,
    place: Place,
    shared: Arc<Shared>,
    clients: Vec<Client>,
    model: Model,
    random: Random,
    order: Vec<Nemesis>,
}

impl Run {
    async fn prepare(options: &Options, dir: PathBuf) -> Result<Self> {
        let mut random = Random::of(options.seed);
        let (postgres, proxy, place, url) = match options.backend {
            Backend::Postgres => {
                let postgres = tokio::task::block_in_place(OwnPostgres::start)?;
                let proxy = FaultProxy::before(&postgres.url(), 5432).await?;
                let (place, url) = (Place::Postgres(postgres.url()), proxy.url(&postgres.url())?);
                (Some(postgres), Some(proxy), place, url)
            }
            Backend::Sqlite => {
                let path = dir.join("books.db");
                let url = format!("sqlite://{}", path.display());
                (None, None, Place::Sqlite(path), url)
            }
        };
        let admin_key = format!(
            "crash-loop-admin-key-{:016x}{:016x}",
            random.next(),
            random.next()
        );
        // The service has a working folder of its own.
        let program = options
            .program
            .canonicalize()
            .context("the binary of the service")?;
        let service = |name: &str| {
            let dir = dir.join(name);
            Service::new(
                program.clone(),
                dir,
                url.clone(),
                admin_key.clone(),
                options.bug,
            )
        };
        let mut first = service("first")?;
        let spare = matches!(options.backend, Backend::Postgres)
            .then(|| service("second"))
            .transpose()?;
        first.start(None).await?;
        if options.bug == Some(Bug::SkipLock) {
            // It would refuse the second writer: what the missing lock alone does is to be found.
            place
                .execute("ALTER TABLE audit DROP CONSTRAINT audit_pkey")
                .await?;
        }
        let port = first.port;
        let world = World {
            postgres,
            proxy,
            services: vec![first],
        };
        let users = create_users(port, &admin_key).await?;
        let shared = Arc::new(Shared {
            ports: Mutex::new(vec![port]),
            admin_key,
            users,
            holds: Mutex::default(),
            violations: Violations::default(),
            acknowledged: 0.into(),
            reads: 0.into(),
            replays: 0.into(),
        });
        let since = Instant::now();
        let clients = (0..options.clients)
            .map(|index| {
                let journal = Journal::create(&dir, index, since)?;
                Client::new(Arc::clone(&shared), random.fork(), journal)
            })
            .collect::<Result<Vec<_>>>()?;
        let mut order = Nemesis::all(options.backend);
        random.shuffle(&mut order);
        Ok(Self {
            options: options.clone(),
            world,
            spare,
            place,
            shared,
            clients,
            model: Model::default(),
            random,
            order,
        })
    }

    async fn cycle(&mut self, number: u32) -> Result<Cycle> {
        let begun = Instant::now();
        let position = usize::try_from(number)?;
        let round = position / self.order.len();
        let nemesis = *self
            .order
            .get(position % self.order.len())
            .context("a nemesis")?;
        let mut random = self.random.fork();
        self.take_part(nemesis, (position + round) % 2 == 1, &mut random)
            .await?;

        let (stop, healed) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let watching = tokio::spawn(watch_books(
            Arc::clone(&self.shared),
            random.fork(),
            Arc::clone(&stop),
        ));
        let working: Vec<_> = std::mem::take(&mut self.clients)
            .into_iter()
            .enumerate()
            .map(|(index, mut client)| {
                let interrupts_batches = matches!(nemesis, Nemesis::KillAt(point)
                    if point == abunfi::faults::Point::BetweenChunks);
                client.sends_large = interrupts_batches && index < LARGE_SENDERS;
                let name = format!("{number}.{index}");
                tokio::spawn(client.cycle(name, Arc::clone(&stop), Arc::clone(&healed)))
            })
            .collect();
        self.shared.acknowledged.store(0, Ordering::Relaxed);
        let window = Window::new(self.options.window, self.options.minimum, &self.shared);
        let mut figures = self
            .world
            .suffer(nemesis, &mut random, &window, &self.shared.violations)
            .await?;
        stop.store(true, Ordering::Relaxed);
        // Clients that are still at their last request find the permit when they come to wait for it.
        let ticking = tokio::spawn({
            let healed = Arc::clone(&healed);
            async move {
                loop {
                    healed.notify_waiters();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
        for client in working {
            self.clients.push(client.await??);
        }
        ticking.abort();
        figures.trial_balances = watching.await?;
        self.check(number, &mut figures).await?;
        Ok(Cycle {
            number,
            nemesis: nemesis.name(),
            services: self.world.services.len(),
            figures,
            millis: u64::try_from(begun.elapsed().as_millis())?,
            violations: self.shared.violations.take(),
        })
    }

    /// One or two services, armed as the nemesis wants it.
    async fn take_part(&mut self, nemesis: Nemesis, both: bool, random: &mut Random) -> Result<()> {
        if both && let Some(second) = self.spare.take() {
            self.world.services.push(second);
        } else if !both && self.world.services.len() > 1 {
            self.spare = self.world.services.pop();
            if let Some(spare) = &mut self.spare {
                spare.stop().await?;
            }
        }
        for service in &mut self.world.services {
            let kill_at = nemesis.kill_at(random);
            if kill_at.is_some() {
                service.kill();
            }
            if !service.runs() {
                service.start(kill_at).await?;
            }
        }
        let ports = self
            .world
            .services
            .iter()
            .map(|service| service.port)
            .collect();
        *self
            .shared
            .ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = ports;
        Ok(())
    }

    /// The history of the cycle against the books, and the books by themselves.
    async fn check(&mut self, number: u32, figures: &mut Figures) -> Result<()> {
        let violations = &self.shared.violations;
        let entries: Vec<Entry> = self
            .clients
            .iter_mut()
            .flat_map(|client| std::mem::take(&mut client.entries))
            .collect();
        figures.add(&check::count(&entries));
        figures.replays = self.shared.replays.swap(0, Ordering::Relaxed);
        figures.reads = self.shared.reads.swap(0, Ordering::Relaxed);
        let prefix = format!("{number}.");
        self.model
            .check(&self.place, &prefix, &entries, violations)
            .await?;
        verify(&self.place, violations).await?;
        if figures.acknowledged < self.options.minimum {
            let detail = format!(
                "{} requests acknowledged, at least {}",
                figures.acknowledged, self.options.minimum
            );
            violations.add(Check::DidWork, detail);
        }
        if figures.trial_balances == 0 || figures.faults() == 0 {
            let detail = format!(
                "{} trial balances, {} faults",
                figures.trial_balances,
                figures.faults()
            );
            violations.add(Check::DidWork, detail);
        }
        Ok(())
    }

    /// Stops the services in order, and looks at the whole run.
    async fn finish(&mut self, total: &Figures, cycles: usize) {
        let violations = &self.shared.violations;
        for service in self.world.services.iter_mut().chain(&mut self.spare) {
            if let Err(error) = service.stop().await {
                violations.add(Check::Process, format!("{error:#}"));
            }
        }
        // One round has met every nemesis.
        if cycles >= self.order.len() {
            let mut least = vec![
                ("kills at a named point", total.kills_at_point),
                ("kills", total.kills),
                ("answers lost", total.answers_lost),
                ("replays", total.replays),
            ];
            if self.options.backend == Backend::Postgres {
                least.push(("stops of the database", total.database_stops));
                least.push(("answers to COMMIT lost", total.commits_lost));
            }
            for (what, _) in least.iter().filter(|(_, count)| *count == 0) {
                violations.add(Check::DidWork, format!("no {what} in {cycles} cycles"));
            }
        }
    }
}

async fn create_users(port: u16, admin_key: &str) -> Result<Vec<String>> {
    let http = reqwest::Client::new();
    let mut users = Vec::with_capacity(USERS);
    for index in 0..USERS {
        let answer = http
            .post(format!("http://127.0.0.1:{port}/api/v1/users"))
            .bearer_auth(admin_key)
            .json(&json!({"email": format!("user-{index}@example.com"), "name": format!("User {index}")}))
            .send()
            .await?;
        ensure!(
            answer.status().is_success(),
            "cannot make a user: {}",
            answer.text().await?
        );
        let user: Value = answer.json().await?;
        users.push(
            user.get("id")
                .and_then(Value::as_str)
                .context("a user's id")?
                .to_owned(),
        );
    }
    Ok(users)
}
