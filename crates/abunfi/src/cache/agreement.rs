//! The tasks that keep L1 and L2 in agreement. They end with the cache.

use std::sync::Weak;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::service::Inner;
use super::{Notice, Store};
use crate::error::StoreError;

/// How often L2 is tried again while it has not been told everything.
const DELIVERY_INTERVAL: Duration = Duration::from_millis(250);

/// Hears what other instances invalidate.
pub(super) async fn listen(cache: Weak<Inner>, mut notices: Receiver<Notice>) {
    loop {
        let notice = notices.recv().await;
        let Some(inner) = cache.upgrade() else { return };
        match notice {
            Ok(Notice::Invalidated { keys, tags }) => inner.void(&keys, &tags),
            Ok(Notice::Lost) | Err(RecvError::Lagged(_)) => inner.doubt_everything(),
            Err(RecvError::Closed) => {
                inner.doubt_everything();
                return;
            }
        }
    }
}

/// Tells L2 what it could not be told, as soon as it can be.
pub(super) async fn deliver(cache: Weak<Inner>) {
    while let Some(inner) = cache.upgrade() {
        let Some(l2) = inner.l2.as_deref() else {
            return;
        };
        if let Err(error) = deliver_all(&inner, l2).await {
            tracing::debug!(%error, "L2 has not been told every invalidation yet");
        }
        drop(inner);
        tokio::time::sleep(DELIVERY_INTERVAL).await;
    }
}

async fn deliver_all(inner: &Inner, l2: &dyn Store) -> Result<(), StoreError> {
    if let Some(overflow) = inner.undelivered.overflow() {
        l2.flush().await?;
        inner.undelivered.settle_overflow(overflow);
    }
    while let Some(batch) = inner.undelivered.batch() {
        l2.invalidate(&batch.keys, &batch.tags).await?;
        inner.undelivered.settle(batch);
    }
    Ok(())
}
