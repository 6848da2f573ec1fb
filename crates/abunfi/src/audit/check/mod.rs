//! Checks exports, proofs and anchors, offline: no database, no configuration, nothing but the file and the
//! public keys that are trusted. Pure but for reading the file.

use std::io::{BufRead, Read};

use serde::Serialize;

use super::checkpoint::{Checkpoint, PublicKey};
use super::format::{Anchor, CheckpointLine, Line};
use super::{Entry, Hash, Head};
use crate::ids::UserId;

mod batch;
mod books;
mod document;

use books::Books;

/// Findings that are kept; all are counted.
const MAX_FINDINGS: usize = 100;
/// A line is a few hundred bytes; what has no end is no line of an export.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// What a file must be, beyond agreeing with itself.
#[derive(Debug, Clone, Default)]
pub struct Demands {
    /// Unless empty, the newest checkpoint must be signed by one of them, and no other one by anybody else. Its
    /// signature vouches for those before it, also where they are not signed.
    pub public_keys: Vec<PublicKey>,
    /// A checkpoint that was published: the file must hold that very one.
    pub anchor: Option<Anchor>,
}

/// What a file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Export,
    Proof,
    Anchor,
}

/// What became of a check.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub kind: Kind,
    pub ledger_id: uuid::Uuid,
    /// Whose proof it is.
    pub user_id: Option<UserId>,
    /// Only what came after that checkpoint; 0: everything.
    pub since: i64,
    /// Nothing disagrees.
    pub clean: bool,
    /// The newest checkpoint; 0: there is none.
    pub checkpoint: i64,
    /// Its hash, as hexadecimal digits.
    pub checkpoint_hash: Option<String>,
    /// Who signed it, as hexadecimal digits.
    pub signed_by: Option<String>,
    /// All checkpoints of the file from that one to the newest are signed.
    pub signed_from: Option<i64>,
    pub checkpoints: u64,
    pub chains: u64,
    /// How many chains of a proof no checkpoint covers.
    pub chains_not_covered: u64,
    /// Rows that were recomputed.
    pub rows: u64,
    /// How many of them came after the newest checkpoint: chained, and not anchored yet.
    pub rows_not_covered: u64,
    /// The number of the published checkpoint, if one was demanded and is there.
    pub anchored: Option<i64>,
    /// Checkpoints after that one.
    pub not_anchored: Option<i64>,
    pub disagreements: u64,
    /// The first of them, in the order of the file.
    pub findings: Vec<String>,
    /// There is a checkpoint of the published one's number.
    #[serde(skip)]
    has_number: bool,
    /// That one is not signed after one that is, is said.
    #[serde(skip)]
    was_signed: bool,
}

