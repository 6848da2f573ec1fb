//! A batch that is not atomic: its items go in lanes side by side, part by part.
//!
//! Committed one part after the other, a batch waits for the disk most of the time. So its items are spread over
//! as many lanes as there may be commits in flight: while one lane's part is flushed, another's is made. A user's
//! items are all in one lane, so that they keep their order and no lane waits for another's rows.
//!
//! Invariant: a part is one unit with each item's own part of the key, so that whatever a crash or an error leaves
//! out, the retry of the batch does, and nothing twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::batcher::Spread;
use super::commit::{Commit, Held, LOCKED, is_held, is_of_one_item, overloaded};
use super::{Command, Error, Outcome};
use crate::error::{StoreError, StoreKind};
use crate::faults::{self, Point};
use crate::ids::UserId;

#[cfg(test)]
mod tests;

/// Items of one lane that are committed together: a crash loses at most this many of each lane, which the retry
/// then does. More than the batcher's, since here one caller waits for all of them, and each commit is a wait for
/// the disk. (2 cores, release build, five requests by `curl` with 600 items of one user: 25 to 83 ms on PostgreSQL,
/// 20 to 57 ms on SQLite, whose other writers wait for so long.)
pub const COMMIT_CHUNK: usize = 600;
/// Parts of one lane in flight, of all batches together: large batches leave connections to the others.
pub(super) const PARTS_IN_FLIGHT: usize = 2;
/// Batches at once that wait for accounts which somebody else has locked.
pub(super) const PATIENT_BATCHES: usize = 1;
/// A part that waited this long for its turn is turned away undone.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// Users of one lane with an item that failed alone, or whose account is waited for, at most: more are no matter
/// of single items.
const MAX_ALONE: usize = 8;

type Outcomes = Vec<Result<Outcome, Error>>;

/// Cheap to clone; all clones share the turns.
#[derive(Clone)]
pub(super) struct Lanes {
    commit: Arc<Commit>,
    turns: Arc<[Semaphore]>,
    /// Turns of batches that wait for accounts which somebody else has locked.
    patient: Arc<Semaphore>,
    spread: Spread,
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lanes")
            .field("lanes", &self.turns.len())
            .finish_non_exhaustive()
    }
}

/// The places of commands in the batch, and these.
type Numbered = (Vec<usize>, Vec<Command>);

/// Commands that are committed together, and the place of each in the batch.
struct Part {
    places: Vec<usize>,
    commands: Arc<[Command]>,
}

/// What became of a lane's items.
#[derive(Default)]
struct Posted {
    outcomes: Vec<(usize, Result<Outcome, Error>)>,
    /// Something was committed, or is of one item alone.
    got_anywhere: bool,
    /// Why it did not go on.
    stopped: Option<StoreError>,
    /// That it is not known what became of an item.
    unknown: Option<StoreError>,
}

impl Lanes {
    /// At least one lane.
    pub(super) fn new(lanes: usize, commit: Arc<Commit>) -> Self {
        Self {
            commit,
            turns: (0..lanes.max(1))
                .map(|_| Semaphore::new(PARTS_IN_FLIGHT))
                .collect(),
            patient: Arc::new(Semaphore::new(PATIENT_BATCHES)),
            spread: Spread::over(lanes),
        }
    }

