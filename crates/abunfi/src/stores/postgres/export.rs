//! Reading the books for an export, and erasing what is personal in the trail.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::columns::{Columns, column, limit};
use super::lane::scoped;
use super::{Postgres, audit};
use crate::audit::{
    Balances, ChainPart, Entry, ExportHead, ExportStore, ExportedEntry, ExportedTransaction, Head,
    UserRange, drafts,
};
use crate::clock::Timestamp;
use crate::context::Context;
use crate::error::StoreError;
use crate::ids::{TransactionId, UserId};

#[async_trait]
impl ExportStore for Postgres {
    async fn export_heads(
        &self,
        after: Option<UserId>,
        users: u32,
    ) -> Result<Vec<ExportHead>, StoreError> {
        let from = after.map_or(Uuid::nil(), |UserId(last)| {
            Uuid::from_u128(last.as_u128().saturating_add(1))
        });
        self.trail
            .read(|connection| {
                scoped(async move {
                    sqlx::query(HEADS)
                        .bind(from)
                        .bind(limit(users))
                        .fetch_all(connection)
                        .await?
                        .iter()
                        .map(head)
                        .collect()
                })
            })
            .await
    }

    async fn export_rows(
        &self,
        users: UserRange,
        after: Option<(UserId, &str, i64)>,
        rows: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        let (user, chain, seq) = after.unwrap_or((users.first, "", 0));
        self.trail
            .read(|connection| {
                scoped(async move {
                    sqlx::query(
                        "SELECT entry.*, NULL::text AS reason FROM audit AS entry
                         WHERE (user_id, chain, seq) > ($1, $2, $3) AND user_id <= $4
                         ORDER BY user_id, chain, seq LIMIT $5",
                    )
                    .bind(user.0)
                    .bind(chain)
                    .bind(seq)
                    .bind(users.last.0)
                    .bind(limit(rows))
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(|row| audit::audit_row(row).map(|row| row.entry))
                    .collect()
                })
            })
            .await
    }

    async fn export_parts(&self, parts: &[ChainPart]) -> Result<Vec<Entry>, StoreError> {
        self.trail
            .read(|connection| {
                scoped(async move {
                    sqlx::query(PARTS)
                        .bind(column(parts, |part| part.user_id.0))
                        .bind(column(parts, |part| part.chain.as_str()))
                        .bind(column(parts, |part| part.after))
                        .bind(column(parts, |part| part.through))
                        .fetch_all(connection)
                        .await?
                        .iter()
                        .map(|row| audit::audit_row(row).map(|row| row.entry))
                        .collect()
                })
            })
            .await
    }

    async fn export_transactions(
        &self,
        users: UserRange,
        after: Option<(UserId, TransactionId)>,
        rows: u32,
    ) -> Result<Vec<ExportedTransaction>, StoreError> {
        let (user, id) = after.unwrap_or((users.first, TransactionId(Uuid::nil())));
        self.trail
            .read(|connection| {
                scoped(async move {
                    sqlx::query(
                        "SELECT user_id, transaction_id, type, status, asset, amount, shares FROM transactions
                         WHERE (user_id, transaction_id) > ($1, $2) AND user_id <= $3
                         ORDER BY user_id, transaction_id LIMIT $4",
                    )
                    .bind(user.0)
                    .bind(id.0)
                    .bind(users.last.0)
                    .bind(limit(rows))
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(transaction)
                    .collect()
                })
            })
            .await
    }

    async fn export_entries(
        &self,
        users: UserRange,
        after: Option<(UserId, TransactionId, &str)>,
        rows: u32,
    ) -> Result<Vec<ExportedEntry>, StoreError> {
        let (user, id, account) = after.unwrap_or((users.first, TransactionId(Uuid::nil()), ""));
        self.trail
            .read(|connection| {
                scoped(async move {
                    sqlx::query(
                        "SELECT user_id, transaction_id, account, asset, amount FROM entries
                         WHERE (user_id, transaction_id, account) > ($1, $2, $3) AND user_id <= $4
                         ORDER BY user_id, transaction_id, account LIMIT $5",
                    )
                    .bind(user.0)
                    .bind(id.0)
                    .bind(account)
                    .bind(users.last.0)
                    .bind(limit(rows))
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(entry)
                    .collect()
                })
            })
            .await
    }

