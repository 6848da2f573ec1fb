//! Developers' data: `{_id: "<namespace>/<key>", namespace, key, value, version, expires_micros, expires_at,
//! updated_micros}`.
//!
//! Names hold no `/`, so the id is unambiguous, and a namespace is a range of ids, ordered by key.

use async_trait::async_trait;
use mongodb::Collection;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::Error as DriverError;

use super::convert::{date_not_before, to_bson, to_json};
use super::{Attempt, MongoDb, dev_data_of, failure};
use crate::clock::Timestamp;
use crate::documents::{DevDataEntry, DevDataStore, DevDataWrite, Error, Expected, versions};
use crate::error::{StoreError, StoreKind};
use crate::ledger::Page;

/// How often a compare-and-set looks again after it lost to another writer. Only a key that is written
/// without pause loses so often.
const ROUNDS: usize = 16;

/// Above every character of a name.
const AFTER_ANY: char = '~';

/// What a compare-and-set came to, when the store answered.
enum Outcome<T> {
    Done(T),
    Mismatch(Option<i64>),
}

impl<T> Outcome<T> {
    fn into_result(self) -> Result<T, Error> {
        match self {
            Self::Done(value) => Ok(value),
            Self::Mismatch(current) => Err(Error::VersionMismatch { current }),
        }
    }
}

