//! `execute_transaction`: several domains' operations in one relational transaction.

use async_trait::async_trait;
use sqlx::PgConnection;

use super::error::{Abort, classify, unexpected};
use super::lane::Open;
use super::{Postgres, heads, ledger, outbox, users};
use crate::clock::{Clock, SystemClock};
use crate::context::Context;
use crate::documents::{self, HeadWrite, HeadWritten};
use crate::error::{StoreError, StoreKind};
use crate::ids::UserId;
use crate::ledger::{Command, Outcome};
use crate::stores::{RelationalOptions, user_tag};
use crate::transaction::{Store, Transaction};
use crate::users::{IdentityQuery, NewUser, UserRecord};

/// An open transaction, and the cache tags of what it changed.
#[derive(Debug)]
struct PostgresTransaction {
    open: Open,
    options: RelationalOptions,
    tags: Vec<String>,
}

#[async_trait]
impl Store for Postgres {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        Ok(Box::new(PostgresTransaction {
            open: self.requests.begin().await?,
            options: self.options,
            tags: Vec::new(),
        }))
    }
}

impl PostgresTransaction {
    fn changed(&mut self, user: UserId) {
        self.invalidate(user_tag(user));
    }
}
