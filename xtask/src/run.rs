//! Where things are, and running commands whose output passes through while it is read.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use abunfi_testkit::Guard;
use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Variables by which the platform is configured. A developer's own must not reach a test.
const CONFIGURATION: &[&str] = &[
    "DATABASE_URL",
    "MONGODB_URI",
    "REDIS_URL",
    "PORT",
    "HOST",
    "DATA_DIR",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "RUST_LOG",
    "TEST_DATABASE_URL",
    "TEST_MONGODB_URI",
    "TEST_REDIS_URL",
];
const CONFIGURATION_PREFIX: &str = "ABUNFI_";

/// The repository and where its build goes.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let output = Command::new(cargo())
            .args(["metadata", "--format-version", "1", "--no-deps"])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata failed");
        }
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let path = |key: &str| {
            metadata
                .get(key)
                .and_then(Value::as_str)
                .map(PathBuf::from)
                .with_context(|| format!("cargo metadata does not say {key}"))
        };

        Ok(Self {
            root: path("workspace_root")?,
            target: path("target_directory")?,
        })
    }

    /// Where this tool keeps what is slow to get: downloaded tools and the built stand-in.
    pub(crate) fn cache(&self) -> PathBuf {
        self.target.join("xtask")
    }

    /// A cargo command in the workspace.
    pub(crate) fn cargo<A: AsRef<OsStr>>(&self, args: &[A]) -> Command {
        let mut command = self.command(&cargo());
        command.args(args);
        if std::io::stdout().is_terminal() {
            command.env("CARGO_TERM_COLOR", "always");
        }

        command
    }

    /// A command in the workspace, cleared of the configuration of the platform.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        for variable in CONFIGURATION {
            command.env_remove(variable);
        }
        for (variable, _) in env::vars_os() {
            if variable
                .to_str()
                .is_some_and(|name| name.starts_with(CONFIGURATION_PREFIX))
            {
                command.env_remove(variable);
            }
        }

        command
    }

    /// A program that `cargo build` has made.
    pub(crate) fn built(&self, path: &str) -> PathBuf {
        self.target
            .join("debug")
            .join(path)
            .with_extension(env::consts::EXE_EXTENSION)
    }
}

fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) ok: bool,
    /// Both its outputs, without colours.
    pub(crate) output: String,
}

/// Runs a command to its end; its output passes through. When we are killed, so is it.
pub(crate) fn pass_through(command: &mut Command) -> Result<Ran> {
    let program = command.get_program().display().to_string();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let guard = Guard::new("kill -s TERM -- \"$1\"", &[child.id().to_string()])?;

    let collected = Arc::new(Mutex::new(String::new()));
    let readers = [
        child
            .stdout
            .take()
            .map(|pipe| tee(pipe, std::io::stdout(), Arc::clone(&collected))),
        child
            .stderr
            .take()
            .map(|pipe| tee(pipe, std::io::stderr(), Arc::clone(&collected))),
    ];
    let status = child.wait().with_context(|| format!("lost {program}"))?;
    drop(guard);
    for reader in readers.into_iter().flatten() {
        reader.join().ok();
    }
    let output = std::mem::take(&mut *collected.lock().unwrap_or_else(PoisonError::into_inner));

    Ok(Ran {
        ok: status.success(),
        output,
    })
}

fn tee(
    pipe: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    collected: Arc<Mutex<String>>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(pipe.read_until(b'\n', &mut line), Ok(count) if count > 0) {
            // A closed terminal is no reason to stop the tests.
            to.write_all(&line).ok();
            let text = without_colours(&String::from_utf8_lossy(&line));
            collected
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_str(&text);
            line.clear();
        }
    })
}

/// Runs a command quietly; its output is the error when it fails.
pub(crate) fn quietly(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
        write!(said, "{}", String::from_utf8_lossy(&output.stdout))?;
        bail!("{program} failed: {}", last_lines(&said));
    }

    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn last_lines(text: &str) -> String {
    const LINES: usize = 15;
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(LINES);

    lines
        .into_iter()
        .skip(skipped)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Text without the escape sequences that colour it.
fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after
            .split_once(|c: char| c.is_ascii_alphabetic())
            .map_or("", |(_, rest)| rest);
    }
    plain.push_str(rest);

    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_taken_out() {
        assert_eq!(
            without_colours("\u{1b}[32;1m  PASS\u{1b}[0m one"),
            "  PASS one"
        );
        assert_eq!(without_colours("plain"), "plain");
    }

    #[test]
    fn output_is_collected_and_failure_noticed() {
        let ran = pass_through(Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]))
            .expect("a shell");

        assert!(!ran.ok);
        assert!(
            ran.output.contains("one\n") && ran.output.contains("two\n"),
            "{}",
            ran.output
        );
    }

    #[test]
    fn a_quiet_failure_says_why() {
        let error = quietly(Command::new("sh").args(["-c", "echo because >&2; exit 1"]))
            .expect_err("it fails");

        assert!(error.to_string().contains("because"), "{error}");
    }
}
