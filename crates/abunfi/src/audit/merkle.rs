//! The hash tree of RFC 6962 (§2.1): hashes, inclusion proofs, and a form of it that is stored and changed in
//! place. Pure.
//!
//! A leaf hashes as `SHA-256(0x00 ‖ content)`, an inner node as `SHA-256(0x01 ‖ left ‖ right)`. The RFC
//! defines the tree from the top (split at the largest power of two below the size); built from the bottom,
//! level by level, it is the tree in which a node without a right neighbour goes up unchanged.
//!
//! Stored in **tiles** of 16: tile `(level, index)` has up to 16 neighbouring hashes of the tree's level
//! `4 · level`, and what is between two levels of tiles is computed. A change of one leaf so touches one row
//! for each factor 16 of the size, and not one for each factor 2.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::Hash;

/// Hashes in a full tile.
pub const TILE_WIDTH: u64 = 16;

/// The hash of a leaf.
#[must_use]
pub fn leaf_hash(content: &[u8]) -> Hash {
    Sha256::new()
        .chain_update([0])
        .chain_update(content)
        .finalize()
        .into()
}

/// The hash of an inner node.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new()
        .chain_update([1])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

/// The root over these hashes (leaves, or all nodes of one level); of nothing, the hash of nothing.
#[must_use]
pub fn root(hashes: &[Hash]) -> Hash {
    let mut level = hashes.to_vec();
    while level.len() > 1 {
        level = level_above(&level);
    }
    level
        .first()
        .copied()
        .unwrap_or_else(|| Sha256::digest([]).into())
}

fn level_above(level: &[Hash]) -> Vec<Hash> {
    level
        .chunks(2)
        .map(|pair| match pair {
            [left, right] => node_hash(left, right),
            [lone, ..] => *lone,
            [] => Hash::default(),
        })
        .collect()
}

/// The siblings on the way from `index` up to the root over `hashes`, lowest first. Levels on which the
/// node is alone add none.
#[must_use]
pub fn path(hashes: &[Hash], mut index: usize) -> Vec<Hash> {
    let (mut level, mut path) = (hashes.to_vec(), Vec::new());
    while level.len() > 1 {
        path.extend(level.get(index ^ 1));
        level = level_above(&level);
        index /= 2;
    }
    path
}

/// The root that a leaf, its index and an inclusion proof lead to in a tree of `size` leaves; `None` when
/// the proof has another length than such a proof has. RFC 9162, §2.1.3.2.
#[must_use]
pub fn root_of_path(index: u64, size: u64, leaf: Hash, path: &[Hash]) -> Option<Hash> {
    let mut last = size.checked_sub(1).filter(|last| index <= *last)?;
    let (mut node, mut hash) = (index, leaf);
    for sibling in path {
        if last == 0 {
            return None;
        }
        if node % 2 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            // A lone node went up unchanged to where it is a right child.
            while node % 2 == 0 && node != 0 {
                node /= 2;
                last /= 2;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node /= 2;
        last /= 2;
    }
    (last == 0).then_some(hash)
}

/// A tree in memory, for whoever goes through all leaves: two hashes a leaf.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// All leaves at once, which costs a hash for each instead of one for each level.
    #[must_use]
    pub fn of(leaves: Vec<Hash>) -> Self {
        let mut tree = Self::default();
        let mut level = leaves;
        while level.len() > 1 {
            let above = level_above(&level);
            tree.levels.push(std::mem::replace(&mut level, above));
        }
        tree.levels.push(level);
        tree
    }

    #[must_use]
    pub fn size(&self) -> usize {
        self.levels.first().map_or(0, Vec::len)
    }

    /// Sets a leaf that is there, or appends the next one. `false` for an index beyond that. Costs a hash
    /// for each level.
    #[must_use]
    pub fn set(&mut self, mut index: usize, mut hash: Hash) -> bool {
        if index > self.size() {
            return false;
        }
        let mut level = 0;
        loop {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let Some(nodes) = self.levels.get_mut(level) else {
                return false;
            };
            match nodes.get_mut(index) {
                Some(node) => *node = hash,
                None => nodes.push(hash),
            }
            if nodes.len() == 1 {
                return true;
            }
            let left = index & !1;
            hash = match (nodes.get(left), nodes.get(left + 1)) {
                (Some(left), Some(right)) => node_hash(left, right),
                (Some(lone), None) => *lone,
                (None, _) => return false,
            };
            index /= 2;
            level += 1;
        }
    }

    #[must_use]
    pub fn root(&self) -> Hash {
        self.levels
            .last()
            .and_then(|top| top.first())
            .copied()
            .unwrap_or_else(|| root(&[]))
    }
}

