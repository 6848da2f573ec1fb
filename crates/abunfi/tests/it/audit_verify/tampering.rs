//! Each kind of tampering with rows, done in the database itself, is found and named with what should be.

use abunfi::audit::verify::Place;
use abunfi::ids::UserId;
use abunfi::ledger::Settlement;
use uuid::Uuid;

use super::{account, assert_only, at, books, bytes, id, row, tamper, verify};
use crate::support::make::{Shape as _, context, deposit, next_time, settle};
use crate::support::{Backend, Relational, on_every_backend};

on_every_backend!(
    an_edited_amount_in_the_trail_is_found,
    an_edited_amount_after_in_the_trail_is_found,
    an_edited_amount_of_a_transaction_is_found,
    an_edited_amount_of_an_entry_is_found,
    an_edited_reason_is_found,
    a_reason_that_borrows_from_its_salt_is_found,
    a_deleted_reason_is_found,
    a_reason_that_was_deleted_after_an_erasure_is_found,
    a_reason_nobody_gave_is_found,
    rows_far_from_the_head_are_found,
    private_content_of_nobody_is_found,
    an_edited_actor_is_found,
    an_edited_time_is_found,
    a_deleted_row_is_found,
    the_deleted_newest_row_is_found,
    swapped_rows_are_found,
    an_inserted_row_is_found,
    a_chain_of_nobody_is_found,
    an_edited_status_is_found,
    an_edited_type_is_found,
    an_edited_submission_is_found,
    edited_times_of_a_transaction_are_found,
    a_deleted_transaction_is_found,
    an_inserted_transaction_is_found,
    deleted_entries_are_found,
    inserted_entries_are_found,
    an_edited_platform_chain_is_found,
    a_row_with_a_new_hash_breaks_the_link_after_it,
);

/// The stored hash of a row of An's chain, in hexadecimal.
pub(super) async fn hash(stores: &Relational, user: UserId, seq: i64) -> String {
    let user = id(stores, user.0);
    let hex = match stores.backend {
        Backend::Postgres => "encode(hash, 'hex')",
        Backend::Sqlite => "lower(hex(hash))",
    };
    let sql =
        format!("SELECT {hex} FROM audit WHERE user_id = {user} AND chain = 'VND' AND seq = {seq}");
    stores.raw.texts(&sql).await.remove(0)
}

pub(super) fn update_row(stores: &Relational, user: UserId, seq: i64, set: &str) -> String {
    let user = id(stores, user.0);
    format!("UPDATE audit SET {set} WHERE user_id = {user} AND chain = 'VND' AND seq = {seq}")
}

async fn an_edited_amount_in_the_trail_is_found(stores: &Relational) {
    let books = books(stores).await;
    tamper(
        stores,
        &[update_row(stores, books.an, 2, "amount = 9000000")],
    )
    .await;
    let report = verify(stores).await;
    let first = at(&report, &row(books.an, 2), "hash");
    assert_eq!(first.found, hash(stores, books.an, 2).await);
    assert_eq!(report.findings[0], *first, "the edited row comes first");
    // Nobody else is blamed for it.
    let others = report
        .findings
        .iter()
        .filter(|finding| finding.place != row(books.an, 2));
    assert_eq!(others.count(), 0, "{:#?}", report.findings);
}

async fn an_edited_amount_after_in_the_trail_is_found(stores: &Relational) {
    let books = books(stores).await;
    tamper(
        stores,
        &[update_row(stores, books.an, 5, "available_after = 1000000")],
    )
    .await;
    let report = verify(stores).await;
    at(&report, &row(books.an, 5), "hash");
    let after = at(&report, &row(books.an, 5), "available_after");
    assert_eq!(
        (after.expected.as_str(), after.found.as_str()),
        ("72.5", "1")
    );
    assert_eq!(report.disagreements, 2);
}

