//! A database of an older program, brought up to date with what is in it.

use std::path::Path;
use std::time::Duration;

use abunfi::config::PostgresConfig;
use abunfi::ids::UserId;
use abunfi::ledger::{self, Refusal, StoredAnswer};
use abunfi::money::Amount;
use abunfi::stores::postgres::Postgres;
use abunfi::users;
use sqlx::migrate::Migrator;
use sqlx::{Connection as _, PgConnection};

use crate::support::make::{Shape as _, context, deposit, new_user};
use crate::support::{Raw, Relational, TOGETHER, on_one_backend};

on_one_backend!(
    postgres, Postgres:
    an_answer_that_was_stored_before_is_replayed,
    a_key_that_commits_while_the_schema_is_migrated_is_not_lost,
);

const KEY: &str = "the-key/of:an-older.program";

/// An empty database at the last schema before the keys' rows changed.
async fn before_narrow_rows(raw: &Raw) -> (Raw, String) {
    let neighbour = raw.empty_neighbour().await;
    let Raw::Postgres(url) = &neighbour else {
        panic!("PostgreSQL only");
    };
    let url = url.clone();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/stores/postgres/migrations");
    let older = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        if file.file_name().to_str().unwrap() < "0003" {
            std::fs::copy(file.path(), older.path().join(file.file_name())).unwrap();
        }
    }
    let migrator = Migrator::new(older.path()).await.unwrap();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let migrated = migrator.run_direct(None, &mut connection, false).await;
    migrated.unwrap();
    connection.close().await.unwrap();
    (neighbour, url)
}

/// The row as an older program writes it for `deposit(user, …).key(KEY, 1)`.
async fn store_answer(connection: &mut PgConnection, user: UserId, answer: &StoredAnswer) {
    sqlx::query(
        "INSERT INTO idempotency_keys
             (user_id, principal, scope, key, fingerprint, answer, created_at)
         VALUES ($1, 'key:conformance', 'post', $2, $3, $4, now())",
    )
    .bind(user.uuid())
    .bind(KEY)
    .bind([1_u8; 32].as_slice())
    .bind(serde_json::to_string(answer).unwrap())
    .execute(connection)
    .await
    .unwrap();
}

fn an_answer() -> StoredAnswer {
    StoredAnswer {
        request_id: "the-first-request".into(),
        result: Err(Refusal::InsufficientFunds {
            available: Amount::ZERO,
        }),
    }
}

async fn migrate(url: &str) {
    Postgres::migrate(url, &PostgresConfig::default())
        .await
        .unwrap();
}

async fn is_replayed(url: &str, user: &users::NewUser) {
    let config = PostgresConfig {
        max_connections: 2,
        background_connections: 1,
        ..PostgresConfig::default()
    };
    let store = Postgres::connect(url, &config, TOGETHER).await.unwrap();
    users::Store::create(&store, &context(), user)
        .await
        .unwrap();
    let command = deposit(user.id, 10).key(KEY, 1);
    let mut outcomes = ledger::Store::post(&store, &[command]).await.unwrap();
    let outcome = outcomes.remove(0).unwrap();
    assert!(outcome.replayed, "{outcome:?}");
    assert_eq!(outcome.answer, an_answer());
}

async fn an_answer_that_was_stored_before_is_replayed(stores: &Relational) {
    let (older, url) = before_narrow_rows(&stores.raw).await;
    let user = new_user("An");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    store_answer(&mut connection, user.id, &an_answer()).await;
    connection.close().await.unwrap();
    migrate(&url).await;
    is_replayed(&url, &user).await;
    older.remove_neighbour(&stores.raw).await;
}

async fn a_key_that_commits_while_the_schema_is_migrated_is_not_lost(stores: &Relational) {
    let (older, url) = before_narrow_rows(&stores.raw).await;
    let user = new_user("An");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    store_answer(&mut transaction, user.id, &an_answer()).await;
    let migrating = tokio::spawn({
        let url = url.clone();
        async move { migrate(&url).await }
    });
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database =
                 (SELECT oid FROM pg_database WHERE datname = current_database())";
    while older.number(waits).await == 0 {
        assert!(!migrating.is_finished(), "it did not wait");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    transaction.commit().await.unwrap();
    migrating.await.unwrap();
    is_replayed(&url, &user).await;
    connection.close().await.unwrap();
    older.remove_neighbour(&stores.raw).await;
}
