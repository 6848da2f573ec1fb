//! `abunfi config`.

use std::process::ExitCode;

use abunfi::config::Loaded;

use crate::output;

pub(crate) fn run(loaded: &Loaded, json: bool) -> anyhow::Result<ExitCode> {
    let shown = loaded.shown();
    if json {
        output::json(&shown)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![["VARIABLE", "VALUE", "FROM"].map(str::to_owned).to_vec()];
    rows.extend(shown.into_iter().map(|row| {
        vec![
            row.variable.to_owned(),
            row.value.unwrap_or_else(|| "–".to_owned()),
            row.source.as_str().to_owned(),
        ]
    }));
    output::line(&output::columns(&rows))?;
    Ok(ExitCode::SUCCESS)
}
