//! Reading the ledger: nothing is decided from it.
//!
//! SQLite's integers overflow into floats, so sums over amounts are taken in two columns, whole units and
//! rests, and put together here.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{QueryBuilder, Sqlite as Driver};

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
use crate::stores::sqlite::columns::Columns;
use crate::stores::sqlite::error::undecodable;
use crate::stores::sqlite::user_exists;

/// Micro-units in a unit.
const MICROS: i128 = 1_000_000;

/// One row without an asset stands for a user without accounts.
pub(super) async fn balances(
    conn: &mut SqliteConnection,
    user_id: UserId,
) -> Result<Option<Vec<Balance>>> {
    let rows = sqlx::query(
        "SELECT a.asset, a.available, a.locked, a.shares, a.locked_shares, s.share_price, a.total_yield_earned,
                a.last_yield_at, a.version
         FROM users u LEFT JOIN accounts a ON a.user_id = u.user_id LEFT JOIN assets s ON s.asset = a.asset
         WHERE u.user_id = ?1 ORDER BY a.asset",
    )
    .bind(user_id.uuid())
    .fetch_all(conn)
    .await?;
    of_user(&rows, balance)
}

/// Amounts from the newest audit row of each chain by then, yield from the entries, the price from the
/// asset's own chain. Zeros where there was an account and no row yet.
pub(super) async fn balances_at(
    conn: &mut SqliteConnection,
    user_id: UserId,
    then: Timestamp,
    default_asset: &Asset,
) -> Result<Option<Vec<Balance>>> {
    // What a user earned in one asset is a total of its account row, so its sum fits 64 bits.
    let rows = sqlx::query(
        "SELECT a.asset, coalesce(h.available_after, 0) AS available, coalesce(h.locked_after, 0) AS locked,
                coalesce(h.shares_after, 0) AS shares, coalesce(h.locked_shares_after, 0) AS locked_shares,
                coalesce((SELECT amount FROM audit WHERE user_id = ?3 AND chain = 'asset:' || a.asset
                              AND at <= ?2 ORDER BY seq DESC LIMIT 1), ?4) AS share_price,
                coalesce((SELECT -sum(amount) FROM entries WHERE user_id = u.user_id AND asset = a.asset
                              AND account = 'yield' AND at <= ?2), 0) AS total_yield_earned,
                (SELECT max(at) FROM entries WHERE user_id = u.user_id AND asset = a.asset
                     AND account = 'yield' AND at <= ?2) AS last_yield_at,
                coalesce(h.seq, 0) AS version
         FROM users u
         LEFT JOIN accounts a ON a.user_id = u.user_id AND (
             EXISTS (SELECT 1 FROM audit WHERE user_id = a.user_id AND chain = a.asset AND at <= ?2)
             OR (u.created_at <= ?2 AND (a.asset = ?5 OR a.version = 0)))
         LEFT JOIN audit h ON h.user_id = a.user_id AND h.chain = a.asset
             AND h.seq = (SELECT max(seq) FROM audit
                          WHERE user_id = a.user_id AND chain = a.asset AND at <= ?2)
         WHERE u.user_id = ?1 ORDER BY a.asset",
    )
    .bind(user_id.uuid())
    .bind(then.micros())
    .bind(PLATFORM.uuid())
    .bind(first_share_price().micros())
    .bind(default_asset.as_str())
    .fetch_all(conn)
    .await?;
    of_user(&rows, balance)
}

