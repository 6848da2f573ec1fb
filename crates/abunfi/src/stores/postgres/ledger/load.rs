//! Before a decision: locks the accounts, then reads what else decides.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row, SqlSafeStr};
use uuid::Uuid;

use super::{Result, from_json, key_arrays};
use crate::audit::{AmountsAfter, Head};
use crate::faults::{self, Bug};
use crate::ids::UserId;
use crate::ledger::posting::{
    Account, AccountKey, Answer, AnswerKey, Books, References, Totals, rebuild,
};
use crate::ledger::{
    Asset, Refusal, StoredAnswer, Transaction, TransactionStatus, TransactionType,
};
use crate::money::Decimal18;
use crate::stores::postgres::columns::{Columns, json};
use crate::stores::postgres::error::undecodable;
use crate::users::UserStatus;

/// What to do about an account that another unit has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::stores::postgres) enum Locks {
    Wait,
    /// Its user is [held](Books::held).
    Skip,
}

/// Locks the accounts that are referred to, and reads what else decides.
pub(super) async fn load(
    conn: &mut PgConnection,
    mut refs: References,
    locks: Locks,
) -> Result<Books> {
    refs.accounts.extend(accounts_of(conn, &refs).await?);
    let mut books = Books::default();
    lock_accounts(conn, refs.accounts.iter(), locks, &mut books).await?;
    let mut missing: Vec<AccountKey> = refs
        .accounts
        .iter()
        .filter(|key| !books.accounts.contains_key(key))
        .copied()
        .collect();
    if locks == Locks::Skip && !missing.is_empty() {
        let held = existing(conn, &missing).await?;
        books.held = held.into_iter().map(|(user, _)| user).collect();
        missing.retain(|(user, _)| !books.held.contains(user));
    }
    if !missing.is_empty() {
        open_accounts(conn, &missing).await?;
        lock_accounts(conn, missing.iter(), Locks::Wait, &mut books).await?;
        explain_absent(conn, &missing, &mut books).await?;
    }
    load_answers(conn, &refs, &mut books).await?;
    load_transactions(conn, &refs, &mut books).await?;
    load_uses(conn, &refs, &mut books).await?;
    Ok(books)
}

/// Those of `keys` that are there.
async fn existing(conn: &mut PgConnection, keys: &[AccountKey]) -> Result<BTreeSet<AccountKey>> {
    let (users, assets) = key_arrays(keys.iter());
    let rows = sqlx::query(
        "SELECT a.user_id, a.asset FROM unnest($1::uuid[], $2::text[]) AS k (user_id, asset)
         JOIN accounts a USING (user_id, asset)",
    )
    .bind(users)
    .bind(assets)
    .fetch_all(conn)
    .await?;
    rows.iter().map(account_key).collect()
}

/// The accounts of the transactions that commands settle. A transaction's asset never changes, so this
/// needs no lock.
async fn accounts_of(conn: &mut PgConnection, refs: &References) -> Result<Vec<AccountKey>> {
    if refs.transactions.is_empty() {
        return Ok(Vec::new());
    }
    let (users, ids) = transaction_keys(refs);
    let rows = sqlx::query(
        "SELECT t.user_id, t.asset FROM unnest($1::uuid[], $2::uuid[]) AS k (user_id, transaction_id)
         JOIN transactions t USING (user_id, transaction_id)",
    )
    .bind(users)
    .bind(ids)
    .fetch_all(conn)
    .await?;
    rows.iter().map(account_key).collect()
}

async fn lock_accounts(
    conn: &mut PgConnection,
    keys: impl Iterator<Item = &AccountKey>,
    locks: Locks,
    books: &mut Books,
) -> Result<()> {
    const LOCK: &str = " FOR UPDATE OF a";
    const SELECT: &str =
        "SELECT a.user_id, a.asset, a.available, a.locked, a.shares, a.locked_shares, a.deposited, a.withdrawn,
                a.total_yield_earned, a.bonuses, a.fees, a.last_yield_at, a.pending, a.version, a.chain_hash,
                a.chain_at, a.owner_status
         FROM unnest($1::uuid[], $2::text[]) AS k (user_id, asset)
         JOIN accounts a USING (user_id, asset)
         ORDER BY a.user_id, a.asset FOR UPDATE OF a";

    let (users, assets) = key_arrays(keys);
    let statement = if faults::has(Bug::SkipLock) {
        SELECT.trim_end_matches(LOCK).into_sql_str()
    } else if locks == Locks::Skip {
        AssertSqlSafe(format!("{SELECT} SKIP LOCKED")).into_sql_str()
    } else {
        SELECT.into_sql_str()
    };
    let rows = sqlx::query(statement)
        .bind(users)
        .bind(assets)
        .fetch_all(conn)
        .await?;
    for row in &rows {
        books.accounts.insert(account_key(row)?, account(row)?);
    }
    Ok(())
}

