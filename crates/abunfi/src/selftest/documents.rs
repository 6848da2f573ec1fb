//! The document store, by developers' data under a random name, which is removed at the end.

use std::time::Duration;

use serde_json::{Value, json};

use super::Part;
use super::runner::{Because, Found, PartRun, ensure, skip};
use super::sample::random_name;
use crate::DatabaseService;
use crate::documents::{Error, Expected, LogFilter};
use crate::ledger::Page;

const NAMESPACE: &str = "abunfi.selftest";
/// Goes by itself if this process is killed before it removes it.
const LIFE: Duration = Duration::from_secs(600);

pub(super) async fn run(platform: &DatabaseService) -> Part {
    let mut part = PartRun::new("document_operations");
    let key = random_name();
    part.check(
        "a document is read back exactly as it was written",
        round_trip(platform, &key),
    )
    .await;
    part.check(
        "a merge patch changes what it names and nothing else",
        patches(platform, &key),
    )
    .await;
    part.check(
        "a write that expects another version is refused",
        compares(platform, &key),
    )
    .await;
    part.check(
        "documents are listed by the beginning of their key",
        lists(platform, &key),
    )
    .await;
    part.check(
        "what no backend could hold is refused",
        refuses(platform, &key),
    )
    .await;
    part.check(
        "a document that is deleted is gone",
        deletes(platform, &key),
    )
    .await;
    part.check("log lines can be read", reads_logs(platform))
        .await;
    part.check("log lines can be written", async {
        skip("lines cannot be removed again, so none is written")
    })
    .await;
    part.done()
}

/// What stores are known to change: large integers, `1.0`, the order of keys, other scripts.
fn tricky() -> Value {
    json!({
        "z": 1, "a": [true, null, 1.5, 9_007_199_254_740_993_i64, -1],
        "text": "đồng · ₫ · \u{1F4B0}", "nested": {"b": {"c": []}, "a": {}}
    })
}

async fn round_trip(platform: &DatabaseService, key: &str) -> Found {
    let documents = platform.documents();
    let (_, created) = documents
        .put_dev_data(NAMESPACE, key, tricky(), Some(LIFE), Expected::Absent)
        .await?;
    ensure(created, "it was there already")?;
    let entry = documents.dev_data(NAMESPACE, key).await?;
    let entry = entry.ok_or(Because::Failed("it is not there".to_owned()))?;
    ensure(entry.value == tricky(), "it is another one")?;
    ensure(entry.expires_at.is_some(), "its time to live was lost")
}

async fn patches(platform: &DatabaseService, key: &str) -> Found {
    let patch = json!({"z": null, "new": 2, "nested": {"a": 3}});
    let entry = platform
        .documents()
        .patch_dev_data(NAMESPACE, key, patch, None, Expected::Anything)
        .await?;
    let mut wanted = tricky();
    if let Value::Object(fields) = &mut wanted {
        fields.remove("z");
        fields.insert("new".to_owned(), json!(2));
        fields.insert("nested".to_owned(), json!({"b": {"c": []}, "a": 3}));
    }
    ensure(entry.value == wanted, "the result is another one")
}

async fn compares(platform: &DatabaseService, key: &str) -> Found {
    let documents = platform.documents();
    let entry = documents.dev_data(NAMESPACE, key).await?;
    let entry = entry.ok_or(Because::Failed("it is not there".to_owned()))?;
    let expected = Expected::Version(entry.version.saturating_add(1));
    match documents
        .put_dev_data(NAMESPACE, key, json!({}), Some(LIFE), expected)
        .await
    {
        Err(Error::VersionMismatch { .. }) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => ensure(false, "it was accepted"),
    }
}

async fn lists(platform: &DatabaseService, key: &str) -> Found {
    let page = Page {
        after: None,
        limit: 2,
    };
    let found = platform
        .documents()
        .list_dev_data(NAMESPACE, key, &page)
        .await?;
    let keys: Vec<_> = found.iter().map(|entry| entry.key.as_str()).collect();
    ensure(keys == [key], format!("{} are listed", keys.len()))
}

async fn refuses(platform: &DatabaseService, key: &str) -> Found {
    let key = format!("{key}.refused");
    let written = platform
        .documents()
        .put_dev_data(
            NAMESPACE,
            &key,
            json!({"$set": 1}),
            Some(LIFE),
            Expected::Anything,
        )
        .await;
    match written {
        Err(Error::Invalid(_)) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => {
            platform
                .documents()
                .delete_dev_data(NAMESPACE, &key, Expected::Anything)
                .await?;
            ensure(false, "a key that starts with $ was accepted")
        }
    }
}

async fn deletes(platform: &DatabaseService, key: &str) -> Found {
    let documents = platform.documents();
    documents
        .delete_dev_data(NAMESPACE, key, Expected::Anything)
        .await?;
    let left = documents.dev_data(NAMESPACE, key).await?;
    ensure(left.is_none(), "it is still there")
}

async fn reads_logs(platform: &DatabaseService) -> Found {
    let page = Page {
        after: None,
        limit: 1,
    };
    platform
        .documents()
        .logs(&LogFilter::default(), &page)
        .await?;
    Ok(())
}
