//! Reading rows: the domain's types from columns, by name.

use serde_json::Value;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::error::undecodable;
use crate::clock::Timestamp;
use crate::documents::parse::parse_json;
use crate::money::Amount;

/// Depth to which stored JSON is read: what is written is at most 40 deep (a request's body), with room.
const MAX_STORED_DEPTH: usize = 64;

/// Typed access to a row. Every error names the column.
pub(super) trait Columns {
    fn id<T: From<Uuid>>(&self, column: &str) -> Result<T, sqlx::Error>;
    fn optional_id<T: From<Uuid>>(&self, column: &str) -> Result<Option<T>, sqlx::Error>;
    fn integer(&self, column: &str) -> Result<i64, sqlx::Error>;
    fn optional_integer(&self, column: &str) -> Result<Option<i64>, sqlx::Error>;
    fn flag(&self, column: &str) -> Result<bool, sqlx::Error>;
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

impl Columns for SqliteRow {
    fn id<T: From<Uuid>>(&self, column: &str) -> Result<T, sqlx::Error> {
        self.try_get::<Uuid, _>(column).map(T::from)
    }

    fn optional_id<T: From<Uuid>>(&self, column: &str) -> Result<Option<T>, sqlx::Error> {
        Ok(self.try_get::<Option<Uuid>, _>(column)?.map(T::from))
    }

    fn integer(&self, column: &str) -> Result<i64, sqlx::Error> {
        self.try_get(column)
    }

    fn optional_integer(&self, column: &str) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(column)
    }

    fn flag(&self, column: &str) -> Result<bool, sqlx::Error> {
        self.integer(column).map(|flag| flag != 0)
    }

    fn text(&self, column: &str) -> Result<String, sqlx::Error> {
        self.try_get(column)
    }

    fn optional_text(&self, column: &str) -> Result<Option<String>, sqlx::Error> {
        self.try_get(column)
    }

    fn timestamp(&self, column: &str) -> Result<Timestamp, sqlx::Error> {
        self.integer(column).map(Timestamp::from_micros)
    }

    fn optional_timestamp(&self, column: &str) -> Result<Option<Timestamp>, sqlx::Error> {
        Ok(self.optional_integer(column)?.map(Timestamp::from_micros))
    }

    fn amount(&self, column: &str) -> Result<Amount, sqlx::Error> {
        amount(column, self.integer(column)?)
    }

    fn optional_amount(&self, column: &str) -> Result<Option<Amount>, sqlx::Error> {
        self.optional_integer(column)?
            .map(|micros| amount(column, micros))
            .transpose()
    }

    fn hash(&self, column: &str) -> Result<[u8; 32], sqlx::Error> {
        hash(column, self.try_get(column)?)
    }

    fn optional_hash(&self, column: &str) -> Result<Option<[u8; 32]>, sqlx::Error> {
        self.try_get::<Option<&[u8]>, _>(column)?
            .map(|bytes| hash(column, bytes))
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

fn hash(column: &str, bytes: &[u8]) -> Result<[u8; 32], sqlx::Error> {
    bytes
        .try_into()
        .map_err(|_length| undecodable(column, "not 32 bytes"))
}

/// Reads JSON that this platform stored.
pub(super) fn json(column: &str, text: &str) -> Result<Value, sqlx::Error> {
    parse_json(text.as_bytes(), MAX_STORED_DEPTH)
        .map_err(|error| undecodable(column, error))?
        .into_value()
        .map_err(|_faults| undecodable(column, "a number out of range"))
}

/// A number that fits the domain's smaller type.
pub(super) fn small<T: TryFrom<i64>>(column: &str, value: i64) -> Result<T, sqlx::Error> {
    T::try_from(value).map_err(|_range| undecodable(column, "out of range"))
}

/// What is left of a limit over several statements, as a parameter of `LIMIT`.
pub(super) fn left(limit: u32, done: u64) -> i64 {
    i64::from(limit)
        .saturating_sub(i64::try_from(done).unwrap_or(i64::MAX))
        .max(0)
}

/// Many rows as one parameter, a JSON array of arrays: `… SELECT value ->> 0, … FROM json_each(?)`, so that
/// a batch costs one statement for each table, and one that stays prepared. Bytes go as [`hex`].
pub(super) fn row_list<T>(
    rows: impl IntoIterator<Item = T>,
    row: impl FnMut(T) -> Value,
) -> String {
    Value::Array(rows.into_iter().map(row).collect()).to_string()
}

/// Bytes inside a [`row_list`]; `unhex` takes them back.
pub(super) fn hex(bytes: impl AsRef<[u8]>) -> String {
    ::hex::encode(bytes)
}

/// The place before the first row of a list in descending order by time and id, or after the cursor's row.
pub(super) fn descending_from(after: Option<(Timestamp, Uuid)>) -> (i64, Uuid) {
    after.map_or((i64::MAX, Uuid::max()), |(at, id)| (at.micros(), id))
}
