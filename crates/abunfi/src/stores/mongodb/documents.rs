//! The content of user-owned documents: one collection for each kind.
//!
//! `{_id: "<user id>", _v: <version>, _h: "<hash>", _deleted: <bool>, doc: {…}}`. The id is the user's, as
//! text: it is what an operator types, sorts like the UUID, and shards as well. A document without `_v`
//! is not this platform's: its fields are its content, as version 0. The original layout, a collection
//! `users` with `preferences` inside, is read as version 0 too, where nothing newer is.

use async_trait::async_trait;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, doc};
use mongodb::options::ReturnDocument;
use mongodb::{Collection, Database};

use super::convert::{document_to_json, to_bson, to_json};
use super::{Attempt, MongoDb, failure};
use crate::documents::canonical::content_hash;
use crate::documents::parse::{MAX_BODY_DEPTH, parse_json};
use crate::documents::{
    Applied, ContentStore, DocumentKey, DocumentKind, StoredDocument, versions,
};
use crate::error::{StoreError, StoreKind};
use crate::ids::UserId;

/// What this platform adds to a document.
const MARKS: [&str; 4] = ["_id", "_v", "_h", "_deleted"];

/// How often an apply looks again when others write the same document under its hands. Each round is
/// lost to a writer who got through, so a few are enough; the relay repeats what fails.
const APPLY_ROUNDS: usize = 4;

#[async_trait]
impl ContentStore for MongoDb {
    async fn read(&self, user_id: UserId) -> Result<Vec<StoredDocument>, StoreError> {
        self.call(move |database, _attempt| async move {
            let (preferences, metadata) = tokio::join!(
                find(&database, user_id, DocumentKind::Preferences),
                find(&database, user_id, DocumentKind::Metadata),
            );
            let preferences = match preferences? {
                Some(preferences) => Some(preferences),
                None => legacy_preferences(&database, &[user_id])
                    .await?
                    .pop()
                    .map(|(_user, preferences)| preferences),
            };
            Ok([preferences, metadata?].into_iter().flatten().collect())
        })
        .await
    }

    async fn read_many(
        &self,
        user_ids: &[UserId],
    ) -> Result<Vec<(UserId, StoredDocument)>, StoreError> {
        let user_ids = user_ids.to_vec();
        self.call(move |database, _attempt| async move {
            let (preferences, metadata) = tokio::join!(
                find_many(&database, &user_ids, DocumentKind::Preferences),
                find_many(&database, &user_ids, DocumentKind::Metadata),
            );
            let mut found = preferences?;
            let missing: Vec<UserId> = user_ids
                .into_iter()
                .filter(|id| !found.iter().any(|(user_id, _)| user_id == id))
                .collect();
            if !missing.is_empty() {
                found.extend(legacy_preferences(&database, &missing).await?);
            }
            found.extend(metadata?);
            Ok(found)
        })
        .await
    }

    async fn adopt(&self, key: DocumentKey) -> Result<Option<StoredDocument>, StoreError> {
        let adopted = self
            .call(move |database, attempt| async move {
                attempt.sending()?;
                let unversioned = doc! {"_id": key.user_id.to_string(), "_v": {"$exists": false}};
                // Read and marked in one step: what is written to it later without the mark is seen
                // as foreign again.
                collection(&database, key.kind)
                    .find_one_and_update(unversioned, doc! {"$set": {"_v": 0_i64}})
                    .return_document(ReturnDocument::After)
                    .await
                    .map_err(|error| failure::of_write(&error))
            })
            .await?;
        if let Some(document) = adopted {
            return Ok(Some(stored(key.kind, document)));
        }
        let documents = self.read(key.user_id).await?;
        Ok(documents
            .into_iter()
            .find(|document| document.kind == key.kind))
    }

    async fn apply(
        &self,
        key: DocumentKey,
        version: i64,
        hash: [u8; 32],
        content: Option<&str>,
    ) -> Result<Applied, StoreError> {
        let replacement = replacement(key, version, hash, content)?;
        self.call(move |database, attempt| async move {
            let collection = collection(&database, key.kind);
            apply(&collection, &attempt, key, version, hash, replacement).await
        })
        .await
    }
}

fn collection(database: &Database, kind: DocumentKind) -> Collection<Document> {
    database.collection(kind.as_str())
}

/// The whole document as it will be.
fn replacement(
    key: DocumentKey,
    version: i64,
    hash: [u8; 32],
    content: Option<&str>,
) -> Result<Document, StoreError> {
    let mut document = doc! {
        "_id": key.user_id.to_string(),
        "_v": version,
        "_h": hex::encode(hash),
        "_deleted": content.is_none(),
    };
    if let Some(content) = content {
        let value = parse_json(content.as_bytes(), MAX_BODY_DEPTH)
            .map_err(|error| StoreError::unexpected(StoreKind::Documents, error))?
            .into_value()
            .map_err(|_faults| {
                StoreError::unexpected(StoreKind::Documents, "a number out of range in an image")
            })?;
        let value =
            to_bson(&value).map_err(|error| StoreError::unexpected(StoreKind::Documents, error))?;
        document.insert("doc", value);
    }
    Ok(document)
}

