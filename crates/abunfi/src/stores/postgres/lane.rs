//! How this adapter talks to the server: units of work and reads, each within a deadline.
//!
//! A **unit of work** ([`Lane::write`]) is one transaction at READ COMMITTED:
//!
//! 1. It must not be inside another one ([`guard`]), and the circuit breaker must let it through.
//! 2. A connection, or `Overloaded` / `Unavailable`.
//! 3. `BEGIN` and its bounds, in one round trip. They are `SET LOCAL`, so nothing is left on the connection:
//!    a pooler that hands connections out by transaction may stand between.
//! 4. The body, under the deadline. Until here every end is certain: not done. A body that fails rolls
//!    back; one that is cut off (deadline, or a caller that went away) may have an answer outstanding, so
//!    its connection is closed, never reused.
//! 5. `COMMIT`, in a task of its own that nobody cancels. What the server refuses is not done; when its
//!    answer is lost the outcome is unknown, and nothing is repeated.
//!
//! Serialization failures, deadlocks and races that a body reports ([`Abort::Again`]) run the whole unit
//! again, after a jittered pause, a bounded number of times, within the same deadline. So does, once, a
//! connection that breaks under the body: nothing was done, and the next one shows whether the server is away.
//!
//! `BEGIN` and `COMMIT` go through the driver's transaction manager, so that its count of open transactions
//! stays right, and a `begin` on the connection inside a body makes a savepoint.
//!
//! A **read** ([`Lane::read`]) is a body of statements that commit by themselves: one connection, one
//! deadline. Behind a pooler that forgets prepared statements between transactions (`DATABASE_URL` with
//! `statement-cache-capacity=0`) it is wrapped in a transaction, since preparing and executing must meet
//! the same server connection. A pooler that keeps track of them (PgBouncer 1.21 and newer with
//! `max_prepared_statements`) needs nothing.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::postgres::PgTransactionManager;
use sqlx::{AssertSqlSafe, PgConnection, SqlSafeStr, SqlStr};
use sqlx_core::transaction::TransactionManager;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{
    Abort, classify, is_lost, outcome_unknown, overloaded, unavailable, unexpected,
};
use super::pool::{Lease, Pool, PoolFigures};
use crate::config::PostgresConfig;
use crate::error::{StoreError, StoreKind};
use crate::faults::{self, Bug};
use crate::ids::random_bytes;
use crate::stores::breaker::Breaker;
use crate::transaction::guard;

/// How often a unit is run at most: by then the conflict of a hot row is over, or will never be.
const MAX_ATTEMPTS: u32 = 8;
/// The longest first pause before a repeat; it doubles each time.
const FIRST_PAUSE_MICROS: u64 = 4_000;
/// How long a rollback may take before the connection is closed instead, which has the same effect.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(1);

/// For units whose statements all find rows by their keys, for arrays of any length. A plan for any length is
/// made once for each connection: making one for each call, as the server would for short arrays, takes longer
/// than running it. And it must be by the keys even where it was made while a table was empty, or it would
/// read all of the table for as long as it is used. Compiling it to machine code would take a second.
const BY_KEYS: &str = "SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off; \
    SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off";

const BEGIN_WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// What a unit's statements may take. A connection that the program forgot must not hold its locks for ever.
fn bounds(deadline_ms: u64, for_locks_ms: u64) -> String {
    format!(
        "SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {deadline_ms}; \
         SET LOCAL idle_in_transaction_session_timeout = {}",
        for_locks_ms.max(1),
        deadline_ms.saturating_mul(2),
    )
}

/// Connections for one sort of work, and how they are used. Cheap to clone.
#[derive(Clone)]
pub(super) struct Lane {
    pool: Arc<Pool>,
    breaker: Arc<Breaker>,
    deadline: Duration,
    commit_deadline: Duration,
    /// `BEGIN` and the bounds of a unit.
    begin: SqlStr,
    /// The same for a unit that only reads, and sees one state of everything.
    begin_snapshot: SqlStr,
    /// `BEGIN` for a read; `None`: its statements commit by themselves.
    begin_read: Option<SqlStr>,
}

