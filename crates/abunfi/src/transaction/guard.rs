//! Between BEGIN and COMMIT nothing else is waited for: no other store, no second connection.
//!
//! Under load a second connection taken inside an open transaction hangs everything as soon as all
//! connections are held by transactions that wait for one. So it is an error at once, at any load.

use std::future::Future;

use crate::error::{StoreError, StoreKind};

tokio::task_local! {
    static INSIDE: ();
}

/// Runs `body` marked as inside a relational transaction.
pub async fn inside<F: Future>(body: F) -> F::Output {
    INSIDE.scope((), body).await
}

/// Called by every adapter before it takes a connection or talks to its server.
///
/// # Errors
/// [`StoreError::InsideTransaction`] when the current task is inside [`inside`].
pub fn outside(store: StoreKind) -> Result<(), StoreError> {
    match INSIDE.try_with(|()| ()) {
        Ok(()) => Err(StoreError::InsideTransaction { store }),
        Err(_not_inside) => Ok(()),
    }
}
