//! An account that was taken away, its chain's head put where those of other chains are: every row still agrees with
//! the next one, and the balance is in no account.

use abunfi::audit::verify::{Options, Place, Report};

use super::{account, assert_only, at, books, checkpoint, verify, verify_with};
use crate::support::make::deposit;
use crate::support::{Relational, on_every_backend};

on_every_backend!(
    an_account_that_was_taken_away_is_found,
    an_account_that_was_taken_away_since_is_found,
    a_balance_that_was_taken_away_with_later_rows_is_found,
    a_head_beside_an_account_is_found,
);

const NO_ACCOUNT: &str = "an account: the rows of its chain are of transactions";

async fn since(stores: &Relational, number: i64) -> Report {
    let options = Options {
        since: Some(number),
        ..Options::default()
    };
    verify_with(stores, &options).await
}

async fn an_account_that_was_taken_away_is_found(stores: &Relational) {
    let books = books(stores).await;
    stores.take_account_away(books.an, "VND").await;
    let report = verify(stores).await;
    let row = at(&report, &account(books.an), "row");
    assert_eq!(
        (row.expected.as_str(), row.found.as_str()),
        (NO_ACCOUNT, "no account")
    );
    let balance = at(&report, &account(books.an), "balance");
    assert_eq!(
        (balance.expected.as_str(), balance.found.as_str()),
        ("77.5", "no account")
    );
    assert_eq!(report.disagreements, 2, "{:#?}", report.findings);
}

/// Of a chain with nothing new.
async fn an_account_that_was_taken_away_since_is_found(stores: &Relational) {
    let books = books(stores).await;
    checkpoint(stores).await;
    stores.take_account_away(books.an, "VND").await;
    let report = since(stores, 1).await;
    let place = account(books.an);
    assert_only(&report, &place, "row", NO_ACCOUNT, "no account");
    assert_eq!(verify(stores).await.disagreements, 2);
}

async fn a_balance_that_was_taken_away_with_later_rows_is_found(stores: &Relational) {
    let books = books(stores).await;
    checkpoint(stores).await;
    stores.posted(deposit(books.an, 1)).await;
    stores.take_account_away(books.an, "VND").await;
    let report = since(stores, 1).await;
    let place = account(books.an);
    assert_only(&report, &place, "row", NO_ACCOUNT, "no account");
}

async fn a_head_beside_an_account_is_found(stores: &Relational) {
    let books = books(stores).await;
    checkpoint(stores).await;
    stores.put_head_beside(books.an, "VND").await;
    let place = Place::ChainHead {
        user_id: books.an.0,
        chain: "VND".to_owned(),
    };
    let expected = "no head: the chain ends where the account says";
    for report in [verify(stores).await, since(stores, 1).await] {
        assert_only(&report, &place, "row", expected, "a head");
    }
}
