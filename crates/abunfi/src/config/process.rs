//! Gathers the sources of a configuration from the process: its environment, `.env`, the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::load::{FileText, Problems, Sources};

/// Names the TOML file, where no flag does.
pub const FILE_VARIABLE: &str = "ABUNFI_CONFIG";
/// With the value `production`, no `.env` is read.
pub const ENVIRONMENT_VARIABLE: &str = "ABUNFI_ENV";

impl Sources {
    /// The process's environment, the `.env` of the working directory (unless `ABUNFI_ENV` is
    /// `production`), and the TOML file that `file` or `ABUNFI_CONFIG` names.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn from_process(
        file: Option<PathBuf>,
        flags: BTreeMap<&'static str, String>,
    ) -> Result<Self, Problems> {
        let mut environment = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            // Names of others' variables need not be readable; values of ours must be.
            if let (Ok(name), value) = (name.into_string(), value) {
                environment.insert(name, value.to_string_lossy().into_owned());
            }
        }
        let is_production = environment
            .get(ENVIRONMENT_VARIABLE)
            .is_some_and(|value| value == "production");
        let dot_env = if is_production {
            BTreeMap::new()
        } else {
            read_dot_env(Path::new(".env"))?
        };
        let of_variables = |name: &str| {
            let set =
                |from: &BTreeMap<String, String>| from.get(name).filter(|v| !v.is_empty()).cloned();
            set(&environment).or_else(|| set(&dot_env))
        };
        let file = match (file, of_variables(FILE_VARIABLE)) {
            (Some(path), _) => Some(read_file("--config", path)?),
            (None, Some(path)) => Some(read_file(FILE_VARIABLE, PathBuf::from(path))?),
            (None, None) => None,
        };
        Ok(Self {
            file,
            dot_env,
            environment,
            flags,
        })
    }
}

fn read_file(name: &str, path: PathBuf) -> Result<FileText, Problems> {
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(FileText { path, text }),
        Err(error) => Err(Problems::one(
            name,
            Some(path.display().to_string()),
            format!("must be a TOML file that can be read: {error}"),
        )),
    }
}

fn read_dot_env(path: &Path) -> Result<BTreeMap<String, String>, Problems> {
    let wrong = |error: dotenvy::Error| {
        // The error's own text quotes the line, which may hold a secret.
        let reason = match error {
            dotenvy::Error::Io(error) => format!("cannot be read: {error}"),
            _ => {
                "every line must be `NAME=VALUE`, a comment or empty; quote values that hold blanks"
                    .to_owned()
            }
        };
        Problems::one(".env", None, reason)
    };
    match dotenvy::from_path_iter(path) {
        Ok(lines) => lines.collect::<Result<_, _>>().map_err(wrong),
        Err(dotenvy::Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(BTreeMap::new())
        }
        Err(error) => Err(wrong(error)),
    }
}
