//! The ledger on PostgreSQL: set-based, so that a batch costs a fixed number of round trips.
//!
//! The order of statements matters (READ COMMITTED): first the account rows are locked, in the order of
//! their key; what else decides (answers, transactions, uses of references) is read by *later* statements,
//! which see all that committed before the locks were won. A subquery beside the lock would not.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::audit::Head;
use crate::clock::Timestamp;
use crate::context::Principal;
use crate::documents::parse::parse_json;
use crate::ids::{TransactionId, UserId};
use crate::ledger::posting::{
    Account, AccountKey, Answer, AnswerKey, Books, Effects, References, Totals,
};
use crate::ledger::{
    Asset, BatchOutcome, Command, Error, LedgerAccount, Outcome, Refusal, StoredAnswer,
    Transaction, TransactionStatus, TransactionType,
};
use crate::money::{Amount, Decimal18};
use crate::users::UserStatus;

type Result<T, E = sqlx::Error> = std::result::Result<T, E>;

/// Decides and writes `commands` on an open transaction; each has its own result.
///
/// # Errors
/// The driver's error; the transaction is to be rolled back then.
pub(super) async fn post_in(
    conn: &mut PgConnection,
    commands: &[Command],
) -> Result<Vec<Result<Outcome, Error>>> {
    let mut books = load(conn, commands).await?;
    let outcomes = commands
        .iter()
        .map(|command| books.decide(command))
        .collect();
    write(conn, &books).await?;
    Ok(outcomes)
}

/// All commands or none; what is written with a refusal is nothing.
pub(super) async fn post_all_in(
    conn: &mut PgConnection,
    request_id: &str,
    commands: &[Command],
) -> Result<BatchOutcome> {
    let mut books = load(conn, commands).await?;
    let result = books.decide_all(commands);
    write(conn, &books).await?;
    Ok(BatchOutcome {
        request_id: request_id.to_owned(),
        result,
        replayed: false,
    })
}

/// Locks the accounts that the commands concern, and reads what else decides.
async fn load(conn: &mut PgConnection, commands: &[Command]) -> Result<Books> {
    let mut refs = References::of(commands);
    refs.accounts.extend(accounts_of(conn, &refs).await?);
    let mut books = Books::default();
    lock_accounts(conn, refs.accounts.iter(), &mut books).await?;
    let missing: Vec<AccountKey> = refs
        .accounts
        .iter()
        .filter(|key| !books.accounts.contains_key(key))
        .cloned()
        .collect();
    if !missing.is_empty() {
        open_accounts(conn, &missing).await?;
        lock_accounts(conn, missing.iter(), &mut books).await?;
        explain_absent(conn, &missing, &mut books).await?;
    }
    load_answers(conn, &refs, &mut books).await?;
    load_transactions(conn, &refs, &mut books).await?;
    load_uses(conn, &refs, &mut books).await?;
    Ok(books)
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
    books: &mut Books,
) -> Result<()> {
    let (users, assets) = key_arrays(keys);
    let rows = sqlx::query(
        "SELECT a.user_id, a.asset, a.available, a.locked, a.shares, a.locked_shares, a.deposited, a.withdrawn,
                a.total_yield_earned, a.bonuses, a.fees, a.last_yield_at, a.pending, a.version, a.chain_hash,
                a.chain_at, a.owner_status
         FROM unnest($1::uuid[], $2::text[]) AS k (user_id, asset)
         JOIN accounts a USING (user_id, asset)
         ORDER BY a.user_id, a.asset
         FOR UPDATE OF a",
    )
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
            Refusal::UnknownAsset {
                asset: key.1.clone(),
            }
        } else {
            Refusal::UserNotFound
        };
        books.absent.insert(key.clone(), refusal);
    }
    Ok(())
}

async fn load_answers(conn: &mut PgConnection, refs: &References, books: &mut Books) -> Result<()> {
    if refs.answers.is_empty() {
        return Ok(());
    }
    let keys = AnswerArrays::of(refs.answers.iter());
    let rows = sqlx::query(
        "SELECT i.user_id, i.principal, i.scope, i.key, i.fingerprint, i.answer, i.created_at
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS k (user_id, principal, scope, key)
         JOIN idempotency_keys i USING (user_id, principal, scope, key)",
    )
    .bind(keys.users)
    .bind(keys.principals)
    .bind(keys.scopes)
    .bind(keys.keys)
    .fetch_all(conn)
    .await?;
    for row in &rows {
        let key = AnswerKey {
            user_id: UserId(row.try_get("user_id")?),
            principal: Principal::stored(row.try_get("principal")?),
            scope: row.try_get("scope")?,
            key: row.try_get("key")?,
        };
        let answer = Answer {
            fingerprint: row.try_get("fingerprint")?,
            answer: stored_json(row.try_get("answer")?)?,
            at: row.try_get::<OffsetDateTime, _>("created_at")?.into(),
        };
        books.answers.insert(key, answer);
    }
    Ok(())
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
                .insert((UserId(row.try_get(0)?), row.try_get(1)?));
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
            let kind = word(row, "type", TransactionType::from_name)?;
            books
                .tx_hashes
                .insert((UserId(row.try_get(0)?), kind, row.try_get(2)?));
        }
    }
    Ok(())
}

