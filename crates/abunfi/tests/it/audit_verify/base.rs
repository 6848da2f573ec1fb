//! What `--since` begins with: the checkpoint and where it has each chain. It is proved and not believed, and what
//! was before it is not read again.

use std::sync::Arc;

use abunfi::audit::LeafState;
use abunfi::audit::checkpoint::Signer;
use abunfi::audit::verify::{Options, Place, Report, Verifier};
use abunfi::ids::UserId;

use super::checkpointed::{cut_off, number, unsigned, write_anew};
use super::tampering::copy;
use super::{
    Books, assert_only, at, books, bytes, checkpoint, id, row, tamper, verify, verify_with,
};
use crate::support::counted::{Counted, Rows};
use crate::support::make::{Shape as _, deposit};
use crate::support::{Relational, on_every_backend};

on_every_backend!(
    a_leaf_that_was_edited_with_its_chain_and_its_tile_is_found,
    a_leaf_that_was_added_to_what_the_checkpoint_had_is_found,
    a_leaf_that_no_checkpoint_covers_is_found,
    a_leaf_of_a_negative_number_is_told_of_once,
    leaves_as_of_a_checkpoint_are_the_same_in_pages_of_any_size,
    a_leaf_that_was_taken_from_what_the_checkpoint_had_is_found,
    the_known_head_of_a_chain_that_went_on_is_proved,
    checkpoints_after_it_are_judged,
    changes_of_checkpoints_after_it_are_judged,
    checkpoints_before_it_are_chained_and_signed,
    a_checkpoint_that_is_not_there_is_no_base,
    a_row_that_was_added_without_a_checkpoint_is_found,
    a_chain_that_was_cut_back_to_where_it_was_is_found,
    a_later_chain_that_is_gone_is_found,
    a_change_of_no_checkpoint_is_found,
    what_the_checkpoints_before_changed_is_not_read_again,
    many_users_with_few_new_rows_are_not_read_whole,
);

fn after(number: i64) -> Options {
    Options {
        since: Some(number),
        ..Options::default()
    }
}

async fn since(stores: &Relational, number: i64) -> Report {
    verify_with(stores, &after(number)).await
}

/// Three checkpoints: the second and the third have a deposit each more of An.
async fn three(stores: &Relational) -> Books {
    let books = books(stores).await;
    checkpoint(stores).await;
    for _ in 0..2 {
        stores.posted(deposit(books.an, 1)).await;
        checkpoint(stores).await;
    }
    for number in 1..=3 {
        let report = since(stores, number).await;
        assert!(report.clean, "{number}: {:#?}", report.findings);
    }
    books
}

/// The leaf of a user's chain in VND.
async fn leaf_of(stores: &Relational, user: UserId) -> LeafState {
    let mut leaves = stores
        .checkpoints
        .leaves_of(user, Some("VND"), i64::MAX)
        .await
        .unwrap();
    leaves.pop().expect("a leaf")
}

/// Rows, head, leaf and stored tree say the same: only the root does not.
async fn a_leaf_that_was_edited_with_its_chain_and_its_tile_is_found(stores: &Relational) {
    let books = three(stores).await;
    let binh = *stores
        .all_users()
        .await
        .iter()
        .find(|user| **user != books.an)
        .unwrap();
    let forged = write_anew(stores, binh, 1).await.pop().unwrap().head();
    let leaf = leaf_of(stores, binh).await.leaf;
    let hash = bytes(stores, &forged.hash);
    let (_, mut hashes) = stores.checkpoints.tiles(&[(0, 0)]).await.unwrap().remove(0);
    hashes[usize::try_from(leaf.leaf).unwrap()] = leaf.hash(forged);
    let tile = bytes(stores, &hashes.concat());
    tamper(
        stores,
        &[
            format!(
                "UPDATE leaf_changes SET hash = {hash} WHERE leaf = {}",
                leaf.leaf
            ),
            format!("UPDATE merkle_tiles SET hashes = {tile} WHERE level = 0 AND tile = 0"),
        ],
    )
    .await;
    for first in 1..=3 {
        let roots = stores.checkpoints.checkpoints(first - 1, 1).await.unwrap();
        let report = since(stores, first).await;
        let finding = at(&report, &number(first), "root");
        assert_eq!(finding.found, hex::encode(roots[0].root));
        assert_eq!(report.disagreements, 1, "{:#?}", report.findings);
    }
}

