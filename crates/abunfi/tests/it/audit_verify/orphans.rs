//! Rows of users of whom nothing else is left: each must be found, whoever reads them, and named.

use abunfi::audit::verify::{Options, Place, Report};
use abunfi::ids::UserId;
use uuid::Uuid;

use super::{assert_only, at, books, checkpoint, id, tamper, verify, verify_with};
use crate::support::make::deposit;
use crate::support::{Backend, Relational, on_every_backend};

on_every_backend!(
    a_leaf_of_a_chain_without_rows_is_found,
    a_user_that_only_leaves_tell_of_is_found,
    users_of_whom_one_table_tells_are_found_one_by_one,
);

fn leaf(stores: &Relational, user: UserId, chain: &str, leaf: i64) -> String {
    let user = id(stores, user.0);
    format!("INSERT INTO chain_leaves (user_id, chain, leaf) VALUES ({user}, '{chain}', {leaf})")
}

/// Neither a root nor a row tells of it, and the next new chain could have no leaf.
async fn a_leaf_of_a_chain_without_rows_is_found(stores: &Relational) {
    let books = books(stores).await;
    let place = |user_id, chain: &str, leaf| Place::ChainLeaf {
        leaf,
        user_id,
        chain: chain.to_owned(),
    };
    let expected = "no leaf: no checkpoint covers a row of this chain";
    // Before there is any checkpoint, and of a user who has other chains.
    tamper(stores, &[leaf(stores, books.an, "EUR", 77)]).await;
    let report = verify(stores).await;
    let of_an = place(books.an.0, "EUR", 77);
    assert_only(&report, &of_an, "row", expected, "a leaf");
    checkpoint(stores).await;
    let report = verify(stores).await;
    assert_only(&report, &of_an, "row", expected, "a leaf");
    assert_eq!(
        report.findings[0].to_string(),
        format!(
            "leaf 77 of chain EUR of {}: row should be {expected}, is a leaf",
            books.an
        )
    );
    let nobody = UserId(Uuid::from_u128(7));
    tamper(stores, &[leaf(stores, nobody, "VND", 78)]).await;
    let report = verify(stores).await;
    at(&report, &place(nobody.0, "VND", 78), "row");
    assert_eq!(report.disagreements, 2, "{:#?}", report.findings);
}

/// Takes away every row of a user that the books are made of, but not what checkpoints have.
async fn wipe(stores: &Relational, user: UserId) {
    let tables = [
        "entries",
        "audit_private",
        "audit",
        "transactions",
        "accounts",
        "chain_heads",
    ];
    let user = id(stores, user.0);
    let delete = tables.map(|table| format!("DELETE FROM {table} WHERE user_id = {user}"));
    unchecked(stores, &delete).await;
}

/// As [`tamper`], and past what the database demands of rows that belong together.
async fn unchecked(stores: &Relational, statements: &[String]) {
    let statements: Vec<String> = match stores.backend {
        Backend::Postgres => {
            for table in ["accounts", "transactions"] {
                let sql = format!("ALTER TABLE {table} DISABLE TRIGGER USER");
                stores.raw.execute(&sql).await.unwrap();
            }
            statements.to_vec()
        }
        Backend::Sqlite => statements
            .iter()
            .map(|sql| format!("PRAGMA foreign_keys = OFF; {sql}"))
            .collect(),
    };
    tamper(stores, &statements).await;
}

/// Binh, with two checkpoints of his chain in VND, wiped.
async fn binh_wiped(stores: &Relational) -> UserId {
    let an = books(stores).await.an;
    let users = stores.all_users().await;
    let binh = *users.iter().find(|user| **user != an).unwrap();
    checkpoint(stores).await;
    stores.posted(deposit(binh, 1)).await;
    checkpoint(stores).await;
    wipe(stores, binh).await;
    binh
}

/// All three rows that checkpoints name are missed.
#[track_caller]
fn assert_missed(report: &Report, user: UserId) {
    for (chain, seq, number) in [("VND", 1, 1), ("VND", 2, 2), ("user", 1, 1)] {
        let place = Place::AuditRow {
            user_id: user.0,
            chain: chain.to_owned(),
            seq,
        };
        let finding = at(report, &place, "row");
        let names = format!("as checkpoint {number} has it");
        assert!(finding.expected.ends_with(&names), "{finding}");
        assert_eq!(finding.found, "no row");
    }
}

async fn a_user_that_only_leaves_tell_of_is_found(stores: &Relational) {
    let binh = binh_wiped(stores).await;
    let report = verify(stores).await;
    assert_missed(&report, binh);
    assert_eq!(report.disagreements, 3, "{:#?}", report.findings);
    let since = Options {
        since: Some(1),
        ..Options::default()
    };
    let report = verify_with(stores, &since).await;
    assert_missed(&report, binh);
    assert_eq!(report.disagreements, 3, "{:#?}", report.findings);
}

/// Pages that are too full are read user by user, and whoever has any row is one.
async fn users_of_whom_one_table_tells_are_found_one_by_one(stores: &Relational) {
    // More than a page for three rows of the trail takes.
    const MANY: u128 = 100;
    let binh = binh_wiped(stores).await;
    let [transactions, entries] = [8, 5].map(|below| Uuid::from_u128(u128::MAX - below));
    let now = "(SELECT min(created_at) FROM users)";
    let owner = id(stores, transactions);
    let rows: Vec<String> = (1..=MANY)
        .map(|number| {
            let tx = id(stores, Uuid::from_u128(number));
            format!("({owner}, {tx}, 'deposit', 'pending', 'VND', 5, {now})")
        })
        .collect();
    let tx = id(stores, Uuid::from_u128(1));
    let owner = id(stores, entries);
    unchecked(
        stores,
        &[
            format!(
                "INSERT INTO transactions (user_id, transaction_id, type, status, asset, amount, created_at)
                 VALUES {}",
                rows.join(", ")
            ),
            format!(
                "INSERT INTO entries (user_id, transaction_id, account, asset, amount, at)
                 VALUES ({owner}, {tx}, 'user', 'VND', 5000000, {now})"
            ),
        ],
    )
    .await;
    for page_rows in [3, Options::default().page_rows] {
        let options = Options {
            page_rows,
            most_findings: 1_000,
            ..Options::default()
        };
        let report = verify_with(stores, &options).await;
        assert_missed(&report, binh);
        for number in 1..=MANY {
            let place = Place::Transaction {
                user_id: transactions,
                transaction_id: Uuid::from_u128(number),
            };
            at(&report, &place, "row");
        }
        let place = Place::Entry {
            user_id: entries,
            transaction_id: Uuid::from_u128(1),
            account: "user".to_owned(),
        };
        let stray = at(&report, &place, "row");
        assert_eq!(stray.expected, "no entry: there is no such transaction");
        assert_eq!(stray.found, "5");
        assert_eq!(report.disagreements, 3 + 100 + 1, "pages of {page_rows}");
    }
}
