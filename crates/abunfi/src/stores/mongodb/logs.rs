//! The append-only log: `{_id: "<uuid>", at_micros, level, target, message, folded, fields, request_id,
//! expires_micros, expires_at}`. The id as text sorts like the UUID; the level is a number, so that "this
//! and above" is a range.

use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use uuid::Uuid;

use super::convert::{date_not_before, to_bson, to_json};
use super::{MongoDb, dev_data, failure, logs_of};
use crate::clock::Timestamp;
use crate::documents::{LogEntry, LogFilter, LogLevel, LogStore};
use crate::error::{StoreError, StoreKind};
use crate::ledger::Page;

#[async_trait]
impl LogStore for MongoDb {
    async fn append(&self, entries: &[LogEntry], expires_at: Timestamp) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        let documents = entries
            .iter()
            .map(|entry| document(entry, expires_at))
            .collect::<Result<Vec<_>, _>>()?;
        self.call(move |database, attempt| async move {
            attempt.sending()?;
            let inserted = logs_of(&database)
                .insert_many(documents)
                .ordered(false)
                .await;
            match inserted {
                Ok(_inserted) => Ok(()),
                // Unordered: all others are in, and what was there already is left alone.
                Err(error) if failure::is_duplicate_key(&error) => Ok(()),
                Err(error) => Err(failure::of_write(&error)),
            }
        })
        .await
    }

    async fn query(
        &self,
        filter: &LogFilter,
        page: &Page<(Timestamp, Uuid)>,
        now: Timestamp,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let wanted = wanted(filter, page.after, now);
        let limit = i64::from(page.limit);
        let found = self
            .call(move |database, _attempt| async move {
                let newest_first = doc! {"at_micros": -1, "_id": -1};
                dev_data::collect(&logs_of(&database), wanted, newest_first, limit)
                    .await
                    .map_err(|error| failure::of_read(&error))
            })
            .await?;
        found.into_iter().map(entry).collect()
    }

    async fn purge(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.call(move |database, attempt| async move {
            dev_data::purge(&logs_of(&database), &attempt, now, limit).await
        })
        .await
    }
}

fn wanted(filter: &LogFilter, after: Option<(Timestamp, Uuid)>, now: Timestamp) -> Document {
    let mut wanted = doc! {"expires_micros": {"$gt": now.micros()}};
    if let Some(level) = filter.level {
        wanted.insert("level", doc! {"$gte": i32::from(level.rank())});
    }
    if let Some(target) = &filter.target {
        wanted.insert("target", target);
    }
    if let Some(request_id) = &filter.request_id {
        wanted.insert("request_id", request_id);
    }
    let mut span = Document::new();
    if let Some(from) = filter.from {
        span.insert("$gte", from.micros());
    }
    if let Some(to) = filter.to {
        span.insert("$lt", to.micros());
    }
    if !span.is_empty() {
        wanted.insert("at_micros", span);
    }
    if let Some(contains) = &filter.contains {
        wanted.insert(
            "message",
            doc! {"$regex": literally(contains), "$options": "i"},
        );
    }
    if let Some((at, id)) = after {
        let at = at.micros();
        let earlier = doc! {"at_micros": {"$lt": at}};
        let same_time = doc! {"at_micros": at, "_id": {"$lt": id.to_string()}};
        wanted.insert("$or", [earlier, same_time]);
    }
    wanted
}

/// A pattern that matches `text` and nothing else: every ASCII character that could mean something is
/// escaped, which PCRE (MongoDB) and RE2 both read as the character itself.
fn literally(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_ascii_punctuation() {
            pattern.push('\\');
        }
        pattern.push(char);
    }
    pattern
}

/// The form in which messages are searched: folded here, as on every backend, and not by the server.
fn folded(text: &str) -> String {
    text.to_lowercase()
}

fn document(entry: &LogEntry, expires_at: Timestamp) -> Result<Document, StoreError> {
    let fields = to_bson(&entry.fields)
        .map_err(|error| StoreError::unexpected(StoreKind::Documents, error))?;
    Ok(doc! {
        "_id": entry.id.to_string(),
        "at_micros": entry.at.micros(),
        "level": i32::from(entry.level.rank()),
        "target": &entry.target,
        "message": &entry.message,
        "folded": folded(&entry.message),
        "fields": fields,
        "request_id": entry.request_id.as_deref(),
        "expires_micros": expires_at.micros(),
        "expires_at": date_not_before(expires_at),
    })
}

fn entry(mut document: Document) -> Result<LogEntry, StoreError> {
    read(&mut document)
        .ok_or_else(|| StoreError::unexpected(StoreKind::Documents, "a damaged log entry"))
}

fn read(document: &mut Document) -> Option<LogEntry> {
    Some(LogEntry {
        id: document.get_str("_id").ok()?.parse().ok()?,
        at: Timestamp::from_micros(document.get_i64("at_micros").ok()?),
        level: LogLevel::from_rank(document.get_i32("level").ok()?.try_into().ok()?)?,
        target: document.get_str("target").ok()?.to_owned(),
        message: document.get_str("message").ok()?.to_owned(),
        request_id: document.get_str("request_id").ok().map(str::to_owned),
        fields: to_json(document.remove("fields")?),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_searched_for_is_never_a_pattern() {
        assert_eq!(literally("a.b*(c)\\d é"), r"a\.b\*\(c\)\\d é");
        assert_eq!(literally("[x]{2}|^$"), r"\[x\]\{2\}\|\^\$");
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() -> Result<(), StoreError> {
        for level in LogLevel::ALL {
            let written = LogEntry {
                id: Uuid::from_u128(7),
                at: Timestamp::from_micros(1_790_000_000_123_457),
                level: *level,
                target: "abunfi::x".to_owned(),
                message: "did \"it\"".to_owned(),
                fields: json!({"n": 1, "f": 1.0}),
                request_id: Some("r-1".to_owned()),
            };
            assert_eq!(entry(document(&written, written.at)?)?, written);
        }
        Ok(())
    }
}