async fn an_edited_amount_of_a_transaction_is_found(stores: &Relational) {
    let books = books(stores).await;
    let (user, tx) = (id(stores, books.an.0), id(stores, books.deposit.0));
    let sql = format!(
        "UPDATE transactions SET amount = 1000000000 WHERE user_id = {user} AND transaction_id = {tx}"
    );
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let place = Place::Transaction {
        user_id: books.an.0,
        transaction_id: books.deposit.0,
    };
    assert_only(&report, &place, "amount", "100", "1000");
}

async fn an_edited_amount_of_an_entry_is_found(stores: &Relational) {
    let books = books(stores).await;
    let (user, tx) = (id(stores, books.an.0), id(stores, books.deposit.0));
    let sql = format!(
        "UPDATE entries SET amount = 90000000
         WHERE user_id = {user} AND transaction_id = {tx} AND account = 'user'"
    );
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let place = Place::Entry {
        user_id: books.an.0,
        transaction_id: books.deposit.0,
        account: "user".to_owned(),
    };
    assert_only(&report, &place, "amount", "100", "90");
}

async fn an_edited_reason_is_found(stores: &Relational) {
    let books = books(stores).await;
    let user = id(stores, books.an.0);
    let sql = format!("UPDATE audit_private SET value = 'nothing' WHERE user_id = {user}");
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let place = Place::Private {
        user_id: books.an.0,
        chain: "VND".to_owned(),
        seq: 4,
        field: "reason".to_owned(),
    };
    let finding = at(&report, &place, "commitment");
    assert_eq!((finding.expected.len(), report.disagreements), (64, 1));
}

fn reason(user: UserId, seq: i64) -> Place {
    Place::Private {
        user_id: user.0,
        chain: "VND".to_owned(),
        seq,
        field: "reason".to_owned(),
    }
}

/// `SHA-256(salt ‖ value)` stays the same when a word goes from the one to the other.
async fn a_reason_that_borrows_from_its_salt_is_found(stores: &Relational) {
    let books = books(stores).await;
    let user = id(stores, books.an.0);
    let (cast, length) = match stores.backend {
        Backend::Postgres => ("convert_to('paid ', 'UTF8')", "octet_length(salt)::bigint"),
        Backend::Sqlite => ("", "length(salt)"),
    };
    let joined = match stores.backend {
        Backend::Postgres => format!("salt || {cast}"),
        // `||` makes a text, and a salt is seldom one: 32 bytes and 5 more of the trail's own choice.
        Backend::Sqlite => "unhex(hex(salt) || '7061696420')".to_owned(),
    };
    let shift = format!(
        "UPDATE audit_private SET salt = {joined}, value = 'by hand' WHERE user_id = {user}"
    );
    if stores.backend == Backend::Postgres {
        let refused = stores.raw.execute(&shift).await.unwrap_err();
        assert!(
            refused.to_string().contains("audit_private_salt_check"),
            "{refused}"
        );
        let drop = "ALTER TABLE audit_private DROP CONSTRAINT audit_private_salt_check";
        stores.raw.execute(drop).await.unwrap();
    }
    tamper(stores, &[shift]).await;
    let sql = format!("SELECT {length} FROM audit_private WHERE user_id = {user}");
    assert_eq!(stores.raw.number(&sql).await, 37);
    let report = verify(stores).await;
    assert_only(
        &report,
        &reason(books.an, 4),
        "salt",
        "32 bytes",
        "37 bytes",
    );
}

async fn a_deleted_reason_is_found(stores: &Relational) {
    let books = books(stores).await;
    let user = id(stores, books.an.0);
    let sql = format!("DELETE FROM audit_private WHERE user_id = {user}");
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let expected = "what the audit row commits to, or a later row `erase` of the user";
    assert_only(&report, &reason(books.an, 4), "row", expected, "no row");
    assert_eq!(report.read.erased, 0);
}

