//! What is SQLite's own: files, locks, the one writer. What every backend must do is in `tests/it`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop where it stands"
)]

use std::path::PathBuf;
use std::time::Duration;

use sqlx::{AssertSqlSafe, ConnectOptions};
use tempfile::TempDir;
use time::OffsetDateTime;

use super::*;
use crate::clock::Timestamp;
use crate::context::Context;
use crate::documents::{LogEntry, LogFilter, LogLevel, LogStore, NewDocument};
use crate::ids::{UserId, random_bytes};
use crate::ledger::{Asset, Page};
use crate::transaction::{self, Store as _};
use crate::users::{
    Email, Error, FirstDocuments, Name, NewUser, ReferralCode, Store as _, UserRecord,
};

const OPTIONS: RelationalOptions = RelationalOptions {
    holds_documents: true,
    outbox: false,
    migrate: true,
    allow_unsafe_durability: false,
};

struct Files {
    dir: TempDir,
}

impl Files {
    fn new() -> Self {
        Self {
            dir: TempDir::with_prefix("abunfi-sqlite-").unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("deep/abunfi.db")
    }

    fn url(&self) -> String {
        format!("sqlite://{}", self.path().display())
    }

    async fn open(&self) -> Sqlite {
        self.open_with(&SqliteConfig::default()).await
    }

    async fn open_with(&self, config: &SqliteConfig) -> Sqlite {
        Sqlite::open(&self.url(), config, OPTIONS).await.unwrap()
    }

    /// A connection as another process would have it.
    async fn stranger(&self) -> sqlx::SqliteConnection {
        open::writer_options(&self.path()).connect().await.unwrap()
    }
}

fn now() -> Timestamp {
    Timestamp::from(OffsetDateTime::UNIX_EPOCH).plus(Duration::from_secs(1_800_000_000))
}

fn new_user(email: &str) -> NewUser {
    let empty = NewDocument::of(&serde_json::json!({}));
    NewUser {
        id: UserId::new(now()),
        email: Email::parse(email).unwrap(),
        name: Name::parse("An").unwrap(),
        wallet_address: None,
        phone: None,
        social: None,
        referral_codes: vec![ReferralCode::from_random(random_bytes())],
        referred_by: None,
        default_asset: Asset::parse("VND").unwrap(),
        documents: FirstDocuments {
            preferences: empty.clone(),
            metadata: empty,
        },
        at: now(),
    }
}

async fn create(store: &Sqlite, email: &str) -> Result<UserRecord, Error> {
    store
        .create(&Context::system("test"), &new_user(email))
        .await
}

async fn count(store: &Sqlite, table: &str) -> i64 {
    let sql = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    store
        .relational
        .read(async |connection| sqlx::query_scalar(sql).fetch_one(connection).await)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_open_a_new_file_at_once_all_find_one_schema() {
    let files = Files::new();
    let url = files.url();
    let opening = (0..8).map(|_| {
        let url = url.clone();
        tokio::spawn(async move { Sqlite::open(&url, &SqliteConfig::default(), OPTIONS).await })
    });
    let stores: Vec<Sqlite> = futures::future::join_all(opening)
        .await
        .into_iter()
        .map(|opened| opened.unwrap().unwrap())
        .collect();
    create(&stores[0], "an@example.com").await.unwrap();
    assert_eq!(count(&stores[7], "users").await, 1);
}

#[tokio::test]
async fn a_schema_that_is_newer_or_not_yet_there_is_refused() {
    let files = Files::new();
    let waits = RelationalOptions {
        migrate: false,
        ..OPTIONS
    };
    let opened = Sqlite::open(&files.url(), &SqliteConfig::default(), waits).await;
    assert!(
        matches!(opened, Err(OpenError::SchemaTooOld { found: 0, needed }) if needed == Sqlite::schema_version())
    );
    assert_eq!(
        Sqlite::migrate(&files.url()).await.unwrap(),
        (0, Sqlite::schema_version())
    );
    let store = Sqlite::open(&files.url(), &SqliteConfig::default(), waits)
        .await
        .unwrap();
    store.close().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9000, 'of tomorrow', true, x'00', 0)",
    )
    .execute(&mut files.stranger().await)
    .await
    .unwrap();
    let opened = Sqlite::open(&files.url(), &SqliteConfig::default(), OPTIONS).await;
    assert!(matches!(
        opened,
        Err(OpenError::SchemaTooNew { found: 9000, .. })
    ));
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;