impl Lane {
    pub(super) fn new(
        pool: Arc<Pool>,
        breaker: Arc<Breaker>,
        config: &PostgresConfig,
        transactional_reads: bool,
    ) -> Self {
        let deadline_ms = config.deadline_ms.clamp(1, 3_600_000);
        // Locks are waited for half as long as the whole may take, so that who waits in vain can still be
        // told what it was.
        let bounds = bounds(deadline_ms, deadline_ms.div_ceil(2));
        let begin = format!("{BEGIN_WRITE}; {bounds}");
        let begin_snapshot = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {bounds}");
        let begin_read = format!("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {bounds}");
        Self {
            pool,
            breaker,
            deadline: Duration::from_millis(deadline_ms),
            commit_deadline: Duration::from_millis(config.commit_deadline_ms),
            begin: AssertSqlSafe(begin).into_sql_str(),
            begin_snapshot: AssertSqlSafe(begin_snapshot).into_sql_str(),
            begin_read: transactional_reads.then(|| AssertSqlSafe(begin_read).into_sql_str()),
        }
    }

    /// The same connections for units whose statements all find rows by their keys, and that wait for a lock
    /// no longer than `for_locks`.
    pub(super) fn by_keys(&self, for_locks: Option<Duration>) -> Self {
        let begin = match for_locks {
            None => format!("{}; {BY_KEYS}", self.begin.as_str()),
            Some(wait) => {
                let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                let deadline_ms = millis(self.deadline);
                let bounds = bounds(deadline_ms, millis(wait).min(deadline_ms.div_ceil(2)));
                format!("{BEGIN_WRITE}; {bounds}; {BY_KEYS}")
            }
        };
        Self {
            begin: AssertSqlSafe(begin).into_sql_str(),
            ..self.clone()
        }
    }

    /// Runs `body` as one unit of work: see the module.
    ///
    /// # Errors
    /// What the body refuses with; [`StoreError::OutcomeUnknown`] when the commit's answer was lost; any
    /// other store error: certainly not done.
    pub(super) async fn write<'env, T, E, F>(&self, body: F) -> Result<T, E>
    where
        E: From<StoreError>,
        F: Body<'env, Result<T, Abort<E>>>,
    {
        let deadline = Instant::now() + self.deadline;
        let mut attempt = 1;
        let mut was_lost = false;
        loop {
            match self.attempt(&body, deadline).await {
                Ok(value) => return Ok(value),
                Err(End::Refused(error)) => return Err(error),
                // A server that is away says so at the next beginning, at once; only that is noted against it.
                Err(End::Lost(_)) if !was_lost && Instant::now() < deadline => was_lost = true,
                Err(End::Lost(error)) => return Ok(self.noted(Err(error))?),
                Err(End::Failed(StoreError::Conflict { .. })) if attempt < MAX_ATTEMPTS => {
                    tokio::time::sleep(pause(attempt)).await;
                    attempt += 1;
                }
                Err(End::Failed(StoreError::Conflict { .. })) => {
                    return Err(overloaded("too many conflicts with other transactions").into());
                }
                Err(End::Failed(error)) => return Err(error.into()),
            }
        }
    }

