//! The export: every checkpoint, every chain, every balance with what it is made of, line by line.
//!
//! Read in pages of whole users, the heads of a page first and its rows after them, each read a short one:
//! writes go on meanwhile, and what they add lies beyond the heads.

use std::io::Write;

use super::checkpoint::LeafChange;
use super::format::{CheckpointLine, EXPORT, Line};
use super::service::{Error, Exported, Progress};
use super::{CheckpointStore, Entry, ExportHead, ExportStore, LeafState, UserRange};
use crate::error::StoreError;
use crate::ids::UserId;

/// Users of a page.
const USERS: u32 = 256;
/// Lines of one read: about a megabyte.
const LINES: u32 = 4_096;

pub(super) struct Export<'a> {
    pub(super) checkpoints: &'a dyn CheckpointStore,
    pub(super) store: &'a dyn ExportStore,
    pub(super) out: &'a mut (dyn Write + Send),
    pub(super) progress: &'a dyn Progress,
    pub(super) written: Exported,
}

impl Export<'_> {
    pub(super) async fn run(&mut self, since: i64) -> Result<(), Error> {
        let newest = self.checkpoints.newest_checkpoint().await?;
        let number = newest.as_ref().map_or(0, |newest| newest.number);
        if since < 0 || since > number {
            return Err(Error::NoSuchCheckpoint(since));
        }
        self.line(&Line::Header {
            format: EXPORT.to_owned(),
            ledger_id: self.checkpoints.ledger_id().await?,
            since,
            checkpoint: number,
        })?;
        self.checkpoints_from(since, number).await?;
        self.leaves(newest.map_or(0, |newest| newest.size), since)
            .await?;
        self.changes(since, number).await?;
        self.batches(since).await?;
        let lines = self.written.lines;
        self.line(&Line::End { lines })?;
        self.out.flush()?;
        Ok(())
    }

    fn line(&mut self, line: &Line) -> Result<(), Error> {
        serde_json::to_writer(&mut *self.out, line).map_err(std::io::Error::from)?;
        self.out.write_all(b"\n")?;
        self.written.lines += 1;
        if matches!(line, Line::Row(_)) {
            self.written.rows += 1;
            self.progress.rows(self.written.rows);
        }
        Ok(())
    }

    /// With the one that an incremental export follows.
    async fn checkpoints_from(&mut self, since: i64, newest: i64) -> Result<(), Error> {
        let mut after = since.saturating_sub(1);
        while after < newest {
            let page = self.checkpoints.checkpoints(after, LINES).await?;
            let Some(last) = page.last() else {
                break;
            };
            after = last.number;
            for checkpoint in page.iter().filter(|checkpoint| checkpoint.number <= newest) {
                self.line(&Line::Checkpoint(CheckpointLine::from(checkpoint)))?;
            }
        }
        Ok(())
    }

    /// Which leaf is whose; and, for an incremental export, what each held at its beginning.
    async fn leaves(&mut self, size: i64, since: i64) -> Result<(), Error> {
        let mut after = -1;
        loop {
            let page = self.checkpoints.leaves(after, LINES).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.leaf.leaf;
            for state in page.into_iter().filter(|state| state.leaf.leaf < size) {
                let held = self.held(&state, since).await?;
                self.line(&Line::from(state.leaf))?;
                if let Some(held) = held {
                    self.line(&Line::from(held))?;
                }
            }
        }
    }

    async fn held(&self, state: &LeafState, since: i64) -> Result<Option<LeafChange>, StoreError> {
        if since == 0 {
            return Ok(None);
        }
        let change = |state: &LeafState| LeafChange {
            checkpoint: state.checkpoint,
            leaf: state.leaf.leaf,
            head: state.head,
        };
        if state.checkpoint <= since {
            return Ok(Some(change(state)));
        }
        let chain = Some(state.leaf.chain.as_str());
        let then = self
            .checkpoints
            .leaves_of(state.leaf.user_id, chain, since)
            .await?;
        Ok(then.first().map(change))
    }

    async fn changes(&mut self, since: i64, newest: i64) -> Result<(), Error> {
        let mut after = (since, i64::MAX);
        loop {
            let page = self.checkpoints.leaf_changes(after, LINES).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = (last.checkpoint, last.leaf);
            for change in page {
                if change.checkpoint > newest {
                    return Ok(());
                }
                self.line(&Line::from(change))?;
            }
        }
    }

    async fn batches(&mut self, since: i64) -> Result<(), Error> {
        let mut after = None;
        loop {
            let heads = self.store.export_heads(after, USERS).await?;
            let (Some(first), Some(last)) = (heads.first(), heads.last()) else {
                return Ok(());
            };
            let users = UserRange {
                first: first.user_id,
                last: last.user_id,
            };
            after = Some(users.last);
            self.line(&Line::Batch {})?;
            let known = self.known(&heads, since).await?;
            for head in heads {
                self.line(&Line::from(head))?;
            }
            self.rows(users, &known).await?;
            if since == 0 {
                self.transactions(users).await?;
                self.entries(users).await?;
            }
        }
    }

    /// What the checkpoint that an incremental export follows had of these users.
    async fn known(&self, heads: &[ExportHead], since: i64) -> Result<Vec<LeafState>, StoreError> {
        let mut known = Vec::new();
        if since == 0 {
            return Ok(known);
        }
        let mut users: Vec<UserId> = heads.iter().map(|head| head.user_id).collect();
        users.dedup();
        for user in users {
            known.extend(self.checkpoints.leaves_of(user, None, since).await?);
        }
        Ok(known)
    }

    async fn rows(&mut self, users: UserRange, known: &[LeafState]) -> Result<(), Error> {
        let mut after: Option<(UserId, String, i64)> = None;
        loop {
            let place = after
                .as_ref()
                .map(|(user, chain, seq)| (*user, chain.as_str(), *seq));
            let page = self.store.export_rows(users, place, LINES).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some((last.user_id, last.chain.clone(), last.seq));
            let is_new = |row: &Entry| {
                !known.iter().any(|state| {
                    state.leaf.user_id == row.user_id
                        && state.leaf.chain == row.chain
                        && row.seq <= state.head.seq
                })
            };
            for row in page.into_iter().filter(is_new) {
                self.line(&Line::Row(Box::new(row.into())))?;
            }
        }
    }

    async fn transactions(&mut self, users: UserRange) -> Result<(), Error> {
        let mut after = None;
        loop {
            let page = self.store.export_transactions(users, after, LINES).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some((last.user_id, last.id));
            for transaction in page {
                self.line(&Line::from(transaction))?;
            }
        }
    }

    async fn entries(&mut self, users: UserRange) -> Result<(), Error> {
        let mut after: Option<(UserId, crate::ids::TransactionId, String)> = None;
        loop {
            let place = after
                .as_ref()
                .map(|(user, id, account)| (*user, *id, account.as_str()));
            let page = self.store.export_entries(users, place, LINES).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some((last.user_id, last.transaction_id, last.account.clone()));
            for entry in page {
                self.line(&Line::from(entry))?;
            }
        }
    }
}
