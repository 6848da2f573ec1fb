//! `execute_transaction`: several domains' operations, and the driver itself, in one relational commit.

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::context::Context;
use crate::documents::{self, HeadWrite, HeadWritten};
use crate::error::{Error, StoreError};
use crate::ids::UserId;
use crate::ledger::{self, Command, Outcome};
use crate::users::{self, IdentityQuery, NewUser, UserRecord};

pub mod guard;
mod run;

pub use run::{execute, execute_noting};

/// One open relational transaction. Dropping it rolls back.
///
/// No other store and no second connection may be used while it is open: [`guard`] refuses that.
#[async_trait]
pub trait Transaction: Send {
    /// Posts, settles or submits: transaction, entries, balances and audit row together. No call
    /// changes a balance alone. A refusal is an answer, not an error; the caller decides what follows.
    async fn update_user_balance(&mut self, command: &Command) -> Result<Outcome, ledger::Error>;

    async fn create_user(
        &mut self,
        ctx: &Context,
        user: &NewUser,
    ) -> Result<UserRecord, users::Error>;

    async fn user(&mut self, id: UserId) -> Result<Option<UserRecord>, StoreError>;

    async fn user_by_identity(
        &mut self,
        query: &IdentityQuery,
    ) -> Result<Option<UserId>, StoreError>;

    async fn write_document(
        &mut self,
        ctx: &Context,
        write: &HeadWrite,
    ) -> Result<HeadWritten, documents::Error>;

    /// The raw connection inside the transaction, when PostgreSQL serves.
    fn postgres(&mut self) -> Option<&mut sqlx::PgConnection>;

    /// The raw connection inside the transaction, when SQLite serves.
    fn sqlite(&mut self) -> Option<&mut sqlx::SqliteConnection>;

    /// The cache tags to invalidate when (and only when) this commits; the operations above add theirs.
    fn invalidate(&mut self, tag: String);

    /// What would be invalidated if this committed now.
    fn tags(&self) -> Vec<String>;

    /// Writes the outbox row, commits, and gives the tags to invalidate. Runs to its end even when the
    /// caller goes away. [`StoreError::Conflict`]: certainly not done, may be run again;
    /// [`StoreError::OutcomeUnknown`]: the answer was lost.
    async fn commit(self: Box<Self>) -> Result<Vec<String>, StoreError>;

    /// What an error of the raw driver means, to be returned by the body.
    fn error(&self, error: sqlx::Error) -> StoreError;

    async fn rollback(self: Box<Self>) -> Result<(), StoreError>;
}

/// A relational store that opens transactions.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError>;
}

/// The body of a transaction. It may be called again after a conflict, so it must do nothing outside.
pub trait Body<T>:
    Send + for<'t> FnMut(&'t mut dyn Transaction) -> BoxFuture<'t, Result<T, Error>>
{
}
impl<T, F> Body<T> for F where
    F: Send + for<'t> FnMut(&'t mut dyn Transaction) -> BoxFuture<'t, Result<T, Error>>
{
}
