//! `execute_transaction` on SQLite.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::{Connection, SqliteConnection};

use super::error::{Abort, classify};
use super::lane::{End, Open};
use super::{Sqlite, heads, ledger, outbox, users};
use crate::cache::user_tag;
use crate::clock::Timestamp;
use crate::context::Context;
use crate::documents::{HeadWrite, HeadWritten};
use crate::error::StoreError;
use crate::ids::UserId;
use crate::ledger::{Command, Outcome};
use crate::stores::RelationalOptions;
use crate::transaction::{Store, Transaction};
use crate::users::{IdentityQuery, NewUser, UserRecord};

struct SqliteTransaction {
    open: Open,
    options: RelationalOptions,
    tags: BTreeSet<String>,
    /// The newest time that an operation brought.
    at: Option<Timestamp>,
    /// A statement failed. SQLite may have rolled back by itself then, and what follows would commit
    /// statement by statement: so nothing may follow.
    failed: Option<StoreError>,
}

#[async_trait]
impl Store for Sqlite {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        Ok(Box::new(SqliteTransaction {
            open: self.relational.begin().await?,
            options: self.options,
            tags: BTreeSet::new(),
            at: None,
            failed: None,
        }))
    }
}

impl SqliteTransaction {
    async fn run<T, E, F>(&mut self, body: F) -> Result<T, E>
    where
        E: From<StoreError>,
        F: AsyncFnOnce(&mut SqliteConnection) -> Result<T, Abort<E>>,
    {
        if let Some(failed) = &self.failed {
            return Err(failed.clone().into());
        }
        match self.open.run(body).await {
            Ok(value) => Ok(value),
            Err(End::Refused(error)) => Err(error),
            Err(End::Failed(failed)) => {
                self.failed = Some(failed.clone());
                Err(failed.into())
            }
        }
    }

    /// Like [`run`](Self::run), for an operation that may refuse half-way: then it leaves nothing behind,
    /// and the transaction can go on.
    async fn run_whole<T, E, F>(&mut self, body: F) -> Result<T, E>
    where
        E: From<StoreError>,
        F: AsyncFnOnce(&mut SqliteConnection) -> Result<T, Abort<E>>,
    {
        self.run(async |connection| {
            let mut savepoint = connection.begin().await?;
            let value = body(&mut savepoint).await;
            match value {
                Ok(value) => {
                    savepoint.commit().await?;
                    Ok(value)
                }
                Err(abort) => {
                    savepoint.rollback().await?;
                    Err(abort)
                }
            }
        })
        .await
    }

    fn concerns(&mut self, tags: impl IntoIterator<Item = String>, at: Timestamp) {
        self.tags.extend(tags);
        self.at = self.at.max(Some(at));
    }

    /// The outbox row of what this commit makes stale.
    async fn promise(&mut self) -> Result<(), StoreError> {
        if !self.options.outbox || self.tags.is_empty() {
            return Ok(());
        }
        let tags: Vec<String> = self.tags.iter().cloned().collect();
        let at = self.at;
        self.run::<(), StoreError, _>(async |connection| {
            let at = match at {
                Some(at) => at,
                None => machine_time(connection).await?,
            };
            outbox::enqueue(connection, tags, at).await?;
            Ok(())
        })
        .await
    }
}

/// For a body that only used the raw driver, and so brought no time. The age of an outbox row is all that
/// depends on it.
async fn machine_time(connection: &mut SqliteConnection) -> Result<Timestamp, sqlx::Error> {
    let micros = sqlx::query_scalar("SELECT CAST(unixepoch('now') AS INTEGER) * 1000000")
        .fetch_one(connection)
        .await?;
    Ok(Timestamp::from_micros(micros))
}

#[async_trait]
impl Transaction for SqliteTransaction {
    async fn update_user_balance(
        &mut self,
        command: &Command,
    ) -> Result<Outcome, crate::ledger::Error> {
        self.concerns([user_tag(command.user_id)], command.at);
        self.run(async |connection| {
            let outcomes = ledger::post_in(connection, std::slice::from_ref(command)).await?;
            let outcome = outcomes.into_iter().next();
            outcome
                .ok_or(sqlx::Error::RowNotFound)?
                .map_err(Abort::Refused)
        })
        .await
    }

    async fn create_user(
        &mut self,
        _ctx: &Context,
        user: &NewUser,
    ) -> Result<UserRecord, crate::users::Error> {
        let options = self.options;
        let made = self
            .run_whole(async |connection| users::create(connection, options, user).await)
            .await?;
        self.concerns(users::tags_of_new(&made), user.at);
        Ok(made)
    }

    async fn user(&mut self, id: UserId) -> Result<Option<UserRecord>, StoreError> {
        self.run(async |connection| Ok(users::find(connection, id).await?))
            .await
    }

    async fn user_by_identity(
        &mut self,
        query: &IdentityQuery,
    ) -> Result<Option<UserId>, StoreError> {
        self.run(async |connection| {
            Ok(users::find_by_identity(connection, query.kind, &query.key).await?)
        })
        .await
    }

    async fn write_document(
        &mut self,
        _ctx: &Context,
        write: &HeadWrite,
    ) -> Result<HeadWritten, crate::documents::Error> {
        self.concerns([user_tag(write.key.user_id)], write.at);
        let options = self.options;
        self.run_whole(async |connection| heads::write(connection, options, write).await)
            .await
    }

    fn postgres(&mut self) -> Option<&mut sqlx::PgConnection> {
        None
    }

    fn sqlite(&mut self) -> Option<&mut SqliteConnection> {
        Some(self.open.connection())
    }

    fn invalidate(&mut self, tag: String) {
        self.tags.insert(tag);
    }

    fn tags(&self) -> Vec<String> {
        self.tags.iter().cloned().collect()
    }

    async fn commit(mut self: Box<Self>) -> Result<Vec<String>, StoreError> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        self.promise().await?;
        let Self { open, tags, .. } = *self;
        open.commit().await?;
        Ok(tags.into_iter().collect())
    }

    fn error(&self, error: sqlx::Error) -> StoreError {
        classify(self.open.store(), &error)
    }

    async fn rollback(self: Box<Self>) -> Result<(), StoreError> {
        self.open.rollback().await
    }
}