/// Replaces what is older. A duplicate key does not prove that something newer is there: two upserts can
/// race (MongoDB then refuses one of them whatever its version), and a foreign document has no `_v`. So
/// the same is tried without upsert, and then looked at.
async fn apply(
    collection: &Collection<Document>,
    attempt: &Attempt,
    key: DocumentKey,
    version: i64,
    hash: [u8; 32],
    replacement: Document,
) -> Result<Applied, StoreError> {
    let id = key.user_id.to_string();
    let older = doc! {"_id": &id, "_v": {"$lt": version}};
    for _round in 0..APPLY_ROUNDS {
        attempt.sending()?;
        let upserted = collection
            .replace_one(older.clone(), replacement.clone())
            .upsert(true)
            .await;
        match upserted {
            Ok(_written) => return Ok(Applied::Done),
            Err(error) if failure::is_duplicate_key(&error) => {}
            Err(error) => return Err(failure::of_write(&error)),
        }
        let replaced = collection
            .replace_one(older.clone(), replacement.clone())
            .await
            .map_err(|error| failure::of_write(&error))?;
        if replaced.matched_count > 0 {
            return Ok(Applied::Done);
        }
        let found = collection
            .find_one(doc! {"_id": &id})
            .await
            .map_err(|error| failure::of_write(&error))?;
        match found.map(|found| judge(key.kind, found, version, hash)) {
            Some(Found::Same) => {
                // Its first writer may have died before a majority had it. Writing it again waits for
                // that, and changes nothing.
                let same = doc! {"_id": &id, "_v": version};
                let confirmed = collection
                    .replace_one(same, replacement.clone())
                    .await
                    .map_err(|error| failure::of_write(&error))?;
                if confirmed.matched_count > 0 {
                    return Ok(Applied::Done);
                }
            }
            Some(Found::Newer(found)) => return Ok(Applied::Newer(found)),
            Some(Found::Foreign) => return Ok(Applied::Foreign),
            Some(Found::Older) | None => {}
        }
    }
    Err(StoreError::unavailable(
        StoreKind::Documents,
        "others kept changing the document",
    ))
}

/// What stands where an apply could not write.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Same,
    Newer(i64),
    Older,
    Foreign,
}

fn judge(kind: DocumentKind, found: Document, version: i64, hash: [u8; 32]) -> Found {
    let Some(found_version) = version_of(&found) else {
        return Found::Foreign;
    };
    if found_version > version {
        Found::Newer(found_version)
    } else if found_version < version {
        Found::Older
    } else if stored(kind, found).hash == hash {
        Found::Same
    } else {
        Found::Foreign
    }
}

/// The version that this platform gave it.
fn version_of(document: &Document) -> Option<i64> {
    match document.get("_v") {
        Some(Bson::Int64(version)) => Some(*version),
        Some(Bson::Int32(version)) => Some(i64::from(*version)),
        _ => None,
    }
}

/// What was read, with the hash of what was read.
fn stored(kind: DocumentKind, mut document: Document) -> StoredDocument {
    let version = version_of(&document).unwrap_or(0).max(0);
    if version == 0 {
        for mark in MARKS {
            document.remove(mark);
        }
        return imported(kind, document_to_json(document));
    }
    let deleted = matches!(document.get("_deleted"), Some(Bson::Boolean(true)));
    let value = document
        .remove("doc")
        .map_or(serde_json::Value::Null, to_json);
    let hash = if deleted {
        versions::tombstone_hash()
    } else {
        content_hash(&value)
    };
    StoredDocument {
        kind,
        version,
        hash,
        deleted,
        value,
    }
}

fn imported(kind: DocumentKind, value: serde_json::Value) -> StoredDocument {
    StoredDocument {
        kind,
        version: 0,
        hash: content_hash(&value),
        deleted: false,
        value,
    }
}

async fn find(
    database: &Database,
    user_id: UserId,
    kind: DocumentKind,
) -> Result<Option<StoredDocument>, StoreError> {
    let found = collection(database, kind)
        .find_one(doc! {"_id": user_id.to_string()})
        .await
        .map_err(|error| failure::of_read(&error))?;
    Ok(found.map(|document| stored(kind, document)))
}

async fn find_many(
    database: &Database,
    user_ids: &[UserId],
    kind: DocumentKind,
) -> Result<Vec<(UserId, StoredDocument)>, StoreError> {
    let ids: Vec<String> = user_ids.iter().map(UserId::to_string).collect();
    let found = all(&collection(database, kind), doc! {"_id": {"$in": ids}}).await?;
    Ok(found
        .into_iter()
        .filter_map(|document| {
            let user_id = document.get_str("_id").ok()?.parse().ok()?;
            Some((user_id, stored(kind, document)))
        })
        .collect())
}

