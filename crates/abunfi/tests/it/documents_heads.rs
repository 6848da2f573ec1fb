//! The heads of user-owned documents: what decides their versions, and what the relay works from.

use std::collections::BTreeSet;
use std::time::Duration;

use abunfi::clock::Timestamp;
use abunfi::documents::{
    Backlog, Claimed, DocumentKey, DocumentKind, EPOCH_SHIFT, Error, Expected, Head, HeadWrite,
    HeadWritten, NewDocument,
};
use abunfi::ids::UserId;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::make::{at, context, document, next_time};
use crate::support::{Relational, at_once, on_every_backend};

on_every_backend!(
    a_document_that_lives_here_is_written_with_its_head,
    versions_count_up_with_every_write,
    a_write_for_another_version_changes_nothing,
    of_many_writes_for_one_version_at_once_one_succeeds,
    a_document_must_be_absent_to_be_created,
    a_deleted_document_counts_on,
    deleting_what_is_deleted_changes_nothing,
    a_document_of_nobody_is_not_found,
    a_document_from_before_is_imported_as_version_0,
    an_import_never_replaces_a_head,
    two_first_writes_at_once_both_settle_and_the_newer_wins,
    a_raised_epoch_is_newer_than_all_before,
    every_write_leaves_one_version,
);

on_every_backend!(
    apart:
    a_head_keeps_its_image_until_it_is_applied,
    versions_count_up_with_every_write,
    a_write_for_another_version_changes_nothing,
    of_many_writes_for_one_version_at_once_one_succeeds,
    a_document_must_be_absent_to_be_created,
    a_deleted_document_counts_on,
    deleting_what_is_deleted_changes_nothing,
    a_document_from_before_is_imported_as_version_0,
    an_import_never_replaces_a_head,
    two_first_writes_at_once_both_settle_and_the_newer_wins,
    a_raised_epoch_is_newer_than_all_before,
    several_writes_become_one_apply_of_the_newest,
    a_tombstone_is_claimed_like_any_version,
    a_leased_head_is_nobody_else_s,
    a_lease_that_ran_out_is_given_again_and_attempts_count,
    finishing_needs_the_lease,
    finishing_needs_the_version,
    a_write_under_a_lease_is_due_and_not_lost,
    a_released_head_waits_until_its_time,
    releasing_needs_the_lease,
    one_head_is_claimed_by_name_whatever_its_time,
    a_foreign_document_is_set_aside,
    heads_are_claimed_oldest_first_and_bounded,
    no_head_is_claimed_twice_by_workers_at_once,
    images_are_purged_once_applied_and_old,
    the_backlog_says_how_far_behind_the_document_store_is,
);

const MINUTE: Duration = Duration::from_secs(60);

fn key(user_id: UserId) -> DocumentKey {
    DocumentKey {
        user_id,
        kind: DocumentKind::Metadata,
    }
}

fn put(user: UserId, value: &Value) -> HeadWrite {
    HeadWrite {
        key: key(user),
        expected: Expected::Anything,
        content: Some(document(value)),
        import: None,
        at: next_time(),
    }
}

fn delete(user: UserId) -> HeadWrite {
    HeadWrite {
        content: None,
        ..put(user, &json!({}))
    }
}

async fn write(stores: &Relational, write: &HeadWrite) -> Result<HeadWritten, Error> {
    stores.heads.write(&context(), write).await
}

async fn head(stores: &Relational, key: DocumentKey) -> Option<Head> {
    let heads = stores
        .heads
        .heads(key.user_id)
        .await
        .unwrap()
        .expect("the user");
    heads.into_iter().find(|head| head.kind == key.kind)
}

/// A user whose metadata has no head, as in a collection that was there before the platform.
async fn user_without_heads(stores: &Relational, name: &str) -> UserId {
    let user = stores.user(name).await.id;
    stores.raw.execute("DELETE FROM documents").await.unwrap();
    stores
        .raw
        .execute("DELETE FROM document_heads")
        .await
        .unwrap();
    assert_eq!(stores.heads.heads(user).await.unwrap(), Some(vec![]));
    user
}

