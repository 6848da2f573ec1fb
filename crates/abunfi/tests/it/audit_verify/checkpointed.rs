//! Tampering that leaves the rows consistent is found by checkpoints, and tampering with those by what was
//! published.

use abunfi::audit::checkpoint::Signer;
use abunfi::audit::verify::{Anchor, Newest, Options, Place};
use abunfi::audit::{Attempt, Entry, GENESIS};
use abunfi::clock::Timestamp;
use abunfi::ids::UserId;

use super::{
    Books, assert_only, at, books, bytes, checkpoint, id, row, tamper, verify, verify_with,
};
use crate::support::make::{deposit, next_time};
use crate::support::{Backend, Relational, on_every_backend};

on_every_backend!(
    an_edited_root_is_found,
    an_edited_time_of_a_checkpoint_is_found,
    a_checkpoint_that_goes_back_is_found,
    an_edited_leaf_change_is_found,
    an_edited_signature_is_found,
    another_key_is_found,
    a_key_that_was_added_late_vouches_for_what_was_before,
    after_a_signed_checkpoint_none_is_made_without_a_key,
    a_key_that_is_demanded_demands_a_checkpoint,
    a_deleted_checkpoint_is_found,
    the_deleted_newest_checkpoint_is_found,
    newest_rows_that_were_cut_off_are_found,
    a_chain_that_was_written_anew_is_found,
    a_chain_that_was_written_anew_and_did_not_grow_is_found,
    an_anchor_proves_what_it_covers,
    an_anchor_finds_checkpoints_that_were_cut_off,
    an_anchor_finds_checkpoints_that_were_written_anew,
);

pub(super) fn number(number: i64) -> Place {
    Place::Checkpoint { number }
}

/// Two checkpoints, with a deposit between them.
async fn two(stores: &Relational) -> Books {
    let books = books(stores).await;
    checkpoint(stores).await;
    stores.posted(deposit(books.an, 1)).await;
    checkpoint(stores).await;
    books
}

async fn an_edited_root_is_found(stores: &Relational) {
    two(stores).await;
    let root = stores.checkpoints.checkpoints(0, 1).await.unwrap()[0].root;
    let forged = bytes(stores, &[1; 32]);
    let sql = format!("UPDATE checkpoints SET root = {forged} WHERE number = 1");
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let finding = at(&report, &number(1), "root");
    assert_eq!(finding.expected, hex::encode(root));
    assert_eq!(finding.found, "01".repeat(32));
    at(&report, &number(1), "hash");
    assert_eq!(report.disagreements, 2, "{:#?}", report.findings);
}

async fn an_edited_time_of_a_checkpoint_is_found(stores: &Relational) {
    two(stores).await;
    let sql = "UPDATE checkpoints SET at = (SELECT max(at) FROM checkpoints AS c) WHERE number = 1";
    tamper(stores, &[sql.to_owned()]).await;
    let report = verify(stores).await;
    at(&report, &number(1), "hash");
    assert_eq!(report.disagreements, 1, "{:#?}", report.findings);
}

/// With a good hash, as whoever makes them without a key can.
async fn a_checkpoint_that_goes_back_is_found(stores: &Relational) {
    two(stores).await;
    let mut both = stores.checkpoints.checkpoints(0, 2).await.unwrap();
    let (mut newest, first) = (both.pop().unwrap(), both.pop().unwrap());
    newest.at = Timestamp::from_micros(first.at.micros() - 60_000_000);
    let hash = bytes(stores, &newest.computed_hash());
    let earlier = match stores.backend {
        Backend::Postgres => "(SELECT at - interval '1 minute' FROM checkpoints WHERE number = 1)",
        Backend::Sqlite => "(SELECT at - 60000000 FROM checkpoints WHERE number = 1)",
    };
    let sql = format!(
        "UPDATE checkpoints SET at = {earlier}, hash = {hash}, public_key = NULL, signature = NULL
         WHERE number = 2"
    );
    tamper(stores, &[sql]).await;
    assert_only(
        &verify(stores).await,
        &number(2),
        "at",
        "more rows than the one before, not fewer chains, not earlier",
        &newest.at.to_string(),
    );
}

async fn an_edited_leaf_change_is_found(stores: &Relational) {
    two(stores).await;
    let root = stores.checkpoints.checkpoints(0, 1).await.unwrap()[0].root;
    let forged = bytes(stores, &[1; 32]);
    let sql = format!("UPDATE leaf_changes SET hash = {forged} WHERE leaf = 0 AND checkpoint = 1");
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let finding = at(&report, &number(1), "root");
    assert_eq!(finding.found, hex::encode(root));
    // And the row that it names is not what it says.
    let row = report
        .findings
        .iter()
        .find(|finding| matches!(finding.place, Place::AuditRow { .. }))
        .unwrap();
    assert_eq!(
        row.expected,
        format!("{}, as checkpoint 1 has it", "01".repeat(32))
    );
}

