//! `limit` and `cursor`, and the shape of a list.

use abunfi::cursor::{self, CursorError};
use abunfi::ledger::Page;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::QueryReader;
use crate::error::{Code, Problem, Result};

/// Rows of a page unless the caller says otherwise.
const DEFAULT_LIMIT: u32 = 50;
/// The longest page: what a client can show, and a store read at once.
const MAX_LIMIT: u32 = 200;

/// Which page of a list, bound to the filters of that list.
#[derive(Debug)]
pub(crate) struct Pagination<C> {
    filters: String,
    limit: u32,
    after: Option<C>,
}

impl<C: Serialize + DeserializeOwned> Pagination<C> {
    /// Takes `limit` and `cursor`. `filters` names the list, its owner and every filter: a cursor of
    /// another list is refused.
    pub(crate) fn read(query: &mut QueryReader, filters: String) -> Result<Self> {
        let limit = query.parse("limit", "an integer from 1 to 200", |value| {
            let is_plain = value.bytes().all(|byte| byte.is_ascii_digit());
            let limit = value.parse().ok().filter(|_| is_plain);
            limit.filter(|limit| (1..=MAX_LIMIT).contains(limit))
        })?;
        let after = match query.take("cursor") {
            None => None,
            Some(text) => Some(cursor::decode(&filters, &text).map_err(refuse)?),
        };
        Ok(Self {
            filters,
            limit: limit.unwrap_or(DEFAULT_LIMIT),
            after,
        })
    }

    /// Whether this is the first page.
    pub(crate) fn is_first(&self) -> bool {
        self.after.is_none()
    }

    /// What to ask a service for: one row more than is shown, to know whether there are more.
    pub(crate) fn page(&self) -> Page<C>
    where
        C: Clone,
    {
        Page {
            after: self.after.clone(),
            limit: self.limit + 1,
        }
    }

    /// `{"data": […], "next_cursor": …}` of the rows that the service gave for [`page`](Self::page).
    pub(crate) fn list<T, V: Serialize>(
        &self,
        mut rows: Vec<T>,
        cursor_of: impl FnOnce(&T) -> C,
        show: impl FnMut(T) -> V,
    ) -> Result<Map<String, Value>> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = match rows.last() {
            Some(last) if has_more => {
                Some(cursor::encode(&self.filters, &cursor_of(last)).map_err(Problem::internal)?)
            }
            _ => None,
        };
        let data = rows
            .into_iter()
            .map(show)
            .map(serde_json::to_value)
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(Problem::internal)?;
        let mut list = Map::new();
        list.insert("data".to_owned(), Value::Array(data));
        list.insert("next_cursor".to_owned(), json!(next_cursor));
        Ok(list)
    }
}

fn refuse(error: CursorError) -> Problem {
    match error {
        CursorError::Invalid => Problem::new(
            Code::InvalidCursor,
            "a cursor is what an earlier page gave as next_cursor, unchanged",
        ),
        CursorError::Mismatch => Problem::new(
            Code::CursorMismatch,
            "a cursor goes on with the list, the owner and the filters that it was made for",
        ),
    }
}