    /// What became of each command, in their order; what is `Ok` is durable. A lane stops at a part that fails:
    /// its items, and those after it in its lane, are errors, and the other lanes go on.
    ///
    /// # Errors
    /// When no lane got anywhere, why; when one of several outcomes is unknown, that.
    pub(super) async fn post(&self, commands: Vec<Command>) -> Result<Outcomes, StoreError> {
        let mut outcomes: Vec<_> = commands.iter().map(|_| None).collect();
        let mut lanes: BTreeMap<usize, Vec<Numbered>> = BTreeMap::new();
        for (place, command) in commands.into_iter().enumerate() {
            let parts = lanes.entry(self.spread.of(command.user_id)).or_default();
            match parts.last_mut() {
                Some((places, commands)) if places.len() < COMMIT_CHUNK => {
                    places.push(place);
                    commands.push(command);
                }
                _ => parts.push((vec![place], vec![command])),
            }
        }
        let lanes = lanes
            .into_iter()
            .map(|(lane, parts)| self.post_lane(lane, parts.into_iter().map(Part::new).collect()));
        let lanes = join_all(lanes).await;
        if lanes.iter().all(|lane| !lane.got_anywhere) {
            let errors = lanes
                .iter()
                .flat_map(|lane| lane.stopped.iter().chain(&lane.unknown));
            let is_unknown =
                |error: &&StoreError| matches!(error, StoreError::OutcomeUnknown { .. });
            if let Some(error) = errors.max_by_key(is_unknown) {
                return Err(error.clone());
            }
        }
        for (place, outcome) in lanes.into_iter().flat_map(|lane| lane.outcomes) {
            if let Some(slot) = outcomes.get_mut(place) {
                *slot = Some(outcome);
            }
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    async fn post_lane(&self, lane: usize, mut todo: VecDeque<Part>) -> Posted {
        let mut posted = Posted::default();
        let mut alone = BTreeSet::new();
        let mut held: BTreeMap<UserId, Numbered> = BTreeMap::new();
        while let Some(part) = todo.pop_front() {
            // After an item that failed or is left out its user's later ones would be out of order.
            let (late, part) = part.without(|user| alone.contains(&user));
            posted.fail(late.into_iter().map(|(place, _)| place), &not_tried());
            let (late, part) = part.without(|user| held.contains_key(&user));
            hold(&mut held, late);
            if part.places.is_empty() {
                continue;
            }
            let commands = Arc::clone(&part.commands);
            match self.commit(lane, commands, Held::LeftOut).await {
                Ok(outcomes) => {
                    let (left_out, failed) = posted.enter(part, outcomes);
                    hold(&mut held, left_out);
                    alone.extend(failed);
                }
                // Halved until the item that the store stumbles over stands alone.
                Err(error) if is_of_one_item(&error) && part.places.len() > 1 => {
                    let [before, after] = part.halves();
                    todo.push_front(after);
                    todo.push_front(before);
                }
                Err(error) if is_of_one_item(&error) && alone.len() < MAX_ALONE => {
                    alone.extend(part.commands.iter().map(|command| command.user_id));
                    posted.fail(part.places, &error);
                    posted.got_anywhere = true;
                }
                Err(error) => {
                    posted.fail(part.places, &error);
                    for rest in todo.drain(..) {
                        posted.fail(rest.places, &not_tried());
                    }
                    posted.stopped = Some(error);
                }
            }
        }
        self.post_held(held, &mut posted).await;
        posted
    }

    /// Waits for accounts that somebody else has locked, a few of them, one after the other and not for ever. Not
    /// in the lane's turns, which others wait for.
    async fn post_held(&self, held: BTreeMap<UserId, Numbered>, posted: &mut Posted) {
        if held.is_empty() {
            return;
        }
        let begun = Instant::now();
        let turn = timeout(MAX_WAIT, self.patient.acquire()).await;
        let mut failed = None;
        for (index, (places, commands)) in held.into_values().enumerate() {
            let is_over = !matches!(turn, Ok(Ok(_))) || begun.elapsed() > MAX_WAIT;
            let is_one_too_many = is_over || index >= MAX_ALONE || posted.stopped.is_some();
            let mut stopped = is_one_too_many.then(|| overloaded(LOCKED));
            let parts = places
                .chunks(COMMIT_CHUNK)
                .zip(commands.chunks(COMMIT_CHUNK));
            for (places, commands) in parts {
                let places = places.iter().copied();
                if let Some(error) = &stopped {
                    posted.fail(places, error);
                    continue;
                }
                match self.run(commands.into(), Held::WaitedFor).await {
                    Ok(outcomes) => {
                        let store_error = |outcome: &Result<_, _>| match outcome {
                            Err(Error::Store(error)) => Some(error.clone()),
                            _ => None,
                        };
                        // As after a part that fails: what comes after it would be out of order.
                        if let Some(error) = outcomes.iter().find_map(store_error) {
                            stopped = Some(not_tried());
                            failed = Some(error);
                        }
                        posted.got_anywhere |= outcomes
                            .iter()
                            .any(|outcome| store_error(outcome).is_none());
                        posted.outcomes.extend(places.zip(outcomes));
                    }
                    Err(error) => {
                        posted.fail(places, &error);
                        stopped = Some(not_tried());
                        failed = Some(error);
                    }
                }
            }
            failed = failed.or(stopped);
        }
        posted.stopped = posted.stopped.take().or(failed);
    }

    async fn commit(
        &self,
        lane: usize,
        part: Arc<[Command]>,
        held: Held,
    ) -> Result<Outcomes, StoreError> {
        let Some(turns) = self.turns.get(lane) else {
            return Err(overloaded("no lane serves the account"));
        };
        let Ok(Ok(_turn)) = timeout(MAX_WAIT, turns.acquire()).await else {
            return Err(overloaded("too many batches wait"));
        };
        faults::reach(Point::BetweenChunks);
        self.run(part, held).await
    }

    async fn run(&self, part: Arc<[Command]>, held: Held) -> Result<Outcomes, StoreError> {
        // In a task of its own: lanes are decided on several cores, and a panic takes this part with it only.
        let commit = Arc::clone(&self.commit);
        tokio::spawn(async move { commit(part, held).await })
            .await
            .unwrap_or_else(|died| {
                Err(StoreError::OutcomeUnknown {
                    store: StoreKind::Relational,
                    reason: died.to_string(),
                })
            })
    }
}

impl Part {
    fn new((places, commands): Numbered) -> Self {
        Self {
            places,
            commands: commands.into(),
        }
    }

    fn halves(self) -> [Self; 2] {
        let mut before = self.places;
        let after = before.split_off(before.len() / 2);
        let (first, second) = self.commands.split_at(before.len());
        [(before, first), (after, second)].map(|(places, commands)| Self {
            places,
            commands: commands.into(),
        })
    }

    /// What is of users that `is_out`, and the part without it.
    fn without(self, is_out: impl Fn(UserId) -> bool) -> (Vec<(usize, Command)>, Self) {
        let is_out = |command: &Command| is_out(command.user_id);
        if !self.commands.iter().any(is_out) {
            return (Vec::new(), self);
        }
        let items = self.places.into_iter().zip(self.commands.iter().cloned());
        let (out, left): (Vec<_>, Vec<_>) = items.partition(|(_, command)| is_out(command));
        (out, Self::new(left.into_iter().unzip()))
    }
}

impl Posted {
    /// Notes what became of a part's items; gives those that are left out, and the users of those that failed.
    fn enter(&mut self, part: Part, outcomes: Outcomes) -> (Vec<(usize, Command)>, Vec<UserId>) {
        let (mut left_out, mut failed) = (Vec::new(), Vec::new());
        let items = part.places.into_iter().zip(part.commands.iter());
        for ((place, command), outcome) in items.zip(outcomes) {
            if is_held(&outcome) {
                left_out.push((place, command.clone()));
                continue;
            }
            match &outcome {
                Err(Error::Store(error)) => {
                    failed.push(command.user_id);
                    self.unknown.get_or_insert_with(|| error.clone());
                }
                _ => self.got_anywhere = true,
            }
            self.outcomes.push((place, outcome));
        }
        (left_out, failed)
    }

    fn fail(&mut self, places: impl IntoIterator<Item = usize>, error: &StoreError) {
        let failed = places
            .into_iter()
            .map(|place| (place, Err(error.clone().into())));
        self.outcomes.extend(failed);
    }
}

fn hold(held: &mut BTreeMap<UserId, Numbered>, items: Vec<(usize, Command)>) {
    for (place, command) in items {
        let (places, commands) = held.entry(command.user_id).or_default();
        places.push(place);
        commands.push(command);
    }
}

/// Of items after one that failed: not done by this attempt.
fn not_tried() -> StoreError {
    StoreError::unavailable(
        StoreKind::Relational,
        "not tried, since an item before it failed",
    )
}
