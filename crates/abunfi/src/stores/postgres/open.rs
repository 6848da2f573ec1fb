//! Before the store is used: the URL, the server, the schema.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::time::timeout;

use super::error::{classify, unavailable, unexpected};
use super::lane::Lane;
use super::pool::Pool;
use crate::OpenError;
use crate::config::PostgresConfig;
use crate::stores::RelationalOptions;
use crate::stores::breaker::Breaker;

pub(super) const DATABASE_URL: &str = "DATABASE_URL";
const DATABASE_DIRECT_URL: &str = "DATABASE_DIRECT_URL";

/// The oldest server that has all that the schema and the statements use.
const OLDEST_SERVER: u32 = 150_000;
/// How long the first connection may take: a database that just starts needs a moment.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the driver understands in a URL. Others are refused: a misspelt one would be ignored, and a part of
/// a password that was not percent-encoded would be taken for one.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

static MIGRATIONS: Migrator = sqlx::migrate!("src/stores/postgres/migrations");

/// A server's address that was understood.
pub(super) struct Target {
    options: PgConnectOptions,
    /// Prepared statements do not outlive a transaction.
    unprepared: bool,
}

impl Target {
    /// # Errors
    /// [`OpenError::Configuration`], without the URL in it.
    pub(super) fn parse(variable: &'static str, url: &str) -> Result<Self, OpenError> {
        let refuse = |reason: &str| OpenError::Configuration {
            variable,
            reason: reason.to_owned(),
        };
        if !(url.starts_with("postgresql://") || url.starts_with("postgres://")) {
            return Err(refuse("must begin with postgresql://"));
        }
        let query = url.split_once('?').map_or("", |(_, query)| query);
        let is_known = |parameter: &str| {
            let name = parameter
                .split_once('=')
                .map_or(parameter, |(name, _)| name);
            PARAMETERS.contains(&name)
        };
        if !query.is_empty() && !query.split('&').all(is_known) {
            return Err(refuse(&format!(
                "has an unknown parameter; known are {}. (A `?`, `#`, `/` or `@` in a password must be \
                 percent-encoded.)",
                PARAMETERS.join(", ")
            )));
        }
        // The driver's reason may quote what it was given, so it is not shown.
        let mut options = PgConnectOptions::from_str(url).map_err(|_may_quote_a_secret| {
            refuse(
                "is not a valid URL; expected postgresql://user:password@host:port/database, with \
                 special characters percent-encoded",
            )
        })?;
        if options.get_application_name().is_none() {
            options = options.application_name("abunfi");
        }
        let unprepared = query
            .split('&')
            .any(|parameter| parameter == "statement-cache-capacity=0");
        Ok(Self {
            // Statements are logged by who runs them, with what they were for.
            options: options.disable_statement_logging(),
            unprepared,
        })
    }

    /// The connections for one sort of work.
    pub(super) fn lane(
        &self,
        breaker: &Arc<Breaker>,
        config: &PostgresConfig,
        connections: u32,
    ) -> Lane {
        let pool = Pool::new(
            self.options.clone(),
            connections,
            Duration::from_millis(config.acquire_timeout_ms),
        );
        Lane::new(pool, Arc::clone(breaker), config, self.unprepared)
    }

    async fn connect(&self) -> Result<PgConnection, OpenError> {
        let connection = timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&self.options))
            .await
            .map_err(|_elapsed| unavailable("connecting took too long"))?
            .map_err(|error| classify(&error))?;
        Ok(connection)
    }
}

/// Checks the server, and brings its schema to what this program needs (or refuses it).
///
/// # Errors
/// See [`Postgres::connect`](super::Postgres::connect).
pub(super) async fn prepare(
    target: &Target,
    config: &PostgresConfig,
    options: RelationalOptions,
) -> Result<(), OpenError> {
    let mut connection = target.connect().await?;
    check_version(&connection)?;
    if !options.allow_unsafe_durability {
        check_durability(&mut connection).await?;
    }
    let found = schema_version(&mut connection).await?;
    let needed = known_version();
    if found > needed {
        return Err(OpenError::SchemaTooNew {
            found,
            known: needed,
        });
    }
    if !options.migrate && found < needed {
        return Err(OpenError::SchemaTooOld { found, needed });
    }
    close(connection).await;
    if options.migrate {
        migrate(target, config).await?;
    }
    Ok(())
}

