//! What goes wrong in a cycle, and how it is made good again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use abunfi::faults::Point;
use abunfi_testkit::{FaultProxy, OwnPostgres};
use anyhow::Result;

use crate::Backend;
use crate::client::Shared;
use crate::random::Random;
use crate::report::{Check, Figures, Violations};
use crate::service::{Service, is_kill};

/// With its closing NUL: "READ COMMITTED" is no commit.
const COMMIT: &[u8] = b"COMMIT\0";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nemesis {
    /// SIGKILL at a random moment, again and again.
    KillAnytime,
    /// The service kills itself at a named point, again and again.
    KillAt(Point),
    /// `pg_ctl stop -m immediate`, and a start.
    StopPostgres,
    /// Connections to the database are closed or reset, and answers to COMMIT are lost.
    CutConnections,
}

impl Nemesis {
    pub(crate) fn all(backend: Backend) -> Vec<Self> {
        let mut all = vec![
            Self::KillAt(Point::BeforeCommit),
            Self::KillAt(Point::AfterCommit),
            Self::KillAt(Point::BetweenChunks),
            Self::KillAnytime,
        ];
        if backend == Backend::Postgres {
            all.extend([Self::StopPostgres, Self::CutConnections]);
        }
        all
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::KillAnytime => "kill anytime".to_owned(),
            Self::KillAt(point) => format!("kill {}", point.name()),
            Self::StopPostgres => "stop postgres".to_owned(),
            Self::CutConnections => "cut connections".to_owned(),
        }
    }

    /// Where a service that starts now is to kill itself.
    pub(crate) fn kill_at(self, random: &mut Random) -> Option<(Point, u64)> {
        let Self::KillAt(point) = self else {
            return None;
        };
        let nth = match point {
            Point::BetweenChunks => random.between(2, 12),
            _ => random.between(2, 25),
        };
        Some((point, nth))
    }
}

/// How many times the window a cycle may last until enough is acknowledged and a fault has fired.
const AT_MOST: u32 = 6;
/// How long clients are waited for between two stops of the database.
const BETWEEN_STOPS: Duration = Duration::from_secs(4);

/// How long things go wrong.
#[derive(Debug)]
pub(crate) struct Window {
    end: Instant,
    latest: Instant,
    minimum: u64,
    shared: Arc<Shared>,
}

impl Window {
    /// From now on for `span`, or longer until `minimum` is acknowledged and a fault has fired.
    pub(crate) fn new(span: Duration, minimum: u64, shared: &Arc<Shared>) -> Self {
        let now = Instant::now();
        Self {
            end: now + span,
            latest: now + span * AT_MOST,
            minimum,
            shared: Arc::clone(shared),
        }
    }

    /// `figures`: of the cycle. A kill at a named point waits until the service comes there.
    fn is_open(&self, figures: &Figures) -> bool {
        let now = Instant::now();
        let is_enough = self.acknowledged() >= self.minimum && figures.faults() > 0;
        now < self.end || (!is_enough && now < self.latest)
    }

    fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Until some more is acknowledged.
    async fn progress(&self) {
        let (before, until) = (self.acknowledged(), Instant::now() + BETWEEN_STOPS);
        while self.acknowledged() < before + self.minimum / 4 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The servers and processes of a run.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) postgres: Option<OwnPostgres>,
    pub(crate) proxy: Option<FaultProxy>,
    /// Those that take part in the cycle.
    pub(crate) services: Vec<Service>,
}

impl World {
    /// Lets `nemesis` loose until `end`, then makes everything good.
    pub(crate) async fn suffer(
        &mut self,
        nemesis: Nemesis,
        random: &mut Random,
        window: &Window,
        violations: &Violations,
    ) -> Result<Figures> {
        let mut figures = Figures::default();
        let lost_before = self.proxy.as_ref().map_or(0, FaultProxy::lost_responses);
        match nemesis {
            Nemesis::KillAnytime => self.kill_anytime(random, window, &mut figures).await?,
            Nemesis::KillAt(_) => {
                self.await_kills(nemesis, random, window, &mut figures, violations)
                    .await?;
            }
            Nemesis::StopPostgres => self.stop_postgres(random, window, &mut figures).await?,
            Nemesis::CutConnections => self.cut_connections(random, window, &mut figures).await,
        }
        self.heal(nemesis, violations).await?;
        let lost = self.proxy.as_ref().map_or(0, FaultProxy::lost_responses);
        figures.commits_lost = u64::try_from(lost - lost_before)?;
        Ok(figures)
    }

    async fn kill_anytime(
        &mut self,
        random: &mut Random,
        window: &Window,
        figures: &mut Figures,
    ) -> Result<()> {
        while window.is_open(figures) {
            pause(random, 150, 800).await;
            let at = random.index(self.services.len());
            if let Some(service) = self.services.get_mut(at) {
                figures.kills += u64::from(service.kill());
                pause(random, 1, 150).await;
                service.start(None).await?;
            }
        }
        Ok(())
    }

    async fn await_kills(
        &mut self,
        nemesis: Nemesis,
        random: &mut Random,
        window: &Window,
        figures: &mut Figures,
        violations: &Violations,
    ) -> Result<()> {
        while window.is_open(figures) {
            for service in &mut self.services {
                if let Some(status) = service.ended() {
                    if is_kill(status) {
                        figures.kills_at_point += 1;
                    } else {
                        let detail = format!("it ended with {status}: {}", service.log_tail());
                        violations.add(Check::Process, detail);
                    }
                    pause(random, 1, 100).await;
                    service.start(nemesis.kill_at(random)).await?;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn stop_postgres(
        &mut self,
        random: &mut Random,
        window: &Window,
        figures: &mut Figures,
    ) -> Result<()> {
        while window.is_open(figures) {
            pause(random, 200, 800).await;
            window.progress().await;
            if let Some(postgres) = &mut self.postgres {
                let down = Duration::from_millis(random.between(20, 300));
                tokio::task::block_in_place(|| {
                    postgres.stop_at_once();
                    std::thread::sleep(down);
                    postgres.start_again()
                })?;
                figures.database_stops += 1;
            }
        }
        Ok(())
    }

    async fn cut_connections(
        &mut self,
        random: &mut Random,
        window: &Window,
        figures: &mut Figures,
    ) {
        let Some(proxy) = &self.proxy else { return };
        while window.is_open(figures) {
            pause(random, 50, 250).await;
            match random.between(0, 4) {
                0 => {
                    proxy.cut();
                    figures.cuts += 1;
                }
                1 => {
                    proxy.reset();
                    figures.cuts += 1;
                }
                _ => proxy.drop_response_after(COMMIT, 2),
            }
        }
    }

    /// Everything runs again, and nothing waits to go wrong.
    async fn heal(&mut self, nemesis: Nemesis, violations: &Violations) -> Result<()> {
        if let Some(proxy) = &self.proxy {
            proxy.disarm();
        }
        for service in &mut self.services {
            match service.ended() {
                Some(status) if !is_kill(status) => {
                    let detail = format!("it ended with {status}: {}", service.log_tail());
                    violations.add(Check::Process, detail);
                }
                _ => {}
            }
            if matches!(nemesis, Nemesis::KillAt(_)) {
                // It may still be about to kill itself.
                service.kill();
            }
            if !service.runs() {
                service.start(None).await?;
            }
        }
        Ok(())
    }
}

async fn pause(random: &mut Random, low: u64, high: u64) {
    tokio::time::sleep(Duration::from_millis(random.between(low, high))).await;
}
