//! Edited balances, totals, holds, shares and heads: what an account has is what its rows come to.

use abunfi::audit::verify::Report;
use abunfi::ids::UserId;

use super::tampering::{hash, update_row};
use super::{account, assert_only, at, books, bytes, id, row, tamper, verify};
use crate::support::{Relational, on_every_backend};

on_every_backend!(
    an_edited_balance_is_found,
    an_edited_total_is_found,
    edited_holds_are_found,
    edited_holds_behind_an_edited_row_are_found,
    edited_shares_are_found,
    an_edited_head_is_found,
);

/// What the account should have, and has.
fn assert_of_account(report: &Report, of: UserId, edited: &[(&str, &str, &str)]) {
    for (what, expected, found) in edited {
        let finding = at(report, &account(of), what);
        assert_eq!(
            (finding.expected.as_str(), finding.found.as_str()),
            (*expected, *found),
            "{what}"
        );
    }
}

async fn an_edited_balance_is_found(stores: &Relational) {
    let books = books(stores).await;
    let user = id(stores, books.an.0);
    // The database's own check makes whoever edits a balance edit a total as well.
    let sql = format!(
        "UPDATE accounts SET available = available + 1000000, deposited = deposited + 1000000
         WHERE user_id = {user} AND asset = 'VND'"
    );
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let edited = [("available", "57.5", "58.5"), ("deposited", "101", "102")];
    assert_of_account(&report, books.an, &edited);
    assert_eq!(report.disagreements, 2);
}

async fn an_edited_total_is_found(stores: &Relational) {
    let books = books(stores).await;
    let user = id(stores, books.an.0);
    let sql = format!(
        "UPDATE accounts SET bonuses = bonuses - 1000000, total_yield_earned = total_yield_earned + 1000000
         WHERE user_id = {user} AND asset = 'VND'"
    );
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let edited = [("bonuses", "4", "3"), ("total_yield_earned", "2.5", "3.5")];
    assert_of_account(&report, books.an, &edited);
    assert_eq!(report.disagreements, 2);
}

async fn edited_holds_are_found(stores: &Relational) {
    let books = books(stores).await;
    let user = id(stores, books.an.0);
    let sql = format!(
        "UPDATE accounts SET available = available + 20000000, locked = 0, pending = 1
         WHERE user_id = {user} AND asset = 'VND'"
    );
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let edited = [
        ("available", "57.5", "77.5"),
        ("locked", "20", "0"),
        ("pending", "2", "1"),
    ];
    assert_of_account(&report, books.an, &edited);
    assert_eq!(report.disagreements, 3);
}

/// The newest row does not say what the account should have once it is edited: the pending withdrawals do.
async fn edited_holds_behind_an_edited_row_are_found(stores: &Relational) {
    let books = books(stores).await;
    let user = id(stores, books.an.0);
    let holds = format!(
        "UPDATE accounts SET available = available + 20000000, locked = 0
         WHERE user_id = {user} AND asset = 'VND'"
    );
    let newest = update_row(stores, books.an, 12, "actor_id = 'somebody else'");
    tamper(stores, &[holds, newest]).await;
    let report = verify(stores).await;
    at(&report, &row(books.an, 12), "hash");
    let edited = [("available", "57.5", "77.5"), ("locked", "20", "0")];
    assert_of_account(&report, books.an, &edited);
    assert_eq!(report.disagreements, 3);
}

async fn edited_shares_are_found(stores: &Relational) {
    let books = books(stores).await;
    let user = id(stores, books.an.0);
    let sql = format!(
        "UPDATE accounts SET shares = shares + 1, locked_shares = locked_shares - 1, last_yield_at = NULL
         WHERE user_id = {user} AND asset = 'VND'"
    );
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let edited = [
        ("shares", "7", "7.000001"),
        ("locked_shares", "2", "1.999999"),
    ];
    assert_of_account(&report, books.an, &edited);
    assert_eq!(
        at(&report, &account(books.an), "last_yield_at").found,
        "nothing"
    );
    assert_eq!(report.disagreements, 3);
}

async fn an_edited_head_is_found(stores: &Relational) {
    let books = books(stores).await;
    let (user, forged) = (id(stores, books.an.0), bytes(stores, &[9; 32]));
    let sql = format!(
        "UPDATE accounts SET chain_hash = {forged} WHERE user_id = {user} AND asset = 'VND'"
    );
    let newest = hash(stores, books.an, 12).await;
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    assert_only(
        &report,
        &account(books.an),
        "chain_hash",
        &newest,
        &"09".repeat(32),
    );
}
