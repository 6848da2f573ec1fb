//! The table of suites. To add one, add a line to [`SUITES`].
//!
//! Tests are chosen by the segments of their names: a test below a module `postgres::` needs
//! `PostgreSQL`, and so on; `docs/testing.md` tells the whole convention. The suite `selection`
//! checks that every test of the workspace is chosen by exactly one suite.

use crate::layering;
use crate::openapi;
use crate::provide::Need;
use crate::report::Outcome;
use crate::run::Workspace;
use crate::tools::{DENY, TYPOS, Tool};

/// What a suite runs against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Nothing: a check of the sources.
    None,
    /// No server.
    Embedded,
    Postgres,
    /// The same tests on the newest version.
    Postgres18,
    Mongodb,
    Redis,
    /// All three.
    Servers,
}

impl Backend {
    pub(crate) fn needs(self) -> &'static [Need] {
        match self {
            Self::None | Self::Embedded => &[],
            Self::Postgres => &[Need::Postgres],
            Self::Postgres18 => &[Need::Postgres18],
            Self::Mongodb => &[Need::Mongodb],
            Self::Redis => &[Need::Redis],
            Self::Servers => &[Need::Postgres, Need::Mongodb, Need::Redis, Need::Programs],
        }
    }

    /// What it is called on the command line and, before a version is known, in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Embedded => "embedded",
            Self::Postgres => "postgres",
            Self::Postgres18 => "postgres18",
            Self::Mongodb => "mongodb",
            Self::Redis => "redis",
            Self::Servers => "servers",
        }
    }
}

/// What running a suite means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A cargo command with arguments and environment.
    Cargo(
        &'static [&'static str],
        &'static [(&'static str, &'static str)],
    ),
    /// As `Cargo`, where the number of tests is read from its output.
    CargoTests(&'static [&'static str]),
    /// The build of everything; when it fails, nothing after it can run.
    Build,
    /// A tool of another origin with its arguments.
    Tool(&'static Tool, &'static [&'static str]),
    /// A check of this program.
    Check(fn(&Workspace) -> anyhow::Result<Outcome>),
    /// That every test is chosen by exactly one suite.
    Selection,
    /// The tests that are chosen.
    Tests(Choice),
    /// Programs that `cargo build` has made, with their arguments, each of which must end well and say
    /// something.
    Programs(&'static [&'static str]),
}

/// Which tests a suite runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    /// Of these packages; of all when empty.
    pub(crate) packages: &'static [&'static str],
    pub(crate) place: Place,
    pub(crate) class: Class,
}

/// Where tests stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Beside the code.
    Unit,
    /// In `tests/`.
    Integration,
    Both,
}

/// What the names of tests say. The first that applies counts, from the bottom up, so that
/// `outage::redis::x` is an outage test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// None of the others.
    Embedded,
    Postgres,
    Mongodb,
    Redis,
    Servers,
    Outage,
    Tour,
}

impl Class {
    const fn segment(self) -> Option<&'static str> {
        match self {
            Self::Embedded => None,
            Self::Postgres => Some("postgres"),
            Self::Mongodb => Some("mongodb"),
            Self::Redis => Some("redis"),
            Self::Servers => Some("servers"),
            Self::Outage => Some("outage"),
            Self::Tour => Some("tour"),
        }
    }

    /// The classes whose tests are not of this one although their names may have its segment.
    const fn excludes(self) -> &'static [Self] {
        match self {
            Self::Embedded => &[
                Self::Postgres,
                Self::Mongodb,
                Self::Redis,
                Self::Servers,
                Self::Outage,
                Self::Tour,
            ],
            Self::Postgres | Self::Mongodb | Self::Redis => {
                &[Self::Servers, Self::Outage, Self::Tour]
            }
            Self::Servers => &[Self::Outage, Self::Tour],
            Self::Outage => &[Self::Tour],
            Self::Tour => &[],
        }
    }

    /// Beside the code, `stores::postgres::…` is where an adapter lives and not what a test needs:
    /// there only these two segments count.
    const UNIT_EXCLUDES: &'static [Self] = &[Self::Servers, Self::Outage];
}

impl Choice {
    fn excludes(self) -> &'static [Class] {
        if self.place == Place::Unit && self.class == Class::Embedded {
            Class::UNIT_EXCLUDES
        } else {
            self.class.excludes()
        }
    }

    /// As a filterset of cargo-nextest.
    pub(crate) fn filter(self) -> String {
        let test = |class: Class| {
            class
                .segment()
                .map(|segment| format!("test(/(^|::){segment}::/)"))
        };
        let mut all = Vec::new();
        if !self.packages.is_empty() {
            let packages: Vec<String> = self
                .packages
                .iter()
                .map(|package| format!("package(={package})"))
                .collect();
            all.push(format!("({})", packages.join(" | ")));
        }
        match self.place {
            Place::Unit => all.push("(kind(lib) | kind(bin) | kind(example))".to_owned()),
            Place::Integration => all.push("kind(test)".to_owned()),
            Place::Both => {}
        }
        all.extend(test(self.class));
        all.extend(
            self.excludes()
                .iter()
                .filter_map(|class| test(*class))
                .map(|test| format!("not {test}")),
        );

        all.join(" & ")
    }

    /// As arguments of plain `cargo test`, which knows no more than parts of names.
    pub(crate) fn cargo_test(self) -> Vec<String> {
        let mut arguments = vec!["test".to_owned(), "--no-fail-fast".to_owned()];
        if self.packages.is_empty() {
            arguments.push("--workspace".to_owned());
        }
        for package in self.packages {
            arguments.extend(["--package".to_owned(), (*package).to_owned()]);
        }
        match self.place {
            Place::Unit => arguments.extend(["--lib", "--bins", "--examples"].map(str::to_owned)),
            Place::Integration => arguments.extend(["--test", "*"].map(str::to_owned)),
            Place::Both => arguments.extend(["--lib", "--bins", "--tests"].map(str::to_owned)),
        }
        arguments.push("--".to_owned());
        arguments.extend(self.class.segment().map(|segment| format!("{segment}::")));
        for class in self.excludes() {
            if let Some(segment) = class.segment() {
                arguments.extend(["--skip".to_owned(), format!("{segment}::")]);
            }
        }

        arguments
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) backend: Backend,
    pub(crate) kind: Kind,
}

