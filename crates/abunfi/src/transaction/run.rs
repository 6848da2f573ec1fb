//! Runs a body in a transaction: repeat on conflict, roll back on error, panic or drop.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;

use super::{Body, Store, guard};
use crate::error::{Error, StoreError};
use crate::ids::random_bytes;

/// How often a body is run at most: by then the conflict of a hot row is over, or will never be.
const MAX_ATTEMPTS: u32 = 8;
/// The longest first pause before a repeat; it doubles each time.
const FIRST_PAUSE_MICROS: u64 = 4_000;

/// Runs `body` and commits; gives its value and the cache tags to invalidate now.
///
/// A conflict (serialization failure, deadlock), in the body or in the commit, is rolled back and run
/// again after a jittered pause; nothing is repeated once a commit was sent and its answer lost.
///
/// # Errors
/// The body's error, after rolling back; [`StoreError::OutcomeUnknown`] when the commit's answer was
/// lost; else what the store said, and nothing was done.
///
/// # Panics
/// Passes a panic of the body on, after rolling back.
pub async fn execute<T>(store: &dyn Store, body: impl Body<T>) -> Result<(T, Vec<String>), Error> {
    execute_noting(store, body, &mut Vec::new()).await
}

/// The same. `unknown` gets the tags of what is perhaps committed, when the commit's answer was lost: a cache
/// must not go on showing what was there before.
///
/// # Errors
/// As [`execute`].
///
/// # Panics
/// As [`execute`].
pub async fn execute_noting<T>(
    store: &dyn Store,
    mut body: impl Body<T>,
    unknown: &mut Vec<String>,
) -> Result<(T, Vec<String>), Error> {
    let mut attempt = 1;
    loop {
        match attempt_once(store, &mut body, unknown).await {
            Err(error) if attempt < MAX_ATTEMPTS && is_conflict(&error) => {
                tokio::time::sleep(pause(attempt)).await;
                attempt += 1;
            }
            result => return result,
        }
    }
}

async fn attempt_once<T>(
    store: &dyn Store,
    body: &mut impl Body<T>,
    unknown: &mut Vec<String>,
) -> Result<(T, Vec<String>), Error> {
    let mut transaction = store.begin().await?;
    let ran = AssertUnwindSafe(guard::inside(body(transaction.as_mut())))
        .catch_unwind()
        .await;
    match ran {
        Ok(Ok(value)) => {
            let tags = transaction.tags();
            match transaction.commit().await {
                Ok(tags) => Ok((value, tags)),
                Err(error) => {
                    if matches!(error, StoreError::OutcomeUnknown { .. }) {
                        *unknown = tags;
                    }
                    Err(error.into())
                }
            }
        }
        Ok(Err(error)) => {
            // The body's error says more than a failing rollback, which the dropped connection does anyway.
            if let Err(rollback) = transaction.rollback().await {
                tracing::debug!(error = %rollback, "rollback failed; the connection is closed instead");
            }
            Err(error)
        }
        Err(panic) => {
            drop(transaction);
            std::panic::resume_unwind(panic)
        }
    }
}

fn is_conflict(error: &Error) -> bool {
    matches!(error.store_error(), Some(StoreError::Conflict { .. }))
}

/// A random part of a bound that doubles with each attempt, so that those who met do not meet again.
fn pause(attempt: u32) -> Duration {
    let bound = FIRST_PAUSE_MICROS << attempt.min(8);
    Duration::from_micros(u64::from_le_bytes(random_bytes()) % bound)
}
