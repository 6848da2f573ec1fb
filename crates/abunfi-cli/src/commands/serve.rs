//! `abunfi serve`.

use std::io::{ErrorKind, IsTerminal};
use std::net::SocketAddr;
use std::process::ExitCode;

use abunfi::config::Loaded;
use abunfi::{Backends, DatabaseService};
use abunfi_server::log_store::log_store;
use anyhow::Context;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::first_key::{self, Access};
use crate::{logging, output};

pub(crate) async fn run(loaded: Loaded, json: bool) -> anyhow::Result<ExitCode> {
    let config = loaded.config;
    let (layer, worker) = config.store_logs_from.map(log_store).unzip();
    logging::start_with(config.log_level, config.log_format, layer);
    // First of all, so that a service that cannot listen migrates nothing and makes no key.
    let listener = listen(SocketAddr::new(config.host, config.port)).await?;
    let address = listener.local_addr()?;
    let stop = stop_signal()?;
    let platform = Box::pin(DatabaseService::open(config)).await?;
    let access = match first_key::ensure(&platform).await {
        Ok(access) => access,
        Err(error) => {
            platform.close().await;
            return Err(error);
        }
    };
    announce(&platform, address, &access, json)?;
    drop(access);
    let (stop_writing, writing) = (CancellationToken::new(), TaskTracker::new());
    if let Some(worker) = worker {
        writing.spawn(worker.run(platform.clone(), stop_writing.clone()));
    }
    writing.close();
    let served = abunfi_server::serve(platform.clone(), listener, stop).await;
    stop_writing.cancel();
    writing.wait().await;
    platform.close().await;
    served.context("the service stopped")?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::AddrInUse => {
                "another program listens there; stop it, or choose another port with --port or PORT"
            }
            ErrorKind::PermissionDenied => "ports below 1024 need rights that this user lacks",
            ErrorKind::AddrNotAvailable => "the address is none of this machine's; see HOST",
            _ => "see HOST and PORT",
        };
        anyhow::anyhow!("cannot listen on {address}: {advice} ({error})")
    })
}

/// Done when the process is asked to stop. A second request ends it at once.
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop; once more ends it at once");
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("asked again; what runs is cut");
            std::process::exit(1);
        });
    })
}

/// One readable block: what serves each store, the address, where the key is. No credential, except a new
/// key on a terminal, where nothing keeps it.
fn announce(
    platform: &DatabaseService,
    address: SocketAddr,
    access: &Access,
    json: bool,
) -> anyhow::Result<()> {
    let url = format!("http://{address}");
    if json {
        let backends = platform.backends();
        let key_file = match access {
            Access::Made { file, .. } | Access::Stored { file: Some(file) } => Some(file),
            Access::Configured | Access::NoneLeft | Access::Stored { file: None } => None,
        };
        let banner = json!({
            "version": env!("CARGO_PKG_VERSION"), "url": url, "key_file": key_file,
            "audit_public_key": platform.audit().public_key().map(hex::encode),
            "backends": {"relational": backends.relational, "documents": backends.documents,
                         "key_value": backends.key_value},
        });
        // One line, since it is followed by nothing else and readers go by lines.
        return Ok(output::line(&banner.to_string())?);
    }
    let show_token = std::io::stdout().is_terminal();
    let banner = banner(platform, &url, access, show_token);
    Ok(output::line(&banner)?)
}

fn banner(platform: &DatabaseService, url: &str, access: &Access, show_token: bool) -> String {
    let config = platform.config();
    let backends = platform.backends();
    let embedded = if config.database_url.is_some() {
        "SQLite".to_owned()
    } else {
        format!("SQLite in {}", config.data_dir.display())
    };
    let relational = match backends.relational {
        "postgresql" => "PostgreSQL".to_owned(),
        _ => embedded,
    };
    let mut rows = vec![
        ("address", url.to_owned()),
        ("interface", format!("{url}/docs")),
        ("relational", relational),
        ("documents", documents(&backends).to_owned()),
        ("key-value", key_value(&backends).to_owned()),
        ("key", key(access)),
        ("checkpoints", checkpoints(platform)),
    ];
    if let (Access::Made { token, .. }, true) = (access, show_token) {
        rows.push(("", token.expose().to_owned()));
    }
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(name, value)| vec![format!("  {name}"), value])
        .collect();
    format!(
        "\nAbunfi {}\n\n{}\n",
        env!("CARGO_PKG_VERSION"),
        output::columns(&rows)
    )
}

fn checkpoints(platform: &DatabaseService) -> String {
    if platform.config().audit.checkpoint_minutes == 0 {
        return "none are made: AUDIT_CHECKPOINT_MINUTES is 0".to_owned();
    }
    match platform.audit().public_key() {
        Some(key) => format!("signed, public key {}", hex::encode(key)),
        None => "not signed; abunfi audit keygen makes a key for AUDIT_SIGNING_KEY".to_owned(),
    }
}

fn documents(backends: &Backends) -> &'static str {
    match backends.documents {
        "mongodb" => "MongoDB",
        _ => "in the relational store",
    }
}

fn key_value(backends: &Backends) -> &'static str {
    match backends.key_value {
        "redis" => "Redis",
        _ => "in this process",
    }
}

fn key(access: &Access) -> String {
    match access {
        Access::Configured => "ABUNFI_ADMIN_KEY".to_owned(),
        Access::Made { file, .. } => format!("made now, with all scopes: {}", file.display()),
        Access::Stored { file: Some(file) } => format!("{}", file.display()),
        Access::Stored { file: None } => "stored keys: abunfi keys list".to_owned(),
        Access::NoneLeft => "all are revoked; make one: abunfi keys create admin".to_owned(),
    }
}