/// Writes all effects: accounts, transactions, entries, audit rows, answers.
async fn write(conn: &mut PgConnection, books: &Books) -> Result<()> {
    let effects = &books.effects;
    update_accounts(conn, books).await?;
    insert_transactions(conn, books).await?;
    update_transactions(conn, books).await?;
    insert_entries(conn, effects).await?;
    super::audit::insert(conn, &effects.audit, &effects.private).await?;
    insert_answers(conn, books).await
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

/// The key columns of idempotency rows as parallel arrays.
struct AnswerArrays {
    users: Vec<Uuid>,
    principals: Vec<String>,
    scopes: Vec<String>,
    keys: Vec<String>,
}

impl AnswerArrays {
    fn of<'a>(keys: impl Iterator<Item = &'a AnswerKey>) -> Self {
        let mut arrays = Self {
            users: vec![],
            principals: vec![],
            scopes: vec![],
            keys: vec![],
        };
        for key in keys {
            arrays.users.push(key.user_id.uuid());
            arrays.principals.push(key.principal.as_str().to_owned());
            arrays.scopes.push(key.scope.clone());
            arrays.keys.push(key.key.clone());
        }
        arrays
    }
}

fn key_arrays<'a>(keys: impl Iterator<Item = &'a AccountKey>) -> (Vec<Uuid>, Vec<String>) {
    keys.map(|(user, asset)| (user.uuid(), asset.as_str().to_owned()))
        .unzip()
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

fn account_key(row: &PgRow) -> Result<AccountKey> {
    Ok((UserId(row.try_get("user_id")?), asset(row, "asset")?))
}

fn account(row: &PgRow) -> Result<Account> {
    Ok(Account {
        available: amount(row, "available")?,
        locked: amount(row, "locked")?,
        shares: amount(row, "shares")?,
        locked_shares: amount(row, "locked_shares")?,
        totals: Totals {
            deposited: row.try_get("deposited")?,
            withdrawn: row.try_get("withdrawn")?,
            yield_earned: row.try_get("total_yield_earned")?,
            bonuses: row.try_get("bonuses")?,
            fees: row.try_get("fees")?,
        },
        last_yield_at: time_of(row, "last_yield_at")?,
        pending: row.try_get("pending")?,
        head: Head {
            seq: row.try_get("version")?,
            hash: row.try_get("chain_hash")?,
        },
        head_at: row.try_get::<OffsetDateTime, _>("chain_at")?.into(),
        owner_status: word(row, "owner_status", UserStatus::from_name)?,
    })
}

pub(super) fn transaction(row: &PgRow) -> Result<Transaction> {
    let metadata = match row.try_get::<Option<String>, _>("metadata")? {
        None => serde_json::json!({}),
        Some(text) => stored_value(&text)?,
    };
    Ok(Transaction {
        id: TransactionId(row.try_get("transaction_id")?),
        user_id: UserId(row.try_get("user_id")?),
        kind: word(row, "type", TransactionType::from_name)?,
        status: word(row, "status", TransactionStatus::from_name)?,
        asset: asset(row, "asset")?,
        amount: amount(row, "amount")?,
        shares: amount(row, "shares")?,
        expires_at: time_of(row, "expires_at")?,
        submitted_at: time_of(row, "submitted_at")?,
        client_reference: row.try_get("client_reference")?,
        tx_hash: row.try_get("tx_hash")?,
        block_number: row.try_get("block_number")?,
        gas_used: row.try_get("gas_used")?,
        gas_fee: decimal18(row, "gas_fee")?,
        confirmations: row.try_get("confirmations")?,
        exchange_rate: decimal18(row, "exchange_rate")?,
        amount_vnd: row
            .try_get::<Option<i64>, _>("amount_vnd")?
            .map(|micros| Amount::from_micros(micros).ok_or_else(|| undecodable("amount_vnd")))
            .transpose()?,
        metadata,
        error_message: row.try_get("error_message")?,
        created_at: row.try_get::<OffsetDateTime, _>("created_at")?.into(),
        confirmed_at: time_of(row, "confirmed_at")?,
    })
}

/// Canonical JSON, or nothing for the empty object that most transactions have.
fn metadata_text(transaction: &Transaction) -> Option<String> {
    let empty = transaction
        .metadata
        .as_object()
        .is_none_or(serde_json::Map::is_empty);
    (!empty).then(|| crate::documents::canonical::canonical_json(&transaction.metadata))
}

pub(super) fn asset(row: &PgRow, column: &'static str) -> Result<Asset> {
    Asset::parse(row.try_get(column)?).ok_or_else(|| undecodable(column))
}

pub(super) fn amount(row: &PgRow, column: &'static str) -> Result<Amount> {
    Amount::from_micros(row.try_get(column)?).ok_or_else(|| undecodable(column))
}

fn time_of(row: &PgRow, column: &'static str) -> Result<Option<Timestamp>> {
    Ok(row
        .try_get::<Option<OffsetDateTime>, _>(column)?
        .map(Timestamp::from))
}

fn decimal18(row: &PgRow, column: &'static str) -> Result<Option<Decimal18>> {
    row.try_get::<Option<&str>, _>(column)?
        .map(|text| Decimal18::parse(text).map_err(|_not_a_decimal| undecodable(column)))
        .transpose()
}

/// A column that holds one of an enum's words.
pub(super) fn word<T>(
    row: &PgRow,
    column: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Result<T> {
    parse(row.try_get(column)?).ok_or_else(|| undecodable(column))
}

/// A stored value that this program could not have written: a bug, or a damaged database.
pub(super) fn undecodable(column: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(format!("column {column} holds what this program does not know").into())
}

/// Stored JSON, read exactly as it was written.
pub(super) fn stored_value(text: &str) -> Result<serde_json::Value> {
    let parsed = parse_json(text.as_bytes(), usize::MAX)
        .map_err(|error| sqlx::Error::Decode(error.into()))?;
    parsed.into_value().map_err(|_numbers| undecodable("json"))
}

fn stored_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_value(stored_value(text)?).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}
