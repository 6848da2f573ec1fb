//! What the driver's errors mean.

use std::fmt;
use std::time::Duration;

use crate::error::{StoreError, StoreKind};
use crate::{documents, ledger, sessions, users};

/// Soon enough to be of use, late enough for a burst to pass.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a unit of work ends without its commit.
///
/// `?` makes it from what the driver says and from the domain's own error.
#[derive(Debug)]
pub(super) enum Abort<E> {
    /// A statement failed. A serialization failure or a deadlock runs the unit again.
    Driver(sqlx::Error),
    /// The body lost a race that it will see when it runs again, as a unique violation that it took for
    /// impossible a moment ago.
    Again(&'static str),
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

/// What an error of the driver means, as long as no commit was sent: then all of them say "not done".
pub(super) fn classify(error: &sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(answer) => {
            let code = answer.code().unwrap_or_default();
            // Only the message: the driver also shows a line number, of the server's source.
            let answer = answer.message();
            match code.as_ref() {
                // serialization_failure, deadlock_detected
                "40001" | "40P01" => StoreError::Conflict {
                    store: StoreKind::Relational,
                },
                // lock_not_available, too_many_connections
                "55P03" | "53300" => overloaded(answer),
                // query_canceled: the statement time-out. read_only_sql_transaction: it is a standby.
                "57014" | "25006" => unavailable(answer),
                // undefined_column, undefined_table: a newer program has migrated the schema meanwhile. Nothing
                // was done, and who asks another instance is served.
                "42703" | "42P01" => unavailable(answer),
                // connection exceptions; a server that shuts down, crashed or starts; out of resources; an
                // idle transaction that was cut off; authentication
                code if matches!(code.get(..2), Some("08" | "53" | "58" | "28"))
                    || matches!(code, "57P01" | "57P02" | "57P03" | "57P05" | "25P03") =>
                {
                    unavailable(answer)
                }
                code => unexpected(format_args!("{answer} (SQLSTATE {code})")),
            }
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => unavailable(error),
        _ => unexpected(error),
    }
}

/// Whether a lock was waited for as long as the unit may.
pub(super) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == "55P03")
}

/// Whether the connection is of no use after `error`: nothing more can be said over it.
pub(super) fn is_lost(error: &sqlx::Error) -> bool {
    !matches!(error, sqlx::Error::Database(_))
        && matches!(classify(error), StoreError::Unavailable { .. })
        || matches!(error, sqlx::Error::Database(answer)
            if answer.code().is_some_and(|code| code.starts_with("08") || code.starts_with("57P")))
}

/// The name of the constraint or unique index that a statement ran into.
pub(super) fn constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error()?.constraint()
}

/// For what is stored and cannot be read: a damaged row, or one written by a newer program.
pub(super) fn undecodable(column: &str, reason: impl fmt::Display) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: reason.to_string().into(),
    }
}

pub(super) fn unavailable(reason: impl fmt::Display) -> StoreError {
    StoreError::unavailable(StoreKind::Relational, reason)
}

pub(super) fn unexpected(reason: impl fmt::Display) -> StoreError {
    StoreError::unexpected(StoreKind::Relational, reason)
}

pub(super) fn overloaded(reason: impl fmt::Display) -> StoreError {
    StoreError::Overloaded {
        store: StoreKind::Relational,
        reason: reason.to_string(),
        retry_after: RETRY_AFTER,
    }
}

pub(super) fn outcome_unknown(reason: impl fmt::Display) -> StoreError {
    StoreError::OutcomeUnknown {
        store: StoreKind::Relational,
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    /// What a server may answer.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Answer(&'static str);

    impl DatabaseError for Answer {
        fn message(&self) -> &str {
            "the message"
        }
        fn code(&self) -> Option<Cow<'_, str>> {
            Some(Cow::Borrowed(self.0))
        }
        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }
        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }
        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }
        fn constraint(&self) -> Option<&str> {
            Some("users_pkey")
        }
        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    fn answer(code: &'static str) -> sqlx::Error {
        Answer(code).into()
    }

    #[test]
    fn conflicts_may_be_run_again() {
        for code in ["40001", "40P01"] {
            let error = classify(&answer(code));
            assert!(matches!(error, StoreError::Conflict { .. }), "{code}");
        }
    }

    #[test]
    fn a_server_that_goes_or_is_gone_is_away_and_its_connection_lost() {
        for code in ["57P01", "57P02", "57P03", "08006", "08P01"] {
            let error = answer(code);
            assert!(
                matches!(classify(&error), StoreError::Unavailable { .. }),
                "{code}"
            );
            assert!(is_lost(&error), "{code}");
        }
        let error = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(matches!(classify(&error), StoreError::Unavailable { .. }));
        assert!(is_lost(&error));
    }

    #[test]
    fn a_schema_that_a_newer_program_has_migrated_means_not_done() {
        for code in ["42703", "42P01"] {
            let error = answer(code);
            assert!(
                matches!(classify(&error), StoreError::Unavailable { .. }),
                "{code}"
            );
            assert!(!is_lost(&error), "{code}");
        }
    }

    #[test]
    fn what_passes_is_overload_and_leaves_the_connection_whole() {
        for code in ["55P03", "53300"] {
            let error = answer(code);
            assert!(
                matches!(classify(&error), StoreError::Overloaded { .. }),
                "{code}"
            );
            assert!(!is_lost(&error), "{code}");
        }
    }

    #[test]
    fn what_nobody_expects_is_reported_with_its_code() {
        let error = answer("42601");
        assert_eq!(
            classify(&error).to_string(),
            "postgresql: unexpected: the message (SQLSTATE 42601)"
        );
        assert!(!is_lost(&error));
        assert_eq!(constraint(&error), Some("users_pkey"));
    }
}
