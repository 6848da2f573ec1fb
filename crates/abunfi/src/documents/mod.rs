//! The flexible side: preferences and metadata of users, developers' data, logs.
//!
//! Every document that belongs to a user has a *head* in the relational store: version, hash, and the
//! image until it is applied. The head decides; the document store only holds content. So a write is
//! one relational commit, and the document store being away loses nothing: the head row itself is the
//! pending work of the [relay](Relay).
//!
//! Read in this order: the types here, [`canonical`] and [`merge_patch`] (pure), [`HeadStore`] and
//! [`ContentStore`], [`Service`], [`Relay`].
//!
//! Invariant: what is served as current has the version and the hash of its head.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::ids::UserId;
use crate::ledger::words;

pub mod canonical;
mod error;
#[cfg(test)]
pub(crate) mod fakes;
pub mod merge_patch;
pub mod parse;
pub mod preferences;
mod reading;
mod records;
mod relay;
mod service;
mod store;
#[cfg(test)]
mod tests;
pub mod versions;
mod writing;

pub use error::Error;
pub use records::{
    MAX_LOG_ENTRIES, MAX_LOG_FIELDS_BYTES, MAX_LOG_MESSAGE_BYTES, MAX_LOG_TARGET_CHARS,
    MAX_NAME_CHARS, check_log_entry,
};
pub use relay::{Relay, RelayStats};
pub use service::{DocumentView, Service, Stores, UserDocuments};
pub use store::{
    Applied, Backlog, Claimed, ContentStore, DevDataEntry, DevDataStore, DevDataWrite, HeadStore,
    HeadWrite, HeadWritten, LogFilter, LogStore, StoredDocument,
};
pub(crate) use writing::check;
pub use writing::{ApplyReport, Write};

words! {
    /// The documents that belong to a user. Each is a collection (or a kind) of its own.
    DocumentKind {
        Preferences = "preferences",
        Metadata = "metadata",
    }
}

/// Versions are `epoch · 2^40 + n`: a restore of the relational store raises the epoch, so that its
/// new writes are newer than all that the document store has seen.
pub const EPOCH_SHIFT: u32 = 40;

/// What a writer demands of the version that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expected {
    #[default]
    Anything,
    /// `If-Match`.
    Version(i64),
    /// `If-None-Match: *`: it must not exist (or be deleted).
    Absent,
}

/// The relational row that decides a document's version and content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub kind: DocumentKind,
    /// 0: imported; else `epoch · 2^40 + n`.
    pub version: i64,
    /// SHA-256 of the canonical form; of nothing when deleted.
    #[serde(with = "hex::serde")]
    pub hash: [u8; 32],
    pub deleted: bool,
    /// The newest version that the document store is known to hold.
    pub applied_version: i64,
    /// The canonical JSON, while it is wanted.
    pub image: Option<String>,
    pub updated_at: Timestamp,
}

/// A document's content, checked, in canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDocument {
    pub canonical: String,
    pub hash: [u8; 32],
}

impl NewDocument {
    /// Takes a document that [`canonical::check_document`] has passed.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        let canonical = canonical::canonical_json(value);
        let hash = Sha256::digest(canonical.as_bytes()).into();
        Self { canonical, hash }
    }
}

words! {
    /// How much a document that is served can be trusted.
    Freshness {
        /// Version and hash are the head's.
        Current = "current",
        /// The head's image: accepted, not yet in the document store.
        Pending = "pending",
        /// An older copy.
        Stale = "stale",
        /// Nothing could be read: the defaults.
        Default = "default",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentState {
    pub state: Freshness,
    /// When what is shown was known to be right.
    pub as_of: Option<Timestamp>,
}

words! {
    LogLevel {
        Trace = "trace",
        Debug = "debug",
        Info = "info",
        Warn = "warn",
        Error = "error",
    }
}

impl LogLevel {
    /// How stores keep it, so that "this level and above" is a comparison: 0 for `trace` to 4 for `error`.
    #[must_use]
    pub const fn rank(self) -> i16 {
        match self {
            Self::Trace => 0,
            Self::Debug => 1,
            Self::Info => 2,
            Self::Warn => 3,
            Self::Error => 4,
        }
    }

    /// The level of that rank, if there is one.
    #[must_use]
    pub fn from_rank(rank: i16) -> Option<Self> {
        Self::ALL.iter().copied().find(|level| level.rank() == rank)
    }
}

/// A line of the append-only log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// UUIDv7: the order of writing.
    pub id: uuid::Uuid,
    pub at: Timestamp,
    pub level: LogLevel,
    pub target: String,
    pub message: String,
    pub fields: Value,
    pub request_id: Option<String>,
}

/// A user-owned document's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentKey {
    pub user_id: UserId,
    pub kind: DocumentKind,
}