fn is_mismatch(result: &Result<HeadWritten, Error>, version: Option<i64>) -> bool {
    matches!(result, Err(Error::VersionMismatch { current }) if *current == version)
}

async fn a_document_that_lives_here_is_written_with_its_head(stores: &Relational) {
    let user = stores.user("An").await.id;
    let value = json!({"b": 1.0, "a": [1, "hai", null]});
    let written = write(stores, &put(user, &value)).await.unwrap();
    assert_eq!(written.head.version, 2);
    assert_eq!(
        written.head.applied_version, 2,
        "applied by the same commit"
    );
    assert_eq!(written.head.image, None);
    let content = "SELECT canonical FROM documents WHERE kind = 'metadata'";
    assert_eq!(
        stores.raw.texts(content).await,
        [document(&value).canonical]
    );
    assert_eq!(stores.heads.backlog().await.unwrap(), Backlog::default());
    let due = stores
        .heads
        .claim(10, MINUTE, None, at(1_000_000))
        .await
        .unwrap();
    assert!(due.is_empty(), "nothing is left to do: {due:?}");

    write(stores, &delete(user)).await.unwrap();
    let live = "SELECT canonical FROM documents WHERE kind = 'metadata' AND canonical IS NOT NULL";
    assert!(stores.raw.texts(live).await.is_empty());
    let record = stores.users.find(user).await.unwrap().unwrap();
    let shown: Vec<_> = record
        .heads
        .iter()
        .filter(|head| head.kind == DocumentKind::Metadata)
        .collect();
    assert_eq!(
        (shown.len(), shown[0].version, shown[0].deleted),
        (1, 3, true)
    );
}

async fn a_head_keeps_its_image_until_it_is_applied(stores: &Relational) {
    let user = stores.user("An").await.id;
    let value = json!({"b": 1.0, "a": "xin chào"});
    let write_at = put(user, &value);
    let written = write(stores, &write_at).await.unwrap();
    let expected = Head {
        kind: DocumentKind::Metadata,
        version: 2,
        hash: document(&value).hash,
        deleted: false,
        applied_version: -1,
        image: Some(document(&value).canonical),
        updated_at: write_at.at,
    };
    assert_eq!(
        written,
        HeadWritten {
            head: expected.clone(),
            created: false
        }
    );
    assert_eq!(head(stores, key(user)).await, Some(expected.clone()));
    assert_eq!(
        stores.raw.number("SELECT count(*) FROM documents").await,
        0,
        "no second copy"
    );
    let record = stores.users.find(user).await.unwrap().unwrap();
    assert!(
        record.heads.contains(&expected),
        "the user brings its heads"
    );

    let now = next_time();
    let claimed = claim_only(stores, user, now).await.unwrap();
    assert!(stores.heads.finish(&claimed, now).await.unwrap());
    let applied = head(stores, key(user)).await.unwrap();
    assert_eq!(
        applied,
        Head {
            applied_version: 2,
            ..expected
        }
    );
}

async fn claim_only(stores: &Relational, user: UserId, now: Timestamp) -> Option<Claimed> {
    let mut claimed = stores
        .heads
        .claim(10, MINUTE, Some(key(user)), now)
        .await
        .unwrap();
    assert!(claimed.len() <= 1, "only this one: {claimed:?}");
    claimed.pop()
}