    let files = Files::new();
    let store = files.open().await;
    create(&store, "an@example.com").await.unwrap();
    let mut seen = 0;
    for file in std::fs::read_dir(files.path().parent().unwrap()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", file.file_name());
        seen += 1;
    }
    // Two files, and at least the money's write-ahead log with its index.
    assert!(seen >= 4, "{seen}");
}

#[tokio::test]
async fn a_lock_of_another_process_is_waited_for_and_then_told() {
    let files = Files::new();
    let config = SqliteConfig {
        acquire_timeout_ms: 100,
        ..SqliteConfig::default()
    };
    let store = files.open_with(&config).await;
    let mut stranger = files.stranger().await;
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut stranger)
        .await
        .unwrap();
    let refused = create(&store, "an@example.com").await;
    assert!(
        matches!(&refused, Err(Error::Store(StoreError::Overloaded { .. }))),
        "{refused:?}"
    );
    assert_eq!(count(&store, "users").await, 0, "readers do not wait");
    sqlx::query("COMMIT").execute(&mut stranger).await.unwrap();
    create(&store, "an@example.com").await.unwrap();
}

#[tokio::test]
async fn a_unit_past_its_deadline_or_without_its_caller_is_not_done() {
    let files = Files::new();
    let config = SqliteConfig {
        // Enough to make a user, flush and all.
        deadline_ms: 1_000,
        ..SqliteConfig::default()
    };
    let store = files.open_with(&config).await;
    let stuck = || {
        store.relational.write(async |connection| {
            sqlx::query("INSERT INTO revocations (kind, id, at) VALUES ('user', x'00', 1)")
                .execute(connection)
                .await?;
            std::future::pending::<()>().await;
            Ok::<(), error::Abort<StoreError>>(())
        })
    };
    let late = stuck().await;
    assert!(
        matches!(&late, Err(StoreError::Unavailable { .. })),
        "{late:?}"
    );
    let left = tokio::time::timeout(Duration::from_millis(50), stuck()).await;
    assert!(left.is_err(), "the caller went away first");
    create(&store, "an@example.com").await.unwrap();
    assert_eq!(count(&store, "revocations").await, 0);
}

#[tokio::test]
async fn readers_cannot_write() {
    let files = Files::new();
    let store = files.open().await;
    let written = store
        .relational
        .read(async |connection| {
            sqlx::query("INSERT INTO revocations (kind, id, at) VALUES ('user', x'00', 1)")
                .execute(connection)
                .await
                .map(drop)
        })
        .await;
    assert!(written.is_err());
    assert_eq!(count(&store, "revocations").await, 0);
}

#[tokio::test]
async fn a_full_disk_is_told_and_survived() {
    let files = Files::new();
    let store = files.open().await;
    create(&store, "an@example.com").await.unwrap();
    let limit = async |pages: &'static str| {
        store
            .documents()
            .unwrap()
            .write(async |connection| {
                sqlx::query(AssertSqlSafe(format!("PRAGMA max_page_count = {pages}")))
                    .fetch_all(connection)
                    .await?;
                Ok::<_, error::Abort<StoreError>>(())
            })
            .await
            .unwrap();
    };
    // Never below what the file has: so it can grow no more.
    limit("1").await;
    let entry = |index: u128| LogEntry {
        id: uuid::Uuid::from_u128(index),
        at: now(),
        level: LogLevel::Info,
        target: "test".to_owned(),
        message: "x".repeat(60_000),
        fields: serde_json::json!({}),
        request_id: None,
    };
    let entries: Vec<LogEntry> = (0..20).map(entry).collect();
    let expiry = now().plus(Duration::from_secs(60));
    for _ in 0..3 {
        let full = store.append(&entries, expiry).await;
        assert!(
            matches!(
                &full,
                Err(StoreError::Unavailable {
                    store: StoreKind::Documents,
                    ..
                })
            ),
            "{full:?}"
        );
    }
    limit("1000000").await;
    store.append(&entries, expiry).await.unwrap();
    let page = Page {
        after: None,
        limit: 100,
    };
    let found = store.query(&LogFilter::default(), &page, now()).await;
    assert_eq!(found.unwrap().len(), 20);
}