async fn an_edited_signature_is_found(stores: &Relational) {
    two(stores).await;
    let forged = bytes(stores, &[1; 64]);
    let sql = format!("UPDATE checkpoints SET signature = {forged} WHERE number = 2");
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    at(&report, &number(2), "signature");
    assert_eq!(report.disagreements, 1);
}

async fn another_key_is_found(stores: &Relational) {
    two(stores).await;
    let key = |seed| Signer::of_seed(&[seed; 32]).public_key();
    let with = |public_keys| Options {
        public_keys,
        ..Options::default()
    };
    let report = verify_with(stores, &with(vec![key(8), key(3)])).await;
    assert!(report.clean, "{:#?}", report.findings);
    let report = verify_with(stores, &with(vec![key(8)])).await;
    let finding = at(&report, &number(1), "public_key");
    assert_eq!(finding.found, hex::encode(key(3)));
    assert_eq!(report.disagreements, 2);
    // Not signed at all.
    unsigned(stores, 2).await;
    let report = verify_with(stores, &with(vec![key(3)])).await;
    assert_only(
        &report,
        &number(2),
        "public_key",
        "one of the keys that were given",
        "nothing",
    );
    assert_eq!(report.newest.signed_from, None);
}

/// As from before there was a rule that none is made after a signed one.
pub(super) async fn unsigned(stores: &Relational, number: i64) {
    let sql = format!(
        "UPDATE checkpoints SET public_key = NULL, signature = NULL WHERE number = {number}"
    );
    tamper(stores, &[sql]).await;
}

async fn a_key_that_was_added_late_vouches_for_what_was_before(stores: &Relational) {
    let books = books(stores).await;
    let options = Options {
        public_keys: vec![Signer::of_seed(&[3; 32]).public_key()],
        ..Options::default()
    };
    for _ in 0..2 {
        stores.posted(deposit(books.an, 1)).await;
        let made = stores.checkpoints.make_checkpoint(None, next_time(), 100);
        assert!(matches!(made.await, Ok(Attempt::Made { .. })));
    }
    let report = verify_with(stores, &options).await;
    at(&report, &number(2), "public_key");
    assert_eq!(report.disagreements, 1, "{:#?}", report.findings);
    let mut newest = None;
    for _ in 0..3 {
        stores.posted(deposit(books.an, 1)).await;
        newest = Some(checkpoint(stores).await);
    }
    let newest = newest.unwrap();
    let report = verify_with(stores, &options).await;
    assert!(report.clean, "{:#?}", report.findings);
    let of = Newest {
        ledger_id: newest.ledger_id,
        checkpoint: 5,
        checkpoint_hash: Some(hex::encode(newest.hash)),
        signed_by: newest.seal.map(|seal| hex::encode(seal.public_key)),
        signed_from: Some(3),
    };
    assert_eq!(report.newest, of);
    // One after the first signature: somebody without a key put it there, whatever was signed over it later.
    unsigned(stores, 4).await;
    let report = verify_with(stores, &options).await;
    at(&report, &number(4), "public_key");
    assert_eq!(report.disagreements, 1, "{:#?}", report.findings);
    assert_eq!(report.newest.signed_from, Some(5));
    // And if it is another than that signature is over, that is found, too.
    let mut forged = stores.checkpoints.checkpoints(3, 1).await.unwrap()[0].clone();
    forged.at = forged.at.plus(std::time::Duration::from_micros(1));
    let later = match stores.backend {
        Backend::Postgres => "at + interval '1 microsecond'",
        Backend::Sqlite => "at + 1",
    };
    let hash = bytes(stores, &forged.computed_hash());
    let sql = format!("UPDATE checkpoints SET at = {later}, hash = {hash} WHERE number = 4");
    tamper(stores, &[sql]).await;
    let report = verify_with(stores, &options).await;
    at(&report, &number(5), "previous_hash");
    assert_eq!(report.disagreements, 2, "{:#?}", report.findings);
}