async fn versions_count_up_with_every_write(stores: &Relational) {
    let user = stores.user("An").await.id;
    assert_eq!(head(stores, key(user)).await.unwrap().version, 1);
    for (version, value) in [
        (2, json!({"a": 1})),
        (3, json!({"a": 2})),
        (4, json!({"a": 2})),
    ] {
        let written = write(stores, &put(user, &value)).await.unwrap();
        assert_eq!(
            written.head.version, version,
            "the same content counts as well"
        );
        assert_eq!(written.head.hash, document(&value).hash);
        assert!(!written.created);
        assert_eq!(head(stores, key(user)).await.as_ref(), Some(&written.head));
    }
    let preferences = DocumentKey {
        kind: DocumentKind::Preferences,
        ..key(user)
    };
    assert_eq!(
        head(stores, preferences).await.unwrap().version,
        1,
        "each document has its own"
    );
}

async fn a_write_for_another_version_changes_nothing(stores: &Relational) {
    let user = stores.user("An").await.id;
    let before = head(stores, key(user)).await;
    for version in [0, 2, i64::MAX] {
        for content in [Some(document(&json!({"a": 1}))), None] {
            let expected = Expected::Version(version);
            let refused = write(
                stores,
                &HeadWrite {
                    expected,
                    content,
                    ..delete(user)
                },
            )
            .await;
            assert!(is_mismatch(&refused, Some(1)), "{refused:?}");
        }
    }
    assert_eq!(head(stores, key(user)).await, before);
    let expected = Expected::Version(1);
    let written = write(
        stores,
        &HeadWrite {
            expected,
            ..put(user, &json!({"a": 1}))
        },
    )
    .await;
    assert_eq!(written.unwrap().head.version, 2);
}

async fn of_many_writes_for_one_version_at_once_one_succeeds(stores: &Relational) {
    let user = stores.user("An").await.id;
    for version in 1..=4 {
        let results = at_once(8, |index| {
            let expected = Expected::Version(version);
            let wanted = HeadWrite {
                expected,
                ..put(user, &json!({"by": index}))
            };
            let stores = stores.clone();
            async move { write(&stores, &wanted).await }
        })
        .await;
        let written: Vec<_> = results.iter().flatten().collect();
        assert_eq!(written.len(), 1, "{results:?}");
        assert_eq!(written[0].head.version, version + 1);
        assert_eq!(
            results
                .iter()
                .filter(|result| is_mismatch(result, Some(version + 1)))
                .count(),
            7
        );
        assert_eq!(
            head(stores, key(user)).await.as_ref(),
            Some(&written[0].head)
        );
    }
}

async fn a_document_must_be_absent_to_be_created(stores: &Relational) {
    let user = stores.user("An").await.id;
    let create = |value: &Value| HeadWrite {
        expected: Expected::Absent,
        ..put(user, value)
    };
    let refused = write(stores, &create(&json!({"a": 1}))).await;
    assert!(is_mismatch(&refused, Some(1)), "{refused:?}");
    write(stores, &delete(user)).await.unwrap();
    let created = write(stores, &create(&json!({"a": 1}))).await.unwrap();
    assert!(created.created);
    assert_eq!((created.head.version, created.head.deleted), (3, false));
    assert!(is_mismatch(
        &write(stores, &create(&json!({}))).await,
        Some(3)
    ));

    let fresh = user_without_heads(stores, "Binh").await;
    let created = write(
        stores,
        &HeadWrite {
            expected: Expected::Absent,
            ..put(fresh, &json!({"a": 1}))
        },
    )
    .await
    .unwrap();
    assert_eq!((created.created, created.head.version), (true, 1));
}

async fn a_deleted_document_counts_on(stores: &Relational) {
    let user = stores.user("An").await.id;
    let deleted = write(stores, &delete(user)).await.unwrap();
    assert_eq!(
        (deleted.head.version, deleted.head.deleted, deleted.created),
        (2, true, false)
    );
    assert_eq!(
        deleted.head.hash,
        <[u8; 32]>::from(Sha256::digest([])),
        "of nothing"
    );
    assert_eq!(deleted.head.image, None);
    assert_eq!(head(stores, key(user)).await, Some(deleted.head));
    let again = write(stores, &put(user, &json!({"a": 1}))).await.unwrap();
    assert_eq!(
        (again.head.version, again.head.deleted, again.created),
        (3, false, true)
    );
    let deleted = write(
        stores,
        &HeadWrite {
            expected: Expected::Version(3),
            ..delete(user)
        },
    )
    .await;
    assert_eq!(deleted.unwrap().head.version, 4);
}

