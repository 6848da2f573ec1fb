//! How this adapter uses one file: units of work and reads, each within a deadline.
//!
//! A **unit of work** ([`Lane::write`]) is one transaction of the file's one writer:
//!
//! 1. It must not be inside another one ([`guard`]), and the circuit breaker must let it through.
//! 2. The writer's connection, in the order of asking, or `Overloaded`.
//! 3. `BEGIN IMMEDIATE`: the write lock is taken now, so that what the body reads stays true until its
//!    commit, and nothing can conflict later. Only another process can hold it: waited for within bounds.
//! 4. The body, under the deadline. Until here every end is certain: not done.
//! 5. `COMMIT`, in a task of its own that nobody cancels.
//!
//! The driver runs each connection on a thread of its own, so none of this blocks the async threads. A
//! caller that goes away leaves its rollback to that thread, before anything else it is asked.
//!
//! **Reads** have connections of their own that refuse to write; they see the last commit and never wait
//! for the writer (write-ahead log).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use sqlx::{Sqlite, SqliteConnection, Transaction};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{Abort, classify, classify_commit, is_busy, overloaded};
use super::open;
use crate::config::SqliteConfig;
use crate::error::{StoreError, StoreKind};
use crate::faults::{self, Bug};
use crate::stores::breaker::Breaker;
use crate::transaction::guard;

/// One file: its writer, its readers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Lane {
    store: StoreKind,
    path: Arc<PathBuf>,
    writer: SqlitePool,
    readers: SqlitePool,
    waiting: Arc<AtomicUsize>,
    breaker: Arc<Breaker>,
    acquire_timeout: Duration,
    deadline: Duration,
}

/// An open transaction of the writer. Dropping it rolls back.
pub(super) struct Open {
    transaction: Transaction<'static, Sqlite>,
    lane: Lane,
    deadline: Instant,
}

/// How a part of a unit ended without success.
pub(super) enum End<E> {
    Failed(StoreError),
    Refused(E),
}

/// What `stats` shows of the connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures {
    pub(super) size: u32,
    pub(super) idle: usize,
    /// Units of work and reads that wait for a connection.
    pub(super) waiting: usize,
    pub(super) max: u32,
}

impl Lane {
    /// Opens connections when they are first needed.
    pub(super) fn new(store: StoreKind, path: &Path, config: &SqliteConfig) -> Self {
        let acquire_timeout = Duration::from_millis(config.acquire_timeout_ms);
        // A connection in this process cannot go stale, so there is nothing to try before using it.
        let pool = |connections: u32| {
            SqlitePoolOptions::new()
                .max_connections(connections.max(1))
                .acquire_timeout(acquire_timeout)
                .test_before_acquire(false)
                .max_lifetime(None)
                .idle_timeout(None)
        };
        Self {
            store,
            path: Arc::new(path.to_owned()),
            writer: pool(1).connect_lazy_with(open::writer_options(path)),
            readers: pool(config.max_readers).connect_lazy_with(open::reader_options(path)),
            waiting: Arc::new(AtomicUsize::new(0)),
            breaker: Arc::new(Breaker::new(store)),
            acquire_timeout,
            deadline: Duration::from_millis(config.deadline_ms),
        }
    }

    /// Runs `body` as one unit of work: see the module.
    ///
    /// # Errors
    /// What the body refuses with; [`StoreError::OutcomeUnknown`] when the commit's answer was lost; any
    /// other store error: certainly not done.
    pub(super) async fn write<T, E, F>(&self, body: F) -> Result<T, E>
    where
        E: From<StoreError>,
        F: AsyncFnOnce(&mut SqliteConnection) -> Result<T, Abort<E>>,
    {
        let mut open = self.begin().await?;
        match open.run(body).await {
            Ok(value) => {
                open.commit().await?;
                Ok(value)
            }
            Err(End::Refused(error)) => Err(error),
            Err(End::Failed(error)) => Err(error.into()),
        }
    }

    /// Runs `body`, which is one statement that only reads.
    ///
    /// # Errors
    /// What the driver said, classified.
    pub(super) async fn read<T, F>(&self, body: F) -> Result<T, StoreError>
    where
        F: AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    {
        self.reading(async {
            let mut reader = self.waiting(self.readers.acquire()).await?;
            body(&mut reader).await
        })
        .await
    }

    /// Runs `body`, whose statements only read, and all see the same commit.
    ///
    /// # Errors
    /// What the driver said, classified.
    pub(super) async fn snapshot<T, F>(&self, body: F) -> Result<T, StoreError>
    where
        F: AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    {
        self.reading(async {
            let mut reader = self.waiting(self.readers.begin()).await?;
            let value = body(&mut reader).await?;
            reader.rollback().await?;
            Ok(value)
        })
        .await
    }

    /// Opens a transaction that its owner commits or drops.
    ///
    /// # Errors
    /// `InsideTransaction`, `Unavailable`, `Overloaded`: nothing was done.
    pub(super) async fn begin(&self) -> Result<Open, StoreError> {
        guard::outside(self.store)?;
        self.breaker.admit()?;
        let begun = self.begin_immediate().await;
        self.breaker.record(&begun);
        Ok(Open {
            transaction: begun?,
            lane: self.clone(),
            deadline: Instant::now() + self.deadline,
        })
    }