    /// Runs `body` on one connection within the deadline. It must only read: it may run twice.
    ///
    /// # Errors
    /// What the driver said, classified.
    pub(super) async fn read<'env, T, F>(&self, body: F) -> Result<T, StoreError>
    where
        F: Body<'env, Result<T, sqlx::Error>>,
    {
        guard::outside(StoreKind::Relational)?;
        self.breaker.admit()?;
        let deadline = Instant::now() + self.deadline;
        let mut fresh = false;
        loop {
            let mut lease = self.lease(fresh).await?;
            let answer = timeout_at(deadline, self.read_on(&mut lease, &body)).await;
            let result = match answer {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) if lease.reused && !fresh && is_lost(&error) => {
                    fresh = true;
                    continue;
                }
                Ok(Err(error)) if is_lost(&error) || self.begin_read.is_some() => {
                    return self.noted(Err(classify(&error)));
                }
                Ok(Err(error)) => Err(classify(&error)),
                Err(_elapsed) => return self.noted(Err(unavailable("a read took too long"))),
            };
            lease.give_back();
            return self.noted(result);
        }
    }

    /// Opens a transaction that its owner commits or drops.
    ///
    /// # Errors
    /// `InsideTransaction`, `Unavailable`, `Overloaded`: nothing was done.
    pub(super) async fn begin(&self) -> Result<Open, StoreError> {
        self.begin_until(Instant::now() + self.deadline, &self.begin)
            .await
    }

    /// Opens a snapshot: its statements see one state, and only read. Its owner ends it with
    /// [`Open::end_read`], soon: it keeps old versions of hot rows from being cleaned away.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub(super) async fn snapshot(&self) -> Result<Open, StoreError> {
        self.begin_until(Instant::now() + self.deadline, &self.begin_snapshot)
            .await
    }

    pub(super) fn figures(&self) -> PoolFigures {
        self.pool.figures()
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    async fn begin_until(&self, deadline: Instant, begin: &SqlStr) -> Result<Open, StoreError> {
        guard::outside(StoreKind::Relational)?;
        self.breaker.admit()?;
        let mut fresh = false;
        loop {
            let mut lease = self.lease(fresh).await?;
            let begun = timeout_at(
                deadline,
                PgTransactionManager::begin(&mut lease, Some(begin.clone())),
            );
            match begun.await {
                Ok(Ok(())) => {
                    return Ok(Open {
                        lease,
                        lane: self.clone(),
                        deadline,
                    });
                }
                // A connection that died while it was idle: nothing was done on it.
                Ok(Err(error)) if lease.reused && !fresh && is_lost(&error) => fresh = true,
                Ok(Err(error)) => return self.noted(Err(classify(&error))),
                Err(_elapsed) => {
                    return self.noted(Err(unavailable("beginning a transaction took too long")));
                }
            }
        }
    }

    async fn attempt<'env, T, E, F>(&self, body: &F, deadline: Instant) -> Result<T, End<E>>
    where
        F: Body<'env, Result<T, Abort<E>>>,
    {
        let mut open = self.begin_until(deadline, &self.begin).await?;
        match open.run(body).await {
            Ok(value) => {
                open.commit().await?;
                Ok(value)
            }
            Err(end) => {
                match &end {
                    End::Lost(_) | End::Failed(StoreError::Unavailable { .. }) => drop(open),
                    _ => open.rollback().await,
                }
                Err(end)
            }
        }
    }

    async fn read_on<'env, T, F>(
        &self,
        connection: &mut PgConnection,
        body: &F,
    ) -> Result<T, sqlx::Error>
    where
        F: Body<'env, Result<T, sqlx::Error>>,
    {
        let Some(begin) = &self.begin_read else {
            return body(connection).future.await;
        };
        PgTransactionManager::begin(connection, Some(begin.clone())).await?;
        let value = body(connection).future.await?;
        PgTransactionManager::commit(connection).await?;
        Ok(value)
    }

    async fn lease(&self, fresh: bool) -> Result<Lease, StoreError> {
        match self.pool.acquire(fresh).await {
            Ok(lease) => Ok(lease),
            // A full pool says nothing about the server.
            Err(error @ StoreError::Overloaded { .. }) => Err(error),
            Err(error) => self.noted(Err(error)),
        }
    }

    fn noted<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        self.breaker.record(&result);
        result
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("pool", &self.pool)
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}

/// What runs on a connection, and may borrow from its caller (`'env`): a closure that gives a [`scoped`]
/// future. (An `async` closure would do, if the compiler could prove that its future is `Send`.)
pub(super) trait Body<'env, R>:
    for<'c> Fn(&'c mut PgConnection) -> Scoped<'env, 'c, R> + Send + Sync
{
}
impl<'env, R, F> Body<'env, R> for F where
    F: for<'c> Fn(&'c mut PgConnection) -> Scoped<'env, 'c, R> + Send + Sync
{
}

/// A future that uses a connection for `'c` and what its maker borrowed for the longer `'env`. Naming both
/// here tells the compiler which is longer.
pub(super) struct Scoped<'env, 'c, R> {
    future: BoxFuture<'c, R>,
    outlives: PhantomData<&'c &'env ()>,
}