async fn deleting_what_is_deleted_changes_nothing(stores: &Relational) {
    let user = stores.user("An").await.id;
    let first = write(stores, &delete(user)).await.unwrap();
    let again = write(stores, &delete(user)).await.unwrap();
    assert_eq!(again, first);
    assert_eq!(head(stores, key(user)).await, Some(first.head));

    let bare = user_without_heads(stores, "Binh").await;
    let nothing = write(stores, &delete(bare)).await.unwrap();
    assert!(nothing.head.deleted && !nothing.created);
    assert_eq!(stores.heads.heads(bare).await.unwrap(), Some(vec![]));
}

async fn a_document_of_nobody_is_not_found(stores: &Relational) {
    let nobody = UserId::new(at(0));
    assert_eq!(stores.heads.heads(nobody).await.unwrap(), None);
    for wanted in [put(nobody, &json!({})), delete(nobody)] {
        let refused = write(stores, &wanted).await;
        assert!(matches!(refused, Err(Error::NotFound)), "{refused:?}");
    }
}

fn importing(content: Option<NewDocument>, old: &Value, user: UserId) -> HeadWrite {
    HeadWrite {
        content,
        import: Some(document(old)),
        ..delete(user)
    }
}

async fn a_document_from_before_is_imported_as_version_0(stores: &Relational) {
    let old = json!({"from": "before"});
    let new = || Some(document(&json!({"from": "now"})));
    let user = user_without_heads(stores, "An").await;
    let absent = HeadWrite {
        expected: Expected::Absent,
        ..importing(new(), &old, user)
    };
    let refused = write(stores, &absent).await;
    assert!(is_mismatch(&refused, Some(0)), "it is there: {refused:?}");
    let zero = HeadWrite {
        expected: Expected::Version(0),
        ..importing(new(), &old, user)
    };
    let written = write(stores, &zero).await.unwrap();
    assert_eq!((written.head.version, written.created), (1, false));
    assert_eq!(written.head.hash, document(&json!({"from": "now"})).hash);

    // Deleting it leaves a tombstone that is newer than what was there.
    let other = user_without_heads(stores, "Binh").await;
    let deleted = write(stores, &importing(None, &old, other)).await.unwrap();
    assert_eq!((deleted.head.version, deleted.head.deleted), (1, true));
}

async fn an_import_never_replaces_a_head(stores: &Relational) {
    let user = stores.user("An").await.id;
    let stale = json!({"stale": true});
    let expected = Expected::Version(1);
    let content = Some(document(&json!({"new": true})));
    let written = write(
        stores,
        &HeadWrite {
            expected,
            ..importing(content, &stale, user)
        },
    )
    .await;
    assert_eq!(written.unwrap().head.version, 2);
    write(stores, &delete(user)).await.unwrap();
    // A tombstone is a head: what was deleted does not come back.
    let dead = write(stores, &importing(None, &stale, user)).await.unwrap();
    assert_eq!((dead.head.version, dead.head.deleted), (3, true));
}

async fn two_first_writes_at_once_both_settle_and_the_newer_wins(stores: &Relational) {
    for round in 0..6 {
        let user = user_without_heads(stores, &format!("An-{round}")).await;
        let old = json!({"from": "before"});
        let written = at_once(2, |index| {
            let content = Some(document(&json!({"by": index})));
            // With and without a document from before, by turns.
            let wanted = if round % 2 == 0 {
                HeadWrite {
                    content,
                    ..delete(user)
                }
            } else {
                importing(content, &old, user)
            };
            let stores = stores.clone();
            async move { write(&stores, &wanted).await.unwrap().head }
        })
        .await;
        let versions: BTreeSet<_> = written.iter().map(|head| head.version).collect();
        assert_eq!(versions, BTreeSet::from([1, 2]));
        let newer = written.iter().max_by_key(|head| head.version).unwrap();
        assert_eq!(head(stores, key(user)).await.as_ref(), Some(newer));
    }
}

