//! `execute_transaction`: several domains' operations in one relational transaction.

use async_trait::async_trait;
use sqlx::{Connection, PgConnection};
use tokio::time::error::Elapsed;
use tokio::time::timeout_at;

use super::error::{Abort, classify, unavailable, unexpected};
use super::lane::Open;
use super::ledger::{self, Locks, NewKeys};
use super::{Postgres, heads, outbox, users};
use crate::cache::user_tag;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::context::Context;
use crate::documents::{self, HeadWrite, HeadWritten};
use crate::error::{StoreError, StoreKind};
use crate::ids::UserId;
use crate::ledger::{Command, Outcome};
use crate::stores::RelationalOptions;
use crate::transaction::{Store, Transaction};
use crate::users::{IdentityQuery, NewUser, UserRecord};

/// An open transaction, and what must follow its commit.
#[derive(Debug)]
struct PostgresTransaction {
    open: Open,
    options: RelationalOptions,
    /// The cache tags of what was changed.
    tags: Vec<String>,
    /// The latest time of what was done.
    at: Option<Timestamp>,
    /// Why it can no longer be committed: an operation was cut off, and its answer is still to come.
    cut_off: Option<StoreError>,
}

#[async_trait]
impl Store for Postgres {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        Ok(Box::new(PostgresTransaction {
            open: self.requests.begin().await?,
            options: self.options,
            tags: Vec::new(),
            at: None,
            cut_off: None,
        }))
    }
}

impl PostgresTransaction {
    fn changed(&mut self, user: UserId, at: Timestamp) {
        self.invalidate(user_tag(user));
        self.at = self.at.max(Some(at));
    }

    /// What an operation ended with, within the transaction's deadline.
    fn outcome<T, E: From<StoreError>>(
        &mut self,
        ran: Result<Result<T, Abort<E>>, Elapsed>,
    ) -> Result<T, E> {
        match ran {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Abort::Refused(error))) => Err(error),
            Ok(Err(Abort::Driver(error))) => Err(classify(&error).into()),
            Ok(Err(Abort::Again(race))) => {
                tracing::debug!(race, "a transaction is to run again");
                let store = StoreKind::Relational;
                Err(StoreError::Conflict { store }.into())
            }
            Err(_elapsed) => {
                let error = unavailable("a transaction took too long");
                self.cut_off = Some(error.clone());
                Err(error.into())
            }
        }
    }

    fn check_whole(&self) -> Result<(), StoreError> {
        self.cut_off.clone().map_or(Ok(()), Err)
    }

    /// The last statement. The server answers a commit of a transaction in which a statement failed as if
    /// it were well, although it rolls back: a body that has overlooked an error is found out here.
    async fn last_words(&mut self) -> Result<(), sqlx::Error> {
        let at = self.at.unwrap_or_else(|| SystemClock.now());
        let connection = self.open.connection();
        if self.options.outbox && !self.tags.is_empty() {
            outbox::enqueue(connection, self.tags.clone(), at).await
        } else {
            sqlx::query("SELECT 1").execute(connection).await.map(drop)
        }
    }
}

#[async_trait]
impl Transaction for PostgresTransaction {
    async fn update_user_balance(
        &mut self,
        command: &Command,
    ) -> Result<Outcome, crate::ledger::Error> {
        self.check_whole()?;
        let deadline = self.open.deadline();
        let connection = self.open.connection();
        let commands = std::slice::from_ref(command);
        let ran = timeout_at(deadline, async {
            ledger::post_in(connection, commands, NewKeys::LookedUp, Locks::Wait)
                .await
                .map_err(Abort::Driver)
        })
        .await;
        let outcomes = self.outcome::<_, crate::ledger::Error>(ran)?;
        self.changed(command.user_id, command.at);
        outcomes
            .into_iter()
            .next()
            .unwrap_or_else(|| Err(unexpected("a command without an outcome").into()))
    }

    async fn create_user(
        &mut self,
        _ctx: &Context,
        user: &NewUser,
    ) -> Result<UserRecord, crate::users::Error> {
        self.check_whole()?;
        let (deadline, options) = (self.open.deadline(), self.options);
        let connection = self.open.connection();
        let ran = timeout_at(deadline, async {
            // A refusal comes after some of it is written, and the body may go on in spite of it.
            let mut savepoint = connection.begin().await?;
            let record = users::insert(&mut savepoint, user, options).await?;
            savepoint.commit().await?;
            Ok(record)
        })
        .await;
        let record = self.outcome(ran)?;
        self.changed(user.id, user.at);
        if let Some(referrer) = record.referral.referred_by {
            self.changed(referrer, user.at);
        }
        Ok(record)
    }

    async fn user(&mut self, id: UserId) -> Result<Option<UserRecord>, StoreError> {
        self.check_whole()?;
        let deadline = self.open.deadline();
        let connection = self.open.connection();
        let ran = timeout_at(deadline, async {
            users::find(connection, id).await.map_err(Abort::Driver)
        })
        .await;
        self.outcome(ran)
    }

    async fn user_by_identity(
        &mut self,
        query: &IdentityQuery,
    ) -> Result<Option<UserId>, StoreError> {
        self.check_whole()?;
        let deadline = self.open.deadline();
        let connection = self.open.connection();
        let ran = timeout_at(deadline, async {
            users::find_by_identity(connection, query)
                .await
                .map_err(Abort::Driver)
        })
        .await;
        self.outcome(ran)
    }

    async fn write_document(
        &mut self,
        _ctx: &Context,
        write: &HeadWrite,
    ) -> Result<HeadWritten, documents::Error> {
        self.check_whole()?;
        let (deadline, options) = (self.open.deadline(), self.options);
        let connection = self.open.connection();
        let ran = timeout_at(deadline, async {
            // As for a user: the import comes before the refusal.
            let mut savepoint = connection.begin().await?;
            let written = heads::write(&mut savepoint, write, options).await?;
            savepoint.commit().await?;
            Ok(written)
        })
        .await;
        let written = self.outcome(ran)?;
        self.changed(write.key.user_id, write.at);
        Ok(written)
    }

    fn postgres(&mut self) -> Option<&mut PgConnection> {
        Some(self.open.connection())
    }

    fn sqlite(&mut self) -> Option<&mut sqlx::SqliteConnection> {
        None
    }

    fn invalidate(&mut self, tag: String) {
        if !self.tags.contains(&tag) {
            self.tags.push(tag);
        }
    }

    fn tags(&self) -> Vec<String> {
        self.tags.clone()
    }

    async fn commit(mut self: Box<Self>) -> Result<Vec<String>, StoreError> {
        self.check_whole()?;
        let deadline = self.open.deadline();
        let ran = timeout_at(deadline, self.last_words()).await;
        self.outcome::<(), StoreError>(ran.map(|said| said.map_err(Abort::Driver)))?;
        self.open.commit().await?;
        Ok(self.tags)
    }

    fn error(&self, error: sqlx::Error) -> StoreError {
        classify(&error)
    }

    async fn rollback(self: Box<Self>) -> Result<(), StoreError> {
        if self.cut_off.is_none() {
            self.open.rollback().await;
        }
        Ok(())
    }
}
