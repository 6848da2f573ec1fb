//! Opening the files: where they are, who may read them, how connections are set, and their schema.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};
use tokio::time::Instant;

use super::error::{classify, is_busy, overloaded};
use crate::OpenError;
use crate::error::{StoreError, StoreKind};

static RELATIONAL: Migrator = sqlx::migrate!("src/stores/sqlite/migrations");
static DOCUMENTS: Migrator = sqlx::migrate!("src/stores/sqlite/migrations_documents");

/// What a bad path is reported under.
const VARIABLE: &str = "DATABASE_URL";

/// How long SQLite itself waits for another process's lock. Short, since nobody can interrupt it: who waits
/// longer asks again.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);
/// How long opening waits for another process that opens (and perhaps migrates) the same file.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// What the write-ahead log may keep on disk once its content is in the file: enough for a burst.
const WAL_KEPT_BYTES: u32 = 64 * 1024 * 1024;

/// Pages of the write-ahead log after which a commit brings them into the file: as many as the log may keep.
/// Under load a batch writes hundreds, and the same ones again and again: the rarer they are brought over, the
/// fewer they are.
const CHECKPOINT_PAGES: u32 = WAL_KEPT_BYTES / (4_096 + 24);
/// Statements that the writer keeps prepared: the ledger's, for each of the numbers of rows that they take,
/// and all others.
const STATEMENTS_KEPT: usize = 250;
/// Pages that the writer keeps in memory: with SQLite's own two megabytes it reads the inner pages of its
/// indexes from the log again and again.
const CACHE_KIB: u32 = 64 * 1024;

/// The path that a `sqlite://…` URL, a `sqlite:…` URL or a plain path names.
///
/// # Errors
/// `Configuration` for no path, for a database in memory (its readers would each have another one), and for
/// parameters, which are the configuration's to give.
pub(super) fn path_of(url_or_path: &str) -> Result<PathBuf, OpenError> {
    let refused = |reason: &str| {
        Err(OpenError::Configuration {
            variable: VARIABLE,
            reason: reason.to_owned(),
        })
    };
    let path = url_or_path
        .strip_prefix("sqlite://")
        .or_else(|| url_or_path.strip_prefix("sqlite:"));
    let is_url = path.is_some();
    let path = path.unwrap_or(url_or_path);
    if path.is_empty() {
        return refused("names no file; give sqlite:///path/to/file.db");
    }
    if path.contains(":memory:") {
        return refused("a database in memory is not supported; give the path of a file");
    }
    if is_url && path.contains(['?', '#']) {
        return refused(
            "takes no parameters after the path; see the sqlite section of the configuration",
        );
    }
    Ok(PathBuf::from(path))
}

/// The file of developers' data and logs, beside `main`: `abunfi.db` → `abunfi-documents.db`.
pub(super) fn documents_path(main: &Path) -> PathBuf {
    let mut name = main.file_stem().unwrap_or_default().to_os_string();
    name.push("-documents");
    if let Some(extension) = main.extension() {
        name.push(".");
        name.push(extension);
    }
    main.with_file_name(name)
}

/// How the one writer is connected.
pub(super) fn writer_options(path: &Path) -> SqliteConnectOptions {
    // FULL: a commit is on disk when it is acknowledged, also after a power cut (NORMAL may lose the last
    // ones in WAL mode). fullfsync makes that true on macOS.
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("fullfsync", "ON")
        .pragma("checkpoint_fullfsync", "ON")
        .pragma("recursive_triggers", "ON")
        .pragma("trusted_schema", "OFF")
        .pragma("journal_size_limit", WAL_KEPT_BYTES.to_string())
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
        .pragma("cache_size", (-i64::from(CACHE_KIB)).to_string())
        // What a statement over many rows keeps for undoing itself alone: gone after a crash either way.
        .pragma("temp_store", "MEMORY")
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .statement_cache_capacity(STATEMENTS_KEPT)
        .disable_statement_logging()
}

/// How readers are connected. They cannot write.
pub(super) fn reader_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .pragma("query_only", "ON")
        .pragma("trusted_schema", "OFF")
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging()
}

/// Makes the relational file (and its directory) if need be, and brings its schema up to date; gives the
/// schema's version before and after.
pub(super) async fn prepare_relational(
    path: &Path,
    migrate: bool,
) -> Result<(i64, i64), OpenError> {
    prepare(StoreKind::Relational, path, &RELATIONAL, migrate).await
}

/// The same for the file of developers' data and logs.
pub(super) async fn prepare_documents(path: &Path, migrate: bool) -> Result<(i64, i64), OpenError> {
    prepare(StoreKind::Documents, path, &DOCUMENTS, migrate).await
}

