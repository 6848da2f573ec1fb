//! The export: every checkpoint, every chain, every balance with what it is made of, line by line.
//!
//! Read in pages of whole users, the heads of a page first and its rows after them, each read a short one:
//! writes go on meanwhile, and what they add lies beyond the heads. After a checkpoint it reads of each chain the
//! head and what the checkpoint has of it, and then the rows between the two alone.

use std::collections::{HashMap, VecDeque};
use std::io::Write;

use super::format::{CheckpointLine, EXPORT, Line};
use super::service::{Error, Exported, Progress};
use super::{ChainPart, CheckpointStore, Entry, ExportHead, ExportStore, LeafAsOf, UserRange};
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

    /// Which leaf is whose; and, for an incremental export, what each held at its beginning: the checkpoint's root
    /// is over all of them, whatever has changed since.
    async fn leaves(&mut self, size: i64, since: i64) -> Result<(), Error> {
        let mut after = -1;
        loop {
            let page = self.checkpoints.leaves_as_of(since, after, LINES).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.leaf.leaf;
            let is_there = |state: &LeafAsOf| state.is_used && state.leaf.leaf < size;
            for LeafAsOf { leaf, held, .. } in page.into_iter().filter(is_there) {
                self.line(&Line::from(leaf))?;
                if let Some(held) = held.filter(|_| since > 0) {
                    self.line(&Line::from(held))?;
                }
            }
        }
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
            let parts = self.parts(users, &heads, since).await?;
            for head in heads {
                self.line(&Line::from(head))?;
            }
            if since > 0 {
                self.parts_of_chains(parts).await?;
            } else {
                self.rows(users).await?;
                self.transactions(users).await?;
                self.entries(users).await?;
            }
        }
    }

    /// Of an incremental export, what these chains have more than the checkpoint that it follows, up to their heads.
    async fn parts(
        &self,
        users: UserRange,
        heads: &[ExportHead],
        since: i64,
    ) -> Result<VecDeque<ChainPart>, StoreError> {
        if since == 0 {
            return Ok(VecDeque::new());
        }
        let known = self.checkpoints.leaves_of_users(users, since).await?;
        let known: HashMap<_, _> = known
            .iter()
            .map(|state| {
                (
                    (state.leaf.user_id, state.leaf.chain.as_str()),
                    state.head.seq,
                )
            })
            .collect();
        let part = |head: &ExportHead| {
            let held = known.get(&(head.user_id, head.chain.as_str()));
            ChainPart {
                user_id: head.user_id,
                chain: head.chain.clone(),
                after: held.copied().unwrap_or(0),
                through: head.head.seq,
            }
        };
        Ok(heads
            .iter()
            .map(part)
            .filter(|part| part.rows() > 0)
            .collect())
    }

    /// As many short parts at once as a read has lines, and long ones by themselves.
    async fn parts_of_chains(&mut self, mut parts: VecDeque<ChainPart>) -> Result<(), Error> {
        let most = u64::from(LINES);
        while let Some(part) = parts.pop_front() {
            if part.rows() > most {
                self.long_part(&part).await?;
                continue;
            }
            let (mut together, mut rows) = (Vec::new(), part.rows());
            together.push(part);
            while let Some(next) =
                parts.pop_front_if(|next| rows.saturating_add(next.rows()) <= most)
            {
                rows = rows.saturating_add(next.rows());
                together.push(next);
            }
            for row in self.store.export_parts(&together).await? {
                self.line(&Line::Row(Box::new(row.into())))?;
            }
        }
        Ok(())
    }

    /// By the rows that there are: a head may say any number.
    async fn long_part(&mut self, part: &ChainPart) -> Result<(), Error> {
        let user = UserRange {
            first: part.user_id,
            last: part.user_id,
        };
        let mut after = part.after;
        loop {
            let place = Some((part.user_id, part.chain.as_str(), after));
            let page = self.store.export_rows(user, place, LINES).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            let is_of_it = |row: &Entry| row.chain == part.chain && row.seq <= part.through;
            let goes_on = is_of_it(last);
            after = last.seq;
            for row in page.into_iter().filter(is_of_it) {
                self.line(&Line::Row(Box::new(row.into())))?;
            }
            if !goes_on {
                return Ok(());
            }
        }
    }

    async fn rows(&mut self, users: UserRange) -> Result<(), Error> {
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
            for row in page {
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
