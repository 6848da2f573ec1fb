//! A server that may lose what it acknowledged.

use abunfi::OpenError;
use abunfi::config::PostgresConfig;
use abunfi::stores::RelationalOptions;
use abunfi::stores::postgres::Postgres;

use crate::support::{Raw, Relational, TOGETHER, on_one_backend};

on_one_backend!(
    postgres, Postgres:
    an_unsafe_server_is_refused_unless_it_is_wanted,
);

async fn an_unsafe_server_is_refused_unless_it_is_wanted(stores: &Relational) {
    let Raw::Postgres(url) = &stores.raw else {
        unreachable!("only on PostgreSQL");
    };
    let off = format!(
        "{url}{}options=-c%20synchronous_commit%3Doff",
        if url.contains('?') { '&' } else { '?' }
    );
    let config = PostgresConfig::default();
    let as_it_is = RelationalOptions {
        migrate: false,
        ..TOGETHER
    };
    let strict = RelationalOptions {
        allow_unsafe_durability: false,
        ..as_it_is
    };
    let refused = Postgres::connect(&off, &config, strict).await.map(drop);
    let Err(OpenError::Configuration {
        variable: "DATABASE_URL",
        reason,
    }) = refused
    else {
        panic!("refused: {refused:?}");
    };
    assert!(reason.contains("synchronous_commit"), "{reason}");
    Postgres::connect(&off, &config, as_it_is)
        .await
        .expect("it is wanted");
}
