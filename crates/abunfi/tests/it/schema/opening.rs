//! How a schema comes to be, and which are refused.

use abunfi::OpenError;
use abunfi::config::{PostgresConfig, SqliteConfig};
use abunfi::stores::RelationalOptions;
use abunfi::stores::postgres::Postgres;
use abunfi::stores::sqlite::Sqlite;
use futures::future::join_all;

use crate::support::{Raw, Relational, TOGETHER, on_every_backend};

on_every_backend!(
    a_schema_that_is_too_new_or_too_old_is_refused,
    instances_that_start_at_once_on_an_empty_database_are_fine,
);

const fn options(migrate: bool) -> RelationalOptions {
    RelationalOptions {
        migrate,
        ..TOGETHER
    }
}

/// Opens the store of `raw` once more, as another instance would.
async fn open(raw: &Raw, migrate: bool) -> Result<(), OpenError> {
    match raw {
        Raw::Postgres(url) => {
            let config = PostgresConfig {
                max_connections: 1,
                background_connections: 1,
                ..PostgresConfig::default()
            };
            Postgres::connect(url, &config, options(migrate))
                .await
                .map(drop)
        }
        Raw::Sqlite(path) => {
            let path = path.to_str().expect("a UTF-8 path");
            Sqlite::open(path, &SqliteConfig::default(), options(migrate))
                .await
                .map(drop)
        }
    }
}

async fn a_schema_that_is_too_new_or_too_old_is_refused(stores: &Relational) {
    open(&stores.raw, true)
        .await
        .expect("a schema that is up to date");
    open(&stores.raw, false)
        .await
        .expect("without migrating as well");
    let newest = stores
        .raw
        .number("SELECT max(version) FROM _sqlx_migrations")
        .await;

    stores
        .raw
        .execute("UPDATE _sqlx_migrations SET version = version + 1000")
        .await
        .unwrap();
    for migrate in [true, false] {
        let refused = open(&stores.raw, migrate).await;
        assert!(
            matches!(refused, Err(OpenError::SchemaTooNew { found, known })
                if found == newest + 1000 && known == newest),
            "{refused:?}"
        );
    }
    stores
        .raw
        .execute("DELETE FROM _sqlx_migrations")
        .await
        .unwrap();
    let refused = open(&stores.raw, false).await;
    assert!(
        matches!(refused, Err(OpenError::SchemaTooOld { found: 0, needed }) if needed == newest),
        "{refused:?}"
    );
}

async fn instances_that_start_at_once_on_an_empty_database_are_fine(stores: &Relational) {
    let empty = stores.raw.empty_neighbour().await;
    let opened = join_all((0..4).map(|_| open(&empty, true))).await;
    for opened in opened {
        opened.expect("the others' migration is waited for");
    }
    assert!(empty.number("SELECT count(*) FROM _sqlx_migrations").await >= 1);
    assert_eq!(empty.number("SELECT count(*) FROM users").await, 0);
    empty.remove_neighbour(&stores.raw).await;
}
