//! `--since`: only what has changed since a checkpoint, and that as well as the whole.

use abunfi::audit::verify::{Options, Place, Report};
use abunfi::ledger::Settlement;

use super::{at, books, bytes, checkpoint, id, row, tamper, verify, verify_with};
use crate::support::make::{deposit, settle};
use crate::support::{Relational, on_every_backend};

on_every_backend!(
    only_what_is_new_is_read,
    a_transaction_that_was_settled_since_is_judged_whole,
    what_was_tampered_with_since_is_found,
    a_known_row_that_was_changed_is_found,
    a_chain_that_was_cut_behind_the_checkpoint_is_found,
    the_parts_of_a_long_history_may_be_small,
);

async fn since(stores: &Relational, number: i64) -> Report {
    verify_with(
        stores,
        &Options {
            since: Some(number),
            ..Options::default()
        },
    )
    .await
}

async fn only_what_is_new_is_read(stores: &Relational) {
    let books = books(stores).await;
    checkpoint(stores).await;
    let report = since(stores, 1).await;
    assert!(report.clean, "{:#?}", report.findings);
    assert_eq!(
        (
            report.read.chains,
            report.read.audit_rows,
            report.read.transactions
        ),
        (0, 0, 0)
    );
    stores.posted(deposit(books.an, 1)).await;
    stores.posted(deposit(books.an, 1)).await;
    let report = since(stores, 1).await;
    assert!(report.clean, "{:#?}", report.findings);
    // The row that the checkpoint names, and the two after it.
    assert_eq!((report.read.chains, report.read.audit_rows), (1, 3));
    assert_eq!((report.read.transactions, report.read.entries), (2, 4));
    assert_eq!(report.read.not_checkpointed, 2);
    // A chain that the checkpoint does not have at all.
    stores.posted(deposit(books.an, 1)).await;
    let user = stores.user_with("Chi", 5).await;
    assert!(!stores.check_chain(user, "VND").await.is_empty());
    checkpoint(stores).await;
    let report = since(stores, 1).await;
    assert!(report.clean, "{:#?}", report.findings);
    assert_eq!(
        (report.read.audit_rows, report.read.not_checkpointed),
        (5, 0)
    );
    assert_eq!(since(stores, 2).await.read.audit_rows, 0);
}

async fn a_transaction_that_was_settled_since_is_judged_whole(stores: &Relational) {
    let books = books(stores).await;
    checkpoint(stores).await;
    stores
        .posted(settle(books.an, books.held, Settlement::Confirm))
        .await;
    let report = since(stores, 1).await;
    assert!(report.clean, "{:#?}", report.findings);
    assert_eq!(
        (
            report.read.audit_rows,
            report.read.transactions,
            report.read.entries
        ),
        (2, 1, 2)
    );
    let (user, tx) = (id(stores, books.an.0), id(stores, books.held.0));
    let sql = format!(
        "UPDATE transactions SET amount = 1000000 WHERE user_id = {user} AND transaction_id = {tx}"
    );
    tamper(stores, &[sql]).await;
    let report = since(stores, 1).await;
    let place = Place::Transaction {
        user_id: books.an.0,
        transaction_id: books.held.0,
    };
    let finding = at(&report, &place, "amount");
    assert_eq!(
        (finding.expected.as_str(), finding.found.as_str()),
        ("20", "1")
    );
}

async fn what_was_tampered_with_since_is_found(stores: &Relational) {
    let books = books(stores).await;
    checkpoint(stores).await;
    stores.posted(deposit(books.an, 1)).await;
    stores.posted(deposit(books.an, 1)).await;
    let user = id(stores, books.an.0);
    let of = format!("WHERE user_id = {user} AND chain = 'VND' AND seq = 13");
    tamper(
        stores,
        &[format!("UPDATE audit SET request_id = 'forged' {of}")],
    )
    .await;
    let report = since(stores, 1).await;
    at(&report, &row(books.an, 13), "hash");
    assert_eq!(report.disagreements, 1);
    let balance = format!(
        "UPDATE accounts SET available = available + 1000000, deposited = deposited + 1000000
         WHERE user_id = {user} AND asset = 'VND'"
    );
    tamper(stores, &[balance, format!("DELETE FROM audit {of}")]).await;
    let report = since(stores, 1).await;
    assert_eq!(at(&report, &row(books.an, 13), "row").found, "no row");
    assert!(!verify(stores).await.clean);
}

async fn a_known_row_that_was_changed_is_found(stores: &Relational) {
    let books = books(stores).await;
    checkpoint(stores).await;
    let known = stores.check_chain(books.an, "VND").await.pop().unwrap();
    stores.posted(deposit(books.an, 1)).await;
    let (user, forged) = (id(stores, books.an.0), bytes(stores, &[1; 32]));
    let sql = format!(
        "UPDATE audit SET hash = {forged} WHERE user_id = {user} AND chain = 'VND' AND seq = {}",
        known.seq
    );
    tamper(stores, &[sql]).await;
    let report = since(stores, 1).await;
    let finding = at(&report, &row(books.an, known.seq), "hash");
    assert_eq!(
        (finding.expected.as_str(), finding.found.as_str()),
        (hex::encode(known.hash).as_str(), "01".repeat(32).as_str())
    );
}

async fn a_chain_that_was_cut_behind_the_checkpoint_is_found(stores: &Relational) {
    let books = books(stores).await;
    checkpoint(stores).await;
    let rows = stores.check_chain(books.an, "VND").await;
    let (before, last) = (&rows[10], &rows[11]);
    let (user, hash) = (id(stores, books.an.0), bytes(stores, &before.hash));
    tamper(
        stores,
        &[
            format!("DELETE FROM audit WHERE user_id = {user} AND chain = 'VND' AND seq = 12"),
            format!(
                "UPDATE accounts SET version = 11, chain_hash = {hash}
                 WHERE user_id = {user} AND asset = 'VND'"
            ),
        ],
    )
    .await;
    let report = since(stores, 1).await;
    let finding = at(&report, &row(books.an, 12), "row");
    let expected = format!(
        "a row with the hash {}, as checkpoint 1 has it",
        hex::encode(last.hash)
    );
    assert_eq!(
        (finding.expected.as_str(), finding.found.as_str()),
        (expected.as_str(), "no row")
    );
}

/// More than a page holds is read in parts, whole.
async fn the_parts_of_a_long_history_may_be_small(stores: &Relational) {
    let books = books(stores).await;
    checkpoint(stores).await;
    for _ in 0..60 {
        stores.posted(deposit(books.an, 1)).await;
    }
    let options = Options {
        since: Some(1),
        page_rows: 1,
        ..Options::default()
    };
    let report = verify_with(stores, &options).await;
    assert!(report.clean, "{:#?}", report.findings);
    assert!(report.read.audit_rows > 61, "the whole of what did not fit");
}
