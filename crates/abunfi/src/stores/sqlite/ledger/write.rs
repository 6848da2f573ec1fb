//! After a decision: every row that changed, one statement for each table.

use serde_json::json;
use sqlx::sqlite::SqliteConnection;

use super::Result;
use crate::clock::Timestamp;
use crate::faults::{self, Bug};
use crate::ledger::Transaction;
use crate::ledger::posting::{Books, Effects, Kept};
use crate::money::Amount;
use crate::stores::sqlite::audit;
use crate::stores::sqlite::columns::{hex, row_list};
use crate::stores::sqlite::rows::insert;

/// Writes all effects: accounts, transactions, entries, audit rows, answers.
pub(super) async fn write(conn: &mut SqliteConnection, books: &Books) -> Result<()> {
    let effects = &books.effects;
    put_accounts(conn, books).await?;
    insert_transactions(conn, books).await?;
    update_transactions(conn, books).await?;
    insert_entries(conn, effects).await?;
    let answers_apart = faults::has(Bug::AnswerInItsOwnTransaction);
    if !answers_apart {
        insert_answers(conn, books).await?;
    }
    faults::split_sqlite(Bug::AuditOutside, conn).await?;
    audit::insert(conn, &effects.audit, &effects.private).await?;
    if answers_apart {
        faults::split_sqlite(Bug::AnswerInItsOwnTransaction, conn).await?;
        insert_answers(conn, books).await?;
    }
    Ok(())
}

async fn put_accounts(conn: &mut SqliteConnection, books: &Books) -> Result<()> {
    let changed = books.effects.accounts.iter();
    let rows = changed
        .filter_map(|key| books.accounts.get(key).map(|account| (key, account)))
        .map(|((user, asset), account)| {
            [
                user.0.into(),
                asset.as_str().into(),
                account.available.micros().into(),
                account.locked.micros().into(),
                account.shares.micros().into(),
                account.locked_shares.micros().into(),
                account.totals.deposited.into(),
                account.totals.withdrawn.into(),
                account.totals.yield_earned.into(),
                account.totals.bonuses.into(),
                account.totals.fees.into(),
                account.last_yield_at.map(Timestamp::micros).into(),
                account.pending.into(),
                account.head.seq.into(),
                account.head.hash.into(),
                account.head_at.micros().into(),
                account.owner_status.as_str().into(),
            ]
        });
    insert(
        conn,
        "INSERT INTO accounts (user_id, asset, available, locked, shares, locked_shares, deposited, withdrawn,
             total_yield_earned, bonuses, fees, last_yield_at, pending, version, chain_hash, chain_at,
             owner_status)",
        "ON CONFLICT (user_id, asset) DO UPDATE SET
             available = excluded.available, locked = excluded.locked, shares = excluded.shares,
             locked_shares = excluded.locked_shares, deposited = excluded.deposited,
             withdrawn = excluded.withdrawn, total_yield_earned = excluded.total_yield_earned,
             bonuses = excluded.bonuses, fees = excluded.fees, last_yield_at = excluded.last_yield_at,
             pending = excluded.pending, version = excluded.version, chain_hash = excluded.chain_hash,
             chain_at = excluded.chain_at",
        rows.collect(),
    )
    .await
}

async fn insert_transactions(conn: &mut SqliteConnection, books: &Books) -> Result<()> {
    let inserted = books.effects.inserted.iter();
    let rows = inserted
        .filter_map(|key| books.transactions.get(key))
        .map(|tx| {
            [
                tx.user_id.0.into(),
                tx.id.0.into(),
                tx.kind.as_str().into(),
                tx.status.as_str().into(),
                tx.asset.as_str().into(),
                tx.amount.micros().into(),
                tx.shares.micros().into(),
                tx.expires_at.map(Timestamp::micros).into(),
                tx.submitted_at.map(Timestamp::micros).into(),
                tx.client_reference.as_ref().into(),
                tx.tx_hash.as_ref().into(),
                tx.block_number.into(),
                tx.gas_used.into(),
                tx.gas_fee.map(|fee| fee.to_string()).into(),
                tx.confirmations.into(),
                tx.exchange_rate.map(|rate| rate.to_string()).into(),
                tx.amount_vnd.map(Amount::micros).into(),
                metadata_text(tx).into(),
                tx.error_message.as_ref().into(),
                tx.created_at.micros().into(),
                tx.confirmed_at.map(Timestamp::micros).into(),
            ]
        });
    insert(
        conn,
        "INSERT INTO transactions (user_id, transaction_id, type, status, asset, amount, shares, expires_at,
             submitted_at, client_reference, tx_hash, block_number, gas_used, gas_fee, confirmations,
             exchange_rate, amount_vnd, metadata, error_message, created_at, confirmed_at)",
        "",
        rows.collect(),
    )
    .await
}