const fn suite(name: &'static str, backend: Backend, kind: Kind) -> Suite {
    Suite {
        name,
        backend,
        kind,
    }
}

const fn tests(packages: &'static [&'static str], place: Place, class: Class) -> Kind {
    Kind::Tests(Choice {
        packages,
        place,
        class,
    })
}

/// In the order in which they run: what fails fast first.
pub(crate) const SUITES: &[Suite] = &[
    suite(
        "fmt",
        Backend::None,
        Kind::Cargo(&["fmt", "--all", "--check"], &[]),
    ),
    suite(
        "typos",
        Backend::None,
        Kind::Tool(&TYPOS, &["--format", "brief"]),
    ),
    suite("layering", Backend::None, Kind::Check(layering::check)),
    suite(
        "deny",
        Backend::None,
        Kind::Tool(&DENY, &["check", "bans", "licenses", "sources"]),
    ),
    suite(
        "clippy",
        Backend::None,
        Kind::Cargo(
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
            &[],
        ),
    ),
    suite("build", Backend::None, Kind::Build),
    // As people build it, without the features that the tests bring.
    suite(
        "plain",
        Backend::None,
        Kind::Cargo(&["check", "--package", "abunfi-cli"], &[]),
    ),
    suite("selection", Backend::None, Kind::Selection),
    suite(
        "unit",
        Backend::Embedded,
        tests(&[], Place::Unit, Class::Embedded),
    ),
    suite(
        "testkit",
        Backend::Servers,
        tests(&["abunfi-testkit"], Place::Both, Class::Servers),
    ),
    suite(
        "conformance",
        Backend::Embedded,
        tests(&["abunfi"], Place::Integration, Class::Embedded),
    ),
    suite(
        "conformance",
        Backend::Postgres,
        tests(&["abunfi"], Place::Integration, Class::Postgres),
    ),
    suite(
        "conformance",
        Backend::Postgres18,
        tests(&["abunfi"], Place::Integration, Class::Postgres),
    ),
    suite(
        "conformance",
        Backend::Mongodb,
        tests(&["abunfi"], Place::Integration, Class::Mongodb),
    ),
    suite(
        "conformance",
        Backend::Redis,
        tests(&["abunfi"], Place::Integration, Class::Redis),
    ),
    suite(
        "http",
        Backend::Embedded,
        tests(&["abunfi-server"], Place::Integration, Class::Embedded),
    ),
    // Whatever needs all three, of whichever package.
    suite(
        "http",
        Backend::Servers,
        tests(
            &["abunfi", "abunfi-server", "abunfi-cli"],
            Place::Both,
            Class::Servers,
        ),
    ),
    suite(
        "cli",
        Backend::Embedded,
        tests(&["abunfi-cli"], Place::Integration, Class::Embedded),
    ),
    suite(
        "tour",
        Backend::Embedded,
        tests(&["abunfi-cli"], Place::Integration, Class::Tour),
    ),
    suite(
        "outage",
        Backend::Servers,
        tests(&[], Place::Both, Class::Outage),
    ),
    suite(
        "examples",
        Backend::Embedded,
        Kind::Programs(&[
            "examples/create_user_hybrid",
            "examples/dashboard_cached",
            "examples/financial_transaction",
        ]),
    ),
    // Whether what the benchmarks compare is written right; how fast it is, `cargo xtask bench` tells.
    suite(
        "bench",
        Backend::Servers,
        Kind::Programs(&[
            "abunfi-bench ledger --smoke",
            "abunfi-bench profile --smoke",
        ]),
    ),
    suite("openapi", Backend::None, Kind::Check(openapi::check)),
    suite(
        "doctest",
        Backend::Embedded,
        Kind::CargoTests(&["test", "--workspace", "--doc"]),
    ),
    suite(
        "doc",
        Backend::None,
        Kind::Cargo(
            &["doc", "--workspace", "--no-deps", "--lib"],
            &[("RUSTDOCFLAGS", "-D warnings")],
        ),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(place: Place, class: Class) -> Choice {
        Choice {
            packages: &["abunfi"],
            place,
            class,
        }
    }

    #[test]
    fn a_filter_takes_the_segment_and_leaves_what_is_stronger() {
        assert_eq!(
            choice(Place::Integration, Class::Servers).filter(),
            "(package(=abunfi)) & kind(test) & test(/(^|::)servers::/) \
             & not test(/(^|::)outage::/) & not test(/(^|::)tour::/)"
        );
    }

    #[test]
    fn beside_the_code_an_adapter_s_folder_is_no_need() {
        let filter = choice(Place::Unit, Class::Embedded).filter();

        assert!(!filter.contains("postgres"), "{filter}");
        assert!(filter.contains("not test(/(^|::)servers::/)"), "{filter}");
    }

    #[test]
    fn names_with_their_backends_are_unique() {
        for (at, suite) in SUITES.iter().enumerate() {
            let twins = SUITES
                .iter()
                .filter(|other| other.name == suite.name && other.backend == suite.backend);
            assert_eq!(
                twins.count(),
                1,
                "{} {} (line {at})",
                suite.name,
                suite.backend.name()
            );
        }
    }
}