/// Runs what is missing, past a pooler, one instance at a time. Gives the version before and after.
///
/// # Errors
/// See [`Postgres::connect`](super::Postgres::connect).
pub(super) async fn migrate(
    target: &Target,
    config: &PostgresConfig,
) -> Result<(i64, i64), OpenError> {
    let direct = config
        .direct_url
        .as_ref()
        .map(|url| Target::parse(DATABASE_DIRECT_URL, url.expose()))
        .transpose()?;
    let mut connection = direct.as_ref().unwrap_or(target).connect().await?;
    check_version(&connection)?;
    let before = schema_version(&mut connection).await?;
    let known = known_version();
    if before > known {
        return Err(OpenError::SchemaTooNew {
            found: before,
            known,
        });
    }
    MIGRATIONS
        .run_direct(None, &mut connection, false)
        .await
        .map_err(|error| match error {
            MigrateError::Execute(error) => classify(&error),
            error => unexpected(error),
        })?;
    let after = schema_version(&mut connection).await?;
    close(connection).await;
    Ok((before, after))
}

pub(super) fn known_version() -> i64 {
    MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

/// The newest migration that the database has; 0 when it has none.
async fn schema_version(connection: &mut PgConnection) -> Result<i64, OpenError> {
    let is_there: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| classify(&error))?;
    if !is_there {
        return Ok(0);
    }
    let version = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations")
        .fetch_one(connection)
        .await
        .map_err(|error| classify(&error))?;
    Ok(version)
}

fn check_version(connection: &PgConnection) -> Result<(), OpenError> {
    match connection.server_version_num() {
        Some(version) if version < OLDEST_SERVER => Err(OpenError::Configuration {
            variable: DATABASE_URL,
            reason: format!(
                "the server is PostgreSQL {}; 15 or newer is needed",
                version / 10_000
            ),
        }),
        _ => Ok(()),
    }
}

async fn check_durability(connection: &mut PgConnection) -> Result<(), OpenError> {
    let unsafe_settings: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM unnest(ARRAY['fsync', 'synchronous_commit', 'full_page_writes']) AS name
         WHERE current_setting(name) = 'off' ORDER BY name",
    )
    .fetch_all(connection)
    .await
    .map_err(|error| classify(&error))?;
    if unsafe_settings.is_empty() {
        return Ok(());
    }
    Err(OpenError::Configuration {
        variable: DATABASE_URL,
        reason: format!(
            "the server has {} off, so it may lose money that it acknowledged; switch it on, or set \
             ALLOW_UNSAFE_DURABILITY=true if that is wanted",
            unsafe_settings.join(", ")
        ),
    })
}

/// Says good-bye; the work is done, so whether that is heard does not matter.
async fn close(connection: PgConnection) {
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "closing a connection");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        match Target::parse(DATABASE_URL, url) {
            Err(error @ OpenError::Configuration { .. }) => error.to_string(),
            Err(error) => panic!("another error: {error}"),
            Ok(_) => panic!("accepted: {url}"),
        }
    }

    #[test]
    fn a_url_that_is_refused_is_never_echoed() {
        for url in [
            "mysql://abunfi:s3cret@host/db",
            "postgresql://abunfi:s3cret@host:port/db",
            "postgresql://abunfi:s3cret@host/db?ssl_mode=require",
            // A password that was not percent-encoded ends up in the query.
            "postgresql://abunfi:x?s3cret@host/db",
            "postgresql://abunfi:x?sslmode=s3cret@host/db",
        ] {
            let refused = refusal(url);
            assert!(!refused.contains("s3cret"), "{refused}");
            assert!(refused.starts_with("DATABASE_URL: "), "{refused}");
        }
    }

    #[test]
    fn reads_are_wrapped_exactly_where_prepared_statements_do_not_last() {
        let is_unprepared = |url| match Target::parse(DATABASE_URL, url) {
            Ok(target) => target.unprepared,
            Err(error) => panic!("{url}: {error}"),
        };
        assert!(!is_unprepared("postgresql://abunfi@host/db"));
        assert!(!is_unprepared(
            "postgres://host/db?statement-cache-capacity=50"
        ));
        assert!(is_unprepared(
            "postgresql://host/db?sslmode=disable&statement-cache-capacity=0"
        ));
    }

    #[test]
    fn every_migration_has_a_version_of_its_own_in_the_order_of_the_files() {
        let versions: Vec<i64> = MIGRATIONS
            .iter()
            .map(|migration| migration.version)
            .collect();
        // Numbers may be left out: work that goes on side by side takes them beforehand.
        assert_eq!(versions.first(), Some(&1));
        assert!(
            versions.is_sorted_by(|one, next| one < next),
            "{versions:?}"
        );
        assert_eq!(versions.last(), Some(&known_version()));
    }
}
