//! The library's own layers: adapters depend on domains, never the other way round, and none of it
//! knows HTTP.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::report::Outcome;
use crate::run::{Workspace, quietly};

/// Where the stores may be named: they themselves, and where they are put together.
const MAY_IMPORT_STORES: &[&str] = &["stores", "database_service"];

/// Crates that the library must not depend on, directly or not.
const NO_HTTP: &[&str] = &[
    "axum",
    "axum-core",
    "tower",
    "tower-http",
    "hyper",
    "hyper-util",
];

/// What only the binary that the tests build may have.
const FAULT_INJECTION: &str = "fault-injection";

pub(crate) fn check(workspace: &Workspace) -> Result<Outcome> {
    let source = workspace.root.join("crates/abunfi/src");
    let mut files = Vec::new();
    rust_files(&source, &mut files)?;
    let mut faults = Vec::new();
    for path in &files {
        let inside = path.strip_prefix(&source)?;
        let allowed = inside.components().next().is_some_and(|first| {
            MAY_IMPORT_STORES
                .iter()
                .any(|may| first.as_os_str() == *may)
        });
        // A domain's tests may run it over an adapter.
        let is_test = inside.file_name().is_some_and(|name| name == "tests.rs");
        if !allowed && !is_test && names_stores(&fs::read_to_string(path)?) {
            faults.push(format!(
                "crates/abunfi/src/{} imports crate::stores; a domain declares a trait, and the \
                 adapter implements it",
                inside.display()
            ));
        }
    }
    if files.is_empty() {
        faults.push("crates/abunfi/src holds no Rust file, so nothing was checked".to_owned());
    }

    let tree = quietly(&mut workspace.cargo(&[
        "tree",
        "--package",
        "abunfi",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))
    .context("cannot list what the library depends on")?;
    for banned in NO_HTTP {
        if tree
            .lines()
            .any(|line| line.split(' ').next() == Some(banned))
        {
            faults.push(format!(
                "crates/abunfi depends on {banned}; `cargo tree -p abunfi -i {banned}` says how"
            ));
        }
    }
    faults.extend(fault_injection(workspace)?);
    for fault in &faults {
        println!("  {fault}");
    }

    Ok(Outcome::check(faults.is_empty()))
}

/// Whether what people build to use could kill itself: as the Dockerfile, and `cargo run` build it.
fn fault_injection(workspace: &Workspace) -> Result<Option<String>> {
    let features = quietly(&mut workspace.cargo(&[
        "tree",
        "--package",
        "abunfi-cli",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p} features={f}",
    ]))
    .context("cannot list the features of the binary")?;
    let dockerfile = fs::read_to_string(workspace.root.join("Dockerfile"))
        .context("cannot read the Dockerfile")?;
    let injected = features.contains(FAULT_INJECTION) || dockerfile.contains("--features");

    Ok(injected.then(|| format!("a plain build of the binary would have `{FAULT_INJECTION}`")))
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }

    Ok(())
}

/// Whether a file names `crate::stores`, or `super::stores`, plainly or in a group.
fn names_stores(text: &str) -> bool {
    let code: String = text
        .lines()
        .map(|line| line.split_once("//").map_or(line, |(code, _)| code))
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .collect();

    ["crate::", "super::"].iter().any(|root| {
        code.match_indices(root).any(|(at, _)| {
            let rest = code.get(at + root.len()..).unwrap_or_default();
            match rest.strip_prefix('{') {
                Some(group) => members(group).iter().any(|member| is_stores(member)),
                None => is_stores(rest),
            }
        })
    })
}

fn is_stores(path: &str) -> bool {
    path.strip_prefix("stores")
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// The outermost members of a group, from after its opening brace.
fn members(group: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let mut start = 0;
    let mut members = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                members.extend(group.get(start..at));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }

    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_name_the_stores_is_found() {
        for text in [
            "use crate::stores;",
            "use crate::stores::postgres::Users;",
            "let x = crate :: stores::sqlite::open();",
            "use crate::{money::Amount, stores::redis};",
            "use crate::{\n    ids::{Id, New},\n    stores,\n};",
            "use super::super::stores::memory;",
        ] {
            assert!(names_stores(text), "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_it_is_not() {
        for text in [
            "// use crate::stores;",
            "use crate::ledger::stores;",
            "use crate::stores_of_value::X;",
            "use crate::{users::{stores, X}};",
            "fn stores() {}",
        ] {
            assert!(!names_stores(text), "{text}");
        }
    }
}
