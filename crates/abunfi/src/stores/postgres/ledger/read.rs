//! Reading the ledger: nothing here is locked, and nothing is decided from it.

use sqlx::PgConnection;
use sqlx::postgres::PgRow;

use super::Result;
use super::load::transaction;
use crate::audit::PLATFORM;
use crate::clock::Timestamp;
use crate::ids::{TransactionId, UserId};
use crate::ledger::{
    Asset, Backlog, Balance, Due, MonthStats, Page, Stats, Transaction, TransactionFilter,
    TransactionStatus, TransactionType, TrialBalance, TypeStats, first_share_price,
};
use crate::money::SignedSum;
use crate::stores::postgres::columns::{Columns, at, limit};
use crate::stores::postgres::error::undecodable;

/// One row without an asset stands for a user without accounts.
pub(super) async fn balances(
    conn: &mut PgConnection,
    user_id: UserId,
) -> Result<Option<Vec<Balance>>> {
    let rows = sqlx::query(
        "SELECT a.asset, a.available, a.locked, a.shares, a.locked_shares, s.share_price, a.total_yield_earned,
                a.last_yield_at, a.version
         FROM users u LEFT JOIN accounts a ON a.user_id = u.user_id LEFT JOIN assets s ON s.asset = a.asset
         WHERE u.user_id = $1 ORDER BY a.asset",
    )
    .bind(user_id.uuid())
    .fetch_all(conn)
    .await?;
    of_user(&rows, balance)
}

/// Amounts from the newest audit row of each chain by then, yield from the entries, the price from the
/// asset's own chain. Zeros where there was an account and no row yet.
pub(super) async fn balances_at(
    conn: &mut PgConnection,
    user_id: UserId,
    then: Timestamp,
    default_asset: &Asset,
) -> Result<Option<Vec<Balance>>> {
    let rows = sqlx::query(
        "SELECT c.asset, coalesce(c.available_after, 0) AS available, coalesce(c.locked_after, 0) AS locked,
                coalesce(c.shares_after, 0) AS shares, coalesce(c.locked_shares_after, 0) AS locked_shares,
                coalesce(p.amount, $4) AS share_price,
                coalesce(y.earned, 0)::bigint AS total_yield_earned, y.last_yield_at, coalesce(c.seq, 0) AS version
         FROM users u
         LEFT JOIN LATERAL (
             SELECT a.asset, h.* FROM accounts a LEFT JOIN LATERAL (
                 SELECT available_after, locked_after, shares_after, locked_shares_after, seq FROM audit
                 WHERE user_id = u.user_id AND chain = a.asset AND at <= $2 ORDER BY seq DESC LIMIT 1) h ON true
             WHERE a.user_id = u.user_id AND (h.seq IS NOT NULL
                 OR (u.created_at <= $2 AND (a.asset = $5 OR a.version = 0)))) c ON true
         LEFT JOIN LATERAL (
             SELECT amount FROM audit WHERE user_id = $3 AND chain = 'asset:' || c.asset AND at <= $2
             ORDER BY seq DESC LIMIT 1) p ON true
         LEFT JOIN LATERAL (
             SELECT -sum(amount) AS earned, max(at) AS last_yield_at FROM entries
             WHERE user_id = u.user_id AND asset = c.asset AND account = 'yield' AND at <= $2) y ON true
         WHERE u.user_id = $1 ORDER BY c.asset",
    )
    .bind(user_id.uuid())
    .bind(at(then))
    .bind(PLATFORM.uuid())
    .bind(first_share_price().micros())
    .bind(default_asset.as_str())
    .fetch_all(conn)
    .await?;
    of_user(&rows, balance)
}

/// `None` without any row; a row without an asset is a user without what was joined.
fn of_user<T>(rows: &[PgRow], read: fn(&PgRow) -> Result<T>) -> Result<Option<Vec<T>>> {
    if rows.is_empty() {
        return Ok(None);
    }
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        if row.optional_text("asset")?.is_some() {
            found.push(read(row)?);
        }
    }
    Ok(Some(found))
}

