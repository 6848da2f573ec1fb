//! How a unit of postings is committed, whoever put it together: [`batcher`](super::batcher),
//! [`lanes`](super::lanes) or an atomic batch.
//!
//! A store runs a unit again by itself as long as it certainly was not done. When the answer to its commit is
//! lost it may have been done: then it is asked once more, under the idempotency keys of its commands. What was
//! done is found under them, what was not is done now, and nothing twice. Commands without a key cannot be
//! asked for, and neither can anything be said when the second answer does not come: their outcome is unknown.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use tokio::time::Instant;

use super::{
    AtomicBatch, BatchClaim, BatchKey, BatchOutcome, Command, Error, Idempotency, Outcome, Store,
};
use crate::cache::{Cache, user_tag};
use crate::error::{StoreError, StoreKind};
use crate::faults::{self, Point};
use crate::ids::UserId;
use crate::outbox;

#[cfg(test)]
mod tests;

/// What took longer than this to be lost is not asked for: whoever waits for it, and those behind it, have no
/// time left for another try.
const ASK_WITHIN: Duration = Duration::from_secs(3);
/// When turned away, come back then.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Why a command is turned away whose account is held, where nothing more may wait for it.
pub(super) const LOCKED: &str = "another unit of work has the account locked";

/// What a unit's commit gives: a result for each command, or that none was done (or none is known).
pub(super) type Committed = Result<Vec<Result<Outcome, Error>>, StoreError>;

/// What is done about an account that another unit has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// The commands of its user [are left out](is_held), and the others done.
    LeftOut,
    WaitedFor,
}

/// Decides and commits commands as one unit.
pub(super) type Commit =
    dyn Fn(Arc<[Command]>, Held) -> BoxFuture<'static, Committed> + Send + Sync;

/// Commits to `store`, and keeps `cache` from showing what was before.
pub(super) fn to(store: Arc<dyn Store>, cache: Cache) -> Arc<Commit> {
    asking_again(Arc::new(move |commands, held| {
        let (store, cache) = (Arc::clone(&store), cache.clone());
        async move { post(&*store, &cache, &commands, held).await }.boxed()
    }))
}

/// Asks once more, under the keys, for what becomes of a unit whose outcome is unknown.
fn asking_again(commit: Arc<Commit>) -> Arc<Commit> {
    Arc::new(move |commands, held| {
        let commit = Arc::clone(&commit);
        async move {
            let begun = Instant::now();
            match commit(Arc::clone(&commands), held).await {
                Err(unknown @ StoreError::OutcomeUnknown { .. })
                    if begun.elapsed() < ASK_WITHIN =>
                {
                    ask(&*commit, &commands, unknown).await
                }
                known => known,
            }
        }
        .boxed()
    })
}

async fn ask(commit: &Commit, commands: &[Command], unknown: StoreError) -> Committed {
    let under_its_key = |command: &Command| {
        let known = command.idempotency.clone()?;
        let idempotency = Some(Idempotency {
            is_new: false,
            ..known
        });
        Some(Command {
            idempotency,
            ..command.clone()
        })
    };
    let keyed: Arc<[Command]> = commands.iter().filter_map(under_its_key).collect();
    if keyed.is_empty() {
        return Err(unknown);
    }
    // Its rows may be locked until the server notices that its client is gone: nobody else waits for that.
    let answers = match commit(keyed, Held::LeftOut).await {
        Ok(answers) => answers,
        Err(error) => {
            tracing::debug!(%error, "what became of a unit of postings is not known this time either");
            return Err(unknown);
        }
    };
    tracing::info!(reason = %unknown, "a unit of postings was asked for under its keys");
    let mut answers = answers.into_iter();
    let result = |command: &Command| {
        let answer = command.idempotency.as_ref().and_then(|_| answers.next());
        match answer {
            // Not done this time; but the first time it may have been.
            None | Some(Err(Error::Store(_))) => Err(unknown.clone().into()),
            // Done the first time is done by this request.
            Some(Ok(mut outcome)) => {
                outcome.replayed &= outcome.answer.request_id != command.context.request_id;
                Ok(outcome)
            }
            Some(refused) => refused,
        }
    };
    Ok(commands.iter().map(result).collect())
}

