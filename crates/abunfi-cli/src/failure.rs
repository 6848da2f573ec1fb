//! What went wrong, as the user and the calling program see it.

use std::process::ExitCode;

use abunfi::OpenError;
use abunfi::config::Problems;
use serde_json::json;

/// What was asked failed.
const FAILED: u8 = 1;
/// It was asked wrongly, or the configuration is not valid.
const MISUSED: u8 = 2;

/// Asked in a way that cannot work; says what to do instead.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misuse(pub(crate) String);

/// Says the error on standard error and gives the exit code for it.
pub(crate) fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    let code = code_of(error);
    if json {
        let problems = error.downcast_ref::<Problems>();
        let body = json!({"error": format!("{error:#}"), "exit_code": code, "problems": problems});
        eprintln!("{body}");
    } else {
        eprintln!("abunfi: {error:#}");
    }
    ExitCode::from(code)
}

fn code_of(error: &anyhow::Error) -> u8 {
    let misused = error.is::<Problems>()
        || error.is::<Misuse>()
        || matches!(
            error.downcast_ref::<OpenError>(),
            Some(OpenError::Configuration { .. })
        );
    if misused { MISUSED } else { FAILED }
}
