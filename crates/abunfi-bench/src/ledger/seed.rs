//! Users, many and fast: one is made by the service, the others are its rows again, by SQL, with an id, an
//! e-mail address and a referral code of their own. So they are what the service would have written.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::servers::Service;

/// The id of user `n`: made as the platform makes ids, by time, one each millisecond.
pub(super) fn id(n: u64) -> String {
    let millis = 1_700_000_000_000 + n;
    let hex = format!("{millis:012x}");
    let (high, low) = hex.split_at(8);
    format!("{high}-{low}-7000-8000-{n:012x}")
}

/// A database `name` with `users` users; its URL.
pub(crate) async fn seeded(
    abunfi: &Path,
    server: &str,
    folder: &Path,
    name: &str,
    users: u64,
) -> Result<String> {
    let url = create_database(server, name, None).await?;
    let data_dir = folder.join(format!("seed-{name}"));
    std::fs::create_dir_all(&data_dir)?;
    let service = Service::start(abunfi, &data_dir, Some(&url), "serve")?;
    service.wait_ready().await?;
    let made = service.seed(1).await?;
    drop(service);
    let template = made.first().context("no user was made")?;
    multiply(&url, template, users).await?;
    Ok(url)
}

/// The tables that hold a user.
const TABLES: [&str; 5] = [
    "users",
    "user_identities",
    "accounts",
    "document_heads",
    "documents",
];

/// A referral code of its own, in the alphabet of such codes.
const CODE: &str = "'B' || translate(lpad(m.n::text, 7, '0'), '0123456789', 'ACDEFGHJKM')";

/// Multiplies `template` until `users` others are there.
async fn multiply(url: &str, template: &str, users: u64) -> Result<()> {
    let mut connection = connect(url).await?;
    let mut transaction = connection.begin().await?;
    // Checking each row's keys again would take longer than writing them; they are checked at the end.
    sqlx::raw_sql("SET LOCAL session_replication_role = replica")
        .execute(&mut *transaction)
        .await?;
    let identity =
        format!("CASE u.kind WHEN 'email' THEN 'made' || m.n || '@example.com' ELSE {CODE} END");
    let statements = [
        "CREATE TEMP TABLE made ON COMMIT DROP AS SELECT n,
             (lpad(to_hex(1700000000000 + n), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid AS id
         FROM generate_series(0, $users - 1) AS n".to_owned(),
        copy("users", "u", &[("user_id", "m.id"), ("email", "'made' || m.n || '@example.com'"),
            ("referral_code", CODE)], &mut transaction).await?,
        copy("user_identities", "u", &[("user_id", "m.id"), ("value", &identity)], &mut transaction).await?,
        copy("accounts", "u", &[("user_id", "m.id")], &mut transaction).await?,
        copy("document_heads", "u", &[("user_id", "m.id")], &mut transaction).await?,
        copy("documents", "u", &[("user_id", "m.id")], &mut transaction).await?,
    ];
    for statement in statements {
        let statement = statement
            .replace("$users", &users.to_string())
            .replace("$template", &format!("'{template}'"));
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&mut *transaction)
            .await
            .context("cannot multiply the user")?;
    }
    transaction.commit().await?;
    check(&mut connection, template, users).await?;
    // Not the tables that postings fill: they are empty, as in a database that has just been made.
    for table in TABLES {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("VACUUM ANALYZE {table}")))
            .execute(&mut connection)
            .await?;
    }
    connection.close().await?;
    Ok(())
}

/// All columns of `table` as the template's row has them, but for those that are given.
async fn copy(
    table: &str,
    alias: &str,
    given: &[(&str, &str)],
    connection: &mut PgConnection,
) -> Result<String> {
    let columns: Vec<String> = sqlx::query_scalar(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0
         AND NOT attisdropped ORDER BY attnum",
    )
    .bind(table)
    .fetch_all(connection)
    .await?;
    let values: Vec<String> = columns
        .iter()
        .map(|column| {
            given.iter().find(|(name, _)| name == column).map_or_else(
                || format!("{alias}.{column}"),
                |(_, value)| (*value).to_owned(),
            )
        })
        .collect();
    Ok(format!(
        "INSERT INTO {table} ({}) SELECT {} FROM {table} {alias}, made m WHERE {alias}.user_id = $template ORDER BY m.n",
        columns.join(", "),
        values.join(", ")
    ))
}

/// Each table has for every user what it has for the template.
async fn check(connection: &mut PgConnection, template: &str, users: u64) -> Result<()> {
    let users = i64::try_from(users)?;
    for table in TABLES {
        let sql =
            format!("SELECT count(*), count(*) FILTER (WHERE user_id = '{template}') FROM {table}");
        let (all, of_template): (i64, i64) = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .fetch_one(&mut *connection)
            .await?;
        ensure!(
            of_template > 0 && all == of_template * (users + 1),
            "{table}: {all} rows for {users} users and one of {of_template}"
        );
    }
    Ok(())
}

pub(crate) async fn connect(url: &str) -> Result<PgConnection> {
    Ok(PgConnectOptions::from_str(url)?
        .disable_statement_logging()
        .connect()
        .await?)
}

/// Makes a database; `template`: as a copy of another one that nobody is connected to.
pub(super) async fn create_database(
    server: &str,
    name: &str,
    template: Option<&str>,
) -> Result<String> {
    let mut connection = connect(server).await?;
    let template = template.map_or(String::new(), |template| format!(" TEMPLATE {template}"));
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "CREATE DATABASE {name}{template}"
    )))
    .execute(&mut connection)
    .await?;
    connection.close().await?;
    let (base, _) = server
        .rsplit_once('/')
        .context("a URL without a database")?;
    Ok(format!("{base}/{name}"))
}
