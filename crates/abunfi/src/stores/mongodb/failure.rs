//! What an error of the driver means: certainly not done, perhaps done, or a bug.

use mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::error::{StoreError, StoreKind};

/// The server's code for a second document with a unique key.
const DUPLICATE_KEY: i32 = 11_000;

/// Codes by which a server says that it did not even begin: it is no primary, or not yet.
const NOT_BEGUN: [i32; 4] = [10_107, 13_435, 13_436, 10_058];

/// Codes by which a server says that it stopped in between: shutting down, stepping down, killed, out of
/// time, or the acknowledgement did not come in time.
const INTERRUPTED: [i32; 9] = [64, 91, 189, 11_600, 11_601, 11_602, 50, 262, 24];

/// Whether it is E11000, and nothing else.
pub(super) fn is_duplicate_key(error: &Error) -> bool {
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(error)) => error.code == DUPLICATE_KEY,
        ErrorKind::InsertMany(error) => {
            error.write_concern_error.is_none()
                && error.write_errors.as_ref().is_some_and(|errors| {
                    !errors.is_empty() && errors.iter().all(|error| error.code == DUPLICATE_KEY)
                })
        }
        ErrorKind::Command(error) => error.code == DUPLICATE_KEY,
        _ => false,
    }
}

/// Whether the server is there and said no, for good: it does not know the command or the option, or
/// the user may not use it.
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::Command(_)) && matches!(meaning(error), Meaning::Bug)
}

/// Of a call that only read.
pub(super) fn of_read(error: &Error) -> StoreError {
    match meaning(error) {
        Meaning::NotDone | Meaning::Unknown => unavailable(error),
        Meaning::Bug => unexpected(error),
    }
}

/// Of a call that wrote, or may have.
pub(super) fn of_write(error: &Error) -> StoreError {
    match meaning(error) {
        Meaning::NotDone => unavailable(error),
        Meaning::Unknown => StoreError::OutcomeUnknown {
            store: StoreKind::Documents,
            reason: reason(error),
        },
        Meaning::Bug => unexpected(error),
    }
}

enum Meaning {
    NotDone,
    Unknown,
    Bug,
}

fn meaning(error: &Error) -> Meaning {
    match &*error.kind {
        ErrorKind::ServerSelection { .. }
        | ErrorKind::DnsResolve { .. }
        | ErrorKind::Authentication { .. }
        | ErrorKind::InvalidTlsConfig { .. }
        | ErrorKind::Shutdown => Meaning::NotDone,
        // The pool was cleared before the call got a connection, or under its hands.
        ErrorKind::ConnectionPoolCleared { .. } | ErrorKind::Io(_) => Meaning::Unknown,
        ErrorKind::Command(error) => by_code(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => by_code(error.code),
        ErrorKind::Write(_) | ErrorKind::InsertMany(_) => Meaning::Unknown,
        _ => Meaning::Bug,
    }
}

fn by_code(code: i32) -> Meaning {
    if NOT_BEGUN.contains(&code) {
        Meaning::NotDone
    } else if INTERRUPTED.contains(&code) {
        Meaning::Unknown
    } else {
        Meaning::Bug
    }
}

fn unavailable(error: &Error) -> StoreError {
    StoreError::unavailable(StoreKind::Documents, reason(error))
}

fn unexpected(error: &Error) -> StoreError {
    StoreError::unexpected(StoreKind::Documents, reason(error))
}

/// For operators. The driver's own text of a write error may repeat the document, and that of an
/// authentication error the user, so of those only the kind and the code are told.
fn reason(error: &Error) -> String {
    match &*error.kind {
        ErrorKind::Io(error) => format!("connection: {}", error.kind()),
        ErrorKind::ServerSelection { .. } => "no server was found that can serve".to_owned(),
        ErrorKind::DnsResolve { .. } => "the server's name is not resolved".to_owned(),
        ErrorKind::Authentication { .. } => "the server refuses the credentials".to_owned(),
        ErrorKind::ConnectionPoolCleared { .. } => "the connections were lost".to_owned(),
        ErrorKind::InvalidTlsConfig { .. } => "TLS is misconfigured".to_owned(),
        ErrorKind::Shutdown => "the client is shut down".to_owned(),
        ErrorKind::Command(error) => {
            format!("command failed: {} ({})", error.code_name, error.code)
        }
        ErrorKind::Write(WriteFailure::WriteError(error)) => {
            format!("write failed: code {}", error.code)
        }
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => format!(
            "the write was not acknowledged as asked: {} ({})",
            error.code_name, error.code
        ),
        ErrorKind::InsertMany(error) => format!(
            "not all was inserted: codes {:?}",
            error
                .write_errors
                .iter()
                .flatten()
                .map(|error| error.code)
                .collect::<std::collections::BTreeSet<_>>()
        ),
        ErrorKind::InvalidArgument { message, .. } => format!("invalid argument: {message}"),
        ErrorKind::InvalidResponse { .. } => "the server's answer is not understood".to_owned(),
        ErrorKind::BsonDeserialization(_) => "BSON that is not understood".to_owned(),
        ErrorKind::BsonSerialization(_) => "not to be written as BSON".to_owned(),
        other => format!("driver error: {}", kind_name(other)),
    }
}

/// The variant's name, without what it holds.
fn kind_name(kind: &ErrorKind) -> String {
    format!("{kind:?}")
        .chars()
        .take_while(|char| char.is_ascii_alphanumeric())
        .collect()
}
