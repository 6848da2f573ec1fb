//! `abunfi verify` beside reading the same rows from one end to the other.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::client_program;
use crate::load::Measured;

const TABLES: [&str; 4] = ["audit", "entries", "transactions", "accounts"];

/// Whether this `abunfi` can verify.
pub(super) fn is_there(abunfi: &Path) -> Result<bool> {
    let status = Command::new(abunfi)
        .args(["verify", "--help"])
        .env_clear()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot start abunfi")?;
    Ok(status.success())
}

pub(super) fn verify(abunfi: &Path, url: &str, folder: &Path) -> Result<Measured> {
    timed(
        Command::new(abunfi)
            .args(["verify", "--json"])
            .env_clear()
            .env("DATABASE_URL", url)
            .env("DATA_DIR", folder)
            .current_dir(folder),
    )
}

pub(super) fn copy(url: &str) -> Result<Measured> {
    let mut command = client_program("psql")?;
    command.arg("-q").arg(url);
    for table in TABLES {
        command.arg("-c").arg(format!("COPY {table} TO STDOUT"));
    }
    timed(&mut command)
}

fn timed(command: &mut Command) -> Result<Measured> {
    let started = Instant::now();
    let output = command.stdout(Stdio::null()).output()?;
    let took = started.elapsed();
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Measured::of(vec![took], took, 0)
}
