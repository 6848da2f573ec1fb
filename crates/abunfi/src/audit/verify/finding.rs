//! What disagrees, where, and what it should be.

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

/// Which row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Place {
    AuditRow {
        user_id: Uuid,
        chain: String,
        seq: i64,
    },
    /// Personal content that a row commits to.
    Private {
        user_id: Uuid,
        chain: String,
        seq: i64,
        field: String,
    },
    /// The head of a chain that belongs to no account.
    ChainHead {
        user_id: Uuid,
        chain: String,
    },
    Account {
        user_id: Uuid,
        asset: String,
    },
    Transaction {
        user_id: Uuid,
        transaction_id: Uuid,
    },
    Entry {
        user_id: Uuid,
        transaction_id: Uuid,
        account: String,
    },
    Checkpoint {
        number: i64,
    },
    /// A chain as a checkpoint has it.
    Leaf {
        number: i64,
        user_id: Uuid,
        chain: String,
    },
    /// Which leaf of the checkpoints' tree is a chain's.
    ChainLeaf {
        leaf: i64,
        user_id: Uuid,
        chain: String,
    },
    Asset {
        asset: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AuditRow {
                user_id,
                chain,
                seq,
            } => {
                write!(f, "audit row {seq} of chain {chain} of {user_id}")
            }
            Self::Private {
                user_id,
                chain,
                seq,
                field,
            } => {
                write!(
                    f,
                    "private {field} of audit row {seq} of chain {chain} of {user_id}"
                )
            }
            Self::ChainHead { user_id, chain } => write!(f, "head of chain {chain} of {user_id}"),
            Self::Account { user_id, asset } => write!(f, "account {asset} of {user_id}"),
            Self::Transaction {
                user_id,
                transaction_id,
            } => {
                write!(f, "transaction {transaction_id} of {user_id}")
            }
            Self::Entry {
                user_id,
                transaction_id,
                account,
            } => {
                write!(
                    f,
                    "entry {account} of transaction {transaction_id} of {user_id}"
                )
            }
            Self::Checkpoint { number } => write!(f, "checkpoint {number}"),
            Self::Leaf {
                number,
                user_id,
                chain,
            } => {
                write!(f, "chain {chain} of {user_id} in checkpoint {number}")
            }
            Self::ChainLeaf {
                leaf,
                user_id,
                chain,
            } => {
                write!(f, "leaf {leaf} of chain {chain} of {user_id}")
            }
            Self::Asset { asset } => write!(f, "asset {asset}"),
        }
    }
}

/// One disagreement. It holds no personal content: of what is private it shows hashes only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub place: Place,
    /// The column, or `row` when it is the row itself.
    pub what: &'static str,
    pub expected: String,
    pub found: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            what,
            expected,
            found,
        } = self;
        write!(f, "{place}: {what} should be {expected}, is {found}")
    }
}

/// What a judge found. Keeps the first few, counts all.
#[derive(Debug)]
pub(super) struct Findings {
    kept: Vec<Finding>,
    most: usize,
    count: u64,
}

impl Findings {
    pub(super) const fn keeping(most: usize) -> Self {
        Self {
            kept: Vec::new(),
            most,
            count: 0,
        }
    }

    pub(super) fn add(
        &mut self,
        place: impl FnOnce() -> Place,
        what: &'static str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) {
        let place = place();
        // Two judges may come to the same.
        if self
            .kept
            .iter()
            .any(|kept| kept.what == what && kept.place == place)
        {
            return;
        }
        self.count = self.count.saturating_add(1);
        if self.kept.len() < self.most {
            self.kept.push(Finding {
                place,
                what,
                expected: expected.to_string(),
                found: found.to_string(),
            });
        }
    }

    /// Adds a finding unless both are the same.
    pub(super) fn compare<T: PartialEq + fmt::Display>(
        &mut self,
        place: impl FnOnce() -> Place,
        what: &'static str,
        expected: T,
        found: T,
    ) -> bool {
        let same = expected == found;
        if !same {
            self.add(place, what, expected, found);
        }
        same
    }

    pub(super) fn append(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        let free = self.most.saturating_sub(self.kept.len());
        self.kept.extend(other.kept.into_iter().take(free));
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// The first ones, by place, and how many there are in all.
    pub(super) fn into_parts(self) -> (Vec<Finding>, u64) {
        (self.kept, self.count)
    }
}

/// An amount in micro-units as people read it: with its point, and nothing when there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Micros(pub(super) i128);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::money::SignedSum::from_micros(self.0).fmt(f)
    }
}

/// A value that may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Maybe<T>(pub(super) Option<T>);

impl<T: fmt::Display> fmt::Display for Maybe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("nothing"),
            Some(value) => value.fmt(f),
        }
    }
}

/// Bytes in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hex<'b>(pub(super) &'b [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Microseconds since 1970 as a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time(pub(super) i64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::clock::Timestamp::from_micros(self.0).fmt(f)
    }
}