/// `None` without any row; a row without an asset is a user without what was joined.
fn of_user<T>(rows: &[SqliteRow], read: fn(&SqliteRow) -> Result<T>) -> Result<Option<Vec<T>>> {
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

fn balance(row: &SqliteRow) -> Result<Balance> {
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
    conn: &mut SqliteConnection,
    user_id: UserId,
    id: TransactionId,
) -> Result<Option<Transaction>> {
    let row = sqlx::query("SELECT * FROM transactions WHERE user_id = ?1 AND transaction_id = ?2")
        .bind(user_id.uuid())
        .bind(id.uuid())
        .fetch_optional(conn)
        .await?;
    row.as_ref().map(transaction).transpose()
}

pub(super) async fn list(
    conn: &mut SqliteConnection,
    user_id: UserId,
    filter: &TransactionFilter,
    page: &Page<TransactionId>,
) -> Result<Option<Vec<Transaction>>> {
    let rows = matching(user_id, filter, page)
        .build()
        .fetch_all(&mut *conn)
        .await?;
    if rows.is_empty() && !user_exists(conn, user_id).await? {
        return Ok(None);
    }
    rows.iter()
        .map(transaction)
        .collect::<Result<_>>()
        .map(Some)
}

/// Only the conditions that are asked for, so that the planner can use the index of each.
fn matching(
    user_id: UserId,
    filter: &TransactionFilter,
    page: &Page<TransactionId>,
) -> QueryBuilder<Driver> {
    let (from, below) = filter.ids(page.after);
    let mut query = QueryBuilder::new("SELECT * FROM transactions WHERE user_id = ");
    query.push_bind(user_id.uuid());
    query.push(" AND transaction_id >= ").push_bind(from.uuid());
    query.push(" AND transaction_id < ").push_bind(below.uuid());
    if let Some(kind) = filter.kind {
        query.push(" AND type = ").push_bind(kind.as_str());
    } else if filter.tx_hash.is_some() {
        // All of them, so that the unique index of hashes, which they are part of, can be used.
        query.push(" AND type IN ('deposit', 'withdraw', 'yield_harvest', 'referral_bonus')");
    }
    if let Some(status) = filter.status {
        query.push(" AND status = ").push_bind(status.as_str());
    }
    if let Some(asset) = &filter.asset {
        query
            .push(" AND asset = ")
            .push_bind(asset.as_str().to_owned());
    }
    if let Some(reference) = &filter.client_reference {
        query
            .push(" AND client_reference = ")
            .push_bind(reference.clone());
    }
    if let Some(hash) = &filter.tx_hash {
        query.push(" AND tx_hash = ").push_bind(hash.clone());
    }
    query.push(" ORDER BY transaction_id DESC LIMIT ");
    query.push_bind(page.limit);
    query
}

pub(super) async fn stats(
    conn: &mut SqliteConnection,
    user_id: UserId,
    since: Timestamp,
) -> Result<Option<Stats>> {
    let mut stats = Stats::default();
    let by_type = sqlx::query(
        "SELECT type, status, count(*) AS count,
                sum(amount / 1000000) AS units, sum(amount % 1000000) AS rest
         FROM transactions
         WHERE user_id = ?1 AND transaction_id >= ?2 GROUP BY type, status ORDER BY type, status",
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
            sum: sum(row, "units", "rest")?,
        });
    }
    let by_month = sqlx::query(
        "SELECT strftime('%Y-%m', created_at / 1000000, 'unixepoch') AS month, type, count(*) AS count,
                sum(amount / 1000000) AS units, sum(amount % 1000000) AS rest
         FROM transactions WHERE user_id = ?1 AND transaction_id >= ?2 AND status = 'confirmed'
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
            sum: sum(row, "units", "rest")?,
        });
    }
    if stats.by_type.is_empty() && !user_exists(conn, user_id).await? {
        return Ok(None);
    }
    Ok(Some(stats))
}

/// A sum of micro-units, which may be beyond 64 bits, from its whole units and rests.
fn sum(row: &SqliteRow, units: &str, rest: &str) -> Result<SignedSum> {
    let units = i128::from(row.integer(units)?);
    let rest = i128::from(row.integer(rest)?);
    Ok(SignedSum::from_micros(units * MICROS + rest))
}

pub(super) async fn trial_balance(conn: &mut SqliteConnection) -> Result<Vec<TrialBalance>> {
    let rows = sqlx::query(
        "SELECT s.asset,
             coalesce(sum(available / 1000000 + locked / 1000000), 0) AS users_units,
             coalesce(sum(available % 1000000 + locked % 1000000), 0) AS users_rest,
             coalesce(sum(withdrawn / 1000000 - deposited / 1000000), 0) AS custody_units,
             coalesce(sum(withdrawn % 1000000 - deposited % 1000000), 0) AS custody_rest,
             coalesce(-sum(total_yield_earned / 1000000), 0) AS yield_units,
             coalesce(-sum(total_yield_earned % 1000000), 0) AS yield_rest,
             coalesce(-sum(bonuses / 1000000), 0) AS promotions_units,
             coalesce(-sum(bonuses % 1000000), 0) AS promotions_rest,
             coalesce(sum(fees / 1000000), 0) AS fees_units,
             coalesce(sum(fees % 1000000), 0) AS fees_rest,
             count(a.user_id) AS accounts
         FROM assets s LEFT JOIN accounts a ON a.asset = s.asset GROUP BY s.asset ORDER BY s.asset",
    )
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let users = sum(row, "users_units", "users_rest")?;
            let custody = sum(row, "custody_units", "custody_rest")?;
            let yield_ = sum(row, "yield_units", "yield_rest")?;
            let promotions = sum(row, "promotions_units", "promotions_rest")?;
            let fees = sum(row, "fees_units", "fees_rest")?;
            let net = [custody, yield_, promotions, fees]
                .into_iter()
                .try_fold(users, SignedSum::checked_add)
                .ok_or_else(|| undecodable("users", "the net sum is out of range"))?;
            Ok(TrialBalance {
                asset: row.parsed("asset", Asset::parse)?,
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
    conn: &mut SqliteConnection,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<(UserId, TransactionId)>> {
    let rows = sqlx::query(
        "SELECT user_id, transaction_id FROM transactions
         WHERE status = 'pending' AND expires_at <= ?1 AND submitted_at IS NULL ORDER BY expires_at LIMIT ?2",
    )
    .bind(now.micros())
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| Ok((row.id("user_id")?, row.id("transaction_id")?)))
        .collect()
}

/// How many holds have expired, as [`expired_holds`] finds them.
const OVERDUE_HOLDS: &str = "SELECT count(*) AS count, min(expires_at) AS oldest FROM (
             SELECT expires_at FROM transactions
             WHERE status = 'pending' AND expires_at <= ?1 AND submitted_at IS NULL
             ORDER BY expires_at LIMIT ?2)";
/// How many stored answers are from before a time, of single requests and of batches.
const OLD_KEYS: &str = "SELECT min(count(*), ?2) AS count, min(created_at) AS oldest FROM (
             SELECT * FROM (SELECT created_at FROM idempotency_keys WHERE created_at < ?1
                            ORDER BY created_at LIMIT ?2)
             UNION ALL
             SELECT * FROM (SELECT created_at FROM batch_keys WHERE created_at < ?1
                            ORDER BY created_at LIMIT ?2))";

