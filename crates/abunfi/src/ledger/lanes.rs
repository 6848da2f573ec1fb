//! A batch that is not atomic: its items go in lanes side by side, part by part.
//!
//! Committed one part after the other, a batch waits for the disk most of the time. So its items are spread over
//! as many lanes as there may be commits in flight: while one lane's part is flushed, another's is made. A user's
//! items are all in one lane, so that they keep their order and no lane waits for another's rows.
//!
//! Invariant: a part is one unit with each item's own part of the key, so that whatever a crash or an error leaves
//! out, the retry of the batch does, and nothing twice.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::batcher::{Commit, is_of_one_item, overloaded};
use super::{Command, Error, Outcome};
use crate::error::{StoreError, StoreKind};
use crate::faults::{self, Point};

/// Items of one lane that are committed together: a crash loses at most this many of each lane, which the retry
/// then does. More than the batcher's, since here one caller waits for all of them, and each commit is a wait for
/// the disk. (2 cores, `cargo xtask bench ledger`, row 3 and 7: 600 items take 50 ms on PostgreSQL, and no more than
/// 140 ms on SQLite, whose other writers wait for so long.)
pub const COMMIT_CHUNK: usize = 600;
/// Parts of one lane in flight, of all batches together: large batches leave connections to the others.
const PARTS_IN_FLIGHT: usize = 2;
/// A part that waited this long for its turn is turned away undone.
const MAX_WAIT: Duration = Duration::from_secs(5);

type Outcomes = Vec<Result<Outcome, Error>>;

/// Cheap to clone; all clones share the turns.
#[derive(Clone)]
pub(super) struct Lanes {
    commit: Arc<Commit>,
    turns: Arc<[Semaphore]>,
    hasher: RandomState,
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lanes")
            .field("lanes", &self.turns.len())
            .finish_non_exhaustive()
    }
}

/// What became of a lane's items, from the first on.
struct Posted {
    outcomes: Outcomes,
    stopped: Option<Stopped>,
}

/// Why a lane did not go on.
struct Stopped {
    error: StoreError,
    /// How many items the error is of. Those after them were not tried.
    items: usize,
}

impl Lanes {
    /// At least one lane.
    pub(super) fn new(lanes: usize, commit: Arc<Commit>) -> Self {
        Self {
            commit,
            turns: (0..lanes.max(1))
                .map(|_| Semaphore::new(PARTS_IN_FLIGHT))
                .collect(),
            hasher: RandomState::new(),
        }
    }

