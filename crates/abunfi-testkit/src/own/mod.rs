//! Servers that belong to one test, which may stop, kill and freeze them.
//!
//! Starting takes from 50 ms (Redis) to about 2 s (`PostgreSQL`, which makes a cluster first) and
//! blocks the thread. Prefer the shared servers of [`crate::servers`] where a test breaks nothing.

use std::fmt::Debug;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::ports::free_port;
use crate::process::{Process, Stop};
use crate::programs;

mod mongodb;
mod postgres;
mod redis;

pub use mongodb::Mongo;
pub use postgres::Postgres;
pub use redis::Redis;

/// How long a server may take until it answers; generous, for a machine that also compiles.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How often a start is tried: another process may take the port just chosen, and what a killed
/// server leaves behind (shared memory, sockets) is cleared up only after a moment.
const START_ATTEMPTS: usize = 5;
const START_PAUSE: Duration = Duration::from_millis(500);

/// How long one question whether a server is ready may take.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// The file in the folder of a server that has its output.
const LOG: &str = "log";

/// How many lines of a server's log an error shows.
const LOG_LINES: usize = 15;

/// What differs between the servers; [`Own`] does what they have in common.
pub trait Kind: Debug {
    /// For messages.
    const NAME: &'static str;

    /// Makes what the server needs in `dir` before its first start.
    ///
    /// # Errors
    /// When that fails.
    fn prepare(&mut self, dir: &Path) -> Result<()>;

    /// The command that runs the server in the foreground.
    fn command(&self, dir: &Path, port: u16) -> Command;

    /// Whether the process `id`, and no other, answers on `port`.
    fn is_ready(&self, dir: &Path, port: u16, id: u32) -> bool;

    /// How clients reach it.
    fn url(&self, port: u16) -> String;

    /// How it is asked to end while its data matters.
    fn orderly(&self) -> Stop;

    /// How it is asked to end when nothing matters any more.
    fn at_once(&self) -> Stop;
}

/// A server process on a port of its own with data in a temporary folder; ended, and its data
/// removed, when this is dropped or this process dies.
#[derive(Debug)]
pub struct Own<K: Kind> {
    // Before `dir`, so that the process has ended when its folder goes.
    process: Option<Process>,
    kind: K,
    dir: TempDir,
    port: u16,
}

/// A `PostgreSQL` of its own.
pub type OwnPostgres = Own<Postgres>;
/// A Redis of its own, without persistence: stopping it loses what it held.
pub type OwnRedis = Own<Redis>;
/// A `MongoDB` of its own, or the stand-in. What was written survives [`Own::stop`] and
/// [`Own::kill`].
pub type OwnMongo = Own<Mongo>;

impl OwnPostgres {
    /// Starts one from the programs that [`programs::find_postgres`] finds.
    ///
    /// # Errors
    /// When there are none, or the server does not come up.
    pub fn start() -> Result<Self> {
        Self::start_with(Postgres::new(programs::find_postgres()?)?)
    }
}

impl OwnRedis {
    /// Starts one from the program that [`programs::find_redis`] finds.
    ///
    /// # Errors
    /// When there is none, or the server does not come up.
    pub fn start() -> Result<Self> {
        Self::start_with(Redis::new(programs::find_redis()?))
    }
}

impl OwnMongo {
    /// Starts a `mongod` if [`programs::find_mongod`] finds one, else the stand-in of
    /// [`programs::find_standin`] on a `PostgreSQL` cluster of its own.
    ///
    /// # Errors
    /// When there is neither, or the server does not come up.
    pub fn start() -> Result<Self> {
        if let Ok(program) = programs::find_mongod() {
            return Self::start_with(Mongo::mongod(program));
        }
        let standin = programs::find_standin().context("neither mongod nor the stand-in")?;

        Self::start_with(Mongo::standin(standin, OwnPostgres::start()?))
    }
}

impl<K: Kind> Own<K> {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// When it does not; the message ends with the last lines of its log.
    pub fn start_with(mut kind: K) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("abunfi-test-")
            .tempdir()
            .context("cannot make a temporary folder")?;
        kind.prepare(dir.path())
            .with_context(|| format!("cannot prepare {}", K::NAME))?;

        let mut server = Self {
            process: None,
            kind,
            dir,
            port: 0,
        };
        let mut attempt = 1;
        loop {
            server.port = free_port()?;
            match server.launch() {
                Ok(()) => return Ok(server),
                Err(error) if attempt == START_ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    /// How clients reach it. Stays the same over stop and start.
    #[must_use]
    pub fn url(&self) -> String {
        self.kind.url(self.port)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The programs and options it runs with.
    #[must_use]
    pub fn kind(&self) -> &K {
        &self.kind
    }

    /// The id of its first process, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The file of what it has said, over all its starts.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.path().join(LOG)
    }

    /// Shuts it down in order, as an administrator would. Connections are closed, the port refuses.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(self.kind.orderly());
        }
    }