fn balance(row: &PgRow) -> Result<Balance> {
    let available = row.amount("available")?;
    let locked = row.amount("locked")?;
    Ok(Balance {
        asset: row.parsed("asset", Asset::parse)?,
        available,
        locked,
        total: available
            .checked_add(locked)
            .ok_or_else(|| undecodable("locked", "the total is out of range"))?,
        shares: row.amount("shares")?,
        locked_shares: row.amount("locked_shares")?,
        share_price: row.amount("share_price")?,
        total_yield_earned: row.amount("total_yield_earned")?,
        last_yield_at: row.optional_timestamp("last_yield_at")?,
        version: row.integer("version")?,
    })
}

pub(super) async fn one(
    conn: &mut PgConnection,
    user_id: UserId,
    id: TransactionId,
) -> Result<Option<Transaction>> {
    let row = sqlx::query("SELECT * FROM transactions WHERE user_id = $1 AND transaction_id = $2")
        .bind(user_id.uuid())
        .bind(id.uuid())
        .fetch_optional(conn)
        .await?;
    row.as_ref().map(transaction).transpose()
}

pub(super) async fn list(
    conn: &mut PgConnection,
    user_id: UserId,
    filter: &TransactionFilter,
    page: &Page<TransactionId>,
) -> Result<Option<Vec<Transaction>>> {
    let (from, below) = filter.ids(page.after);
    let rows = sqlx::query(
        "SELECT t.* FROM users u LEFT JOIN LATERAL (
             SELECT * FROM transactions t WHERE t.user_id = u.user_id
                 AND t.transaction_id >= $5 AND t.transaction_id < $6
                 AND ($2::text IS NULL OR t.type = $2)
                 AND ($3::text IS NULL OR t.status = $3)
                 AND ($4::text IS NULL OR t.asset = $4)
                 AND ($7::text IS NULL OR t.client_reference = $7)
                 AND ($8::text IS NULL OR t.tx_hash = $8)
             ORDER BY t.transaction_id DESC LIMIT $9) t ON true
         WHERE u.user_id = $1
         ORDER BY t.transaction_id DESC",
    )
    .bind(user_id.uuid())
    .bind(filter.kind.map(TransactionType::as_str))
    .bind(filter.status.map(TransactionStatus::as_str))
    .bind(filter.asset.as_ref().map(Asset::as_str))
    .bind(from.uuid())
    .bind(below.uuid())
    .bind(filter.client_reference.as_deref())
    .bind(filter.tx_hash.as_deref())
    .bind(limit(page.limit))
    .fetch_all(conn)
    .await?;
    of_user(&rows, transaction)
}

pub(super) async fn stats(
    conn: &mut PgConnection,
    user_id: UserId,
    since: Timestamp,
) -> Result<Option<Stats>> {
    let mut stats = Stats::default();
    let by_type = sqlx::query(
        "SELECT type, status, count(*) AS count, sum(amount)::text AS sum FROM transactions
         WHERE user_id = $1 AND transaction_id >= $2 GROUP BY type, status ORDER BY type, status",
    )
    .bind(user_id.uuid())
    .bind(TransactionId::earliest(since).uuid())
    .fetch_all(&mut *conn)
    .await?;
    for row in &by_type {
        stats.by_type.push(TypeStats {
            kind: row.parsed("type", TransactionType::from_name)?,
            status: row.parsed("status", TransactionStatus::from_name)?,
            count: row.integer("count")?,
            sum: sum(row, "sum")?,
        });
    }
    let by_month = sqlx::query(
        "SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM') AS month, type, count(*) AS count,
                sum(amount)::text AS sum
         FROM transactions
         WHERE user_id = $1 AND transaction_id >= $2 AND status = 'confirmed'
         GROUP BY month, type ORDER BY month, type",
    )
    .bind(user_id.uuid())
    .bind(TransactionId::earliest(since).uuid())
    .fetch_all(&mut *conn)
    .await?;
    for row in &by_month {
        stats.by_month.push(MonthStats {
            month: row.text("month")?,
            kind: row.parsed("type", TransactionType::from_name)?,
            count: row.integer("count")?,
            sum: sum(row, "sum")?,
        });
    }
    if stats.by_type.is_empty() && !exists(conn, user_id).await? {
        return Ok(None);
    }
    Ok(Some(stats))
}

