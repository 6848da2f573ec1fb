//! After a decision: every row that changed, one statement for each table.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{AnswerArrays, Result, key_arrays, to_json};
use crate::clock::Timestamp;
use crate::faults::{self, Bug};
use crate::ledger::posting::{Account, AccountKey, Answer, AnswerKey, Books, Effects};
use crate::ledger::{LedgerAccount, Transaction};
use crate::money::Amount;
use crate::stores::postgres::audit;

/// Writes all effects: accounts, transactions, entries, audit rows, answers.
pub(super) async fn write(conn: &mut PgConnection, books: &Books) -> Result<()> {
    let effects = &books.effects;
    update_accounts(conn, books).await?;
    insert_transactions(conn, books).await?;
    update_transactions(conn, books).await?;
    insert_entries(conn, effects).await?;
    let answers_apart = faults::has(Bug::AnswerInItsOwnTransaction);
    if !answers_apart {
        insert_answers(conn, books).await?;
    }
    faults::split_postgres(Bug::AuditOutside, conn).await?;
    audit::insert(conn, &effects.audit, &effects.private).await?;
    if answers_apart {
        faults::split_postgres(Bug::AnswerInItsOwnTransaction, conn).await?;
        insert_answers(conn, books).await?;
    }
    Ok(())
}

async fn update_accounts(conn: &mut PgConnection, books: &Books) -> Result<()> {
    let rows: Vec<(&AccountKey, &Account)> = books
        .effects
        .accounts
        .iter()
        .filter_map(|key| books.accounts.get(key).map(|account| (key, account)))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let (users, assets) = key_arrays(rows.iter().map(|(key, _)| *key));
    let column = |value: fn(&Account) -> i64| {
        rows.iter()
            .map(|(_, account)| value(account))
            .collect::<Vec<_>>()
    };
    sqlx::query(
        "UPDATE accounts a SET
             available = n.available, locked = n.locked, shares = n.shares, locked_shares = n.locked_shares,
             deposited = n.deposited, withdrawn = n.withdrawn, total_yield_earned = n.yield_earned,
             bonuses = n.bonuses, fees = n.fees, last_yield_at = n.last_yield_at, pending = n.pending,
             version = n.version, chain_hash = n.chain_hash, chain_at = n.chain_at
         FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                     $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::timestamptz[], $13::int[],
                     $14::bigint[], $15::bytea[], $16::timestamptz[])
              AS n (user_id, asset, available, locked, shares, locked_shares, deposited, withdrawn, yield_earned,
                    bonuses, fees, last_yield_at, pending, version, chain_hash, chain_at)
         WHERE a.user_id = n.user_id AND a.asset = n.asset",
    )
    .bind(users)
    .bind(assets)
    .bind(column(|account| account.available.micros()))
    .bind(column(|account| account.locked.micros()))
    .bind(column(|account| account.shares.micros()))
    .bind(column(|account| account.locked_shares.micros()))
    .bind(column(|account| account.totals.deposited))
    .bind(column(|account| account.totals.withdrawn))
    .bind(column(|account| account.totals.yield_earned))
    .bind(column(|account| account.totals.bonuses))
    .bind(column(|account| account.totals.fees))
    .bind(rows.iter().map(|(_, account)| account.last_yield_at.map(OffsetDateTime::from)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, account)| account.pending).collect::<Vec<_>>())
    .bind(column(|account| account.head.seq))
    .bind(rows.iter().map(|(_, account)| account.head.hash.to_vec()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, account)| OffsetDateTime::from(account.head_at)).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert_transactions(conn: &mut PgConnection, books: &Books) -> Result<()> {
    let rows: Vec<&Transaction> = books
        .effects
        .inserted
        .iter()
        .filter_map(|key| books.transactions.get(key))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let texts = |value: fn(&Transaction) -> Option<String>| {
        rows.iter().map(|tx| value(tx)).collect::<Vec<_>>()
    };
    let counts = |value: fn(&Transaction) -> Option<i64>| {
        rows.iter().map(|tx| value(tx)).collect::<Vec<_>>()
    };
    let times = |value: fn(&Transaction) -> Option<Timestamp>| {
        rows.iter()
            .map(|tx| value(tx).map(OffsetDateTime::from))
            .collect::<Vec<_>>()
    };
    sqlx::query(
        "INSERT INTO transactions (user_id, transaction_id, type, status, asset, amount, shares, expires_at,
             submitted_at, client_reference, tx_hash, block_number, gas_used, gas_fee, confirmations,
             exchange_rate, amount_vnd, metadata, error_message, created_at, confirmed_at)
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bigint[],
             $7::bigint[], $8::timestamptz[], $9::timestamptz[], $10::text[], $11::text[], $12::bigint[],
             $13::bigint[], $14::text[], $15::bigint[], $16::text[], $17::bigint[], $18::text[], $19::text[],
             $20::timestamptz[], $21::timestamptz[])",
    )
    .bind(rows.iter().map(|tx| tx.user_id.uuid()).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.id.uuid()).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.kind.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.status.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.asset.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.amount.micros()).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.shares.micros()).collect::<Vec<_>>())
    .bind(times(|tx| tx.expires_at))
    .bind(times(|tx| tx.submitted_at))
    .bind(texts(|tx| tx.client_reference.clone()))
    .bind(texts(|tx| tx.tx_hash.clone()))
    .bind(counts(|tx| tx.block_number))
    .bind(counts(|tx| tx.gas_used))
    .bind(texts(|tx| tx.gas_fee.map(|fee| fee.to_string())))
    .bind(rows.iter().map(|tx| tx.confirmations).collect::<Vec<_>>())
    .bind(texts(|tx| tx.exchange_rate.map(|rate| rate.to_string())))
    .bind(counts(|tx| tx.amount_vnd.map(Amount::micros)))
    .bind(texts(metadata_text))
    .bind(texts(|tx| tx.error_message.clone()))
    .bind(rows.iter().map(|tx| OffsetDateTime::from(tx.created_at)).collect::<Vec<_>>())
    .bind(times(|tx| tx.confirmed_at))
    .execute(conn)
    .await?;
    Ok(())
}