/// Opens accounts that are missing, for users and assets that exist. The share lock keeps the owner's
/// status as it is until the new row is visible to whoever changes it.
async fn open_accounts(conn: &mut PgConnection, keys: &[AccountKey]) -> Result<()> {
    let (users, assets) = key_arrays(keys.iter());
    sqlx::query(
        "INSERT INTO accounts (user_id, asset, owner_status)
         SELECT u.user_id, s.asset, u.status
         FROM unnest($1::uuid[], $2::text[]) AS k (user_id, asset)
         JOIN users u ON u.user_id = k.user_id
         JOIN assets s ON s.asset = k.asset
         ORDER BY u.user_id, s.asset
         FOR SHARE OF u
         ON CONFLICT DO NOTHING",
    )
    .bind(users)
    .bind(assets)
    .execute(conn)
    .await?;
    Ok(())
}

async fn explain_absent(
    conn: &mut PgConnection,
    keys: &[AccountKey],
    books: &mut Books,
) -> Result<()> {
    let absent: Vec<&AccountKey> = keys
        .iter()
        .filter(|key| !books.accounts.contains_key(key))
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    let users: Vec<Uuid> = absent.iter().map(|(user, _)| user.uuid()).collect();
    let known: Vec<Uuid> = sqlx::query_scalar("SELECT user_id FROM users WHERE user_id = ANY($1)")
        .bind(users)
        .fetch_all(conn)
        .await?;
    for key in absent {
        let refusal = if known.contains(&key.0.uuid()) {
            Refusal::UnknownAsset { asset: key.1 }
        } else {
            Refusal::UserNotFound
        };
        books.absent.insert(*key, refusal);
    }
    Ok(())
}

async fn load_answers(conn: &mut PgConnection, refs: &References, books: &mut Books) -> Result<()> {
    if refs.answers.is_empty() {
        return Ok(());
    }
    let (users, hashes): (Vec<Uuid>, Vec<Uuid>) = refs
        .answers
        .iter()
        .map(|key| (key.user_id.uuid(), key.hash()))
        .unzip();
    let rows = sqlx::query(
        "SELECT k.place, i.transaction_id, i.seq, i.created_at, i.fingerprint, i.answer
         FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS k (user_id, key_hash, place)
         JOIN idempotency_keys i USING (user_id, key_hash)",
    )
    .bind(users)
    .bind(hashes)
    .fetch_all(&mut *conn)
    .await?;
    if rows.is_empty() {
        return Ok(());
    }
    let mut rebuilt = rebuild_answers(conn, refs, &rows).await?;
    // The keys went out in the order of the set, so their place finds them again.
    let wanted: Vec<&AnswerKey> = refs.answers.iter().collect();
    for row in &rows {
        let place = row.integer("place")?;
        let key = wanted_at(&wanted, place)?;
        let answer = match row.optional_text("answer")? {
            Some(text) => from_json("answer", &text)?,
            None => rebuilt
                .remove(&place)
                .ok_or_else(|| undecodable("answer", "its rows are not there"))?,
        };
        let answer = Answer {
            fingerprint: row.hash("fingerprint")?,
            answer,
            at: row.timestamp("created_at")?,
        };
        books.answers.insert(key.clone(), answer);
    }
    Ok(())
}

/// The answers among `rows` that finished transactions and their audit rows stand for, by place.
async fn rebuild_answers(
    conn: &mut PgConnection,
    refs: &References,
    rows: &[PgRow],
) -> Result<HashMap<i64, StoredAnswer>> {
    let wanted: Vec<&AnswerKey> = refs.answers.iter().collect();
    let (mut places, mut users, mut ids, mut seqs) = (vec![], vec![], vec![], vec![]);
    for row in rows {
        if let Some(id) = row.try_get::<Option<Uuid>, _>("transaction_id")? {
            let place = row.integer("place")?;
            places.push(place);
            users.push(wanted_at(&wanted, place)?.user_id.uuid());
            ids.push(id);
            seqs.push(row.integer("seq")?);
        }
    }
    if places.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(
        "SELECT k.place, t.*, a.seq, a.request_id, a.available_after, a.locked_after, a.shares_after,
                a.locked_shares_after
         FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::bigint[]) AS k (place, user_id, transaction_id, seq)
         JOIN transactions t ON t.user_id = k.user_id AND t.transaction_id = k.transaction_id
         JOIN audit a ON a.user_id = k.user_id AND a.chain = t.asset AND a.seq = k.seq
             AND a.transaction_id = k.transaction_id",
    )
    .bind(places)
    .bind(users)
    .bind(ids)
    .bind(seqs)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let after = AmountsAfter {
                available: row.amount("available_after")?,
                locked: row.amount("locked_after")?,
                shares: row.amount("shares_after")?,
                locked_shares: row.amount("locked_shares_after")?,
            };
            let answer = rebuild(
                transaction(row)?,
                row.text("request_id")?.into(),
                row.integer("seq")?,
                &after,
            );
            Ok((row.integer("place")?, answer))
        })
        .collect()
}

