//! Heads in a relational store, content in MongoDB, and a network between that fails: in the end both
//! agree, and nothing that was acknowledged is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use abunfi::cache::{Cache, CacheConfig};
use abunfi::clock::SystemClock;
use abunfi::documents::{
    ContentStore, DocumentKey, DocumentKind, Error, Expected, Freshness, HeadStore, Relay, Service,
    Stores, Write,
};
use abunfi_testkit::FaultProxy;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::mongodb::{Database, connect, is_set_up, uri};
use crate::support::make::{context, new_user};
use crate::support::{APART, Backend, Relational, run};

/// How long a writer tries: while the breaker is open, it is refused at once.
const WRITING: Duration = Duration::from_secs(60);
/// Short, so that a lost answer costs the test little.
const DEADLINE_MS: u64 = 1_000;
/// How long agreement may take after the network is whole again: the longest pause, and some work.
const CONVERGENCE: Duration = Duration::from_secs(30);

mod mongodb {
    use super::*;

    #[test]
    fn what_was_acknowledged_is_in_mongodb_whatever_happened_in_between() {
        run(Backend::Sqlite, APART, super::what_was_acknowledged_arrives);
    }

    #[test]
    fn a_document_from_before_is_imported_and_written_on() {
        run(Backend::Sqlite, APART, super::a_document_from_before);
    }
}

/// One instance of the platform's documents.
struct Instance {
    service: Service,
    stop: CancellationToken,
}

impl Instance {
    fn start(heads: Arc<dyn HeadStore>, store: abunfi::stores::mongodb::MongoDb) -> Self {
        let store = Arc::new(store);
        let clock = Arc::new(SystemClock);
        let stores = Stores {
            heads,
            content: store.clone(),
            dev_data: store.clone(),
            logs: store,
            relational: false,
        };
        let day = Duration::from_secs(24 * 3_600);
        let cache = Cache::new(None, clock.clone(), CacheConfig::default(), true);
        let wait = Duration::from_millis(300);
        let service = Service::new(stores, cache, clock, wait, day, day);
        let stop = CancellationToken::new();
        tokio::spawn(Relay::run(Arc::clone(service.relay()), stop.clone()));
        Self { service, stop }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn user(stores: &Relational, name: &str) -> DocumentKey {
    let user = stores.users.create(&context(), &new_user(name)).await;
    DocumentKey {
        user_id: user.expect("a user").id,
        kind: DocumentKind::Metadata,
    }
}

async fn what_was_acknowledged_arrives(stores: &Relational) {
    const WRITERS: usize = 6;
    const WRITES: u64 = 25;
    let database = Database::fresh().await;
    let proxy = FaultProxy::before(&uri(), 27_017).await.expect("a proxy");
    let through = proxy.url(&uri()).expect("a URI");
    let mut instances = Vec::new();
    for _ in 0..2 {
        let store = connect(&through, &database.name, DEADLINE_MS).await;
        is_set_up(&store).await;
        instances.push(Instance::start(stores.heads.clone(), store));
    }
    let keys = [user(stores, "an").await, user(stores, "binh").await];

    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let service = instances[writer % instances.len()].service.clone();
            let key = keys[writer % keys.len()];
            tokio::spawn(write_on(service, key, format!("writer-{writer}"), WRITES))
        })
        .collect();
    let faults = tokio::spawn(break_and_mend(proxy));
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.push(writer.await.expect("it ran"));
    }
    let proxy = faults.await.expect("it ran");
    let written: u64 = acknowledged.iter().map(|(_, last)| last).sum();
    assert!(written >= 50, "the test did too little: {written}");

    agree(stores, &instances, &keys, &database).await;
    for (index, (name, last)) in acknowledged.iter().enumerate() {
        let key = keys[index % keys.len()];
        let documents = database.store.read(key.user_id).await.expect("an answer");
        let metadata = documents
            .iter()
            .find(|document| document.kind == DocumentKind::Metadata)
            .expect("it is there");
        assert_eq!(metadata.value[name], json!(last), "{name}");
        let view = instances[0].service.get(key).await.expect("an answer");
        assert_eq!(view.state.state, Freshness::Current);
        assert_eq!(view.value[name], json!(last));
    }
    let stats = instances
        .iter()
        .map(|instance| instance.service.relay().stats());
    let (failed, foreign) = stats.fold((0, 0), |(failed, foreign), stats| {
        (failed + stats.failed, foreign + stats.foreign)
    });
    assert!(failed > 0, "no apply ever failed, so nothing was shown");
    assert_eq!(foreign, 0);
    drop((instances, proxy));
    database.remove().await;
}

