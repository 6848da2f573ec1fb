//! Books that nobody touched.

use abunfi::audit::verify::Options;

use super::{books, checkpoint, tamper, verify, verify_with};
use crate::support::make::{context, deposit, next_time};
use crate::support::{Relational, on_every_backend};

on_every_backend!(
    empty_books_verify,
    untouched_books_verify,
    untouched_books_verify_under_checkpoints,
    erased_content_is_counted_and_no_error,
    a_history_beyond_a_page_verifies,
    every_worker_count_gives_the_same,
);

async fn empty_books_verify(stores: &Relational) {
    let report = verify(stores).await;
    assert!(report.clean);
    assert_eq!((report.read.accounts, report.read.transactions), (0, 0));
    stores.user("poor").await;
    let report = verify(stores).await;
    assert!(report.clean);
    assert_eq!(
        (report.read.accounts, report.read.audit_rows),
        (1, report.read.not_checkpointed)
    );
}

/// It must have looked: a verifier that reads nothing finds nothing.
async fn untouched_books_verify(stores: &Relational) {
    books(stores).await;
    let report = verify(stores).await;
    assert!(report.clean, "{:#?}", report.findings);
    for (what, counted, sql) in [
        (
            "audit rows",
            report.read.audit_rows,
            "SELECT count(*) FROM audit",
        ),
        (
            "accounts",
            report.read.accounts,
            "SELECT count(*) FROM accounts",
        ),
        (
            "transactions",
            report.read.transactions,
            "SELECT count(*) FROM transactions",
        ),
        (
            "entries",
            report.read.entries,
            "SELECT count(*) FROM entries",
        ),
        (
            "private",
            report.read.private,
            "SELECT count(*) FROM audit_private",
        ),
        (
            "not covered",
            report.read.not_checkpointed,
            "SELECT count(*) FROM audit",
        ),
    ] {
        let there = u64::try_from(stores.raw.number(sql).await).unwrap();
        assert_eq!(counted, there, "{what}");
        assert!(there >= 2, "{what}");
    }
    assert_eq!(report.read.erased, 0);
}

async fn untouched_books_verify_under_checkpoints(stores: &Relational) {
    let books = books(stores).await;
    let first = checkpoint(stores).await;
    let report = verify(stores).await;
    assert!(report.clean, "{:#?}", report.findings);
    assert_eq!(report.read.not_checkpointed, 0);
    assert_eq!(
        (report.checkpoints.count, report.checkpoints.covered_rows),
        (1, first.covered_rows)
    );
    stores.posted(deposit(books.an, 1)).await;
    let second = checkpoint(stores).await;
    stores.posted(deposit(books.an, 1)).await;
    stores.posted(deposit(books.an, 1)).await;
    let report = verify(stores).await;
    assert!(report.clean, "{:#?}", report.findings);
    assert_eq!(report.read.not_checkpointed, 2);
    assert_eq!(
        (report.checkpoints.count, report.checkpoints.covered_rows),
        (2, second.covered_rows)
    );
}

async fn erased_content_is_counted_and_no_error(stores: &Relational) {
    books(stores).await;
    let there = stores
        .raw
        .number("SELECT count(*) FROM audit_private")
        .await;
    for user in stores.all_users().await {
        let erased = stores.exports.erase(&context(), user, next_time()).await;
        assert!(erased.unwrap().is_some());
    }
    let report = verify(stores).await;
    assert!(report.clean, "{:#?}", report.findings);
    assert_eq!(
        (report.read.private, report.read.erased),
        (0, u64::try_from(there).unwrap())
    );
}

/// Pages of 3 rows are under test in `verify` already; here are parts that end exactly at the head, and
/// pages that end exactly between users.
async fn a_history_beyond_a_page_verifies(stores: &Relational) {
    for rows in 1..=7 {
        let user = stores.user(&format!("user-{rows}")).await.id;
        for _ in 0..rows {
            stores.posted(deposit(user, 1)).await;
        }
    }
    let _later = next_time();
    for page_rows in 1..=8 {
        let options = Options {
            workers: 3,
            page_rows,
            ..Options::default()
        };
        let report = verify_with(stores, &options).await;
        assert!(report.clean, "{page_rows}: {:#?}", report.findings);
        let there = stores.raw.number("SELECT count(*) FROM audit").await;
        assert_eq!(
            report.read.audit_rows,
            u64::try_from(there).unwrap(),
            "{page_rows}"
        );
        assert_eq!(report.read.transactions, 28, "{page_rows}");
        assert_eq!(report.read.entries, 56, "{page_rows}");
    }
}

async fn every_worker_count_gives_the_same(stores: &Relational) {
    let books = books(stores).await;
    let sql = "UPDATE audit SET request_id = 'forged' WHERE seq >= 1 AND chain <> 'user'";
    tamper(stores, &[sql.to_owned()]).await;
    let mut reports = Vec::new();
    for workers in [1, 2, 5] {
        for page_rows in [2, 8_192] {
            let options = Options {
                workers,
                page_rows,
                most_findings: 4,
                ..Options::default()
            };
            reports.push((page_rows, verify_with(stores, &options).await));
        }
    }
    for (_, report) in &reports {
        assert_eq!(report.findings.len(), 4, "the first of them");
        let rows = "SELECT count(*) FROM audit WHERE request_id = 'forged'";
        let rows = u64::try_from(stores.raw.number(rows).await).unwrap();
        assert_eq!(report.disagreements, rows, "all of them are counted");
        assert_eq!(report.findings, reports[0].1.findings, "the same first");
    }
    assert_eq!(
        books.an,
        stores
            .all_users()
            .await
            .into_iter()
            .find(|user| *user == books.an)
            .unwrap()
    );
}
