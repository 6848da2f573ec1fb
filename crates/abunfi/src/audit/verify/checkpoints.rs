//! The checkpoints: each made again from what the leaves were, chained, signed, and compared with what was
//! published.
//!
//! That the heads they name are the chains' real rows is judged where the chains are.

use std::collections::VecDeque;

use serde::Serialize;
use uuid::Uuid;

use super::finding::{Findings, Hex, Maybe, Place};
use super::{Anchor, Options};
use crate::audit::checkpoint::{Checkpoint, Fault, Leaf, LeafChange};
use crate::audit::merkle::Tree;
use crate::audit::{CheckpointStore, GENESIS};
use crate::error::StoreError;
use crate::ids::UserId;

/// Rows that are read at once: a few hundred kilobytes.
const ROWS: u32 = 4_096;

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
    /// How many there are.
    pub count: i64,
    /// Rows of the trail that the newest covers.
    pub covered_rows: i64,
    /// The number of the published one, if one was given and is there.
    pub anchored: Option<i64>,
    /// Checkpoints after that one.
    pub not_anchored: Option<i64>,
}

/// The tree as it grows, and the leaves' chains.
struct Replay {
    leaves: Vec<(Uuid, u32)>,
    /// Names of chains: few, since assets are few.
    names: Vec<String>,
    tree: Tree,
    /// Where each leaf's chain ended.
    seqs: Vec<i64>,
    covered: i64,
    /// The last root was as it should be: one edited leaf is one finding, not one for each later root.
    agrees: bool,
}

/// Judges all checkpoints up to the newest one there is now.
///
/// # Errors
/// When the store fails.
pub(super) async fn judge(
    store: &dyn CheckpointStore,
    options: &Options,
    findings: &mut Findings,
) -> Result<Checkpoints, StoreError> {
    let Some(newest) = store.newest_checkpoint().await? else {
        unused_leaves(store, (i64::MIN, i64::MAX), findings).await?;
        changes_of_none(&mut Changes::of(store), store, findings).await?;
        let newest = Newest::of(store.ledger_id().await?, None, None);
        without_any(options, findings);
        return Ok(Checkpoints {
            newest,
            ..Checkpoints::default()
        });
    };
    let mut replay = Replay::of(store, findings).await?;
    let mut changes = Changes::of(store);
    let (mut previous, mut after): (Option<Checkpoint>, i64) = (None, 0);
    let (mut signed_from, mut was_signed) = (None, false);
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
            replay.compare(&checkpoint, findings);
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
    changes_of_none(&mut changes, store, findings).await?;
    let mut result = Checkpoints {
        newest: Newest::of(store.ledger_id().await?, previous.as_ref(), signed_from),
        count: previous.as_ref().map_or(0, |newest| newest.number),
        covered_rows: previous.as_ref().map_or(0, |newest| newest.covered_rows),
        ..Checkpoints::default()
    };
    if let Some(anchor) = &options.anchor {
        compare_anchor(store, anchor, &mut result, findings).await?;
    }
    Ok(result)
}

/// A leaf of the tree is written with the row that it is for. One without is in no root, so the replay does not
/// miss it; and the chain that gets its number next makes no checkpoint.
async fn unused_leaves(
    store: &dyn CheckpointStore,
    (mut after, through): (i64, i64),
    findings: &mut Findings,
) -> Result<(), StoreError> {
    loop {
        let page = store.unused_leaves(after, through, ROWS).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = last.leaf;
        for Leaf {
            leaf,
            user_id,
            chain,
        } in page
        {
            let place = || Place::ChainLeaf {
                leaf,
                user_id: user_id.0,
                chain,
            };
            let expected = "no leaf: no checkpoint covers a row of this chain";
            findings.add(place, "row", expected, "a leaf");
        }
    }
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
            let place = || Place::Checkpoint {
                number: change.checkpoint,
            };
            findings.add(place, "row", "a checkpoint", "no checkpoint");
            return Ok(());
        }
    }
    Ok(())
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
        let missing = || Place::Checkpoint { number };
        findings.add(missing, "row", "a checkpoint", "no checkpoint");
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

