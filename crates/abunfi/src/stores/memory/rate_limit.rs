use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::Memory;
use crate::error::StoreError;
use crate::rate_limit::{Store, gcra};

/// Keys remembered at once: about ten megabytes of short ones.
pub(super) const MAX_KEYS: usize = 100_000;
/// When it is full, this part of it is given up, so that the next sweep is far off.
const SWEPT_PART: usize = 10;

/// The theoretical arrival time of each key, in microseconds. A key whose time has passed is as good as
/// unknown.
#[derive(Debug, Default)]
pub(super) struct Limits(Mutex<HashMap<String, i64>>);

#[async_trait]
impl Store for Memory {
    async fn check(
        &self,
        key: &str,
        policy: gcra::Policy,
        cost: u32,
    ) -> Result<gcra::Decision, StoreError> {
        let now = self.clock.now().micros();
        Ok(self.limits.check(key, policy, cost, now))
    }
}

impl Limits {
    fn check(&self, key: &str, policy: gcra::Policy, cost: u32, now: i64) -> gcra::Decision {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let decision = policy.check(times.get(key).copied(), now, cost);
        if let Some(tat) = decision.new_tat {
            if times.len() >= MAX_KEYS && !times.contains_key(key) {
                make_room(&mut times, now);
            }
            times.insert(key.to_owned(), tat);
        }
        decision
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Forgets what has passed; when that is too little, those that spent least: forgetting them gives away
/// least, and whoever floods the table with new keys pushes out those first.
fn make_room(times: &mut HashMap<String, i64>, now: i64) {
    times.retain(|_, tat| *tat > now);
    let most = MAX_KEYS - MAX_KEYS / SWEPT_PART;
    if times.len() <= most {
        return;
    }
    let mut all: Vec<i64> = times.values().copied().collect();
    let excess = times.len() - most;
    let (_, boundary, _) = all.select_nth_unstable(excess);
    let boundary = *boundary;
    times.retain(|_, tat| *tat > boundary);
}
