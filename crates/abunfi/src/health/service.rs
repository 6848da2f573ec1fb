//! Probes in the background, and statistics on request.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{DatabaseHealth, DatabaseStatus, Databases, Health, Overall, Probe};
use crate::error::{StoreError, StoreKind};

/// How often the stores are probed.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// How long a probe may take: whoever asks for health then has an answer of the last few seconds.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);
/// A round trip as long as this is slow: a store nearby answers in a few milliseconds.
const SLOW_AFTER: Duration = Duration::from_millis(250);
/// How long the statistics of a store may take: some are summed up over tables.
const STATISTICS_DEADLINE: Duration = Duration::from_secs(5);

/// What `stats` and `get_stats()` show. A store that is away has its error there, and the rest is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    pub postgres: Value,
    pub mongodb: Value,
    pub redis: Value,
    pub cache: Value,
    pub sessions: Value,
    pub rate_limits: Value,
    pub ledger: Value,
    pub outbox: Value,
}

#[derive(Debug, Clone)]
pub struct Service {
    probes: Arc<Vec<Arc<dyn Probe>>>,
    last: Arc<RwLock<Health>>,
}

impl Service {
    /// One probe for each store: relational, documents, key-value. Until the first
    /// [`probe_now`](Self::probe_now) or round of [`run`](Self::run), each counts as disconnected.
    #[must_use]
    pub fn new(probes: Vec<Arc<dyn Probe>>) -> Self {
        let unknown = |kind| match find(&probes, kind) {
            Some(probe) => disconnected(probe.backend(), "not probed yet"),
            None => disconnected("none", "there is no such store"),
        };
        let last = overall(Databases {
            postgresql: unknown(StoreKind::Relational),
            mongodb: unknown(StoreKind::Documents),
            redis: unknown(StoreKind::KeyValue),
        });
        Self {
            probes: Arc::new(probes),
            last: Arc::new(RwLock::new(last)),
        }
    }

    /// Probes every store every two seconds until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let before = self.health();
            let after = self.probe_now().await;
            if before.status != after.status {
                tracing::warn!(from = %before.status, to = %after.status, "health has changed");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PROBE_EVERY) => {}
            }
        }
    }

    /// Probes all stores now, side by side, each within its deadline.
    pub async fn probe_now(&self) -> Health {
        let found = join_all(self.probes.iter().map(|probe| probe_one(&**probe))).await;
        let mut databases = self.health().databases;
        for (kind, health) in found {
            match kind {
                StoreKind::Relational => databases.postgresql = health,
                StoreKind::Documents => databases.mongodb = health,
                StoreKind::KeyValue => databases.redis = health,
            }
        }
        let health = overall(databases);
        let mut last = self.last.write().unwrap_or_else(PoisonError::into_inner);
        last.clone_from(&health);
        health
    }

    /// What the last probes found; never waits.
    #[must_use]
    pub fn health(&self) -> Health {
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }

    /// The statistics of one store, or `{"backend": …, "error": …}`.
    pub async fn statistics(&self, store: StoreKind) -> Value {
        let Some(probe) = find(&self.probes, store) else {
            return json!({"backend": null, "error": "there is no such store"});
        };
        match tokio::time::timeout(STATISTICS_DEADLINE, probe.statistics()).await {
            Ok(Ok(statistics)) => statistics,
            Ok(Err(error)) => json!({"backend": probe.backend(), "error": public(&error)}),
            Err(_elapsed) => json!({"backend": probe.backend(), "error": NO_ANSWER}),
        }
    }
}

const NO_ANSWER: &str = "no answer in time";

fn find(probes: &[Arc<dyn Probe>], kind: StoreKind) -> Option<&Arc<dyn Probe>> {
    probes.iter().find(|probe| probe.kind() == kind)
}

async fn probe_one(probe: &dyn Probe) -> (StoreKind, DatabaseHealth) {
    let began = Instant::now();
    let answer = tokio::time::timeout(PROBE_DEADLINE, probe.ping()).await;
    let took = began.elapsed();
    let health = match answer {
        Ok(Ok(())) => {
            let slow = took > SLOW_AFTER;
            DatabaseHealth {
                status: match slow {
                    true => DatabaseStatus::Degraded,
                    false => DatabaseStatus::Connected,
                },
                backend: probe.backend().to_owned(),
                latency_ms: Some(millis(took)),
                error: slow.then(|| "it answers slowly".to_owned()),
            }
        }
        // It is there, and says itself that it cannot do more.
        Ok(Err(error @ StoreError::Overloaded { .. })) => DatabaseHealth {
            status: DatabaseStatus::Degraded,
            backend: probe.backend().to_owned(),
            latency_ms: Some(millis(took)),
            error: Some(public(&error).to_owned()),
        },
        Ok(Err(error)) => {
            tracing::debug!(store = %probe.kind(), %error, "a probe failed");
            disconnected(probe.backend(), public(&error))
        }
        Err(_elapsed) => disconnected(probe.backend(), NO_ANSWER),
    };
    (probe.kind(), health)
}

fn disconnected(backend: &str, error: &str) -> DatabaseHealth {
    DatabaseHealth {
        status: DatabaseStatus::Disconnected,
        backend: backend.to_owned(),
        latency_ms: None,
        error: Some(error.to_owned()),
    }
}

/// What may be said to anyone: never the store's own text, which may hold an address.
fn public(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable { .. } => "it cannot be reached",
        StoreError::OutcomeUnknown { .. } => NO_ANSWER,
        StoreError::Overloaded { .. } => "it is overloaded",
        StoreError::Conflict { .. }
        | StoreError::InsideTransaction { .. }
        | StoreError::Unexpected { .. } => "it answered something unexpected",
    }
}

fn overall(databases: Databases) -> Health {
    let all = [
        databases.postgresql.status,
        databases.mongodb.status,
        databases.redis.status,
    ];
    let status = if databases.postgresql.status == DatabaseStatus::Disconnected {
        Overall::Down
    } else if all.iter().all(|s| *s == DatabaseStatus::Connected) {
        Overall::Ok
    } else {
        Overall::Degraded
    };
    Health { status, databases }
}

/// With three decimals: a figure for people, made without arithmetic on floats.
fn millis(took: Duration) -> f64 {
    let micros = took.as_micros();
    format!("{}.{:03}", micros / 1_000, micros % 1_000)
        .parse()
        .unwrap_or(f64::MAX)
}
