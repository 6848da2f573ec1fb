//! The suites on MongoDB (or its stand-in), and what only it can show: documents of others, and what
//! happens when it does not answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use abunfi::StoreError;
use abunfi::config::MongoConfig;
use abunfi::documents::{
    Applied, ContentStore, DevDataStore, DevDataWrite, DocumentKey, DocumentKind, Error, Expected,
    LogFilter, LogStore,
};
use abunfi::health::Probe;
use abunfi::ledger::Page;
use abunfi::stores::mongodb::{Capabilities, MongoDb};
use abunfi_testkit::{FaultProxy, servers, unique_name};
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, Collection};
use serde_json::json;

use super::content::{apply, content_tests, key, read};
use super::{Records, at, records_tests};

/// Enough for a machine that runs many tests at once.
const DEADLINE_MS: u64 = 30_000;

/// A document database that belongs to one test.
pub(super) struct Database {
    pub(super) store: MongoDb,
    client: Client,
    pub(super) name: String,
}

/// Of the server that all tests share.
pub(super) fn uri() -> String {
    servers::require_mongodb_uri()
}

impl Database {
    pub(super) async fn fresh() -> Self {
        let uri = uri();
        let name = unique_name();
        let client = Client::with_uri_str(&uri).await.expect("a client");
        Self {
            store: connect(&uri, &name, DEADLINE_MS).await,
            client,
            name,
        }
    }

    pub(super) fn collection(&self, name: &str) -> Collection<Document> {
        self.client.database(&self.name).collection(name)
    }

    /// The test succeeded.
    pub(super) async fn remove(self) {
        let dropped = self.client.database(&self.name).drop().await;
        dropped.expect("the database goes");
    }
}

pub(super) async fn connect(uri: &str, database: &str, deadline_ms: u64) -> MongoDb {
    let config = MongoConfig {
        database: database.to_owned(),
        deadline_ms,
        ..MongoConfig::default()
    };
    MongoDb::connect(uri, &config).await.expect("a store")
}

