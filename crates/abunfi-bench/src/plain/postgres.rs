//! One posting as one transaction on PostgreSQL, statement by statement, all of them prepared.

use abunfi::audit::{Entry, Head};
use abunfi::clock::Timestamp;
use abunfi::ledger::posting::{Account, Answer, AnswerKey, Books, Kept, LedgerEntry, Totals};
use abunfi::ledger::{Action, Asset, Command, Error, Outcome, Transaction};
use abunfi::money::Amount;
use abunfi::users::UserStatus;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::{ConnectOptions, PgConnection, PgPool, Row};
use time::OffsetDateTime;

/// Connections, as many as the service has for the same work.
#[derive(Debug)]
pub(super) struct Pool(PgPool);

impl Pool {
    pub(super) fn connect(url: &str, connections: u32) -> Result<Self, sqlx::Error> {
        let options: PgConnectOptions = url.parse()?;
        // Without the ping before each use, which the service does not do either.
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .test_before_acquire(false);
        Ok(Self(
            pool.connect_lazy_with(options.disable_statement_logging()),
        ))
    }

    /// `None`: the account is not there, or the key was used before.
    pub(super) async fn post(
        &self,
        command: &Command,
    ) -> Option<Result<Result<Outcome, Error>, sqlx::Error>> {
        self.try_post(command).await.transpose()
    }

    async fn try_post(
        &self,
        command: &Command,
    ) -> Result<Option<Result<Outcome, Error>>, sqlx::Error> {
        let Action::Post(posting) = &command.action else {
            return Ok(None);
        };
        let mut transaction = self.0.begin().await?;
        let conn = &mut *transaction;
        let mut books = Books::default();
        let Some(account) = lock(conn, posting).await? else {
            return Ok(None);
        };
        let key = (command.user_id, posting.asset);
        books.accounts.insert(key, account);
        if is_answered(conn, command).await? {
            return Ok(None);
        }
        let outcome = books.decide(command);
        for (key, account) in &books.accounts {
            update_account(conn, key.0.uuid(), &key.1, account).await?;
        }
        for transaction in books.transactions.values() {
            insert_transaction(conn, transaction).await?;
        }
        if let [user, system] = books.effects.entries.as_slice() {
            insert_entries(conn, user, system).await?;
        }
        for entry in &books.effects.audit {
            insert_audit(conn, entry).await?;
        }
        for (key, answer) in &books.answers {
            insert_answer(conn, key, answer).await?;
        }
        transaction.commit().await?;
        Ok(Some(outcome))
    }
}

async fn lock(
    conn: &mut PgConnection,
    posting: &Transaction,
) -> Result<Option<Account>, sqlx::Error> {
    let row = sqlx::query("SELECT * FROM accounts WHERE user_id = $1 AND asset = $2 FOR UPDATE")
        .bind(posting.user_id.uuid())
        .bind(posting.asset.as_str())
        .fetch_optional(conn)
        .await?;
    row.as_ref().map(account).transpose()
}

fn account(row: &PgRow) -> Result<Account, sqlx::Error> {
    let amount = |column: &str| -> Result<Amount, sqlx::Error> {
        Amount::from_micros(row.try_get(column)?).ok_or(sqlx::Error::RowNotFound)
    };
    let hash: Vec<u8> = row.try_get("chain_hash")?;
    let status: &str = row.try_get("owner_status")?;
    Ok(Account {
        available: amount("available")?,
        locked: amount("locked")?,
        shares: amount("shares")?,
        locked_shares: amount("locked_shares")?,
        totals: Totals {
            deposited: row.try_get("deposited")?,
            withdrawn: row.try_get("withdrawn")?,
            yield_earned: row.try_get("total_yield_earned")?,
            bonuses: row.try_get("bonuses")?,
            fees: row.try_get("fees")?,
        },
        last_yield_at: row
            .try_get::<Option<OffsetDateTime>, _>("last_yield_at")?
            .map(Timestamp::from),
        pending: row.try_get("pending")?,
        head: Head {
            seq: row.try_get("version")?,
            hash: hash.try_into().unwrap_or_default(),
        },
        head_at: Timestamp::from(row.try_get::<OffsetDateTime, _>("chain_at")?),
        owner_status: UserStatus::from_name(status).ok_or(sqlx::Error::RowNotFound)?,
    })
}

async fn is_answered(conn: &mut PgConnection, command: &Command) -> Result<bool, sqlx::Error> {
    let Some(idempotency) = &command.idempotency else {
        return Ok(false);
    };
    let row = sqlx::query(
        "SELECT fingerprint FROM idempotency_keys WHERE user_id = $1 AND key_hash = $2",
    )
    .bind(command.user_id.uuid())
    .bind(AnswerKey::of(command.user_id, idempotency).hash())
    .fetch_optional(conn)
    .await?;
    Ok(row.is_some())
}