/// Why a file cannot be checked at all.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("reading: {0}")]
    Read(#[from] std::io::Error),
    #[error("line {line}: {reason}")]
    Line { line: u64, reason: String },
    #[error("this is no export, proof or anchor of Abunfi")]
    Unknown,
    #[error("the file is not whole: {0}")]
    Cut(&'static str),
}

/// Checks what is in `file`, and that it is what is demanded. `progress` is told how many rows of an export
/// have been recomputed.
///
/// # Errors
/// [`Unreadable`]. What disagrees is not an error but in the report.
pub fn check(
    file: &mut dyn BufRead,
    demands: &Demands,
    progress: &dyn super::Progress,
) -> Result<Report, Unreadable> {
    // An export's first line says what it is; a document may be a single line of any length.
    let mut first = Vec::new();
    (&mut *file)
        .take(MAX_LINE_BYTES)
        .read_until(b'\n', &mut first)?;
    if let Ok(header @ Line::Header { .. }) = serde_json::from_slice(&first) {
        return Books::check(header, file, demands, progress);
    }
    document::check(first.as_slice().chain(file), demands, progress)
}

impl Report {
    fn new(kind: Kind, ledger_id: uuid::Uuid) -> Self {
        Self {
            kind,
            ledger_id,
            user_id: None,
            since: 0,
            clean: false,
            checkpoint: 0,
            checkpoint_hash: None,
            signed_by: None,
            signed_from: None,
            checkpoints: 0,
            chains: 0,
            chains_not_covered: 0,
            rows: 0,
            rows_not_covered: 0,
            anchored: None,
            not_anchored: None,
            disagreements: 0,
            findings: Vec::new(),
            has_number: false,
            was_signed: false,
        }
    }

    fn found(&mut self, finding: impl FnOnce() -> String) {
        self.disagreements += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding());
        }
    }

    /// Key and signature are there together, or neither is.
    fn whole_seal(&mut self, line: &CheckpointLine) {
        if line.public_key.is_some() != line.signature.is_some() {
            let number = line.number;
            self.found(|| format!("checkpoint {number}: half a signature"));
        }
    }

    /// A checkpoint by itself: hash, signature, signer; and whether it is the one that was published.
    fn checkpoint(&mut self, checkpoint: &Checkpoint, demands: &Demands) {
        let trusted = &demands.public_keys;
        let number = checkpoint.number;
        self.checkpoints += 1;
        self.checkpoint = number;
        self.checkpoint_hash = Some(hex::encode(checkpoint.hash));
        self.signed_by = checkpoint.seal.map(|seal| hex::encode(seal.public_key));
        if let Err(fault) = checkpoint.check() {
            self.found(|| format!("checkpoint {number}: {fault}"));
        }
        if checkpoint.seal.is_none() && self.signed_from.is_some() && !trusted.is_empty() {
            self.was_signed = true;
            self.found(|| {
                format!("checkpoint {number}: it is not signed, though the one before is")
            });
        }
        self.signed_from = checkpoint.signed_from(self.signed_from);
        if let Some(seal) = &checkpoint.seal
            && !trusted.is_empty()
            && !trusted.contains(&seal.public_key)
        {
            self.found(|| {
                format!("checkpoint {number}: it is not signed by a key that is trusted")
            });
        }
        if let Some(anchor) = &demands.anchor
            && anchor.checkpoint.number == number
        {
            self.compare_anchor(checkpoint, anchor);
        }
    }

    fn compare_anchor(&mut self, checkpoint: &Checkpoint, anchor: &Anchor) {
        self.has_number = true;
        let published = &anchor.checkpoint;
        let hexadecimal = |one: Hash, other: Hash| [hex::encode(one), hex::encode(other)];
        let (what, [is, should]) = if checkpoint.ledger_id != anchor.ledger_id {
            let ledgers = [checkpoint.ledger_id, anchor.ledger_id];
            ("ledger", ledgers.map(|ledger| ledger.to_string()))
        } else if checkpoint.root != published.root.0 {
            ("root", hexadecimal(checkpoint.root, published.root.0))
        } else if checkpoint.hash != published.hash.0 {
            ("hash", hexadecimal(checkpoint.hash, published.hash.0))
        } else {
            self.anchored = Some(checkpoint.number);
            return;
        };
        let number = checkpoint.number;
        self.found(|| {
            format!(
                "checkpoint {number}: its {what} is {is}, that of the published one is {should}"
            )
        });
    }

    /// What became of the demand that a published checkpoint is there.
    fn finish_anchor(&mut self, anchor: &Anchor) {
        let newest = self.checkpoint;
        self.not_anchored = self
            .anchored
            .map(|number| newest.saturating_sub(number).max(0));
        if self.has_number {
            return;
        }
        let number = anchor.checkpoint.number;
        let root = hex::encode(anchor.checkpoint.root.0);
        let has = match (self.checkpoints, self.since.max(1)) {
            (0, _) => "there is none".to_owned(),
            (1, _) => format!("there is checkpoint {newest} only"),
            (_, first) => format!("there are checkpoints {first} to {newest}"),
        };
        self.found(|| {
            format!("checkpoint {number}: it was published, with the root {root}, and is not here; {has}")
        });
    }

    fn finish(mut self, demands: &Demands) -> Self {
        if let Some(anchor) = &demands.anchor {
            self.finish_anchor(anchor);
        }
        let number = self.checkpoint;
        // Each hash covers the checkpoint before, so the first signature vouches for those before it.
        if !demands.public_keys.is_empty() && self.signed_by.is_none() && !self.was_signed {
            self.found(|| match number {
                0 => "no checkpoint is signed by a key that is trusted: there is none".to_owned(),
                _ => format!("checkpoint {number}: it is the newest, and is not signed"),
            });
        }
        self.clean = self.disagreements == 0;
        self
    }
}

/// A chain on the way through its rows.
#[derive(Debug, Clone)]
struct Walk {
    head: Head,
    at: i64,
}

impl Walk {
    const fn from(head: Head) -> Self {
        Self { head, at: i64::MIN }
    }

    /// Goes on to the next row; what is wrong with it. The walk goes on from what the row says, so that one
    /// edit is one finding and not one for each row behind it.
    fn step(&mut self, row: &Entry) -> Option<String> {
        let expected = self.head.seq.saturating_add(1);
        let wrong = if row.seq != expected {
            Some(format!(
                "row {expected} is missing, row {} follows",
                row.seq
            ))
        } else if row.previous_hash != self.head.hash {
            let hash = hex::encode(self.head.hash);
            Some(format!(
                "row {expected}: the hash before it should be {hash}"
            ))
        } else if row.hash != row.computed_hash() {
            let hash = hex::encode(row.computed_hash());
            Some(format!("row {expected}: the hash of its content is {hash}"))
        } else if row.at.micros() < self.at {
            Some(format!("row {expected}: it is older than the row before"))
        } else {
            None
        };
        self.head = row.head();
        self.at = row.at.micros();
        wrong
    }
}