async fn after_a_signed_checkpoint_none_is_made_without_a_key(stores: &Relational) {
    two(stores).await;
    let without = || {
        stores
            .checkpoints
            .make_checkpoint(None, next_time(), 10_000)
    };
    assert_eq!(
        without().await.unwrap(),
        Attempt::Nothing { more: false },
        "nothing is refused where nothing is new"
    );
    stores.user_with("Chi", 5).await;
    for _ in 0..2 {
        let refused = without().await.unwrap();
        assert_eq!(refused, Attempt::NeedsKey { newest: 2 });
    }
    assert_eq!(checkpoint(stores).await.number, 3, "what was new is in it");
    assert!(verify(stores).await.clean);
}

async fn a_key_that_is_demanded_demands_a_checkpoint(stores: &Relational) {
    books(stores).await;
    assert!(verify(stores).await.clean, "none was demanded");
    let options = Options {
        public_keys: vec![Signer::of_seed(&[3; 32]).public_key()],
        ..Options::default()
    };
    assert_only(
        &verify_with(stores, &options).await,
        &number(1),
        "public_key",
        "a checkpoint signed by one of the keys that were given",
        "no checkpoint",
    );
}

async fn a_deleted_checkpoint_is_found(stores: &Relational) {
    two(stores).await;
    tamper(
        stores,
        &["DELETE FROM checkpoints WHERE number = 1".to_owned()],
    )
    .await;
    let report = verify(stores).await;
    let finding = at(&report, &number(1), "row");
    assert_eq!(
        (finding.expected.as_str(), finding.found.as_str()),
        ("a checkpoint", "no checkpoint")
    );
    assert_eq!(report.disagreements, 1, "{:#?}", report.findings);
}

/// What it changed in the tree is still there.
async fn the_deleted_newest_checkpoint_is_found(stores: &Relational) {
    two(stores).await;
    for newest in [2, 1] {
        let sql = format!("DELETE FROM checkpoints WHERE number = {newest}");
        tamper(stores, &[sql]).await;
        let report = verify(stores).await;
        assert_only(
            &report,
            &number(newest),
            "row",
            "a checkpoint",
            "no checkpoint",
        );
    }
}

/// Takes An's newest deposit back, as if it had never been: rows, entries, transaction, balance, head.
pub(super) async fn cut_off(stores: &Relational, user: UserId) {
    let rows = stores.check_chain(user, "VND").await;
    let [.., before, last] = rows.as_slice() else {
        panic!("too few rows");
    };
    let (user, tx) = (
        id(stores, user.0),
        id(stores, last.transaction_id.unwrap().0),
    );
    let of = format!("WHERE user_id = {user} AND transaction_id = {tx}");
    let hash = bytes(stores, &before.hash);
    tamper(
        stores,
        &[
            format!("DELETE FROM entries {of}"),
            format!("DELETE FROM audit {of}"),
            format!("DELETE FROM transactions {of}"),
            format!(
                "UPDATE accounts SET available = available - 1000000, deposited = deposited - 1000000,
                     version = {}, chain_hash = {hash}, chain_at = (SELECT max(at) FROM audit
                         WHERE user_id = {user} AND chain = 'VND')
                 WHERE user_id = {user} AND asset = 'VND'",
                before.seq
            ),
        ],
    )
    .await;
}

async fn newest_rows_that_were_cut_off_are_found(stores: &Relational) {
    let books = books(stores).await;
    stores.posted(deposit(books.an, 1)).await;
    let newest = stores.check_chain(books.an, "VND").await.pop().unwrap();
    cut_off(stores, books.an).await;
    let report = verify(stores).await;
    assert!(
        report.clean,
        "nothing tells of it yet: {:#?}",
        report.findings
    );
    stores.posted(deposit(books.an, 1)).await;
    checkpoint(stores).await;
    let covered = stores.check_chain(books.an, "VND").await.pop().unwrap();
    assert_ne!(covered.hash, newest.hash);
    cut_off(stores, books.an).await;
    let report = verify(stores).await;
    let expected = format!(
        "a row with the hash {}, as checkpoint 1 has it",
        hex::encode(covered.hash)
    );
    assert_only(
        &report,
        &row(books.an, covered.seq),
        "row",
        &expected,
        "no row",
    );
}

/// Every row from `seq` on with another request, and new hashes for all of them.
pub(super) async fn write_anew(stores: &Relational, user: UserId, from: i64) -> Vec<Entry> {
    let mut rows = stores.check_chain(user, "VND").await;
    let mut before = GENESIS;
    let mut statements = Vec::new();
    let owner = id(stores, user.0);
    for entry in &mut rows {
        if entry.seq >= from {
            entry.previous_hash = before;
            entry.request_id = "another".into();
            entry.hash = entry.computed_hash();
            statements.push(format!(
                "UPDATE audit SET request_id = 'another', previous_hash = {}, hash = {}
                 WHERE user_id = {owner} AND chain = 'VND' AND seq = {}",
                bytes(stores, &entry.previous_hash),
                bytes(stores, &entry.hash),
                entry.seq
            ));
        }
        before = entry.hash;
    }
    statements.push(format!(
        "UPDATE accounts SET chain_hash = {} WHERE user_id = {owner} AND asset = 'VND'",
        bytes(stores, &before)
    ));
    tamper(stores, &statements).await;
    rows
}

