//! Stores of a test's own on the shared servers, and how many rows are in them.

use std::collections::BTreeMap;

use abunfi_testkit::{servers, unique_name};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

use crate::support::Place;

/// A place whose platform runs on the three servers, in a database, a document database and below a key
/// prefix of its own.
pub(crate) async fn on_servers() -> Place {
    let name = unique_name();
    let mut place = on_postgres(&name).await;
    place
        .set("MONGODB_URI", servers::require_mongodb_uri())
        .set("MONGODB_DATABASE", &name)
        .set("REDIS_URL", servers::require_redis_url())
        .set("REDIS_KEY_PREFIX", format!("{name}:"));
    place
}

/// The same, with PostgreSQL alone.
pub(crate) async fn on_postgres(name: &str) -> Place {
    let maintenance = servers::require_postgres_url();
    let mut connection = PgConnection::connect(&maintenance).await.unwrap();
    let statement = format!("CREATE DATABASE {name}");
    sqlx::query(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let mut place = Place::new();
    place.set("DATABASE_URL", with_database(&maintenance, name));
    place
}

/// The same server, another database.
fn with_database(url: &str, name: &str) -> String {
    let (address, query) = url
        .split_once('?')
        .map_or((url, None), |(a, q)| (a, Some(q)));
    let (scheme, rest) = address.split_once("://").unwrap();
    let authority = rest.split('/').next().unwrap();
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{scheme}://{authority}/{name}{query}")
}

/// How many rows each table has.
pub(crate) async fn rows_in_postgres(url: &str) -> BTreeMap<String, i64> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let mut rows = BTreeMap::new();
    for table in tables {
        let count = format!("SELECT count(*) FROM \"{table}\"");
        let count = sqlx::query_scalar(AssertSqlSafe(count))
            .fetch_one(&mut connection)
            .await;
        rows.insert(table, count.unwrap());
    }
    rows
}

/// How many rows each table of each SQLite file in the data directory has.
pub(crate) async fn rows_in_sqlite(place: &Place) -> BTreeMap<String, i64> {
    let mut rows = BTreeMap::new();
    for entry in std::fs::read_dir(place.data()).unwrap() {
        let path = entry.unwrap().path();
        let mut head = [0; 16];
        let is_database = std::fs::File::open(&path)
            .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head))
            .is_ok_and(|()| head.starts_with(b"SQLite format 3"));
        if !is_database {
            continue;
        }
        let mut connection = SqliteConnection::connect(&format!("sqlite://{}", path.display()))
            .await
            .unwrap();
        let tables: Vec<String> =
            sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table'")
                .fetch_all(&mut connection)
                .await
                .unwrap();
        for table in tables {
            let count = format!("SELECT count(*) FROM \"{table}\"");
            let count = sqlx::query_scalar(AssertSqlSafe(count))
                .fetch_one(&mut connection)
                .await;
            let file = path.file_name().unwrap().to_string_lossy();
            rows.insert(format!("{file}:{table}"), count.unwrap());
        }
    }
    rows
}

/// Takes away what keeps the audit trail from being changed.
pub(crate) async fn allow_changes_of_the_trail(place: &Place) {
    let file = format!("sqlite://{}", place.data().join("abunfi.db").display());
    let mut connection = SqliteConnection::connect(&file).await.unwrap();
    let triggers: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit'",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert!(!triggers.is_empty());
    for trigger in triggers {
        let statement = format!("DROP TRIGGER {trigger}");
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut connection)
            .await
            .unwrap();
    }
    connection.close().await.unwrap();
}
