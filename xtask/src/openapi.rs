//! The published description of the HTTP API, which must not drift from the code.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::report::Outcome;
use crate::run::{Workspace, pass_through, quietly};

const COMMITTED: &str = "docs/openapi.json";

/// What the built binary says, which must be the description of an API with at least one path.
fn generate(workspace: &Workspace) -> Result<String> {
    let mut command = workspace.command(&workspace.built("abunfi"));
    let text = quietly(command.arg("openapi"))?;
    let value: Value = serde_json::from_str(&text).context("`abunfi openapi` prints no JSON")?;
    if value
        .get("paths")
        .and_then(Value::as_object)
        .is_none_or(|paths| paths.is_empty())
    {
        bail!("`abunfi openapi` describes no path");
    }

    Ok(format!("{}\n", text.trim_end()))
}

pub(crate) fn check(workspace: &Workspace) -> Result<Outcome> {
    let generated = generate(workspace)?;
    let committed = fs::read_to_string(workspace.root.join(COMMITTED)).unwrap_or_default();
    if generated == committed {
        return Ok(Outcome::check(true));
    }
    let line = generated
        .lines()
        .zip(committed.lines())
        .take_while(|(a, b)| a == b)
        .count();
    println!(
        "  {COMMITTED} differs from the code from line {} on",
        line + 1
    );
    println!(
        "    committed: {}",
        committed.lines().nth(line).unwrap_or("(ends here)")
    );
    println!(
        "    code:      {}",
        generated.lines().nth(line).unwrap_or("(ends here)")
    );
    println!("  `cargo xtask openapi` writes it anew");

    Ok(Outcome::check(false))
}

pub(crate) fn write(workspace: &Workspace) -> Result<ExitCode> {
    let built = pass_through(&mut workspace.cargo(&["build", "--workspace", "--bin", "abunfi"]))?;
    if !built.ok {
        bail!("the build failed");
    }
    fs::write(workspace.root.join(COMMITTED), generate(workspace)?)
        .with_context(|| format!("cannot write {COMMITTED}"))?;
    println!("{COMMITTED} is written");

    Ok(ExitCode::SUCCESS)
}