/// How many tiles a tree of `size` leaves has on `level`.
#[must_use]
pub fn tiles_on(level: u32, size: u64) -> u64 {
    nodes_on(level, size).div_ceil(TILE_WIDTH)
}

/// How many hashes the tiles of `level` hold together.
fn nodes_on(level: u32, size: u64) -> u64 {
    (0..level).fold(size, |nodes, _| nodes.div_ceil(TILE_WIDTH))
}

/// How many levels of tiles there are.
#[must_use]
pub fn tile_levels(size: u64) -> u32 {
    (0..u32::MAX)
        .find(|level| tiles_on(*level, size) <= 1)
        .map_or(0, |top| top + 1)
}

/// How many hashes tile `(level, tile)` holds in a tree of `size` leaves.
#[must_use]
pub fn tile_length(level: u32, tile: u64, size: u64) -> u64 {
    nodes_on(level, size)
        .saturating_sub(tile.saturating_mul(TILE_WIDTH))
        .min(TILE_WIDTH)
}

/// The stored tree disagrees with itself or with the checkpoint that it should be of: to be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("tile {tile} on level {level} of the stored tree is not as the checkpoint says")]
pub struct Damaged {
    pub level: u32,
    pub tile: u64,
}

/// A change of the stored tree, level by level: ask for [`tiles`](Self::tiles), load them, give them to
/// [`apply`](Self::apply), store what it returns, go on with what is above.
#[derive(Debug)]
pub struct Change {
    level: u32,
    /// The tree as it was: how many leaves, and its root. `None` on levels that it did not have.
    before: Option<(u64, Hash)>,
    size: u64,
    /// New hashes, by their place on the level.
    nodes: BTreeMap<u64, Hash>,
    /// The roots that the tiles below had, by their place on the level: what was stored here must be the same.
    stored: BTreeMap<u64, Hash>,
}

/// What [`Change::apply`] leads to.
#[derive(Debug)]
pub enum Above {
    Level(Change),
    Root(Hash),
}

/// Hashes of one tile with its index on its level.
pub type Tile = (u64, Vec<Hash>);

impl Change {
    /// New hashes of leaves. The tree had so many leaves and that root `before`, and will have `size`: the
    /// leaves that it did not have must all be among the new.
    #[must_use]
    pub fn new(
        before: Option<(u64, Hash)>,
        size: u64,
        leaves: impl IntoIterator<Item = (u64, Hash)>,
    ) -> Self {
        Self {
            level: 0,
            before,
            size,
            nodes: leaves.into_iter().collect(),
            stored: BTreeMap::new(),
        }
    }

    #[must_use]
    pub const fn level(&self) -> u32 {
        self.level
    }

    /// The tiles that change.
    #[must_use]
    pub fn tiles(&self) -> Vec<u64> {
        let mut tiles: Vec<u64> = self.nodes.keys().map(|node| node / TILE_WIDTH).collect();
        tiles.dedup();
        tiles
    }

