//! The sweep that cancels holds which have expired.
//!
//! All due ones go together. Of those that failed, and certainly or perhaps were not done, each user's then go by
//! themselves, so that neither a damaged row nor a locked account keeps the others waiting; what fails again is
//! logged and set aside for a while, so that it does not fill the next sweep either.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt as _, stream};

use super::commit::is_of_one_item;
use super::{Action, Command, Error, Outcome, Service, SettleRequest, Settlement};
use crate::clock::Timestamp;
use crate::context::Context;
use crate::error::{StoreError, StoreKind};
use crate::ids::{TransactionId, UserId, random_bytes};

/// Expired holds that one sweep cancels.
const EXPIRY_BATCH: usize = 200;
/// Users whose holds are tried by themselves at once.
const USERS_AT_ONCE: usize = 4;
/// A hold that could not be cancelled is not tried again before.
const SET_ASIDE_FOR: Duration = Duration::from_secs(10);
/// Holds that are set aside at once, at most.
const MAX_SET_ASIDE: usize = 5_000;

type Hold = (UserId, TransactionId);

/// Holds that could not be cancelled, and until when they are left alone. Cheap to clone; all clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct SetAside(Arc<Mutex<HashMap<TransactionId, Timestamp>>>);

impl SetAside {
    /// How many there are, without those whose time has come.
    fn count(&self, now: Timestamp) -> usize {
        let mut holds = self.lock();
        holds.retain(|_, until| *until > now);
        holds.len()
    }

    fn has(&self, hold: TransactionId) -> bool {
        self.lock().contains_key(&hold)
    }

    fn add(&self, added: &[TransactionId], now: Timestamp) {
        let until = now.plus(SET_ASIDE_FOR);
        let mut holds = self.lock();
        let room = MAX_SET_ASIDE.saturating_sub(holds.len());
        holds.extend(added.iter().take(room).map(|hold| (*hold, until)));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TransactionId, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// Cancels holds that have expired, at most 200, each with an audit row; how many. Safe in any number of
    /// instances: a hold that another one cancelled first is refused here. A hold that cannot be cancelled is
    /// logged, does not keep the others, and is tried again after a while.
    ///
    /// # Errors
    /// When the store is away; what was done stays done.
    pub async fn expire_holds(&self) -> Result<u64, StoreError> {
        let now = self.clock.now();
        let most = EXPIRY_BATCH.saturating_add(self.set_aside.count(now));
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let mut due: Vec<Hold> = self.store.expired_holds(now, most).await?;
        due.retain(|(_, hold)| !self.set_aside.has(*hold));
        due.truncate(EXPIRY_BATCH);
        if due.is_empty() {
            return Ok(0);
        }
        let ctx = Arc::new(Context::system("expiry"));
        let commands = due.iter().map(|hold| self.expiring(&ctx, *hold)).collect();
        let outcomes: Vec<Option<Result<Outcome, Error>>> = match self.lanes.post(commands).await {
            Ok(outcomes) => outcomes.into_iter().map(Some).collect(),
            Err(error @ (StoreError::Unavailable { .. } | StoreError::OutcomeUnknown { .. })) => {
                return Err(error);
            }
            Err(_) => due.iter().map(|_| None).collect(),
        };
        let mut cancelled = 0;
        let mut failed: BTreeMap<UserId, Vec<TransactionId>> = BTreeMap::new();
        for ((user, hold), outcome) in due.into_iter().zip(outcomes) {
            match outcome {
                Some(Ok(outcome)) => cancelled += u64::from(outcome.answer.result.is_ok()),
                // The lanes have waited for its account already.
                Some(Err(Error::Store(error @ StoreError::Overloaded { .. }))) => {
                    put_off(user, hold, &error);
                    self.set_aside.add(&[hold], self.clock.now());
                }
                Some(Err(_)) | None => failed.entry(user).or_default().push(hold),
            }
        }
        let by_themselves = stream::iter(failed)
            .map(|(user, holds)| self.expire_one_by_one(&ctx, user, holds))
            .buffer_unordered(USERS_AT_ONCE)
            .fold(0_u64, async |sum, more| sum.saturating_add(more));
        Ok(by_themselves.await.saturating_add(cancelled))
    }

    /// How many of these holds of a user were cancelled.
    async fn expire_one_by_one(
        &self,
        ctx: &Arc<Context>,
        user: UserId,
        holds: Vec<TransactionId>,
    ) -> u64 {
        let mut cancelled = 0;
        let mut left = holds.as_slice();
        while let Some((hold, rest)) = left.split_first() {
            match self.expire_one(ctx, (user, *hold)).await {
                Ok(outcome) => cancelled += u64::from(outcome.answer.result.is_ok()),
                Err(error) => {
                    put_off(user, *hold, &error);
                    let of_this_one =
                        matches!(&error, Error::Store(error) if is_of_one_item(error));
                    if !of_this_one {
                        // What kept it keeps the user's others too: a lock, or that the store is away.
                        self.set_aside.add(left, self.clock.now());
                        break;
                    }
                    self.set_aside.add(&[*hold], self.clock.now());
                }
            }
            left = rest;
        }
        cancelled
    }

    async fn expire_one(&self, ctx: &Arc<Context>, hold: Hold) -> Result<Outcome, Error> {
        let outcomes = self.lanes.post(vec![self.expiring(ctx, hold)]).await?;
        outcomes.into_iter().next().unwrap_or_else(|| {
            Err(StoreError::unexpected(StoreKind::Relational, "no outcome").into())
        })
    }

    fn expiring(&self, ctx: &Arc<Context>, (user_id, transaction_id): Hold) -> Command {
        let details = SettleRequest {
            reason: Some("expired".to_owned()),
            ..SettleRequest::default()
        };
        let action = Action::Settle {
            transaction_id,
            to: Settlement::Cancel,
            details: Box::new(details),
            only_unsubmitted: true,
            salt: random_bytes(),
        };
        self.command(ctx, user_id, action, None)
    }
}

fn put_off(user: UserId, hold: TransactionId, error: &(impl std::fmt::Display + ?Sized)) {
    tracing::warn!(
        user_id = %user, transaction_id = %hold, %error,
        "a hold that has expired could not be cancelled; it is tried again"
    );
}
