//! Reading the trail. Appending is part of the atomic units of the domains that change something.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::AuditRow;
use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::ids::UserId;
use crate::ledger::Page;

/// Where a page of history ends: the list is ordered by time, then chain, then `seq`, all descending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryCursor {
    pub at: Timestamp,
    pub chain: String,
    pub seq: i64,
}

#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// A user's history, newest first; of one chain, when named. `None`: there is no such user.
    async fn history(
        &self,
        user_id: UserId,
        chain: Option<&str>,
        page: &Page<HistoryCursor>,
    ) -> Result<Option<Vec<AuditRow>>, StoreError>;

    /// One chain from `after_seq` on, oldest first, at most `limit` rows: for verifying it. `user_id`
    /// may be [`PLATFORM`](super::PLATFORM).
    async fn chain(
        &self,
        user_id: UserId,
        chain: &str,
        after_seq: i64,
        limit: u32,
    ) -> Result<Vec<AuditRow>, StoreError>;
}
