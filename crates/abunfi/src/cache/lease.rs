//! The right to fill a key in L2.

use std::sync::Arc;
use std::time::Duration;

use super::{LeaseToken, Store, Stored};

/// The right to fill a key in L2. Given back when it is dropped unused: by a failing load, or by a caller
/// who went away.
pub(super) struct Lease {
    /// `None` once it is used.
    l2: Option<Arc<dyn Store>>,
    key: String,
    token: LeaseToken,
}

impl Lease {
    pub(super) fn new(l2: &Arc<dyn Store>, key: &str, token: LeaseToken) -> Self {
        Self {
            l2: Some(Arc::clone(l2)),
            key: key.to_owned(),
            token,
        }
    }

    /// Whether L2 answered; it may have refused what was invalidated meanwhile.
    pub(super) async fn fill(mut self, stored: Stored, keep: Duration) -> bool {
        let Some(l2) = self.l2.take() else {
            return false;
        };
        let filled = l2.fill(&self.key, self.token, &stored, keep).await;
        filled.is_ok()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (Some(l2), Ok(runtime)) = (self.l2.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let (key, token) = (std::mem::take(&mut self.key), self.token);
        runtime.spawn(async move {
            if let Err(error) = l2.release(&key, token).await {
                tracing::debug!(%error, "a lease runs out instead of being given back");
            }
        });
    }
}
