//! What callers ask of the trail: checkpoints, exports, proofs, erasure.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use super::checkpoint::{Checkpoint, PublicKey, Signer};
use super::export::Export;
use super::format::{ANCHOR, Anchor, CheckpointLine, Hex, Inclusion, PROOF, Proof, ProvedChain};
use super::{Attempt, CheckpointStore, ExportStore, LeafState, Store, merkle};
use crate::clock::SharedClock;
use crate::context::Context;
use crate::error::{StoreError, StoreKind};
use crate::ids::UserId;

/// Chains of one checkpoint: a few megabytes, and a transaction of about a second.
const MAX_CHAINS: u32 = 20_000;
/// Rows of one read.
const ROWS: u32 = 4_096;
/// A proof is begun again when a checkpoint is made meanwhile; so often at most.
const PROOF_ATTEMPTS: u32 = 5;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is no user {0}")]
    NoSuchUser(UserId),
    #[error("there is no checkpoint {0}")]
    NoSuchCheckpoint(i64),
    #[error("there is no checkpoint yet; `abunfi audit checkpoint` makes one")]
    NoCheckpoint,
    #[error("writing: {0}")]
    Write(#[from] std::io::Error),
}

/// Who is told how far an export is.
pub trait Progress: Send + Sync {
    /// So many rows of the trail are written.
    fn rows(&self, done: u64);
}

/// Nobody.
impl Progress for () {
    fn rows(&self, _done: u64) {}
}

/// How much an export wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Exported {
    pub lines: u64,
    pub rows: u64,
}

/// What became of making checkpoints.
#[expect(
    clippy::large_enum_variant,
    reason = "one every few minutes, never moved in bulk"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checkpointed {
    /// The last one that was made; it is durable.
    Made(Checkpoint),
    /// The newest covers everything.
    Nothing,
    /// Another instance is making one now. It covers what was there when that one began to look; what came
    /// after waits for the next.
    Busy,
    /// None was made, although there is something new: there is no key here, and the newest, of that number, is
    /// signed. `AUDIT_SIGNING_KEY` is missing.
    NeedsKey { newest: i64 },
}

impl Checkpointed {
    /// Who made some is not told that the rest is another's.
    fn of(last: Option<Checkpoint>, is_busy: bool) -> Self {
        match last {
            Some(last) => Self::Made(last),
            None if is_busy => Self::Busy,
            None => Self::Nothing,
        }
    }

    /// The one that was made.
    #[must_use]
    pub fn made(self) -> Option<Checkpoint> {
        match self {
            Self::Made(checkpoint) => Some(checkpoint),
            Self::Nothing | Self::Busy | Self::NeedsKey { .. } => None,
        }
    }
}

/// How far the trail is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub newest: Option<Checkpoint>,
    /// Rows that wait for the next one, counted up to a bound; perhaps a few that the newest covers already.
    pub rows_waiting: u64,
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    trail: Arc<dyn Store>,
    checkpoints: Arc<dyn CheckpointStore>,
    exports: Arc<dyn ExportStore>,
    clock: SharedClock,
    signer: Option<Signer>,
}

impl Service {
    /// `signer`: who signs checkpoints; without one they are made unsigned, until one is signed.
    #[must_use]
    pub fn new(
        trail: Arc<dyn Store>,
        checkpoints: Arc<dyn CheckpointStore>,
        exports: Arc<dyn ExportStore>,
        clock: SharedClock,
        signer: Option<Signer>,
    ) -> Self {
        Self {
            trail,
            checkpoints,
            exports,
            clock,
            signer,
        }
    }

