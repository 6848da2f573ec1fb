//! Before a decision: reads everything that the commands refer to.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::{Result, from_json};
use crate::audit::{AmountsAfter, Head};
use crate::ids::UserId;
use crate::ledger::posting::{
    Account, AccountKey, Answer, AnswerKey, Books, References, Totals, rebuild,
};
use crate::ledger::{
    Asset, Command, Refusal, StoredAnswer, Transaction, TransactionStatus, TransactionType,
};
use crate::money::Decimal18;
use crate::stores::sqlite::columns::{Columns, hex, json as stored_json, row_list, small};
use crate::users::UserStatus;

/// Reads everything that `commands` refer to.
pub(super) async fn load(conn: &mut SqliteConnection, commands: &[Command]) -> Result<Books> {
    let mut refs = References::of(commands);
    let mut books = Books::default();
    load_answers(conn, &refs, &mut books).await?;
    load_transactions(conn, &refs, &mut books).await?;
    let settled = books.transactions.values();
    refs.accounts
        .extend(settled.map(|transaction| (transaction.user_id, transaction.asset)));
    load_accounts(conn, &refs, &mut books).await?;
    open_missing(conn, &refs, &mut books).await?;
    load_uses(conn, &refs, &mut books).await?;
    Ok(books)
}

async fn load_answers(
    conn: &mut SqliteConnection,
    refs: &References,
    books: &mut Books,
) -> Result<()> {
    if refs.answers.is_empty() {
        return Ok(());
    }
    let keys = row_list(&refs.answers, |key| {
        json!([hex(key.user_id.0), key.principal, key.scope, key.key])
    });
    let rows = sqlx::query(
        "SELECT wanted.key AS wanted, known.fingerprint, known.answer, known.created_at AS answered_at,
                known.seq AS answered_seq, done.*, proof.request_id, proof.available_after, proof.locked_after,
                proof.shares_after, proof.locked_shares_after
         FROM json_each(?1) AS wanted
         JOIN idempotency_keys AS known
             ON known.user_id = unhex(wanted.value ->> 0) AND known.principal = wanted.value ->> 1
             AND known.scope = wanted.value ->> 2 AND known.key = wanted.value ->> 3
         LEFT JOIN transactions AS done
             ON done.user_id = known.user_id AND done.transaction_id = known.transaction_id
         LEFT JOIN audit AS proof
             ON proof.user_id = known.user_id AND proof.chain = done.asset AND proof.seq = known.seq
             AND proof.transaction_id = known.transaction_id",
    )
    .bind(keys)
    .fetch_all(conn)
    .await?;
    // The wanted keys went out in the order of the set, so their place finds them again.
    let wanted: Vec<&AnswerKey> = refs.answers.iter().collect();
    for row in &rows {
        let place: usize = small("wanted", row.integer("wanted")?)?;
        let Some(key) = wanted.get(place) else {
            continue;
        };
        let answer = match row.optional_text("answer")? {
            Some(text) => from_json("answer", &text)?,
            None => rebuilt(row)?,
        };
        let answer = Answer {
            fingerprint: row.hash("fingerprint")?,
            answer,
            at: row.timestamp("answered_at")?,
        };
        books.answers.insert((*key).clone(), answer);
    }
    Ok(())
}

/// The answer that a finished transaction and its audit row stand for.
fn rebuilt(row: &SqliteRow) -> Result<StoredAnswer> {
    let after = AmountsAfter {
        available: row.amount("available_after")?,
        locked: row.amount("locked_after")?,
        shares: row.amount("shares_after")?,
        locked_shares: row.amount("locked_shares_after")?,
    };
    Ok(rebuild(
        transaction(row)?,
        row.text("request_id")?.into(),
        row.integer("answered_seq")?,
        &after,
    ))
}

async fn load_transactions(
    conn: &mut SqliteConnection,
    refs: &References,
    books: &mut Books,
) -> Result<()> {
    if refs.transactions.is_empty() {
        return Ok(());
    }
    let keys = row_list(&refs.transactions, |(user, id)| {
        json!([hex(user.0), hex(id.0)])
    });
    let rows = sqlx::query(
        "SELECT known.* FROM json_each(?1) AS wanted JOIN transactions AS known
             ON known.user_id = unhex(wanted.value ->> 0)
             AND known.transaction_id = unhex(wanted.value ->> 1)",
    )
    .bind(keys)
    .fetch_all(conn)
    .await?;
    for row in &rows {
        let transaction = transaction(row)?;
        let key = (transaction.user_id, transaction.id);
        books.transactions.insert(key, transaction);
    }
    Ok(())
}

async fn load_accounts(
    conn: &mut SqliteConnection,
    refs: &References,
    books: &mut Books,
) -> Result<()> {
    let rows = sqlx::query(
        "SELECT known.* FROM json_each(?1) AS wanted JOIN accounts AS known
             ON known.user_id = unhex(wanted.value ->> 0) AND known.asset = wanted.value ->> 1",
    )
    .bind(account_list(&refs.accounts))
    .fetch_all(conn)
    .await?;
    for row in &rows {
        let key = (row.id("user_id")?, row.parsed("asset", Asset::parse)?);
        books.accounts.insert(key, account(row)?);
    }
    Ok(())
}

