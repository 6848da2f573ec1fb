//! Beside heavy writing the verifier sees no false alarm.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abunfi::audit::verify::Options;
use abunfi::ids::TransactionId;
use abunfi::ledger::{Settlement, TransactionType};
use tokio::sync::Semaphore;

use super::{checkpoint, verify, verify_with};
use crate::support::make::{Shape as _, deposit, posting, settle, submit, units, withdraw};
use crate::support::random::Random;
use crate::support::{Relational, on_every_backend};

on_every_backend!(no_false_alarm_beside_postings_settling_and_checkpoints);

const WRITERS: u64 = 4;
const ROUNDS: usize = 12;
const MAX_ROUNDS: usize = 10 * ROUNDS;
/// What is written beside one verification at most. Without a bound a slow machine would write ever more that is to be
/// verified ever more slowly.
const WRITES: usize = 100;

/// Posts, holds, submits and settles on few users as often as it may, until the turns are closed; how much it did.
async fn write(stores: &Relational, seed: u64, turns: &Semaphore, done: &AtomicU64) {
    let mut random = Random::of(seed);
    let mut users = stores.all_users().await;
    let mut pending: Vec<(abunfi::ids::UserId, TransactionId)> = Vec::new();
    while let Ok(turn) = turns.acquire().await {
        turn.forget();
        // Accounts and users that begin while they are read.
        if random.below(25) == 0 {
            let name = format!("late-{seed}-{}", users.len());
            users.push(stores.user_with(&name, 10).await);
        }
        let user = *random.pick(&users);
        let command = match random.below(8) {
            7 => deposit(user, 1).asset("USDT"),
            0 | 1 => deposit(user, 100),
            2 => withdraw(user, 1),
            3 => withdraw(user, 1).shares("0").pending(),
            4 => posting(user, TransactionType::YieldHarvest, units(1)),
            5 if !pending.is_empty() => {
                let (user, id) = *random.pick(&pending);
                submit(user, id)
            }
            _ if !pending.is_empty() => {
                let at =
                    usize::try_from(random.below(u64::try_from(pending.len()).unwrap())).unwrap();
                let (user, id) = pending.swap_remove(at);
                let to = *random.pick(&[Settlement::Confirm, Settlement::Fail, Settlement::Cancel]);
                settle(user, id, to).saying(|details| details.reason = Some("because".to_owned()))
            }
            _ => deposit(user, 1).pending(),
        };
        // The tests' clock runs for all writers together; refusals are no matter here.
        let outcome = stores.post(command).await.expect("an answer");
        if let Ok(posted) = outcome.answer.result {
            done.fetch_add(1, Ordering::Relaxed);
            let transaction = posted.transaction;
            let is_new = transaction.submitted_at.is_none();
            if transaction.status == abunfi::ledger::TransactionStatus::Pending && is_new {
                pending.push((transaction.user_id, transaction.id));
            }
        }
    }
}

async fn no_false_alarm_beside_postings_settling_and_checkpoints(stores: &Relational) {
    stores.asset("USDT").await;
    for index in 0..6 {
        stores.user_with(&format!("user-{index}"), 1_000).await;
    }
    let (turns, done) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU64::new(0)));
    let mut writers = Vec::new();
    for seed in 0..WRITERS {
        let (stores, turns, done) = (stores.clone(), turns.clone(), done.clone());
        writers.push(tokio::spawn(async move {
            write(&stores, seed, &turns, &done).await
        }));
    }
    let (mut read, mut during, mut newest) = (0, 0, None);
    for round in 0..MAX_ROUNDS {
        // As long as it takes to meet writes: on a busy machine few happen in one.
        if round >= ROUNDS && during > 100 {
            break;
        }
        let before = done.load(Ordering::Relaxed);
        // Whole users in a snapshot, and every user in parts of a few rows, turn by turn.
        let page_rows = if round % 2 == 0 { 8_192 } else { 9 };
        // Everything, and what has changed since the newest checkpoint.
        for since in [None, newest] {
            turns.add_permits(WRITES - turns.available_permits());
            let options = Options {
                workers: 2,
                page_rows,
                since,
                ..Options::default()
            };
            let report = verify_with(stores, &options).await;
            assert!(
                report.clean,
                "round {round}, {since:?}: {:#?}",
                report.findings
            );
            read += report.read.audit_rows;
        }
        during += done.load(Ordering::Relaxed) - before;
        if round % 3 == 0 {
            newest = Some(checkpoint(stores).await.number);
        }
    }
    turns.close();
    for writer in writers {
        writer.await.unwrap();
    }
    // It must have met writes, or it shows nothing.
    assert!(during > 100, "{during} postings while it verified");
    assert!(read > 200, "{read} rows were judged");
    assert!(verify(stores).await.clean);
    stores.check_books().await;
}
