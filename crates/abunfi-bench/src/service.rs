//! The service as a whole: cached reads beside a bare handler, deposits beside `pgbench` doing the same rows.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use abunfi_testkit::OwnPostgres;
use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::client_program;
use crate::load::{self, Measured, Requests};
use crate::servers::{Bare, Service, get, post, seed};

const CONNECTIONS: usize = 64;

/// A row of the result.
#[derive(Debug, Serialize)]
struct Row {
    work: &'static str,
    per_second: u64,
    p50_us: u128,
    p99_us: u128,
    errors: u64,
    against: &'static str,
    against_per_second: u64,
    /// In percent.
    ratio_percent: u64,
}

pub(crate) async fn run(abunfi: &Path, span: Duration, rounds: usize, users: usize) -> Result<()> {
    let postgres = tokio::task::spawn_blocking(OwnPostgres::start).await??;
    let folder = tempfile::tempdir()?;
    let on_postgres = Service::start(abunfi, folder.path(), Some(&postgres.url()), "serve")?;
    let embedded_folder = tempfile::tempdir()?;
    let embedded = Service::start(abunfi, embedded_folder.path(), None, "serve")?;
    on_postgres.wait_ready().await?;
    embedded.wait_ready().await?;
    let ids = Arc::new(on_postgres.seed(users).await?);
    let embedded_ids = Arc::new(embedded.seed(users).await?);
    let script = prepare_pgbench(&postgres, folder.path())?;

    let profile = get(&format!(
        "/api/v1/users/{}",
        ids.first().context("no user")?
    ));
    let (_, body) = load::once(on_postgres.address, &profile).await?;
    let file = folder.path().join("profile.json");
    std::fs::write(&file, &body)?;
    let bare = Bare::start(&file).await?;

    let (mut cached, mut plain, mut deposits, mut raw, mut small) =
        (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let request: Arc<Requests> = Arc::new({
            let profile = profile.clone();
            move |_, _| profile.clone()
        });
        plain.push(load::run(bare.address, CONNECTIONS, span, Arc::clone(&request)).await?);
        cached.push(load::run(on_postgres.address, CONNECTIONS, span, request).await?);
        raw.push(pgbench(&postgres, &script, users, span)?);
        deposits.push(load::run(on_postgres.address, CONNECTIONS, span, deposit(&ids)).await?);
        small.push(load::run(embedded.address, CONNECTIONS, span, deposit(&embedded_ids)).await?);
    }
    let (cached, plain, deposits, small) = (
        median(cached),
        median(plain),
        median(deposits),
        median(small),
    );
    raw.sort_unstable();
    let raw = raw.get(raw.len() / 2).copied().context("no run")?;
    let rows = [
        row(
            "cached GET /users/{id}",
            &cached,
            "bare axum handler, same bytes",
            plain.per_second,
        ),
        row(
            "single durable deposits, PostgreSQL",
            &deposits,
            "pgbench, same rows, statement by statement",
            raw,
        ),
        row(
            "single durable deposits, embedded",
            &small,
            "the same on PostgreSQL",
            deposits.per_second,
        ),
    ];
    for row in &rows {
        println!(
            "{}: {}/s (p50 {} µs, p99 {} µs, {} errors) against {}: {}/s = {} %",
            row.work,
            row.per_second,
            row.p50_us,
            row.p99_us,
            row.errors,
            row.against,
            row.against_per_second,
            row.ratio_percent
        );
    }
    println!("{}", serde_json::to_string(&rows)?);
    ensure!(
        rows.iter().all(|row| row.errors == 0),
        "some requests failed: the figures mean nothing"
    );
    Ok(())
}

/// Drives a service that runs.
pub(crate) async fn load(
    port: u16,
    connections: usize,
    span: Duration,
    users: usize,
) -> Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let ids = Arc::new(seed(address, users).await?);
    let measured = load::run(address, connections, span, deposit(&ids)).await?;
    println!("{measured:?}");
    Ok(())
}

fn row(
    work: &'static str,
    measured: &Measured,
    against: &'static str,
    against_per_second: u64,
) -> Row {
    Row {
        work,
        per_second: measured.per_second,
        p50_us: measured.p50.as_micros(),
        p99_us: measured.p99.as_micros(),
        errors: measured.errors,
        against,
        against_per_second,
        ratio_percent: measured.per_second * 100 / against_per_second.max(1),
    }
}

fn median(mut runs: Vec<Measured>) -> Measured {
    runs.sort_unstable_by_key(|run| run.per_second);
    let errors = runs.iter().map(|run| run.errors).sum();
    let middle = runs.len() / 2;
    Measured {
        errors,
        ..runs.swap_remove(middle)
    }
}

/// Deposits of 1, each on another user in turn.
fn deposit(ids: &Arc<Vec<String>>) -> Arc<Requests> {
    let ids = Arc::clone(ids);
    // Keys of another run are other requests.
    let run = std::process::id();
    let started = std::time::Instant::now();
    let nonce = format!("{run}-{:p}-{:?}", Arc::as_ptr(&ids), started);
    let nonce: String = nonce.chars().filter(char::is_ascii_alphanumeric).collect();
    Arc::new(move |connection, n| {
        let turn = usize::try_from(n)
            .unwrap_or(0)
            .wrapping_mul(31)
            .wrapping_add(connection * 17);
        let id = ids.get(turn % ids.len().max(1)).map_or("", String::as_str);
        let key = format!("{nonce}-{connection}-{n}");
        post(
            &format!("/api/v1/users/{id}/transactions"),
            &key,
            r#"{"type":"deposit","amount":"1"}"#,
        )
    })
}

/// The table that gives user n, and the script.
fn prepare_pgbench(postgres: &OwnPostgres, folder: &Path) -> Result<PathBuf> {
    let script = folder.join("deposit.sql");
    std::fs::write(&script, include_str!("deposit.sql"))?;
    let sql = "CREATE TABLE bench_users AS
        SELECT (row_number() OVER (ORDER BY user_id))::int AS n, user_id FROM users;
        ALTER TABLE bench_users ADD PRIMARY KEY (n); VACUUM ANALYZE;";
    for statement in sql.split_inclusive(';') {
        let done = client_program("psql")?
            .arg("-qc")
            .arg(statement.trim())
            .arg(postgres.url())
            .status()?;
        ensure!(done.success(), "cannot prepare the tables for pgbench");
    }
    Ok(script)
}

/// Transactions per second of the script at the same number of connections.
fn pgbench(postgres: &OwnPostgres, script: &Path, users: usize, span: Duration) -> Result<u64> {
    let output = client_program("pgbench")?
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
        .arg(format!("--client={CONNECTIONS}"))
        .arg(format!("--time={}", span.as_secs()))
        .arg(format!("--define=users={users}"))
        .arg(format!("--file={}", script.display()))
        .arg(postgres.url())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let tps = text
        .lines()
        .find_map(|line| line.strip_prefix("tps = "))
        .and_then(|rest| rest.split(['.', ' ']).next())
        .with_context(|| {
            format!(
                "pgbench failed: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
    Ok(tps.parse()?)
}
