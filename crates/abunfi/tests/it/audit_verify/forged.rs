//! Rows that were written by hand with good hashes, where no checkpoint covers them: what finds them is the rule
//! that they break, the same that whoever checks an export goes by.

use abunfi::audit::Entry;
use abunfi::audit::verify::{Options, Report};
use abunfi::ids::UserId;
use abunfi::ledger::Settlement;

use super::{assert_only, at, books, bytes, checkpoint, id, row, tamper, verify, verify_with};
use crate::support::make::{deposit, settle, units};
use crate::support::{Relational, on_every_backend};

on_every_backend!(
    a_type_that_does_not_exist_is_found,
    a_posting_with_a_status_before_it_is_found,
    a_settlement_that_says_that_it_posts_is_found,
    a_row_of_an_account_without_a_transaction_is_found,
);

/// Changes the newest row of the user's chain in VND, and makes its hash good and the head that has it.
async fn forge_newest(
    stores: &Relational,
    user: UserId,
    set: &str,
    edit: impl FnOnce(&mut Entry),
) -> i64 {
    let mut newest = stores.check_chain(user, "VND").await.pop().unwrap();
    edit(&mut newest);
    let (user, hash) = (id(stores, user.0), bytes(stores, &newest.computed_hash()));
    tamper(
        stores,
        &[
            format!(
                "UPDATE audit SET {set}, hash = {hash}
                 WHERE user_id = {user} AND chain = 'VND' AND seq = {}",
                newest.seq
            ),
            format!(
                "UPDATE accounts SET chain_hash = {hash} WHERE user_id = {user} AND asset = 'VND'"
            ),
        ],
    )
    .await;
    newest.seq
}

/// The same of the whole and of what came after the checkpoint.
async fn both(stores: &Relational) -> [Report; 2] {
    let since = Options {
        since: Some(1),
        ..Options::default()
    };
    [verify(stores).await, verify_with(stores, &since).await]
}

async fn a_type_that_does_not_exist_is_found(stores: &Relational) {
    let an = books(stores).await.an;
    checkpoint(stores).await;
    stores.posted(deposit(an, 1)).await;
    let set = "action = 'post_gift'";
    let seq = forge_newest(stores, an, set, |row| row.action = "post_gift".into()).await;
    for report in both(stores).await {
        let expected = "post_ and a type of transaction";
        assert_only(&report, &row(an, seq), "action", expected, "post_gift");
    }
}

async fn a_posting_with_a_status_before_it_is_found(stores: &Relational) {
    let an = books(stores).await.an;
    checkpoint(stores).await;
    stores.posted(deposit(an, 1)).await;
    let set = "previous_status = 'pending'";
    let seq = forge_newest(stores, an, set, |row| {
        row.previous_status = Some("pending".into());
    })
    .await;
    for report in both(stores).await {
        let finding = at(&report, &row(an, seq), "previous_status");
        assert_eq!(
            (finding.expected.as_str(), finding.found.as_str()),
            ("nothing", "pending")
        );
        let finding = at(&report, &row(an, seq), "action");
        assert_eq!(
            finding.expected,
            "none that posts: there is a status before"
        );
    }
}

async fn a_settlement_that_says_that_it_posts_is_found(stores: &Relational) {
    let books = books(stores).await;
    checkpoint(stores).await;
    stores
        .posted(settle(books.an, books.held, Settlement::Confirm))
        .await;
    let set = "action = 'post_withdraw'";
    let seq = forge_newest(stores, books.an, set, |row| {
        row.action = "post_withdraw".into();
    })
    .await;
    for report in both(stores).await {
        let expected = "none that posts: there is a status before";
        assert_only(
            &report,
            &row(books.an, seq),
            "action",
            expected,
            "post_withdraw",
        );
    }
}

/// A transaction that is taken back in all but the trail, which keeps a row that says nothing.
async fn a_row_of_an_account_without_a_transaction_is_found(stores: &Relational) {
    let an = books(stores).await.an;
    checkpoint(stores).await;
    let tx = stores.posted(deposit(an, 1)).await.transaction.id;
    let one = units(1);
    let set = "transaction_id = NULL, action = 'note', available_after = available_after - 1000000";
    let seq = forge_newest(stores, an, set, |row| {
        row.transaction_id = None;
        row.action = "note".into();
        let after = row.after.as_mut().unwrap();
        after.available = after.available.checked_sub(one).unwrap();
    })
    .await;
    let of = format!(
        "WHERE user_id = {} AND transaction_id = {}",
        id(stores, an.0),
        id(stores, tx.0)
    );
    tamper(
        stores,
        &[
            format!("DELETE FROM entries {of}"),
            format!("DELETE FROM transactions {of}"),
            format!(
                "UPDATE accounts SET available = available - 1000000, deposited = deposited - 1000000
                 WHERE user_id = {} AND asset = 'VND'",
                id(stores, an.0)
            ),
        ],
    )
    .await;
    for report in both(stores).await {
        assert_only(
            &report,
            &row(an, seq),
            "transaction_id",
            "a transaction",
            "nothing",
        );
    }
}
