//! What the driver's errors mean.
//!
//! Uniqueness is never read out of a message: SQLite names columns there, not constraints. Since there is
//! one writer, a unit of work asks first or inserts `ON CONFLICT … DO NOTHING` and looks at the count, and
//! what it saw stays true until its commit. A violation that still happens is a bug.

use std::fmt;
use std::time::Duration;

use crate::error::{StoreError, StoreKind};
use crate::{documents, ledger, sessions, users};

/// Soon enough to be of use, late enough for a burst to pass.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Primary result codes, <https://www.sqlite.org/rescode.html>: the lowest byte of an extended one.
mod code {
    pub(super) const PERM: i32 = 3;
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const NOMEM: i32 = 7;
    pub(super) const READONLY: i32 = 8;
    pub(super) const INTERRUPT: i32 = 9;
    pub(super) const IOERR: i32 = 10;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const NOTADB: i32 = 26;
}

/// Why a unit of work ends without its commit.
///
/// `?` makes it from what the driver says and from the domain's own error.
#[derive(Debug)]
pub(super) enum Abort<E> {
    /// A statement failed.
    Driver(sqlx::Error),
    /// The domain says no.
    Refused(E),
}

impl<E> From<sqlx::Error> for Abort<E> {
    fn from(error: sqlx::Error) -> Self {
        Self::Driver(error)
    }
}

macro_rules! refusals {
    ($($error:ty),+) => {$(
        impl From<$error> for Abort<$error> {
            fn from(error: $error) -> Self {
                Self::Refused(error)
            }
        }
    )+};
}
refusals!(
    users::Error,
    documents::Error,
    sessions::Error,
    ledger::Error,
    StoreError
);

/// A user is made together with its documents.
impl From<Abort<documents::Error>> for Abort<users::Error> {
    fn from(abort: Abort<documents::Error>) -> Self {
        match abort {
            Abort::Driver(error) => Self::Driver(error),
            Abort::Refused(error) => Self::Refused(error.into()),
        }
    }
}

/// What an error of the driver means, as long as no commit was sent: then all of them say "not done".
pub(super) fn classify(store: StoreKind, error: &sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(_) => match primary_code(error) {
            Some(code::BUSY | code::LOCKED) => StoreError::Conflict { store },
            Some(
                code::PERM
                | code::NOMEM
                | code::READONLY
                | code::INTERRUPT
                | code::IOERR
                | code::CORRUPT
                | code::FULL
                | code::CANTOPEN
                | code::NOTADB,
            ) => StoreError::unavailable(store, error),
            _ => StoreError::unexpected(store, error),
        },
        sqlx::Error::PoolTimedOut => overloaded(store, "no connection became free in time"),
        sqlx::Error::Io(_)
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => StoreError::unavailable(store, error),
        _ => StoreError::unexpected(store, error),
    }
}

/// What a failed COMMIT means. A full disk and a lock are told before the commit record is written; an I/O
/// error may come after it, so that a crash right now would find it in the write-ahead log.
pub(super) fn classify_commit(store: StoreKind, error: &sqlx::Error) -> StoreError {
    match primary_code(error) {
        Some(code::BUSY | code::LOCKED | code::FULL) => classify(store, error),
        _ => StoreError::OutcomeUnknown {
            store,
            reason: error.to_string(),
        },
    }
}

/// Whether another process holds the lock.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(code::BUSY | code::LOCKED))
}

fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let extended: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// For what is stored and cannot be read: a damaged row, or one written by a newer program.
pub(super) fn undecodable(column: &str, reason: impl fmt::Display) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: reason.to_string().into(),
    }
}

pub(super) fn overloaded(store: StoreKind, reason: impl fmt::Display) -> StoreError {
    StoreError::Overloaded {
        store,
        reason: reason.to_string(),
        retry_after: RETRY_AFTER,
    }
}