/// What certainly was not committed leaves cached copies as they are: they are what answers while the store
/// is away.
async fn post(store: &dyn Store, cache: &Cache, commands: &[Command], held: Held) -> Committed {
    let posting = match held {
        Held::LeftOut => store.post_what_is_free(commands),
        Held::WaitedFor => store.post(commands),
    };
    let (posted, promises) = outbox::collecting(posting).await;
    match &posted {
        Ok(_) => {
            faults::reach(Point::AfterCommit);
            cache.keep(&tags_of(commands), promises).await;
        }
        // It may be committed yet: its promise stays for those who see it then.
        Err(StoreError::OutcomeUnknown { .. }) => {
            cache.invalidate(&[], &tags_of(commands)).await;
        }
        Err(_) => {}
    }
    posted
}

/// As a unit of single commands: one whose outcome is unknown is asked for once more under its key, if it has one.
pub(super) async fn post_atomic(
    store: &dyn Store,
    cache: &Cache,
    batch: &AtomicBatch,
) -> Result<BatchOutcome, Error> {
    let begun = Instant::now();
    match post_atomic_once(store, cache, batch).await {
        Err(unknown @ Error::Store(StoreError::OutcomeUnknown { .. }))
            if batch.key.is_some() && begun.elapsed() < ASK_WITHIN =>
        {
            let mut known = post_atomic_once(store, cache, batch).await;
            if let Ok(outcome) = &mut known {
                outcome.replayed &= outcome.request_id != batch.request_id;
            }
            known.map_err(|error| match error {
                Error::Store(_) => unknown,
                certain => certain,
            })
        }
        known => known,
    }
}

async fn post_atomic_once(
    store: &dyn Store,
    cache: &Cache,
    batch: &AtomicBatch,
) -> Result<BatchOutcome, Error> {
    let (outcome, promises) = outbox::collecting(store.post_atomic(batch)).await;
    match &outcome {
        Ok(_) => {
            faults::reach(Point::AfterCommit);
            cache.keep(&tags_of(&batch.commands), promises).await;
        }
        Err(Error::Store(StoreError::OutcomeUnknown { .. })) => {
            cache.invalidate(&[], &tags_of(&batch.commands)).await;
        }
        Err(_) => {}
    }
    outcome
}

/// Claims the key of a batch that is not atomic; asks once more when it is not known whether it is claimed.
pub(super) async fn claim(
    store: &dyn Store,
    key: &BatchKey,
    request_id: &Arc<str>,
) -> Result<BatchClaim, Error> {
    let begun = Instant::now();
    match store.claim_batch(key, request_id).await {
        Err(unknown @ Error::Store(StoreError::OutcomeUnknown { .. }))
            if begun.elapsed() < ASK_WITHIN =>
        {
            match store.claim_batch(key, request_id).await {
                // Claimed by this very request: nobody else had it before.
                Ok(BatchClaim::Again { request_id: first }) if first == *request_id => {
                    Ok(BatchClaim::New)
                }
                Err(Error::Store(_)) => Err(unknown),
                known => known,
            }
        }
        known => known,
    }
}

fn tags_of(commands: &[Command]) -> Vec<String> {
    let users: BTreeSet<UserId> = commands.iter().map(|command| command.user_id).collect();
    users.into_iter().map(user_tag).collect()
}

/// Whether one of several commands may be what the store stumbles over. Certainly none was done.
pub(super) const fn is_of_one_item(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Unexpected { .. } | StoreError::Conflict { .. }
    )
}

/// Whether a command of a unit that was committed was [left out](Held::LeftOut).
pub(super) const fn is_held(result: &Result<Outcome, Error>) -> bool {
    matches!(result, Err(Error::Store(StoreError::Conflict { .. })))
}

pub(super) fn overloaded(reason: &str) -> StoreError {
    StoreError::Overloaded {
        store: StoreKind::Relational,
        reason: reason.to_owned(),
        retry_after: RETRY_AFTER,
    }
}
