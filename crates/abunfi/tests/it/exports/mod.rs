//! Exports and proofs: what is written can be checked by a stranger, who sees every edit.
//!
//! Each file is checked twice: by the library, and by `tools/audit-check`, which was written from the document
//! and shares no code with it. Both must agree, on what is whole and on what was edited.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abunfi::audit::check::{self, Demands, Kind, Report};
use abunfi::audit::checkpoint::Signer;
use abunfi::audit::format::Proof;
use abunfi::audit::{Error, Service};
use abunfi::clock::ManualClock;
use abunfi::context::{Actor, Context, Principal};
use abunfi::ids::{UserId, random_bytes};
use abunfi::ledger::{Settlement, TransactionType};
use abunfi::users::{KycChange, KycStatus, UserChange, UserStatus};
use serde_json::Value;

use edits::{EDITS, UNSIGNED_EDITS, flip, is_vnd, more, the};

use crate::support::make::{
    Shape as _, at, context, deposit, next_time, posting, settle, submit, units, withdraw,
};
use crate::support::{Relational, on_every_backend};

mod anchored;
mod edits;
mod incremental;
mod late_key;
mod streamed;
mod without_account;

on_every_backend!(
    an_export_agrees_with_itself_and_every_edit_is_seen,
    an_export_after_a_checkpoint_holds_what_came_later,
    what_comes_while_an_export_is_made_is_left_out,
    a_proof_agrees_with_itself_and_every_edit_is_seen,
    an_anchor_is_the_newest_checkpoint,
    erasing_leaves_everything_verifiable_and_is_said_once,
    without_a_key_checkpoints_are_not_signed,
);

fn signer() -> Signer {
    Signer::of_seed(&[4; 32])
}

fn service(stores: &Relational, signer: Option<Signer>) -> Service {
    Service::new(
        stores.audit.clone(),
        stores.checkpoints.clone(),
        stores.exports.clone(),
        Arc::new(ManualClock::at(at(100_000_000))),
        signer,
    )
}

/// All sorts of operations, with checkpoints between them and some of them after the last.
async fn a_busy_platform(stores: &Relational, audit: &Service) -> Vec<UserId> {
    stores.asset("USDT").await;
    let mut users = Vec::new();
    for name in ["An", "Binh", "Chi"] {
        users.push(stores.user_with(name, 100).await);
    }
    audit.checkpoint().await.unwrap().made().unwrap();
    for user in &users {
        stores
            .posted(deposit(*user, 7).asset("USDT").shares("1.5"))
            .await;
        stores
            .posted(posting(*user, TransactionType::YieldHarvest, units(3)))
            .await;
        stores
            .posted(posting(*user, TransactionType::ReferralBonus, units(2)).pending())
            .await;
        stores.posted(withdraw(*user, 5)).await;
        for to in [Settlement::Confirm, Settlement::Fail, Settlement::Cancel] {
            let held = stores
                .posted(withdraw(*user, 4).asset("USDT").shares("0.5").pending())
                .await;
            let id = held.transaction.id;
            if to == Settlement::Confirm {
                stores.posted(submit(*user, id)).await;
            }
            let because = settle(*user, id, to)
                .saying(|details| details.reason = Some("a private reason".to_owned()));
            stores.posted(because).await;
            if to == Settlement::Confirm {
                stores
                    .posted(deposit(*user, 4).asset("USDT").shares("0.5"))
                    .await;
            }
        }
        let pending = stores
            .posted(deposit(*user, 9).pending())
            .await
            .transaction
            .id;
        stores
            .posted(settle(*user, pending, Settlement::Confirm))
            .await;
        kyc(stores, *user).await;
    }
    audit.checkpoint().await.unwrap().made().unwrap();
    stores.posted(withdraw(users[0], 1).pending()).await;
    let suspend = UserChange {
        status: Some(UserStatus::Suspended),
        ..UserChange::default()
    };
    stores
        .users
        .update(
            &context(),
            users[1],
            &suspend,
            None,
            random_bytes(),
            next_time(),
        )
        .await
        .unwrap();
    audit.checkpoint().await.unwrap().made().unwrap();
    stores.posted(deposit(users[2], 1)).await;
    users
}

async fn kyc(stores: &Relational, user: UserId) {
    let kyc = KycChange {
        status: KycStatus::Verified,
        data: Some(serde_json::json!({"passport": "B1234567"})),
        reason: Some("papers seen".to_owned()),
        salts: [random_bytes(), random_bytes()],
    };
    stores
        .users
        .set_kyc(&context(), user, &kyc, None, next_time())
        .await
        .unwrap();
}

