//! Exports, proofs and anchors as JSON: see `docs/audit-format.md`. Nothing personal is in them.
//!
//! Amounts are texts with whole micro-units, since JSON's numbers are exact up to 2⁵³ only; times are whole
//! microseconds since 1970; hashes and keys hexadecimal digits; ids as everywhere.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::checkpoint::{Checkpoint, Leaf, LeafChange, Seal};
use super::{AmountsAfter, Entry, ExportHead, ExportedEntry, ExportedTransaction, Hash, Head};
use crate::clock::Timestamp;
use crate::context::{Actor, ActorKind};
use crate::ids::{SessionId, TransactionId, UserId};
use crate::money::Amount;

/// What an export's header says.
pub const EXPORT: &str = "abunfi.export.v1";
/// What a proof says.
pub const PROOF: &str = "abunfi.proof.v1";
/// What an anchor says.
pub const ANCHOR: &str = "abunfi.anchor.v1";

/// Whole micro-units, as a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub i64);

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Micros {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let micros = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Self(micros))
    }
}

/// Hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; N];
        hex::decode_to_slice(text, &mut bytes).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

/// One line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line {
    Header {
        format: String,
        ledger_id: Uuid,
        /// Rows up to this checkpoint are left out; 0: it is whole.
        since: i64,
        /// The newest checkpoint in it; 0: none.
        checkpoint: i64,
    },
    Checkpoint(CheckpointLine),
    Leaf {
        leaf: i64,
        user_id: UserId,
        chain: String,
    },
    Change {
        checkpoint: i64,
        leaf: i64,
        seq: i64,
        hash: Hex<32>,
    },
    /// What follows, up to the next one, is of users that are in no other.
    Batch {},
    Account(AccountLine),
    Chain {
        user_id: UserId,
        chain: String,
        seq: i64,
        hash: Hex<32>,
    },
    Row(Box<RowLine>),
    Transaction(TransactionLine),
    Entry(EntryLine),
    /// The last one, with the number of lines before it.
    End {
        lines: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointLine {
    pub number: i64,
    pub previous_hash: Hex<32>,
    pub size: i64,
    pub root: Hex<32>,
    pub covered_rows: i64,
    pub at_micros: i64,
    pub hash: Hex<32>,
    pub public_key: Option<Hex<32>>,
    pub signature: Option<Hex<64>>,
}

impl From<&Checkpoint> for CheckpointLine {
    fn from(checkpoint: &Checkpoint) -> Self {
        Self {
            number: checkpoint.number,
            previous_hash: Hex(checkpoint.previous_hash),
            size: checkpoint.size,
            root: Hex(checkpoint.root),
            covered_rows: checkpoint.covered_rows,
            at_micros: checkpoint.at.micros(),
            hash: Hex(checkpoint.hash),
            public_key: checkpoint.seal.map(|seal| Hex(seal.public_key)),
            signature: checkpoint.seal.map(|seal| Hex(seal.signature)),
        }
    }
}

impl CheckpointLine {
    #[must_use]
    pub fn into_checkpoint(self, ledger_id: Uuid) -> Checkpoint {
        Checkpoint {
            ledger_id,
            number: self.number,
            previous_hash: self.previous_hash.0,
            size: self.size,
            root: self.root.0,
            covered_rows: self.covered_rows,
            at: Timestamp::from_micros(self.at_micros),
            hash: self.hash.0,
            seal: self
                .public_key
                .zip(self.signature)
                .map(|(Hex(public_key), Hex(signature))| Seal {
                    public_key,
                    signature,
                }),
        }
    }
}

impl From<Leaf> for Line {
    fn from(leaf: Leaf) -> Self {
        Self::Leaf {
            leaf: leaf.leaf,
            user_id: leaf.user_id,
            chain: leaf.chain,
        }
    }
}

impl From<LeafChange> for Line {
    fn from(change: LeafChange) -> Self {
        Self::Change {
            checkpoint: change.checkpoint,
            leaf: change.leaf,
            seq: change.head.seq,
            hash: Hex(change.head.hash),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountLine {
    pub user_id: UserId,
    /// The asset.
    pub chain: String,
    pub seq: i64,
    pub hash: Hex<32>,
    pub available_micros: Micros,
    pub locked_micros: Micros,
    pub shares_micros: Micros,
    pub locked_shares_micros: Micros,
    pub deposited_micros: Micros,
    pub withdrawn_micros: Micros,
    pub yield_earned_micros: Micros,
    pub bonuses_micros: Micros,
    pub fees_micros: Micros,
}

impl From<ExportHead> for Line {
    fn from(head: ExportHead) -> Self {
        let ExportHead {
            user_id,
            chain,
            head: Head { seq, hash },
            balances,
        } = head;
        let hash = Hex(hash);
        match balances {
            None => Self::Chain {
                user_id,
                chain,
                seq,
                hash,
            },
            Some(balances) => Self::Account(AccountLine {
                user_id,
                chain,
                seq,
                hash,
                available_micros: Micros(balances.available),
                locked_micros: Micros(balances.locked),
                shares_micros: Micros(balances.shares),
                locked_shares_micros: Micros(balances.locked_shares),
                deposited_micros: Micros(balances.deposited),
                withdrawn_micros: Micros(balances.withdrawn),
                yield_earned_micros: Micros(balances.yield_earned),
                bonuses_micros: Micros(balances.bonuses),
                fees_micros: Micros(balances.fees),
            }),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowLine {
    pub user_id: UserId,
    pub chain: String,
    pub seq: i64,
    pub transaction_id: Option<TransactionId>,
    pub action: String,
    pub previous_status: Option<String>,
    pub new_status: Option<String>,
    pub amount_micros: Option<Micros>,
    pub shares_micros: Option<Micros>,
    pub available_after_micros: Option<Micros>,
    pub locked_after_micros: Option<Micros>,
    pub shares_after_micros: Option<Micros>,
    pub locked_shares_after_micros: Option<Micros>,
    pub actor_kind: String,
    pub actor_id: Arc<str>,
    pub actor_session_id: Option<SessionId>,
    pub request_id: Arc<str>,
    pub at_micros: i64,
    pub reason_commitment: Option<Hex<32>>,
    pub data_commitment: Option<Hex<32>>,
    pub previous_hash: Hex<32>,
    pub hash: Hex<32>,
}

impl From<Entry> for RowLine {
    fn from(entry: Entry) -> Self {
        let micros = |amount: Amount| Micros(amount.micros());
        let after = |of: fn(AmountsAfter) -> Amount| entry.after.map(|after| micros(of(after)));
        Self {
            user_id: entry.user_id,
            seq: entry.seq,
            transaction_id: entry.transaction_id,
            amount_micros: entry.amount.map(micros),
            shares_micros: entry.shares.map(micros),
            available_after_micros: after(|after| after.available),
            locked_after_micros: after(|after| after.locked),
            shares_after_micros: after(|after| after.shares),
            locked_shares_after_micros: after(|after| after.locked_shares),
            chain: entry.chain,
            action: entry.action.into_owned(),
            previous_status: entry.previous_status.map(Cow::into_owned),
            new_status: entry.new_status.map(Cow::into_owned),
            actor_kind: entry.actor.kind.as_str().to_owned(),
            actor_id: entry.actor.id,
            actor_session_id: entry.actor.session_id,
            request_id: entry.request_id,
            at_micros: entry.at.micros(),
            reason_commitment: entry.reason_commitment.map(Hex),
            data_commitment: entry.data_commitment.map(Hex),
            previous_hash: Hex(entry.previous_hash),
            hash: Hex(entry.hash),
        }
    }
}

impl RowLine {
    /// The row; `None` when no row can be like this.
    #[must_use]
    pub fn into_entry(self) -> Option<Entry> {
        let amount = |micros: Option<Micros>| match micros {
            None => Some(None),
            Some(Micros(micros)) => Amount::from_micros(micros).map(Some),
        };
        let after = match (
            amount(self.available_after_micros)?,
            amount(self.locked_after_micros)?,
            amount(self.shares_after_micros)?,
            amount(self.locked_shares_after_micros)?,
        ) {
            (None, None, None, None) => None,
            (Some(available), Some(locked), Some(shares), Some(locked_shares)) => {
                Some(AmountsAfter {
                    available,
                    locked,
                    shares,
                    locked_shares,
                })
            }
            _ => return None,
        };
        let bytes = |hex: Option<Hex<32>>| hex.map(|Hex(bytes)| -> Hash { bytes });
        Some(Entry {
            user_id: self.user_id,
            chain: self.chain,
            seq: self.seq,
            transaction_id: self.transaction_id,
            action: self.action.into(),
            previous_status: self.previous_status.map(Cow::Owned),
            new_status: self.new_status.map(Cow::Owned),
            amount: amount(self.amount_micros)?,
            shares: amount(self.shares_micros)?,
            after,
            actor: Actor {
                kind: ActorKind::from_name(&self.actor_kind)?,
                id: self.actor_id,
                session_id: self.actor_session_id,
            },
            request_id: self.request_id,
            at: Timestamp::from_micros(self.at_micros),
            reason_commitment: bytes(self.reason_commitment),
            data_commitment: bytes(self.data_commitment),
            previous_hash: self.previous_hash.0,
            hash: self.hash.0,
            // A mark to find a row by, which no hash covers: not exported.
            trace_id: None,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionLine {
    pub user_id: UserId,
    pub transaction_id: TransactionId,
    /// `deposit`, …; `type` is the line's.
    pub kind: String,
    pub status: String,
    pub asset: String,
    pub amount_micros: Micros,
    pub shares_micros: Micros,
}

impl From<ExportedTransaction> for Line {
    fn from(transaction: ExportedTransaction) -> Self {
        Self::Transaction(TransactionLine {
            user_id: transaction.user_id,
            transaction_id: transaction.id,
            kind: transaction.kind,
            status: transaction.status,
            asset: transaction.asset,
            amount_micros: Micros(transaction.amount),
            shares_micros: Micros(transaction.shares),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryLine {
    pub user_id: UserId,
    pub transaction_id: TransactionId,
    pub account: String,
    pub asset: String,
    pub amount_micros: Micros,
}

impl From<ExportedEntry> for Line {
    fn from(entry: ExportedEntry) -> Self {
        Self::Entry(EntryLine {
            user_id: entry.user_id,
            transaction_id: entry.transaction_id,
            account: entry.account,
            asset: entry.asset,
            amount_micros: Micros(entry.amount),
        })
    }
}

/// A user's chains, and that a signed checkpoint covers them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub format: String,
    pub ledger_id: Uuid,
    pub user_id: UserId,
    pub checkpoint: CheckpointLine,
    pub chains: Vec<ProvedChain>,
}

/// One chain, all its rows, and its place in the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvedChain {
    pub chain: String,
    /// `None`: no checkpoint covers it yet.
    pub inclusion: Option<Inclusion>,
    pub rows: Vec<RowLine>,
}

/// A leaf and the way from it to the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inclusion {
    pub leaf: i64,
    /// Where the chain ended when the checkpoint was made.
    pub seq: i64,
    pub hash: Hex<32>,
    /// Lowest first.
    pub path: Vec<Hex<32>>,
}

/// A checkpoint to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    pub format: String,
    pub ledger_id: Uuid,
    pub checkpoint: CheckpointLine,
}

/// Why a text is no anchor.
#[derive(Debug, thiserror::Error)]
pub enum NoAnchor {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("its format is {0:?}, not {ANCHOR:?}")]
    Format(String),
    #[error("its hash is not that of its content")]
    Hash,
}

impl Anchor {
    /// Reads what `abunfi audit anchor` writes. Its signature is not looked at: what it proves, it proves by
    /// having been published.
    ///
    /// # Errors
    /// [`NoAnchor`]: it is something else, or damaged.
    pub fn parse(text: &str) -> Result<Self, NoAnchor> {
        let anchor: Self = serde_json::from_str(text)?;
        if anchor.format != ANCHOR {
            return Err(NoAnchor::Format(anchor.format));
        }
        let checkpoint = anchor.checkpoint.clone().into_checkpoint(anchor.ledger_id);
        if checkpoint.hash != checkpoint.computed_hash() {
            return Err(NoAnchor::Hash);
        }
        Ok(anchor)
    }
}
