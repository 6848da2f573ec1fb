//! What the schemas promise, asked of the catalogues themselves; and how a schema comes to be.

use crate::support::Relational;

mod durability;
mod on_postgres;
mod on_sqlite;
mod opening;

/// Rows that break a rule, each as a readable text; there must be none.
async fn none(stores: &Relational, rule: &str, sql: &str) {
    assert_eq!(stores.raw.texts(sql).await, Vec::<String>::new(), "{rule}");
}