    /// What became of each command, in their order; what is `Ok` is durable. A lane stops at a part that fails:
    /// its items, and those after it in its lane, are errors, and the other lanes go on.
    ///
    /// # Errors
    /// When no lane has done anything, why; when one of several outcomes is unknown, that.
    pub(super) async fn post(&self, commands: Vec<Command>) -> Result<Outcomes, StoreError> {
        let mut outcomes: Vec<_> = commands.iter().map(|_| None).collect();
        let mut lanes: BTreeMap<usize, (Vec<usize>, Vec<Command>)> = BTreeMap::new();
        for (place, command) in commands.into_iter().enumerate() {
            let (places, commands) = lanes.entry(self.lane_of(&command)).or_default();
            places.push(place);
            commands.push(command);
        }
        let lanes = join_all(lanes.into_iter().map(async |(lane, (places, commands))| {
            (places, self.post_lane(lane, commands).await)
        }))
        .await;
        if lanes.iter().all(|(_, lane)| lane.outcomes.is_empty()) {
            let errors = lanes.iter().filter_map(|(_, lane)| lane.stopped.as_ref());
            let is_unknown =
                |error: &&StoreError| matches!(error, StoreError::OutcomeUnknown { .. });
            if let Some(error) = errors.map(|stopped| &stopped.error).max_by_key(is_unknown) {
                return Err(error.clone());
            }
        }
        for (places, lane) in lanes {
            for (place, outcome) in places.into_iter().zip(lane.all()) {
                if let Some(slot) = outcomes.get_mut(place) {
                    *slot = Some(outcome);
                }
            }
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    fn lane_of(&self, command: &Command) -> usize {
        let lanes = u64::try_from(self.turns.len()).unwrap_or(1);
        usize::try_from(self.hasher.hash_one(command.user_id) % lanes).unwrap_or(0)
    }

    async fn post_lane(&self, lane: usize, commands: Vec<Command>) -> Posted {
        let mut posted = Posted {
            outcomes: Vec::with_capacity(commands.len()),
            stopped: None,
        };
        let mut todo: VecDeque<Arc<[Command]>> =
            commands.chunks(COMMIT_CHUNK).map(Arc::from).collect();
        while let Some(part) = todo.pop_front() {
            match self.commit(lane, Arc::clone(&part)).await {
                Ok(outcomes) => posted.outcomes.extend(outcomes),
                Err(error) if !is_of_one_item(&error) => {
                    let items = part.len();
                    posted.stopped = Some(Stopped { error, items });
                    break;
                }
                // Halved until the item that the store stumbles over stands alone.
                Err(error) if part.len() == 1 => posted.outcomes.push(Err(error.into())),
                Err(_) => {
                    let (before, after) = part.split_at(part.len() / 2);
                    todo.push_front(after.into());
                    todo.push_front(before.into());
                }
            }
        }
        posted
    }

    async fn commit(&self, lane: usize, part: Arc<[Command]>) -> Result<Outcomes, StoreError> {
        let turns = self.turns.get(lane);
        let turn = match turns {
            Some(turns) => timeout(MAX_WAIT, turns.acquire()).await,
            None => return Err(overloaded("no lane serves the account")),
        };
        let Ok(Ok(_turn)) = turn else {
            return Err(overloaded("too many batches wait"));
        };
        faults::reach(Point::BetweenChunks);
        (self.commit)(part).await
    }
}

impl Posted {
    /// With an error for each item that was not done.
    fn all(self) -> impl Iterator<Item = Result<Outcome, Error>> {
        let Self { outcomes, stopped } = self;
        let undone = stopped.into_iter().flat_map(|Stopped { error, items }| {
            let after = not_tried(&error);
            std::iter::repeat_n(error, items).chain(std::iter::repeat(after))
        });
        outcomes
            .into_iter()
            .chain(undone.map(|error| Err(error.into())))
    }
}

/// What to say of the items after a part that failed: certainly not done.
fn not_tried(error: &StoreError) -> StoreError {
    match error {
        StoreError::OutcomeUnknown { .. } => StoreError::unavailable(
            StoreKind::Relational,
            "not tried, since it is not known what became of the items before it",
        ),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::FutureExt;

    use super::*;
    use crate::clock::Timestamp;
    use crate::context::Actor;
    use crate::ids::{TransactionId, UserId};
    use crate::ledger::{Action, Refusal, StoredAnswer};

    fn command(user: u128, item: usize) -> Command {
        Command {
            user_id: UserId(uuid::Uuid::from_u128(user)),
            actor: Actor::system("test"),
            request_id: item.to_string(),
            trace_id: None,
            idempotency: None,
            at: Timestamp::EPOCH,
            salt: [0; 32],
            action: Action::Submit {
                transaction_id: TransactionId(uuid::Uuid::nil()),
                tx_hash: None,
            },
        }
    }

    /// `items` commands of `users` in turn.
    fn commands(items: usize, users: u128) -> Vec<Command> {
        (0..items)
            .zip((0..users).cycle())
            .map(|(item, user)| command(user, item))
            .collect()
    }

    type Parts = Arc<Mutex<Vec<Vec<usize>>>>;

    fn item(command: &Command) -> usize {
        command.request_id.parse().unwrap()
    }

    /// Lanes over a store that does what `says` lets it; and the parts that it did.
    fn lanes(
        count: usize,
        says: impl Fn(&[Command]) -> Result<(), StoreError> + Send + Sync + 'static,
    ) -> (Lanes, Parts) {
        let parts = Parts::default();
        let done = Arc::clone(&parts);
        let commit: Arc<Commit> = Arc::new(move |commands: Arc<[Command]>| {
            let outcome = says(&commands).map(|()| {
                let items = commands.iter().map(item).collect();
                done.lock().unwrap().push(items);
                let outcomes = commands.iter().map(|command| {
                    let answer = StoredAnswer {
                        request_id: command.request_id.clone(),
                        result: Err(Refusal::TransactionNotFound),
                    };
                    let replayed = false;
                    Ok(Outcome { answer, replayed })
                });
                outcomes.collect()
            });
            async move { outcome }.boxed()
        });
        (Lanes::new(count, commit), parts)
    }

    fn away() -> StoreError {
        StoreError::unavailable(StoreKind::Relational, "away")
    }

    fn unknown() -> StoreError {
        StoreError::OutcomeUnknown {
            store: StoreKind::Relational,
            reason: "lost".to_owned(),
        }
    }

    /// What is done shows the request that it was: its number.
    fn is_done(outcomes: &Outcomes, item: usize) -> bool {
        match &outcomes[item] {
            Ok(outcome) => {
                assert_eq!(outcome.answer.request_id, item.to_string(), "in its place");
                true
            }
            Err(_) => false,
        }
    }

    #[tokio::test]
    async fn every_item_is_answered_in_its_place_and_a_users_keep_their_order() {
        let (lanes, parts) = lanes(4, |_| Ok(()));
        let outcomes = lanes.post(commands(1_000, 50)).await.unwrap();
        assert_eq!(outcomes.len(), 1_000);
        assert!((0..1_000).all(|item| is_done(&outcomes, item)));
        let parts = parts.lock().unwrap();
        assert!(parts.len() > 1, "50 users are in several lanes");
        for part in parts.iter() {
            assert!(part.is_sorted(), "in the order of the batch");
        }
        for user in 0..50 {
            let of_user = |part: &&Vec<usize>| part.iter().any(|item| item % 50 == user);
            assert_eq!(parts.iter().filter(of_user).count(), 1, "user {user}");
        }
    }

    #[tokio::test]
    async fn a_lane_that_fails_leaves_the_others_alone() {
        let (lanes, _parts) = lanes(4, |commands| {
            let is_hit = commands.iter().any(|command| item(command) % 50 == 7);
            if is_hit { Err(away()) } else { Ok(()) }
        });
        let outcomes = lanes.post(commands(1_000, 50)).await.unwrap();
        assert_eq!(outcomes.len(), 1_000);
        let lane_of = |item: usize| lanes.lane_of(&command(u128::try_from(item % 50).unwrap(), 0));
        for item in 0..1_000 {
            let is_hit = lane_of(item) == lane_of(7);
            assert_eq!(is_done(&outcomes, item), !is_hit, "{item}");
        }
    }

    #[tokio::test]
    async fn when_nothing_was_done_the_error_is_of_the_whole_and_the_unknown_one_counts() {
        let (lanes, _parts) = lanes(4, |commands| {
            let is_hit = commands.iter().any(|command| item(command) % 50 == 7);
            Err(if is_hit { unknown() } else { away() })
        });
        let error = lanes.post(commands(1_000, 50)).await.unwrap_err();
        assert!(matches!(error, StoreError::OutcomeUnknown { .. }));
    }

    #[tokio::test]
    async fn what_comes_after_an_unknown_part_is_certainly_not_done() {
        let (lanes, parts) = lanes(1, |commands| {
            let is_second = commands.iter().any(|command| item(command) == COMMIT_CHUNK);
            if is_second { Err(unknown()) } else { Ok(()) }
        });
        let all = 2 * COMMIT_CHUNK + 5;
        let outcomes = lanes.post(commands(all, 3)).await.unwrap();
        assert_eq!(parts.lock().unwrap().len(), 1, "the third is not tried");
        for (place, outcome) in outcomes.iter().enumerate() {
            let is_expected = match outcome {
                Ok(_) => place < COMMIT_CHUNK,
                Err(Error::Store(StoreError::OutcomeUnknown { .. })) => {
                    (COMMIT_CHUNK..2 * COMMIT_CHUNK).contains(&place)
                }
                Err(Error::Store(StoreError::Unavailable { .. })) => place >= 2 * COMMIT_CHUNK,
                Err(_) => false,
            };
            assert!(is_expected, "{place}: {outcome:?}");
        }
        assert_eq!(outcomes.len(), all);
    }

    #[tokio::test]
    async fn an_item_that_the_store_stumbles_over_fails_alone() {
        let (lanes, _parts) = lanes(2, |commands| {
            let is_hit = commands.iter().any(|command| item(command) == 77);
            let error = StoreError::unexpected(StoreKind::Relational, "numeric overflow");
            if is_hit { Err(error) } else { Ok(()) }
        });
        let outcomes = lanes.post(commands(1_000, 20)).await.unwrap();
        let undone: Vec<usize> = (0..1_000)
            .filter(|item| !is_done(&outcomes, *item))
            .collect();
        assert_eq!(undone, [77]);
    }

    #[tokio::test]
    async fn large_batches_take_turns() {
        let (lanes, _parts) = lanes(1, |_| Ok(()));
        let held = lanes.turns[0].acquire_many(2).await.unwrap();
        let posting = lanes.post(commands(3, 1));
        tokio::pin!(posting);
        assert!(
            futures::poll!(posting.as_mut()).is_pending(),
            "no turn is free"
        );
        drop(held);
        assert_eq!(posting.await.unwrap().len(), 3);
    }
}