async fn a_raised_epoch_is_newer_than_all_before(stores: &Relational) {
    let user = stores.user("An").await.id;
    stores
        .raw
        .execute("UPDATE document_epoch SET epoch = 3")
        .await
        .unwrap();
    let first = (3 << EPOCH_SHIFT) + 1;
    let written = write(stores, &put(user, &json!({"a": 1}))).await.unwrap();
    assert_eq!(written.head.version, first);
    let expected = Expected::Version(first);
    let next = write(
        stores,
        &HeadWrite {
            expected,
            ..put(user, &json!({"a": 2}))
        },
    )
    .await
    .unwrap();
    assert_eq!(next.head.version, first + 1);
    let later = stores.user("Binh").await;
    assert!(
        later.heads.iter().all(|head| head.version == first),
        "{:?}",
        later.heads
    );
    let deleted = write(stores, &delete(later.id)).await.unwrap();
    assert_eq!(deleted.head.version, first + 1);
}

async fn every_write_leaves_one_version(stores: &Relational) {
    let user = stores.user("An").await.id;
    let written = at_once(20, |index| {
        let (stores, wanted) = (stores.clone(), put(user, &json!({"by": index})));
        async move { write(&stores, &wanted).await.unwrap().head }
    })
    .await;
    let versions: BTreeSet<_> = written.iter().map(|head| head.version).collect();
    assert_eq!(versions, (2..=21).collect());
    let newest = written.iter().max_by_key(|head| head.version).unwrap();
    let stands = head(stores, key(user)).await.unwrap();
    assert_eq!((stands.version, stands.hash), (newest.version, newest.hash));
}

/// Applies the first documents of all users, so that only what follows is due.
async fn drained(stores: &Relational) -> Timestamp {
    let now = next_time();
    for claimed in stores.heads.claim(1_000, MINUTE, None, now).await.unwrap() {
        assert!(stores.heads.finish(&claimed, now).await.unwrap());
    }
    assert_eq!(stores.heads.backlog().await.unwrap().pending, 0);
    now
}

async fn claim(stores: &Relational, now: Timestamp) -> Vec<Claimed> {
    stores.heads.claim(10, MINUTE, None, now).await.unwrap()
}

async fn several_writes_become_one_apply_of_the_newest(stores: &Relational) {
    let user = stores.user("An").await.id;
    drained(stores).await;
    for index in 0..3 {
        write(stores, &put(user, &json!({"n": index})))
            .await
            .unwrap();
    }
    assert_eq!(stores.heads.backlog().await.unwrap().pending, 1);
    let claimed = claim(stores, next_time()).await;
    assert_eq!(claimed.len(), 1);
    let newest = document(&json!({"n": 2}));
    assert_eq!((claimed[0].key, claimed[0].version), (key(user), 4));
    assert_eq!(
        (claimed[0].hash, claimed[0].image.as_ref()),
        (newest.hash, Some(&newest.canonical))
    );
    assert_eq!(claimed[0].attempts, 1);
}

async fn a_tombstone_is_claimed_like_any_version(stores: &Relational) {
    let user = stores.user("An").await.id;
    drained(stores).await;
    write(stores, &delete(user)).await.unwrap();
    let now = next_time();
    let claimed = claim(stores, now).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!((claimed[0].version, claimed[0].image.as_ref()), (2, None));
    assert!(stores.heads.finish(&claimed[0], now).await.unwrap());
    let applied = head(stores, key(user)).await.unwrap();
    assert_eq!((applied.deleted, applied.applied_version), (true, 2));
    assert!(claim(stores, now.plus(10 * MINUTE)).await.is_empty());
}