    pub(super) fn store(&self) -> StoreKind {
        self.store
    }

    pub(super) fn breaker(&self) -> &Arc<Breaker> {
        &self.breaker
    }

    pub(super) fn figures(&self) -> Figures {
        Figures {
            size: self.writer.size().saturating_add(self.readers.size()),
            idle: self
                .writer
                .num_idle()
                .saturating_add(self.readers.num_idle()),
            waiting: self.waiting.load(Ordering::Relaxed),
            max: [&self.writer, &self.readers]
                .map(|pool| pool.options().get_max_connections())
                .into_iter()
                .sum(),
        }
    }

    /// Refuses new work, waits for what runs, and closes the file; the last connection to close empties the
    /// write-ahead log into it.
    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn reading<T>(
        &self,
        read: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        guard::outside(self.store)?;
        self.breaker.admit()?;
        let result = match timeout(self.deadline, read).await {
            Ok(Ok(value)) => Ok(value),
            // A reader meets a lock only while the file is recovered after a crash.
            Ok(Err(error)) if is_busy(&error) => Err(overloaded(self.store, &error)),
            Ok(Err(error)) => Err(classify(self.store, &error)),
            Err(_elapsed) => Err(StoreError::unavailable(self.store, "a read took too long")),
        };
        self.breaker.record(&result);
        result
    }

    async fn begin_immediate(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        let deadline = Instant::now() + self.acquire_timeout;
        loop {
            let begun = self.waiting(self.writer.begin_with("BEGIN IMMEDIATE"));
            let error = match begun.await {
                Ok(transaction) => return Ok(transaction),
                Err(error) => error,
            };
            let is_late = Instant::now() >= deadline;
            match error {
                // SQLite rolled back by itself after a failure (disk full, I/O), and the driver still counts
                // a transaction: its connection is given up.
                sqlx::Error::InvalidSavePointStatement if !is_late => self.drop_writer().await,
                // Another process writes. The driver has waited for a while already.
                error if is_busy(&error) && !is_late => {}
                error if is_busy(&error) => return Err(overloaded(self.store, error)),
                error => return Err(classify(self.store, &error)),
            }
        }
    }

    /// Counts who waits, also when it gives up.
    async fn waiting<T>(&self, wait: impl Future<Output = T>) -> T {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        wait.await
    }

    async fn drop_writer(&self) {
        if let Ok(connection) = self.writer.acquire().await {
            drop(connection.detach());
        }
    }
}

impl Open {
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.transaction
    }

    pub(super) fn store(&self) -> StoreKind {
        self.lane.store
    }

    /// Runs a part of the unit within what is left of its time, and marked as inside it.
    pub(super) async fn run<T, E, F>(&mut self, body: F) -> Result<T, End<E>>
    where
        F: AsyncFnOnce(&mut SqliteConnection) -> Result<T, Abort<E>>,
    {
        let store = self.lane.store;
        let running = guard::inside(body(&mut self.transaction));
        let failed = match timeout_at(self.deadline, running).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(Abort::Refused(refusal))) => return Err(End::Refused(refusal)),
            Ok(Err(Abort::Driver(error))) => classify(store, &error),
            Err(_elapsed) => {
                StoreError::unavailable(store, "the deadline passed before the commit was sent")
            }
        };
        self.lane.breaker.record::<()>(&Err(failed.clone()));
        Err(End::Failed(failed))
    }

    /// Commits, in a task of its own: it runs to its end even when the caller goes away.
    ///
    /// # Errors
    /// `OutcomeUnknown` when the answer was lost or late; any other: certainly not done.
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        let Self {
            transaction,
            lane,
            deadline: _,
        } = self;
        let store = lane.store;
        let unknown = |reason: String| StoreError::OutcomeUnknown { store, reason };
        let wait = lane.deadline;
        let committing = tokio::spawn(async move {
            faults::hold_commit().await;
            let result = match transaction.commit().await {
                Ok(()) => Ok(()),
                Err(error) => Err(classify_commit(store, &error)),
            };
            lane.breaker.record(&result);
            result
        });
        if faults::has(Bug::AcknowledgeBeforeCommit) {
            return Ok(());
        }
        match timeout(wait, committing).await {
            Ok(Ok(result)) => result,
            Ok(Err(panicked)) => Err(unknown(panicked.to_string())),
            Err(_elapsed) => Err(unknown("the commit's answer took too long".to_owned())),
        }
    }

    /// Undoes it, and waits until it is undone.
    pub(super) async fn rollback(self) -> Result<(), StoreError> {
        let store = self.lane.store;
        self.transaction
            .rollback()
            .await
            .map_err(|error| classify(store, &error))
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("store", &self.store)
            .field("path", &self.path)
            .field("figures", &self.figures())
            .finish_non_exhaustive()
    }
}