/// As SQLite does after some I/O errors.
#[tokio::test]
async fn a_transaction_that_sqlite_ended_by_itself_does_not_wedge_the_writer() {
    let files = Files::new();
    let store = files.open().await;
    let ended = store
        .relational
        .write(async |connection| {
            sqlx::query("ROLLBACK").execute(connection).await?;
            Err::<(), _>(error::Abort::Driver(sqlx::Error::WorkerCrashed))
        })
        .await;
    let ended: Result<(), StoreError> = ended;
    assert!(ended.is_err());
    create(&store, "an@example.com").await.unwrap();
    assert_eq!(count(&store, "users").await, 1);
}

#[tokio::test]
async fn the_books_are_checked_to_the_last_micro_unit_however_large_they_are() {
    let files = Files::new();
    let store = files.open().await;
    create(&store, "an@example.com").await.unwrap();
    let mut stranger = files.stranger().await;
    let mut set = async |books: &str| {
        sqlx::query(AssertSqlSafe(format!("UPDATE accounts SET {books}")))
            .execute(&mut stranger)
            .await
            .map(drop)
    };
    // As floats these would all be equal.
    let large = "deposited = 9000000000000000001, withdrawn = 9000000000000000000";
    assert!(set(&format!("{large}, available = 1")).await.is_ok());
    assert!(set(&format!("{large}, available = 0")).await.is_err());
    assert!(set(&format!("{large}, available = 2")).await.is_err());
    // Sums beyond 64 bits on both sides.
    let beyond = "deposited = 9223372036854775807, bonuses = 9223372036854775807,
                  withdrawn = 9223372036854775807, fees = 9223372036854775800";
    assert!(set(&format!("{beyond}, available = 7")).await.is_ok());
    assert!(set(&format!("{beyond}, available = 6")).await.is_err());
    // Rests that carry into whole units.
    assert!(
        set("deposited = 1999999, bonuses = 1, withdrawn = 0, fees = 0, available = 2000000")
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn an_operation_that_is_refused_half_way_leaves_nothing_in_the_transaction() {
    let files = Files::new();
    let store = files.open().await;
    let taken = new_user("an@example.com");
    let other = new_user("AN@example.com");
    let ctx = Context::system("test");
    let (refused, tags) = transaction::execute(&store, |open| {
        let (ctx, taken, other) = (ctx.clone(), taken.clone(), other.clone());
        Box::pin(async move {
            open.create_user(&ctx, &taken).await?;
            Ok(open.create_user(&ctx, &other).await.is_err())
        })
    })
    .await
    .unwrap();
    assert!(refused);
    assert_eq!(tags, [crate::cache::user_tag(taken.id)]);
    assert_eq!(count(&store, "users").await, 1);
    assert_eq!(count(&store, "user_identities").await, 2);
    assert!(store.find(other.id).await.unwrap().is_none());
}

#[tokio::test]
async fn nothing_follows_a_statement_that_failed() {
    let files = Files::new();
    let store = files.open().await;
    let mut open = store.begin().await.unwrap();
    let ctx = Context::system("test");
    let user = new_user("an@example.com");
    open.create_user(&ctx, &user).await.unwrap();
    // The same id again is a bug of the caller, which no rule of the domain foresees.
    let again = NewUser {
        id: user.id,
        ..new_user("other@example.com")
    };
    assert!(open.create_user(&ctx, &again).await.is_err());
    assert!(open.commit().await.is_err());
    assert_eq!(count(&store, "users").await, 0);
    create(&store, "an@example.com").await.unwrap();
}