async fn export(audit: &Service, since: i64) -> String {
    let mut out = Vec::new();
    let written = audit.export(since, &mut out, &()).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(
        usize::try_from(written.lines).unwrap(),
        text.lines().count()
    );
    assert!(
        !text.contains("private") && !text.contains("B1234567"),
        "nothing personal"
    );
    text
}

/// What the library says; `None`: it cannot be read.
fn by_library(text: &str, signer: Option<&Signer>) -> Option<Report> {
    let demands = Demands {
        public_keys: signer.map(Signer::public_key).into_iter().collect(),
        anchor: None,
    };
    check::check(&mut text.as_bytes(), &demands, &()).ok()
}

/// What the program says that was written from the document; `None`: it cannot be read.
fn by_document(text: &str, signer: Option<&Signer>) -> Option<Value> {
    run_document(text, signer, None)
        .ok()
        .map(|(report, _)| report)
}

/// The same, with an anchor: the report and what was printed, or why there is none.
fn run_document(
    text: &str,
    signer: Option<&Signer>,
    anchor: Option<&str>,
) -> Result<(Value, String), String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, text).unwrap();
    let tool = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tools/audit-check/audit_check.py"
    );
    let mut command = Command::new("python3");
    command.arg(tool).arg(&file);
    if let Some(signer) = signer {
        command.args(["--public-key", &hex::encode(signer.public_key())]);
    }
    if let Some(anchor) = anchor {
        let file = folder.path().join("anchor.json");
        std::fs::write(&file, anchor).unwrap();
        command.arg("--anchor").arg(file);
    }
    let ran = command
        .output()
        .expect("python3 runs the independent checker; install it");
    let out = String::from_utf8(ran.stdout).unwrap();
    let error = String::from_utf8(ran.stderr).unwrap();
    match ran.status.code() {
        Some(2) => Err(error),
        Some(code @ (0 | 1)) => {
            let report: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
            assert_eq!(report["clean"], code == 0, "{out}");
            Ok((report, out))
        }
        code => panic!("{code:?}: {error}"),
    }
}

/// Both find it clean, and count the same.
#[track_caller]
fn assert_clean(text: &str, signer: Option<&Signer>) -> Report {
    let report = by_library(text, signer).expect("it can be read");
    assert!(report.clean, "{:#?}", report.findings);
    let other = by_document(text, signer).expect("it can be read");
    let counts = serde_json::json!({
        "clean": true, "disagreements": 0, "checkpoint": report.checkpoint,
        "checkpoints": report.checkpoints, "signed_from": report.signed_from, "chains": report.chains, "rows": report.rows,
        "rows_not_covered": report.rows_not_covered,
        "chains_not_covered": report.chains_not_covered, "since": report.since,
        "anchored": null, "not_anchored": null,
    });
    assert_eq!(other, counts);
    report
}

/// Neither finds it clean.
#[track_caller]
fn assert_seen(what: &str, text: &str) {
    assert_eq!(content(text), [""; 0], "{what}");
}

/// Who finds it clean.
fn content(text: &str) -> Vec<&'static str> {
    let library = by_library(text, Some(&signer()));
    let document = by_document(text, Some(&signer()));
    let library = library.is_some_and(|report| report.clean);
    let document = document.is_some_and(|report| report["clean"] == true);
    [
        (library, "the library"),
        (document, "the document's program"),
    ]
    .into_iter()
    .filter_map(|(is_content, who)| is_content.then_some(who))
    .collect()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// With the number of lines made good, as a forger would.
fn joined(mut lines: Vec<Value>) -> String {
    let count = lines.len() - 1;
    lines.last_mut().unwrap()["lines"] = count.into();
    lines.iter().map(|line| format!("{line}\n")).collect()
}