/// An erasure excuses only what was there before it.
async fn a_reason_that_was_deleted_after_an_erasure_is_found(stores: &Relational) {
    let books = books(stores).await;
    let erased = stores
        .exports
        .erase(&context(), books.an, next_time())
        .await;
    assert_eq!(erased.unwrap(), Some(1));
    // Farther away than clocks may be apart.
    for _ in 0..200 {
        next_time();
    }
    let cancel = settle(books.an, books.held, Settlement::Fail)
        .saying(|details| details.reason = Some("bounced".to_owned()));
    stores.posted(cancel).await;
    let user = id(stores, books.an.0);
    tamper(
        stores,
        &[format!("DELETE FROM audit_private WHERE user_id = {user}")],
    )
    .await;
    let report = verify(stores).await;
    let expected = "what the audit row commits to, or a later row `erase` of the user";
    assert_only(&report, &reason(books.an, 13), "row", expected, "no row");
    assert_eq!(report.read.erased, 1);
}

/// Copies row 1 of An's chain to another place in it.
pub(super) fn copy(stores: &Relational, user: UserId, to: i64) -> String {
    let user = id(stores, user.0);
    const SAME: &str = "transaction_id, action, previous_status, new_status, amount, shares, available_after,
        locked_after, shares_after, locked_shares_after, actor_kind, actor_id, actor_session_id, request_id,
        at, reason_commitment, data_commitment, previous_hash, hash";
    format!(
        "INSERT INTO audit (user_id, chain, seq, {SAME}) SELECT user_id, chain, {to}, {SAME}
         FROM audit WHERE user_id = {user} AND chain = 'VND' AND seq = 1"
    )
}

async fn rows_far_from_the_head_are_found(stores: &Relational) {
    let books = books(stores).await;
    let far = [copy(stores, books.an, 5_012), copy(stores, books.an, -1)];
    tamper(stores, &far).await;
    let report = verify(stores).await;
    at(&report, &row(books.an, 5_012), "row");
    at(&report, &row(books.an, -1), "seq");
}

/// Of a user that has nothing else, and of a chain that has no row.
async fn private_content_of_nobody_is_found(stores: &Relational) {
    let books = books(stores).await;
    let salt = bytes(stores, &[7; 32]);
    let nobody = UserId(Uuid::from_u128(7));
    let insert = |user: UserId, chain| {
        let user = id(stores, user.0);
        format!(
            "INSERT INTO audit_private (user_id, chain, seq, field, salt, value)
             VALUES ({user}, '{chain}', 2, 'reason', {salt}, 'she asked for it')"
        )
    };
    tamper(stores, &[insert(books.an, "EUR"), insert(nobody, "VND")]).await;
    let report = verify(stores).await;
    at(&report, &reason(nobody, 2), "row");
    let euros = Place::Private {
        user_id: books.an.0,
        chain: "EUR".to_owned(),
        seq: 2,
        field: "reason".to_owned(),
    };
    at(&report, &euros, "row");
    assert_eq!(report.disagreements, 2);
}

async fn a_reason_nobody_gave_is_found(stores: &Relational) {
    let books = books(stores).await;
    let (user, salt) = (id(stores, books.an.0), bytes(stores, &[7; 32]));
    let sql = format!(
        "INSERT INTO audit_private (user_id, chain, seq, field, salt, value)
         VALUES ({user}, 'VND', 2, 'reason', {salt}, 'she asked for it')"
    );
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let place = Place::Private {
        user_id: books.an.0,
        chain: "VND".to_owned(),
        seq: 2,
        field: "reason".to_owned(),
    };
    assert_only(
        &report,
        &place,
        "row",
        "no row: no audit row commits to it",
        "a row",
    );
}

async fn an_edited_actor_is_found(stores: &Relational) {
    let books = books(stores).await;
    tamper(
        stores,
        &[update_row(
            stores,
            books.an,
            6,
            "actor_id = 'somebody else'",
        )],
    )
    .await;
    let report = verify(stores).await;
    at(&report, &row(books.an, 6), "hash");
    assert_eq!(report.disagreements, 1, "{:#?}", report.findings);
}

