//! What is asked of the service: deposits of 1, singly or in batches, on users of [`seed`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::seed;
use crate::load::Requests;
use crate::servers::post;

/// Postings in one request of the batch row.
pub(crate) const BATCH: usize = 1_000;
/// Clients that send batches: as many as cores, so that neither side waits for its client.
pub(crate) const BATCH_CONNECTIONS: usize = 2;
pub(crate) const CONNECTIONS: usize = 64;

/// Deposits on the first `users` users, each on another one.
pub(crate) fn spread(users: u64) -> Arc<Requests> {
    let run = next_run();
    Arc::new(move |connection, n| {
        let user = pick(run, connection, n, users);
        deposit(&seed::id(user), run, connection, n)
    })
}

/// The same on users with these ids.
pub(super) fn spread_over(ids: Arc<Vec<String>>) -> Arc<Requests> {
    let run = next_run();
    Arc::new(move |connection, n| {
        let users = u64::try_from(ids.len()).unwrap_or(1);
        let user = usize::try_from(pick(run, connection, n, users)).unwrap_or(0);
        deposit(ids.get(user).map_or("", String::as_str), run, connection, n)
    })
}

/// Batches, each client's on users of its own, so that none waits for another's rows.
pub(crate) fn batches(users: u64) -> Arc<Requests> {
    let run = next_run();
    let bodies: Vec<String> = (0..BATCH_CONNECTIONS)
        .map(|connection| {
            let items: Vec<String> = users_of_batch(connection, users)
                .map(|user| {
                    format!(
                        r#"{{"user_id":"{}","type":"deposit","amount":"1"}}"#,
                        seed::id(user)
                    )
                })
                .collect();
            format!(r#"{{"atomic":false,"transactions":[{}]}}"#, items.join(","))
        })
        .collect();
    Arc::new(move |connection, n| {
        let body = bodies.get(connection).map_or("", String::as_str);
        post(
            "/api/v1/transactions/batch",
            &format!("batch-{run}-{connection}-{n}"),
            body,
        )
    })
}

/// The users of a client's batch: of those that are its share, each in turn until the batch is full.
pub(super) fn users_of_batch(connection: usize, users: u64) -> impl Iterator<Item = u64> {
    let connections = u64::try_from(BATCH_CONNECTIONS).unwrap_or(1);
    let share = (users / connections).max(1);
    let first = u64::try_from(connection).unwrap_or(0) * share;
    (0..share).cycle().map(move |n| first + n).take(BATCH)
}

/// Keys of another run are other requests.
fn next_run() -> u64 {
    static RUNS: AtomicU64 = AtomicU64::new(0);

    RUNS.fetch_add(1, Ordering::Relaxed)
}

fn deposit(user: &str, run: u64, connection: usize, n: u64) -> Vec<u8> {
    post(
        &format!("/api/v1/users/{user}/transactions"),
        // As long as the UUID that most clients send.
        &format!("{run:08}-bench-deposit-{connection:06}-{n:08}"),
        r#"{"type":"deposit","amount":"1"}"#,
    )
}

/// A user out of `users`, spread evenly and without a pattern (SplitMix64).
fn pick(run: u64, connection: usize, n: u64, users: u64) -> u64 {
    let seed = (run << 48) ^ (u64::try_from(connection).unwrap_or(0) << 32) ^ n;
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % users.max(1)
}