async fn update_account(
    conn: &mut PgConnection,
    user: uuid::Uuid,
    asset: &Asset,
    account: &Account,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE accounts SET available = $3, locked = $4, shares = $5, locked_shares = $6, deposited = $7,
             withdrawn = $8, total_yield_earned = $9, bonuses = $10, fees = $11, last_yield_at = $12,
             pending = $13, version = $14, chain_hash = $15, chain_at = $16
         WHERE user_id = $1 AND asset = $2",
    )
    .bind(user)
    .bind(asset.as_str())
    .bind(account.available.micros())
    .bind(account.locked.micros())
    .bind(account.shares.micros())
    .bind(account.locked_shares.micros())
    .bind(account.totals.deposited)
    .bind(account.totals.withdrawn)
    .bind(account.totals.yield_earned)
    .bind(account.totals.bonuses)
    .bind(account.totals.fees)
    .bind(account.last_yield_at.map(OffsetDateTime::from))
    .bind(account.pending)
    .bind(account.head.seq)
    .bind(account.head.hash.as_slice())
    .bind(OffsetDateTime::from(account.head_at))
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert_transaction(
    conn: &mut PgConnection,
    transaction: &Transaction,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO transactions (user_id, transaction_id, type, status, asset, amount, shares,
             client_reference, tx_hash, confirmations, created_at, confirmed_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(transaction.user_id.uuid())
    .bind(transaction.id.uuid())
    .bind(transaction.kind.as_str())
    .bind(transaction.status.as_str())
    .bind(transaction.asset.as_str())
    .bind(transaction.amount.micros())
    .bind(transaction.shares.micros())
    .bind(transaction.client_reference.as_deref())
    .bind(transaction.tx_hash.as_deref())
    .bind(transaction.confirmations)
    .bind(OffsetDateTime::from(transaction.created_at))
    .bind(transaction.confirmed_at.map(OffsetDateTime::from))
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert_entries(
    conn: &mut PgConnection,
    user: &LedgerEntry,
    system: &LedgerEntry,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO entries (user_id, transaction_id, account, asset, amount, at)
         VALUES ($1, $2, $3, $4, $5, $6), ($1, $2, $7, $4, $8, $6)",
    )
    .bind(user.user_id.uuid())
    .bind(user.transaction_id.uuid())
    .bind(user.account.as_str())
    .bind(user.asset.as_str())
    .bind(user.amount)
    .bind(OffsetDateTime::from(user.at))
    .bind(system.account.as_str())
    .bind(system.amount)
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert_audit(conn: &mut PgConnection, entry: &Entry) -> Result<(), sqlx::Error> {
    let after = entry.after.as_ref();
    sqlx::query(
        "INSERT INTO audit (user_id, chain, seq, transaction_id, action, previous_status, new_status, amount,
             shares, available_after, locked_after, shares_after, locked_shares_after, actor_kind, actor_id,
             actor_session_id, request_id, at, previous_hash, hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)",
    )
    .bind(entry.user_id.uuid())
    .bind(entry.chain.as_str())
    .bind(entry.seq)
    .bind(entry.transaction_id.map(|id| id.uuid()))
    .bind(&*entry.action)
    .bind(entry.previous_status.as_deref())
    .bind(entry.new_status.as_deref())
    .bind(entry.amount.map(Amount::micros))
    .bind(entry.shares.map(Amount::micros))
    .bind(after.map(|after| after.available.micros()))
    .bind(after.map(|after| after.locked.micros()))
    .bind(after.map(|after| after.shares.micros()))
    .bind(after.map(|after| after.locked_shares.micros()))
    .bind(entry.actor.kind.as_str())
    .bind(&*entry.actor.id)
    .bind(entry.actor.session_id.map(|id| id.uuid()))
    .bind(&*entry.request_id)
    .bind(OffsetDateTime::from(entry.at))
    .bind(entry.previous_hash.as_slice())
    .bind(entry.hash.as_slice())
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert_answer(
    conn: &mut PgConnection,
    key: &AnswerKey,
    answer: &Answer,
) -> Result<(), sqlx::Error> {
    let kept = Kept::of(&answer.answer).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query(
        "INSERT INTO idempotency_keys (user_id, key_hash, transaction_id, seq, created_at, fingerprint, answer)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(key.user_id.uuid())
    .bind(key.hash())
    .bind(kept.rows().map(|(id, _)| id.uuid()))
    .bind(kept.rows().map(|(_, seq)| seq))
    .bind(OffsetDateTime::from(answer.at))
    .bind(answer.fingerprint.as_slice())
    .bind(kept.text())
    .execute(conn)
    .await?;
    Ok(())
}
