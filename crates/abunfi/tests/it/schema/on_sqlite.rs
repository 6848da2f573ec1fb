//! SQLite's catalogue and settings.

use std::collections::BTreeSet;

use sqlx::Executor as _;

use super::none;
use crate::support::make::deposit;
use crate::support::{Relational, on_one_backend};

on_one_backend!(
    sqlite, Sqlite:
    every_table_is_strict,
    both_schemas_have_the_same_tables_and_columns,
    what_is_acknowledged_is_on_disk,
    references_are_enforced_on_every_connection,
    every_reference_is_supported_by_an_index,
);

async fn every_table_is_strict(stores: &Relational) {
    let sql =
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND strict = 0
         AND name NOT LIKE 'sqlite_%' AND name <> '_sqlx_migrations'";
    none(stores, "a table that takes any type", sql).await;
    assert!(
        stores
            .raw
            .number("SELECT count(*) FROM pragma_table_list WHERE strict = 1")
            .await
            >= 10
    );
}

/// The tables and columns of a schema, as its migrations name them.
fn columns_of(migrations: &str) -> BTreeSet<String> {
    let mut columns = BTreeSet::new();
    let mut table = None;
    for line in migrations.lines() {
        let words: Vec<&str> = line.trim_end_matches(';').split(' ').collect();
        if let ["DROP", "TABLE", dropped] = words.as_slice() {
            columns.retain(|column: &String| !column.starts_with(&format!("{dropped}.")));
        } else if let ["ALTER", "TABLE", from, "RENAME", "TO", to] = words.as_slice() {
            columns = columns
                .into_iter()
                .map(|column| match column.strip_prefix(&format!("{from}.")) {
                    Some(name) => format!("{to}.{name}"),
                    None => column,
                })
                .collect();
        } else if let Some(rest) = line.strip_prefix("CREATE TABLE ") {
            table = rest.split([' ', '(']).next();
        } else if let Some((table, column)) = line
            .strip_prefix("ALTER TABLE ")
            .and_then(|rest| rest.split_once(" ADD COLUMN "))
        {
            let column = column.split(' ').next().unwrap_or_default();
            columns.insert(format!("{table}.{column}"));
        } else if line.starts_with(')') {
            table = None;
        } else if let (Some(table), Some(column)) = (table, line.strip_prefix("    ")) {
            let first = column.split([' ', '(']).next().unwrap_or_default();
            let is_column = first
                .chars()
                .all(|char| char.is_ascii_lowercase() || char == '_');
            if is_column && !first.is_empty() {
                columns.insert(format!("{table}.{first}"));
            }
        }
    }
    columns
}

/// False for what one of the two has for reasons of its own: SQLite keeps logs and developers' data in a
/// file of their own, and PostgreSQL a queryable copy of a document and who wrote a row of the trail.
fn declared(column: &&String) -> bool {
    let own_file = ["logs.", "dev_data."];
    let own_column = [
        "documents.doc",
        "audit.written_by",
        // PostgreSQL keeps the hash of the three.
        "idempotency_keys.key_hash",
        "idempotency_keys.principal",
        "idempotency_keys.scope",
        "idempotency_keys.key",
    ];
    !own_file.iter().any(|table| column.starts_with(table))
        && !own_column.contains(&column.as_str())
}

async fn both_schemas_have_the_same_tables_and_columns(stores: &Relational) {
    let postgres = columns_of(&super::migrations("postgres"));
    let sqlite = columns_of(&super::migrations("sqlite"));
    let there: BTreeSet<String> = stores
        .raw
        .texts(
            "SELECT t.name || '.' || c.name FROM pragma_table_list AS t, pragma_table_info(t.name) AS c
             WHERE t.schema = 'main' AND t.type = 'table' AND t.strict = 1",
        )
        .await
        .into_iter()
        .collect();
    let differ = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
        let columns = one.symmetric_difference(other);
        columns.filter(declared).cloned().collect::<Vec<_>>()
    };
    assert!(
        differ(&sqlite, &there).is_empty(),
        "the migration was misread: {:?}",
        differ(&sqlite, &there)
    );
    assert_eq!(differ(&postgres, &sqlite), Vec::<String>::new());
}

async fn what_is_acknowledged_is_on_disk(stores: &Relational) {
    let mode = stores
        .raw
        .texts("SELECT journal_mode FROM pragma_journal_mode")
        .await;
    assert_eq!(mode, ["wal"]);
    let mut transaction = stores.transactions.begin().await.unwrap();
    let connection = transaction.sqlite().expect("SQLite");
    let synchronous: i64 = sqlx::query_scalar("SELECT synchronous FROM pragma_synchronous")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    assert_eq!(synchronous, 2, "FULL");
    transaction.rollback().await.unwrap();
    let user = stores.user("An").await.id;
    stores.posted(deposit(user, 1)).await;
    assert_eq!(
        stores
            .raw
            .texts("SELECT integrity_check FROM pragma_integrity_check")
            .await,
        ["ok"]
    );
}

async fn references_are_enforced_on_every_connection(stores: &Relational) {
    stores.user("An").await;
    for _ in 0..3 {
        let mut transaction = stores.transactions.begin().await.unwrap();
        let connection = transaction.sqlite().expect("SQLite");
        let on: i64 = sqlx::query_scalar("SELECT foreign_keys FROM pragma_foreign_keys")
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!(on, 1);
        let orphan = "UPDATE accounts SET asset = 'NOSUCH'";
        connection
            .execute(orphan)
            .await
            .expect_err("there is no such asset");
        transaction.rollback().await.unwrap();
    }
}

async fn every_reference_is_supported_by_an_index(stores: &Relational) {
    let sql = "SELECT t.name || '.' || f.\"from\"
         FROM pragma_table_list AS t, pragma_foreign_key_list(t.name) AS f
         WHERE t.schema = 'main' AND t.type = 'table' AND f.seq = 0 AND NOT EXISTS (
             SELECT 1 FROM pragma_index_list(t.name) AS i, pragma_index_info(i.name) AS c
             WHERE c.seqno = 0 AND c.name = f.\"from\")
         AND NOT EXISTS (SELECT 1 FROM pragma_table_info(t.name) AS p WHERE p.pk = 1 AND p.name = f.\"from\")";
    none(stores, "a reference without an index", sql).await;
}
