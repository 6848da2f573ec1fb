//! PostgreSQL's catalogue.

use std::collections::BTreeSet;

use super::none;
use crate::support::{Relational, on_one_backend};

on_one_backend!(
    postgres, Postgres:
    what_belongs_to_a_user_leads_its_key_with_the_user,
    every_table_has_a_primary_key,
    every_foreign_key_is_supported_by_an_index,
    nothing_cascades,
    the_trail_stands_alone,
    the_append_only_tables_have_their_triggers,
    there_is_no_sequence_and_no_inexact_number,
    every_check_has_a_name_of_the_program_s,
    the_rows_that_are_referred_to_are_looked_up_in_the_program_s_own_tables,
    who_may_only_insert_is_checked_as_well,
);

/// Tables of the program, without the migrator's.
const TABLES: &str = "SELECT c.oid, c.relname FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
    AND c.relname <> '_sqlx_migrations'";

async fn what_belongs_to_a_user_leads_its_key_with_the_user(stores: &Relational) {
    let sql = format!(
        "SELECT t.relname::text FROM ({TABLES}) t
         JOIN pg_attribute u ON u.attrelid = t.oid AND u.attname = 'user_id'
         JOIN pg_constraint p ON p.conrelid = t.oid AND p.contype = 'p'
         WHERE p.conkey[1] <> u.attnum ORDER BY 1"
    );
    // The way from an identity to its user is the one exception.
    assert_eq!(stores.raw.texts(&sql).await, ["user_identities"]);
    let owned = format!(
        "SELECT t.relname::text FROM ({TABLES}) t
         JOIN pg_attribute u ON u.attrelid = t.oid AND u.attname = 'user_id' ORDER BY 1"
    );
    let owned = stores.raw.texts(&owned).await;
    assert!(
        owned.len() >= 10,
        "the question finds tables at all: {owned:?}"
    );
}

async fn every_table_has_a_primary_key(stores: &Relational) {
    let sql = format!(
        "SELECT t.relname::text FROM ({TABLES}) t WHERE NOT EXISTS (
             SELECT FROM pg_constraint p WHERE p.conrelid = t.oid AND p.contype = 'p')"
    );
    none(stores, "a table without a primary key", &sql).await;
}

async fn every_foreign_key_is_supported_by_an_index(stores: &Relational) {
    assert!(
        stores
            .raw
            .number("SELECT count(*) FROM pg_constraint WHERE contype = 'f'")
            .await
            >= 5
    );
    // Led by the key's first column: what a user has of anything is little.
    let sql = "SELECT f.conname::text FROM pg_constraint f WHERE f.contype = 'f' AND NOT EXISTS (
         SELECT FROM pg_index i WHERE i.indrelid = f.conrelid AND i.indisvalid
         AND i.indkey[0] = f.conkey[1]
         AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) LIKE '%IS NOT NULL%'))";
    none(stores, "a foreign key without an index", sql).await;
}

async fn nothing_cascades(stores: &Relational) {
    let sql = "SELECT conname::text FROM pg_constraint
         WHERE contype = 'f' AND (confdeltype <> 'a' OR confupdtype <> 'a')";
    none(
        stores,
        "a foreign key that deletes or changes rows by itself",
        sql,
    )
    .await;
}

async fn the_trail_stands_alone(stores: &Relational) {
    let sql = "SELECT conname::text FROM pg_constraint WHERE contype = 'f'
         AND ARRAY[conrelid, confrelid] && ARRAY['audit', 'audit_private', 'checkpoints', 'chain_leaves',
             'leaf_changes', 'merkle_tiles']::regclass[]::oid[]";
    none(stores, "a foreign key from or to the trail", sql).await;
}

