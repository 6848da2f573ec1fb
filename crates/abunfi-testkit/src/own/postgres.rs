//! A `PostgreSQL` cluster of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Kind;
use crate::names::random;
use crate::process::Stop;
use crate::programs::{self, Account};

/// How a [`OwnPostgres`](super::OwnPostgres) runs: `fsync` on, 400 connections, clients by password on the loopback
/// address only (whoever else uses this machine must not be its superuser).
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    account: Option<Account>,
    password: String,
    settings: Vec<String>,
}

impl Postgres {
    /// Runs the programs of the folder `bin`.
    ///
    /// # Errors
    /// When we are root and find no other account to run it as.
    pub fn new(bin: PathBuf) -> Result<Self> {
        let password = format!("{:016x}{:016x}", random(), random());

        Ok(Self {
            bin,
            account: Account::unprivileged()?,
            password,
            settings: Vec::new(),
        })
    }

    /// Runs the server with `setting` (`name=value`) too; the last of a name counts.
    #[must_use]
    pub fn with_setting(mut self, setting: impl Into<String>) -> Self {
        self.settings.push(setting.into());
        self
    }

    /// The version that the programs say.
    ///
    /// # Errors
    /// When they do not run.
    pub fn major_version(&self) -> Result<u32> {
        programs::major_version(&self.bin.join("postgres"))
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        // Where a developer's own settings would reach the server.
        for variable in [
            "PGDATA",
            "PGHOST",
            "PGPORT",
            "PGUSER",
            "PGPASSWORD",
            "PGOPTIONS",
        ] {
            command.env_remove(variable);
        }
        if let Some(account) = self.account {
            account.apply(&mut command);
        }

        command
    }
}

impl Kind for Postgres {
    const NAME: &'static str = "PostgreSQL";

    fn prepare(&mut self, dir: &Path) -> Result<()> {
        let password = dir.join("password");
        fs::write(&password, &self.password)?;
        if let Some(account) = self.account {
            account.own(&password)?;
            account.own(dir)?;
        }
        let locale = if cfg!(target_os = "linux") {
            "C.UTF-8"
        } else {
            "C"
        };
        let output = self
            .program("initdb")
            .current_dir(dir)
            .arg("--pgdata")
            .arg(dir.join("data"))
            .arg("--pwfile")
            .arg(&password)
            .args(["--username", "abunfi", "--auth", "password"])
            .args(["--encoding", "UTF8", "--locale", locale])
            // Only of the cluster's making: the server itself runs with `fsync` on.
            .arg("--no-sync")
            .output()
            .with_context(|| format!("cannot run initdb in {}", self.bin.display()))?;
        if !output.status.success() {
            bail!("initdb: {}", String::from_utf8_lossy(&output.stderr).trim());
        }

        Ok(())
    }

    fn command(&self, dir: &Path, port: u16) -> Command {
        let mut command = self.program("postgres");
        command
            .arg("-D")
            .arg(dir.join("data"))
            .arg("-p")
            .arg(port.to_string());
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=400",
            "fsync=on",
            "synchronous_commit=on",
            "full_page_writes=on",
            // Tests make and drop hundreds of databases; a checkpoint for each would take longer
            // than the tests.
            "max_wal_size=2GB",
            "checkpoint_timeout=30min",
            "log_min_messages=warning",
        ] {
            command.arg("-c").arg(setting);
        }
        for setting in &self.settings {
            command.arg("-c").arg(setting);
        }

        command
    }

    fn is_ready(&self, dir: &Path, _port: u16, id: u32) -> bool {
        // The postmaster writes its state into this file: first line its id, eighth its status.
        let Ok(text) = fs::read_to_string(dir.join("data").join("postmaster.pid")) else {
            return false;
        };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();

        lines.first() == Some(&id.to_string().as_str()) && lines.get(7) == Some(&"ready")
    }

    fn url(&self, port: u16) -> String {
        format!(
            "postgres://abunfi:{}@127.0.0.1:{port}/postgres",
            self.password
        )
    }

    fn orderly(&self) -> Stop {
        Stop::Interrupt
    }

    fn at_once(&self) -> Stop {
        Stop::Quit
    }
}