pub(super) fn scoped<'env, 'c, R>(
    future: impl Future<Output = R> + Send + 'c,
) -> Scoped<'env, 'c, R> {
    Scoped {
        future: Box::pin(future),
        outlives: PhantomData,
    }
}

/// How an attempt ended without its commit.
enum End<E> {
    Failed(StoreError),
    /// The connection broke before anything was to be committed.
    Lost(StoreError),
    Refused(E),
}

impl<E> From<StoreError> for End<E> {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// An open transaction. Dropping it closes the connection, so the server rolls back.
#[derive(Debug)]
pub(super) struct Open {
    lease: Lease,
    lane: Lane,
    deadline: Instant,
}

impl Open {
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.lease
    }

    /// By when it must have been told to commit.
    pub(super) const fn deadline(&self) -> Instant {
        self.deadline
    }

    async fn run<'env, T, E, F>(&mut self, body: &F) -> Result<T, End<E>>
    where
        F: Body<'env, Result<T, Abort<E>>>,
    {
        let ran = timeout_at(self.deadline, guard::inside(body(&mut self.lease).future)).await;
        let end = match ran {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(Abort::Refused(error))) => return Err(End::Refused(error)),
            Ok(Err(Abort::Driver(error))) if is_lost(&error) => {
                return Err(End::Lost(classify(&error)));
            }
            Ok(Err(Abort::Driver(error))) => classify(&error),
            Ok(Err(Abort::Again(race))) => {
                tracing::debug!(race, "a unit of work runs again");
                StoreError::Conflict {
                    store: StoreKind::Relational,
                }
            }
            Err(_elapsed) => unavailable("a unit of work took too long"),
        };
        self.lane.breaker.record::<()>(&Err(end.clone()));
        Err(End::Failed(end))
    }

    /// Makes it durable. Runs to its end even when the caller goes away.
    ///
    /// # Errors
    /// [`StoreError::OutcomeUnknown`] when the answer was lost or late; any other: certainly not done.
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        let Self {
            mut lease, lane, ..
        } = self;
        let committing = tokio::spawn(async move {
            faults::hold_commit().await;
            let answer = timeout(
                lane.commit_deadline,
                PgTransactionManager::commit(&mut lease),
            )
            .await;
            let result = match answer {
                Ok(Ok(())) => {
                    lease.give_back();
                    Ok(())
                }
                // That one connection broke says nothing of the server: the next beginning will.
                Ok(Err(error)) if is_lost(&error) => return Err(refused_commit(&error)),
                Ok(Err(error)) => Err(refused_commit(&error)),
                Err(_elapsed) => Err(outcome_unknown("the commit's answer took too long")),
            };
            lane.noted(result)
        });
        if faults::has(Bug::AcknowledgeBeforeCommit) {
            return Ok(());
        }
        committing
            .await
            .unwrap_or_else(|error| Err(outcome_unknown(error)))
    }

    /// Ends a snapshot, with what reading in it came to.
    ///
    /// # Errors
    /// What the driver said, classified; `Unavailable` when the deadline passed.
    pub(super) async fn end_read<T>(
        self,
        read: Result<Result<T, sqlx::Error>, tokio::time::error::Elapsed>,
    ) -> Result<T, StoreError> {
        let error = match read {
            Ok(Ok(value)) => {
                self.rollback().await;
                return Ok(value);
            }
            Ok(Err(error)) => classify(&error),
            Err(_elapsed) => unavailable("a read took too long"),
        };
        self.lane.noted(Err(error))
    }

    /// Undoes it. Never fails: at worst the connection is closed, which has the same effect.
    pub(super) async fn rollback(mut self) {
        let rolled_back = PgTransactionManager::rollback(&mut self.lease);
        match timeout(ROLLBACK_TIMEOUT, rolled_back).await {
            Ok(Ok(())) => {
                self.lane.breaker.record(&Ok(()));
                self.lease.give_back();
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "a rollback failed; the connection is closed instead");
            }
            Err(_elapsed) => {
                tracing::debug!("a rollback took too long; the connection is closed instead");
            }
        }
    }
}

