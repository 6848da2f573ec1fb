//! The tree made again, as one checkpoint after the other changed it: from the first on, or from what the leaves
//! held as of one of them.

use std::collections::VecDeque;

use uuid::Uuid;

use super::finding::{Findings, Hex, Place};
use crate::audit::checkpoint::{Checkpoint, Leaf, LeafChange};
use crate::audit::merkle::Tree;
use crate::audit::{CheckpointStore, Hash, LeafAsOf};
use crate::error::StoreError;
use crate::ids::UserId;

/// Rows that are read at once: a few hundred kilobytes.
pub(super) const ROWS: u32 = 4_096;

/// The tree as it grows, and the leaves' chains.
#[derive(Default)]
pub(super) struct Replay {
    leaves: Vec<(Uuid, u32)>,
    /// Names of chains: few, since assets are few.
    names: Vec<String>,
    tree: Tree,
    /// Where each leaf's chain ended.
    seqs: Vec<i64>,
    covered: i64,
    /// A leaf was not in its place: none of the later ones is, then, and one finding says so.
    is_misplaced: bool,
    /// The last root was not as it should be: one edited leaf is one finding, not one for each later root.
    disagrees: bool,
}

/// A leaf of the tree is written with the row that it is for. One without is in no root, so the replay does not
/// miss it; and the chain that gets its number next makes no checkpoint.
pub(super) async fn unused_leaves(
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
        for leaf in page {
            unused_leaf(leaf, findings);
        }
    }
}

fn unused_leaf(leaf: Leaf, findings: &mut Findings) {
    let place = || Place::ChainLeaf {
        leaf: leaf.leaf,
        user_id: leaf.user_id.0,
        chain: leaf.chain,
    };
    let expected = "no leaf: no checkpoint covers a row of this chain";
    findings.add(place, "row", expected, "a leaf");
}

