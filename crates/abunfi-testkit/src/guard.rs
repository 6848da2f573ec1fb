//! Cleaning up even after a `kill -9` of ourselves.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// A shell that waits for our death and then runs a script.
///
/// `Drop` does not run when a process is killed, when a test runner ends a test that hangs, or at
/// Ctrl-C. The guard holds the reading end of a pipe of which only we hold the writing end: when we
/// are gone, however that came, the pipe ends and the script runs. It lives in a process group of
/// its own, so that a signal to ours does not take it along.
#[derive(Debug)]
pub struct Guard {
    shell: Child,
}

impl Guard {
    /// Runs `script` (`sh`, with `args` as `$1`, `$2`, …) once this process is gone, unless the
    /// guard is dropped before.
    ///
    /// # Errors
    /// When no shell can be started.
    pub fn new<A: AsRef<OsStr>>(script: &str, args: &[A]) -> Result<Self> {
        let shell = Command::new("sh")
            .arg("-c")
            .arg(format!("read -r _; {script}"))
            .arg("abunfi-test-guard")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start `sh`, which cleans up when this process is killed")?;

        Ok(Self { shell })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Killed before its pipe is closed: whoever drops a guard has cleaned up already, and the
        // process id in its script may belong to somebody else by now.
        self.shell.kill().ok();
        self.shell.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_dropped_guard_does_not_run_its_script() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mark = dir.path().join("mark");

        drop(Guard::new(": > \"$1\"", &[&mark]).expect("a guard"));

        std::thread::sleep(Duration::from_millis(100));
        assert!(!mark.exists());
    }

    #[test]
    fn the_script_runs_when_the_pipe_ends() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mark = dir.path().join("mark");
        let mut guard = Guard::new(": > \"$1\"", &[&mark]).expect("a guard");

        drop(guard.shell.stdin.take());
        guard.shell.wait().expect("the shell ends");

        assert!(mark.exists());
    }
}
