//! The making of a checkpoint: what every relational adapter does alike, inside one unit of work, with rows
//! that it reads and writes in its own words.

use async_trait::async_trait;
use uuid::Uuid;

use super::checkpoint::{Checkpoint, Covered, Leaf, LeafChange, Signer};
use super::merkle::{self, Above, Change, Damaged, Tile};
use super::{Attempt, Hash, Head, LeafState};
use crate::clock::Timestamp;
use crate::ids::UserId;

/// Leaves that are read at once when the stored tree is made again: a few hundred kilobytes.
const LEAVES_AT_ONCE: u32 = 4_096;

/// How far the trail has been looked at: see the table `checkpoint_state`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) ledger_id: Uuid,
    /// Rows from this position on may be new; 0: look at every chain there is.
    pub(crate) since: i64,
    /// Where the next look begins, while one over many chains is under way.
    pub(crate) until: Option<i64>,
    /// The last chain that this look has seen.
    pub(crate) after: Option<(UserId, String)>,
}

/// A chain in which there may be something new.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) user_id: UserId,
    pub(crate) chain: String,
    /// Its newest row; `None` when it has none, although its head says so.
    pub(crate) head: Option<Head>,
    /// Its leaf and the `seq` that this holds.
    pub(crate) leaf: Option<(i64, i64)>,
}

/// What one look found.
#[derive(Debug)]
pub(crate) struct Look {
    /// Every row that a later look could not see otherwise is at this position or beyond. Taken in the very
    /// snapshot in which the chains were read, or before.
    pub(crate) position: i64,
    /// By `(user_id, chain)`, at most as many as were asked for.
    pub(crate) found: Vec<Found>,
}

/// The rows of one relational store, inside one unit of work.
#[async_trait]
pub(crate) trait Rows: Send {
    type Error: Send;

    /// For rows that make no sense.
    fn broken(reason: String) -> Self::Error;

    /// Locked until the unit of work ends; `None`: somebody else has it.
    async fn state(&mut self) -> Result<Option<State>, Self::Error>;
    async fn save_state(&mut self, state: &State) -> Result<(), Self::Error>;
    async fn newest(&mut self) -> Result<Option<Checkpoint>, Self::Error>;
    async fn look(&mut self, state: &State, limit: u32) -> Result<Look, Self::Error>;
    async fn insert(
        &mut self,
        checkpoint: &Checkpoint,
        leaves: &[Leaf],
        changes: &[LeafChange],
    ) -> Result<(), Self::Error>;
    async fn tiles(&mut self, level: u32, tiles: &[u64]) -> Result<Vec<Tile>, Self::Error>;
    async fn put_tiles(&mut self, level: u32, tiles: &[Tile]) -> Result<(), Self::Error>;
    async fn clear_tiles(&mut self) -> Result<(), Self::Error>;
    async fn leaves(&mut self, after: i64, limit: u32) -> Result<Vec<LeafState>, Self::Error>;
}

/// Makes the next checkpoint. What it returns is durable once the unit of work has committed.
pub(crate) async fn make<R: Rows>(
    rows: &mut R,
    signer: Option<&Signer>,
    at: Timestamp,
    max_chains: u32,
) -> Result<Attempt, R::Error> {
    let Some(state) = rows.state().await? else {
        return Ok(Attempt::Busy);
    };
    let newest = rows.newest().await?;
    let look = rows.look(&state, max_chains).await?;
    let next_state = state.after(&look, max_chains);
    let more = next_state.until.is_some();
    let grown = Grown::of(look.found, newest.as_ref());
    if grown.changes.is_empty() {
        if next_state != state {
            rows.save_state(&next_state).await?;
        }
        return Ok(Attempt::Nothing { more });
    }
    if let Some(newest) = newest.as_ref().filter(|newest| newest.seal.is_some())
        && signer.is_none()
    {
        return Ok(Attempt::NeedsKey {
            newest: newest.number,
        });
    }
    let before = newest.as_ref();
    let root = grow_tree(rows, before, grown.covered.size, &grown.hashes).await?;
    let covered = Covered {
        root,
        ..grown.covered
    };
    let checkpoint = Checkpoint::next(before, state.ledger_id, covered, at, signer);
    rows.insert(&checkpoint, &grown.leaves, &grown.changes)
        .await?;
    rows.save_state(&next_state).await?;
    Ok(Attempt::Made {
        checkpoint,
        chains: u64::try_from(grown.changes.len()).unwrap_or(u64::MAX),
        more,
    })
}

impl State {
    /// After a look for at most `limit` chains.
    fn after(&self, look: &Look, limit: u32) -> Self {
        let until = self.until.unwrap_or(look.position);
        let is_full = look.found.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
        match look.found.last() {
            Some(last) if is_full => Self {
                until: Some(until),
                after: Some((last.user_id, last.chain.clone())),
                ..self.clone()
            },
            _ => Self {
                ledger_id: self.ledger_id,
                since: until,
                until: None,
                after: None,
            },
        }
    }
}

/// What has grown since the newest checkpoint.
struct Grown {
    leaves: Vec<Leaf>,
    changes: Vec<LeafChange>,
    hashes: Vec<(u64, Hash)>,
    /// Its root is still to be computed.
    covered: Covered,
}

