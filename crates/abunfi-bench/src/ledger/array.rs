//! What the batch row is compared to: the same rows by array SQL, straight to the server, with nothing
//! decided, hashed or read from JSON. The most that the database gives.

use std::str::FromStr;
use std::time::{Duration, Instant};

use abunfi::clock::{Clock, SystemClock};
use abunfi::ids::{TransactionId, random_bytes};
use anyhow::{Context, Result};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::requests::{BATCH, users_of_batch};
use super::seed;
use crate::load::Measured;

/// Writes batches over `connections` for `span`, each connection's on users of its own.
pub(super) async fn run(
    url: &str,
    connections: usize,
    span: Duration,
    users: u64,
) -> Result<Measured> {
    let start = Instant::now();
    let end = start + span;
    let writers: Vec<_> = (0..connections)
        .map(|connection| {
            let url = url.to_owned();
            tokio::spawn(async move { write(&url, connection, users, end).await })
        })
        .collect();
    let mut latencies = Vec::new();
    for writer in writers {
        latencies.extend(writer.await??);
    }
    Measured::of(latencies, start.elapsed(), 0)
}

async fn write(url: &str, connection: usize, users: u64, end: Instant) -> Result<Vec<Duration>> {
    let mut conn = PgConnectOptions::from_str(url)?
        .disable_statement_logging()
        .connect()
        .await?;
    // As the service has it: by their keys, whatever the tables held when the plans were made.
    sqlx::raw_sql(
        "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;
         SET enable_mergejoin = off; SET jit = off",
    )
    .execute(&mut conn)
    .await?;
    let ids: Vec<Uuid> = users_of_batch(connection, users)
        .map(|user| Uuid::parse_str(&seed::id(user)))
        .collect::<Result<_, _>>()?;
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let started = Instant::now();
        batch(&mut conn, &ids).await.context("array SQL")?;
        latencies.push(started.elapsed());
    }
    conn.close().await?;
    Ok(latencies)
}

async fn batch(conn: &mut PgConnection, users: &[Uuid]) -> Result<()> {
    let now = SystemClock.now();
    let mut transaction = conn.begin().await?;
    let versions: Vec<(Uuid, i64)> = sqlx::query_as(
        "SELECT a.user_id, a.version FROM (SELECT DISTINCT unnest($1::uuid[]) AS user_id) k
         JOIN accounts a ON a.user_id = k.user_id AND a.asset = 'VND' ORDER BY a.user_id FOR UPDATE OF a",
    )
    .bind(users)
    .fetch_all(&mut *transaction)
    .await?;
    let mut next: std::collections::HashMap<Uuid, i64> = versions.into_iter().collect();
    let mut seqs = Vec::with_capacity(BATCH);
    for user in users {
        let version = next.get_mut(user).context("no account")?;
        *version += 1;
        seqs.push(*version);
    }
    let transactions: Vec<Uuid> = users
        .iter()
        .map(|_| TransactionId::new(now).uuid())
        .collect();
    let keys: Vec<Uuid> = users
        .iter()
        .map(|_| uuid::Builder::from_random_bytes(random_bytes()).into_uuid())
        .collect();
    let requests: Vec<String> = keys.iter().map(Uuid::to_string).collect();
    let hashes: Vec<Vec<u8>> = keys
        .iter()
        .map(|key| [key.as_bytes().as_slice(), key.as_bytes().as_slice()].concat())
        .collect();
    sqlx::query(WRITE)
        .bind(users)
        .bind(&transactions)
        .bind(&seqs)
        .bind(&requests)
        .bind(&keys)
        .bind(&hashes)
        .bind(OffsetDateTime::from(now))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

const WRITE: &str = "
WITH rows AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::uuid[], $6::bytea[])
        AS r (user_id, transaction_id, seq, request_id, key_hash, hash)
), changed AS (
    UPDATE accounts a SET available = a.available + n.times * 1000000, deposited = a.deposited + n.times * 1000000,
        version = n.version, chain_hash = n.hash, chain_at = $7
    FROM (SELECT user_id, count(*) AS times, max(seq) AS version, (array_agg(hash ORDER BY seq DESC))[1] AS hash
          FROM rows GROUP BY user_id) n
    WHERE a.user_id = n.user_id AND a.asset = 'VND'
), posted AS (
    INSERT INTO transactions (user_id, transaction_id, type, status, asset, amount, created_at, confirmed_at)
    SELECT user_id, transaction_id, 'deposit', 'confirmed', 'VND', 1000000, $7, $7 FROM rows
), entered AS (
    INSERT INTO entries (user_id, transaction_id, account, asset, amount, at)
    SELECT user_id, transaction_id, account, 'VND', amount, $7
    FROM rows, (VALUES ('user', 1000000), ('custody', -1000000)) AS leg (account, amount)
), answered AS (
    INSERT INTO idempotency_keys (user_id, key_hash, transaction_id, seq, created_at, fingerprint)
    SELECT user_id, key_hash, transaction_id, seq, $7, hash FROM rows
)
INSERT INTO audit (user_id, chain, seq, transaction_id, action, new_status, amount, shares, available_after,
    locked_after, shares_after, locked_shares_after, actor_kind, actor_id, request_id, at, previous_hash, hash)
SELECT user_id, 'VND', seq, transaction_id, 'post', 'confirmed', 1000000, 0, seq * 1000000, 0, 0, 0,
    'service_key', 'admin', request_id, $7, hash, hash FROM rows";
