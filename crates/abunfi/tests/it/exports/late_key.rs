//! A key that came after some checkpoints had been made, and one that went away.

use std::time::Duration;

use abunfi::audit::Checkpointed;
use abunfi::audit::checkpoint::{Checkpoint, Covered, Signer};
use abunfi::audit::format::CheckpointLine;
use serde_json::Value;

use super::{
    a_busy_platform, assert_clean, assert_seen, by_library, export, joined, lines, run_document,
    service, signer,
};
use crate::support::make::deposit;
use crate::support::{Relational, on_every_backend};

on_every_backend!(
    a_key_that_was_added_late_vouches_for_what_was_before,
    without_its_key_a_service_makes_no_checkpoint_after_a_signed_one,
);

/// As if the checkpoints of these numbers had been made without a key.
fn with_unsigned(text: &str, numbers: &[i64]) -> String {
    let mut edited = lines(text);
    for line in edited
        .iter_mut()
        .filter(|line| line["type"] == "checkpoint")
    {
        if numbers.iter().any(|number| line["number"] == *number) {
            (line["signature"], line["public_key"]) = (Value::Null, Value::Null);
        }
    }
    joined(edited)
}

async fn a_key_that_was_added_late_vouches_for_what_was_before(stores: &Relational) {
    let audit = service(stores, None);
    let users = a_busy_platform(stores, &audit).await;
    let signing = service(stores, Some(signer()));
    signing.checkpoint().await.unwrap().made().unwrap();
    for _ in 0..2 {
        stores.posted(deposit(users[0], 1)).await;
        signing.checkpoint().await.unwrap().made().unwrap();
    }
    let text = export(&signing, 0).await;
    let report = assert_clean(&text, Some(&signer()));
    assert_eq!((report.checkpoint, report.signed_from), (6, Some(4)));
    let since = export(&signing, 2).await;
    let report = assert_clean(&since, Some(&signer()));
    assert_eq!(report.signed_from, Some(4));
    let after =
        |number: u32| format!("checkpoint {number}: it is not signed, though the one before is");
    let never = "checkpoint 6: it is the newest, and is not signed".to_owned();
    for (newest, what, found, signed_from) in [
        // As whoever writes to the database, and has no key, would put another history under the next signature.
        (
            with_unsigned(&text, &[5]),
            "one in the middle",
            after(5),
            Some(6),
        ),
        (with_unsigned(&text, &[6]), "the newest", after(6), None),
        (with_unsigned(&text, &[4, 5, 6]), "all", never, None),
    ] {
        assert_seen(what, &newest);
        let report = by_library(&newest, Some(&signer())).unwrap();
        assert_eq!(report.findings, [found.as_str()]);
        assert_eq!(report.signed_from, signed_from);
        let (other, printed) = run_document(&newest, Some(&signer()), None).unwrap();
        assert_eq!(other["disagreements"], 1, "{printed}");
        assert!(printed.starts_with(&found), "{printed}");
        assert_clean(&newest, None);
    }
    // Signed by nobody who is trusted stays an error, whoever signed later.
    let before = stores.checkpoints.checkpoints(3, 1).await.unwrap();
    let before = before[0].clone();
    let mut edited = lines(&text);
    for line in edited.iter_mut().filter(|line| line["number"] == 5) {
        let own: CheckpointLine = serde_json::from_value(line.clone()).unwrap();
        let own = own.into_checkpoint(report.ledger_id);
        let (size, root, rows) = (own.size, own.root, own.covered_rows);
        let covered = Covered { size, root, rows };
        let other = Signer::of_seed(&[5; 32]);
        let signed = Checkpoint::next(Some(&before), own.ledger_id, covered, own.at, Some(&other));
        assert_eq!(signed.hash, own.hash);
        let seal = signed.seal.unwrap();
        line["public_key"] = hex::encode(seal.public_key).into();
        line["signature"] = hex::encode(seal.signature).into();
    }
    let edited = joined(edited);
    assert_clean(&edited, None);
    assert_seen("another's signature in the middle", &edited);
}

async fn without_its_key_a_service_makes_no_checkpoint_after_a_signed_one(stores: &Relational) {
    let signing = service(stores, Some(signer()));
    let users = a_busy_platform(stores, &signing).await;
    let without = service(stores, None);
    let needs_key = Checkpointed::NeedsKey { newest: 3 };
    assert_eq!(without.checkpoint().await.unwrap(), needs_key);
    // What the background does, as often as it looks.
    for _ in 0..2 {
        let due = without.checkpoint_if_due(Duration::ZERO, 1).await;
        assert_eq!(due.unwrap(), needs_key);
    }
    let newest = without.newest_checkpoint().await.unwrap().unwrap();
    assert_eq!(newest.number, 3);
    stores.posted(deposit(users[0], 1)).await;
    let due = signing.checkpoint_if_due(Duration::ZERO, 1).await.unwrap();
    assert_eq!(due.made().unwrap().number, 4);
    // While a transaction of another test is open on the server, rows that are covered may count as waiting.
    for tries in 0.. {
        let idle = without.checkpoint_if_due(Duration::ZERO, 1).await.unwrap();
        if idle == Checkpointed::Nothing {
            break;
        }
        assert!(tries < 600 && idle == Checkpointed::NeedsKey { newest: 4 });
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_clean(&export(&without, 0).await, Some(&signer()));
}
