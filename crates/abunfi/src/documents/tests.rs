//! What callers may rely on, over stores in memory.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop where it stands"
)]

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::fakes::Scene;
use super::*;
use crate::cache::user_tag;
use crate::clock::Clock as _;
use crate::context::Context;
use crate::error::{StoreError, StoreKind};

const METADATA: DocumentKind = DocumentKind::Metadata;
const PREFERENCES: DocumentKind = DocumentKind::Preferences;

impl Scene {
    async fn write(&self, kind: DocumentKind, write: Write) -> Result<DocumentView, Error> {
        self.write_if(kind, write, Expected::Anything).await
    }

    async fn write_if(
        &self,
        kind: DocumentKind,
        write: Write,
        expected: Expected,
    ) -> Result<DocumentView, Error> {
        let ctx = Context::system("test");
        self.service
            .write(&ctx, self.key(kind), write, expected)
            .await
    }

    async fn put(&self, value: Value) -> DocumentView {
        self.write(METADATA, Write::Put(value)).await.unwrap()
    }

    async fn get(&self) -> Result<DocumentView, Error> {
        self.service.get(self.key(METADATA)).await
    }

    async fn shown(&self) -> (Value, i64, Freshness) {
        let view = self.get().await.unwrap();
        (view.value, view.version, view.state.state)
    }

