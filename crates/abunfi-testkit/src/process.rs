//! A server's process: started, watched, signalled, and certainly ended.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::guard::Guard;

/// How often a state is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(20);

/// How long an orderly stop may take before the process is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// After our death: wake the server if it is frozen, ask it to end, wait up to 5 s, kill it, remove
/// its data. `PostgreSQL` must be asked, or its shared memory segment outlives it.
const AFTER_DEATH: &str = r#"
kill -s CONT -- "$1"; kill -s "$2" -- "$1"
i=0; while [ $i -lt 50 ] && kill -s 0 -- "$1"; do sleep 0.1; i=$((i+1)); done
kill -s KILL -- "$1"; rm -rf -- "$3"
"#;

/// The signal that asks a server to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Interrupt,
    Quit,
    Terminate,
    Kill,
}

impl Stop {
    fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "INT",
            Self::Quit => "QUIT",
            Self::Terminate => "TERM",
            Self::Kill => "KILL",
        }
    }

    fn signal(self) -> Signal {
        match self {
            Self::Interrupt => Signal::INT,
            Self::Quit => Signal::QUIT,
            Self::Terminate => Signal::TERM,
            Self::Kill => Signal::KILL,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Dismissed (by its drop) only after the process has ended.
    _guard: Guard,
}

impl Process {
    /// Starts `command` in a process group of its own, its output appended to `log`. If we are
    /// killed, the process is ended by `stop` and `dir` is removed.
    pub(crate) fn spawn(command: &mut Command, log: &Path, stop: Stop, dir: &Path) -> Result<Self> {
        let output = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let guard = Guard::new(
            AFTER_DEATH,
            &[
                child.id().to_string().as_ref(),
                stop.name().as_ref(),
                dir.as_os_str(),
            ],
        )?;

        Ok(Self {
            child,
            _guard: guard,
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` says so; an error when the process ends before, or `deadline` passes.
    pub(crate) fn wait_until(
        &mut self,
        deadline: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended at once ({status})");
            }
            if ready() {
                return Ok(());
            }
            if start.elapsed() > deadline {
                bail!("it was not ready after {} s", deadline.as_secs());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Asks the process to end, and kills it when it does not.
    pub(crate) fn stop(&mut self, how: Stop) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.thaw();
        send(self.pid(), how.signal());
        let start = Instant::now();
        while start.elapsed() < STOP_DEADLINE {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(POLL);
        }
        self.kill();
    }

    /// `kill -9` of the process and its children.
    pub(crate) fn kill(&mut self) {
        let children = descendants(self.child.id());
        self.child.kill().ok();
        self.child.wait().ok();
        for child in children {
            send(to_pid(child), Signal::KILL);
        }
    }

    /// Stops the process and its children in their tracks: connections stay open, nothing answers.
    pub(crate) fn freeze(&self) {
        // The parent first, or it would start more of them.
        send(self.pid(), Signal::STOP);
        for child in descendants(self.child.id()) {
            send(to_pid(child), Signal::STOP);
        }
    }

    /// Lets a frozen process go on.
    pub(crate) fn thaw(&self) {
        for child in descendants(self.child.id()) {
            send(to_pid(child), Signal::CONT);
        }
        send(self.pid(), Signal::CONT);
    }

    fn pid(&self) -> Option<Pid> {
        to_pid(self.child.id())
    }
}

fn send(pid: Option<Pid>, signal: Signal) {
    if let Some(pid) = pid {
        // Only fails when it has just ended.
        kill_process(pid, signal).ok();
    }
}

fn to_pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

/// The children of a process, their children, and so on. `PostgreSQL` gives each of its own a
/// session, so that a signal to the process group does not reach them.
fn descendants(root: u32) -> Vec<u32> {
    let pairs = process_pairs();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            pairs
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(id, _)| *id),
        );
        next += 1;
    }

    found.split_off(1)
}

/// Every process with its parent: from `/proc` on Linux, from `ps` elsewhere.
fn process_pairs() -> Vec<(u32, u32)> {
    if Path::new("/proc/self/stat").exists() {
        return fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let id = entry.file_name().to_str()?.parse().ok()?;
                let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
                Some((id, parent_in_stat(&stat)?))
            })
            .collect();
    }
    let Ok(output) = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output() else {
        return Vec::new();
    };

    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        })
        .collect()
}

/// `PID (NAME) STATE PPID …`, where the name may hold spaces and brackets.
fn parent_in_stat(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_after_the_name() {
        assert_eq!(parent_in_stat("42 (a) b (c)) S 7 42 42 0"), Some(7));
        assert_eq!(parent_in_stat("nonsense"), None);
    }

    #[test]
    fn grandchildren_are_found() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mark = dir.path().join("mark");
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "sh -c 'sleep 30 & : > \"$1\"; wait' _ \"$1\"; :", "_"])
            .arg(&mark);
        let mut process =
            Process::spawn(&mut shell, &dir.path().join("log"), Stop::Kill, dir.path())
                .expect("a shell");
        process
            .wait_until(Duration::from_secs(10), || mark.exists())
            .expect("it starts");

        let children = descendants(process.id());
        assert_eq!(children.len(), 2, "{children:?}");

        process.kill();
        // Gone, or dead and not yet collected by whoever inherited it.
        let gone = |id: &u32| {
            fs::read_to_string(format!("/proc/{id}/stat"))
                .map_or(true, |stat| stat.contains(") Z "))
        };
        let start = Instant::now();
        while !children.iter().all(gone) && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(POLL);
        }
        assert!(children.iter().all(gone), "{children:?} live on");
    }
}