/// One write that is due; the time after it.
async fn one_due(stores: &Relational) -> (UserId, Timestamp) {
    let user = stores.user("An").await.id;
    drained(stores).await;
    write(stores, &put(user, &json!({"n": 1}))).await.unwrap();
    (user, next_time())
}

async fn a_leased_head_is_nobody_else_s(stores: &Relational) {
    let (user, now) = one_due(stores).await;
    assert_eq!(claim(stores, now).await.len(), 1);
    assert!(claim(stores, now).await.is_empty());
    assert_eq!(
        claim_only(stores, user, now).await,
        None,
        "not by name either"
    );
    assert!(
        claim(stores, now.plus(Duration::from_secs(59)))
            .await
            .is_empty()
    );
    assert_eq!(
        stores.heads.backlog().await.unwrap().pending,
        1,
        "it still is to be done"
    );
}

async fn a_lease_that_ran_out_is_given_again_and_attempts_count(stores: &Relational) {
    let (_user, now) = one_due(stores).await;
    let mut leases = BTreeSet::new();
    for attempt in 1..=4 {
        let claimed = claim(stores, now.plus(attempt * 2 * MINUTE)).await;
        assert_eq!(claimed.len(), 1);
        assert_eq!(
            u32::try_from(claimed[0].attempts),
            Ok(attempt),
            "a crash counts too"
        );
        assert!(leases.insert(claimed[0].lease), "each lease is another");
    }
}

async fn finishing_needs_the_lease(stores: &Relational) {
    let (user, now) = one_due(stores).await;
    let slow = claim(stores, now).await.remove(0);
    let later = now.plus(2 * MINUTE);
    let quick = claim(stores, later).await.remove(0);
    assert!(
        !stores.heads.finish(&slow, later).await.unwrap(),
        "its lease is another's now"
    );
    assert_eq!(head(stores, key(user)).await.unwrap().applied_version, 1);
    assert!(stores.heads.finish(&quick, later).await.unwrap());
    assert_eq!(head(stores, key(user)).await.unwrap().applied_version, 2);
    assert!(
        !stores.heads.finish(&quick, later).await.unwrap(),
        "it is finished already"
    );
    assert!(claim(stores, later.plus(10 * MINUTE)).await.is_empty());
    assert_eq!(stores.heads.backlog().await.unwrap(), Backlog::default());
}

async fn finishing_needs_the_version(stores: &Relational) {
    let (user, now) = one_due(stores).await;
    let claimed = claim(stores, now).await.remove(0);
    write(stores, &put(user, &json!({"n": 2}))).await.unwrap();
    assert!(!stores.heads.finish(&claimed, now).await.unwrap());
    let stands = head(stores, key(user)).await.unwrap();
    assert_eq!((stands.version, stands.applied_version), (3, 1));
    assert!(stands.image.is_some());
    // Nor with the right version and no lease.
    let guessed = Claimed {
        version: 3,
        lease: uuid::Uuid::new_v4(),
        ..claimed.clone()
    };
    assert!(!stores.heads.finish(&guessed, now).await.unwrap());
    let older = Claimed {
        version: 1,
        ..claimed
    };
    assert!(!stores.heads.finish(&older, now).await.unwrap());
    assert_eq!(head(stores, key(user)).await.unwrap().applied_version, 1);
}