/// A chain that began later, said to be older.
async fn a_leaf_that_was_added_to_what_the_checkpoint_had_is_found(stores: &Relational) {
    three(stores).await;
    let chi = stores.user_with("Chi", 5).await;
    checkpoint(stores).await;
    let leaf = leaf_of(stores, chi).await.leaf;
    let sql = format!(
        "UPDATE leaf_changes SET checkpoint = 2 WHERE leaf = {}",
        leaf.leaf
    );
    tamper(stores, &[sql]).await;
    for first in [1, 2, 3] {
        let report = since(stores, first).await;
        at(&report, &number(first.max(2)), "size");
        at(&report, &number(first.max(2)), "root");
        at(&report, &number(first.max(2)), "covered_rows");
    }
}

async fn a_leaf_that_no_checkpoint_covers_is_found(stores: &Relational) {
    let books = three(stores).await;
    for leaf in [99, -7] {
        let chain = format!("C{}", leaf + 10);
        let sql = format!(
            "INSERT INTO chain_leaves (user_id, chain, leaf) VALUES ({}, '{chain}', {leaf})",
            id(stores, books.an.0)
        );
        tamper(stores, &[sql]).await;
        let report = since(stores, 2).await;
        let place = Place::ChainLeaf {
            leaf,
            user_id: books.an.0,
            chain,
        };
        assert_eq!(at(&report, &place, "row").found, "a leaf");
    }
}

async fn a_leaf_of_a_negative_number_is_told_of_once(stores: &Relational) {
    let books = three(stores).await;
    let hash = bytes(stores, &[7; 32]);
    tamper(
        stores,
        &[
            format!(
                "INSERT INTO chain_leaves (user_id, chain, leaf) VALUES ({}, 'C', -7)",
                id(stores, books.an.0)
            ),
            format!(
                "INSERT INTO leaf_changes (leaf, checkpoint, seq, hash) VALUES (-7, 3, 1, {hash})"
            ),
        ],
    )
    .await;
    let report = since(stores, 2).await;
    // Among the leaves, and among the changes: the others are in their places.
    for place in [number(2), number(3)] {
        assert_eq!(at(&report, &place, "leaf").found, "-7");
    }
    let of_leaves = report
        .findings
        .iter()
        .filter(|finding| finding.what == "leaf");
    assert_eq!(of_leaves.count(), 2, "{:#?}", report.findings);
}

async fn leaves_as_of_a_checkpoint_are_the_same_in_pages_of_any_size(stores: &Relational) {
    three(stores).await;
    // One that begins later.
    stores.user_with("Chi", 5).await;
    checkpoint(stores).await;
    let page = |after, rows| stores.checkpoints.leaves_as_of(2, after, rows);
    let whole = page(i64::MIN, 1_000).await.unwrap();
    let numbers: Vec<i64> = whole.iter().map(|leaf| leaf.leaf.leaf).collect();
    let expected: Vec<i64> = (0..).take(numbers.len()).collect();
    assert_eq!(numbers, expected);
    let held: Vec<bool> = whole.iter().map(|leaf| leaf.held.is_some()).collect();
    let later = held.iter().filter(|held| !**held).count();
    assert!(later > 0 && held.ends_with(&[false]), "{held:?}");
    assert!(whole.iter().all(|leaf| leaf.is_used));
    for rows in 1..=3 {
        let (mut after, mut read) = (i64::MIN, Vec::new());
        loop {
            let page = page(after, rows).await.unwrap();
            assert!(page.len() <= usize::try_from(rows).unwrap());
            let Some(last) = page.last() else { break };
            after = last.leaf.leaf;
            read.extend(page);
        }
        assert_eq!(read, whole, "{rows} at a time");
    }
}

