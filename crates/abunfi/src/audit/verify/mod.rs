//! The verifier: recomputes the books from their rows, and names what disagrees.
//!
//! What it recomputes: every chain (numbers, links, hashes, times), the amounts after each change, every
//! transaction against its audit rows, every entry against its transaction, every balance and total from
//! them, holds and the number of pending transactions, private content against its commitments, the rows
//! that checkpoints name, the checkpoints themselves, and the zero sums.
//!
//! In this order: [`rows`] (what is read), [`chain`], [`transactions`] and [`page`] (the judges, pure),
//! [`large`] (a history that is too long for one snapshot), [`store`] (what is asked of a store), [`run`].
//!
//! It is right while writes go on, without a long snapshot: the books are read in parts of a few thousand
//! rows. A part is whole users, and each part is one snapshot, in which heads, balances, transactions,
//! entries and audit rows belong together. A user with a longer history is read in several snapshots, up
//! to the heads that the first one gave.
//!
//! Invariant: memory is bounded by the number of workers times the size of a part (and 100 bytes for each
//! chain while checkpoints are replayed: its name, where it ended, its leaf and the nodes above), not by the length of any history.

use std::sync::Arc;

use serde::Serialize;

mod chain;
mod checkpoints;
mod finding;
mod large;
mod page;
mod replay;
pub mod rows;
mod run;
mod store;
mod transactions;

pub use checkpoints::{Checkpoints, Newest};
pub use finding::{Finding, Place};
pub use page::Counts;
pub use store::{Extent, Size, Store};

use finding::Findings;
use run::Found;

use super::checkpoint::PublicKey;
use super::{CheckpointStore, Hash, format};
use crate::error::StoreError;

/// Findings that are shown unless more are asked for.
pub const FINDINGS: usize = 20;

/// Audit rows of one snapshot: some tens of milliseconds, and with the transactions and entries that belong
/// to them a few megabytes in memory.
pub const PAGE_ROWS: u32 = 8_192;

/// How to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Parts that are read and judged at once: each takes a connection.
    pub workers: usize,
    /// How many findings are kept, the first ones; all are counted.
    pub most_findings: usize,
    /// Audit rows that one snapshot reads. Fewer hold less memory and shorter snapshots; a user with more
    /// is read in parts.
    pub page_rows: u32,
    /// Unless empty, the newest checkpoint must be signed by one of them, and no other one by anybody else. Its
    /// signature vouches for those before it, also where they are not signed.
    pub public_keys: Vec<PublicKey>,
    /// A checkpoint that was published: the database must have that very one.
    pub anchor: Option<Anchor>,
    /// Only chains that have changed since the checkpoint of that number, from their rows in it on, and roots of
    /// checkpoints from it on. That one is trusted, so it must be the newest one of an earlier clean run, or be
    /// older than such a one; that it was published says when it was made, and not that it was made honestly. Reads a row for each checkpoint, chain and leaf there is, and else what is new.
    pub since: Option<i64>,
}

/// A checkpoint that was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    pub number: i64,
    pub hash: Hash,
}

/// The hash covers the ledger, the root and all else that the file says.
impl From<&format::Anchor> for Anchor {
    fn from(published: &format::Anchor) -> Self {
        Self {
            number: published.checkpoint.number,
            hash: published.checkpoint.hash.0,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism()
                .map_or(2, std::num::NonZero::get)
                .min(8),
            most_findings: FINDINGS,
            page_rows: PAGE_ROWS,
            public_keys: Vec::new(),
            anchor: None,
            since: None,
        }
    }
}

/// Who is told how far it is.
pub trait Progress: Send + Sync {
    /// So many audit rows of about `total` have been judged.
    fn rows(&self, done: u64, total: u64);
}

/// Nobody.
impl Progress for () {
    fn rows(&self, _done: u64, _total: u64) {}
}

/// What became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Only what has changed since that checkpoint; 0: everything.
    pub since: i64,
    /// Its hash, as hexadecimal digits: to be compared with what was published, or reported by an earlier run. That it
    /// was made honestly is not proved from it on.
    pub since_hash: Option<String>,
    #[serde(flatten)]
    pub newest: Newest,
    /// Nothing disagrees.
    pub clean: bool,
    pub read: Counts,
    pub checkpoints: Checkpoints,
    /// How many disagreements there are.
    pub disagreements: u64,
    /// The first of them, in the order of the books.
    pub findings: Vec<Finding>,
}

/// Verifies the books.
#[derive(Debug, Clone)]
pub struct Verifier {
    store: Arc<dyn Store>,
    checkpoints: Arc<dyn CheckpointStore>,
}

impl Verifier {
    #[must_use]
    pub fn new(store: Arc<dyn Store>, checkpoints: Arc<dyn CheckpointStore>) -> Self {
        Self { store, checkpoints }
    }

    /// Whether there is a checkpoint of that number.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn has_checkpoint(&self, number: i64) -> Result<bool, StoreError> {
        let there = self
            .checkpoints
            .checkpoints(number.saturating_sub(1), 1)
            .await?;
        Ok(there.first().is_some_and(|there| there.number == number))
    }

    /// Recomputes the books and gives what disagrees. Reads only.
    ///
    /// # Errors
    /// When the store fails: nothing is known of what was not read.
    pub async fn verify(
        &self,
        options: &Options,
        progress: Arc<dyn Progress>,
    ) -> Result<Report, StoreError> {
        let mut findings = Findings::keeping(options.most_findings);
        let mut checkpoints =
            checkpoints::judge(self.checkpoints.as_ref(), options, &mut findings).await?;
        let mut found = Found::default();
        found.begin(findings, options.most_findings);
        run::all(&self.store, options, &progress, &mut found).await?;
        Ok(Report {
            since: options.since.unwrap_or(0),
            since_hash: checkpoints.since_hash.take(),
            newest: std::mem::take(&mut checkpoints.newest),
            clean: found.count == 0,
            read: found.counts,
            checkpoints,
            disagreements: found.count,
            findings: found.into_findings(),
        })
    }
}