async fn a_chain_that_was_written_anew_is_found(stores: &Relational) {
    written_anew(stores, true).await;
}

/// Its head is where the checkpoint has it, but for the hash.
async fn a_chain_that_was_written_anew_and_did_not_grow_is_found(stores: &Relational) {
    written_anew(stores, false).await;
}

async fn written_anew(stores: &Relational, grows: bool) {
    let books = books(stores).await;
    write_anew(stores, books.an, 3).await;
    let report = verify(stores).await;
    assert!(
        report.clean,
        "nothing tells of it yet: {:#?}",
        report.findings
    );
    checkpoint(stores).await;
    let covered = stores.check_chain(books.an, "VND").await.pop().unwrap();
    if grows {
        stores.posted(deposit(books.an, 1)).await;
    }
    let rows = write_anew(stores, books.an, 2).await;
    let now = &rows[usize::try_from(covered.seq).unwrap() - 1];
    let report = verify(stores).await;
    let since = Options {
        since: Some(1),
        ..Options::default()
    };
    let expected = format!("{}, as checkpoint 1 has it", hex::encode(covered.hash));
    for report in [report, verify_with(stores, &since).await] {
        assert_only(
            &report,
            &row(books.an, covered.seq),
            "hash",
            &expected,
            &hex::encode(now.hash),
        );
    }
}

async fn an_anchor_proves_what_it_covers(stores: &Relational) {
    let books = books(stores).await;
    let first = checkpoint(stores).await;
    stores.posted(deposit(books.an, 1)).await;
    checkpoint(stores).await;
    stores.posted(deposit(books.an, 1)).await;
    let anchor = Some(Anchor {
        number: 1,
        hash: first.hash,
    });
    let report = verify_with(
        stores,
        &Options {
            anchor,
            ..Options::default()
        },
    )
    .await;
    assert!(report.clean, "{:#?}", report.findings);
    assert_eq!(report.checkpoints.anchored, Some(1));
    assert_eq!(report.checkpoints.not_anchored, Some(1));
    assert_eq!(report.read.not_checkpointed, 1);
}

async fn an_anchor_finds_checkpoints_that_were_cut_off(stores: &Relational) {
    two(stores).await;
    let second = stores
        .checkpoints
        .newest_checkpoint()
        .await
        .unwrap()
        .unwrap();
    tamper(
        stores,
        &[
            "DELETE FROM checkpoints WHERE number = 2".to_owned(),
            "DELETE FROM leaf_changes WHERE checkpoint = 2".to_owned(),
        ],
    )
    .await;
    assert!(
        verify(stores).await.clean,
        "nothing in the database tells of it"
    );
    let anchor = Some(Anchor {
        number: 2,
        hash: second.hash,
    });
    let report = verify_with(
        stores,
        &Options {
            anchor,
            ..Options::default()
        },
    )
    .await;
    let expected = format!("the published one, {}", hex::encode(second.hash));
    assert_only(&report, &number(2), "row", &expected, "no checkpoint");
    assert_eq!(report.checkpoints.anchored, None);
}

async fn an_anchor_finds_checkpoints_that_were_written_anew(stores: &Relational) {
    let books = books(stores).await;
    let published = checkpoint(stores).await;
    write_anew(stores, books.an, 1).await;
    tamper(
        stores,
        &[
            "DELETE FROM checkpoints".to_owned(),
            "DELETE FROM leaf_changes".to_owned(),
            "DELETE FROM chain_leaves".to_owned(),
            "DELETE FROM merkle_tiles".to_owned(),
            "UPDATE checkpoint_state SET since = 0, until = NULL".to_owned(),
        ],
    )
    .await;
    let forged = checkpoint(stores).await;
    assert!(
        verify(stores).await.clean,
        "nothing in the database tells of it"
    );
    let anchor = Some(Anchor {
        number: 1,
        hash: published.hash,
    });
    let report = verify_with(
        stores,
        &Options {
            anchor,
            ..Options::default()
        },
    )
    .await;
    let expected = format!("{}, as published", hex::encode(published.hash));
    assert_only(
        &report,
        &number(1),
        "hash",
        &expected,
        &hex::encode(forged.hash),
    );
}