/// Settling and submitting change a few columns only; what identifies a transaction never changes.
async fn update_transactions(conn: &mut SqliteConnection, books: &Books) -> Result<()> {
    let effects = &books.effects;
    let updated = effects
        .updated
        .iter()
        .filter(|key| !effects.inserted.contains(key));
    let rows = row_list(
        updated.filter_map(|key| books.transactions.get(key)),
        |tx| {
            json!([
                hex(tx.user_id.0),
                hex(tx.id.0),
                tx.status,
                tx.submitted_at.map(Timestamp::micros),
                tx.tx_hash,
                tx.block_number,
                tx.gas_used,
                tx.gas_fee,
                tx.confirmations,
                tx.error_message,
                tx.confirmed_at.map(Timestamp::micros),
            ])
        },
    );
    execute(
        conn,
        "UPDATE transactions SET
             status = new.value ->> 2, submitted_at = new.value ->> 3, tx_hash = new.value ->> 4,
             block_number = new.value ->> 5, gas_used = new.value ->> 6, gas_fee = new.value ->> 7,
             confirmations = new.value ->> 8, error_message = new.value ->> 9,
             confirmed_at = new.value ->> 10
         FROM json_each(?1) AS new
         WHERE transactions.user_id = unhex(new.value ->> 0)
             AND transactions.transaction_id = unhex(new.value ->> 1)",
        rows,
    )
    .await
}

async fn insert_entries(conn: &mut SqliteConnection, effects: &Effects) -> Result<()> {
    let rows = effects.entries.iter().map(|entry| {
        [
            entry.user_id.0.into(),
            entry.transaction_id.0.into(),
            entry.account.as_str().into(),
            entry.asset.as_str().into(),
            entry.amount.into(),
            entry.at.micros().into(),
        ]
    });
    insert(
        conn,
        "INSERT INTO entries (user_id, transaction_id, account, asset, amount, at)",
        "",
        rows.collect(),
    )
    .await
}

async fn insert_answers(conn: &mut SqliteConnection, books: &Books) -> Result<()> {
    let mut rows = Vec::with_capacity(books.effects.answers.len());
    for key in &books.effects.answers {
        if let Some(row) = books.answers.get(key) {
            let kept = Kept::of(&row.answer).map_err(|error| sqlx::Error::Encode(error.into()))?;
            rows.push([
                key.user_id.0.into(),
                key.principal.as_str().into(),
                key.scope.as_ref().into(),
                key.key.as_ref().into(),
                kept.rows().map(|(id, _)| id.0).into(),
                kept.rows().map(|(_, seq)| seq).into(),
                row.at.micros().into(),
                row.fingerprint.into(),
                kept.text().into(),
            ]);
        }
    }
    insert(
        conn,
        "INSERT INTO idempotency_keys (user_id, principal, scope, key, transaction_id, seq, created_at,
             fingerprint, answer)",
        "",
        rows,
    )
    .await
}

/// Runs a statement over a list of rows, if there are any.
async fn execute(conn: &mut SqliteConnection, statement: &'static str, rows: String) -> Result<()> {
    if rows == "[]" {
        return Ok(());
    }
    sqlx::query(statement).bind(rows).execute(conn).await?;
    Ok(())
}

/// Canonical JSON, or nothing for the empty object that most transactions have.
fn metadata_text(transaction: &Transaction) -> Option<String> {
    let empty = transaction
        .metadata
        .as_object()
        .is_none_or(serde_json::Map::is_empty);
    (!empty).then(|| crate::documents::canonical::canonical_json(&transaction.metadata))
}