/// Patches its own member, counting up to `writes`; how far it came.
async fn write_on(service: Service, key: DocumentKey, name: String, writes: u64) -> (String, u64) {
    let mut last = 0;
    let began = Instant::now();
    while last < writes && began.elapsed() < WRITING {
        let next = last + 1;
        let patch = Write::Patch(json!({ &name: next }));
        match service
            .write(&context(), key, patch, Expected::Anything)
            .await
        {
            Ok(_) => last = next,
            // Certainly not done: the current document could not be read, or others kept winning.
            Err(Error::Store(error)) if error.is_away() => {}
            Err(other) => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (name, last)
}

/// Everything that happens to a network, for a while, and then nothing any more.
async fn break_and_mend(proxy: FaultProxy) -> FaultProxy {
    let a_while = || tokio::time::sleep(Duration::from_millis(250));
    for _ in 0..2 {
        proxy.drop_response_after("_deleted", 3);
        a_while().await;
        proxy.reset();
        a_while().await;
        proxy.freeze();
        a_while().await;
        proxy.thaw();
        proxy.drop_request("_deleted", 2);
        a_while().await;
        proxy.down().await.expect("it goes down");
        a_while().await;
        proxy.up().await.expect("it is back");
        a_while().await;
    }
    proxy.disarm();
    proxy
}

/// Waits until nothing is pending, and compares every head with what lies in MongoDB.
async fn agree(
    stores: &Relational,
    instances: &[Instance],
    keys: &[DocumentKey],
    database: &Database,
) {
    let began = Instant::now();
    loop {
        let backlog = stores.heads.backlog().await.expect("an answer");
        assert_eq!(backlog.foreign, 0);
        if backlog.pending == 0 {
            break;
        }
        let stats = instances[0].service.relay().stats();
        assert!(began.elapsed() < CONVERGENCE, "{backlog:?} {stats:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for key in keys {
        let heads = stores.heads.heads(key.user_id).await.expect("an answer");
        let documents = database.store.read(key.user_id).await.expect("an answer");
        for head in heads.expect("a user") {
            let document = documents
                .iter()
                .find(|document| document.kind == head.kind)
                .expect("it is there");
            assert_eq!(document.version, head.version, "{key:?}");
            assert_eq!(document.hash, head.hash, "{key:?}");
            assert_eq!(document.deleted, head.deleted, "{key:?}");
        }
    }
}

/// A user whose metadata lies in MongoDB, and has no head.
async fn a_document_from_before(stores: &Relational) {
    let database = Database::fresh().await;
    let key = user(stores, "an").await;
    let forget = format!("DELETE FROM document_heads WHERE kind = '{}'", key.kind);
    let forgotten = stores.raw.execute(&forget).await;
    assert_eq!(forgotten.expect("the head goes"), 1);
    let raw = database.collection("metadata");
    let legacy = ::mongodb::bson::doc! {"_id": key.user_id.to_string(), "plan": "gold", "n": 1_i32};
    raw.insert_one(legacy).await.expect("inserted");

    let instance = Instance::start(stores.heads.clone(), database.store.clone());
    let service = &instance.service;
    let view = service.get(key).await.expect("an answer");
    assert_eq!((view.version, view.state.state), (0, Freshness::Current));
    let patch = |value: Value, expected| {
        let (ctx, write) = (context(), Write::Patch(value));
        async move { service.write(&ctx, key, write, expected).await }
    };
    let refused = patch(json!({}), Expected::Version(3)).await;
    assert!(
        matches!(refused, Err(Error::VersionMismatch { .. })),
        "{refused:?}"
    );
    let view = patch(json!({"n": 2}), Expected::Version(0)).await;
    let view = view.expect("it is written");
    assert_eq!(view.value, json!({"plan": "gold", "n": 2}));
    assert_eq!(view.version, 1);
    agree(stores, std::slice::from_ref(&instance), &[key], &database).await;
    drop(instance);
    database.remove().await;
}
