//! Reading the books for an export, and erasing what is personal in the trail.

use async_trait::async_trait;
use serde_json::json;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::columns::{Columns, hex, row_list};
use super::{Sqlite, audit};
use crate::audit::{
    Balances, ChainPart, Entry, ExportHead, ExportStore, ExportedEntry, ExportedTransaction, Head,
    UserRange, drafts,
};
use crate::clock::Timestamp;
use crate::context::Context;
use crate::error::StoreError;
use crate::ids::{TransactionId, UserId};

#[async_trait]
impl ExportStore for Sqlite {
    async fn export_heads(
        &self,
        after: Option<UserId>,
        users: u32,
    ) -> Result<Vec<ExportHead>, StoreError> {
        let from = after.map_or(Uuid::nil(), |UserId(last)| {
            Uuid::from_u128(last.as_u128().saturating_add(1))
        });
        self.relational
            .read(async |connection| {
                sqlx::query(HEADS)
                    .bind(from)
                    .bind(users)
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(head)
                    .collect()
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
        self.relational
            .read(async |connection| {
                sqlx::query(
                    "SELECT entry.*, NULL AS reason FROM audit AS entry
                         WHERE (user_id, chain, seq) > (?1, ?2, ?3) AND user_id <= ?4
                         ORDER BY user_id, chain, seq LIMIT ?5",
                )
                .bind(user.0)
                .bind(chain)
                .bind(seq)
                .bind(users.last.0)
                .bind(rows)
                .fetch_all(connection)
                .await?
                .iter()
                .map(|row| audit::audit_row(row).map(|row| row.entry))
                .collect()
            })
            .await
    }

    async fn export_parts(&self, parts: &[ChainPart]) -> Result<Vec<Entry>, StoreError> {
        let parts = row_list(parts, |part| {
            json!([
                hex(part.user_id.0.as_bytes()),
                part.chain,
                part.after,
                part.through
            ])
        });
        self.relational
            .read(async |connection| {
                sqlx::query(PARTS)
                    .bind(parts)
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(|row| audit::audit_row(row).map(|row| row.entry))
                    .collect()
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
        self.relational
            .read(async |connection| {
                    sqlx::query(
                        "SELECT user_id, transaction_id, type, status, asset, amount, shares FROM transactions
                         WHERE (user_id, transaction_id) > (?1, ?2) AND user_id <= ?3
                         ORDER BY user_id, transaction_id LIMIT ?4",
                    )
                    .bind(user.0)
                    .bind(id.0)
                    .bind(users.last.0)
                    .bind(rows)
                    .fetch_all(connection)
                    .await?
                    .iter()
                    .map(transaction)
                    .collect()
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
        self.relational
            .read(async |connection| {
                sqlx::query(
                    "SELECT user_id, transaction_id, account, asset, amount FROM entries
                         WHERE (user_id, transaction_id, account) > (?1, ?2, ?3) AND user_id <= ?4
                         ORDER BY user_id, transaction_id, account LIMIT ?5",
                )
                .bind(user.0)
                .bind(id.0)
                .bind(account)
                .bind(users.last.0)
                .bind(rows)
                .fetch_all(connection)
                .await?
                .iter()
                .map(entry)
                .collect()
            })
            .await
    }

    async fn erase(
        &self,
        ctx: &Context,
        user_id: UserId,
        at: Timestamp,
    ) -> Result<Option<u64>, StoreError> {
        self.relational
            .write(async |connection| {
                let user = sqlx::query("SELECT 1 FROM users WHERE user_id = ?1")
                    .bind(user_id.0)
                    .fetch_optional(&mut *connection)
                    .await?;
                if user.is_none() {
                    return Ok(None);
                }
                let erased = sqlx::query("DELETE FROM audit_private WHERE user_id = ?1")
                    .bind(user_id.0)
                    .execute(&mut *connection)
                    .await?
                    .rows_affected();
                if erased > 0 {
                    audit::append(connection, drafts::erased(ctx, user_id, at)).await?;
                }
                Ok(Some(erased))
            })
            .await
    }
}

/// CROSS JOIN: SQLite keeps that order of the two.
const PARTS: &str = "
    SELECT entry.*, NULL AS reason
    FROM json_each(?1) AS part
    CROSS JOIN audit AS entry ON entry.user_id = unhex(part.value ->> 0) AND entry.chain = part.value ->> 1
        AND entry.seq > part.value ->> 2 AND entry.seq <= part.value ->> 3
    ORDER BY part.key, entry.seq";

const HEADS: &str = "
    WITH page AS (
        SELECT user_id FROM (
            SELECT * FROM (
                SELECT DISTINCT user_id FROM accounts WHERE user_id >= ?1 ORDER BY user_id LIMIT ?2)
            UNION
            SELECT * FROM (
                SELECT DISTINCT user_id FROM chain_heads WHERE user_id >= ?1 ORDER BY user_id LIMIT ?2))
        ORDER BY user_id LIMIT ?2)
    SELECT a.user_id, a.asset AS chain, a.version AS seq, a.chain_hash AS hash, 1 AS is_account,
           a.available, a.locked, a.shares, a.locked_shares, a.deposited, a.withdrawn,
           a.total_yield_earned, a.bonuses, a.fees
    FROM page JOIN accounts AS a ON a.user_id = page.user_id
    UNION ALL
    SELECT h.user_id, h.chain, h.seq, h.hash, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
    FROM page JOIN chain_heads AS h ON h.user_id = page.user_id
    ORDER BY 1, 2";

fn head(row: &SqliteRow) -> Result<ExportHead, sqlx::Error> {
    let is_account = row.flag("is_account")?;
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

fn transaction(row: &SqliteRow) -> Result<ExportedTransaction, sqlx::Error> {
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

fn entry(row: &SqliteRow) -> Result<ExportedEntry, sqlx::Error> {
    Ok(ExportedEntry {
        user_id: row.id("user_id")?,
        transaction_id: row.id("transaction_id")?,
        account: row.text("account")?,
        asset: row.text("asset")?,
        amount: row.integer("amount")?,
    })
}
