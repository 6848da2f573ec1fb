//! `abunfi stats`.

use std::process::ExitCode;

use abunfi::config::Loaded;
use serde_json::Value;

use crate::{output, setup};

pub(crate) async fn run(loaded: Loaded, json: bool) -> anyhow::Result<ExitCode> {
    let platform = setup::open_for_command(loaded).await?;
    let statistics = serde_json::to_value(platform.get_stats().await);
    platform.close().await;
    let statistics = statistics?;
    if json {
        output::json(&statistics)?;
    } else {
        let mut rows = Vec::new();
        flatten(&statistics, "", &mut rows);
        output::line(&output::columns(&rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One row for each figure, by its path.
fn flatten(value: &Value, path: &str, rows: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                flatten(value, &path, rows);
            }
        }
        Value::String(text) => rows.push(vec![path.to_owned(), text.clone()]),
        other => rows.push(vec![path.to_owned(), other.to_string()]),
    }
}
