//! Whoever holds a published anchor can demand that a file holds that checkpoint, with that root: of the
//! library and, independently, of the program that was written from the document.

use abunfi::audit::Service;
use abunfi::audit::check::{self, Demands, Report};
use abunfi::audit::format::{Anchor, CheckpointLine};
use serde_json::{Value, json};

use super::{a_busy_platform, export, joined, lines, run_document, service, signer};
use crate::support::make::deposit;
use crate::support::{Relational, on_every_backend};

on_every_backend!(
    an_export_must_hold_what_was_published,
    an_export_with_another_root_is_found,
    an_export_without_the_checkpoint_is_found,
    a_proof_must_be_of_what_was_published,
    what_is_no_anchor_is_refused,
);

/// As `abunfi audit anchor` writes it now.
async fn published(audit: &Service) -> String {
    serde_json::to_string_pretty(&audit.anchor().await.unwrap()).unwrap()
}

/// What both say: they agree on whether it is clean, and on what is anchored. The library's report, and what
/// the document's program printed.
#[track_caller]
fn held_against(text: &str, anchor: &str) -> (Report, String) {
    let demands = Demands {
        public_keys: vec![signer().public_key()],
        anchor: Some(Anchor::parse(anchor).unwrap()),
    };
    let library = check::check(&mut text.as_bytes(), &demands, &()).unwrap();
    let (document, printed) = run_document(text, Some(&signer()), Some(anchor)).unwrap();
    assert_eq!(
        document["clean"], library.clean,
        "{:#?}\n{printed}",
        library.findings
    );
    assert_eq!(document["anchored"], json!(library.anchored), "{printed}");
    assert_eq!(
        document["not_anchored"],
        json!(library.not_anchored),
        "{printed}"
    );
    (library, printed)
}

/// Both find exactly one disagreement, and name the checkpoint and the published hash.
#[track_caller]
fn assert_named(text: &str, anchor: &str, starts: &str, names: &str) {
    let (report, printed) = held_against(text, anchor);
    let [finding] = report.findings.as_slice() else {
        panic!("{:#?}", report.findings);
    };
    for said in [finding.as_str(), printed.lines().next().unwrap()] {
        assert!(said.starts_with(starts) && said.contains(names), "{said}");
    }
    assert_eq!(printed.lines().count(), 2, "{printed}");
    assert_eq!(report.anchored, None);
}

/// Another history's checkpoint: whole in itself, and not the one that was published.
fn rewritten(anchor: &str, edit: impl Fn(&mut CheckpointLine)) -> String {
    let mut anchor: Anchor = serde_json::from_str(anchor).unwrap();
    edit(&mut anchor.checkpoint);
    let mut checkpoint = anchor.checkpoint.into_checkpoint(anchor.ledger_id);
    checkpoint.hash = checkpoint.computed_hash();
    anchor.checkpoint = CheckpointLine::from(&checkpoint);
    serde_json::to_string(&anchor).unwrap()
}

/// Checkpoints 1 to 4, a deposit after them; the anchor is of the third.
async fn anchored_at_three(stores: &Relational, audit: &Service) -> String {
    let users = a_busy_platform(stores, audit).await;
    let anchor = published(audit).await;
    audit.checkpoint().await.unwrap().made().unwrap();
    stores.posted(deposit(users[0], 1)).await;
    anchor
}

async fn an_export_must_hold_what_was_published(stores: &Relational) {
    let audit = service(stores, Some(signer()));
    let anchor = anchored_at_three(stores, &audit).await;
    for since in [0, 1, 3] {
        let text = export(&audit, since).await;
        let (report, _) = held_against(&text, &anchor);
        assert!(report.clean, "{:#?}", report.findings);
        assert_eq!((report.anchored, report.not_anchored), (Some(3), Some(1)));
        assert_eq!(report.rows_not_covered, 1);
    }
    let newest = published(&audit).await;
    let (report, _) = held_against(&export(&audit, 0).await, &newest);
    assert_eq!((report.anchored, report.not_anchored), (Some(4), Some(0)));
    // Who published the same twice published one thing.
    assert!(held_against(&newest, &newest).0.clean);
    // That a file holds it does not excuse what else is wrong with it.
    let mut edited = lines(&export(&audit, 0).await);
    super::more(&mut super::the(&mut edited, "account", super::is_vnd)["available_micros"]);
    let (report, _) = held_against(&joined(edited), &anchor);
    assert_eq!((report.clean, report.anchored), (false, Some(3)));
}