/// Accounts that are not there begin empty, and become rows with their first posting; what stands in the
/// way is a refusal.
async fn open_missing(
    conn: &mut SqliteConnection,
    refs: &References,
    books: &mut Books,
) -> Result<()> {
    let missing: BTreeSet<AccountKey> = refs
        .accounts
        .iter()
        .filter(|key| !books.accounts.contains_key(key))
        .cloned()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(
        "SELECT wanted.key AS wanted, user.status, asset.asset FROM json_each(?1) AS wanted
         LEFT JOIN users AS user ON user.user_id = unhex(wanted.value ->> 0)
         LEFT JOIN assets AS asset ON asset.asset = wanted.value ->> 1
         ORDER BY wanted.key",
    )
    .bind(account_list(&missing))
    .fetch_all(conn)
    .await?;
    for (key, row) in missing.into_iter().zip(&rows) {
        let status = row.optional_parsed("status", UserStatus::from_name)?;
        let asset = row.optional_text("asset")?;
        match (status, asset) {
            (Some(status), Some(_)) => {
                books.accounts.insert(key, Account::empty(status));
            }
            (None, _) => {
                books.absent.insert(key, Refusal::UserNotFound);
            }
            (Some(_), None) => {
                let asset = key.1;
                books.absent.insert(key, Refusal::UnknownAsset { asset });
            }
        }
    }
    Ok(())
}

/// Which of the commands' client references and transaction hashes are in use.
async fn load_uses(
    conn: &mut SqliteConnection,
    refs: &References,
    books: &mut Books,
) -> Result<()> {
    if !refs.client_references.is_empty() {
        let rows = sqlx::query(
            "SELECT known.user_id, known.client_reference FROM json_each(?1) AS wanted
             JOIN transactions AS known ON known.user_id = unhex(wanted.value ->> 0)
                 AND known.client_reference = wanted.value ->> 1",
        )
        .bind(text_list(&refs.client_references))
        .fetch_all(&mut *conn)
        .await?;
        for row in &rows {
            books
                .client_references
                .insert((row.id("user_id")?, row.text("client_reference")?));
        }
    }
    if !refs.tx_hashes.is_empty() {
        // The types are named so that the unique index, which they are part of, can be used.
        let rows = sqlx::query(
            "SELECT known.user_id, known.type, known.tx_hash FROM json_each(?1) AS wanted
             JOIN transactions AS known ON known.user_id = unhex(wanted.value ->> 0)
                 AND known.type IN ('deposit', 'withdraw', 'yield_harvest', 'referral_bonus')
                 AND known.tx_hash = wanted.value ->> 1",
        )
        .bind(text_list(&refs.tx_hashes))
        .fetch_all(conn)
        .await?;
        for row in &rows {
            let kind = row.parsed("type", TransactionType::from_name)?;
            books
                .tx_hashes
                .insert((row.id("user_id")?, kind, row.text("tx_hash")?));
        }
    }
    Ok(())
}

/// A row of `transactions`.
pub(super) fn transaction(row: &SqliteRow) -> Result<Transaction> {
    let decimal = |text: &str| Decimal18::parse(text).ok();
    Ok(Transaction {
        id: row.id("transaction_id")?,
        user_id: row.id("user_id")?,
        kind: row.parsed("type", TransactionType::from_name)?,
        status: row.parsed("status", TransactionStatus::from_name)?,
        asset: row.parsed("asset", Asset::parse)?,
        amount: row.amount("amount")?,
        shares: row.amount("shares")?,
        expires_at: row.optional_timestamp("expires_at")?,
        submitted_at: row.optional_timestamp("submitted_at")?,
        client_reference: row.optional_text("client_reference")?,
        tx_hash: row.optional_text("tx_hash")?,
        block_number: row.optional_integer("block_number")?,
        gas_used: row.optional_integer("gas_used")?,
        gas_fee: row.optional_parsed("gas_fee", decimal)?,
        confirmations: row.integer("confirmations")?,
        exchange_rate: row.optional_parsed("exchange_rate", decimal)?,
        amount_vnd: row.optional_amount("amount_vnd")?,
        metadata: match row.optional_text("metadata")? {
            None => Value::Object(serde_json::Map::new()),
            Some(text) => stored_json("metadata", &text)?,
        },
        error_message: row.optional_text("error_message")?,
        created_at: row.timestamp("created_at")?,
        confirmed_at: row.optional_timestamp("confirmed_at")?,
    })
}

fn account(row: &SqliteRow) -> Result<Account> {
    Ok(Account {
        available: row.amount("available")?,
        locked: row.amount("locked")?,
        shares: row.amount("shares")?,
        locked_shares: row.amount("locked_shares")?,
        totals: Totals {
            deposited: row.integer("deposited")?,
            withdrawn: row.integer("withdrawn")?,
            yield_earned: row.integer("total_yield_earned")?,
            bonuses: row.integer("bonuses")?,
            fees: row.integer("fees")?,
        },
        last_yield_at: row.optional_timestamp("last_yield_at")?,
        pending: small("pending", row.integer("pending")?)?,
        head: Head {
            seq: row.integer("version")?,
            hash: row.hash("chain_hash")?,
        },
        head_at: row.timestamp("chain_at")?,
        owner_status: row.parsed("owner_status", UserStatus::from_name)?,
    })
}

fn account_list(keys: &BTreeSet<AccountKey>) -> String {
    row_list(keys, |(user, asset)| json!([hex(user.0), asset]))
}

fn text_list(keys: &BTreeSet<(UserId, String)>) -> String {
    row_list(keys, |(user, text)| json!([hex(user.0), text]))
}