/// The key at a place of `WITH ORDINALITY`, which counts from 1.
fn wanted_at<'k>(wanted: &[&'k AnswerKey], place: i64) -> Result<&'k AnswerKey> {
    usize::try_from(place - 1)
        .ok()
        .and_then(|index| wanted.get(index).copied())
        .ok_or_else(|| undecodable("place", "out of range"))
}

async fn load_transactions(
    conn: &mut PgConnection,
    refs: &References,
    books: &mut Books,
) -> Result<()> {
    if refs.transactions.is_empty() {
        return Ok(());
    }
    let (users, ids) = transaction_keys(refs);
    let rows = sqlx::query(
        "SELECT t.* FROM unnest($1::uuid[], $2::uuid[]) AS k (user_id, transaction_id)
         JOIN transactions t USING (user_id, transaction_id)",
    )
    .bind(users)
    .bind(ids)
    .fetch_all(conn)
    .await?;
    for row in &rows {
        let transaction = transaction(row)?;
        books
            .transactions
            .insert((transaction.user_id, transaction.id), transaction);
    }
    Ok(())
}

/// Which of the commands' client references and transaction hashes are in use.
async fn load_uses(conn: &mut PgConnection, refs: &References, books: &mut Books) -> Result<()> {
    if !refs.client_references.is_empty() {
        let (users, references) = text_arrays(refs.client_references.iter());
        let rows = sqlx::query(
            "SELECT t.user_id, t.client_reference FROM unnest($1::uuid[], $2::text[]) AS k (user_id, client_reference)
             JOIN transactions t USING (user_id, client_reference)",
        )
        .bind(users)
        .bind(references)
        .fetch_all(&mut *conn)
        .await?;
        for row in &rows {
            books
                .client_references
                .insert((row.id("user_id")?, row.text("client_reference")?));
        }
    }
    if !refs.tx_hashes.is_empty() {
        let (users, hashes) = text_arrays(refs.tx_hashes.iter());
        let rows = sqlx::query(
            "SELECT t.user_id, t.type, t.tx_hash FROM unnest($1::uuid[], $2::text[]) AS k (user_id, tx_hash)
             JOIN transactions t USING (user_id, tx_hash)",
        )
        .bind(users)
        .bind(hashes)
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
pub(super) fn transaction(row: &PgRow) -> Result<Transaction> {
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
        block_number: row.try_get("block_number")?,
        gas_used: row.try_get("gas_used")?,
        gas_fee: row.optional_parsed("gas_fee", decimal)?,
        confirmations: row.integer("confirmations")?,
        exchange_rate: row.optional_parsed("exchange_rate", decimal)?,
        amount_vnd: row.optional_amount("amount_vnd")?,
        metadata: match row.optional_text("metadata")? {
            None => Value::Object(serde_json::Map::new()),
            Some(text) => json("metadata", &text)?,
        },
        error_message: row.optional_text("error_message")?,
        created_at: row.timestamp("created_at")?,
        confirmed_at: row.optional_timestamp("confirmed_at")?,
    })
}

fn account_key(row: &PgRow) -> Result<AccountKey> {
    Ok((row.id("user_id")?, row.parsed("asset", Asset::parse)?))
}

fn account(row: &PgRow) -> Result<Account> {
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
        pending: row.try_get("pending")?,
        head: Head {
            seq: row.integer("version")?,
            hash: row.hash("chain_hash")?,
        },
        head_at: row.timestamp("chain_at")?,
        owner_status: row.parsed("owner_status", UserStatus::from_name)?,
    })
}

fn text_arrays<'a>(keys: impl Iterator<Item = &'a (UserId, String)>) -> (Vec<Uuid>, Vec<String>) {
    keys.map(|(user, text)| (user.uuid(), text.clone())).unzip()
}

fn transaction_keys(refs: &References) -> (Vec<Uuid>, Vec<Uuid>) {
    refs.transactions
        .iter()
        .map(|(user, id)| (user.uuid(), id.uuid()))
        .unzip()
}