async fn an_edited_time_is_found(stores: &Relational) {
    let books = books(stores).await;
    let earlier = match stores.backend {
        Backend::Postgres => "at = at - interval '1 day'",
        Backend::Sqlite => "at = at - 86400000000",
    };
    tamper(stores, &[update_row(stores, books.an, 6, earlier)]).await;
    let report = verify(stores).await;
    at(&report, &row(books.an, 6), "hash");
    let time = at(&report, &row(books.an, 6), "at");
    assert!(time.expected.starts_with("not before "), "{time}");
    assert!(
        report
            .findings
            .iter()
            .all(|finding| finding.place == row(books.an, 6))
    );
}

async fn a_deleted_row_is_found(stores: &Relational) {
    let books = books(stores).await;
    let gone = hash(stores, books.an, 5).await;
    let user = id(stores, books.an.0);
    let sql = format!("DELETE FROM audit WHERE user_id = {user} AND chain = 'VND' AND seq = 5");
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let first = at(&report, &row(books.an, 5), "row");
    assert_eq!(first.expected, format!("a row with the hash {gone}"));
    assert_eq!(first.found, "no row");
}

async fn the_deleted_newest_row_is_found(stores: &Relational) {
    let books = books(stores).await;
    let gone = hash(stores, books.an, 12).await;
    let user = id(stores, books.an.0);
    let sql = format!("DELETE FROM audit WHERE user_id = {user} AND chain = 'VND' AND seq = 12");
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let first = at(&report, &row(books.an, 12), "row");
    assert_eq!(
        first.expected,
        format!("rows up to 12, the last with the hash {gone}")
    );
}

async fn swapped_rows_are_found(stores: &Relational) {
    let books = books(stores).await;
    let swap = [(5, -1), (6, 5), (-1, 6)];
    let swap = swap.map(|(from, to)| update_row(stores, books.an, from, &format!("seq = {to}")));
    tamper(stores, &swap).await;
    let report = verify(stores).await;
    for seq in [5, 6] {
        at(&report, &row(books.an, seq), "hash");
    }
    assert_eq!(
        report.findings[0].place,
        row(books.an, 5),
        "the first that disagrees"
    );
}

async fn an_inserted_row_is_found(stores: &Relational) {
    let books = books(stores).await;
    let user = id(stores, books.an.0);
    let written_by = match stores.backend {
        Backend::Postgres => ", written_by",
        Backend::Sqlite => "",
    };
    let insert = format!(
        "INSERT INTO audit (user_id, chain, seq, transaction_id, action, previous_status, new_status, amount,
             shares, available_after, locked_after, shares_after, locked_shares_after, actor_kind, actor_id,
             request_id, at, previous_hash, hash{written_by})
         SELECT user_id, chain, 13, transaction_id, action, previous_status, new_status, amount,
             shares, available_after, locked_after, shares_after, locked_shares_after, actor_kind, actor_id,
             request_id, at, previous_hash, hash{written_by}
         FROM audit WHERE user_id = {user} AND chain = 'VND' AND seq = 12"
    );
    tamper(stores, &[insert]).await;
    let report = verify(stores).await;
    let first = at(&report, &row(books.an, 13), "row");
    assert_eq!(first.expected, "no row: the chain ends at 12");
    assert_eq!(first.found, "a row");
}

async fn a_chain_of_nobody_is_found(stores: &Relational) {
    let books = books(stores).await;
    // Far from every user: a range that no head announces.
    let nobody = Uuid::from_u128(u128::MAX - 5);
    let sql = format!(
        "UPDATE audit SET user_id = {} WHERE user_id = {} AND chain = 'USDT'",
        id(stores, nobody),
        id(stores, books.an.0)
    );
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let place = |user_id| Place::AuditRow {
        user_id,
        chain: "USDT".to_owned(),
        seq: 1,
    };
    let stray = at(&report, &place(nobody), "row");
    assert_eq!(stray.expected, "no row: no chain of that name has a head");
    let gone = at(&report, &place(books.an.0), "row");
    assert!(gone.expected.starts_with("rows up to 1, "), "{gone}");
}