async fn a_write_under_a_lease_is_due_and_not_lost(stores: &Relational) {
    let (user, now) = one_due(stores).await;
    let old = claim(stores, now).await.remove(0);
    let newest = document(&json!({"n": 2}));
    write(stores, &put(user, &json!({"n": 2}))).await.unwrap();
    stores.heads.finish(&old, now).await.unwrap();
    stores
        .heads
        .release(&old, now.plus(100 * MINUTE), false)
        .await
        .unwrap();
    // At the latest when the old lease has run out.
    let claimed = claim(stores, now.plus(2 * MINUTE)).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!((claimed[0].version, claimed[0].hash), (3, newest.hash));
    assert!(
        stores
            .heads
            .finish(&claimed[0], now.plus(2 * MINUTE))
            .await
            .unwrap()
    );
    assert_eq!(head(stores, key(user)).await.unwrap().applied_version, 3);
}

async fn a_released_head_waits_until_its_time(stores: &Relational) {
    let (user, now) = one_due(stores).await;
    let claimed = claim(stores, now).await.remove(0);
    let next_at = now.plus(5 * MINUTE);
    stores
        .heads
        .release(&claimed, next_at, false)
        .await
        .unwrap();
    assert!(
        claim(stores, next_at.minus(Duration::from_secs(1)))
            .await
            .is_empty()
    );
    assert!(
        !stores.heads.finish(&claimed, now).await.unwrap(),
        "the lease was given back"
    );
    let again = claim(stores, next_at).await;
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].key, again[0].attempts), (key(user), 2));
    assert_eq!(again[0].image, claimed.image);
}

async fn releasing_needs_the_lease(stores: &Relational) {
    let (_user, now) = one_due(stores).await;
    let slow = claim(stores, now).await.remove(0);
    let later = now.plus(2 * MINUTE);
    let quick = claim(stores, later).await.remove(0);
    stores
        .heads
        .release(&slow, later.plus(1_000 * MINUTE), true)
        .await
        .unwrap();
    assert_eq!(stores.heads.backlog().await.unwrap().foreign, 0);
    assert!(
        stores.heads.finish(&quick, later).await.unwrap(),
        "the other's lease still holds"
    );
}

async fn one_head_is_claimed_by_name_whatever_its_time(stores: &Relational) {
    let (user, now) = one_due(stores).await;
    let other = stores.user("Binh").await.id;
    let claimed = claim_only(stores, user, now).await.expect("it is due");
    assert_eq!(claimed.key, key(user));
    stores
        .heads
        .release(&claimed, now.plus(100 * MINUTE), false)
        .await
        .unwrap();
    let again = claim_only(stores, user, now)
        .await
        .expect("whatever its time");
    assert_eq!(again.attempts, 2);
    assert!(stores.heads.finish(&again, now).await.unwrap());
    assert_eq!(
        claim_only(stores, user, now.plus(200 * MINUTE)).await,
        None,
        "nothing is to be done"
    );
    assert!(claim_only(stores, other, now).await.is_some());
    assert_eq!(claim_only(stores, UserId::new(at(0)), now).await, None);
}

async fn a_foreign_document_is_set_aside(stores: &Relational) {
    let (user, now) = one_due(stores).await;
    let claimed = claim(stores, now).await.remove(0);
    stores.heads.release(&claimed, now, true).await.unwrap();
    assert!(claim(stores, now.plus(1_000 * MINUTE)).await.is_empty());
    assert_eq!(
        claim_only(stores, user, now.plus(1_000 * MINUTE)).await,
        None
    );
    assert_eq!(stores.heads.backlog().await.unwrap().foreign, 1);
    let stands = head(stores, key(user)).await.unwrap();
    assert_eq!((stands.version, stands.applied_version), (2, 1));
    assert!(stands.image.is_some(), "what was accepted is kept");
}

