//! What a client did and was told: kept in memory for the checks, and on disk for people.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::operations::Request;

/// What a client knows of one of its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// Done: the status and the body, as first received.
    Done {
        status: u16,
        body: String,
    },
    /// A rule was broken: nothing was done, and a replay says so again.
    Refused {
        status: u16,
        body: String,
        code: String,
    },
    /// Said to be certainly not done, or never sent.
    NotDone {
        code: String,
    },
    Unknown,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) request: Request,
    pub(crate) end: End,
    /// How often it was sent.
    pub(crate) attempts: u32,
    /// It was unknown once, and then found to have been done the first time.
    pub(crate) answer_was_lost: bool,
}

/// JSON lines, one file for each client. Every line is on disk before the client's next request leaves, so
/// that the history survives whatever the run does to this machine.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    since: Instant,
}

impl Journal {
    pub(crate) fn create(dir: &Path, client: usize, since: Instant) -> Result<Self> {
        let path = dir.join(format!("client-{client:02}.jsonl"));
        let file = File::options().create(true).append(true).open(&path);
        Ok(Self {
            file: file.with_context(|| format!("cannot write {}", path.display()))?,
            since,
        })
    }

    /// Before a request is sent: synced, with every answer written since.
    pub(crate) fn invoke(&mut self, request: &Request, attempt: u32, port: u16) -> Result<()> {
        self.line(
            json!({"event": "invoke", "key": request.key, "attempt": attempt, "port": port,
            "path": request.path, "body": request.body}),
        )?;
        // Short, and the client has nothing else to do; but its thread has.
        tokio::task::block_in_place(|| self.file.sync_data())?;
        Ok(())
    }

    pub(crate) fn told(&mut self, key: &str, event: &str, what: &Value) -> Result<()> {
        self.line(json!({"event": event, "key": key, "answer": what}))
    }

    fn line(&mut self, mut line: Value) -> Result<()> {
        if let Some(line) = line.as_object_mut() {
            let millis = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            line.insert("ms".to_owned(), json!(millis));
        }
        let mut text = line.to_string();
        text.push('\n');
        self.file.write_all(text.as_bytes())?;
        Ok(())
    }
}