async fn exists(conn: &mut PgConnection, user_id: UserId) -> Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM users WHERE user_id = $1)")
        .bind(user_id.uuid())
        .fetch_one(conn)
        .await
}

/// A `numeric` sum of micro-units, which may be beyond 64 bits.
fn sum(row: &PgRow, column: &str) -> Result<SignedSum> {
    row.parsed(column, |text| text.parse().ok().map(SignedSum::from_micros))
}

pub(super) async fn trial_balance(conn: &mut PgConnection) -> Result<Vec<TrialBalance>> {
    let rows = sqlx::query(
        "SELECT s.asset, coalesce(sum(a.available::numeric + a.locked), 0)::text AS users,
                coalesce(sum(a.withdrawn::numeric - a.deposited), 0)::text AS custody,
                coalesce(sum(-a.total_yield_earned::numeric), 0)::text AS yield,
                coalesce(sum(-a.bonuses::numeric), 0)::text AS promotions,
                coalesce(sum(a.fees::numeric), 0)::text AS fees, count(a.user_id) AS accounts
         FROM assets s LEFT JOIN accounts a ON a.asset = s.asset GROUP BY s.asset ORDER BY s.asset",
    )
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let [users, custody, yield_, promotions, fees] = [
                sum(row, "users")?,
                sum(row, "custody")?,
                sum(row, "yield")?,
                sum(row, "promotions")?,
                sum(row, "fees")?,
            ];
            let net = [custody, yield_, promotions, fees]
                .into_iter()
                .try_fold(users, SignedSum::checked_add)
                .ok_or_else(|| undecodable("users", "the net sum is out of range"))?;
            let asset = row.parsed("asset", Asset::parse)?;
            Ok(TrialBalance {
                asset,
                users,
                custody,
                yield_,
                promotions,
                fees,
                net,
                accounts: row.integer("accounts")?,
            })
        })
        .collect()
}

pub(super) async fn expired_holds(
    conn: &mut PgConnection,
    now: Timestamp,
    most: u32,
) -> Result<Vec<(UserId, TransactionId)>> {
    let rows = sqlx::query(
        "SELECT user_id, transaction_id FROM transactions
         WHERE status = 'pending' AND expires_at <= $1 AND submitted_at IS NULL ORDER BY expires_at LIMIT $2",
    )
    .bind(at(now))
    .bind(limit(most))
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| Ok((row.id("user_id")?, row.id("transaction_id")?)))
        .collect()
}

/// How many holds have expired, as [`expired_holds`] finds them.
const OVERDUE_HOLDS: &str = "SELECT count(*) AS count, min(expires_at) AS oldest FROM (
             SELECT expires_at FROM transactions
             WHERE status = 'pending' AND expires_at <= $1 AND submitted_at IS NULL
             ORDER BY expires_at LIMIT $2) AS due";
/// How many stored answers are from before a time, of single requests and of batches.
const OLD_KEYS: &str =
        "SELECT least(count(*), $2) AS count, min(created_at) AS oldest FROM (
             (SELECT created_at FROM idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2)
             UNION ALL
             (SELECT created_at FROM batch_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2)) AS old";

pub(super) async fn backlog(
    conn: &mut PgConnection,
    now: Timestamp,
    keys_before: Timestamp,
    up_to: u32,
) -> Result<Backlog> {
    let holds = sqlx::query(OVERDUE_HOLDS).bind(at(now)).bind(limit(up_to));
    let overdue_holds = due(&holds.fetch_one(&mut *conn).await?)?;
    let keys = sqlx::query(OLD_KEYS)
        .bind(at(keys_before))
        .bind(limit(up_to));
    let old_keys = due(&keys.fetch_one(conn).await?)?;
    Ok(Backlog {
        overdue_holds,
        old_keys,
    })
}

fn due(row: &PgRow) -> Result<Due> {
    let count = row.integer("count")?;
    Ok(Due {
        count: u64::try_from(count).map_err(|error| undecodable("count", error))?,
        oldest: row.optional_timestamp("oldest")?,
    })
}