/// The newest version of the relational schema that this program knows.
pub(super) fn known_version() -> i64 {
    newest(&RELATIONAL)
}

async fn prepare(
    store: StoreKind,
    path: &Path,
    migrator: &Migrator,
    migrate: bool,
) -> Result<(i64, i64), OpenError> {
    if !migrate && !path.exists() {
        // Whoever does not want it migrated does not want it made.
        return Err(OpenError::SchemaTooOld {
            found: 0,
            needed: newest(migrator),
        });
    }
    create_file(path).map_err(|error| OpenError::Configuration {
        variable: VARIABLE,
        reason: format!("cannot make or open {}: {error}", path.display()),
    })?;
    let mut connection = connect(store, path).await?;
    let versions = bring_up_to_date(store, &mut connection, migrator, migrate).await?;
    connection
        .close()
        .await
        .map_err(|error| classify(store, &error))?;
    Ok(versions)
}

/// Only the owner may read what is in it; SQLite gives the files beside it (`-wal`, `-shm`) the same mode.
/// A file that is there keeps the mode that its owner gave it.
fn create_file(path: &Path) -> io::Result<()> {
    if let Some(directory) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        std::fs::create_dir_all(directory)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Two processes that start together may both be turning the write-ahead log on, which SQLite refuses
/// without waiting.
async fn connect(store: StoreKind, path: &Path) -> Result<SqliteConnection, StoreError> {
    let deadline = Instant::now() + OPEN_TIMEOUT;
    loop {
        match writer_options(path).connect().await {
            Ok(connection) => return Ok(connection),
            Err(error) if is_busy(&error) && Instant::now() < deadline => {
                tokio::time::sleep(BUSY_TIMEOUT / 10).await;
            }
            Err(error) if is_busy(&error) => return Err(overloaded(store, error)),
            Err(error) => return Err(classify(store, &error)),
        }
    }
}

/// Under the write lock, so that of two processes that start together one migrates and the other finds it
/// done; and in one transaction, so that a schema is never between two versions.
async fn bring_up_to_date(
    store: StoreKind,
    connection: &mut SqliteConnection,
    migrator: &Migrator,
    migrate: bool,
) -> Result<(i64, i64), OpenError> {
    let deadline = Instant::now() + OPEN_TIMEOUT;
    let mut transaction = loop {
        match connection.begin_with("BEGIN IMMEDIATE").await {
            Ok(transaction) => break transaction,
            Err(error) if is_busy(&error) && Instant::now() < deadline => {}
            Err(error) if is_busy(&error) => return Err(overloaded(store, error).into()),
            Err(error) => return Err(classify(store, &error).into()),
        }
    };
    let known = newest(migrator);
    let found = applied(&mut transaction)
        .await
        .map_err(|error| classify(store, &error))?;
    if found > known {
        return Err(OpenError::SchemaTooNew { found, known });
    }
    if found == known {
        return Ok((found, known));
    }
    if !migrate {
        return Err(OpenError::SchemaTooOld {
            found,
            needed: known,
        });
    }
    // Not `run`, whose future the compiler cannot show to be Send.
    migrator
        .run_direct(None, &mut *transaction, false)
        .await
        .map_err(|error| migration_failed(store, error))?;
    transaction
        .commit()
        .await
        .map_err(|error| classify(store, &error))?;
    Ok((found, known))
}

async fn applied(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    let is_new = sqlx::query("SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations'")
        .fetch_optional(&mut *connection)
        .await?
        .is_none();
    if is_new {
        return Ok(0);
    }
    sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations")
        .fetch_one(connection)
        .await
}

fn newest(migrator: &Migrator) -> i64 {
    migrator
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

fn migration_failed(store: StoreKind, error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            classify(store, &error)
        }
        error => StoreError::unexpected(store, error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use super::*;

    #[test]
    fn urls_and_plain_paths_name_the_same_file() {
        for text in ["sqlite:///var/a.db", "sqlite:/var/a.db", "/var/a.db"] {
            assert_eq!(path_of(text).unwrap(), Path::new("/var/a.db"), "{text}");
        }
        for text in ["sqlite://", "", "sqlite::memory:", "sqlite://a.db?mode=ro"] {
            assert!(path_of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn documents_have_a_file_of_their_own_beside_the_money() {
        let documents = |main| documents_path(Path::new(main));
        assert_eq!(
            documents("/d/abunfi.db"),
            Path::new("/d/abunfi-documents.db")
        );
        assert_eq!(documents("abunfi"), Path::new("abunfi-documents"));
    }
}