/// Settling and submitting change a few columns only; what identifies a transaction never changes.
async fn update_transactions(conn: &mut PgConnection, books: &Books) -> Result<()> {
    let effects = &books.effects;
    let rows: Vec<&Transaction> = effects
        .updated
        .iter()
        .filter(|key| !effects.inserted.contains(key))
        .filter_map(|key| books.transactions.get(key))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE transactions t SET
             status = n.status, submitted_at = n.submitted_at, tx_hash = n.tx_hash, block_number = n.block_number,
             gas_used = n.gas_used, gas_fee = n.gas_fee, confirmations = n.confirmations,
             error_message = n.error_message, confirmed_at = n.confirmed_at
         FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::text[], $6::bigint[], $7::bigint[],
                     $8::text[], $9::bigint[], $10::text[], $11::timestamptz[])
              AS n (user_id, transaction_id, status, submitted_at, tx_hash, block_number, gas_used, gas_fee,
                    confirmations, error_message, confirmed_at)
         WHERE t.user_id = n.user_id AND t.transaction_id = n.transaction_id",
    )
    .bind(rows.iter().map(|tx| tx.user_id.uuid()).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.id.uuid()).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.status.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.submitted_at.map(OffsetDateTime::from)).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.tx_hash.clone()).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.block_number).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.gas_used).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.gas_fee.map(|fee| fee.to_string())).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.confirmations).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.error_message.clone()).collect::<Vec<_>>())
    .bind(rows.iter().map(|tx| tx.confirmed_at.map(OffsetDateTime::from)).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert_entries(conn: &mut PgConnection, effects: &Effects) -> Result<()> {
    let rows = &effects.entries;
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO entries (user_id, transaction_id, account, asset, amount, at)
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[])",
    )
    .bind(rows.iter().map(|entry| entry.user_id.uuid()).collect::<Vec<_>>())
    .bind(rows.iter().map(|entry| entry.transaction_id.uuid()).collect::<Vec<_>>())
    .bind(rows.iter().map(|entry| LedgerAccount::as_str(entry.account)).collect::<Vec<_>>())
    .bind(rows.iter().map(|entry| entry.asset.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|entry| entry.amount).collect::<Vec<_>>())
    .bind(rows.iter().map(|entry| OffsetDateTime::from(entry.at)).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert_answers(conn: &mut PgConnection, books: &Books) -> Result<()> {
    let rows: Vec<(&AnswerKey, &Answer)> = books
        .effects
        .answers
        .iter()
        .filter_map(|key| books.answers.get(key).map(|answer| (key, answer)))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let keys = AnswerArrays::of(rows.iter().map(|(key, _)| *key));
    let answers: Vec<String> = rows
        .iter()
        .map(|(_, row)| to_json(&row.answer))
        .collect::<Result<_>>()?;
    sqlx::query(
        "INSERT INTO idempotency_keys (user_id, principal, scope, key, fingerprint, answer, created_at)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[],
             $7::timestamptz[])",
    )
    .bind(keys.users)
    .bind(keys.principals)
    .bind(keys.scopes)
    .bind(keys.keys)
    .bind(rows.iter().map(|(_, row)| row.fingerprint.to_vec()).collect::<Vec<_>>())
    .bind(answers)
    .bind(rows.iter().map(|(_, row)| OffsetDateTime::from(row.at)).collect::<Vec<_>>())
    .execute(conn)
    .await?;
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