/// Waits until the server was reached.
pub(super) async fn is_set_up(store: &MongoDb) -> &Capabilities {
    let began = Instant::now();
    loop {
        if let Some(capabilities) = store.capabilities() {
            return capabilities;
        }
        let waited = began.elapsed();
        assert!(waited < Duration::from_secs(20), "it is never set up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

macro_rules! on_records {
    ($($name:ident),+ $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $name() {
            let database = Database::fresh().await;
            let store = Arc::new(database.store.clone());
            let is_stand_in = is_set_up(&store).await.stand_in;
            let records = Records { dev_data: store.clone(), logs: store, is_stand_in };
            super::$name(&records).await;
            database.remove().await;
        })+
    };
}
records_tests!(on_records);

macro_rules! on_content {
    ($($name:ident),+ $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $name() {
            let database = Database::fresh().await;
            super::content::$name(Arc::new(database.store.clone())).await;
            database.remove().await;
        })+
    };
}
content_tests!(on_content);

#[tokio::test]
async fn a_document_of_others_is_left_alone_until_it_is_adopted() {
    let database = Database::fresh().await;
    let (store, key) = (&database.store, key(DocumentKind::Metadata));
    let raw = database.collection("metadata");
    let id = key.user_id.to_string();
    raw.insert_one(doc! {"_id": &id, "theme": "dark", "n": 1_i32})
        .await
        .expect("inserted");

    assert_eq!(
        apply(store, key, 1, &json!({"n": 2})).await,
        Applied::Foreign
    );
    let found = read(store, key).await.expect("it is there");
    assert_eq!(
        (found.version, &found.value),
        (0, &json!({"theme": "dark", "n": 1}))
    );

    for _ in 0..2 {
        let adopted = store.adopt(key).await.expect("an answer");
        assert_eq!(adopted.as_ref(), Some(&found));
    }
    assert_eq!(
        read(store, key).await.as_ref(),
        Some(&found),
        "it reads the same"
    );
    assert_eq!(apply(store, key, 1, &json!({"n": 2})).await, Applied::Done);

    // Another program writes its own again, over what is ours.
    raw.replace_one(doc! {"_id": &id}, doc! {"theme": "light"})
        .await
        .expect("replaced");
    assert_eq!(
        apply(store, key, 2, &json!({"n": 3})).await,
        Applied::Foreign
    );
    let found = read(store, key).await.expect("it is there");
    assert_eq!((found.version, found.value), (0, json!({"theme": "light"})));
    database.remove().await;
}

#[tokio::test]
async fn adopting_leaves_alone_what_this_platform_wrote() {
    let database = Database::fresh().await;
    let (store, key) = (&database.store, key(DocumentKind::Metadata));
    assert_eq!(store.adopt(key).await.expect("an answer"), None);
    apply(store, key, 7, &json!({"n": 1})).await;
    let adopted = store.adopt(key).await.expect("an answer");
    assert_eq!(adopted.expect("it is there").version, 7);
    assert_eq!(
        apply(store, key, 6, &json!({"n": 0})).await,
        Applied::Newer(7)
    );
    database.remove().await;
}

#[tokio::test]
async fn preferences_of_the_original_layout_are_read_as_version_zero() {
    let database = Database::fresh().await;
    let store = &database.store;
    let raw = database.collection("users");
    let (by_text, by_uuid, without) = (
        key(DocumentKind::Preferences),
        key(DocumentKind::Preferences),
        key(DocumentKind::Preferences),
    );
    let uuid = Bson::Binary(mongodb::bson::Binary {
        subtype: mongodb::bson::spec::BinarySubtype::Uuid,
        bytes: by_uuid.user_id.uuid().as_bytes().to_vec(),
    });
    raw.insert_many([
        doc! {"_id": by_text.user_id.to_string(), "email": "a@b.c", "preferences": {"language": "en"}},
        doc! {"_id": uuid, "preferences": {"language": "vi", "n": 1_i32}},
        doc! {"_id": without.user_id.to_string(), "email": "d@e.f"},
    ])
    .await
    .expect("inserted");

    let found = read(store, by_text).await.expect("it is there");
    assert_eq!((found.version, found.value), (0, json!({"language": "en"})));
    let found = read(store, by_uuid).await.expect("it is there");
    assert_eq!(found.value, json!({"language": "vi", "n": 1}));
    assert_eq!(read(store, without).await, None);
    let many = [by_text, by_uuid, without].map(|key| key.user_id);
    assert_eq!(store.read_many(&many).await.expect("an answer").len(), 2);

    let adopted = store.adopt(by_text).await.expect("an answer");
    assert_eq!(adopted.expect("it is there").version, 0);
    assert_eq!(
        apply(store, by_text, 1, &json!({"language": "vi"})).await,
        Applied::Done
    );
    let found = read(store, by_text).await.expect("it is there");
    assert_eq!(found.version, 1, "what is newer hides it");
    database.remove().await;
}

#[tokio::test]
async fn capabilities_and_figures_are_found_out() {
    let database = Database::fresh().await;
    let store = &database.store;
    store.ping().await.expect("it answers");
    apply(store, key(DocumentKind::Metadata), 1, &json!({})).await;
    let began = Instant::now();
    while store.capabilities().is_none() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "it is never set up"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let found = store.capabilities().expect("just seen");
    assert!(!found.version.is_empty());
    let statistics = store.statistics().await.expect("an answer");
    assert_eq!(statistics["backend"], "mongodb");
    assert_eq!(statistics["version"], found.version);
    assert_eq!(statistics["capabilities"]["ttl_indexes"], found.ttl_indexes);
    assert!(statistics["collections"].as_i64().expect("a count") >= 1);
    assert!(statistics["sizes"]["data_bytes"].as_i64().is_some());

    let indexes = database.collection("logs").list_index_names().await;
    let indexes = indexes.expect("an answer");
    assert!(indexes.len() >= 4, "{indexes:?}");
    database.remove().await;
}

mod outage {
    //! Behind a proxy, which can freeze the server and lose its answers.

    use super::*;

    /// Short, but long enough for the stand-in on a busy machine.
    const SHORT_DEADLINE_MS: u64 = 2_000;

    struct Behind {
        database: Database,
        proxy: FaultProxy,
        store: MongoDb,
    }

    impl Behind {
        async fn a_proxy() -> Self {
            let database = Database::fresh().await;
            let uri = uri();
            let proxy = FaultProxy::before(&uri, 27_017).await.expect("a proxy");
            let through = proxy.url(&uri).expect("a URI");
            let store = connect(&through, &database.name, SHORT_DEADLINE_MS).await;
            is_set_up(&store).await;
            Self {
                database,
                proxy,
                store,
            }
        }

        /// Until it works again, within what a client may wait.
        async fn recovers(&self) {
            let began = Instant::now();
            while let Err(error) = self.store.ping().await {
                assert!(began.elapsed() < Duration::from_secs(20), "{error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    fn write(key: &str) -> DevDataWrite {
        DevDataWrite {
            namespace: "app".to_owned(),
            key: key.to_owned(),
            value: json!(1),
            expected: Expected::Anything,
            expires_at: None,
            now: at(0),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_frozen_server_costs_no_more_than_the_deadline_and_is_used_again() {
        let behind = Behind::a_proxy().await;
        let store = &behind.store;
        behind.proxy.freeze();

        let began = Instant::now();
        let key = key(DocumentKind::Metadata);
        let read = ContentStore::read(store, key.user_id).await;
        assert!(
            matches!(read, Err(StoreError::Unavailable { .. })),
            "{read:?}"
        );
        let put = store.put(&write("a")).await;
        // It reads first, and so gave up before it wrote.
        let not_done = matches!(put, Err(Error::Store(StoreError::Unavailable { .. })));
        assert!(not_done, "{put:?}");
        let applied = store.apply(key, 1, [0; 32], Some("{}")).await;
        let unknown = matches!(
            applied,
            Err(StoreError::OutcomeUnknown { .. } | StoreError::Unavailable { .. })
        );
        assert!(unknown, "{applied:?}");
        assert!(began.elapsed() < Duration::from_millis(3 * SHORT_DEADLINE_MS + 5_000));

        // However many call, none waits for long, and most are refused at once.
        let began = Instant::now();
        let many = (0..500).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.ping().await.is_err() })
        });
        for refused in futures::future::join_all(many).await {
            assert!(refused.expect("it ran"));
        }
        assert!(began.elapsed() < Duration::from_secs(15));

        behind.proxy.thaw();
        behind.recovers().await;
        // What was called certainly not done is not done, and never will be.
        tokio::time::sleep(Duration::from_millis(SHORT_DEADLINE_MS)).await;
        let there = store.get("app", "a", at(0)).await;
        assert_eq!(there.expect("an answer"), None);
        behind.database.remove().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_server_that_is_down_is_unavailable_and_used_again() {
        let behind = Behind::a_proxy().await;
        let store = &behind.store;
        behind.proxy.down().await.expect("it goes down");
        let page = Page {
            after: None,
            limit: 1,
        };
        for _ in 0..8 {
            let began = Instant::now();
            let logs = LogStore::query(store, &LogFilter::default(), &page, at(0)).await;
            assert!(
                matches!(logs, Err(StoreError::Unavailable { .. })),
                "{logs:?}"
            );
            assert!(began.elapsed() < Duration::from_millis(SHORT_DEADLINE_MS + 3_000));
        }
        let began = Instant::now();
        assert!(store.ping().await.is_err());
        assert!(
            began.elapsed() < Duration::from_millis(SHORT_DEADLINE_MS / 2),
            "the breaker is open"
        );

        behind.proxy.up().await.expect("it is back");
        behind.recovers().await;
        behind.database.remove().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_write_whose_answer_is_lost_is_unknown_and_settled_by_repeating_it() {
        let behind = Behind::a_proxy().await;
        let key = DocumentKey {
            user_id: key(DocumentKind::Metadata).user_id,
            kind: DocumentKind::Metadata,
        };
        let value = json!({"n": 1});
        // The first write of a driver that repeats it by itself would hide the loss: lose both.
        behind.proxy.drop_response_after(key.user_id.to_string(), 2);
        let new = abunfi::documents::NewDocument::of(&value);
        let applied = behind
            .store
            .apply(key, 1, new.hash, Some(&new.canonical))
            .await;
        let unknown = matches!(applied, Err(StoreError::OutcomeUnknown { .. }));
        assert!(unknown, "{applied:?}");
        assert!(behind.proxy.lost_responses() > 0);
        behind.proxy.disarm();
        behind.recovers().await;
        assert_eq!(apply(&behind.store, key, 1, &value).await, Applied::Done);
        let found = read(&behind.database.store, key)
            .await
            .expect("it is there");
        assert_eq!((found.version, found.value), (1, value));
        behind.database.remove().await;
    }
}
