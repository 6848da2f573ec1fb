//! Columns of both relational stores → types of the domains. What does not fit is a damaged row, and is
//! reported as one: never mended in silence.

use serde_json::Value;
use sqlx::Error;

use crate::audit::Hash;
use crate::context::{Actor, ActorKind};
use crate::documents::parse::parse_json;
use crate::ids::SessionId;
use crate::money::Amount;

/// Depth to which stored JSON is read: what is written is at most 40 deep (a request body), with room.
const MAX_STORED_DEPTH: usize = 64;

pub(super) fn damaged(column: &'static str) -> Error {
    Error::Decode(format!("{column} holds what this program never writes").into())
}

pub(super) fn amount(column: &'static str, micros: i64) -> Result<Amount, Error> {
    Amount::from_micros(micros).ok_or_else(|| damaged(column))
}

/// An enum's word, by its `from_name`.
pub(super) fn word<T>(
    column: &'static str,
    text: &str,
    from_name: impl FnOnce(&str) -> Option<T>,
) -> Result<T, Error> {
    from_name(text).ok_or_else(|| damaged(column))
}

/// A text that has a `parse` of its own: e-mail, asset, decimal.
pub(super) fn parsed<T: std::str::FromStr>(column: &'static str, text: &str) -> Result<T, Error> {
    text.parse()
        .or_else(|_damaged: T::Err| Err(damaged(column)))
}

pub(super) fn hash(column: &'static str, bytes: &[u8]) -> Result<Hash, Error> {
    Hash::try_from(bytes).or_else(|_wrong_length| Err(damaged(column)))
}

/// Stored JSON, with every number exactly as it was written.
pub(super) fn json(column: &'static str, text: &str) -> Result<Value, Error> {
    parse_json(text.as_bytes(), MAX_STORED_DEPTH)
        .or_else(|_malformed| Err(damaged(column)))?
        .into_value()
        .or_else(|_out_of_range| Err(damaged(column)))
}

pub(super) fn actor(
    kind: &str,
    id: String,
    session_id: Option<uuid::Uuid>,
) -> Result<Actor, Error> {
    Ok(Actor {
        kind: word("actor_kind", kind, ActorKind::from_name)?,
        id,
        session_id: session_id.map(SessionId),
    })
}
