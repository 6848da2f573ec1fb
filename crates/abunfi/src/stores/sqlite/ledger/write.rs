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
    let rows = row_list(
        changed.filter_map(|key| books.accounts.get(key).map(|account| (key, account))),
        |((user, asset), account)| {
            json!([
                hex(user.0),
                asset,
                account.available.micros(),
                account.locked.micros(),
                account.shares.micros(),
                account.locked_shares.micros(),
                account.totals.deposited,
                account.totals.withdrawn,
                account.totals.yield_earned,
                account.totals.bonuses,
                account.totals.fees,
                account.last_yield_at.map(Timestamp::micros),
                account.pending,
                account.head.seq,
                hex(account.head.hash),
                account.head_at.micros(),
                account.owner_status,
            ])
        },
    );
    execute(
        conn,
        // `WHERE true` tells the upsert from a join condition.
        "INSERT INTO accounts (user_id, asset, available, locked, shares, locked_shares, deposited, withdrawn,
             total_yield_earned, bonuses, fees, last_yield_at, pending, version, chain_hash, chain_at,
             owner_status)
         SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
                value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13,
                unhex(value ->> 14), value ->> 15, value ->> 16
         FROM json_each(?1) WHERE true
         ON CONFLICT (user_id, asset) DO UPDATE SET
             available = excluded.available, locked = excluded.locked, shares = excluded.shares,
             locked_shares = excluded.locked_shares, deposited = excluded.deposited,
             withdrawn = excluded.withdrawn, total_yield_earned = excluded.total_yield_earned,
             bonuses = excluded.bonuses, fees = excluded.fees, last_yield_at = excluded.last_yield_at,
             pending = excluded.pending, version = excluded.version, chain_hash = excluded.chain_hash,
             chain_at = excluded.chain_at",
        rows,
    )
    .await
}

async fn insert_transactions(conn: &mut SqliteConnection, books: &Books) -> Result<()> {
    let inserted = books.effects.inserted.iter();
    let rows = row_list(
        inserted.filter_map(|key| books.transactions.get(key)),
        |tx| {
            json!([
                hex(tx.user_id.0),
                hex(tx.id.0),
                tx.kind,
                tx.status,
                tx.asset,
                tx.amount.micros(),
                tx.shares.micros(),
                tx.expires_at.map(Timestamp::micros),
                tx.submitted_at.map(Timestamp::micros),
                tx.client_reference,
                tx.tx_hash,
                tx.block_number,
                tx.gas_used,
                tx.gas_fee,
                tx.confirmations,
                tx.exchange_rate,
                tx.amount_vnd.map(Amount::micros),
                metadata_text(tx),
                tx.error_message,
                tx.created_at.micros(),
                tx.confirmed_at.map(Timestamp::micros),
            ])
        },
    );
    execute(
        conn,
        "INSERT INTO transactions (user_id, transaction_id, type, status, asset, amount, shares, expires_at,
             submitted_at, client_reference, tx_hash, block_number, gas_used, gas_fee, confirmations,
             exchange_rate, amount_vnd, metadata, error_message, created_at, confirmed_at)
         SELECT unhex(value ->> 0), unhex(value ->> 1), value ->> 2, value ->> 3, value ->> 4, value ->> 5,
                value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12,
                value ->> 13, value ->> 14, value ->> 15, value ->> 16, value ->> 17, value ->> 18,
                value ->> 19, value ->> 20
         FROM json_each(?1)",
        rows,
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
    let rows = row_list(&effects.entries, |entry| {
        json!([
            hex(entry.user_id.0),
            hex(entry.transaction_id.0),
            entry.account,
            entry.asset,
            entry.amount,
            entry.at.micros(),
        ])
    });
    execute(
        conn,
        "INSERT INTO entries (user_id, transaction_id, account, asset, amount, at)
         SELECT unhex(value ->> 0), unhex(value ->> 1), value ->> 2, value ->> 3, value ->> 4, value ->> 5
         FROM json_each(?1)",
        rows,
    )
    .await
}

async fn insert_answers(conn: &mut SqliteConnection, books: &Books) -> Result<()> {
    let mut answers = Vec::with_capacity(books.effects.answers.len());
    for key in &books.effects.answers {
        if let Some(row) = books.answers.get(key) {
            let kept = Kept::of(&row.answer).map_err(|error| sqlx::Error::Encode(error.into()))?;
            answers.push((key, row, kept));
        }
    }
    let rows = row_list(answers, |(key, row, kept)| {
        json!([
            hex(key.user_id.0),
            key.principal,
            key.scope,
            key.key,
            kept.rows().map(|(id, _)| hex(id.0)),
            kept.rows().map(|(_, seq)| seq),
            row.at.micros(),
            hex(row.fingerprint),
            kept.text(),
        ])
    });
    execute(
        conn,
        "INSERT INTO idempotency_keys (user_id, principal, scope, key, transaction_id, seq, created_at,
             fingerprint, answer)
         SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, unhex(value ->> 4), value ->> 5,
                value ->> 6, unhex(value ->> 7), value ->> 8
         FROM json_each(?1)",
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
