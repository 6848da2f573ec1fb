//! What the relay demands of a store that holds content apart from its heads.

use std::sync::Arc;

use abunfi::clock::Timestamp;
use abunfi::documents::canonical::content_hash;
use abunfi::documents::{
    Applied, ContentStore, DocumentKey, DocumentKind, NewDocument, StoredDocument, versions,
};
use abunfi::ids::UserId;
use serde_json::{Value, json};

/// Calls `$each!` with every test of this file.
macro_rules! content_tests {
    ($each:ident) => {
        $each!(
            what_is_applied_is_read_with_its_version_and_hash,
            an_older_version_never_replaces_a_newer_one,
            applying_the_same_again_is_done,
            the_same_version_with_other_content_is_foreign,
            a_tombstone_is_kept_and_overcome_by_a_newer_version,
            however_many_apply_at_once_the_newest_stays,
            many_users_are_read_at_once,
        );
    };
}
pub(super) use content_tests;

pub(super) fn key(kind: DocumentKind) -> DocumentKey {
    DocumentKey {
        user_id: UserId::new(Timestamp::EPOCH),
        kind,
    }
}

pub(super) async fn apply(
    store: &dyn ContentStore,
    key: DocumentKey,
    version: i64,
    value: &Value,
) -> Applied {
    let NewDocument { canonical, hash } = NewDocument::of(value);
    let applied = store.apply(key, version, hash, Some(&canonical)).await;
    applied.expect("an answer")
}

pub(super) async fn read(store: &dyn ContentStore, key: DocumentKey) -> Option<StoredDocument> {
    let documents = store.read(key.user_id).await.expect("an answer");
    assert!(documents.len() <= 2);
    documents
        .into_iter()
        .find(|document| document.kind == key.kind)
}

pub(super) async fn what_is_applied_is_read_with_its_version_and_hash(
    store: Arc<dyn ContentStore>,
) {
    let store = store.as_ref();
    let deep = (1..32).fold(json!({"bottom": 1.0}), |inner, _| json!({ "a": inner }));
    for value in [
        json!({}),
        json!({"n": 1, "f": 1.0, "s": "tiền\t\u{1}", "list": [null, true, {}]}),
        json!({"_id": 1, "_v": 9, "_h": "x", "_deleted": true, "doc": {"doc": {}}}),
        json!({"z": 1, "a": 2, "10": 3, "9": 4, "é": 5}),
        deep,
    ] {
        let key = key(DocumentKind::Metadata);
        assert_eq!(read(store, key).await, None);
        assert_eq!(apply(store, key, 1, &value).await, Applied::Done);
        let found = read(store, key).await.expect("it is there");
        assert_eq!((found.version, found.deleted), (1, false));
        assert_eq!(found.hash, content_hash(&value));
        assert_eq!(content_hash(&found.value), content_hash(&value), "{value}");
    }
}

pub(super) async fn an_older_version_never_replaces_a_newer_one(store: Arc<dyn ContentStore>) {
    let (store, key) = (store.as_ref(), key(DocumentKind::Preferences));
    let newest = (1_i64 << 40) + 2;
    assert_eq!(
        apply(store, key, newest, &json!({"n": 2})).await,
        Applied::Done
    );
    for older in [1, newest - 1] {
        let applied = apply(store, key, older, &json!({"n": 1})).await;
        assert_eq!(applied, Applied::Newer(newest));
    }
    let gone = store
        .apply(key, newest - 1, versions::tombstone_hash(), None)
        .await;
    assert_eq!(gone.expect("an answer"), Applied::Newer(newest));
    let found = read(store, key).await.expect("it is there");
    assert_eq!((found.version, found.value), (newest, json!({"n": 2})));
}

pub(super) async fn applying_the_same_again_is_done(store: Arc<dyn ContentStore>) {
    let (store, key) = (store.as_ref(), key(DocumentKind::Metadata));
    for _ in 0..3 {
        assert_eq!(apply(store, key, 4, &json!({"n": 1})).await, Applied::Done);
    }
}

