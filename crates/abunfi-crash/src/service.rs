//! A process of the service: started, killed, asked to end.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use abunfi::faults::{BUG_VARIABLE, Bug, POINT_VARIABLE, Point};
use abunfi_testkit::{Guard, free_port};
use anyhow::{Context as _, Result, bail, ensure};

const SIGKILL: i32 = 9;
/// Generous, for a machine that also compiles.
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct Service {
    program: PathBuf,
    dir: PathBuf,
    environment: Vec<(&'static str, String)>,
    pub(crate) port: u16,
    running: Option<(Child, Guard)>,
}

impl Service {
    /// Not started yet. `dir` is its working folder, with its log in it.
    pub(crate) fn new(
        program: PathBuf,
        dir: PathBuf,
        database_url: String,
        admin_key: String,
        bug: Option<Bug>,
    ) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        let mut environment = vec![
            ("DATABASE_URL", database_url),
            ("ABUNFI_ADMIN_KEY", admin_key),
            ("LOG_LEVEL", "warn".to_owned()),
        ];
        environment.extend(bug.map(|bug| (BUG_VARIABLE, bug.name().to_owned())));
        Ok(Self {
            program,
            dir,
            environment,
            port: free_port()?,
            running: None,
        })
    }

    /// Starts it, to kill itself at that point if any, and waits until it answers.
    ///
    /// Clients hammer its port meanwhile. It may therefore come to its point before it was seen to
    /// answer: that is no failure, and [`Self::ended`] tells of it.
    pub(crate) async fn start(&mut self, kill_at: Option<(Point, u64)>) -> Result<()> {
        ensure!(self.running.is_none(), "the service runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .context("cannot write the service's log")?;
        let mut command = Command::new(&self.program);
        command
            .args(["serve", "--port", &self.port.to_string()])
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some((point, nth)) = kill_at {
            command.env(POINT_VARIABLE, format!("{}:{nth}", point.name()));
        }
        let child = command.spawn().context("cannot start the service")?;
        let guard = Guard::new("kill -s KILL -- \"$1\"", &[child.id().to_string()])?;
        self.running = Some((child, guard));

        let until = Instant::now() + START_DEADLINE;
        let address = (Ipv4Addr::LOCALHOST, self.port);
        while tokio::net::TcpStream::connect(address).await.is_err() || !self.is_ready().await {
            match self.status() {
                None => {}
                Some(status) if kill_at.is_some() && is_kill(status) => break,
                Some(status) => {
                    self.running = None;
                    bail!(
                        "the service ended at its start ({status}):\n{}",
                        self.log_tail()
                    );
                }
            }
            ensure!(Instant::now() < until, "the service does not start");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// `kill -9`; whether it ran.
    pub(crate) fn kill(&mut self) -> bool {
        let Some((mut child, guard)) = self.running.take() else {
            return false;
        };
        child.kill().ok();
        child.wait().ok();
        drop(guard);
        true
    }

    /// How it ended, if it did by itself; said once.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.status()?;
        self.running = None;
        Some(status)
    }

    fn status(&mut self) -> Option<ExitStatus> {
        let (child, _) = self.running.as_mut()?;
        child.try_wait().ok().flatten()
    }

    pub(crate) const fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// Asks it to end in order, and waits for it.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let Some((child, _)) = self.running.as_ref() else {
            return Ok(());
        };
        let asked = Command::new("kill")
            .args(["-s", "TERM", &child.id().to_string()])
            .status()?;
        ensure!(asked.success(), "cannot ask the service to stop");
        let until = Instant::now() + STOP_DEADLINE;
        loop {
            if let Some(status) = self.ended() {
                ensure!(
                    status.success(),
                    "it ended with {status}:\n{}",
                    self.log_tail()
                );
                return Ok(());
            }
            ensure!(Instant::now() < until, "it does not end");
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let skipped = lines.len().saturating_sub(12);
        lines
            .into_iter()
            .skip(skipped)
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("service.log")
    }

    async fn is_ready(&self) -> bool {
        let url = format!("http://127.0.0.1:{}/readyz", self.port);
        match reqwest::get(url).await {
            Ok(answer) => answer.status().is_success(),
            Err(_) => false,
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether that is how a process ends that killed itself, or was.
pub(crate) fn is_kill(status: ExitStatus) -> bool {
    status.signal() == Some(SIGKILL)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    /// A service that does `what` instead.
    fn service(dir: &Path, what: &str) -> Service {
        let program = dir.join("abunfi");
        fs::write(&program, format!("#!/bin/sh\n{what}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Service::new(
            program,
            dir.join("service"),
            String::new(),
            String::new(),
            None,
        )
        .unwrap()
    }

    #[tokio::test]
    async fn a_service_that_comes_to_its_point_before_it_was_seen_to_answer_has_been_started() {
        let dir = tempfile::tempdir().unwrap();
        let mut service = service(dir.path(), "kill -s KILL $$");
        service
            .start(Some((Point::BetweenChunks, 2)))
            .await
            .unwrap();
        assert!(service.ended().is_some_and(is_kill));
        assert_eq!(service.ended(), None);
        assert!(!service.runs());
    }

    #[tokio::test]
    async fn a_service_that_ends_at_its_start_otherwise_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        for (what, kill_at) in [
            ("kill -s KILL $$", None),
            ("exit 1", None),
            ("exit 1", Some((Point::BetweenChunks, 2))),
        ] {
            let mut service = service(dir.path(), what);
            let failure = service.start(kill_at).await.unwrap_err().to_string();
            assert!(
                failure.contains("ended at its start"),
                "{what}, {kill_at:?}: {failure}"
            );
            assert!(!service.runs());
        }
    }
}