/// What a failed commit means. The server's refusal is certain; but a connection that ends, or a server
/// (or pooler) that goes down, may have done it before.
fn refused_commit(error: &sqlx::Error) -> StoreError {
    match classify(error) {
        error @ StoreError::Conflict { .. } => error,
        classified if matches!(error, sqlx::Error::Database(_)) && !is_lost(error) => {
            match classified {
                StoreError::Unavailable { .. } | StoreError::Overloaded { .. } => classified,
                _ => unexpected(format_args!("the commit was refused: {error}")),
            }
        }
        _ => outcome_unknown(error),
    }
}

/// A random part of a bound that doubles with each attempt, so that those who met do not meet again.
fn pause(attempt: u32) -> Duration {
    let bound = FIRST_PAUSE_MICROS << attempt.min(8);
    Duration::from_micros(u64::from_le_bytes(random_bytes()) % bound)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a test may stop where it stands"
    )]

    use tokio::net::TcpListener;

    use super::*;

    fn lane(port: u16, config: &PostgresConfig) -> Lane {
        let options = sqlx::postgres::PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port);
        let pool = Pool::new(
            options,
            config.max_connections,
            Duration::from_millis(config.acquire_timeout_ms),
        );
        let breaker = Arc::new(Breaker::new(StoreKind::Relational));
        Lane::new(pool, breaker, config, false)
    }

    async fn ask(lane: &Lane) -> Result<(), StoreError> {
        lane.read(|connection| {
            scoped(async move { sqlx::query("SELECT 1").execute(connection).await.map(drop) })
        })
        .await
    }

    #[tokio::test]
    async fn a_server_that_refuses_connections_is_away_at_once() {
        // Bound and let go of: nobody listens there.
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().port()
        };
        let lane = lane(port, &PostgresConfig::default());
        let started = Instant::now();
        for _ in 0..10 {
            let error = ask(&lane).await.unwrap_err();
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        }
        assert!(started.elapsed() < Duration::from_secs(1), "nobody waits");
        assert!(lane.breaker.is_open());
    }

    #[tokio::test]
    async fn a_silent_server_is_away_and_a_full_pool_is_overload() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = PostgresConfig {
            max_connections: 1,
            acquire_timeout_ms: 2_000,
            ..PostgresConfig::default()
        };
        let lane = lane(listener.local_addr().unwrap().port(), &config);
        let first = tokio::spawn({
            let lane = lane.clone();
            async move { ask(&lane).await }
        });
        while lane.figures().size == 0 {
            assert!(!first.is_finished(), "it takes the place");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        // The first one holds the only place, and gives it back before this one stops waiting.
        let waiting = tokio::spawn({
            let lane = lane.clone();
            async move { ask(&lane).await }
        });
        while lane.figures().waiting != 1 {
            assert!(!waiting.is_finished(), "it waits for the place");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for ended in [first.await.unwrap(), waiting.await.unwrap()] {
            assert!(
                matches!(ended, Err(StoreError::Unavailable { .. })),
                "{ended:?}"
            );
        }
        assert_eq!((lane.figures().size, lane.figures().waiting), (0, 0));

        let _held = lane.pool.permit_for_tests().await;
        let ended = ask(&lane).await;
        assert!(
            matches!(ended, Err(StoreError::Overloaded { .. })),
            "{ended:?}"
        );
    }

    #[tokio::test]
    async fn nothing_is_asked_from_inside_a_transaction() {
        let lane = lane(1, &PostgresConfig::default());
        let error = guard::inside(ask(&lane)).await.unwrap_err();
        assert!(matches!(error, StoreError::InsideTransaction { .. }));
        let error = guard::inside(lane.begin()).await.unwrap_err();
        assert!(matches!(error, StoreError::InsideTransaction { .. }));
    }

    #[test]
    fn a_lost_commit_is_never_called_undone() {
        let lost = [
            sqlx::Error::Io(std::io::ErrorKind::UnexpectedEof.into()),
            sqlx::Error::Protocol("half a message".to_owned()),
            sqlx::Error::WorkerCrashed,
        ];
        for error in lost {
            assert!(
                matches!(refused_commit(&error), StoreError::OutcomeUnknown { .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        for attempt in 1..=MAX_ATTEMPTS {
            for _ in 0..50 {
                assert!(pause(attempt) < Duration::from_micros(FIRST_PAUSE_MICROS << attempt));
            }
        }
    }
}