    async fn erase(
        &self,
        ctx: &Context,
        user_id: UserId,
        at: Timestamp,
    ) -> Result<Option<u64>, StoreError> {
        self.requests
            .write(|connection| {
                scoped(async move {
                    // The user first, as in every unit of work; so no KYC is set meanwhile.
                    let user = sqlx::query("SELECT 1 FROM users WHERE user_id = $1 FOR UPDATE")
                        .bind(user_id.0)
                        .fetch_optional(&mut *connection)
                        .await?;
                    if user.is_none() {
                        return Ok(None);
                    }
                    let erased = sqlx::query("DELETE FROM audit_private WHERE user_id = $1")
                        .bind(user_id.0)
                        .execute(&mut *connection)
                        .await?
                        .rows_affected();
                    if erased > 0 {
                        audit::append(connection, drafts::erased(ctx, user_id, at)).await?;
                    }
                    Ok(Some(erased))
                })
            })
            .await
    }
}

/// OFFSET 0: part by part by the primary key, whatever the server thinks of their number.
const PARTS: &str = "
    SELECT entry.*, NULL::text AS reason
    FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[]) WITH ORDINALITY
        AS part (user_id, chain, after, through, place)
    CROSS JOIN LATERAL (
        SELECT * FROM audit AS a WHERE a.user_id = part.user_id AND a.chain = part.chain
            AND a.seq > part.after AND a.seq <= part.through OFFSET 0) AS entry
    ORDER BY part.place, entry.seq";

const HEADS: &str = "
    WITH page AS MATERIALIZED (
        SELECT user_id FROM (
            (SELECT DISTINCT user_id FROM accounts WHERE user_id >= $1 ORDER BY user_id LIMIT $2)
            UNION
            (SELECT DISTINCT user_id FROM chain_heads WHERE user_id >= $1 ORDER BY user_id LIMIT $2)) AS users
        ORDER BY user_id LIMIT $2)
    SELECT a.user_id, a.asset AS chain, a.version AS seq, a.chain_hash AS hash, true AS is_account,
           a.available, a.locked, a.shares, a.locked_shares, a.deposited, a.withdrawn,
           a.total_yield_earned, a.bonuses, a.fees
    FROM page JOIN accounts AS a ON a.user_id = page.user_id
    UNION ALL
    SELECT h.user_id, h.chain, h.seq, h.hash, false, 0, 0, 0, 0, 0, 0, 0, 0, 0
    FROM page JOIN chain_heads AS h ON h.user_id = page.user_id
    ORDER BY user_id, chain";

fn head(row: &PgRow) -> Result<ExportHead, sqlx::Error> {
    let is_account: bool = sqlx::Row::try_get(row, "is_account")?;
    let balances = Balances {
        available: row.integer("available")?,
        locked: row.integer("locked")?,
        shares: row.integer("shares")?,
        locked_shares: row.integer("locked_shares")?,
        deposited: row.integer("deposited")?,
        withdrawn: row.integer("withdrawn")?,
        yield_earned: row.integer("total_yield_earned")?,
        bonuses: row.integer("bonuses")?,
        fees: row.integer("fees")?,
    };
    Ok(ExportHead {
        user_id: row.id("user_id")?,
        chain: row.text("chain")?,
        head: Head {
            seq: row.integer("seq")?,
            hash: row.hash("hash")?,
        },
        balances: is_account.then_some(balances),
    })
}

fn transaction(row: &PgRow) -> Result<ExportedTransaction, sqlx::Error> {
    Ok(ExportedTransaction {
        user_id: row.id("user_id")?,
        id: row.id("transaction_id")?,
        kind: row.text("type")?,
        status: row.text("status")?,
        asset: row.text("asset")?,
        amount: row.integer("amount")?,
        shares: row.integer("shares")?,
    })
}

fn entry(row: &PgRow) -> Result<ExportedEntry, sqlx::Error> {
    Ok(ExportedEntry {
        user_id: row.id("user_id")?,
        transaction_id: row.id("transaction_id")?,
        account: row.text("account")?,
        asset: row.text("asset")?,
        amount: row.integer("amount")?,
    })
}