pub(super) async fn backlog(
    conn: &mut SqliteConnection,
    now: Timestamp,
    keys_before: Timestamp,
    up_to: u32,
) -> Result<Backlog> {
    let holds = sqlx::query(OVERDUE_HOLDS).bind(now.micros()).bind(up_to);
    let overdue_holds = due(&holds.fetch_one(&mut *conn).await?)?;
    let keys = sqlx::query(OLD_KEYS).bind(keys_before.micros()).bind(up_to);
    let old_keys = due(&keys.fetch_one(conn).await?)?;
    Ok(Backlog {
        overdue_holds,
        old_keys,
    })
}

fn due(row: &SqliteRow) -> Result<Due> {
    let count = row.integer("count")?;
    Ok(Due {
        count: u64::try_from(count).map_err(|error| undecodable("count", error))?,
        oldest: row.optional_timestamp("oldest")?,
    })
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};

    use super::*;
    use crate::stores::sqlite::open;

    /// How SQLite reads what `filter` chooses.
    async fn plan(conn: &mut SqliteConnection, filter: &TransactionFilter) -> Vec<String> {
        let page = Page {
            after: None,
            limit: 20,
        };
        let user = UserId::new(Timestamp::from_micros(1));
        let query = matching(user, filter, &page);
        let explain = format!("EXPLAIN QUERY PLAN {}", query.sql().as_str());
        let rows = sqlx::query(AssertSqlSafe(explain)).fetch_all(conn).await;
        let rows = rows.expect("a plan");
        rows.iter().map(|row| row.get("detail")).collect()
    }

    #[tokio::test]
    async fn backlogs_are_counted_by_indexes() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("abunfi.db");
        open::prepare_relational(&path, true).await.expect("a file");
        let mut conn = open::writer_options(&path).connect().await.expect("opens");
        for (query, searches) in [(OVERDUE_HOLDS, 1), (OLD_KEYS, 2)] {
            let explain = format!("EXPLAIN QUERY PLAN {query}");
            let rows = sqlx::query(AssertSqlSafe(explain)).fetch_all(&mut conn);
            let rows = rows.await.expect("a plan");
            let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
            let count = |begin: &str, index: &str| {
                let of = |step: &&String| step.starts_with(begin) && step.contains(index);
                plan.iter().filter(of).count()
            };
            assert_eq!(count("SEARCH ", " INDEX "), searches, "{plan:?}");
            for table in ["transactions", "idempotency_keys", "batch_keys"] {
                assert_eq!(count("SCAN ", table), 0, "{plan:?}");
            }
            assert_eq!(count("USE TEMP B-TREE", ""), 0, "{plan:?}");
        }
    }

    #[tokio::test]
    async fn lists_search_an_index_and_sort_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("abunfi.db");
        open::prepare_relational(&path, true).await.expect("a file");
        let mut conn = open::writer_options(&path).connect().await.expect("opens");
        let all = TransactionFilter::default();
        let by_key = [
            all.clone(),
            TransactionFilter {
                kind: Some(TransactionType::Deposit),
                status: Some(TransactionStatus::Confirmed),
                asset: Some(Asset::parse("VND").expect("an asset")),
                ..all.clone()
            },
        ];
        for filter in by_key {
            let plan = plan(&mut conn, &filter).await;
            assert_eq!(
                plan,
                [
                    // The primary key's, by the name that SQLite gives it; and no line tells of sorting.
                    "SEARCH transactions USING INDEX sqlite_autoindex_transactions_1 \
                     (user_id=? AND transaction_id>? AND transaction_id<?)"
                ],
                "{filter:?}"
            );
        }
    }
}