async fn the_append_only_tables_have_their_triggers(stores: &Relational) {
    for table in [
        "audit",
        "entries",
        "checkpoints",
        "chain_leaves",
        "leaf_changes",
    ] {
        // tgtype: 1 each row, 2 before, 8 delete, 16 update, 32 truncate.
        let sql = format!(
            "SELECT tgtype::int8 FROM pg_trigger
             WHERE tgrelid = '{table}'::regclass AND NOT tgisinternal AND tgenabled IN ('O', 'A')
             AND tgqual IS NULL AND tgattr = ''"
        );
        let events = stores.raw.numbers(&sql).await;
        for event in [8, 16, 32] {
            let is_refused = |tgtype: &i64| tgtype & event != 0 && tgtype & 2 != 0;
            assert!(
                events.iter().any(is_refused),
                "{table}: event {event} of {events:?}"
            );
        }
    }
}

async fn there_is_no_sequence_and_no_inexact_number(stores: &Relational) {
    none(
        stores,
        "a sequence",
        "SELECT sequencename::text FROM pg_sequences",
    )
    .await;
    let columns = "SELECT table_name || '.' || column_name || ' ' || data_type
         FROM information_schema.columns WHERE table_schema = 'public' AND data_type IN
         ('real', 'double precision', 'money', 'timestamp without time zone', 'json')";
    none(stores, "an inexact column", columns).await;
}

/// Adapters map constraints by their names, so none may be made up by the server.
async fn every_check_has_a_name_of_the_program_s(stores: &Relational) {
    let migrations = super::migrations("postgres");
    let sql = format!(
        "SELECT k.conname::text FROM pg_constraint k JOIN ({TABLES}) t ON t.oid = k.conrelid
         WHERE k.contype IN ('c', 'p', 'f', 'u')"
    );
    let names = stores.raw.texts(&sql).await;
    assert!(names.len() > 30, "{names:?}");
    let words: Vec<&str> = migrations.split_whitespace().collect();
    let given: BTreeSet<&str> = words
        .windows(2)
        .filter(|pair| pair[0] == "CONSTRAINT")
        .map(|pair| pair[1])
        .collect();
    for name in names {
        assert!(given.contains(name.as_str()), "{name}");
    }
}

/// The constraint that a statement ran into.
async fn constraint(stores: &Relational, sql: &str) -> String {
    match stores.raw.execute(sql).await {
        Err(sqlx::Error::Database(error)) => {
            error.constraint().unwrap_or(error.message()).to_owned()
        }
        other => panic!("{sql}: {other:?}"),
    }
}

const ENTRY: &str =
    "INSERT INTO public.entries (user_id, transaction_id, account, asset, amount, at) VALUES";

async fn the_rows_that_are_referred_to_are_looked_up_in_the_program_s_own_tables(
    stores: &Relational,
) {
    let user = stores.user_with("An", 10).await;
    let sql = format!(
        "DO $$ BEGIN
             CREATE TEMPORARY TABLE transactions AS
                 SELECT '{user}'::uuid AS user_id, '{user}'::uuid AS transaction_id;
             {ENTRY} ('{user}', '{user}', 'fees', 'VND', 1, now());
         END $$"
    );
    assert_eq!(constraint(stores, &sql).await, "entries_transaction_fkey");
    let sql = format!(
        "DO $$ BEGIN
             CREATE TEMPORARY TABLE transactions AS
                 SELECT '{user}'::uuid AS user_id, 'VND'::text AS asset LIMIT 0;
             DELETE FROM public.accounts WHERE user_id = '{user}';
         END $$"
    );
    assert_eq!(constraint(stores, &sql).await, "transactions_account_fkey");
}

async fn who_may_only_insert_is_checked_as_well(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let role = abunfi_testkit::unique_name();
    // A failure takes the role back with all the rest.
    let as_writer = |transaction: &str| {
        format!(
            "DO $$ DECLARE posted uuid := (SELECT transaction_id FROM transactions); BEGIN
                 CREATE ROLE {role};
                 GRANT INSERT ON entries TO {role};
                 SET LOCAL ROLE {role};
                 {ENTRY} ('{user}', {transaction}, 'fees', 'VND', 1, now());
                 RESET ROLE;
                 RAISE EXCEPTION 'it was written';
             END $$"
        )
    };
    assert_eq!(
        constraint(stores, &as_writer("posted")).await,
        "it was written"
    );
    let found = constraint(stores, &as_writer(&format!("'{user}'"))).await;
    assert_eq!(found, "entries_transaction_fkey");
}
