//! Checks exports, proofs and anchors, offline: no database, no configuration, nothing but the file and the
//! public keys that are trusted. Pure but for reading the file.

use std::io::{BufRead, Read};

use serde::Serialize;

use super::checkpoint::{Checkpoint, Leaf, PublicKey};
use super::format::{ANCHOR, Anchor, CheckpointLine, Inclusion, Line, PROOF, Proof};
use super::{Entry, GENESIS, Hash, Head, merkle};
use crate::ids::UserId;

mod batch;
mod books;

use books::Books;

/// Findings that are kept; all are counted.
const MAX_FINDINGS: usize = 100;
/// A proof or an anchor is one person's; more is something else.
const MAX_DOCUMENT_BYTES: u64 = 1 << 30;

/// What a file must be, beyond agreeing with itself.
#[derive(Debug, Clone, Default)]
pub struct Demands {
    /// Unless empty, every checkpoint must be signed by one of them.
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
    let mut first = String::new();
    file.read_line(&mut first)?;
    if let Ok(header @ Line::Header { .. }) = serde_json::from_str(&first) {
        return Books::check(header, file, demands, progress);
    }
    file.take(MAX_DOCUMENT_BYTES).read_to_string(&mut first)?;
    let document: serde_json::Value =
        serde_json::from_str(&first).map_err(|_no_json| Unreadable::Unknown)?;
    let unreadable = |error: serde_json::Error| Unreadable::Line {
        line: u64::try_from(error.line()).unwrap_or_default(),
        reason: error.to_string(),
    };
    match document.get("format").and_then(serde_json::Value::as_str) {
        Some(PROOF) => {
            let proof: Proof = serde_json::from_value(document).map_err(unreadable)?;
            Ok(check_proof(proof, demands))
        }
        Some(ANCHOR) => {
            let anchor: Anchor = serde_json::from_value(document).map_err(unreadable)?;
            let mut report = Report::new(Kind::Anchor, anchor.ledger_id);
            report.whole_seal(&anchor.checkpoint);
            let checkpoint = anchor.checkpoint.into_checkpoint(anchor.ledger_id);
            report.checkpoint(&checkpoint, demands);
            Ok(report.finish(demands))
        }
        _ => Err(Unreadable::Unknown),
    }
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
        let is_trusted = checkpoint
            .seal
            .is_some_and(|seal| trusted.contains(&seal.public_key));
        if !trusted.is_empty() && !is_trusted {
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
        if self.checkpoints == 0 && !demands.public_keys.is_empty() {
            self.found(|| {
                "no checkpoint is signed by a key that is trusted: there is none".to_owned()
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

fn check_proof(proof: Proof, demands: &Demands) -> Report {
    let mut report = Report::new(Kind::Proof, proof.ledger_id);
    report.user_id = Some(proof.user_id);
    report.whole_seal(&proof.checkpoint);
    let checkpoint = proof.checkpoint.into_checkpoint(proof.ledger_id);
    report.checkpoint(&checkpoint, demands);
    let user = proof.user_id;
    for chain in proof.chains {
        report.chains += 1;
        report.chains_not_covered += u64::from(chain.inclusion.is_none());
        let name = chain.chain;
        let covered = chain
            .inclusion
            .as_ref()
            .map_or(0, |inclusion| inclusion.seq);
        if let Some(inclusion) = &chain.inclusion
            && !is_included(user, &name, inclusion, &checkpoint)
        {
            report.found(|| format!("chain {name}: it is not in the checkpoint's tree"));
        }
        let mut walk = Walk::from(Head {
            seq: 0,
            hash: GENESIS,
        });
        for line in chain.rows {
            let seq = line.seq;
            let Some(row) = line.into_entry() else {
                report.found(|| format!("chain {name}: row {seq} makes no sense"));
                continue;
            };
            report.rows += 1;
            report.rows_not_covered += u64::from(seq > covered);
            if row.user_id != user || row.chain != name {
                report.found(|| format!("chain {name}: row {seq} is of another chain"));
            }
            if let Some(wrong) = walk.step(&row) {
                report.found(|| format!("chain {name}: {wrong}"));
            }
            if let Some(inclusion) = &chain.inclusion
                && inclusion.seq == seq
                && inclusion.hash.0 != row.hash
            {
                let hash = hex::encode(inclusion.hash.0);
                report.found(|| {
                    format!("chain {name}: the checkpoint says that row {seq} has hash {hash}")
                });
            }
        }
        if walk.head.seq < covered {
            report.found(|| {
                format!(
                    "chain {name}: it ends at row {}, the checkpoint covers {covered}",
                    walk.head.seq
                )
            });
        }
    }
    report.finish(demands)
}

fn is_included(user: UserId, chain: &str, inclusion: &Inclusion, checkpoint: &Checkpoint) -> bool {
    let leaf = Leaf {
        leaf: inclusion.leaf,
        user_id: user,
        chain: chain.to_owned(),
    };
    let hash = leaf.hash(Head {
        seq: inclusion.seq,
        hash: inclusion.hash.0,
    });
    let path: Vec<Hash> = inclusion.path.iter().map(|hash| hash.0).collect();
    let (Ok(index), Ok(size)) = (
        u64::try_from(inclusion.leaf),
        u64::try_from(checkpoint.size),
    ) else {
        return false;
    };
    merkle::root_of_path(index, size, hash, &path) == Some(checkpoint.root)
}
