//! The checkpoints: each made again from what the leaves were, chained, signed, and compared with what was
//! published.
//!
//! That the heads they name are the chains' real rows is judged where the chains are.

use serde::Serialize;
use uuid::Uuid;

use super::finding::{Findings, Hex, Maybe, Place};
use super::replay::{Changes, ROWS, Replay, unused_leaves};
use super::{Anchor, Options};
use crate::audit::checkpoint::{Checkpoint, Fault};
use crate::audit::{CheckpointStore, GENESIS};
use crate::error::StoreError;

/// Which checkpoint is the newest, and who vouches for it: named as in the report on a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Newest {
    pub ledger_id: Uuid,
    /// Its number; 0: there is none.
    pub checkpoint: i64,
    /// Its hash, as hexadecimal digits.
    pub checkpoint_hash: Option<String>,
    /// Who signed it, as hexadecimal digits.
    pub signed_by: Option<String>,
    /// All from that one to the newest are signed.
    pub signed_from: Option<i64>,
}

impl Newest {
    fn of(ledger_id: Uuid, newest: Option<&Checkpoint>, signed_from: Option<i64>) -> Self {
        let seal = newest.and_then(|newest| newest.seal);
        Self {
            ledger_id,
            checkpoint: newest.map_or(0, |newest| newest.number),
            checkpoint_hash: newest.map(|newest| hex::encode(newest.hash)),
            signed_by: seal.map(|seal| hex::encode(seal.public_key)),
            signed_from,
        }
    }
}

/// What the checkpoints are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Checkpoints {
    /// Shown beside them.
    #[serde(skip)]
    pub newest: Newest,
    /// The hash of the one that it began with, as hexadecimal digits.
    #[serde(skip)]
    pub since_hash: Option<String>,
    /// How many there are.
    pub count: i64,
    /// Rows of the trail that the newest covers.
    pub covered_rows: i64,
    /// The number of the published one, if one was given and is there.
    pub anchored: Option<i64>,
    /// Checkpoints after that one.
    pub not_anchored: Option<i64>,
}

/// Judges all checkpoints up to the newest one there is now: of each that it follows the one before, its hash and
/// its signature, and of those from `since` on that the leaves make its root. What `since` is trusted for (where
/// each chain was) is so held against its own root, whatever was changed since it was made, and the checkpoint against
/// the chain of hashes and signatures, which is whole. That it was made honestly is for the caller to know.
///
/// # Errors
/// When the store fails.
pub(super) async fn judge(
    store: &dyn CheckpointStore,
    options: &Options,
    findings: &mut Findings,
) -> Result<Checkpoints, StoreError> {
    let since = options.since.unwrap_or(0).max(0);
    let Some(newest) = store.newest_checkpoint().await? else {
        return judge_none(store, options, findings).await;
    };
    let (mut replay, mut changes) = match since {
        0 => (Replay::of(store, findings).await?, Changes::all(store)),
        _ => (
            Replay::as_of(store, since, findings).await?,
            Changes::after(store, since),
        ),
    };
    let (mut previous, mut after): (Option<Checkpoint>, i64) = (None, 0);
    let (mut signed_from, mut was_signed, mut since_hash) = (None, false, None);
    while after < newest.number {
        let page = store.checkpoints(after, ROWS).await?;
        if page.is_empty() {
            break;
        }
        for checkpoint in page {
            after = checkpoint.number;
            if after > newest.number {
                break;
            }
            judge_one(&checkpoint, previous.as_ref(), options, findings);
            while let Some(change) = changes.next(checkpoint.number).await? {
                replay.change(&change, findings);
            }
            if checkpoint.number == since {
                since_hash = Some(hex::encode(checkpoint.hash));
            }
            if checkpoint.number >= since {
                replay.compare(&checkpoint, findings);
            }
            if signed_from.is_some() && checkpoint.seal.is_none() {
                was_signed = true;
                demand_a_seal(&checkpoint, options, findings);
            }
            signed_from = checkpoint.signed_from(signed_from);
            previous = Some(checkpoint);
        }
    }
    if let Some(newest) = previous.as_ref().filter(|_| !was_signed) {
        demand_a_seal(newest, options, findings);
    }
    if since > after {
        no_checkpoint(since, findings);
    }
    changes_of_none(&mut changes, store, findings).await?;
    let mut result = Checkpoints {
        newest: Newest::of(store.ledger_id().await?, previous.as_ref(), signed_from),
        count: previous.as_ref().map_or(0, |newest| newest.number),
        covered_rows: previous.as_ref().map_or(0, |newest| newest.covered_rows),
        since_hash,
        ..Checkpoints::default()
    };
    if let Some(anchor) = &options.anchor {
        compare_anchor(store, anchor, &mut result, findings).await?;
    }
    Ok(result)
}

