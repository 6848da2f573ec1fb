//! Speeds as ratios: every row runs side by side with what it is compared to, interleaved, in one run.
#![expect(clippy::print_stdout, reason = "a command's output is what it is for")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use abunfi_testkit::programs;
use abunfi_testkit::{OwnPostgres, free_port};
use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use serde::Serialize;

mod load;

use load::{Measured, Requests};

const CONNECTIONS: usize = 64;
const ADMIN_KEY: &str = "bench-admin-key-bench-admin-key-bench";
/// About the length of a stored answer to a deposit.
const ANSWER_LENGTH: u32 = 800;

#[derive(Parser)]
#[command(about = "Measures speeds as ratios, side by side in one run")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The service on PostgreSQL (fsync on) and embedded, beside a bare handler and `pgbench`.
    Service {
        /// The `abunfi` binary, built for release.
        #[arg(long)]
        abunfi: PathBuf,
        /// Seconds of each measurement.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// How often each is measured, interleaved; medians are shown.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Users to spread the deposits over.
        #[arg(long, default_value_t = 1_000)]
        users: usize,
    },
    /// A bare handler that answers with the bytes of a file: what a cached read is compared to.
    Bare { port: u16, body: PathBuf },
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Service {
            abunfi,
            seconds,
            rounds,
            users,
        } => service(&abunfi, Duration::from_secs(seconds), rounds, users).await,
        What::Bare { port, body } => bare(port, &body).await,
    }
}

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

async fn service(abunfi: &Path, span: Duration, rounds: usize, users: usize) -> Result<()> {
    let postgres = tokio::task::spawn_blocking(OwnPostgres::start).await??;
    let folder = tempfile::tempdir()?;
    let on_postgres = Service::start(abunfi, folder.path(), Some(&postgres.url()))?;
    let embedded_folder = tempfile::tempdir()?;
    let embedded = Service::start(abunfi, embedded_folder.path(), None)?;
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

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {ADMIN_KEY}\r\n\r\n")
        .into_bytes()
}

fn post(path: &str, key: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {ADMIN_KEY}\r\nidempotency-key: {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
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

/// A running `abunfi serve`.
struct Service {
    child: Child,
    address: SocketAddr,
}

impl Service {
    fn start(abunfi: &Path, data_dir: &Path, database_url: Option<&str>) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(abunfi);
        command
            .arg("serve")
            .env_clear()
            .env("PORT", port.to_string())
            .env("DATA_DIR", data_dir)
            .env("LOG_LEVEL", "warn")
            .env("ABUNFI_ADMIN_KEY", ADMIN_KEY)
            .current_dir(data_dir)
            .stdout(Stdio::null());
        if let Some(url) = database_url {
            command.env("DATABASE_URL", url);
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", abunfi.display()))?;
        Ok(Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
        })
    }

    async fn wait_ready(&self) -> Result<()> {
        for _ in 0..200 {
            if let Ok((200, _)) = load::once(self.address, &get("/readyz")).await {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the service did not start");
    }

    async fn seed(&self, users: usize) -> Result<Vec<String>> {
        let mut ids = Vec::with_capacity(users);
        for n in 0..users {
            let body = format!(r#"{{"email":"bench{n}@example.com","name":"Bench {n}"}}"#);
            let (status, body) =
                load::once(self.address, &post("/api/v1/users", "unused", &body)).await?;
            ensure!(status == 201, "seeding failed with {status}");
            let user: serde_json::Value = serde_json::from_slice(&body)?;
            ids.push(
                user.get("id")
                    .and_then(|id| id.as_str())
                    .context("no id")?
                    .to_owned(),
            );
        }
        Ok(ids)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The bare handler, in a process of its own as the service is.
struct Bare {
    child: Child,
    address: SocketAddr,
}

impl Bare {
    async fn start(body: &Path) -> Result<Self> {
        let port = free_port()?;
        let child = Command::new(std::env::current_exe()?)
            .arg("bare")
            .arg(port.to_string())
            .arg(body)
            .spawn()?;
        let bare = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
        };
        for _ in 0..100 {
            if load::once(bare.address, &get("/")).await.is_ok() {
                return Ok(bare);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the bare handler did not start");
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn bare(port: u16, body: &Path) -> Result<()> {
    let body: axum::body::Bytes = std::fs::read(body)?.into();
    let handler =
        move || std::future::ready(([("content-type", "application/json")], body.clone()));
    let router = axum::Router::new().fallback(handler);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener, router).await?;
    Ok(())
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
        .arg(format!("--define=answer_length={ANSWER_LENGTH}"))
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

/// A client program of PostgreSQL: they may run as anyone.
fn client_program(name: &str) -> Result<Command> {
    let folder = programs::find_postgres().context("PostgreSQL's programs are not found")?;
    Ok(Command::new(folder.join(name)))
}