async fn a_leaf_that_was_taken_from_what_the_checkpoint_had_is_found(stores: &Relational) {
    let books = three(stores).await;
    let usdt = stores
        .checkpoints
        .leaves_of(books.an, Some("USDT"), 3)
        .await
        .unwrap();
    let leaf = usdt[0].leaf.leaf;
    let sql = format!("UPDATE leaf_changes SET checkpoint = 3 WHERE leaf = {leaf}");
    tamper(stores, &[sql]).await;
    let report = since(stores, 2).await;
    assert!(
        report
            .findings
            .iter()
            .any(|finding| finding.place == number(2)),
        "{:#?}",
        report.findings
    );
    // And of which nothing is left at all.
    tamper(
        stores,
        &[
            format!("DELETE FROM leaf_changes WHERE leaf = {leaf}"),
            format!("DELETE FROM chain_leaves WHERE leaf = {leaf}"),
        ],
    )
    .await;
    for first in 1..=3 {
        let report = since(stores, first).await;
        at(&report, &number(first), "root");
    }
}

async fn the_known_head_of_a_chain_that_went_on_is_proved(stores: &Relational) {
    let books = three(stores).await;
    let known = stores.check_chain(books.an, "VND").await[12].clone();
    stores.posted(deposit(books.an, 1)).await;
    // The rows anew from the first on, and where checkpoint 2 has them; 3 is left alone.
    let rows = write_anew(stores, books.an, 1).await;
    let (leaf, hash) = (
        leaf_of(stores, books.an).await.leaf.leaf,
        bytes(stores, &rows[12].hash),
    );
    let sql =
        format!("UPDATE leaf_changes SET hash = {hash} WHERE leaf = {leaf} AND checkpoint = 2");
    tamper(stores, &[sql]).await;
    let report = since(stores, 2).await;
    at(&report, &number(2), "root");
    let later = at(&report, &row(books.an, 14), "hash");
    assert!(later.expected.ends_with(", as checkpoint 3 has it"));
    // With the leaf as it was, the row is not what it says.
    let hash = bytes(stores, &known.hash);
    let sql =
        format!("UPDATE leaf_changes SET hash = {hash} WHERE leaf = {leaf} AND checkpoint = 2");
    tamper(stores, &[sql]).await;
    let report = since(stores, 2).await;
    assert_eq!(
        at(&report, &row(books.an, 13), "hash").expected,
        format!("{}, as checkpoint 2 has it", hex::encode(known.hash))
    );
}

async fn checkpoints_after_it_are_judged(stores: &Relational) {
    three(stores).await;
    let forged = bytes(stores, &[1; 32]);
    let sql = format!("UPDATE checkpoints SET root = {forged} WHERE number = 2");
    tamper(stores, &[sql]).await;
    let report = since(stores, 1).await;
    at(&report, &number(2), "root");
    at(&report, &number(2), "hash");
    assert_eq!(report.disagreements, 2, "{:#?}", report.findings);
    let sql = "DELETE FROM checkpoints WHERE number = 2".to_owned();
    tamper(stores, &[sql]).await;
    let report = since(stores, 1).await;
    assert_only(&report, &number(2), "row", "a checkpoint", "no checkpoint");
    let sql = "DELETE FROM checkpoints WHERE number = 3".to_owned();
    tamper(stores, &[sql]).await;
    let report = since(stores, 1).await;
    at(&report, &number(2), "row");
}

async fn changes_of_checkpoints_after_it_are_judged(stores: &Relational) {
    let books = three(stores).await;
    let leaf = leaf_of(stores, books.an).await.leaf.leaf;
    let sql = format!("UPDATE leaf_changes SET seq = 1 WHERE leaf = {leaf} AND checkpoint = 3");
    tamper(stores, &[sql]).await;
    let report = since(stores, 2).await;
    at(&report, &number(3), "root");
    at(&report, &number(3), "covered_rows");
    let place = Place::Leaf {
        number: 3,
        user_id: books.an.0,
        chain: "VND".to_owned(),
    };
    assert_eq!(at(&report, &place, "seq").expected, "more than 13");
    let sql = format!("DELETE FROM leaf_changes WHERE leaf = {leaf} AND checkpoint = 3");
    tamper(stores, &[sql]).await;
    at(&since(stores, 2).await, &number(3), "root");
}