async fn an_edited_status_is_found(stores: &Relational) {
    let books = books(stores).await;
    let (user, tx) = (id(stores, books.an.0), id(stores, books.held.0));
    let sql = format!(
        "UPDATE transactions SET status = 'cancelled' WHERE user_id = {user} AND transaction_id = {tx}"
    );
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let place = Place::Transaction {
        user_id: books.an.0,
        transaction_id: books.held.0,
    };
    assert_only(&report, &place, "status", "pending", "cancelled");
}

/// A deposit that is made a bonus, with entry and totals to match: the books still balance.
async fn an_edited_type_is_found(stores: &Relational) {
    let books = books(stores).await;
    let (user, tx) = (id(stores, books.an.0), id(stores, books.deposit.0));
    let of = format!("WHERE user_id = {user} AND transaction_id = {tx}");
    tamper(
        stores,
        &[
            format!("UPDATE transactions SET type = 'referral_bonus' {of}"),
            format!("UPDATE entries SET account = 'promotions' {of} AND account = 'custody'"),
            format!(
                "UPDATE accounts SET deposited = deposited - 100000000, bonuses = bonuses + 100000000
                 WHERE user_id = {user} AND asset = 'VND'"
            ),
        ],
    )
    .await;
    let report = verify(stores).await;
    let place = Place::Transaction {
        user_id: books.an.0,
        transaction_id: books.deposit.0,
    };
    let finding = at(&report, &place, "type");
    assert_eq!(
        (finding.expected.as_str(), finding.found.as_str()),
        ("deposit", "referral_bonus")
    );
    let total = at(&report, &account(books.an), "bonuses");
    assert_eq!(
        (total.expected.as_str(), total.found.as_str()),
        ("4", "104")
    );
}

async fn an_edited_submission_is_found(stores: &Relational) {
    let books = books(stores).await;
    let (user, tx) = (id(stores, books.an.0), id(stores, books.held.0));
    let sql = format!(
        "UPDATE transactions SET submitted_at = NULL WHERE user_id = {user} AND transaction_id = {tx}"
    );
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let place = Place::Transaction {
        user_id: books.an.0,
        transaction_id: books.held.0,
    };
    assert_eq!(at(&report, &place, "submitted_at").found, "nothing");
    assert_eq!(report.disagreements, 1);
}

/// When it was made its id says, which is hashed; when it was confirmed its row of the trail.
async fn edited_times_of_a_transaction_are_found(stores: &Relational) {
    let books = books(stores).await;
    let (user, tx) = (id(stores, books.an.0), id(stores, books.deposit.0));
    let sql = format!(
        "UPDATE transactions SET (created_at, confirmed_at) =
             (SELECT max(created_at), max(created_at) FROM transactions)
         WHERE user_id = {user} AND transaction_id = {tx}"
    );
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let place = Place::Transaction {
        user_id: books.an.0,
        transaction_id: books.deposit.0,
    };
    for column in ["created_at", "confirmed_at"] {
        at(&report, &place, column);
    }
    assert_eq!(report.disagreements, 2);
}

async fn a_deleted_transaction_is_found(stores: &Relational) {
    let books = books(stores).await;
    let (user, tx) = (id(stores, books.an.0), id(stores, books.held.0));
    let sql = format!("DELETE FROM transactions WHERE user_id = {user} AND transaction_id = {tx}");
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let place = Place::Transaction {
        user_id: books.an.0,
        transaction_id: books.held.0,
    };
    let finding = at(&report, &place, "row");
    assert_eq!(
        (finding.expected.as_str(), finding.found.as_str()),
        ("pending of 20 VND", "no transaction")
    );
}

