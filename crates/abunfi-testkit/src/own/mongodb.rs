//! A `MongoDB` of a test's own, or its stand-in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Kind, OwnPostgres, ask, contains};
use crate::process::Stop;

/// How a [`OwnMongo`](super::OwnMongo) runs.
#[derive(Debug)]
pub struct Mongo {
    program: PathBuf,
    /// Where the stand-in keeps its documents; a `mongod` keeps them itself.
    store: Option<OwnPostgres>,
}

impl Mongo {
    /// Runs that `mongod`, standalone.
    #[must_use]
    pub fn mongod(program: PathBuf) -> Self {
        Self {
            program,
            store: None,
        }
    }

    /// Runs that stand-in on `store`, which belongs to it from now on: taking the platform's own
    /// `PostgreSQL` away must not take its documents away.
    #[must_use]
    pub fn standin(program: PathBuf, store: OwnPostgres) -> Self {
        Self {
            program,
            store: Some(store),
        }
    }

    /// Whether this is the stand-in, which cannot do all that `MongoDB` does.
    #[must_use]
    pub fn is_standin(&self) -> bool {
        self.store.is_some()
    }
}

impl Kind for Mongo {
    const NAME: &'static str = "MongoDB";

    fn prepare(&mut self, dir: &Path) -> Result<()> {
        if self.store.is_none() {
            fs::create_dir(dir.join("data"))?;
        }

        Ok(())
    }

    fn command(&self, dir: &Path, port: u16) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(store) = &self.store {
            command
                .arg("-listen")
                .arg(format!("127.0.0.1:{port}"))
                .arg("-postgresql-url")
                .arg(store.url());
        } else {
            command
                .args(["--bind_ip", "127.0.0.1", "--port", &port.to_string()])
                .args(["--nounixsocket", "--quiet", "--dbpath"])
                .arg(dir.join("data"));
        }

        command
    }

    fn is_ready(&self, _dir: &Path, port: u16, _id: u32) -> bool {
        // The answer to `ping` holds `ok: 1.0`.
        const OK: &[u8] = b"\x01ok\0\0\0\0\0\0\0\xf0\x3f";

        ask(port, &mongodb_ping()).is_some_and(|answer| contains(&answer, OK))
    }

    fn url(&self, port: u16) -> String {
        format!("mongodb://127.0.0.1:{port}/")
    }

    fn orderly(&self) -> Stop {
        Stop::Terminate
    }

    fn at_once(&self) -> Stop {
        Stop::Kill
    }
}

/// `{ping: 1, $db: "admin"}` as a message of `MongoDB`'s wire protocol (`OP_MSG`).
pub(super) fn mongodb_ping() -> Vec<u8> {
    let body: &[u8] = b"\x1e\0\0\0\x10ping\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0";
    // Length 51, request 1, in answer to none, opcode 2013; flags; a section of kind 0.
    let head: &[u8] = b"\x33\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0";

    [head, body].concat()
}