async fn heads_are_claimed_oldest_first_and_bounded(stores: &Relational) {
    let mut users = Vec::new();
    for index in 0..5 {
        users.push(stores.user(&format!("user-{index}")).await.id);
    }
    drained(stores).await;
    let base = at(500_000);
    // Written in another order than they were made in.
    for (seconds, index) in [3, 0, 4, 1, 2].into_iter().enumerate() {
        let at = base.plus(Duration::from_secs(u64::try_from(seconds).unwrap()));
        write(
            stores,
            &HeadWrite {
                at,
                ..put(users[index], &json!({}))
            },
        )
        .await
        .unwrap();
    }
    let now = base.plus(MINUTE);
    let first = stores.heads.claim(2, MINUTE, None, now).await.unwrap();
    let rest = stores.heads.claim(200, MINUTE, None, now).await.unwrap();
    let order: Vec<_> = first
        .iter()
        .chain(&rest)
        .map(|claimed| {
            users
                .iter()
                .position(|user| *user == claimed.key.user_id)
                .unwrap()
        })
        .collect();
    assert_eq!((first.len(), rest.len()), (2, 3));
    assert_eq!(order, [3, 0, 4, 1, 2]);
}

async fn no_head_is_claimed_twice_by_workers_at_once(stores: &Relational) {
    for index in 0..15 {
        stores.user(&format!("user-{index}")).await;
    }
    let now = next_time();
    let claims = at_once(8, |_worker| {
        let stores = stores.clone();
        async move {
            let mut mine = Vec::new();
            loop {
                let claimed = stores.heads.claim(3, MINUTE, None, now).await.unwrap();
                if claimed.is_empty() {
                    return mine;
                }
                mine.extend(claimed);
            }
        }
    })
    .await;
    let claims: Vec<_> = claims.into_iter().flatten().collect();
    let keys: BTreeSet<_> = claims.iter().map(|claimed| claimed.key).collect();
    assert_eq!(claims.len(), 30, "two documents of each user, each once");
    assert_eq!(keys.len(), 30);
    assert!(claims.iter().all(|claimed| claimed.attempts == 1));
}

async fn images_are_purged_once_applied_and_old(stores: &Relational) {
    let mut users = Vec::new();
    for index in 0..4 {
        users.push(stores.user(&format!("user-{index}")).await.id);
    }
    let applied_at = drained(stores).await;
    let pending = put(users[0], &json!({"n": 1}));
    write(stores, &pending).await.unwrap();
    let images = "SELECT count(*) FROM document_heads WHERE image IS NOT NULL";
    assert_eq!(stores.raw.number(images).await, 8);

    assert_eq!(
        stores.heads.purge_images(applied_at, 100).await.unwrap(),
        0,
        "not old yet"
    );
    let later = applied_at.plus(1_000 * MINUTE);
    assert_eq!(stores.heads.purge_images(later, 3).await.unwrap(), 3);
    assert_eq!(stores.heads.purge_images(later, 100).await.unwrap(), 4);
    assert_eq!(stores.heads.purge_images(later, 100).await.unwrap(), 0);
    let kept = head(stores, key(users[0])).await.unwrap();
    assert_eq!(
        kept.image.as_deref(),
        Some(r#"{"n":1}"#),
        "not applied, however old"
    );
    let purged = head(stores, key(users[1])).await.unwrap();
    assert_eq!(
        (purged.version, purged.applied_version, purged.image),
        (1, 1, None)
    );
    assert_eq!(purged.hash, document(&json!({})).hash);
    assert_eq!(stores.heads.backlog().await.unwrap().pending, 1);
}

async fn the_backlog_says_how_far_behind_the_document_store_is(stores: &Relational) {
    assert_eq!(stores.heads.backlog().await.unwrap(), Backlog::default());
    let user = stores.user("An").await;
    let behind = stores.heads.backlog().await.unwrap();
    assert_eq!((behind.pending, behind.foreign), (2, 0));
    assert_eq!(behind.oldest, Some(user.created_at));
    drained(stores).await;
    assert_eq!(stores.heads.backlog().await.unwrap(), Backlog::default());
    let late = put(user.id, &json!({}));
    write(stores, &late).await.unwrap();
    let behind = stores.heads.backlog().await.unwrap();
    assert_eq!((behind.pending, behind.oldest), (1, Some(late.at)));
}
