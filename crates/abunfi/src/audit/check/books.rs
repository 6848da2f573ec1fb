//! An export, line by line.

use std::collections::HashMap;
use std::io::{BufRead, Read as _};

use uuid::Uuid;

use super::batch::Batch;
use super::{Demands, Kind, MAX_LINE_BYTES, Report, Unreadable};
use crate::audit::checkpoint::{Checkpoint, Leaf, LeafChange};
use crate::audit::format::{EXPORT, Line};
use crate::audit::merkle::Tree;
use crate::audit::{Head, Progress};
use crate::ids::UserId;

/// What checkpoints say of chains.
#[derive(Default)]
pub(super) struct Known {
    /// All heads of a chain that a leaf ever had, oldest first.
    pub(super) heads: HashMap<(UserId, String), Vec<Head>>,
    /// Those that an incremental export begins at.
    pub(super) starts: HashMap<(UserId, String), Head>,
}

/// What has been read so far: the checkpoints, the leaves, and the users of one batch.
pub(super) struct Books<'a> {
    ledger_id: Uuid,
    since: i64,
    newest: i64,
    demands: &'a Demands,
    report: Report,
    checkpoints: Vec<Checkpoint>,
    leaves: Vec<Leaf>,
    /// The checkpoint that is replayed now, as its index, and the tree as far as it is replayed.
    replaying: usize,
    tree: Tree,
    held: Vec<i64>,
    known: Known,
    batch: Option<Batch>,
    /// The last user of the batches before.
    last_user: Option<UserId>,
}

impl<'a> Books<'a> {
    pub(super) fn check(
        header: Line,
        file: &mut dyn BufRead,
        demands: &'a Demands,
        progress: &dyn Progress,
    ) -> Result<Report, Unreadable> {
        let Line::Header {
            format,
            ledger_id,
            since,
            checkpoint,
        } = header
        else {
            return Err(Unreadable::Unknown);
        };
        if format != EXPORT {
            return Err(Unreadable::Unknown);
        }
        let mut books = Books {
            ledger_id,
            since,
            newest: checkpoint,
            demands,
            report: Report::new(Kind::Export, ledger_id),
            checkpoints: Vec::new(),
            leaves: Vec::new(),
            replaying: 0,
            tree: Tree::default(),
            held: Vec::new(),
            known: Known::default(),
            batch: None,
            last_user: None,
        };
        books.report.since = since;
        let (mut text, mut number) = (String::new(), 1_u64);
        loop {
            text.clear();
            if (&mut *file).take(MAX_LINE_BYTES).read_line(&mut text)? == 0 {
                return Err(Unreadable::Cut("its last line is missing"));
            }
            let line: Line = serde_json::from_str(&text).map_err(|error| Unreadable::Line {
                line: number + 1,
                reason: error.to_string(),
            })?;
            if let Line::End { lines } = line {
                if lines != number {
                    return Err(Unreadable::Cut(
                        "it has another number of lines than it says",
                    ));
                }
                return Ok(books.finish());
            }
            books.take(line);
            number += 1;
            progress.rows(books.report.rows);
        }
    }

    fn take(&mut self, line: Line) {
        match line {
            Line::Header { .. } | Line::End { .. } => {
                self.report.found(|| "a second header".to_owned());
            }
            Line::Checkpoint(line) => {
                self.report.whole_seal(&line);
                self.checkpoint(line.into_checkpoint(self.ledger_id));
            }
            Line::Leaf {
                leaf,
                user_id,
                chain,
            } => {
                if usize::try_from(leaf) != Ok(self.leaves.len()) {
                    self.report
                        .found(|| format!("leaf {leaf} is not in its place"));
                }
                self.leaves.push(Leaf {
                    leaf,
                    user_id,
                    chain,
                });
            }
            Line::Change {
                checkpoint,
                leaf,
                seq,
                hash,
            } => self.change(LeafChange {
                checkpoint,
                leaf,
                head: Head { seq, hash: hash.0 },
            }),
            Line::Batch {} => {
                self.end_batch();
                self.batch = Some(Batch::default());
            }
            line => {
                let batch = self.batch.get_or_insert_default();
                batch.take(line, &self.known, self.since > 0, &mut self.report);
            }
        }
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) {
        self.report.checkpoint(&checkpoint, self.demands);
        let previous = self.checkpoints.last();
        // What an incremental export follows stands by itself.
        if (previous.is_some() || self.since == 0)
            && let Err(fault) = checkpoint.check_follows(previous)
        {
            self.report
                .found(|| format!("checkpoint {}: {fault}", checkpoint.number));
        }
        self.checkpoints.push(checkpoint);
    }

