//! The verifier: untouched books verify, whatever happens beside it, and each kind of tampering is found
//! and named.

use std::sync::Arc;

use abunfi::audit::Attempt;
use abunfi::audit::checkpoint::{Checkpoint, Signer};
use abunfi::audit::verify::{Finding, Options, Place, Report, Verifier};
use abunfi::ids::{KeyId, TransactionId, UserId, random_bytes};
use abunfi::keys::{Scope, ServiceKey};
use abunfi::ledger::{Settlement, TransactionType};
use abunfi::users::{KycChange, KycStatus};
use uuid::Uuid;

use crate::support::make::{
    Shape as _, amount, context, deposit, next_time, posting, settle, submit, withdraw,
};
use crate::support::{Backend, Relational};

mod balances;
mod base;
mod checkpointed;
mod concurrent;
mod forged;
mod incremental;
mod orphans;
mod tampering;
mod untouched;
mod without_account;

/// One of each kind of history, and where what tests change is.
#[derive(Debug, Clone, Copy)]
struct Books {
    /// Its chain in VND has 12 rows: see [`books`].
    an: UserId,
    /// The deposit of 100, row 1.
    deposit: TransactionId,
    /// The withdrawal of 20 that is still held, rows 9 and 10 (submitted).
    held: TransactionId,
}

/// An's chain in VND: 1 deposit 100 · 2 withdraw 10 · 3 hold 20, 4 confirmed, with a reason · 5 yield 2.5 ·
/// 6 bonus 4 · 7 hold 5, 8 cancelled · 9 hold 20, 10 submitted · 11 pending deposit 7 · 12 deposit 1.
async fn books(stores: &Relational) -> Books {
    stores.asset("USDT").await;
    let an = stores.user("An").await.id;
    let first = stores
        .posted(deposit(an, 100).shares("10"))
        .await
        .transaction
        .id;
    stores.posted(withdraw(an, 10).shares("1")).await;
    let paid = stores
        .posted(withdraw(an, 20).pending())
        .await
        .transaction
        .id;
    let confirm = settle(an, paid, Settlement::Confirm);
    stores
        .posted(confirm.saying(|details| details.reason = Some("paid by hand".to_owned())))
        .await;
    stores
        .posted(posting(an, TransactionType::YieldHarvest, amount("2.5")))
        .await;
    stores
        .posted(posting(an, TransactionType::ReferralBonus, amount("4")))
        .await;
    let cancelled = stores
        .posted(withdraw(an, 5).pending())
        .await
        .transaction
        .id;
    stores
        .posted(settle(an, cancelled, Settlement::Cancel))
        .await;
    let held = stores
        .posted(withdraw(an, 20).shares("2").pending())
        .await
        .transaction
        .id;
    stores.posted(submit(an, held)).await;
    stores.posted(deposit(an, 7).pending()).await;
    stores.posted(deposit(an, 1)).await;
    stores.posted(deposit(an, 3).asset("USDT")).await;
    let binh = stores.user_with("Binh", 50).await;
    let kyc = KycChange {
        status: KycStatus::Verified,
        data: None,
        reason: Some("papers seen".to_owned()),
        salts: [random_bytes(), random_bytes()],
    };
    stores
        .users
        .set_kyc(&context(), binh, &kyc, None, next_time())
        .await
        .unwrap();
    let key = ServiceKey {
        id: KeyId::new(next_time()),
        owner: "tests".to_owned(),
        scopes: vec![Scope::Read],
        token_hash: random_bytes(),
        created_at: next_time(),
        revoked_at: None,
    };
    stores.keys.insert(&context(), &key).await.unwrap();
    Books {
        an,
        deposit: first,
        held,
    }
}

fn verifier(stores: &Relational) -> Verifier {
    Verifier::new(stores.verify.clone(), stores.checkpoints.clone())
}

async fn verify_with(stores: &Relational, options: &Options) -> Report {
    verifier(stores)
        .verify(options, Arc::new(()))
        .await
        .expect("a report")
}

/// Verifies in whole pages and, again, in parts of a few rows, which must find the same.
async fn verify(stores: &Relational) -> Report {
    let whole = verify_with(
        stores,
        &Options {
            workers: 2,
            ..Options::default()
        },
    )
    .await;
    let in_parts = verify_with(
        stores,
        &Options {
            workers: 2,
            page_rows: 3,
            ..Options::default()
        },
    )
    .await;
    let sorted = |report: &Report| {
        let mut findings = report.findings.clone();
        findings.sort_by(|a, b| (&a.place, a.what).cmp(&(&b.place, b.what)));
        findings
    };
    assert_eq!(sorted(&whole), sorted(&in_parts), "whole, and in parts");
    assert_eq!(whole.read, in_parts.read, "whole, and in parts");
    assert_eq!(whole.clean, whole.findings.is_empty());
    whole
}

async fn checkpoint(stores: &Relational) -> Checkpoint {
    let signer = Signer::of_seed(&[3; 32]);
    match stores
        .checkpoints
        .make_checkpoint(Some(&signer), next_time(), 10_000)
        .await
        .unwrap()
    {
        Attempt::Made { checkpoint, .. } => checkpoint,
        other => panic!("{other:?}"),
    }
}

/// Changes rows behind the triggers, as somebody with the database's password can.
async fn tamper(stores: &Relational, statements: &[String]) {
    const TABLES: [&str; 5] = [
        "audit",
        "entries",
        "checkpoints",
        "chain_leaves",
        "leaf_changes",
    ];
    for table in TABLES {
        match stores.backend {
            Backend::Postgres => {
                let sql = format!("ALTER TABLE {table} DISABLE TRIGGER USER");
                stores.raw.execute(&sql).await.unwrap();
            }
            Backend::Sqlite => {
                for on in ["update", "delete", "replace"] {
                    let sql = format!("DROP TRIGGER IF EXISTS {table}_no_{on}");
                    stores.raw.execute(&sql).await.unwrap();
                }
            }
        }
    }
    for sql in statements {
        let changed = stores
            .raw
            .execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(changed > 0, "{sql} changed nothing");
    }
}

/// An id as the backend writes it.
fn id(stores: &Relational, id: Uuid) -> String {
    match stores.backend {
        Backend::Postgres => format!("'{id}'"),
        Backend::Sqlite => format!("x'{}'", id.simple()),
    }
}

/// Bytes as the backend writes them.
fn bytes(stores: &Relational, bytes: &[u8]) -> String {
    match stores.backend {
        Backend::Postgres => format!("'\\x{}'::bytea", hex::encode(bytes)),
        Backend::Sqlite => format!("x'{}'", hex::encode(bytes)),
    }
}

fn row(user: UserId, seq: i64) -> Place {
    Place::AuditRow {
        user_id: user.0,
        chain: "VND".to_owned(),
        seq,
    }
}

fn account(user: UserId) -> Place {
    Place::Account {
        user_id: user.0,
        asset: "VND".to_owned(),
    }
}

/// What was found at a place.
fn at<'r>(report: &'r Report, place: &Place, what: &str) -> &'r Finding {
    report
        .findings
        .iter()
        .find(|finding| finding.place == *place && finding.what == what)
        .unwrap_or_else(|| panic!("nothing about {what} of {place} in {:#?}", report.findings))
}

/// Exactly this was found, and nothing else.
#[track_caller]
fn assert_only(report: &Report, place: &Place, what: &str, expected: &str, found: &str) {
    let shown: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [format!("{place}: {what} should be {expected}, is {found}")]
    );
    assert_eq!(report.disagreements, 1);
}
