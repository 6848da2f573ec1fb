//! Where the programs of the servers are, and as which user they run.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The folder with `postgres` and `initdb`, for tests that start a `PostgreSQL` of their own.
pub const POSTGRES_BIN: &str = "ABUNFI_TEST_POSTGRES_BIN";
/// The path of `redis-server`.
pub const REDIS_SERVER: &str = "ABUNFI_TEST_REDIS_SERVER";
/// The path of `mongod`.
pub const MONGOD: &str = "ABUNFI_TEST_MONGOD";
/// The path of the built `tools/mongodb-standin`.
pub const MONGODB_STANDIN: &str = "ABUNFI_TEST_MONGODB_STANDIN";

/// The oldest `PostgreSQL` that the platform supports.
pub const POSTGRES_OLDEST: u32 = 15;
/// The oldest Redis that the platform supports.
pub const REDIS_OLDEST: u32 = 7;

/// The folder of a `PostgreSQL` that is new enough: the variable [`POSTGRES_BIN`], then the `PATH`,
/// then where Debian keeps the versions side by side.
///
/// # Errors
/// When there is none; the message says what was found instead.
pub fn find_postgres() -> Result<PathBuf> {
    if let Some(given) = given(POSTGRES_BIN) {
        return Ok(given);
    }
    let mut folders = path_folders();
    folders.extend(debian_folders());

    let mut found = Vec::new();
    for folder in folders {
        if !folder.join("initdb").is_file() || !folder.join("postgres").is_file() {
            continue;
        }
        match major_version(&folder.join("postgres")) {
            Ok(major) if major >= POSTGRES_OLDEST => return Ok(folder),
            Ok(major) => found.push(format!("{} is version {major}", folder.display())),
            Err(error) => found.push(format!("{error:#}")),
        }
    }

    bail!(
        "no PostgreSQL {POSTGRES_OLDEST} or newer here{}",
        but(&found)
    )
}

/// A client program of `PostgreSQL` (`psql`, `pgbench`, …): beside the server's, which need not have any;
/// else on the `PATH`; else where Debian keeps the versions side by side.
///
/// # Errors
/// When there is none.
pub fn find_postgres_client(name: &str) -> Result<PathBuf> {
    let beside = find_postgres().ok().into_iter();
    beside
        .chain(path_folders())
        .chain(debian_folders())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("no {name} beside the server's programs or on the PATH"))
}

/// A `redis-server` that is new enough: the variable [`REDIS_SERVER`], then the `PATH`.
///
/// # Errors
/// When there is none.
pub fn find_redis() -> Result<PathBuf> {
    if let Some(given) = given(REDIS_SERVER) {
        return Ok(given);
    }
    let Some(program) = on_path("redis-server") else {
        bail!("no redis-server on the PATH");
    };
    let major = major_version(&program)?;
    if major < REDIS_OLDEST {
        bail!(
            "{} is version {major}, older than {REDIS_OLDEST}",
            program.display()
        );
    }

    Ok(program)
}

/// A `mongod`: the variable [`MONGOD`], then the `PATH`.
///
/// # Errors
/// When there is none.
pub fn find_mongod() -> Result<PathBuf> {
    given(MONGOD)
        .or_else(|| on_path("mongod"))
        .context("no mongod on the PATH")
}

/// The built stand-in, which only the variable [`MONGODB_STANDIN`] names.
///
/// # Errors
/// When the variable is not set.
pub fn find_standin() -> Result<PathBuf> {
    given(MONGODB_STANDIN).with_context(|| format!("{MONGODB_STANDIN} is not set"))
}

/// The first program of that name on the `PATH`.
#[must_use]
pub fn on_path(name: &str) -> Option<PathBuf> {
    path_folders()
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// The first number in what `PROGRAM --version` prints, such as 15 in `postgres (PostgreSQL) 15.2`
/// and 7 in `Redis server v=7.0.15`.
///
/// # Errors
/// When the program does not run or prints no number.
pub fn major_version(program: &Path) -> Result<u32> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);

    first_number(&text).with_context(|| {
        format!(
            "{} --version says no version: {}",
            program.display(),
            text.trim()
        )
    })
}

fn first_number(text: &str) -> Option<u32> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let digits: String = text
        .get(start..)?
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();

    digits.parse().ok()
}

fn given(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn path_folders() -> Vec<PathBuf> {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect()
}

/// Newest first.
fn debian_folders() -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();

    versions
        .into_iter()
        .rev()
        .map(|(_, folder)| folder)
        .collect()
}

fn but(found: &[String]) -> String {
    if found.is_empty() {
        String::new()
    } else {
        format!(" ({})", found.join("; "))
    }
}

/// Whether we are root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The user as which a server runs that refuses to run as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// `None` unless we are root: then the account `postgres`, else `nobody`.
    ///
    /// # Errors
    /// When we are root and neither account exists.
    pub fn unprivileged() -> Result<Option<Self>> {
        if !is_root() {
            return Ok(None);
        }
        let accounts = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;

        ["postgres", "nobody"]
            .iter()
            .find_map(|name| Self::parse(&accounts, name))
            .map(Some)
            .context(
                "PostgreSQL refuses to run as root, and there is neither `postgres` nor `nobody`",
            )
    }

    fn parse(accounts: &str, name: &str) -> Option<Self> {
        accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next() != Some(name) {
                return None;
            }
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;

            Some(Self { uid, gid })
        })
    }

    /// Lets `command` run as this user.
    pub fn apply(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Gives `path` to this user.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn own(self, path: &Path) -> Result<()> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("cannot give {} to user {}", path.display(), self.uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_servers_print() {
        assert_eq!(
            first_number("postgres (PostgreSQL) 15.20 (Debian 15.20-0)"),
            Some(15)
        );
        assert_eq!(
            first_number("Redis server v=7.0.15 sha=00000000:0"),
            Some(7)
        );
        assert_eq!(first_number("no number"), None);
    }

    #[test]
    fn accounts_are_read_from_the_list_of_users() {
        let list = "root:x:0:0:root:/root:/bin/bash\npostgres:x:101:104:admin:/var:/bin/bash\n";

        assert_eq!(
            Account::parse(list, "postgres"),
            Some(Account { uid: 101, gid: 104 })
        );
        assert_eq!(Account::parse(list, "post"), None);
    }
}