async fn an_export_with_another_root_is_found(stores: &Relational) {
    let audit = service(stores, Some(signer()));
    let anchor = anchored_at_three(stores, &audit).await;
    let text = export(&audit, 0).await;
    let another = rewritten(&anchor, |checkpoint| checkpoint.root.0 = [7; 32]);
    assert_named(&text, &another, "checkpoint 3: ", &"07".repeat(32));
    // The same root, and yet another checkpoint.
    let another = rewritten(&anchor, |checkpoint| checkpoint.at_micros -= 1);
    let hash = serde_json::from_str::<Anchor>(&another)
        .unwrap()
        .checkpoint
        .hash
        .0;
    assert_named(&text, &another, "checkpoint 3: ", &hex::encode(hash));
    // Of another ledger.
    let ledger = "00000000-0000-4000-8000-00000000abcd";
    let mut other: Anchor = serde_json::from_str(&anchor).unwrap();
    other.ledger_id = ledger.parse().unwrap();
    let other = rewritten(&serde_json::to_string(&other).unwrap(), |_| ());
    assert_named(&text, &other, "checkpoint 3: ", ledger);
}

async fn an_export_without_the_checkpoint_is_found(stores: &Relational) {
    let audit = service(stores, Some(signer()));
    let early = {
        a_busy_platform(stores, &audit).await;
        export(&audit, 0).await
    };
    audit.checkpoint().await.unwrap().made().unwrap();
    let anchor = published(&audit).await;
    let root = serde_json::from_str::<Anchor>(&anchor)
        .unwrap()
        .checkpoint
        .root
        .0;
    // An export of before, or one from which the newest checkpoint was cut: both are whole in themselves.
    assert_named(
        &early,
        &anchor,
        "checkpoint 4: it was published",
        &hex::encode(root),
    );
    let first = rewritten(&anchor, |checkpoint| checkpoint.number = 1);
    // It begins after the published one.
    let late = export(&audit, 2).await;
    assert_named(
        &late,
        &first,
        "checkpoint 1: it was published",
        &hex::encode(root),
    );
    // There is none at all.
    let mut bare = lines(&early);
    bare.retain(|line| !["checkpoint", "leaf", "change"].contains(&line["type"].as_str().unwrap()));
    super::the(&mut bare, "header", |_| true)["checkpoint"] = 0.into();
    let (report, printed) = held_against(&joined(bare), &anchor);
    assert!(
        report
            .findings
            .iter()
            .any(|found| found.contains("checkpoint 4: it was published"))
    );
    assert!(
        printed.contains("checkpoint 4: it was published"),
        "{printed}"
    );
}

async fn a_proof_must_be_of_what_was_published(stores: &Relational) {
    let audit = service(stores, Some(signer()));
    let users = a_busy_platform(stores, &audit).await;
    let anchor = published(&audit).await;
    let prove = || async {
        let proof = audit.prove(users[2]).await.unwrap();
        serde_json::to_string_pretty(&proof).unwrap()
    };
    let (report, _) = held_against(&prove().await, &anchor);
    assert!(report.clean, "{:#?}", report.findings);
    assert_eq!((report.anchored, report.not_anchored), (Some(3), Some(0)));
    let another = rewritten(&anchor, |checkpoint| checkpoint.root.0 = [7; 32]);
    assert_named(&prove().await, &another, "checkpoint 3: ", &"07".repeat(32));
    audit.checkpoint().await.unwrap().made().unwrap();
    let root = serde_json::from_str::<Anchor>(&anchor)
        .unwrap()
        .checkpoint
        .root
        .0;
    assert_named(
        &prove().await,
        &anchor,
        "checkpoint 3: it was published",
        &hex::encode(root),
    );
}

async fn what_is_no_anchor_is_refused(stores: &Relational) {
    let audit = service(stores, Some(signer()));
    a_busy_platform(stores, &audit).await;
    let anchor: Value = serde_json::from_str(&published(&audit).await).unwrap();
    let text = export(&audit, 0).await;
    let edited = |edit: fn(&mut Value)| {
        let mut anchor = anchor.clone();
        edit(&mut anchor);
        anchor.to_string()
    };
    for (what, anchor) in [
        ("not JSON", "an anchor".to_owned()),
        ("no object", "[]".to_owned()),
        ("an export", text.clone()),
        (
            "another format",
            edited(|anchor| anchor["format"] = "abunfi.proof.v1".into()),
        ),
        (
            "no number",
            edited(|anchor| anchor["checkpoint"]["number"] = Value::Null),
        ),
        (
            "a short root",
            edited(|anchor| anchor["checkpoint"]["root"] = "07".into()),
        ),
        (
            "an edited root",
            edited(|anchor| super::flip(&mut anchor["checkpoint"]["root"])),
        ),
        (
            "an edited ledger",
            edited(|anchor| anchor["ledger_id"] = "00000000-0000-4000-8000-00000000abcd".into()),
        ),
    ] {
        assert!(Anchor::parse(&anchor).is_err(), "{what}");
        let refused = run_document(&text, Some(&signer()), Some(&anchor)).expect_err(what);
        assert!(
            refused.contains("anchor.json is no anchor"),
            "{what}: {refused}"
        );
    }
}
