//! What an app's first screen shows, as one cached read.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::ledger::{Balance, Stats, Transaction};
use crate::users::HybridUser;

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