impl Replay {
    async fn of(store: &dyn CheckpointStore, findings: &mut Findings) -> Result<Self, StoreError> {
        let mut replay = Self {
            leaves: Vec::new(),
            names: Vec::new(),
            tree: Tree::default(),
            seqs: Vec::new(),
            covered: 0,
            agrees: true,
        };
        let mut after = -1;
        // The first look has those of negative numbers too, which nothing else reads.
        let mut looked = i64::MIN;
        loop {
            let page = store.leaves(after, ROWS).await?;
            // As many at a time as are read, so that no query takes longer the more there are.
            let through = page.last().map_or(i64::MAX, |last| last.leaf.leaf);
            unused_leaves(store, (looked, through), findings).await?;
            looked = through;
            for state in &page {
                let Leaf {
                    leaf,
                    user_id,
                    chain,
                } = &state.leaf;
                let expected = i64::try_from(replay.leaves.len()).unwrap_or(i64::MAX);
                if *leaf != expected {
                    let place = || Place::Leaf {
                        number: state.checkpoint,
                        user_id: user_id.0,
                        chain: chain.clone(),
                    };
                    findings.compare(place, "leaf", expected, *leaf);
                }
                let name = replay.name(chain);
                replay.leaves.push((user_id.0, name));
                after = *leaf;
            }
            if page.is_empty() {
                return Ok(replay);
            }
        }
    }

    fn name(&mut self, chain: &str) -> u32 {
        let known = self.names.iter().position(|name| name == chain);
        let number = known.unwrap_or_else(|| {
            self.names.push(chain.to_owned());
            self.names.len().saturating_sub(1)
        });
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    fn leaf(&self, leaf: i64) -> Option<Leaf> {
        let (user, name) = self.leaves.get(usize::try_from(leaf).ok()?)?;
        let name = self.names.get(usize::try_from(*name).ok()?)?;
        Some(Leaf {
            leaf,
            user_id: UserId(*user),
            chain: name.clone(),
        })
    }

    fn change(&mut self, change: &LeafChange, findings: &mut Findings) {
        let number = change.checkpoint;
        let index = usize::try_from(change.leaf).unwrap_or(usize::MAX);
        let known = self.leaf(change.leaf);
        let set = known
            .as_ref()
            .is_some_and(|leaf| self.tree.set(index, leaf.hash(change.head)));
        let Some(leaf) = known.filter(|_| set) else {
            let expected = format!("leaves up to {}, one after the other", self.tree.size());
            findings.add(
                || Place::Checkpoint { number },
                "leaf",
                expected,
                change.leaf,
            );
            return;
        };
        let before = match self.seqs.get_mut(index) {
            Some(seq) => std::mem::replace(seq, change.head.seq),
            None => {
                self.seqs.push(change.head.seq);
                0
            }
        };
        if change.head.seq <= before {
            let place = || Place::Leaf {
                number,
                user_id: leaf.user_id.0,
                chain: leaf.chain,
            };
            findings.add(place, "seq", format!("more than {before}"), change.head.seq);
        }
        self.covered = self
            .covered
            .saturating_add(change.head.seq)
            .saturating_sub(before);
    }

    fn compare(&mut self, checkpoint: &Checkpoint, findings: &mut Findings) {
        let place = || Place::Checkpoint {
            number: checkpoint.number,
        };
        let root = self.tree.root();
        let size = i64::try_from(self.tree.size()).unwrap_or(i64::MAX);
        let agrees = root == checkpoint.root
            && size == checkpoint.size
            && self.covered == checkpoint.covered_rows;
        if !agrees && self.agrees {
            findings.compare(place, "size", size, checkpoint.size);
            findings.compare(place, "root", Hex(&root), Hex(&checkpoint.root));
            findings.compare(place, "covered_rows", self.covered, checkpoint.covered_rows);
        }
        self.agrees = agrees;
    }
}

/// What the checkpoints changed, one after the other.
struct Changes<'s> {
    store: &'s dyn CheckpointStore,
    read: VecDeque<LeafChange>,
    after: (i64, i64),
    is_done: bool,
}

impl<'s> Changes<'s> {
    fn of(store: &'s dyn CheckpointStore) -> Self {
        Self {
            store,
            read: VecDeque::new(),
            after: (0, -1),
            is_done: false,
        }
    }
}

impl Changes<'_> {
    /// The next change of checkpoint `number` (or of one before it that is not there); `None`: that was all.
    async fn next(&mut self, number: i64) -> Result<Option<LeafChange>, StoreError> {
        if self.read.is_empty() && !self.is_done {
            let page = self.store.leaf_changes(self.after, ROWS).await?;
            match page.last() {
                Some(last) => self.after = (last.checkpoint, last.leaf),
                None => self.is_done = true,
            }
            self.read = page.into();
        }
        Ok(self.read.pop_front_if(|change| change.checkpoint <= number))
    }
}
