//! Indexes and capabilities: seen to when the server is first reached, and until it succeeds.

use std::sync::{Arc, Weak};
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Collection, Database, IndexModel};
use serde::Serialize;

use super::{Inner, MongoDb, dev_data_of, failure, logs_of};
use crate::error::StoreError;

/// The pause after the first attempt that failed; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// So an hour's absence costs few attempts, and the return is noticed soon enough: nothing but speed and
/// statistics waits for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long one attempt may take: an index over what an existing collection holds is not built in the time
/// that a request has.
const SETUP_DEADLINE: Duration = Duration::from_secs(300);

/// What was found out about the server. None of it is needed: what is missing is done another way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// As the server says.
    pub version: String,
    /// It is FerretDB, which answers MongoDB's protocol over PostgreSQL: for tests.
    pub stand_in: bool,
    /// The server expires documents by itself, beside the platform's own sweep.
    pub ttl_indexes: bool,
}

/// Looks for the server in the background until it is reached, or the store is gone.
pub(super) fn spawn(inner: &Arc<Inner>) {
    let inner = Arc::downgrade(inner);
    tokio::spawn(async move {
        let mut pause = FIRST_PAUSE;
        while let Some(store) = Weak::upgrade(&inner).map(|inner| MongoDb { inner }) {
            match store.set_up().await {
                Ok(()) => return,
                Err(error) => {
                    tracing::debug!(%error, "the document store is not set up yet");
                }
            }
            drop(store);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    });
}

impl MongoDb {
    async fn set_up(&self) -> Result<(), StoreError> {
        let capabilities = self
            .run(SETUP_DEADLINE, |database, attempt| async move {
                let build = database
                    .run_command(doc! {"buildInfo": 1})
                    .await
                    .map_err(|error| failure::of_read(&error))?;
                attempt.sending()?;
                let logs = logs_of(&database);
                create_index(&logs, doc! {"at_micros": -1, "_id": -1}).await?;
                create_index(&logs, doc! {"request_id": 1}).await?;
                // Both are tried, so that both exist where one can.
                let expiring_logs = expires(&logs).await?;
                let expiring_data = expires(&dev_data_of(&database)).await?;
                Ok(Capabilities {
                    version: version(&build),
                    stand_in: build.keys().any(|key| key.starts_with("ferretdb")),
                    ttl_indexes: expiring_logs && expiring_data,
                })
            })
            .await?;
        tracing::info!(
            version = %capabilities.version,
            stand_in = capabilities.stand_in,
            ttl_indexes = capabilities.ttl_indexes,
            "the document store is reached"
        );
        // The first finding stays: a second one could only come from a second task, and there is one.
        self.inner.capabilities.set(capabilities).ok();
        Ok(())
    }
}

fn version(build: &Document) -> String {
    build.get_str("version").unwrap_or("unknown").to_owned()
}

/// An index only makes things faster: a server that refuses it (the user may not) is used without.
async fn create_index(collection: &Collection<Document>, keys: Document) -> Result<(), StoreError> {
    let wanted = IndexModel::builder().keys(keys).build();
    match collection.create_index(wanted).await {
        Ok(_created) => Ok(()),
        Err(error) if failure::is_refusal(&error) => {
            let reason = failure::of_write(&error);
            tracing::warn!(collection = collection.name(), %reason, "an index is refused");
            Ok(())
        }
        Err(error) => Err(failure::of_write(&error)),
    }
}

/// Asks the server to expire documents by itself; whether it can. Where it cannot, the same field gets
/// a plain index for the sweep.
async fn expires(collection: &Collection<Document>) -> Result<bool, StoreError> {
    let keys = doc! {"expires_at": 1};
    let at_once = IndexOptions::builder().expire_after(Duration::ZERO).build();
    let wanted = IndexModel::builder()
        .keys(keys.clone())
        .options(at_once)
        .build();
    match collection.create_index(wanted).await {
        Ok(_created) => Ok(true),
        Err(error) if failure::is_refusal(&error) => {
            create_index(collection, keys).await?;
            Ok(false)
        }
        Err(error) => Err(failure::of_write(&error)),
    }
}

/// The statistics that only this database has; see [`super::health`].
pub(super) async fn figures(database: &Database) -> Result<Figures, StoreError> {
    let run = |command: Document| {
        let database = database.clone();
        async move {
            database
                .run_command(command)
                .await
                .map_err(|error| failure::of_read(&error))
        }
    };
    let sizes = run(doc! {"dbStats": 1}).await?;
    // A server may refuse this one to users who are not operators; the rest is told all the same.
    let connections = match database.run_command(doc! {"serverStatus": 1}).await {
        Ok(status) => status
            .get_document("connections")
            .ok()
            .and_then(|connections| number(connections, "current")),
        Err(error) if failure::is_refusal(&error) => None,
        Err(error) => return Err(failure::of_read(&error)),
    };
    Ok(Figures {
        connections,
        collections: number(&sizes, "collections"),
        data_bytes: number(&sizes, "dataSize"),
        storage_bytes: number(&sizes, "storageSize"),
        index_bytes: number(&sizes, "indexSize"),
    })
}

/// From the server's own statistics; absent where it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) connections: Option<i64>,
    pub(super) collections: Option<i64>,
    pub(super) data_bytes: Option<i64>,
    pub(super) storage_bytes: Option<i64>,
    pub(super) index_bytes: Option<i64>,
}

/// A count, which servers send as whatever number it fits.
fn number(document: &Document, field: &str) -> Option<i64> {
    use mongodb::bson::Bson;
    match document.get(field)? {
        Bson::Int32(value) => Some(i64::from(*value)),
        Bson::Int64(value) => Some(*value),
        // Its canonical text of a whole number ends in `.0`, which is all that is cut here.
        Bson::Double(value) => format!("{value:.0}").parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_every_kind_of_number() {
        let document = doc! {"a": 1_i32, "b": 2_i64, "c": 3e9, "d": "4", "e": f64::NAN};
        let read = |field| number(&document, field);
        assert_eq!(read("a"), Some(1));
        assert_eq!(read("b"), Some(2));
        assert_eq!(read("c"), Some(3_000_000_000));
        assert_eq!((read("d"), read("e"), read("f")), (None, None, None));
    }
}
