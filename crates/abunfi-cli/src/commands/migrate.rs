//! `abunfi migrate`.

use std::process::ExitCode;

use abunfi::DatabaseService;
use abunfi::config::Loaded;
use serde_json::json;

use crate::{logging, output};

pub(crate) async fn run(loaded: Loaded, json: bool) -> anyhow::Result<ExitCode> {
    logging::start(loaded.config.log_level, loaded.config.log_format);
    let (from, to) = DatabaseService::migrate(&loaded.config).await?;
    if json {
        output::json(&json!({"from": from, "to": to}))?;
    } else if from == to {
        output::line(&format!("The schema is at version {to} already."))?;
    } else {
        output::line(&format!("The schema went from version {from} to {to}."))?;
    }
    Ok(ExitCode::SUCCESS)
}
