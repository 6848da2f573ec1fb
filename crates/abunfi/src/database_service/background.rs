//! What the platform does by itself. Each task is bounded, runs in any number of instances at once, and goes
//! on after any failure.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::DatabaseService;
use crate::audit::Checkpointed;
use crate::error::StoreError;
use crate::ids::random_bytes;

/// How often revocations are read: half of the second within which they hold everywhere.
const REVOCATIONS_EVERY: Duration = Duration::from_millis(500);
/// How late a hold may expire.
const EXPIRY_EVERY: Duration = Duration::from_secs(1);
/// How often it is asked whether a checkpoint is due; and so, how much later than its time it may be.
const CHECKPOINT_LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often what has run out is deleted. Reads hide it at once, so this only bounds the space.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// How long one purge of idempotency keys goes on while more are due. Resting half of that time it still deletes
/// many times what can be posted meanwhile.
const PURGE_WITHIN: Duration = Duration::from_secs(20);

impl DatabaseService {
    /// Starts every task; all end when `stop` is cancelled.
    pub(super) fn start_background(&self) {
        let inner = &self.inner;
        let stop = &inner.stop;
        inner
            .background
            .spawn(inner.health.clone().run(stop.clone()));
        for relay in inner.document_relay.iter().cloned() {
            inner.background.spawn(relay.run(stop.clone()));
        }
        for relay in inner.outbox_relay.iter().cloned() {
            inner.background.spawn(relay.run(stop.clone()));
        }
        for watch in inner.outbox_watch.iter().cloned() {
            inner.background.spawn(watch.run(stop.clone()));
        }
        let sessions = inner.sessions.clone();
        self.every(REVOCATIONS_EVERY, "revocations", move || {
            let sessions = sessions.clone();
            async move { sessions.refresh_revocations().await }
        });
        let ledger = inner.ledger.clone();
        self.every(EXPIRY_EVERY, "expiry of holds", move || {
            let ledger = ledger.clone();
            async move { ledger.expire_holds().await.map(drop) }
        });
        self.make_checkpoints();
        self.purge_idempotency();
        let (sessions, documents) = (inner.sessions.clone(), inner.documents.clone());
        self.every(SWEEP_EVERY, "sweep", move || {
            let (sessions, documents) = (sessions.clone(), documents.clone());
            async move {
                sessions.sweep().await?;
                documents.sweep().await?;
                Ok(())
            }
        });
    }

    /// By itself, since a backlog takes a while and the other sweeps do not wait for it.
    fn purge_idempotency(&self) {
        let inner = &self.inner;
        let (ledger, stop) = (inner.ledger.clone(), inner.stop.clone());
        let retention =
            Duration::from_secs(u64::from(inner.config.idempotency_retention_days) * 24 * 3_600);
        self.every(SWEEP_EVERY, "purge of idempotency keys", move || {
            let (ledger, stop) = (ledger.clone(), stop.clone());
            async move {
                let purged = ledger.purge_idempotency(retention, PURGE_WITHIN, &stop);
                purged.await.map(drop)
            }
        });
    }

    /// Checkpoints of the audit trail, unless they are switched off.
    fn make_checkpoints(&self) {
        let config = &self.inner.config.audit;
        if config.checkpoint_minutes == 0 {
            return;
        }
        let interval = Duration::from_secs(u64::from(config.checkpoint_minutes) * 60);
        let (audit, rows) = (self.inner.audit.clone(), config.checkpoint_rows);
        if audit.public_key().is_none() {
            tracing::warn!(
                "there is no key for checkpoints of the audit trail: they are not signed and, once one is, not \
                 made; `abunfi audit keygen` makes a key for AUDIT_SIGNING_KEY"
            );
        }
        let was_said = Arc::new(AtomicBool::new(false));
        self.every(CHECKPOINT_LOOK_EVERY, "checkpoints", move || {
            let (audit, was_said) = (audit.clone(), was_said.clone());
            async move {
                let done = audit.checkpoint_if_due(interval, rows).await?;
                if let Some(newest) = signed_without_us(&done, &was_said) {
                    tracing::warn!(
                        newest,
                        "no checkpoint of the audit trail is made: the newest one is signed, and there is no \
                         key here; set AUDIT_SIGNING_KEY or AUDIT_SIGNING_KEY_FILE"
                    );
                }
                Ok(())
            }
        });
    }

    fn every<F, W>(&self, period: Duration, name: &'static str, work: F)
    where
        F: Fn() -> W + Send + 'static,
        W: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        self.inner
            .background
            .spawn(repeat(self.inner.stop.clone(), period, name, work));
    }
}

/// Runs `work` every `period`, give or take a tenth so that instances do not move in step, until `stop`.
/// A failure is said once, when it begins, and when it ends.
async fn repeat<F, W>(stop: CancellationToken, period: Duration, name: &'static str, work: F)
where
    F: Fn() -> W + Send,
    W: Future<Output = Result<(), StoreError>> + Send,
{
    let mut failing = false;
    while stop
        .run_until_cancelled(tokio::time::sleep(jittered(period)))
        .await
        .is_some()
    {
        match work().await {
            Ok(()) if failing => {
                failing = false;
                tracing::info!(task = name, "background work goes on");
            }
            Ok(()) => {}
            Err(error) if failing => {
                tracing::debug!(task = name, %error, "background work still fails")
            }
            Err(error) => {
                failing = true;
                tracing::warn!(task = name, %error, "background work fails; it is tried again");
            }
        }
    }
}

/// The newest checkpoint, if it is signed and none can be made here: the first time only.
fn signed_without_us(done: &Checkpointed, was_said: &AtomicBool) -> Option<i64> {
    match done {
        Checkpointed::NeedsKey { newest } if !was_said.swap(true, Ordering::Relaxed) => {
            Some(*newest)
        }
        _ => None,
    }
}

fn jittered(period: Duration) -> Duration {
    let [byte] = random_bytes();
    period.saturating_mul(90 + u32::from(byte) % 21) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_key_is_missing_is_said_once() {
        let was_said = AtomicBool::new(false);
        let say = |done: &Checkpointed| signed_without_us(done, &was_said);
        assert_eq!(say(&Checkpointed::Nothing), None);
        assert_eq!(say(&Checkpointed::NeedsKey { newest: 7 }), Some(7));
        for newest in [7, 8] {
            assert_eq!(say(&Checkpointed::NeedsKey { newest }), None);
        }
    }
}