/// They vouch for the one that it begins with.
async fn checkpoints_before_it_are_chained_and_signed(stores: &Relational) {
    three(stores).await;
    unsigned(stores, 2).await;
    let options = Options {
        public_keys: vec![Signer::of_seed(&[3; 32]).public_key()],
        ..after(3)
    };
    let report = verify_with(stores, &options).await;
    assert_only(
        &report,
        &number(2),
        "public_key",
        "one of the keys that were given",
        "nothing",
    );
    let sql = "DELETE FROM checkpoints WHERE number = 2".to_owned();
    tamper(stores, &[sql]).await;
    let report = since(stores, 3).await;
    assert_only(&report, &number(2), "row", "a checkpoint", "no checkpoint");
}

async fn a_checkpoint_that_is_not_there_is_no_base(stores: &Relational) {
    books(stores).await;
    let report = since(stores, 1).await;
    assert_only(&report, &number(1), "row", "a checkpoint", "no checkpoint");
    checkpoint(stores).await;
    let report = since(stores, 2).await;
    assert_only(&report, &number(2), "row", "a checkpoint", "no checkpoint");
}

/// Whether the head tells of it or not.
async fn a_row_that_was_added_without_a_checkpoint_is_found(stores: &Relational) {
    let books = three(stores).await;
    tamper(stores, &[copy(stores, books.an, 15)]).await;
    for first in 1..=3 {
        let report = since(stores, first).await;
        let finding = at(&report, &row(books.an, 15), "row");
        assert_eq!(finding.expected, "no row: the chain ends at 14");
    }
    let head = format!(
        "UPDATE accounts SET version = 15, chain_hash = (
             SELECT hash FROM audit WHERE user_id = {user} AND chain = 'VND' AND seq = 15)
         WHERE user_id = {user} AND asset = 'VND'",
        user = id(stores, books.an.0)
    );
    tamper(stores, &[head]).await;
    for first in 1..=3 {
        let report = since(stores, first).await;
        at(&report, &row(books.an, 15), "previous_hash");
    }
}

/// Its head is again where the checkpoint has it, and only a later one tells of what is missing.
async fn a_chain_that_was_cut_back_to_where_it_was_is_found(stores: &Relational) {
    let books = three(stores).await;
    let covered = stores.check_chain(books.an, "VND").await.pop().unwrap();
    cut_off(stores, books.an).await;
    for report in [since(stores, 2).await, verify(stores).await] {
        let expected = format!(
            "a row with the hash {}, as checkpoint 3 has it",
            hex::encode(covered.hash)
        );
        assert_only(&report, &row(books.an, 14), "row", &expected, "no row");
    }
}

/// A chain that the checkpoint does not have, and of which its leaf alone is left.
async fn a_later_chain_that_is_gone_is_found(stores: &Relational) {
    let books = three(stores).await;
    stores.asset("EUR").await;
    stores.posted(deposit(books.an, 1).asset("EUR")).await;
    checkpoint(stores).await;
    let of = format!("WHERE user_id = {}", id(stores, books.an.0));
    let euros = format!(
        "{of} AND transaction_id IN (
        SELECT transaction_id FROM transactions {of} AND asset = 'EUR')"
    );
    tamper(
        stores,
        &[
            format!("DELETE FROM entries {euros}"),
            format!("DELETE FROM audit {euros}"),
            format!("DELETE FROM transactions {of} AND asset = 'EUR'"),
            format!("DELETE FROM accounts {of} AND asset = 'EUR'"),
        ],
    )
    .await;
    let place = Place::AuditRow {
        user_id: books.an.0,
        chain: "EUR".to_owned(),
        seq: 1,
    };
    for report in [since(stores, 3).await, verify(stores).await] {
        let finding = at(&report, &place, "row");
        assert!(finding.expected.ends_with(", as checkpoint 4 has it"));
        assert_eq!(report.disagreements, 1, "{:#?}", report.findings);
    }
}

