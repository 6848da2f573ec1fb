//! `abunfi openapi`.

use std::process::ExitCode;

use crate::output;

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    output::json(&abunfi_server::openapi())?;
    Ok(ExitCode::SUCCESS)
}