/// There is no checkpoint, so nothing belongs to one.
async fn judge_none(
    store: &dyn CheckpointStore,
    options: &Options,
    findings: &mut Findings,
) -> Result<Checkpoints, StoreError> {
    unused_leaves(store, (i64::MIN, i64::MAX), findings).await?;
    changes_of_none(&mut Changes::all(store), store, findings).await?;
    if let Some(since) = options.since.filter(|since| *since > 0) {
        no_checkpoint(since, findings);
    }
    let newest = Newest::of(store.ledger_id().await?, None, None);
    without_any(options, findings);
    Ok(Checkpoints {
        newest,
        ..Checkpoints::default()
    })
}

/// What is left of the changes belongs to checkpoints that were made meanwhile, or to one that was deleted.
async fn changes_of_none(
    changes: &mut Changes<'_>,
    store: &dyn CheckpointStore,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    let mut newest = 0;
    while let Some(change) = changes.next(i64::MAX).await? {
        if change.checkpoint > newest {
            let there = store.newest_checkpoint().await?;
            newest = there.map_or(0, |newest| newest.number);
        }
        if change.checkpoint > newest {
            no_checkpoint(change.checkpoint, findings);
            return Ok(());
        }
    }
    Ok(())
}

fn no_checkpoint(number: i64, findings: &mut Findings) {
    let place = || Place::Checkpoint { number };
    findings.add(place, "row", "a checkpoint", "no checkpoint");
}

fn without_any(options: &Options, findings: &mut Findings) {
    if !options.public_keys.is_empty() {
        let place = || Place::Checkpoint { number: 1 };
        let expected = "a checkpoint signed by one of the keys that were given";
        findings.add(place, "public_key", expected, "no checkpoint");
    }
    if let Some(anchor) = &options.anchor {
        missing_anchor(anchor, findings);
    }
}

/// Each hash covers the checkpoint before, so the first signature vouches for all before it, which were made before
/// there was a key. After it there is no checkpoint without one: it would have been put there by somebody who has no
/// key, and a later signature over it says only that the service went on from it.
fn demand_a_seal(checkpoint: &Checkpoint, options: &Options, findings: &mut Findings) {
    if options.public_keys.is_empty() || checkpoint.seal.is_some() {
        return;
    }
    let place = || Place::Checkpoint {
        number: checkpoint.number,
    };
    let expected = "one of the keys that were given";
    findings.add(place, "public_key", expected, Maybe(None::<Hex<'_>>));
}

fn missing_anchor(anchor: &Anchor, findings: &mut Findings) {
    let place = || Place::Checkpoint {
        number: anchor.number,
    };
    let expected = format!("the published one, {}", Hex(&anchor.hash));
    findings.add(place, "row", expected, "no checkpoint");
}

async fn compare_anchor(
    store: &dyn CheckpointStore,
    anchor: &Anchor,
    result: &mut Checkpoints,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    let there = store
        .checkpoints(anchor.number.saturating_sub(1), 1)
        .await?;
    let Some(there) = there.first().filter(|there| there.number == anchor.number) else {
        missing_anchor(anchor, findings);
        return Ok(());
    };
    let place = || Place::Checkpoint {
        number: anchor.number,
    };
    if there.hash == anchor.hash {
        result.anchored = Some(anchor.number);
        result.not_anchored = Some(result.count.saturating_sub(anchor.number));
    } else {
        let expected = format!("{}, as published", Hex(&anchor.hash));
        findings.add(place, "hash", expected, Hex(&there.hash));
    }
    Ok(())
}

/// One checkpoint by itself, after the one before.
fn judge_one(
    checkpoint: &Checkpoint,
    previous: Option<&Checkpoint>,
    options: &Options,
    findings: &mut Findings,
) {
    let place = || Place::Checkpoint {
        number: checkpoint.number,
    };
    let number = previous
        .map_or(0, |previous| previous.number)
        .saturating_add(1);
    if checkpoint.number != number {
        no_checkpoint(number, findings);
    } else {
        let before = previous.map_or(GENESIS, |previous| previous.hash);
        findings.compare(
            place,
            "previous_hash",
            Hex(&before),
            Hex(&checkpoint.previous_hash),
        );
        if checkpoint.check_follows(previous) == Err(Fault::Backwards) {
            let expected = "more rows than the one before, not fewer chains, not earlier";
            findings.add(place, "at", expected, checkpoint.at);
        }
    }
    if let Err(fault) = checkpoint.check() {
        match fault {
            Fault::Hash => {
                let computed = checkpoint.computed_hash();
                findings.add(place, "hash", Hex(&computed), Hex(&checkpoint.hash));
            }
            fault => findings.add(place, "signature", "a signature over its content", fault),
        }
    }
    if let Some(seal) = &checkpoint.seal
        && !options.public_keys.is_empty()
        && !options.public_keys.contains(&seal.public_key)
    {
        let expected = "one of the keys that were given";
        findings.add(place, "public_key", expected, Hex(&seal.public_key));
    }
}
