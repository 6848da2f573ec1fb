//! The relational store on SQLite, which can also be the document store: the embedded default, with
//! nothing to run beside it.
//!
//! One file for each domain it serves. What they share: [`lane`] (units of work, reads, deadlines),
//! [`open`] (files and schema), [`error`] (what the driver's errors mean), [`columns`] (reading rows), and
//! [`audit`]'s and [`outbox`]'s ways to write a row inside somebody's unit of work.
//!
//! Two files on disk: the relational one, which also holds the documents that belong to users (so that a
//! head and its document are one commit), and one for developers' data and logs, which must not wait for
//! the money's writer.
//!
//! Invariant: there is one writer for each file, and a unit of work holds it from its first statement, so
//! nothing that it has read can change before its commit. There are no row locks here and no conflicts.

use std::sync::Arc;

use crate::OpenError;
use crate::config::SqliteConfig;
use crate::error::{StoreError, StoreKind};
use crate::stores::RelationalOptions;
use crate::stores::breaker::Breaker;

mod audit;
mod audit_verify;
mod checkpoints;
mod columns;
mod content;
mod dev_data;
mod error;
mod export;
mod heads;
mod keys;
mod lane;
mod leaves;
mod ledger;
mod logs;
mod open;
mod outbox;
mod probe;
mod rows;
mod sessions;
#[cfg(test)]
mod tests;
mod transaction;
mod users;

use lane::Lane;

/// SQLite files as the relational store. Cheap to clone; all clones share the connections.
#[derive(Clone, Debug)]
pub struct Sqlite {
    relational: Lane,
    /// Developers' data and logs; there only if this is the document store.
    documents: Option<Lane>,
    options: RelationalOptions,
}

impl Sqlite {
    /// Opens the file that a `sqlite://…` URL or a path names, makes it (readable by its owner only) if it
    /// is missing, and migrates the schema if told to. Several processes may open the same file, also at
    /// the same time.
    ///
    /// # Errors
    /// [`OpenError::Configuration`] for a path that cannot be used; [`OpenError::SchemaTooNew`],
    /// [`OpenError::SchemaTooOld`]; [`OpenError::Store`] when the file is damaged or stays locked.
    pub async fn open(
        url_or_path: &str,
        config: &SqliteConfig,
        options: RelationalOptions,
    ) -> Result<Self, OpenError> {
        let path = open::path_of(url_or_path)?;
        open::prepare_relational(&path, options.migrate).await?;
        let documents = if options.holds_documents {
            let path = open::documents_path(&path);
            open::prepare_documents(&path, options.migrate).await?;
            Some(Lane::new(StoreKind::Documents, &path, config))
        } else {
            None
        };
        Ok(Self {
            relational: Lane::new(StoreKind::Relational, &path, config),
            documents,
            options,
        })
    }

    /// Brings the schema of both files up to date; gives the relational one's version before and after.
    /// For `abunfi migrate`.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn migrate(url_or_path: &str) -> Result<(i64, i64), OpenError> {
        let path = open::path_of(url_or_path)?;
        open::prepare_documents(&open::documents_path(&path), true).await?;
        open::prepare_relational(&path, true).await
    }

    /// The newest schema version that this program knows.
    #[must_use]
    pub fn schema_version() -> i64 {
        open::known_version()
    }

    /// The circuit breaker of the relational file.
    #[must_use]
    pub fn breaker(&self) -> &Arc<Breaker> {
        self.relational.breaker()
    }

    /// Refuses new work, waits for what runs, and closes the files.
    pub async fn close(&self) {
        self.relational.close().await;
        if let Some(documents) = &self.documents {
            documents.close().await;
        }
    }

    /// The file of developers' data and logs.
    fn documents(&self) -> Result<&Lane, StoreError> {
        self.documents.as_ref().ok_or_else(|| {
            StoreError::unexpected(
                StoreKind::Documents,
                "this SQLite store was not opened as the document store",
            )
        })
    }
}

async fn user_exists(
    connection: &mut sqlx::SqliteConnection,
    id: crate::ids::UserId,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM users WHERE user_id = ?1)")
        .bind(id.0)
        .fetch_one(connection)
        .await
}