pub(super) async fn the_same_version_with_other_content_is_foreign(store: Arc<dyn ContentStore>) {
    let (store, key) = (store.as_ref(), key(DocumentKind::Metadata));
    apply(store, key, 4, &json!({"n": 1})).await;
    assert_eq!(
        apply(store, key, 4, &json!({"n": 2})).await,
        Applied::Foreign
    );
    let gone = store.apply(key, 4, versions::tombstone_hash(), None).await;
    assert_eq!(gone.expect("an answer"), Applied::Foreign);
    let found = read(store, key).await.expect("it is there");
    assert_eq!(found.value, json!({"n": 1}));
}

pub(super) async fn a_tombstone_is_kept_and_overcome_by_a_newer_version(
    store: Arc<dyn ContentStore>,
) {
    let (store, key) = (store.as_ref(), key(DocumentKind::Metadata));
    apply(store, key, 1, &json!({"n": 1})).await;
    for _ in 0..2 {
        let gone = store.apply(key, 2, versions::tombstone_hash(), None).await;
        assert_eq!(gone.expect("an answer"), Applied::Done);
    }
    let found = read(store, key).await.expect("the tombstone is there");
    assert_eq!((found.version, found.deleted), (2, true));
    assert_eq!(found.hash, versions::tombstone_hash());
    assert_eq!(
        apply(store, key, 1, &json!({"n": 1})).await,
        Applied::Newer(2)
    );
    assert_eq!(apply(store, key, 3, &json!({"n": 3})).await, Applied::Done);
    let found = read(store, key).await.expect("it is there");
    assert_eq!((found.version, found.deleted), (3, false));
}

pub(super) async fn however_many_apply_at_once_the_newest_stays(store: Arc<dyn ContentStore>) {
    const VERSIONS: i64 = 16;
    let keys: Vec<_> = (0..4).map(|_| key(DocumentKind::Metadata)).collect();
    let applies = keys.iter().flat_map(|key| {
        let store = &store;
        // Each version by two workers, as after a lease that ran out.
        (1..=VERSIONS).chain(1..=VERSIONS).map(move |version| {
            let (store, key) = (Arc::clone(store), *key);
            tokio::spawn(async move {
                let applied = apply(store.as_ref(), key, version, &json!({"n": version})).await;
                match applied {
                    Applied::Done => {}
                    Applied::Newer(newer) => assert!(newer > version),
                    Applied::Foreign => panic!("{key:?} {version}"),
                }
            })
        })
    });
    for applied in futures::future::join_all(applies).await {
        applied.expect("it ran");
    }
    for key in keys {
        let found = read(store.as_ref(), key).await.expect("it is there");
        assert_eq!(
            (found.version, found.value),
            (VERSIONS, json!({"n": VERSIONS}))
        );
    }
}

pub(super) async fn many_users_are_read_at_once(store: Arc<dyn ContentStore>) {
    let store = store.as_ref();
    let users: Vec<UserId> = (0..5).map(|_| UserId::new(Timestamp::EPOCH)).collect();
    for (index, user_id) in users.iter().enumerate().take(4) {
        for kind in DocumentKind::ALL.iter().take(1 + index % 2) {
            let key = DocumentKey {
                user_id: *user_id,
                kind: *kind,
            };
            apply(store, key, 1, &json!({"user": index})).await;
        }
    }
    let asked = [users[0], users[1], users[2], users[4]];
    let mut many = store.read_many(&asked).await.expect("an answer");
    let mut single = Vec::new();
    for user_id in asked {
        let documents = store.read(user_id).await.expect("an answer");
        single.extend(documents.into_iter().map(|document| (user_id, document)));
    }
    let order = |(user_id, document): &(UserId, StoredDocument)| (*user_id, document.kind);
    many.sort_by_key(order);
    single.sort_by_key(order);
    assert_eq!(many, single);
    assert_eq!(many.len(), 4);
    assert_eq!(store.read_many(&[]).await.expect("an answer"), []);
}