#[async_trait]
impl DevDataStore for MongoDb {
    async fn get(
        &self,
        namespace: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<DevDataEntry>, StoreError> {
        let id = id(namespace, key);
        let found = self
            .call(move |database, _attempt| async move {
                dev_data_of(&database)
                    .find_one(doc! {"_id": id})
                    .await
                    .map_err(|error| failure::of_read(&error))
            })
            .await?;
        let entry = found.map(entry).transpose()?;
        Ok(entry.filter(|entry| is_live(entry, now)))
    }

    async fn put(&self, write: &DevDataWrite) -> Result<(DevDataEntry, bool), Error> {
        let write = write.clone();
        let value = to_bson(&write.value)
            .map_err(|error| StoreError::unexpected(StoreKind::Documents, error))?;
        self.call(move |database, attempt| async move {
            put(&dev_data_of(&database), &attempt, &write, value).await
        })
        .await?
        .into_result()
    }

    async fn delete(
        &self,
        namespace: &str,
        key: &str,
        expected: Expected,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let id = id(namespace, key);
        self.call(move |database, attempt| async move {
            delete(&dev_data_of(&database), &attempt, &id, expected, now).await
        })
        .await?
        .into_result()
    }

    async fn list(
        &self,
        namespace: &str,
        prefix: &str,
        page: &Page<String>,
        now: Timestamp,
    ) -> Result<Vec<DevDataEntry>, StoreError> {
        let start = id(namespace, prefix);
        let end = format!("{start}{AFTER_ANY}");
        let mut range = doc! {"$gte": start, "$lt": end};
        if let Some(after) = &page.after {
            range.insert("$gt", id(namespace, after));
        }
        let filter = doc! {
            "_id": range,
            "$or": [{"expires_micros": Bson::Null}, {"expires_micros": {"$gt": now.micros()}}],
        };
        let limit = i64::from(page.limit);
        let found = self
            .call(move |database, _attempt| async move {
                collect(&dev_data_of(&database), filter, doc! {"_id": 1}, limit)
                    .await
                    .map_err(|error| failure::of_read(&error))
            })
            .await?;
        found.into_iter().map(entry).collect()
    }

    async fn purge(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.call(move |database, attempt| async move {
            purge(&dev_data_of(&database), &attempt, now, limit).await
        })
        .await
    }
}

async fn put(
    collection: &Collection<Document>,
    attempt: &Attempt,
    write: &DevDataWrite,
    value: Bson,
) -> Result<Outcome<(DevDataEntry, bool)>, StoreError> {
    let id = id(&write.namespace, &write.key);
    for _round in 0..ROUNDS {
        let there = read(collection, &id).await?;
        let live = there.as_ref().filter(|entry| is_live(entry, write.now));
        let current = live.map(|entry| entry.version);
        if !versions::holds(write.expected, current) {
            return Ok(Outcome::Mismatch(current));
        }
        let written = DevDataEntry {
            namespace: write.namespace.clone(),
            key: write.key.clone(),
            value: write.value.clone(),
            version: versions::next_entry(current, write.now),
            expires_at: write.expires_at,
            updated_at: write.now,
        };
        let document = document(&id, &written, value.clone());
        attempt.sending()?;
        let done = match &there {
            Some(there) => collection
                .replace_one(exactly(&id, there), document)
                .await
                .map(|replaced| replaced.matched_count > 0),
            None => collection.insert_one(document).await.map(|_inserted| true),
        };
        match done {
            Ok(true) => return Ok(Outcome::Done((written, live.is_none()))),
            Ok(false) => {}
            Err(error) if failure::is_duplicate_key(&error) => {}
            Err(error) => return Err(failure::of_write(&error)),
        }
    }
    Err(contended())
}

async fn delete(
    collection: &Collection<Document>,
    attempt: &Attempt,
    id: &str,
    expected: Expected,
    now: Timestamp,
) -> Result<Outcome<bool>, StoreError> {
    for _round in 0..ROUNDS {
        let there = read(collection, id).await?;
        let live = there.as_ref().filter(|entry| is_live(entry, now));
        let current = live.map(|entry| entry.version);
        if !versions::holds(expected, current) {
            return Ok(Outcome::Mismatch(current));
        }
        let Some(live) = live else {
            return Ok(Outcome::Done(false));
        };
        attempt.sending()?;
        let deleted = collection
            .delete_one(exactly(id, live))
            .await
            .map_err(|error| failure::of_write(&error))?;
        if deleted.deleted_count > 0 {
            return Ok(Outcome::Done(true));
        }
    }
    Err(contended())
}

fn contended() -> StoreError {
    StoreError::Overloaded {
        store: StoreKind::Documents,
        reason: "others kept changing the entry".to_owned(),
        retry_after: super::OVERLOAD_RETRY,
    }
}

fn is_live(entry: &DevDataEntry, now: Timestamp) -> bool {
    entry.expires_at.is_none_or(|expires_at| expires_at > now)
}

/// The filter that finds the entry only as it was read. A key that was deleted and made again counts
/// from 1 once more; the time of writing tells it apart.
fn exactly(id: &str, entry: &DevDataEntry) -> Document {
    doc! {"_id": id, "version": entry.version, "updated_micros": entry.updated_at.micros()}
}

async fn read(
    collection: &Collection<Document>,
    id: &str,
) -> Result<Option<DevDataEntry>, StoreError> {
    collection
        .find_one(doc! {"_id": id})
        .await
        .map_err(|error| failure::of_read(&error))?
        .map(entry)
        .transpose()
}

fn id(namespace: &str, key: &str) -> String {
    format!("{namespace}/{key}")
}

fn document(id: &str, entry: &DevDataEntry, value: Bson) -> Document {
    doc! {
        "_id": id,
        "namespace": &entry.namespace,
        "key": &entry.key,
        "value": value,
        "version": entry.version,
        "expires_micros": entry.expires_at.map(Timestamp::micros),
        "expires_at": entry.expires_at.map(date_not_before),
        "updated_micros": entry.updated_at.micros(),
    }
}

fn entry(mut document: Document) -> Result<DevDataEntry, StoreError> {
    let damaged = |field: &str| {
        StoreError::unexpected(
            StoreKind::Documents,
            format!("an entry of dev_data has no {field}"),
        )
    };
    let text = |field: &str| {
        document
            .get_str(field)
            .map(str::to_owned)
            .map_err(|_absent| damaged(field))
    };
    let (namespace, key) = (text("namespace")?, text("key")?);
    let version = document
        .get_i64("version")
        .map_err(|_absent| damaged("version"))?;
    let updated = document
        .get_i64("updated_micros")
        .map_err(|_absent| damaged("updated_micros"))?;
    let expires = document.get_i64("expires_micros").ok();
    let value = document.remove("value").ok_or_else(|| damaged("value"))?;
    Ok(DevDataEntry {
        namespace,
        key,
        value: to_json(value),
        version,
        expires_at: expires.map(Timestamp::from_micros),
        updated_at: Timestamp::from_micros(updated),
    })
}

/// One bounded page.
pub(super) async fn collect(
    collection: &Collection<Document>,
    filter: Document,
    order: Document,
    limit: i64,
) -> Result<Vec<Document>, DriverError> {
    let mut cursor = collection.find(filter).sort(order).limit(limit).await?;
    let mut documents = Vec::new();
    while cursor.advance().await? {
        documents.push(cursor.deserialize_current()?);
    }
    Ok(documents)
}

/// Deletes what has expired by the exact time, found by the date that the server may have an index on.
pub(super) async fn purge(
    collection: &Collection<Document>,
    attempt: &Attempt,
    now: Timestamp,
    limit: u32,
) -> Result<u64, StoreError> {
    let expired = doc! {
        "expires_at": {"$lte": date_not_before(now)},
        "expires_micros": {"$lte": now.micros()},
    };
    let found = async {
        let mut cursor = collection
            .find(expired.clone())
            .projection(doc! {"_id": 1})
            .limit(i64::from(limit.max(1)))
            .await?;
        let mut ids = Vec::new();
        while cursor.advance().await? {
            ids.extend(cursor.deserialize_current()?.remove("_id"));
        }
        Ok::<_, DriverError>(ids)
    };
    let ids = found.await.map_err(|error| failure::of_read(&error))?;
    if ids.is_empty() {
        return Ok(0);
    }
    attempt.sending()?;
    // The time once more: an entry may have been written anew since.
    let mut these = expired;
    these.insert("_id", doc! {"$in": ids});
    let deleted = collection
        .delete_many(these)
        .await
        .map_err(|error| failure::of_write(&error))?;
    Ok(deleted.deleted_count)
}
