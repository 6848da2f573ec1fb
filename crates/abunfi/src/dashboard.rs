//! What an app's first screen shows, as one cached read.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::Cache;
use crate::clock::{SharedClock, Timestamp};
use crate::error::StoreError;
use crate::ids::UserId;
use crate::ledger::{self, Balance, Page, Stats, Transaction, TransactionFilter};
use crate::users::{self, Caching, Composed, HybridUser, Served, serve};

/// How many of the last transactions are shown.
const LAST_TRANSACTIONS: u32 = 10;

/// The order of the fields is that of the HTTP contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dashboard {
    pub user: HybridUser,
    pub balances: Vec<Balance>,
    /// The last ten.
    pub transactions: Vec<Transaction>,
    pub stats: Stats,
    pub preferences: Value,
    pub generated_at: Timestamp,
}

impl Composed for Dashboard {
    fn is_whole(&self) -> bool {
        self.user.is_whole()
    }

    fn mark_stale(&mut self, as_of: Timestamp) {
        self.user.mark_stale(as_of);
    }
}

/// The parts of the platform that a dashboard is composed of.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) users: &'a users::Service,
    pub(crate) ledger: &'a ledger::Service,
    pub(crate) cache: &'a Cache,
    pub(crate) clock: &'a SharedClock,
    /// How long it is cached.
    pub(crate) ttl: Duration,
}

impl Parts<'_> {
    /// The dashboard, from the cache or composed now. `None`: there is no such user.
    pub(crate) async fn dashboard(
        &self,
        id: UserId,
        use_cache: bool,
    ) -> Result<Option<Served<Dashboard>>, StoreError> {
        let caching = Caching {
            cache: self.cache,
            clock: self.clock,
            key: format!("dashboard:{id}"),
            tags: self.users.tags(id),
            ttl: self.ttl,
            use_cache,
        };
        let compose = || {
            let parts = Source {
                users: self.users.clone(),
                ledger: self.ledger.clone(),
                clock: Arc::clone(self.clock),
            };
            async move { parts.compose(id).await }.boxed()
        };
        serve(caching, compose).await
    }
}

/// What a dashboard is read from, also when its reader is gone.
struct Source {
    users: users::Service,
    ledger: ledger::Service,
    clock: SharedClock,
}

impl Source {
    async fn compose(&self, id: UserId) -> Result<Option<Dashboard>, StoreError> {
        let filter = TransactionFilter::default();
        let last = Page {
            after: None,
            limit: LAST_TRANSACTIONS,
        };
        let (user, transactions, stats) = tokio::join!(
            self.users.read(id),
            self.ledger.transactions(id, &filter, &last),
            self.ledger.stats(id),
        );
        let (Some(user), Some(transactions), Some(stats)) = (user?, transactions?, stats?) else {
            return Ok(None);
        };
        Ok(Some(Dashboard {
            balances: user.balances.clone(),
            preferences: user.preferences.clone(),
            user,
            transactions,
            stats,
            generated_at: self.clock.now(),
        }))
    }
}
