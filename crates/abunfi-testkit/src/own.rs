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

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::names::random;
use crate::ports::free_port;
use crate::process::{Process, Stop};
use crate::programs::{self, Account};

/// How long a server may take until it answers; generous, for a machine that also compiles.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How often a start is tried: another process may take the port just chosen, and what a killed
/// server leaves behind (shared memory, sockets) is cleared up only after a moment.
const START_ATTEMPTS: usize = 5;
const START_PAUSE: Duration = Duration::from_millis(500);

/// How long one question whether a server is ready may take.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

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
        let log = dir.join("log");
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

/// How a [`OwnPostgres`] runs: `fsync` on, 400 connections, clients by password on the loopback
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

/// How a [`OwnRedis`] runs.
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

/// How a [`OwnMongo`] runs.
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
fn mongodb_ping() -> Vec<u8> {
    let body: &[u8] = b"\x1e\0\0\0\x10ping\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0";
    // Length 51, request 1, in answer to none, opcode 2013; flags; a section of kind 0.
    let head: &[u8] = b"\x33\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0";

    [head, body].concat()
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