    fn change(&mut self, change: LeafChange) {
        let of_now = |books: &Self| {
            let now = books.checkpoints.get(books.replaying);
            now.map_or(i64::MAX, |checkpoint| checkpoint.number)
        };
        while change.checkpoint > of_now(self) {
            self.end_checkpoint();
        }
        if change.checkpoint < of_now(self) && change.checkpoint > self.since {
            self.report.found(|| {
                format!(
                    "a change of checkpoint {} is out of place",
                    change.checkpoint
                )
            });
        }
        let index = usize::try_from(change.leaf).unwrap_or(usize::MAX);
        let Some(leaf) = self.leaves.get(index) else {
            self.report
                .found(|| format!("leaf {} changes and is nobody's", change.leaf));
            return;
        };
        if !self.tree.set(index, leaf.hash(change.head)) {
            self.report
                .found(|| format!("leaf {} comes before the leaf below it", change.leaf));
            return;
        }
        if self.held.len() <= index {
            self.held.resize(index + 1, 0);
        }
        if let Some(held) = self.held.get_mut(index) {
            if change.head.seq <= *held {
                self.report
                    .found(|| format!("leaf {} goes back to row {}", change.leaf, change.head.seq));
            }
            *held = change.head.seq;
        }
        let key = (leaf.user_id, leaf.chain.clone());
        if change.checkpoint <= self.since {
            self.known.starts.insert(key.clone(), change.head);
        }
        self.known.heads.entry(key).or_default().push(change.head);
    }

    /// All changes up to a checkpoint are in the tree: it must have its root.
    fn end_checkpoint(&mut self) {
        let Some(checkpoint) = self.checkpoints.get(self.replaying) else {
            return;
        };
        let number = checkpoint.number;
        let root = self.tree.root();
        if root != checkpoint.root || usize::try_from(checkpoint.size) != Ok(self.tree.size()) {
            self.report.found(|| {
                format!(
                    "checkpoint {number}: its leaves make the root {}",
                    hex::encode(root)
                )
            });
        }
        let rows = self
            .held
            .iter()
            .fold(0_i64, |sum, seq| sum.saturating_add(*seq));
        if rows != checkpoint.covered_rows {
            self.report
                .found(|| format!("checkpoint {number}: its leaves cover {rows} rows"));
        }
        self.replaying += 1;
    }

    fn end_batch(&mut self) {
        while self.replaying < self.checkpoints.len() {
            self.end_checkpoint();
        }
        if let Some(batch) = self.batch.take() {
            if let Some((first, last)) = batch.users() {
                if self.last_user.is_some_and(|before| before >= first) {
                    self.report
                        .found(|| format!("user {first} does not come after the batch before"));
                }
                self.last_user = Some(last);
            }
            batch.finish(&mut self.known, self.since > 0, &mut self.report);
        }
    }

    fn finish(mut self) -> Report {
        self.end_batch();
        let first = self.checkpoints.first().map_or(0, |first| first.number);
        if self.since > 0 && first != self.since {
            let since = self.since;
            self.report.found(|| {
                format!("it begins after checkpoint {since} by the header, and after {first} by the file")
            });
        }
        let last = self.checkpoints.last().map_or(0, |last| last.number);
        if last != self.newest {
            let newest = self.newest;
            self.report.found(|| {
                format!("checkpoint {newest} is the newest by the header, and {last} by the file")
            });
        }
        let mut missing: Vec<_> = self.known.heads.into_keys().collect();
        missing.sort();
        for (user, chain) in missing {
            self.report.found(|| {
                format!("user {user}, chain {chain}: a checkpoint covers it, and it is not there")
            });
        }
        self.report.finish(self.demands)
    }
}