    /// The tiles as they are to be stored, and what is above. `loaded` are those of [`tiles`](Self::tiles)
    /// that were stored, as they were.
    ///
    /// # Errors
    /// [`Damaged`], when what was loaded is not what was stored.
    pub fn apply(self, loaded: Vec<Tile>) -> Result<(Vec<Tile>, Above), Damaged> {
        let mut loaded: BTreeMap<u64, Vec<Hash>> = loaded.into_iter().collect();
        let (mut tiles, mut nodes, mut stored) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for tile in self.tiles() {
            let mut hashes = loaded.remove(&tile).unwrap_or_default();
            if let Some(was) = self.root_before(tile, &hashes)? {
                stored.insert(tile, was);
            }
            self.put_into(tile, &mut hashes)?;
            nodes.insert(tile, root(&hashes));
            tiles.push((tile, hashes));
        }
        if tiles_on(self.level, self.size) <= 1 {
            let top = nodes.into_values().next();
            return Ok((tiles, Above::Root(top.unwrap_or_else(|| root(&[])))));
        }
        let mut before = self.before;
        if let Some((leaves, root)) = self.before
            && tiles_on(self.level, leaves) <= 1
        {
            // The tree gets a level that it did not have. Its old root, changed or not, is the first node.
            nodes.entry(0).or_insert(root);
            stored.clear();
            before = None;
        }
        let above = Self {
            level: self.level + 1,
            before,
            size: self.size,
            nodes,
            stored,
        };
        Ok((tiles, Above::Level(above)))
    }

    /// Checks a tile as it was stored; its root, if there was such a tile.
    fn root_before(&self, tile: u64, hashes: &[Hash]) -> Result<Option<Hash>, Damaged> {
        let (leaves, whole) = self.before.unzip();
        let leaves = leaves.unwrap_or_default();
        let first = tile * TILE_WIDTH;
        let mut below = self.stored.range(first..first + TILE_WIDTH);
        let is_top = leaves > 0 && tiles_on(self.level, leaves) <= 1;
        let was = (!hashes.is_empty()).then(|| root(hashes));
        let is_sound = count(hashes) == tile_length(self.level, tile, leaves)
            && below.all(|(node, was)| at(hashes, node - first) == Some(was))
            && (!is_top || was.is_none() || was == whole);
        is_sound.then_some(was).ok_or(self.damaged(tile))
    }

    fn put_into(&self, tile: u64, hashes: &mut Vec<Hash>) -> Result<(), Damaged> {
        let first = tile * TILE_WIDTH;
        for (node, hash) in self.nodes.range(first..first + TILE_WIDTH) {
            let slot = usize::try_from(node - first).unwrap_or(usize::MAX);
            match hashes.get_mut(slot) {
                Some(old) => *old = *hash,
                None => hashes.push(*hash),
            }
        }
        let is_whole = count(hashes) == tile_length(self.level, tile, self.size);
        is_whole.then_some(()).ok_or(self.damaged(tile))
    }

    const fn damaged(&self, tile: u64) -> Damaged {
        Damaged {
            level: self.level,
            tile,
        }
    }
}

fn at(hashes: &[Hash], slot: u64) -> Option<&Hash> {
    usize::try_from(slot).ok().and_then(|slot| hashes.get(slot))
}

fn count(hashes: &[Hash]) -> u64 {
    u64::try_from(hashes.len()).unwrap_or(u64::MAX)
}

/// The tiles that prove a leaf, lowest level first: `(level, tile)`.
#[must_use]
pub fn tiles_of_leaf(leaf: u64, size: u64) -> Vec<(u32, u64)> {
    let mut node = leaf;
    (0..tile_levels(size))
        .map(|level| {
            node /= TILE_WIDTH;
            (level, node)
        })
        .collect()
}

/// The inclusion proof of a leaf out of the tiles that [`tiles_of_leaf`] named, in that order.
#[must_use]
pub fn path_of_tiles(leaf: u64, tiles: &[Vec<Hash>]) -> Vec<Hash> {
    let (mut node, mut proof) = (leaf, Vec::new());
    for hashes in tiles {
        let slot = usize::try_from(node % TILE_WIDTH).unwrap_or(usize::MAX);
        proof.extend(path(hashes, slot));
        node /= TILE_WIDTH;
    }
    proof
}
