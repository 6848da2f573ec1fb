//! The processes that are measured, and requests to them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use abunfi_testkit::free_port;
use anyhow::{Context, Result, bail, ensure};

use crate::load;

const ADMIN_KEY: &str = "bench-admin-key-bench-admin-key-bench";

pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {ADMIN_KEY}\r\n\r\n")
        .into_bytes()
}

pub(crate) fn post(path: &str, key: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {ADMIN_KEY}\r\nidempotency-key: {key}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A running `abunfi serve`.
pub(crate) struct Service {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Service {
    /// Starts `program` with the one argument `command`: the service, or another that listens and is set
    /// up as it is.
    pub(crate) fn start(
        program: &Path,
        data_dir: &Path,
        database_url: Option<&str>,
        command: &str,
    ) -> Result<Self> {
        let port = free_port()?;
        let mut process = Command::new(program);
        process
            .arg(command)
            .env_clear()
            .env("PORT", port.to_string())
            .env("DATA_DIR", data_dir)
            .env("LOG_LEVEL", "warn")
            .env("ABUNFI_ADMIN_KEY", ADMIN_KEY)
            .current_dir(data_dir)
            .stdout(Stdio::null());
        if let Some(url) = database_url {
            process.env("DATABASE_URL", url);
        }
        let child = process
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) async fn wait_ready(&self) -> Result<()> {
        for _ in 0..200 {
            if let Ok((200, _)) = load::once(self.address, &get("/readyz")).await {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the service did not start");
    }

    pub(crate) async fn seed(&self, users: usize) -> Result<Vec<String>> {
        seed(self.address, users).await
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The bare handler, in a process of its own as the service is.
pub(crate) struct Bare {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Bare {
    pub(crate) async fn start(body: &Path) -> Result<Self> {
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

/// Serves the bytes of a file, whatever is asked.
pub(crate) async fn bare(port: u16, body: &Path) -> Result<()> {
    let body: axum::body::Bytes = std::fs::read(body)?.into();
    let handler =
        move || std::future::ready(([("content-type", "application/json")], body.clone()));
    let router = axum::Router::new().fallback(handler);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener, router).await?;
    Ok(())
}

/// Makes users one by one; their ids.
pub(crate) async fn seed(address: SocketAddr, users: usize) -> Result<Vec<String>> {
    let mut ids = Vec::with_capacity(users);
    for n in 0..users {
        let body = format!(r#"{{"email":"bench{n}@example.com","name":"Bench {n}"}}"#);
        let (status, body) = load::once(address, &post("/api/v1/users", "unused", &body)).await?;
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