/// From the original layout: a collection `users` with `preferences` inside, the id as text or as UUID.
async fn legacy_preferences(
    database: &Database,
    user_ids: &[UserId],
) -> Result<Vec<(UserId, StoredDocument)>, StoreError> {
    let ids: Vec<Bson> = user_ids
        .iter()
        .flat_map(|id| {
            let bytes = id.uuid().as_bytes().to_vec();
            let subtype = BinarySubtype::Uuid;
            [
                Bson::String(id.to_string()),
                Bson::Binary(Binary { subtype, bytes }),
            ]
        })
        .collect();
    let filter = doc! {"_id": {"$in": ids}};
    let found = all(&database.collection("users"), filter).await?;
    Ok(found
        .into_iter()
        .filter_map(|mut document| {
            let user_id = legacy_id(document.get("_id")?)?;
            let preferences = to_json(document.remove("preferences")?);
            Some((user_id, imported(DocumentKind::Preferences, preferences)))
        })
        .collect())
}

fn legacy_id(id: &Bson) -> Option<UserId> {
    match id {
        Bson::String(text) => text.parse().ok(),
        Bson::Binary(Binary { bytes, .. }) => uuid::Uuid::from_slice(bytes).ok().map(UserId::from),
        _ => None,
    }
}

/// All that a filter finds, which the caller has bounded.
async fn all(
    collection: &Collection<Document>,
    filter: Document,
) -> Result<Vec<Document>, StoreError> {
    let found = async {
        let mut cursor = collection.find(filter).await?;
        let mut documents = Vec::new();
        while cursor.advance().await? {
            documents.push(cursor.deserialize_current()?);
        }
        Ok::<_, mongodb::error::Error>(documents)
    };
    found.await.map_err(|error| failure::of_read(&error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use serde_json::json;

    use super::*;
    use crate::documents::NewDocument;

    fn key() -> DocumentKey {
        DocumentKey {
            user_id: "0190a000-0000-7000-8000-000000000001".parse().unwrap(),
            kind: DocumentKind::Metadata,
        }
    }

    fn written(version: i64, value: &serde_json::Value) -> (Document, [u8; 32]) {
        let new = NewDocument::of(value);
        let document = replacement(key(), version, new.hash, Some(&new.canonical)).unwrap();
        (document, new.hash)
    }

    #[test]
    fn what_is_written_is_read_with_its_version_and_hash() {
        let value = json!({"_v": 1, "doc": {"a": [1, 1.0, null]}, "_deleted": true});
        let (document, hash) = written(7, &value);
        let read = stored(DocumentKind::Metadata, document);
        assert_eq!((read.version, read.hash, read.deleted), (7, hash, false));
        assert_eq!(read.value, value);
    }

    #[test]
    fn a_tombstone_is_read_as_one() {
        let nothing = versions::tombstone_hash();
        let document = replacement(key(), 3, nothing, None).unwrap();
        assert!(!document.contains_key("doc"));
        let read = stored(DocumentKind::Metadata, document.clone());
        assert_eq!((read.version, read.deleted, read.hash), (3, true, nothing));
        assert_eq!(judge(key().kind, document, 3, nothing), Found::Same);
    }

    #[test]
    fn a_document_without_a_version_is_foreign_and_its_fields_are_its_content() {
        let foreign = doc! {"_id": "x", "theme": "dark", "n": 1_i32};
        assert_eq!(
            judge(key().kind, foreign.clone(), 1, [0; 32]),
            Found::Foreign
        );
        let read = stored(DocumentKind::Metadata, foreign);
        assert_eq!((read.version, read.deleted), (0, false));
        assert_eq!(read.value, json!({"theme": "dark", "n": 1}));
        assert_eq!(read.hash, content_hash(&read.value));
        for version in [Bson::String("2".to_owned()), Bson::Double(2.0), Bson::Null] {
            let odd = doc! {"_id": "x", "_v": version};
            assert_eq!(judge(key().kind, odd, 1, [0; 32]), Found::Foreign);
        }
    }

    #[test]
    fn done_is_only_what_is_newer_or_the_same() {
        let (document, hash) = written(5, &json!({"a": 1}));
        let judge = |version, hash| judge(key().kind, document.clone(), version, hash);
        assert_eq!(judge(4, [0; 32]), Found::Newer(5));
        assert_eq!(judge(6, hash), Found::Older);
        assert_eq!(judge(5, hash), Found::Same);
        assert_eq!(judge(5, [0; 32]), Found::Foreign);
    }

    #[test]
    fn the_stored_hash_is_not_taken_at_its_word() {
        let (mut document, hash) = written(5, &json!({"a": 1}));
        document.insert("doc", doc! {"a": 2_i64});
        assert_ne!(stored(key().kind, document.clone()).hash, hash);
        assert_eq!(judge(key().kind, document, 5, hash), Found::Foreign);
    }
}