/// No checkpoint has such a number.
async fn a_change_of_no_checkpoint_is_found(stores: &Relational) {
    let books = three(stores).await;
    let newest = leaf_of(stores, books.an).await;
    for none in [0, -3] {
        let sql = format!(
            "INSERT INTO leaf_changes (leaf, checkpoint, seq, hash) VALUES ({}, {none}, 14, {})",
            newest.leaf.leaf,
            bytes(stores, &newest.head.hash)
        );
        tamper(stores, &[sql]).await;
        let report = verify_with(stores, &Options::default()).await;
        assert_eq!(
            at(&report, &number(none), "leaf").expected,
            "leaves up to 0, one after the other"
        );
        let sql = format!("DELETE FROM leaf_changes WHERE checkpoint = {none}");
        tamper(stores, &[sql]).await;
        assert!(verify(stores).await.clean);
    }
}

async fn what_the_checkpoints_before_changed_is_not_read_again(stores: &Relational) {
    let books = books(stores).await;
    for _ in 0..6 {
        stores.posted(deposit(books.an, 1)).await;
        checkpoint(stores).await;
    }
    let leaves = stores.raw.number("SELECT count(*) FROM chain_leaves").await;
    let all = stores.raw.number("SELECT count(*) FROM leaf_changes").await;
    assert_eq!(all, leaves + 5);
    for (first, changes) in [(None, all), (Some(1), 5), (Some(4), 2), (Some(6), 0)] {
        let counted = Arc::new(Counted::of(stores));
        let options = Options {
            since: first,
            ..Options::default()
        };
        let report = Verifier::new(stores.verify.clone(), counted.clone())
            .verify(&options, Arc::new(()))
            .await
            .unwrap();
        assert!(report.clean, "{:#?}", report.findings);
        let read = [Rows::Changes, Rows::Leaves].map(|rows| counted.read(rows));
        assert_eq!(read, [changes, leaves], "{first:?}");
    }
    // So what came before, and is not where a chain was, is for the whole to find.
    let leaf = leaf_of(stores, books.an).await.leaf.leaf;
    let sql = format!(
        "UPDATE leaf_changes SET hash = {} WHERE leaf = {leaf} AND checkpoint = 2",
        bytes(stores, &[1; 32])
    );
    tamper(stores, &[sql]).await;
    assert!(since(stores, 3).await.clean);
    at(&since(stores, 2).await, &number(2), "root");
    at(&verify(stores).await, &number(2), "root");
}

/// Together more than one page holds, and each of them little.
async fn many_users_with_few_new_rows_are_not_read_whole(stores: &Relational) {
    let mut users = Vec::new();
    for index in 0..40 {
        let user = stores.user_with(&format!("u{index}"), 1).await;
        for _ in 0..4 {
            stores.posted(deposit(user, 1)).await;
        }
        users.push(user);
    }
    checkpoint(stores).await;
    for user in &users {
        stores.posted(deposit(*user, 1)).await;
        stores.posted(deposit(*user, 1)).await;
    }
    let options = Options {
        page_rows: 1,
        ..after(1)
    };
    let report = verify_with(stores, &options).await;
    assert!(report.clean, "{:#?}", report.findings);
    // Of each the row that is known, and the two after it.
    assert_eq!(
        (report.read.chains, report.read.audit_rows),
        (40, 120),
        "only what is new"
    );
    // And what is wrong with one of them is found.
    let sql = format!(
        "UPDATE audit SET request_id = 'forged' WHERE user_id = {} AND chain = 'VND' AND seq = 6",
        id(stores, users[17].0)
    );
    tamper(stores, &[sql]).await;
    let report = verify_with(stores, &options).await;
    at(&report, &row(users[17], 6), "hash");
    assert_eq!(report.disagreements, 1);
}
