//! Reading rows: the domain's types from columns, by name.

use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use uuid::Uuid;

use super::error::undecodable;
use crate::clock::Timestamp;
use crate::documents::parse::{MAX_BODY_DEPTH, parse_json};
use crate::money::Amount;

/// Typed access to a row. Every error names the column.
pub(super) trait Columns {
    fn id<T: From<Uuid>>(&self, column: &str) -> Result<T, sqlx::Error>;
    fn optional_id<T: From<Uuid>>(&self, column: &str) -> Result<Option<T>, sqlx::Error>;
    fn integer(&self, column: &str) -> Result<i64, sqlx::Error>;
    fn text(&self, column: &str) -> Result<String, sqlx::Error>;
    fn optional_text(&self, column: &str) -> Result<Option<String>, sqlx::Error>;
    fn timestamp(&self, column: &str) -> Result<Timestamp, sqlx::Error>;
    fn optional_timestamp(&self, column: &str) -> Result<Option<Timestamp>, sqlx::Error>;
    fn amount(&self, column: &str) -> Result<Amount, sqlx::Error>;
    fn optional_amount(&self, column: &str) -> Result<Option<Amount>, sqlx::Error>;
    fn hash(&self, column: &str) -> Result<[u8; 32], sqlx::Error>;
    fn optional_hash(&self, column: &str) -> Result<Option<[u8; 32]>, sqlx::Error>;
    /// A text that `parse` makes sense of.
    fn parsed<T>(
        &self,
        column: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, sqlx::Error>;
    fn optional_parsed<T>(
        &self,
        column: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, sqlx::Error>;
    /// JSON that is stored as text, number for number as it was written.
    fn json(&self, column: &str) -> Result<Value, sqlx::Error>;
}

impl Columns for PgRow {
    fn id<T: From<Uuid>>(&self, column: &str) -> Result<T, sqlx::Error> {
        self.try_get::<Uuid, _>(column).map(T::from)
    }

    fn optional_id<T: From<Uuid>>(&self, column: &str) -> Result<Option<T>, sqlx::Error> {
        Ok(self.try_get::<Option<Uuid>, _>(column)?.map(T::from))
    }

    fn integer(&self, column: &str) -> Result<i64, sqlx::Error> {
        self.try_get(column)
    }

    fn text(&self, column: &str) -> Result<String, sqlx::Error> {
        self.try_get(column)
    }

    fn optional_text(&self, column: &str) -> Result<Option<String>, sqlx::Error> {
        self.try_get(column)
    }

    fn timestamp(&self, column: &str) -> Result<Timestamp, sqlx::Error> {
        self.try_get::<OffsetDateTime, _>(column)
            .map(Timestamp::from)
    }

    fn optional_timestamp(&self, column: &str) -> Result<Option<Timestamp>, sqlx::Error> {
        Ok(self
            .try_get::<Option<OffsetDateTime>, _>(column)?
            .map(Timestamp::from))
    }

    fn amount(&self, column: &str) -> Result<Amount, sqlx::Error> {
        amount(column, self.try_get(column)?)
    }

    fn optional_amount(&self, column: &str) -> Result<Option<Amount>, sqlx::Error> {
        self.try_get::<Option<i64>, _>(column)?
            .map(|micros| amount(column, micros))
            .transpose()
    }

    fn hash(&self, column: &str) -> Result<[u8; 32], sqlx::Error> {
        hash(column, &self.try_get::<Vec<u8>, _>(column)?)
    }

    fn optional_hash(&self, column: &str) -> Result<Option<[u8; 32]>, sqlx::Error> {
        self.try_get::<Option<Vec<u8>>, _>(column)?
            .map(|bytes| hash(column, &bytes))
            .transpose()
    }

    fn parsed<T>(
        &self,
        column: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, sqlx::Error> {
        parse(self.try_get(column)?).ok_or_else(|| undecodable(column, "not a known value"))
    }

    fn optional_parsed<T>(
        &self,
        column: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, sqlx::Error> {
        self.try_get::<Option<&str>, _>(column)?
            .map(|text| parse(text).ok_or_else(|| undecodable(column, "not a known value")))
            .transpose()
    }

    fn json(&self, column: &str) -> Result<Value, sqlx::Error> {
        json(column, self.try_get(column)?)
    }
}

pub(super) fn amount(column: &str, micros: i64) -> Result<Amount, sqlx::Error> {
    Amount::from_micros(micros).ok_or_else(|| undecodable(column, "out of range"))
}

pub(super) fn hash(column: &str, bytes: &[u8]) -> Result<[u8; 32], sqlx::Error> {
    bytes
        .try_into()
        .map_err(|_length| undecodable(column, "not 32 bytes"))
}

/// Reads JSON that this platform stored.
pub(super) fn json(column: &str, text: &str) -> Result<Value, sqlx::Error> {
    parse_json(text.as_bytes(), MAX_BODY_DEPTH)
        .map_err(|error| undecodable(column, error))?
        .into_value()
        .map_err(|_faults| undecodable(column, "a number out of range"))
}

/// A time as a parameter.
pub(super) fn at(timestamp: Timestamp) -> OffsetDateTime {
    timestamp.into()
}

/// A number of rows as a parameter of `LIMIT`.
pub(super) fn limit(rows: u32) -> i64 {
    i64::from(rows)
}

/// One column of many rows, as an array parameter.
pub(super) fn column<'r, R, T>(rows: &'r [R], of: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

/// The same for a column that few rows have, or none: then the array is empty, which costs nothing, and
/// `unnest` fills it up with NULL beside longer ones.
pub(super) fn sparse<'r, R, T>(rows: &'r [R], of: impl Fn(&'r R) -> Option<T>) -> Vec<Option<T>> {
    if rows.iter().all(|row| of(row).is_none()) {
        return Vec::new();
    }
    column(rows, of)
}