async fn an_inserted_transaction_is_found(stores: &Relational) {
    let books = books(stores).await;
    let forged = Uuid::from_u128(5);
    let (user, tx) = (id(stores, books.an.0), id(stores, books.deposit.0));
    let sql = format!(
        "INSERT INTO transactions (user_id, transaction_id, type, status, asset, amount, created_at,
             confirmed_at)
         SELECT user_id, {}, type, status, asset, amount, created_at, confirmed_at
         FROM transactions WHERE user_id = {user} AND transaction_id = {tx}",
        id(stores, forged)
    );
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    let place = Place::Transaction {
        user_id: books.an.0,
        transaction_id: forged,
    };
    let expected = "no transaction: no audit row tells of it";
    assert_only(&report, &place, "row", expected, "a transaction");
}

async fn deleted_entries_are_found(stores: &Relational) {
    let books = books(stores).await;
    let (user, tx) = (id(stores, books.an.0), id(stores, books.deposit.0));
    let sql = format!("DELETE FROM entries WHERE user_id = {user} AND transaction_id = {tx}");
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    for (account, amount) in [("user", "100"), ("custody", "-100")] {
        let place = Place::Entry {
            user_id: books.an.0,
            transaction_id: books.deposit.0,
            account: account.to_owned(),
        };
        let finding = at(&report, &place, "amount");
        assert_eq!(
            (finding.expected.as_str(), finding.found.as_str()),
            (amount, "nothing")
        );
    }
    assert_eq!(report.disagreements, 2);
}

async fn inserted_entries_are_found(stores: &Relational) {
    let books = books(stores).await;
    let (user, held) = (id(stores, books.an.0), id(stores, books.held.0));
    let tx = id(stores, books.deposit.0);
    let sql = format!(
        "INSERT INTO entries (user_id, transaction_id, account, asset, amount, at)
         SELECT user_id, {held}, account, asset, amount, at FROM entries
         WHERE user_id = {user} AND transaction_id = {tx}"
    );
    tamper(stores, &[sql]).await;
    let report = verify(stores).await;
    for (account, amount) in [("user", "100"), ("custody", "-100")] {
        let place = Place::Entry {
            user_id: books.an.0,
            transaction_id: books.held.0,
            account: account.to_owned(),
        };
        let finding = at(&report, &place, "amount");
        assert_eq!(
            (finding.expected.as_str(), finding.found.as_str()),
            ("nothing", amount)
        );
    }
    assert_eq!(report.disagreements, 2);
}

async fn an_edited_platform_chain_is_found(stores: &Relational) {
    books(stores).await;
    let sql = "UPDATE audit SET amount = 1 WHERE chain = 'asset:USDT' AND seq = 1";
    tamper(stores, &[sql.to_owned()]).await;
    let report = verify(stores).await;
    let place = Place::AuditRow {
        user_id: Uuid::nil(),
        chain: "asset:USDT".to_owned(),
        seq: 1,
    };
    at(&report, &place, "hash");
    assert_eq!(report.disagreements, 1);
}

/// Whoever computes the edited row's hash anew must do so for every row after it, and for the head.
async fn a_row_with_a_new_hash_breaks_the_link_after_it(stores: &Relational) {
    let books = books(stores).await;
    stores.posted(deposit(books.an, 1)).await;
    let mut rows = stores.check_chain(books.an, "VND").await;
    let entry = &mut rows[5];
    entry.actor.id = "somebody else".into();
    let (new, old) = (entry.computed_hash(), entry.hash);
    let set = format!("actor_id = 'somebody else', hash = {}", bytes(stores, &new));
    tamper(stores, &[update_row(stores, books.an, 6, &set)]).await;
    let report = verify(stores).await;
    let (expected, found) = (hex::encode(new), hex::encode(old));
    assert_only(
        &report,
        &row(books.an, 7),
        "previous_hash",
        &expected,
        &found,
    );
}