impl Replay {
    /// From the first checkpoint on.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn of(
        store: &dyn CheckpointStore,
        findings: &mut Findings,
    ) -> Result<Self, StoreError> {
        let mut replay = Self::default();
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
                after = state.leaf.leaf;
                replay.add_leaf(&state.leaf, state.checkpoint, findings);
            }
            if page.is_empty() {
                return Ok(replay);
            }
        }
    }

    /// From checkpoint `number` on, which must be compared first: a row for each leaf, whatever was before. With
    /// any leaf edited they do not make its root.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn as_of(
        store: &dyn CheckpointStore,
        number: i64,
        findings: &mut Findings,
    ) -> Result<Self, StoreError> {
        let mut replay = Self::default();
        let (mut after, mut hashes) = (i64::MIN, Vec::new());
        loop {
            let page = store.leaves_as_of(number, after, ROWS).await?;
            let Some(last) = page.last() else {
                replay.tree = Tree::of(hashes);
                return Ok(replay);
            };
            after = last.leaf.leaf;
            for state in page {
                replay.begin_with(state, number, &mut hashes, findings);
            }
        }
    }

    fn begin_with(
        &mut self,
        LeafAsOf {
            leaf,
            held,
            is_used,
        }: LeafAsOf,
        number: i64,
        hashes: &mut Vec<Hash>,
        findings: &mut Findings,
    ) {
        if !is_used {
            unused_leaf(leaf, findings);
            return;
        }
        if leaf.leaf < 0 {
            not_in_its_place(number, 0, leaf.leaf, findings);
            return;
        }
        let index = self.leaves.len();
        self.add_leaf(&leaf, held.map_or(number, |held| held.checkpoint), findings);
        let Some(LeafChange { head, .. }) = held else {
            return;
        };
        if index != hashes.len() {
            not_in_its_place(number, hashes.len(), leaf.leaf, findings);
            return;
        }
        hashes.push(leaf.hash(head));
        self.goes_on(index, &leaf, number, head.seq, findings);
    }

    /// The next leaf's chain, which checkpoint `number` has.
    fn add_leaf(&mut self, leaf: &Leaf, number: i64, findings: &mut Findings) {
        let expected = i64::try_from(self.leaves.len()).unwrap_or(i64::MAX);
        if leaf.leaf != expected && !self.is_misplaced {
            self.is_misplaced = true;
            let place = || Place::Leaf {
                number,
                user_id: leaf.user_id.0,
                chain: leaf.chain.clone(),
            };
            findings.compare(place, "leaf", expected, leaf.leaf);
        }
        let name = self.name(&leaf.chain);
        self.leaves.push((leaf.user_id.0, name));
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

    pub(super) fn change(&mut self, change: &LeafChange, findings: &mut Findings) {
        let number = change.checkpoint;
        let index = usize::try_from(change.leaf).unwrap_or(usize::MAX);
        let known = self.leaf(change.leaf);
        let set = known
            .as_ref()
            .is_some_and(|leaf| self.tree.set(index, leaf.hash(change.head)));
        match known.filter(|_| set) {
            Some(leaf) => self.goes_on(index, &leaf, number, change.head.seq, findings),
            None => not_in_its_place(number, self.tree.size(), change.leaf, findings),
        }
    }

    /// A leaf never goes back, and what it covers is counted.
    fn goes_on(
        &mut self,
        index: usize,
        leaf: &Leaf,
        number: i64,
        seq: i64,
        findings: &mut Findings,
    ) {
        let before = match self.seqs.get_mut(index) {
            Some(held) => std::mem::replace(held, seq),
            None => {
                self.seqs.push(seq);
                0
            }
        };
        if seq <= before {
            let place = || Place::Leaf {
                number,
                user_id: leaf.user_id.0,
                chain: leaf.chain.clone(),
            };
            findings.add(place, "seq", format!("more than {before}"), seq);
        }
        self.covered = self.covered.saturating_add(seq).saturating_sub(before);
    }

    pub(super) fn compare(&mut self, checkpoint: &Checkpoint, findings: &mut Findings) {
        let place = || Place::Checkpoint {
            number: checkpoint.number,
        };
        let root = self.tree.root();
        let size = i64::try_from(self.tree.size()).unwrap_or(i64::MAX);
        let agrees = root == checkpoint.root
            && size == checkpoint.size
            && self.covered == checkpoint.covered_rows;
        if !agrees && !self.disagrees {
            findings.compare(place, "size", size, checkpoint.size);
            findings.compare(place, "root", Hex(&root), Hex(&checkpoint.root));
            findings.compare(place, "covered_rows", self.covered, checkpoint.covered_rows);
        }
        self.disagrees = !agrees;
    }
}

/// A leaf that changes where the tree has no place for it.
fn not_in_its_place(number: i64, size: usize, leaf: i64, findings: &mut Findings) {
    let expected = format!("leaves up to {size}, one after the other");
    findings.add(|| Place::Checkpoint { number }, "leaf", expected, leaf);
}

/// What the checkpoints changed, one after the other.
pub(super) struct Changes<'s> {
    store: &'s dyn CheckpointStore,
    read: VecDeque<LeafChange>,
    after: (i64, i64),
    is_done: bool,
}

impl<'s> Changes<'s> {
    /// Those of later checkpoints than `number`.
    pub(super) fn after(store: &'s dyn CheckpointStore, number: i64) -> Self {
        Self {
            store,
            read: VecDeque::new(),
            after: (number, i64::MAX),
            is_done: false,
        }
    }

    /// All there are, also those of numbers that no checkpoint has.
    pub(super) fn all(store: &'s dyn CheckpointStore) -> Self {
        Self {
            after: (i64::MIN, i64::MIN),
            ..Self::after(store, 0)
        }
    }
}

impl Changes<'_> {
    /// The next change of checkpoint `number` (or of one before it that is not there); `None`: that was all.
    pub(super) async fn next(&mut self, number: i64) -> Result<Option<LeafChange>, StoreError> {
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
