//! `cargo xtask test`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::provide::{Installing, Need, Servers};
use crate::report::{Outcome, Report, Row, summary};
use crate::run::{Workspace, pass_through, quietly};
use crate::suites::{Backend, Choice, Kind, SUITES, Suite};
use crate::tools::{NEXTEST, Tool};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only these suites: a name (`conformance`), or one of its backends (`conformance/postgres`)
    names: Vec<String>,

    /// A suite that cannot run is a failure (the default where CI=true)
    #[arg(long)]
    all: bool,

    /// Say which suites there are, and stop
    #[arg(long)]
    list: bool,

    /// Show each test that passes too
    #[arg(long)]
    verbose: bool,

    #[command(flatten)]
    servers: Installing,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    if options.list {
        for suite in SUITES {
            println!("{}", full_name(suite));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = choose(&options.names)?;
    let mut needs: Vec<Need> = Vec::new();
    for need in chosen.iter().flat_map(|suite| suite.backend.needs()) {
        if !needs.contains(need) {
            needs.push(*need);
        }
    }

    let strict = options.all || std::env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1");
    let report = thread::scope(|scope| {
        // While the checks run, and the compiler.
        let servers = scope.spawn(|| Servers::provide(workspace, &needs, options.servers));
        let mut session = Session {
            workspace,
            options,
            nextest: None,
            servers: Pending::Coming(Some(servers)),
            report: Report {
                strict,
                ..Report::default()
            },
        };
        session.run(&chosen);

        session.report
    });
    report.print();

    Ok(if report.ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn full_name(suite: &Suite) -> String {
    match suite.backend {
        Backend::None => suite.name.to_owned(),
        backend => format!("{}/{}", suite.name, backend.name()),
    }
}

/// The suites with these names, or all; and the build, if one of them needs it.
fn choose(names: &[String]) -> Result<Vec<Suite>> {
    if names.is_empty() {
        return Ok(SUITES.to_vec());
    }
    let is_named = |suite: &Suite, name: &String| *name == suite.name || *name == full_name(suite);
    if let Some(unknown) = names
        .iter()
        .find(|name| !SUITES.iter().any(|suite| is_named(suite, name)))
    {
        bail!("there is no suite {unknown}; `cargo xtask test --list` says which there are");
    }
    let named = |suite: &Suite| names.iter().any(|name| is_named(suite, name));
    let needs_build = |suite: &Suite| match suite.kind {
        Kind::Tests(_) | Kind::Programs(_) | Kind::Selection => true,
        Kind::Check(_) => suite.name == "openapi",
        _ => false,
    };
    let build = SUITES
        .iter()
        .any(|suite| named(suite) && needs_build(suite));

    Ok(SUITES
        .iter()
        .filter(|suite| named(suite) || (build && matches!(suite.kind, Kind::Build)))
        .copied()
        .collect())
}

/// The servers, which are on their way while the first suites run.
enum Pending<'scope> {
    Coming(Option<thread::ScopedJoinHandle<'scope, Servers>>),
    Here(Box<Servers>),
}

struct Session<'a, 'scope> {
    workspace: &'a Workspace,
    options: &'a Options,
    /// cargo-nextest once it was looked for; inside, `None` where it cannot be had.
    nextest: Option<Option<PathBuf>>,
    servers: Pending<'scope>,
    report: Report,
}

impl Session<'_, '_> {
    fn run(&mut self, suites: &[Suite]) {
        for (at, suite) in suites.iter().enumerate() {
            println!("\n[{}/{}] {}", at + 1, suites.len(), full_name(suite));
            let start = Instant::now();
            let outcome = self.run_one(suite).unwrap_or_else(|error| {
                println!("  error: {error:#}");
                Outcome::check(false)
            });
            let time = start.elapsed();
            match &outcome {
                Outcome::Ran { passed, failed } => println!(
                    "  {}: {passed} passed, {failed} failed in {:.1} s",
                    full_name(suite),
                    time.as_secs_f64()
                ),
                Outcome::NotRun { .. } => println!("  {}: not run", full_name(suite)),
            }
            let broken = matches!(suite.kind, Kind::Build) && outcome != Outcome::check(true);
            let backend = self.label(suite.backend);
            self.report.rows.push(Row {
                suite: suite.name,
                backend,
                outcome,
                time,
            });
            if broken {
                println!(
                    "\nThe build is broken: {} suites are left out",
                    suites.len() - at - 1
                );
                return;
            }
        }
    }

    /// What the backend is called in the table, with its version where that is known.
    fn label(&mut self, backend: Backend) -> String {
        let (name, need) = match (backend, backend.needs()) {
            (Backend::Postgres | Backend::Postgres18, [need, ..]) => ("postgres", *need),
            (Backend::Mongodb | Backend::Redis, [need, ..]) => (backend.name(), *need),
            _ => return backend.name().to_owned(),
        };

        match self.servers().label(need) {
            Some(label) => format!("{name} {label}"),
            None => backend.name().to_owned(),
        }
    }

    fn servers(&mut self) -> &Servers {
        if let Pending::Coming(handle) = &mut self.servers {
            if handle.as_ref().is_some_and(|handle| !handle.is_finished()) {
                println!("  waiting for the servers");
            }
            let servers = handle
                .take()
                .and_then(|handle| handle.join().ok())
                .unwrap_or_default();
            self.servers = Pending::Here(Box::new(servers));
        }
        match &self.servers {
            Pending::Here(servers) => servers,
            Pending::Coming(_) => unreachable!("they have just arrived"),
        }
    }

    fn run_one(&mut self, suite: &Suite) -> Result<Outcome> {
        match suite.kind {
            Kind::Cargo(arguments, variables) => {
                let mut command = self.workspace.cargo(arguments);
                command.envs(variables.iter().copied());
                Ok(Outcome::check(pass_through(&mut command)?.ok))
            }
            Kind::CargoTests(arguments) => {
                let ran = pass_through(&mut self.workspace.cargo(arguments))?;
                Ok(counted(ran.ok, &ran.output))
            }
            Kind::Build => {
                // With the features of the tests, so that no later command builds anything anew.
                let arguments = ["build", "--workspace", "--all-targets"];
                Ok(Outcome::check(
                    pass_through(&mut self.workspace.cargo(&arguments))?.ok,
                ))
            }
            Kind::Tool(tool, arguments) => self.tool(tool, arguments),
            Kind::Check(check) => check(self.workspace),
            Kind::Selection => self.selection(),
            Kind::Tests(choice) => self.tests(suite, choice),
            Kind::Programs(programs) => self.programs(suite, programs),
        }
    }

    fn tool(&self, tool: &Tool, arguments: &[&str]) -> Result<Outcome> {
        let path = match tool.find(self.workspace, !self.options.servers.no_install) {
            Ok(path) => path,
            Err(error) => {
                return Ok(Outcome::NotRun {
                    tests: 1,
                    why: vec![format!("{error:#}")],
                    hint: vec![tool.hint()],
                });
            }
        };
        let mut command = self.workspace.command(&path);

        Ok(Outcome::check(pass_through(command.args(arguments))?.ok))
    }

    fn programs(&mut self, suite: &Suite, programs: &[&str]) -> Result<Outcome> {
        let needs = suite.backend.needs();
        let variables = if needs.is_empty() {
            Ok(Vec::new())
        } else {
            self.servers().environment(needs)
        };
        let variables = match variables {
            Ok(variables) => variables,
            Err(missing) => {
                return Ok(Outcome::NotRun {
                    tests: u64::try_from(programs.len())?,
                    why: missing.iter().map(|missing| missing.why.clone()).collect(),
                    hint: missing.into_iter().map(|missing| missing.hint).collect(),
                });
            }
        };
        let (mut passed, mut failed) = (0, 0);
        for program in programs {
            println!("  {program}");
            let mut words = program.split_whitespace();
            let name = words.next().unwrap_or_default();
            // In an empty folder, where a new user might be.
            let folder = tempfile::tempdir()?;
            let mut command = self.workspace.command(&self.workspace.built(name));
            command.args(words).envs(variables.iter().cloned());
            let ok = pass_through(command.current_dir(folder.path()))
                .map(|ran| ran.ok && !ran.output.trim().is_empty());
            match ok {
                Ok(true) => passed += 1,
                Ok(false) => {
                    println!("  {program} failed, or said nothing");
                    failed += 1;
                }
                Err(error) => {
                    println!("  {error:#}");
                    failed += 1;
                }
            }
        }

        Ok(Outcome::Ran { passed, failed })
    }

    fn tests(&mut self, suite: &Suite, choice: Choice) -> Result<Outcome> {
        let needs = suite.backend.needs();
        let duplicate = suite.backend == Backend::Postgres18
            && self
                .servers()
                .label(Need::Postgres)
                .is_some_and(|label| label == "18");
        if duplicate {
            println!(
                "  the PostgreSQL that was found is 18 already; running it again all the same"
            );
        }
        let variables = match self.servers().environment(needs) {
            Ok(variables) => variables,
            Err(missing) => {
                let tests = self.chosen(choice).map_or(1, |chosen| chosen.tests.len());
                return Ok(Outcome::NotRun {
                    tests: u64::try_from(tests)?,
                    why: missing.iter().map(|missing| missing.why.clone()).collect(),
                    hint: missing.into_iter().map(|missing| missing.hint).collect(),
                });
            }
        };
        let mut command = if let Some(nextest) = self.nextest() {
            let mut command = self.workspace.command(&nextest);
            let level = if self.options.verbose { "pass" } else { "slow" };
            command
                .args([
                    "nextest",
                    "run",
                    "--workspace",
                    "--no-fail-fast",
                    "--no-tests",
                    "pass",
                ])
                .args(["--status-level", level, "--filterset", &choice.filter()]);
            command
        } else {
            self.workspace.cargo(&choice.cargo_test())
        };
        let ran = pass_through(command.envs(variables))?;

        Ok(counted(ran.ok, &ran.output))
    }

    fn nextest(&mut self) -> Option<PathBuf> {
        self.nextest
            .get_or_insert_with(|| {
                NEXTEST
                    .find(self.workspace, !self.options.servers.no_install)
                    .inspect_err(|error| {
                        println!("  no cargo-nextest ({error:#}): plain `cargo test` instead");
                    })
                    .ok()
            })
            .clone()
    }

    /// That no test of the workspace is left out, and none runs twice.
    fn selection(&mut self) -> Result<Outcome> {
        if self.nextest().is_none() {
            return Ok(Outcome::NotRun {
                tests: 1,
                why: vec!["only cargo-nextest can list the tests".to_owned()],
                hint: vec![NEXTEST.hint()],
            });
        }
        let mut suites_of: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut empty = Vec::new();
        for suite in SUITES {
            let Kind::Tests(choice) = suite.kind else {
                continue;
            };
            // The same tests on another version.
            if suite.backend == Backend::Postgres18 {
                continue;
            }
            let chosen = self.chosen(choice)?;
            if chosen.tests.is_empty() {
                empty.push(full_name(suite));
            }
            self.report.ignored = chosen.ignored;
            for test in chosen.all {
                suites_of.entry(test).or_default();
            }
            for test in chosen.tests {
                suites_of.entry(test).or_default().push(full_name(suite));
            }
        }
        let mut ok = !suites_of.is_empty();
        for (test, suites) in &suites_of {
            if suites.len() != 1 {
                ok = false;
                let what = if suites.is_empty() {
                    "no suite runs it".to_owned()
                } else {
                    format!("more than one suite runs it: {}", suites.join(", "))
                };
                println!("  {test}: {what}");
            }
        }
        println!(
            "  {} tests, {} ignored",
            suites_of.len(),
            self.report.ignored
        );
        for name in &empty {
            println!("  {name} chooses no test");
        }

        Ok(Outcome::check(ok))
    }

    fn chosen(&mut self, choice: Choice) -> Result<Chosen> {
        let nextest = self
            .nextest()
            .context("only cargo-nextest can list the tests")?;
        let mut command = self.workspace.command(&nextest);
        command
            .args(["nextest", "list", "--workspace", "--message-format", "json"])
            .args(["--cargo-quiet", "--filterset", &choice.filter()]);

        Chosen::read(&serde_json::from_str(&quietly(&mut command)?)?)
    }
}

/// What cargo-nextest lists.
#[derive(Debug, Default)]
struct Chosen {
    all: BTreeSet<String>,
    /// Those that the filter takes.
    tests: BTreeSet<String>,
    ignored: u64,
}

impl Chosen {
    fn read(list: &Value) -> Result<Self> {
        let mut chosen = Self::default();
        let programs = list
            .get("rust-suites")
            .and_then(Value::as_object)
            .context("cargo-nextest lists no programs")?;
        for (program, content) in programs {
            let tests = content.get("testcases").and_then(Value::as_object);
            for (test, about) in tests.into_iter().flatten() {
                let name = format!("{program} {test}");
                if about.get("ignored").and_then(Value::as_bool) == Some(true) {
                    chosen.ignored += 1;
                }
                // An ignored test that the filter takes is a mismatch because it is ignored.
                let status = about
                    .pointer("/filter-match/status")
                    .and_then(Value::as_str);
                let reason = about
                    .pointer("/filter-match/reason")
                    .and_then(Value::as_str);
                if status == Some("matches") || reason == Some("ignored") {
                    chosen.tests.insert(name.clone());
                }
                chosen.all.insert(name);
            }
        }

        Ok(chosen)
    }
}

/// Counts as the test runner does; a suite that chose no test has failed.
fn counted(ok: bool, output: &str) -> Outcome {
    match summary(output) {
        Some((0, 0)) | None if ok => {
            println!("  selected no test");
            Outcome::check(false)
        }
        // It failed without a failing test, say because it does not compile.
        None | Some((_, 0)) if !ok => {
            let passed = summary(output).map_or(0, |(passed, _)| passed);
            Outcome::Ran { passed, failed: 1 }
        }
        Some((passed, failed)) => Outcome::Ran { passed, failed },
        None => Outcome::check(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_that_selects_nothing_has_failed() {
        let none = "Summary [ 0.0s] 0 tests run: 0 passed, 9 skipped";

        assert_eq!(counted(true, none), Outcome::check(false));
        assert_eq!(counted(true, ""), Outcome::check(false));
        assert_eq!(
            counted(false, "error: could not compile"),
            Outcome::check(false)
        );
        assert_eq!(
            counted(false, "Summary [ 0.0s] 2 tests run: 2 passed, 0 skipped"),
            Outcome::Ran {
                passed: 2,
                failed: 1
            }
        );
        assert_eq!(
            counted(true, "Summary [ 0.0s] 2 tests run: 2 passed, 0 skipped"),
            Outcome::Ran {
                passed: 2,
                failed: 0
            }
        );
    }

    #[test]
    fn suites_are_chosen_by_name_or_backend_with_the_build_they_need() {
        let names = |arguments: &[&str]| -> Vec<String> {
            let arguments: Vec<String> = arguments.iter().map(|&name| name.to_owned()).collect();
            choose(&arguments)
                .expect("they exist")
                .iter()
                .map(full_name)
                .collect()
        };

        assert_eq!(names(&["fmt"]), ["fmt"]);
        assert_eq!(
            names(&["conformance/redis"]),
            ["build", "conformance/redis"]
        );
        assert_eq!(names(&["http"]), ["build", "http/embedded", "http/servers"]);
        assert_eq!(names(&[]).len(), SUITES.len());
        assert!(choose(&["nonsense".to_owned()]).is_err());
    }
}