type ProofEdit = (&'static str, fn(&mut Value));

async fn an_export_agrees_with_itself_and_every_edit_is_seen(stores: &Relational) {
    let audit = service(stores, Some(signer()));
    a_busy_platform(stores, &audit).await;
    let text = export(&audit, 0).await;
    let report = assert_clean(&text, Some(&signer()));
    assert_eq!(
        (report.kind, report.checkpoint, report.checkpoints),
        (Kind::Export, 3, 3)
    );
    let rows = stores.raw.number("SELECT count(*) FROM audit").await;
    assert_eq!(i64::try_from(report.rows).unwrap(), rows);
    assert_eq!(report.rows_not_covered, 1, "the last deposit");
    assert_eq!(report.signed_by, Some(hex::encode(signer().public_key())));

    let mut unseen = Vec::new();
    for (what, edit) in EDITS {
        let mut edited = lines(&text);
        edit(&mut edited);
        assert_ne!(edited, lines(&text), "{what}");
        let who = content(&joined(edited));
        unseen.extend(who.into_iter().map(|who| format!("{what}: by {who}")));
    }
    for (what, edit) in UNSIGNED_EDITS {
        let mut edited = lines(&text);
        edit(&mut edited);
        let edited = joined(edited);
        let library = by_library(&edited, None).unwrap();
        let document = by_document(&edited, None).unwrap();
        if library.clean || document["clean"] == true {
            unseen.push(format!("{what}: by {:?}, {document}", library.findings));
        }
    }
    assert_eq!(unseen, [""; 0]);
    let all: Vec<_> = text.lines().collect();
    assert_seen("the end cut off", &all[..all.len() - 1].join("\n"));
    let another = Signer::of_seed(&[5; 32]);
    assert!(
        !by_library(&text, Some(&another)).unwrap().clean,
        "signed by another key"
    );
    assert_eq!(by_document(&text, Some(&another)).unwrap()["clean"], false);
    assert_clean(&text, None);
}

async fn an_export_after_a_checkpoint_holds_what_came_later(stores: &Relational) {
    let audit = service(stores, Some(signer()));
    a_busy_platform(stores, &audit).await;
    // A chain that the checkpoint did not know.
    stores.user_with("Dung", 4).await;
    audit.checkpoint().await.unwrap().made().unwrap();
    let all = stores.raw.number("SELECT count(*) FROM audit").await;
    for since in 1..=4 {
        let text = export(&audit, since).await;
        let report = assert_clean(&text, Some(&signer()));
        assert_eq!((report.checkpoint, report.since), (4, since));
        let mut edited = lines(&text);
        the(&mut edited, "header", |_| true)["since"] = (since + 1).into();
        assert_seen("another start", &joined(edited));
        if since < 3 {
            let mut edited = lines(&text);
            more(&mut the(&mut edited, "account", is_vnd)["available_micros"]);
            assert_seen("a balance", &joined(edited));
        }
        let known = stores.checkpoints.checkpoints(since - 1, 1).await.unwrap();
        assert_eq!(
            i64::try_from(report.rows).unwrap(),
            all - known[0].covered_rows
        );
        if since < 4 {
            let mut edited = lines(&text);
            the(&mut edited, "row", |_| true)["request_id"] = "forged".into();
            assert_seen("a row", &joined(edited));
        }
        let mut edited = lines(&text);
        flip(&mut the(&mut edited, "change", |_| true)["hash"]);
        assert_seen("what a leaf held", &joined(edited));
    }
    let mut out = Vec::new();
    let refused = audit.export(5, &mut out, &()).await;
    assert!(
        matches!(refused, Err(Error::NoSuchCheckpoint(5))),
        "{refused:?}"
    );
}

async fn what_comes_while_an_export_is_made_is_left_out(stores: &Relational) {
    let audit = service(stores, Some(signer()));
    let users = a_busy_platform(stores, &audit).await;
    let written = Arc::new(AtomicU64::new(0));
    let writer = tokio::spawn({
        let (stores, written) = (stores.clone(), written.clone());
        async move {
            for round in 0_u64.. {
                let user = users[usize::try_from(round % 3).unwrap()];
                if round % 3 != 1 {
                    let held = stores
                        .posted(deposit(user, 1).pending())
                        .await
                        .transaction
                        .id;
                    stores.posted(settle(user, held, Settlement::Confirm)).await;
                    written.fetch_add(1, Ordering::SeqCst);
                }
                if round % 10 == 0 {
                    stores.user_with(&format!("u{round}"), 1).await;
                }
            }
        }
    });
    // Four of them beside which something was written, and few others.
    let (mut met, mut made) = (0, 0);
    while met < 4 {
        assert!(made < 40, "what is written waits for the exports");
        assert!(!writer.is_finished(), "it writes all the while");
        let before = written.load(Ordering::SeqCst);
        let text = export(&audit, 0).await;
        met += u64::from(written.load(Ordering::SeqCst) > before);
        made += 1;
        assert_clean(&text, Some(&signer()));
        audit.checkpoint().await.unwrap();
    }
    writer.abort();
    let _cut = writer.await;
}

async fn a_proof_agrees_with_itself_and_every_edit_is_seen(stores: &Relational) {
    let audit = service(stores, Some(signer()));
    let nobody = UserId::new(at(0));
    assert!(matches!(
        audit.prove(nobody).await,
        Err(Error::NoCheckpoint)
    ));
    let users = a_busy_platform(stores, &audit).await;
    assert!(matches!(
        audit.prove(nobody).await,
        Err(Error::NoSuchUser(_))
    ));
    for user in &users {
        let proof = audit.prove(*user).await.unwrap();
        assert_eq!(proof.chains.len(), 3);
        let text = serde_json::to_string_pretty(&proof).unwrap();
        let report = assert_clean(&text, Some(&signer()));
        assert_eq!((report.kind, report.checkpoint), (Kind::Proof, 3));
        assert_eq!(report.rows_not_covered, u64::from(*user == users[2]));
    }
    let proof = audit.prove(users[2]).await.unwrap();
    let whole = serde_json::to_value(&proof).unwrap();
    let edits: [ProofEdit; 8] = [
        ("a row", |p| {
            more(&mut p["chains"][1]["rows"][0]["amount_micros"])
        }),
        ("the path", |p| {
            flip(&mut p["chains"][1]["inclusion"]["path"][0])
        }),
        ("the leaf", |p| {
            p["chains"][1]["inclusion"]["leaf"] = 0.into()
        }),
        ("the covered row", |p| {
            flip(&mut p["chains"][1]["inclusion"]["hash"])
        }),
        ("the root", |p| flip(&mut p["checkpoint"]["root"])),
        ("the signature", |p| flip(&mut p["checkpoint"]["signature"])),
        ("a cut chain", |p| {
            p["chains"][1]["rows"].as_array_mut().unwrap().truncate(1)
        }),
        ("a missing row", |p| {
            p["chains"][1]["rows"].as_array_mut().unwrap().remove(0);
        }),
    ];
    for (what, edit) in edits {
        let mut edited = whole.clone();
        edit(&mut edited);
        // Members in their order, which a `Value` does not keep.
        let edited: Proof = serde_json::from_value(edited).unwrap();
        assert_seen(what, &serde_json::to_string(&edited).unwrap());
    }
}

async fn an_anchor_is_the_newest_checkpoint(stores: &Relational) {
    let audit = service(stores, Some(signer()));
    assert!(matches!(audit.anchor().await, Err(Error::NoCheckpoint)));
    a_busy_platform(stores, &audit).await;
    let anchor = serde_json::to_value(audit.anchor().await.unwrap()).unwrap();
    let report = assert_clean_anchor(&anchor);
    assert_eq!((report.kind, report.checkpoint), (Kind::Anchor, 3));
    let mut edited = anchor;
    edited["checkpoint"]["covered_rows"] = 1.into();
    assert_seen("an anchor", &edited.to_string());
}

fn assert_clean_anchor(anchor: &Value) -> Report {
    let text = anchor.to_string();
    assert_eq!(by_document(&text, Some(&signer())).unwrap()["clean"], true);
    let report = by_library(&text, Some(&signer())).unwrap();
    assert!(report.clean, "{report:?}");
    report
}

async fn erasing_leaves_everything_verifiable_and_is_said_once(stores: &Relational) {
    let audit = service(stores, Some(signer()));
    let users = a_busy_platform(stores, &audit).await;
    let private = "SELECT count(*) FROM audit_private";
    let before = stores.raw.number(private).await;
    let operator = Context::new(
        Actor::system("cli"),
        Principal::key_owner("ops"),
        "erasure-1",
    );
    // Three reasons of settlements, and of KYC the reason and the data.
    assert_eq!(audit.erase(&operator, users[0]).await.unwrap(), 5);
    assert_eq!(stores.raw.number(private).await, before - 5);
    assert_eq!(
        audit.erase(&operator, users[0]).await.unwrap(),
        0,
        "erasing again finds nothing"
    );
    let rows = stores.check_chain(users[0], "user").await;
    let said: Vec<_> = rows.iter().filter(|row| row.action == "erase").collect();
    assert_eq!(said.len(), 1, "and says nothing");
    assert_eq!(
        (said[0].actor.clone(), said[0].request_id.as_ref()),
        (operator.actor.clone(), "erasure-1")
    );
    let nobody = UserId::new(at(0));
    assert!(matches!(
        audit.erase(&operator, nobody).await,
        Err(Error::NoSuchUser(_))
    ));

    stores.check_books().await;
    audit.checkpoint().await.unwrap().made().unwrap();
    assert_clean(&export(&audit, 0).await, Some(&signer()));
    let proof = audit.prove(users[0]).await.unwrap();
    assert_clean(&serde_json::to_string(&proof).unwrap(), Some(&signer()));
    let page = abunfi::ledger::Page {
        after: None,
        limit: 200,
    };
    let history = stores
        .audit
        .history(users[0], None, &page)
        .await
        .unwrap()
        .unwrap();
    assert!(history.iter().all(|row| row.reason.is_none()));
    assert!(
        history
            .iter()
            .any(|row| row.entry.reason_commitment.is_some())
    );
}

async fn without_a_key_checkpoints_are_not_signed(stores: &Relational) {
    let audit = service(stores, None);
    a_busy_platform(stores, &audit).await;
    let text = export(&audit, 0).await;
    let report = assert_clean(&text, None);
    assert_eq!(report.signed_by, None);
    assert_seen("no signature where there must be one", &text);
}
