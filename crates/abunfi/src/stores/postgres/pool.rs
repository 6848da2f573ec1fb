//! Connections of one lane of work, bounded.
//!
//! Its own, since sqlx's pool keeps callers waiting for its whole time-out when the server refuses
//! connections, and answers a busy pool and an absent server with the same error; a caller must know the
//! difference ("try again soon" or "it is away"). It also asks the server whether a connection lives after
//! every use, one more round trip. Here a connection is trusted: if a reused one turns out to be dead
//! before anything was done, the caller asks for a new one (see `lane`).
//!
//! Invariant: what is in `idle` has no transaction open and no answer outstanding. Only
//! [`Lease::give_back`] puts it there; a lease that is dropped closes its connection, which makes the
//! server roll back.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::{classify, overloaded, unavailable};
use crate::error::StoreError;

/// Older connections are replaced: the server's process keeps what it has cached, and after a failover
/// the load must spread again.
const MAX_LIFETIME: Duration = Duration::from_secs(30 * 60);
/// An idle connection is closed after this, so that a quiet instance holds few.
const MAX_IDLE: Duration = Duration::from_secs(10 * 60);
/// After this long idle a connection is tried before it is trusted: something on the way may have forgotten
/// it without telling, and a lost packet is noticed only by waiting.
const TRY_AFTER_IDLE: Duration = Duration::from_secs(30);
/// How long that trial may take.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Pool {
    options: PgConnectOptions,
    max: usize,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    waiting: AtomicUsize,
    acquire_timeout: Duration,
}

struct Idle {
    connection: PgConnection,
    made: Instant,
    since: Instant,
}

/// A connection in use.
pub(super) struct Lease {
    connection: PgConnection,
    made: Instant,
    /// It served somebody before, so it may be dead by now.
    pub(super) reused: bool,
    pool: Arc<Pool>,
    // Last, so that the connection is closed before somebody else may open one.
    _permit: OwnedSemaphorePermit,
}

/// What `stats` shows of a pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolFigures {
    pub(super) size: usize,
    pub(super) idle: usize,
    pub(super) waiting: usize,
    pub(super) max: usize,
}

impl Pool {
    pub(super) fn new(
        options: PgConnectOptions,
        max_connections: u32,
        acquire_timeout: Duration,
    ) -> Arc<Self> {
        let max = usize::try_from(max_connections)
            .unwrap_or(Semaphore::MAX_PERMITS)
            .clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            options,
            max,
            permits: Arc::new(Semaphore::new(max)),
            idle: Mutex::new(Vec::new()),
            waiting: AtomicUsize::new(0),
            acquire_timeout,
        })
    }

    /// A connection, an idle one if there is any and `fresh` is not asked for.
    ///
    /// # Errors
    /// `Overloaded` when none became free in time; `Unavailable` when the server cannot be reached.
    pub(super) async fn acquire(self: &Arc<Self>, fresh: bool) -> Result<Lease, StoreError> {
        let started = Instant::now();
        let permit = self.permit().await?;
        if fresh {
            self.idle().clear();
        }
        if let Some((connection, made)) = self.reusable().await {
            return Ok(self.lease(connection, made, true, permit));
        }
        let left = self.acquire_timeout.saturating_sub(started.elapsed());
        let connection = timeout(left, PgConnection::connect_with(&self.options))
            .await
            .map_err(|_elapsed| unavailable("connecting took too long"))?
            .map_err(|error| classify(&error))?;
        Ok(self.lease(connection, Instant::now(), false, permit))
    }

    pub(super) fn figures(&self) -> PoolFigures {
        let idle = self.idle().len();
        let in_use = self.max.saturating_sub(self.permits.available_permits());
        PoolFigures {
            size: idle.saturating_add(in_use),
            idle,
            waiting: self.waiting.load(Ordering::Relaxed),
            max: self.max,
        }
    }

    /// Refuses everybody from now on, and closes what is idle; what is in use closes when it is done.
    pub(super) async fn close(&self) {
        self.permits.close();
        let idle: Vec<Idle> = self.idle().drain(..).collect();
        for idle in idle {
            // The server notices either way; this only says good-bye.
            if let Err(error) = idle.connection.close().await {
                tracing::debug!(%error, "closing an idle connection");
            }
        }
    }

    /// Takes a place as if it were in use.
    #[cfg(test)]
    pub(super) async fn permit_for_tests(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        self.permit().await
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        let _waiting = Waiting::start(&self.waiting);
        timeout(
            self.acquire_timeout,
            Arc::clone(&self.permits).acquire_owned(),
        )
        .await
        .map_err(|_elapsed| overloaded("no connection became free in time"))?
        .map_err(|_closed| unavailable("the platform is closing"))
    }

    async fn reusable(&self) -> Option<(PgConnection, Instant)> {
        loop {
            let mut idle = self.idle().pop()?;
            if idle.is_too_old() {
                continue;
            }
            if idle.since.elapsed() < TRY_AFTER_IDLE
                || matches!(
                    timeout(TRIAL_TIMEOUT, idle.connection.ping()).await,
                    Ok(Ok(()))
                )
            {
                return Some((idle.connection, idle.made));
            }
        }
    }

    fn lease(
        self: &Arc<Self>,
        connection: PgConnection,
        made: Instant,
        reused: bool,
        permit: OwnedSemaphorePermit,
    ) -> Lease {
        Lease {
            connection,
            made,
            reused,
            pool: Arc::clone(self),
            _permit: permit,
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Idle {
    fn is_too_old(&self) -> bool {
        self.made.elapsed() > MAX_LIFETIME || self.since.elapsed() > MAX_IDLE
    }
}

impl Lease {
    /// Ready for the next one. Only for a connection whose last answer was read to its end and that has no
    /// transaction open.
    pub(super) fn give_back(self) {
        let Self {
            connection,
            made,
            reused: _,
            pool,
            _permit,
        } = self;
        if pool.permits.is_closed() {
            return;
        }
        let mut idle = pool.idle();
        idle.retain(|idle| !idle.is_too_old());
        idle.push(Idle {
            connection,
            made,
            since: Instant::now(),
        });
    }
}

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl fmt::Debug for Pool {
    /// Not the options, which hold the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("figures", &self.figures())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("reused", &self.reused)
            .finish_non_exhaustive()
    }
}

/// Counts a waiter for as long as it waits, also when it gives up.
struct Waiting<'p>(&'p AtomicUsize);

impl<'p> Waiting<'p> {
    fn start(count: &'p AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
