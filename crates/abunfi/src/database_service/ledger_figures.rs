//! Whether the proof is made and the sweeps keep up, for statistics and metrics.

use std::future::Future;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::{DatabaseService, days, or_error};
use crate::audit::Standing;
use crate::clock::Timestamp;
use crate::error::{StoreError, StoreKind};
use crate::ledger::{Backlog, Due};

/// Rows are counted so far: beyond it the age says how bad it is, and asking stays cheap.
const COUNTED_AT_MOST: u32 = 10_000;
/// Some of it is asked on connections that long exports share. Half of what a scrape of the metrics waits for all
/// figures.
const FIGURES_DEADLINE: Duration = Duration::from_secs(1);

impl DatabaseService {
    /// The section `ledger`. What the store does not tell in time has an error in its place.
    pub(super) async fn ledger_figures(&self) -> Value {
        let inner = &self.inner;
        let retention = days(inner.config.idempotency_retention_days);
        let (standing, backlog) = tokio::join!(
            in_time(inner.audit.standing(COUNTED_AT_MOST)),
            in_time(inner.ledger.backlog(retention, COUNTED_AT_MOST)),
        );
        let now = inner.clock.now();
        let checkpoint = or_error(standing.map(|standing| checkpoint_figures(&standing, now)));
        let (holds, keys) = match backlog {
            Ok(Backlog {
                overdue_holds,
                old_keys,
            }) => (
                json!({
                    "overdue": overdue_holds.count,
                    "oldest_overdue_seconds": age_seconds(&overdue_holds, now),
                }),
                json!({
                    "past_retention": old_keys.count,
                    "oldest_past_retention_seconds": age_seconds(&old_keys, now.minus(retention)),
                }),
            ),
            Err(error) => {
                let error = or_error(Err(error));
                (error.clone(), error)
            }
        };
        json!({
            "waiting": inner.ledger.waiting(),
            "checkpoint": checkpoint,
            "holds": holds,
            "idempotency_keys": keys,
        })
    }
}

/// Without any checkpoint its number is 0.
fn checkpoint_figures(standing: &Standing, now: Timestamp) -> Value {
    let newest = standing.newest.as_ref();
    json!({
        "number": newest.map_or(0, |newest| newest.number),
        "at": newest.map(|newest| newest.at),
        "age_seconds": newest.map(|newest| now.since(newest.at).as_secs()),
        "signed": newest.is_some_and(|newest| newest.seal.is_some()),
        "rows_waiting": standing.rows_waiting,
    })
}

/// For how long the oldest has been due; 0: none is.
fn age_seconds(due: &Due, since: Timestamp) -> u64 {
    due.oldest.map_or(0, |oldest| since.since(oldest).as_secs())
}

async fn in_time<T>(figures: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(FIGURES_DEADLINE, figures)
        .await
        .unwrap_or_else(|_elapsed| {
            let late = "figures of the ledger took too long";
            Err(StoreError::unavailable(StoreKind::Relational, late))
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn figures_that_do_not_come_are_an_error_in_time() {
        let begun = tokio::time::Instant::now();
        let never = std::future::pending::<Result<(), StoreError>>();
        let error = in_time(never).await.unwrap_err();
        assert!(error.is_away(), "{error:?}");
        assert_eq!(begun.elapsed(), FIGURES_DEADLINE);
        assert!(or_error(Err(error))["error"].is_string());
    }
}
