//! A Redis of a test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Kind, ask};
use crate::process::Stop;

/// How a [`OwnRedis`](super::OwnRedis) runs.
#[derive(Debug)]
pub struct Redis {
    program: PathBuf,
}

impl Redis {
    /// Runs that `redis-server`.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }
}

impl Kind for Redis {
    const NAME: &'static str = "Redis";

    fn prepare(&mut self, _dir: &Path) -> Result<()> {
        Ok(())
    }

    fn command(&self, dir: &Path, port: u16) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .arg("--dir")
            .arg(dir);

        command
    }

    fn is_ready(&self, _dir: &Path, port: u16, id: u32) -> bool {
        // While it loads it answers PING with an error; and it must be ours that answers.
        let Some(answer) = ask(port, b"PING\r\nINFO server\r\nQUIT\r\n") else {
            return false;
        };
        let answer = String::from_utf8_lossy(&answer).into_owned();

        answer.starts_with("+PONG") && answer.contains(&format!("process_id:{id}\r"))
    }

    fn url(&self, port: u16) -> String {
        format!("redis://127.0.0.1:{port}/")
    }

    fn orderly(&self) -> Stop {
        Stop::Terminate
    }

    fn at_once(&self) -> Stop {
        Stop::Kill
    }
}
