//! Sessions of users: opaque tokens, of which only a hash is kept anywhere.
//!
//! The durable record is relational; Redis and the L1 hold serving copies. A revoked session is refused
//! everywhere within a second, because every instance polls the relational revocation rows, whatever
//! became of the serving copies.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::{SessionId, UserId};

mod error;
mod revocations;
mod service;
mod store;
#[cfg(test)]
mod tests;

pub use error::Error;
pub use revocations::{GRACE, Revocations, Trust};
pub use service::{NewSession, Service, SessionPolicy};
pub use store::{Revocation, RevocationKind, Store};

/// A session as the relational store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    pub id: SessionId,
    pub user_id: UserId,
    #[serde(with = "hex::serde")]
    pub token_hash: [u8; 32],
    pub device: Option<String>,
    pub ip: Option<String>,
    pub created_at: Timestamp,
    /// Written at most once a minute; reads count as activity.
    pub last_seen_at: Timestamp,
    /// Moves with activity, never past `expires_at`.
    pub idle_expires_at: Timestamp,
    /// Absolute.
    pub expires_at: Timestamp,
}

/// A session as it is shown. The order of the fields is that of the HTTP contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: SessionId,
    pub user_id: UserId,
    pub device: Option<String>,
    pub ip: Option<String>,
    pub created_at: Timestamp,
    pub last_seen_at: Timestamp,
    pub idle_expires_at: Timestamp,
    pub expires_at: Timestamp,
    /// It is the session that asks.
    pub current: bool,
}

impl SessionRecord {
    #[must_use]
    pub fn show(self, asking: Option<SessionId>) -> Session {
        Session {
            current: asking == Some(self.id),
            id: self.id,
            user_id: self.user_id,
            device: self.device,
            ip: self.ip,
            created_at: self.created_at,
            last_seen_at: self.last_seen_at,
            idle_expires_at: self.idle_expires_at,
            expires_at: self.expires_at,
        }
    }
}
