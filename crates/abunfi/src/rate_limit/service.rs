//! What callers use of rate limits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use super::*;
use crate::error::{StoreError, StoreKind};
use crate::validation::{FaultCode, Faults};

/// Long enough for an address, a token's hash, a route and a user.
const MAX_KEY_CHARS: usize = 200;
const MICROS_PER_SECOND: u64 = 1_000_000;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("there is no such policy")]
    UnknownPolicy,
    #[error("the request is not valid")]
    Invalid(Faults),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    /// Counts in this process while the store is away.
    fallback: Arc<dyn Store>,
    policies: Arc<BTreeMap<String, Policy>>,
    /// How many instances share a limit, for the fallback's part of it. At least 1.
    instances: u32,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    checks: AtomicU64,
    refused: AtomicU64,
    in_process: AtomicU64,
    unavailable: AtomicU64,
}

impl Service {
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        fallback: Arc<dyn Store>,
        policies: BTreeMap<String, Policy>,
        instances: u32,
    ) -> Self {
        Self {
            store,
            fallback,
            policies: Arc::new(policies),
            instances: instances.max(1),
            counts: Arc::default(),
        }
    }

    /// `login` (5 a minute) and `default` (100 a minute).
    #[must_use]
    pub fn first_policies() -> BTreeMap<String, Policy> {
        let a_minute = |limit| Policy {
            limit,
            period_seconds: 60,
            when_away: WhenAway::InProcess,
        };
        BTreeMap::from([
            ("default".to_owned(), a_minute(100)),
            ("login".to_owned(), a_minute(5)),
        ])
    }

    #[must_use]
    pub fn policy(&self, name: &str) -> Option<&Policy> {
        self.policies.get(name)
    }

    /// Charges `cost` (1 unless the caller says otherwise) to `key` (1–200 characters) under a policy. A
    /// cost of 0 only looks.
    pub async fn check(&self, policy: &str, key: &str, cost: u32) -> Result<Decision, Error> {
        let name = policy;
        let policy = self.policy(name).ok_or(Error::UnknownPolicy)?;
        checked(policy, key, cost).map_err(Error::Invalid)?;
        self.counts.checks.fetch_add(1, Ordering::Relaxed);
        let key = format!("{name}:{key}");
        let whole = gcra_of(policy.limit, policy)?;
        let decision = match self.store.check(&key, whole, cost).await {
            Ok(decision) => shown(decision, policy.limit),
            Err(error) if !stands_in(&error) || policy.when_away == WhenAway::Refuse => {
                self.counts.unavailable.fetch_add(1, Ordering::Relaxed);
                return Err(Error::Store(error));
            }
            Err(_away) => {
                self.counts.in_process.fetch_add(1, Ordering::Relaxed);
                let share = policy.limit.div_ceil(self.instances);
                let part = gcra_of(share, policy)?;
                // What costs more than this instance's share must still be possible.
                let decision = self.fallback.check(&key, part, cost.min(share)).await?;
                shown(decision, share)
            }
        };
        if !decision.allowed {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
        }
        Ok(decision)
    }

    /// Checks and refusals since the start, for `stats`.
    #[must_use]
    pub fn stats(&self) -> serde_json::Value {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "policies": self.policies.len(),
            "checks": count(&self.counts.checks),
            "refused": count(&self.counts.refused),
            "counted_in_process": count(&self.counts.in_process),
            "unavailable": count(&self.counts.unavailable),
        })
    }
}

/// Whether this process may count instead: the store is away, or did not say.
fn stands_in(error: &StoreError) -> bool {
    error.is_away() || matches!(error, StoreError::OutcomeUnknown { .. })
}

fn checked(policy: &Policy, key: &str, cost: u32) -> Result<(), Faults> {
    let mut faults = Faults::new();
    if key.is_empty() {
        faults.add("/key", FaultCode::TooShort, "must not be empty");
    } else if key.chars().count() > MAX_KEY_CHARS {
        let detail = format!("must have at most {MAX_KEY_CHARS} characters");
        faults.add("/key", FaultCode::TooLong, detail);
    }
    if cost > policy.limit {
        let detail = format!("can never be allowed: the limit is {}", policy.limit);
        faults.add("/cost", FaultCode::OutOfRange, detail);
    }
    faults.into_result()
}

fn gcra_of(limit: u32, policy: &Policy) -> Result<gcra::Policy, StoreError> {
    let policy = Policy {
        limit,
        ..policy.clone()
    };
    // The configuration refuses such a policy at start.
    policy
        .gcra()
        .map_err(|error| StoreError::unexpected(StoreKind::KeyValue, error))
}

fn shown(decision: gcra::Decision, limit: u32) -> Decision {
    Decision {
        allowed: decision.allowed,
        limit,
        remaining: decision.remaining,
        // Never is not to be had here: a cost above the limit was refused before.
        retry_after: whole_seconds(decision.retry_after_us.unwrap_or(decision.reset_after_us)),
        reset_after: whole_seconds(decision.reset_after_us),
    }
}

/// Rounded up, so that whoever waits as long is let through.
fn whole_seconds(micros: i64) -> u64 {
    u64::try_from(micros)
        .unwrap_or(0)
        .div_ceil(MICROS_PER_SECOND)
}