    /// Written, applied, read once, and the image gone: as a document is after a week.
    async fn settled(&self, value: Value) {
        self.put(value).await;
        self.heads.drop_image(self.key(METADATA));
        self.shown().await;
        // What was read is remembered in a task beside.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

fn is_away<T: std::fmt::Debug>(result: &Result<T, Error>, store: StoreKind) -> bool {
    matches!(result, Err(Error::Store(StoreError::Unavailable { store: away, .. })) if *away == store)
}

#[tokio::test]
async fn a_write_is_applied_before_it_is_answered() {
    let scene = Scene::new();
    let view = scene.put(json!({"a": 1})).await;
    assert_eq!((view.version, view.state.state), (1, Freshness::Current));
    let lying = scene.content.document(scene.key(METADATA)).unwrap();
    assert_eq!((lying.version, lying.value), (1, json!({"a": 1})));
    let head = scene.heads.head(scene.key(METADATA)).unwrap();
    assert_eq!(head.applied_version, 1);
    assert_eq!(
        scene.shown().await,
        (json!({"a": 1}), 1, Freshness::Current)
    );
}

#[tokio::test]
async fn with_the_store_away_writes_are_accepted_and_the_newest_is_applied_later() {
    let scene = Scene::new();
    scene.put(json!({"n": 0})).await;
    scene.content_is_away(true);
    for n in 1..=3 {
        let view = scene.put(json!({ "n": n })).await;
        assert_eq!(view.state.state, Freshness::Pending);
        assert_eq!(view.value, json!({ "n": n }));
    }
    assert_eq!(
        scene.shown().await,
        (json!({"n": 3}), 4, Freshness::Pending)
    );

    scene.content_is_away(false);
    let before = scene.content.applies.load(Ordering::SeqCst);
    scene.clock.advance(Duration::from_secs(10));
    assert_eq!(scene.service.relay().run_once().await.unwrap(), 1);
    assert_eq!(scene.content.applies.load(Ordering::SeqCst), before + 1);
    assert_eq!(
        scene.shown().await,
        (json!({"n": 3}), 4, Freshness::Current)
    );
    let stats = scene.service.relay().stats();
    assert_eq!((stats.applied, stats.foreign), (2, 0));
    assert!(stats.failed >= 3);
    assert!(stats.heartbeat.is_some());
}

#[tokio::test]
async fn while_the_store_is_away_the_relay_probes_with_one_document_at_a_time() {
    let scene = Scene::new();
    scene.content_is_away(true);
    for _ in 0..5 {
        let user_id = UserId::new(Timestamp::EPOCH);
        scene.heads.add_user(user_id);
        let kind = METADATA;
        scene.heads.put(DocumentKey { user_id, kind }, &json!({}));
    }
    let relay = scene.service.relay();
    relay.run_once().await.unwrap();
    assert_eq!(scene.content.applies.load(Ordering::SeqCst), 5);
    scene.clock.advance(Duration::from_secs(10));
    relay.run_once().await.unwrap();
    assert_eq!(scene.content.applies.load(Ordering::SeqCst), 6);
    scene.content_is_away(false);
    scene.clock.advance(Duration::from_secs(10));
    assert_eq!(relay.run_once().await.unwrap(), 5, "then all at once");
}

#[tokio::test]
async fn a_lagging_read_is_repeated_once() {
    let scene = Scene::new();
    scene.settled(json!({"n": 2})).await;
    let before = scene.content.reads.load(Ordering::SeqCst);
    scene
        .content
        .lag_once(scene.key(METADATA), 0, &json!({"n": 1}));
    assert_eq!(
        scene.shown().await,
        (json!({"n": 2}), 1, Freshness::Current)
    );
    assert_eq!(scene.content.reads.load(Ordering::SeqCst), before + 2);
}

#[tokio::test]
async fn without_an_image_the_last_known_copy_is_current_if_it_is_the_heads() {
    let scene = Scene::new();
    scene.settled(json!({"n": 1})).await;
    scene.content_is_away(true);
    assert_eq!(
        scene.shown().await,
        (json!({"n": 1}), 1, Freshness::Current)
    );
    let patched = scene.write(METADATA, Write::Patch(json!({"m": 2}))).await;
    assert_eq!(patched.unwrap().value, json!({"n": 1, "m": 2}));
}

#[tokio::test]
async fn an_older_copy_is_stale_with_its_age_and_no_patch_starts_from_it() {
    let scene = Scene::new();
    scene.settled(json!({"n": 1})).await;
    let known_at = scene.get().await.unwrap().state.as_of;
    scene.clock.advance(Duration::from_secs(60));
    scene.put(json!({"n": 2})).await;
    scene.heads.drop_image(scene.key(METADATA));
    scene.content_is_away(true);

    let view = scene.get().await.unwrap();
    assert_eq!(
        (view.value, view.state.state),
        (json!({"n": 1}), Freshness::Stale)
    );
    assert_eq!(view.state.as_of, known_at);
    assert_eq!(
        view.version, 1,
        "so that nobody overwrites what they have not seen"
    );

    let patched = scene.write(METADATA, Write::Patch(json!({"m": 2}))).await;
    assert!(is_away(&patched, StoreKind::Documents), "{patched:?}");
    let put = scene.put(json!({"n": 3})).await;
    assert_eq!((put.version, put.state.state), (3, Freshness::Pending));
}

#[tokio::test]
async fn without_any_copy_preferences_are_defaults_and_metadata_is_unavailable() {
    let scene = Scene::new();
    for kind in [METADATA, PREFERENCES] {
        let value = json!({"language": "en"});
        scene.write(kind, Write::Put(value)).await.unwrap();
        scene.heads.drop_image(scene.key(kind));
    }
    scene.content_is_away(true);
    let metadata = scene.get().await;
    assert!(is_away(&metadata, StoreKind::Documents), "{metadata:?}");
    let view = scene.service.get(scene.key(PREFERENCES)).await.unwrap();
    assert_eq!(view.state.state, Freshness::Default);
    assert_eq!((view.value, view.version), (preferences::defaults(), 0));

    let heads = scene.heads.all(scene.user_id);
    let both = scene.service.read_for(scene.user_id, &heads).await;
    assert!(both.store_away);
    assert_eq!(both.metadata.state.state, Freshness::Default);
}

#[tokio::test]
async fn with_the_relational_store_away_documents_are_read_as_stale_and_not_written() {
    let scene = Scene::new();
    scene.settled(json!({"n": 1})).await;
    scene.heads_are_away(true);
    assert_eq!(scene.shown().await, (json!({"n": 1}), 1, Freshness::Stale));
    let put = scene.write(METADATA, Write::Put(json!({}))).await;
    assert!(is_away(&put, StoreKind::Relational), "{put:?}");

    scene.content_is_away(true);
    let view = scene.get().await.unwrap();
    assert_eq!(
        (view.value, view.state.state),
        (json!({"n": 1}), Freshness::Stale)
    );
    assert!(view.state.as_of.is_some(), "the remembered copy has an age");

    let nobody = DocumentKey {
        user_id: UserId::new(Timestamp::EPOCH),
        kind: METADATA,
    };
    let nothing = scene.service.get(nobody).await;
    assert!(is_away(&nothing, StoreKind::Relational), "{nothing:?}");
}

#[tokio::test]
async fn nobody_has_no_documents() {
    let scene = Scene::new();
    let key = DocumentKey {
        user_id: UserId::new(Timestamp::EPOCH),
        kind: METADATA,
    };
    assert!(matches!(scene.service.get(key).await, Err(Error::NotFound)));
    let ctx = Context::system("test");
    let put = scene
        .service
        .write(&ctx, key, Write::Put(json!({})), Expected::Anything)
        .await;
    assert!(matches!(put, Err(Error::NotFound)));
}

#[tokio::test]
async fn a_deletion_shows_the_defaults_whatever_lies_in_the_store() {
    let scene = Scene::new();
    scene.put(json!({"n": 1})).await;
    let view = scene.write(METADATA, Write::Delete).await.unwrap();
    assert_eq!((view.value, view.version), (json!({}), 2));
    scene.content.lay(scene.key(METADATA), 9, &json!({"n": 9}));
    assert_eq!(scene.shown().await, (json!({}), 2, Freshness::Current));
    let again = scene.write(METADATA, Write::Delete).await.unwrap();
    assert_eq!(again.version, 2, "deleting twice changes nothing");
    let patched = scene
        .write(METADATA, Write::Patch(json!({"m": 1, "x": null})))
        .await;
    assert_eq!(patched.unwrap().value, json!({"m": 1}));

    let key = scene.key(PREFERENCES);
    scene
        .write(PREFERENCES, Write::Put(json!({"language": "en"})))
        .await
        .unwrap();
    scene.write(PREFERENCES, Write::Delete).await.unwrap();
    assert_eq!(
        scene.service.get(key).await.unwrap().value,
        preferences::defaults()
    );
}

#[tokio::test]
async fn a_demanded_version_is_checked_for_every_kind_of_write() {
    let scene = Scene::new();
    let put = || Write::Put(json!({"n": 1}));
    let patch = || Write::Patch(json!({"m": 1}));
    let refused = async |write, expected, current| {
        let refused = scene.write_if(METADATA, write, expected).await;
        let is_right =
            matches!(&refused, Err(Error::VersionMismatch { current: found }) if *found == current);
        assert!(is_right, "{expected:?} {refused:?}");
    };
    refused(patch(), Expected::Version(3), None).await;
    let view = scene
        .write_if(METADATA, patch(), Expected::Version(0))
        .await;
    assert_eq!(view.unwrap().version, 1, "never written is version 0");
    for write in [put(), patch(), Write::Delete] {
        refused(write.clone(), Expected::Version(7), Some(1)).await;
        refused(write, Expected::Absent, Some(1)).await;
    }
    for (write, version) in [(put(), 1), (patch(), 2), (Write::Delete, 3)] {
        let expected = Expected::Version(version);
        let view = scene.write_if(METADATA, write, expected).await;
        assert_eq!(view.unwrap().version, version + 1);
    }
    let view = scene
        .write_if(METADATA, patch(), Expected::Version(4))
        .await;
    assert_eq!(view.unwrap().version, 5, "a tombstone has a version");
}

#[tokio::test]
async fn a_patch_that_lost_to_another_writer_starts_again_unless_it_demanded_a_version() {
    let scene = Scene::new();
    scene.put(json!({"a": 1})).await;
    let key = scene.key(METADATA);
    let faster = move |value: Value| move |heads: &fakes::FakeHeads| heads.put(key, &value);
    scene
        .heads
        .before_next_write(faster(json!({"a": 1, "b": 2})));
    let patched = scene.write(METADATA, Write::Patch(json!({"c": 3}))).await;
    assert_eq!(patched.unwrap().value, json!({"a": 1, "b": 2, "c": 3}));

    let version = scene.get().await.unwrap().version;
    let writes = scene.heads.writes.load(Ordering::SeqCst);
    scene.heads.before_next_write(faster(json!({"d": 4})));
    let expected = Expected::Version(version);
    let patched = scene
        .write_if(METADATA, Write::Patch(json!({"e": 5})), expected)
        .await;
    assert!(
        matches!(patched, Err(Error::VersionMismatch { .. })),
        "{patched:?}"
    );
    assert_eq!(scene.heads.writes.load(Ordering::SeqCst), writes + 1);
}

#[tokio::test]
async fn what_the_store_had_before_is_imported_as_version_zero() {
    let scene = Scene::new();
    let key = scene.key(METADATA);
    scene.content.lay(key, 0, &json!({"legacy": true}));
    assert_eq!(
        scene.shown().await,
        (json!({"legacy": true}), 0, Freshness::Current)
    );
    let absent = scene
        .write_if(METADATA, Write::Patch(json!({})), Expected::Absent)
        .await;
    assert!(matches!(
        absent,
        Err(Error::VersionMismatch { current: Some(0) })
    ));

    let patched = scene
        .write(METADATA, Write::Patch(json!({"n": 1})))
        .await
        .unwrap();
    assert_eq!(patched.value, json!({"legacy": true, "n": 1}));
    assert_eq!(
        (patched.version, patched.state.state),
        (1, Freshness::Current)
    );
    let lying = scene.content.document(key).unwrap();
    assert_eq!((lying.version, lying.value), (1, patched.value));
}

#[tokio::test]
async fn an_import_that_cannot_be_read_refuses_the_write() {
    let scene = Scene::new();
    scene.content_is_away(true);
    let put = scene.write(METADATA, Write::Put(json!({}))).await;
    assert!(is_away(&put, StoreKind::Documents), "{put:?}");
    assert_eq!(scene.heads.head(scene.key(METADATA)), None);
}

#[tokio::test]
async fn a_foreign_document_is_set_aside_and_the_image_is_served() {
    let scene = Scene::new();
    scene.put(json!({"n": 1})).await;
    let key = scene.key(METADATA);
    scene.content.lay(key, 0, &json!({"theirs": true}));
    let view = scene.put(json!({"n": 2})).await;
    assert_eq!(view.state.state, Freshness::Pending);
    assert!(scene.heads.is_foreign(key));
    assert_eq!(
        scene.shown().await,
        (json!({"n": 2}), 2, Freshness::Pending)
    );
    assert_eq!(
        scene.content.document(key).unwrap().value,
        json!({"theirs": true})
    );
    assert_eq!(scene.service.relay().stats().foreign, 1);
    scene.clock.advance(Duration::from_secs(3_600));
    assert_eq!(scene.service.relay().run_once().await.unwrap(), 0);
    assert_eq!(
        scene.service.relay().stats().foreign,
        1,
        "it is not tried again"
    );
}

#[tokio::test]
async fn a_version_above_the_head_is_not_taken_for_done() {
    let scene = Scene::new();
    scene.put(json!({"n": 1})).await;
    let key = scene.key(METADATA);
    // The relational store was restored from a backup, and its epoch was not raised.
    scene.content.lay(key, 900, &json!({"lost": true}));
    scene.put(json!({"n": 2})).await;
    let head = scene.heads.head(key).unwrap();
    assert_eq!((head.version, head.applied_version), (2, 1));
    assert!(scene.heads.is_foreign(key));
    assert_eq!(
        scene.shown().await,
        (json!({"n": 2}), 2, Freshness::Pending)
    );
}

#[tokio::test]
async fn what_was_written_again_meanwhile_is_not_finished_with_the_old_version() {
    let scene = Scene::new();
    let key = scene.key(METADATA);
    scene.put(json!({"n": 1})).await;
    scene.heads.put(key, &json!({"n": 2}));
    let now = scene.clock.now();
    let claimed = scene
        .heads
        .claim(1, Duration::ZERO, Some(key), now)
        .await
        .unwrap();
    scene.heads.put(key, &json!({"n": 3}));
    assert!(!scene.heads.finish(&claimed[0], now).await.unwrap());
    assert_eq!(scene.service.relay().run_once().await.unwrap(), 1);
    let lying = scene.content.document(key).unwrap();
    assert_eq!((lying.version, lying.value), (3, json!({"n": 3})));
}

#[tokio::test]
async fn every_fault_of_a_document_is_found_and_nothing_is_written() {
    let scene = Scene::new();
    let bad = json!({"language": "fr", "a.b": 1, "notifications": {"email": 1}});
    for write in [Write::Put(bad.clone()), Write::Patch(bad)] {
        let refused = scene.write(PREFERENCES, write).await;
        let Err(Error::Invalid(faults)) = refused else {
            panic!("{refused:?}");
        };
        let mut pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        pointers.sort_unstable();
        assert_eq!(pointers, ["/a.b", "/language", "/notifications/email"]);
    }
    let refused = scene.write(METADATA, Write::Patch(json!([]))).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    assert_eq!(scene.heads.writes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_write_invalidates_all_that_shows_the_user() {
    let scene = Scene::new();
    let tags = [user_tag(scene.user_id)];
    let ttl = Duration::from_secs(60);
    let cached = async |value: i32| {
        let fetch = async { Ok::<_, StoreError>(value) };
        let cached = scene.cache.get_or_fetch("k", &tags, ttl, |_| false, fetch);
        *cached.await.unwrap().value
    };
    assert_eq!((cached(1).await, cached(2).await), (1, 1));
    scene.put(json!({})).await;
    assert_eq!(cached(3).await, 3);
    scene.content_is_away(true);
    scene.put(json!({})).await;
    assert_eq!(cached(4).await, 4, "also when it is only accepted");
}

#[tokio::test]
async fn a_patch_of_developers_data_keeps_expiry_and_others_changes() {
    let scene = Scene::new();
    let service = &scene.service;
    let ttl = Some(Duration::from_secs(60));
    let patch = |value, ttl, expected| service.patch_dev_data("ns", "k", value, ttl, expected);
    let absent = patch(json!({}), None, Expected::Anything).await;
    assert!(matches!(absent, Err(Error::NotFound)));

    let made = service
        .put_dev_data("ns", "k", json!({"a": 1}), ttl, Expected::Absent)
        .await;
    let (made, is_new) = made.unwrap();
    assert!(is_new);
    scene.clock.advance(Duration::from_secs(5));
    scene.records.interlope.store(true, Ordering::SeqCst);
    let patched = patch(json!({"b": 2}), None, Expected::Anything)
        .await
        .unwrap();
    assert_eq!(patched.value, json!({"a": 1, "b": 2, "interloper": true}));
    assert_eq!((patched.version, patched.expires_at), (3, made.expires_at));
    let patched = patch(json!({"b": null}), ttl, Expected::Version(3))
        .await
        .unwrap();
    assert!(patched.expires_at > made.expires_at);
    let refused = patch(json!({}), None, Expected::Version(3)).await;
    assert!(matches!(
        refused,
        Err(Error::VersionMismatch { current: Some(4) })
    ));
}

#[tokio::test]
async fn names_and_values_of_developers_data_are_checked() {
    let scene = Scene::new();
    let service = &scene.service;
    let put = |namespace, key, value, ttl| {
        service.put_dev_data(namespace, key, value, ttl, Expected::Anything)
    };
    let ttl = Some(Duration::ZERO);
    let Err(Error::Invalid(faults)) = put("a/b", "", json!(1), ttl).await else {
        panic!("taken");
    };
    let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
    assert_eq!(pointers, ["/namespace", "/key", "/ttl"]);
    let refused = put("a", "b", json!({"$x": 1}), None).await;
    assert!(matches!(refused, Err(Error::Invalid(_))));
    assert_eq!(service.dev_data("a/b", "c").await.unwrap(), None);
    let page = crate::ledger::Page {
        after: None,
        limit: 10,
    };
    assert_eq!(service.list_dev_data("a", "x/", &page).await.unwrap(), []);
}

#[tokio::test]
async fn a_sweep_goes_on_where_one_store_is_away_and_says_so() {
    let scene = Scene::new();
    assert_eq!(scene.service.sweep().await.unwrap(), 2 + 4 + 1);
    scene.records.is_away.store(true, Ordering::SeqCst);
    assert!(scene.service.sweep().await.is_err());
}