impl Grown {
    fn of(found: Vec<Found>, newest: Option<&Checkpoint>) -> Self {
        let checkpoint = newest.map_or(0, |newest| newest.number).saturating_add(1);
        let mut grown = Self {
            leaves: Vec::new(),
            changes: Vec::new(),
            hashes: Vec::new(),
            covered: Covered {
                size: newest.map_or(0, |newest| newest.size),
                root: Hash::default(),
                rows: newest.map_or(0, |newest| newest.covered_rows),
            },
        };
        for chain in found {
            let (leaf, covered) = chain.leaf.unwrap_or((grown.covered.size, 0));
            let head = chain.head.unwrap_or(Head::EMPTY);
            if head.seq < covered || chain.head.is_none() {
                tracing::error!(
                    user_id = %chain.user_id, chain = chain.chain, seq = head.seq, covered,
                    "a chain of the audit trail is shorter than it was; run `abunfi verify`"
                );
            }
            if head.seq <= covered {
                continue;
            }
            let is_new = chain.leaf.is_none();
            let identity = Leaf {
                leaf,
                user_id: chain.user_id,
                chain: chain.chain,
            };
            let index = u64::try_from(leaf).unwrap_or(u64::MAX);
            grown.hashes.push((index, identity.hash(head)));
            grown.changes.push(LeafChange {
                checkpoint,
                leaf,
                head,
            });
            let rows = &mut grown.covered.rows;
            *rows = rows.saturating_add(head.seq.saturating_sub(covered));
            if is_new {
                grown.covered.size = grown.covered.size.saturating_add(1);
                grown.leaves.push(identity);
            }
        }
        grown
    }
}

/// Brings the stored tree up to date; its new root.
async fn grow_tree<R: Rows>(
    rows: &mut R,
    before: Option<&Checkpoint>,
    size: i64,
    leaves: &[(u64, Hash)],
) -> Result<Hash, R::Error> {
    let size = unsigned(size);
    let before = before.map(|before| (unsigned(before.size), before.root, before.number));
    let known = before.map(|(size, root, _)| (size, root));
    let damaged = match change_tree(rows, known, size, leaves).await? {
        Ok(root) => return Ok(root),
        Err(damaged) => damaged,
    };
    tracing::warn!(%damaged, "the stored tree is made again from its leaves");
    let found = rebuild_tree(rows).await?;
    if let Some((_, root, number)) = before
        && root != found
    {
        return Err(R::broken(format!(
            "the leaves do not make the root of checkpoint {number}; run `abunfi verify`"
        )));
    }
    match change_tree(rows, known, size, leaves).await? {
        Ok(root) => Ok(root),
        Err(damaged) => Err(R::broken(damaged.to_string())),
    }
}

async fn change_tree<R: Rows>(
    rows: &mut R,
    before: Option<(u64, Hash)>,
    size: u64,
    leaves: &[(u64, Hash)],
) -> Result<Result<Hash, Damaged>, R::Error> {
    let mut change = Change::new(before, size, leaves.iter().copied());
    loop {
        let level = change.level();
        let loaded = rows.tiles(level, &change.tiles()).await?;
        let (tiles, above) = match change.apply(loaded) {
            Ok(applied) => applied,
            Err(damaged) => return Ok(Err(damaged)),
        };
        rows.put_tiles(level, &tiles).await?;
        match above {
            Above::Level(above) => change = above,
            Above::Root(root) => return Ok(Ok(root)),
        }
    }
}

/// Makes all tiles again, from the leaves as they are; the root.
async fn rebuild_tree<R: Rows>(rows: &mut R) -> Result<Hash, R::Error> {
    rows.clear_tiles().await?;
    let (mut above, mut after) = (Vec::new(), -1);
    loop {
        let page = rows.leaves(after, LEAVES_AT_ONCE).await?;
        let Some(last) = page.last() else {
            break;
        };
        let first = after.saturating_add(1);
        let expected = first.saturating_add(i64::try_from(page.len()).unwrap_or(i64::MAX));
        after = last.leaf.leaf;
        if after.saturating_add(1) != expected {
            return Err(R::broken(format!("a leaf before {after} is missing")));
        }
        let hashes: Vec<Hash> = page.iter().map(|row| row.leaf.hash(row.head)).collect();
        store_level(rows, 0, unsigned(first), &hashes, &mut above).await?;
    }
    let mut level = 0;
    while above.len() > 1 {
        level += 1;
        let nodes = std::mem::take(&mut above);
        store_level(rows, level, 0, &nodes, &mut above).await?;
    }
    Ok(above.first().copied().unwrap_or_else(|| merkle::root(&[])))
}

/// Stores the tiles of neighbouring nodes, the first of which begins a tile, and adds their roots to `above`.
async fn store_level<R: Rows>(
    rows: &mut R,
    level: u32,
    first: u64,
    nodes: &[Hash],
    above: &mut Vec<Hash>,
) -> Result<(), R::Error> {
    let width = usize::try_from(merkle::TILE_WIDTH).unwrap_or(usize::MAX);
    let tiles: Vec<Tile> = nodes
        .chunks(width)
        .zip(first / merkle::TILE_WIDTH..)
        .map(|(hashes, tile)| (tile, hashes.to_vec()))
        .collect();
    above.extend(tiles.iter().map(|(_, hashes)| merkle::root(hashes)));
    rows.put_tiles(level, &tiles).await
}

/// Sizes and leaves are never negative; the database checks it.
fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}