    /// The public half of the key that signs checkpoints here.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        self.signer.as_ref().map(Signer::public_key)
    }

    /// Makes checkpoints until nothing is left to cover: one, unless very many chains have changed.
    ///
    /// # Errors
    /// When the store is away, or what it holds makes no checkpoint.
    pub async fn checkpoint(&self) -> Result<Checkpointed, StoreError> {
        let mut last = None;
        loop {
            let attempt = self.checkpoints.make_checkpoint(
                self.signer.as_ref(),
                self.clock.now(),
                MAX_CHAINS,
            );
            match attempt.await? {
                Attempt::Made {
                    checkpoint,
                    chains,
                    more,
                } => {
                    tracing::info!(
                        checkpoint = checkpoint.number,
                        chains,
                        signed = checkpoint.seal.is_some(),
                        "made a checkpoint of the audit trail"
                    );
                    last = Some(checkpoint);
                    if !more {
                        return Ok(Checkpointed::of(last, false));
                    }
                }
                Attempt::Nothing { more: true } => {}
                Attempt::Nothing { more: false } => return Ok(Checkpointed::of(last, false)),
                Attempt::Busy => return Ok(Checkpointed::of(last, true)),
                Attempt::NeedsKey { newest } => return Ok(Checkpointed::NeedsKey { newest }),
            }
        }
    }

    /// Makes one if the newest is older than `interval`, or `rows` of the trail wait.
    ///
    /// # Errors
    /// Those of [`checkpoint`](Self::checkpoint).
    pub async fn checkpoint_if_due(
        &self,
        interval: Duration,
        rows: u32,
    ) -> Result<Checkpointed, StoreError> {
        let waiting = self.checkpoints.rows_waiting(rows).await?;
        if waiting == 0 {
            return Ok(Checkpointed::Nothing);
        }
        let newest = self.checkpoints.newest_checkpoint().await?;
        let is_old = newest
            .as_ref()
            .is_none_or(|newest| self.clock.now().since(newest.at) >= interval);
        if !is_old && waiting < u64::from(rows) {
            return Ok(Checkpointed::Nothing);
        }
        // Known without looking at the chains, which would be looked at again every few seconds.
        match newest.filter(|newest| newest.seal.is_some()) {
            Some(newest) if self.signer.is_none() => Ok(Checkpointed::NeedsKey {
                newest: newest.number,
            }),
            _ => self.checkpoint().await,
        }
    }

    /// # Errors
    /// When the store is away.
    pub async fn newest_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.checkpoints.newest_checkpoint().await
    }

    /// The newest checkpoint, and what waits for the next, counted up to `up_to`.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn standing(&self, up_to: u32) -> Result<Standing, StoreError> {
        let newest = self.checkpoints.newest_checkpoint().await?;
        let rows_waiting = self.checkpoints.rows_waiting(up_to).await?;
        Ok(Standing {
            newest,
            rows_waiting,
        })
    }

    /// The newest checkpoint, to be published where nobody can take it back.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`], or when the store is away.
    pub async fn anchor(&self) -> Result<Anchor, Error> {
        let newest = self.checkpoints.newest_checkpoint().await?;
        let newest = newest.ok_or(Error::NoCheckpoint)?;
        Ok(Anchor {
            format: ANCHOR.to_owned(),
            ledger_id: newest.ledger_id,
            checkpoint: CheckpointLine::from(&newest),
        })
    }

    /// Writes everything that an outsider needs to recompute the books, as JSON lines, in bounded memory;
    /// or, after checkpoint `since`, the checkpoints and rows that came later.
    ///
    /// # Errors
    /// [`Error::NoSuchCheckpoint`]; when the store is away or `out` cannot be written.
    pub async fn export(
        &self,
        since: i64,
        out: &mut (dyn Write + Send),
        progress: &dyn Progress,
    ) -> Result<Exported, Error> {
        let mut export = Export {
            checkpoints: self.checkpoints.as_ref(),
            store: self.exports.as_ref(),
            out,
            progress,
            written: Exported::default(),
        };
        export.run(since).await?;
        Ok(export.written)
    }

    /// A user's chains, and that the newest checkpoint covers them. What came after it is in the chains too.
    ///
    /// # Errors
    /// [`Error::NoSuchUser`], [`Error::NoCheckpoint`], or when the store is away.
    pub async fn prove(&self, user: UserId) -> Result<Proof, Error> {
        for _ in 0..PROOF_ATTEMPTS {
            let newest = self.checkpoints.newest_checkpoint().await?;
            let newest = newest.ok_or(Error::NoCheckpoint)?;
            if let Some(proof) = self.prove_at(user, &newest).await? {
                return Ok(proof);
            }
        }
        Err(StoreError::unexpected(
            StoreKind::Relational,
            "the stored tree does not lead to the newest checkpoint; run `abunfi verify`",
        )
        .into())
    }

    /// `None`: the tree is that of another checkpoint by now.
    async fn prove_at(
        &self,
        user: UserId,
        checkpoint: &Checkpoint,
    ) -> Result<Option<Proof>, Error> {
        let one = super::UserRange {
            first: user,
            last: user,
        };
        let leaves = self
            .checkpoints
            .leaves_of(user, None, checkpoint.number)
            .await?;
        let mut chains: Vec<ProvedChain> = Vec::new();
        let mut after: Option<(String, i64)> = None;
        loop {
            let place = after
                .as_ref()
                .map(|(chain, seq)| (user, chain.as_str(), *seq));
            let page = self.exports.export_rows(one, place, ROWS).await?;
            let Some(last) = page.last() else {
                break;
            };
            after = Some((last.chain.clone(), last.seq));
            for row in page {
                match chains.last_mut() {
                    Some(chain) if chain.chain == row.chain => chain.rows.push(row.into()),
                    _ => chains.push(ProvedChain {
                        chain: row.chain.clone(),
                        inclusion: None,
                        rows: vec![row.into()],
                    }),
                }
            }
        }
        if chains.is_empty() && !self.exists(user).await? {
            return Err(Error::NoSuchUser(user));
        }
        for state in leaves {
            let Some(inclusion) = self.inclusion(&state, checkpoint).await? else {
                return Ok(None);
            };
            match chains
                .iter_mut()
                .find(|chain| chain.chain == state.leaf.chain)
            {
                Some(chain) => chain.inclusion = Some(inclusion),
                None => chains.push(ProvedChain {
                    chain: state.leaf.chain,
                    inclusion: Some(inclusion),
                    rows: Vec::new(),
                }),
            }
        }
        Ok(Some(Proof {
            format: PROOF.to_owned(),
            ledger_id: checkpoint.ledger_id,
            user_id: user,
            checkpoint: CheckpointLine::from(checkpoint),
            chains,
        }))
    }

    async fn exists(&self, user: UserId) -> Result<bool, StoreError> {
        let page = crate::ledger::Page {
            after: None,
            limit: 1,
        };
        Ok(self.trail.history(user, None, &page).await?.is_some())
    }

    async fn inclusion(
        &self,
        state: &LeafState,
        checkpoint: &Checkpoint,
    ) -> Result<Option<Inclusion>, StoreError> {
        let (leaf, size) = (unsigned(state.leaf.leaf), unsigned(checkpoint.size));
        let places = merkle::tiles_of_leaf(leaf, size);
        let tiles = self.checkpoints.tiles(&places).await?;
        if tiles.len() != places.len() {
            return Ok(None);
        }
        let tiles: Vec<_> = tiles.into_iter().map(|(_, hashes)| hashes).collect();
        let path = merkle::path_of_tiles(leaf, &tiles);
        let hash = state.leaf.hash(state.head);
        let leads_there = merkle::root_of_path(leaf, size, hash, &path) == Some(checkpoint.root);
        Ok(leads_there.then(|| Inclusion {
            leaf: state.leaf.leaf,
            seq: state.head.seq,
            hash: Hex(state.head.hash),
            path: path.into_iter().map(Hex).collect(),
        }))
    }

    /// Erases what is personal in a user's trail (reasons and KYC data, with the salts of their commitments),
    /// and says so in the user's chain. The chains verify as before. How many values went; erasing again
    /// finds nothing and writes nothing.
    ///
    /// # Errors
    /// [`Error::NoSuchUser`], or when the store is away.
    pub async fn erase(&self, ctx: &Context, user: UserId) -> Result<u64, Error> {
        let erased = self.exports.erase(ctx, user, self.clock.now()).await?;
        erased.ok_or(Error::NoSuchUser(user))
    }
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}