    /// Ends it without any care for who is connected, as `pg_ctl stop -m immediate` does: the next start
    /// recovers from the write-ahead log.
    pub fn stop_at_once(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(self.kind.at_once());
        }
    }

    /// `kill -9`, as the machine's failure would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again on the same port with the same data, and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} has not been stopped", K::NAME);
        let mut attempt = 1;
        loop {
            match self.launch() {
                Ok(()) => return Ok(()),
                Err(error) if attempt == START_ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
            }
            std::thread::sleep(START_PAUSE);
        }
    }

    /// SIGSTOP: connections stay open, new ones are accepted by the system, nothing answers.
    pub fn freeze(&self) {
        if let Some(process) = &self.process {
            process.freeze();
        }
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        if let Some(process) = &self.process {
            process.thaw();
        }
    }

    fn launch(&mut self) -> Result<()> {
        let dir = self.dir.path();
        let log = self.log();
        let mut command = self.kind.command(dir, self.port);
        command.current_dir(dir);
        let mut process = Process::spawn(&mut command, &log, self.kind.at_once(), dir)?;
        let id = process.id();

        let ready = process.wait_until(START_DEADLINE, || self.kind.is_ready(dir, self.port, id));
        if let Err(error) = ready {
            process.kill();
            return Err(error)
                .with_context(|| format!("{} did not start:\n{}", K::NAME, tail(&log)));
        }
        self.process = Some(process);

        Ok(())
    }
}

impl<K: Kind> Drop for Own<K> {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(self.kind.at_once());
        }
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(LOG_LINES);

    lines
        .into_iter()
        .skip(skipped)
        .collect::<Vec<_>>()
        .join("\n")
}

/// What a server answers to `question` until it closes, or says nothing more for a moment.
fn ask(port: u16, question: &[u8]) -> Option<Vec<u8>> {
    const QUIET: Duration = Duration::from_millis(200);

    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PROBE_DEADLINE).ok()?;
    stream.set_read_timeout(Some(PROBE_DEADLINE)).ok()?;
    stream.write_all(question).ok()?;

    let start = Instant::now();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while start.elapsed() < PROBE_DEADLINE {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => answer.extend_from_slice(buffer.get(..count)?),
        }
        stream.set_read_timeout(Some(QUIET)).ok()?;
    }

    Some(answer)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::mongodb::mongodb_ping;
    use super::*;

    #[test]
    fn the_ping_says_its_own_length() {
        let ping = mongodb_ping();

        assert_eq!(ping.first().copied().map(usize::from), Some(ping.len()));
        assert_eq!(
            ping.get(21).copied().map(usize::from),
            Some(ping.len() - 21)
        );
    }

    #[test]
    fn a_server_that_ends_at_once_is_an_error_with_its_log() {
        #[derive(Debug)]
        struct Broken;
        impl Kind for Broken {
            const NAME: &'static str = "Broken";
            fn prepare(&mut self, _dir: &Path) -> Result<()> {
                Ok(())
            }
            fn command(&self, _dir: &Path, _port: u16) -> Command {
                let mut command = Command::new("sh");
                command.args(["-c", "echo out of cheese; exit 3"]);
                command
            }
            fn is_ready(&self, _dir: &Path, _port: u16, _id: u32) -> bool {
                false
            }
            fn url(&self, _port: u16) -> String {
                String::new()
            }
            fn orderly(&self) -> Stop {
                Stop::Kill
            }
            fn at_once(&self) -> Stop {
                Stop::Kill
            }
        }

        let error = Own::start_with(Broken).expect_err("it cannot start");

        assert!(format!("{error:#}").contains("out of cheese"), "{error:#}");
    }

    /// What is true of any of them, over one life with every kind of outage.
    fn lives<K: Kind>(mut server: Own<K>, answers: impl Fn(&Own<K>) -> bool) {
        let url = server.url();
        assert!(answers(&server), "it answers once it has started");

        server.freeze();
        assert!(!answers(&server), "frozen, it does not answer");
        server.thaw();
        assert!(answers(&server), "thawed, it answers again");

        server.stop();
        assert!(!answers(&server), "stopped, it does not answer");
        server.start_again().expect("it starts again");
        assert!(answers(&server), "started again, it answers");

        server.kill();
        assert!(!answers(&server), "killed, it does not answer");
        server.start_again().expect("it starts again after a kill");
        assert!(answers(&server), "it answers after a kill");
        assert_eq!(server.url(), url, "its address has not changed");

        let (address, dir) = (server.address(), server.dir.path().to_owned());
        drop(server);
        assert!(TcpStream::connect(address).is_err(), "dropped, it is gone");
        assert!(!dir.exists(), "and so is its data");
    }

    /// Tests that start servers of their own from the programs that `cargo xtask test` has found.
    mod servers {
        use super::*;

        #[test]
        fn a_postgres_of_its_own_lives_through_outages() {
            let server = OwnPostgres::start().expect("a PostgreSQL");

            // An SSLRequest, which every PostgreSQL answers with one letter. The postmaster's child
            // answers, so this also shows that children are frozen.
            lives(server, |server| {
                ask(server.port, b"\0\0\0\x08\x04\xd2\x16\x2f").is_some_and(|a| a == b"N")
            });
        }

        #[test]
        fn a_redis_of_its_own_lives_through_outages() {
            let server = OwnRedis::start().expect("a Redis");

            lives(server, |server| {
                ask(server.port, b"PING\r\n").is_some_and(|a| a.starts_with(b"+PONG"))
            });
        }

        #[test]
        fn a_mongodb_of_its_own_lives_through_outages() {
            let server = OwnMongo::start().expect("a MongoDB");

            lives(server, |server| {
                ask(server.port, &mongodb_ping()).is_some_and(|a| contains(&a, b"\x01ok\0"))
            });
        }
    }
}
