//! Places where a test may kill the process, and bugs that prove the tests.
//!
//! Only the feature `fault-injection` compiles this in. Without it, as in every binary that is built to be
//! used, each function here is a constant and its calls leave nothing behind. With it, and as long as neither
//! variable below is set, a binary works as it should, and says at its start that it is not to be used.
//!
//! - `ABUNFI_FAULT_POINT=before_commit:3`: the process kills itself (SIGKILL, so nothing is flushed, closed or
//!   answered) when it comes to that [`Point`] for the third time.
//! - `ABUNFI_FAULT_BUG=skip_lock`: the process has that [`Bug`]. The crash loop runs with each, and fails
//!   unless it finds it.

/// Where the process may kill itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// All rows of a unit of postings are written, `COMMIT` was not sent.
    BeforeCommit,
    /// A unit of postings is durable, and nobody has been told.
    AfterCommit,
    /// In a batch that is not atomic, before each of its parts is committed.
    BetweenChunks,
}

/// What a ledger must not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Callers are answered while the commit has yet to come.
    AcknowledgeBeforeCommit,
    /// The row of the idempotency key commits after what it stands for, by itself.
    AnswerInItsOwnTransaction,
    /// Balances are decided from rows that are not locked. (On PostgreSQL: SQLite has one writer.)
    SkipLock,
    /// The audit rows commit after what they tell of, by themselves.
    AuditOutside,
}

impl Point {
    pub const ALL: [Self; 3] = [Self::BeforeCommit, Self::AfterCommit, Self::BetweenChunks];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeCommit => "before_commit",
            Self::AfterCommit => "after_commit",
            Self::BetweenChunks => "between_chunks",
        }
    }
}

impl Bug {
    pub const ALL: [Self; 4] = [
        Self::AcknowledgeBeforeCommit,
        Self::AnswerInItsOwnTransaction,
        Self::SkipLock,
        Self::AuditOutside,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AcknowledgeBeforeCommit => "acknowledge_before_commit",
            Self::AnswerInItsOwnTransaction => "answer_in_its_own_transaction",
            Self::SkipLock => "skip_lock",
            Self::AuditOutside => "audit_outside",
        }
    }
}

pub const POINT_VARIABLE: &str = "ABUNFI_FAULT_POINT";
pub const BUG_VARIABLE: &str = "ABUNFI_FAULT_BUG";

#[cfg(feature = "fault-injection")]
mod armed {
    use std::str::FromStr;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::{BUG_VARIABLE, Bug, POINT_VARIABLE, Point};

    /// What a seeded bug leaves open for so long, so that a kill finds it.
    const WINDOW: Duration = Duration::from_millis(20);

    static KILL_AT: LazyLock<Option<(Point, u32)>> = LazyLock::new(|| {
        let value = std::env::var(POINT_VARIABLE).ok()?;
        let (name, nth) = value.split_once(':').unwrap_or((&value, "1"));
        let point = Point::ALL.into_iter().find(|point| point.name() == name)?;
        Some((point, u32::from_str(nth).ok()?))
    });
    static BUG: LazyLock<Option<Bug>> = LazyLock::new(|| {
        let name = std::env::var(BUG_VARIABLE).ok()?;
        Bug::ALL.into_iter().find(|bug| bug.name() == name)
    });
    static HITS: AtomicU32 = AtomicU32::new(0);

    /// Kills the process, if it is to be killed here and now.
    pub fn reach(point: Point) {
        let Some((at, nth)) = *KILL_AT else { return };
        if at == point && HITS.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            let myself = rustix::process::getpid();
            let killed = rustix::process::kill_process(myself, rustix::process::Signal::KILL);
            // Not reached, unless there is no such signal; then at least nothing is answered.
            tracing::error!(?killed, "the process lives on at {}", point.name());
            std::process::abort();
        }
    }

    #[must_use]
    pub fn has(bug: Bug) -> bool {
        *BUG == Some(bug)
    }

    pub(crate) async fn hold_commit() {
        if has(Bug::AcknowledgeBeforeCommit) {
            tokio::time::sleep(WINDOW).await;
        }
    }

    pub(crate) async fn split_postgres(
        bug: Bug,
        connection: &mut sqlx::PgConnection,
    ) -> Result<(), sqlx::Error> {
        if has(bug) {
            sqlx::query("COMMIT").execute(&mut *connection).await?;
            tokio::time::sleep(WINDOW).await;
            sqlx::query("BEGIN").execute(connection).await?;
        }
        Ok(())
    }

    pub(crate) async fn split_sqlite(
        bug: Bug,
        connection: &mut sqlx::SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        if has(bug) {
            sqlx::query("COMMIT").execute(&mut *connection).await?;
            tokio::time::sleep(WINDOW).await;
            sqlx::query("BEGIN IMMEDIATE").execute(connection).await?;
        }
        Ok(())
    }

    /// What a binary says at its start that can do this.
    #[must_use]
    pub fn warning() -> Option<String> {
        let bug = BUG.map_or("none", Bug::name);
        let kill = KILL_AT.map_or_else(
            || "never".to_owned(),
            |(point, nth)| format!("at {}, time {nth}", point.name()),
        );
        Some(format!(
            "FAULT INJECTION IS COMPILED IN: this binary is for tests and must never hold real money \
             (kills itself: {kill}; seeded bug: {bug})"
        ))
    }
}

#[cfg(not(feature = "fault-injection"))]
mod armed {
    use super::{Bug, Point};

    /// Nothing.
    #[inline]
    pub const fn reach(_point: Point) {}

    /// Never.
    #[inline]
    #[must_use]
    pub const fn has(_bug: Bug) -> bool {
        false
    }

    #[inline]
    pub(crate) async fn hold_commit() {}

    #[inline]
    pub(crate) async fn split_postgres(
        _bug: Bug,
        _connection: &mut sqlx::PgConnection,
    ) -> Result<(), sqlx::Error> {
        Ok(())
    }

    #[inline]
    pub(crate) async fn split_sqlite(
        _bug: Bug,
        _connection: &mut sqlx::SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        Ok(())
    }

    /// Nothing to say.
    #[must_use]
    pub const fn warning() -> Option<String> {
        None
    }
}

pub use armed::{has, reach, warning};
/// `hold_commit` waits before a commit that was acknowledged already; `split_…` commits what a transaction did
/// so far and begins another. Both only where a seeded bug says so.
pub(crate) use armed::{hold_commit, split_postgres, split_sqlite};
