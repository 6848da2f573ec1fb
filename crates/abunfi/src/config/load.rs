//! Reads a configuration out of its sources, and names everything that is wrong with them at once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use toml::{Table, Value};

use super::settings::{SETTINGS, Setting, is_policy_name};
use super::{Config, mask};
use crate::rate_limit::Policy;

/// What a configuration is made of; each overrides those before it.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    pub file: Option<FileText>,
    /// The variables of a `.env` file.
    pub dot_env: BTreeMap<String, String>,
    pub environment: BTreeMap<String, String>,
    /// By the setting's key.
    pub flags: BTreeMap<&'static str, String>,
}

/// A configuration file, read.
#[derive(Clone)]
pub struct FileText {
    pub path: PathBuf,
    pub text: String,
}

/// Without the text, which may hold secrets.
impl fmt::Debug for FileText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileText")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Default,
    File,
    DotEnv,
    Environment,
    Flag,
}

impl Source {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::DotEnv => ".env",
            Self::Environment => "environment",
            Self::Flag => "flag",
        }
    }

    /// What the setting is called there.
    fn name_of(self, setting: &Setting) -> String {
        match self {
            Self::Default | Self::Environment => setting.variable.to_owned(),
            Self::DotEnv => format!("{} in .env", setting.variable),
            Self::File => setting.key.to_owned(),
            Self::Flag => setting.flag(),
        }
    }
}

/// A configuration, and where each of its values comes from.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    sources: BTreeMap<&'static str, Source>,
}

/// A setting as `abunfi config` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    pub key: &'static str,
    pub variable: &'static str,
    /// Masked where it is secret; `None` when it is unset.
    pub value: Option<String>,
    pub source: Source,
}

impl Loaded {
    /// Where the value of the setting of this key comes from.
    #[must_use]
    pub fn source(&self, key: &str) -> Source {
        self.sources.get(key).copied().unwrap_or(Source::Default)
    }

    /// All settings in order, with secrets masked.
    #[must_use]
    pub fn shown(&self) -> Vec<Shown> {
        let show = |setting: &'static Setting| Shown {
            key: setting.key,
            variable: setting.variable,
            value: Some(setting.show(&self.config)).filter(|text| !text.is_empty()),
            source: self.source(setting.key),
        };
        SETTINGS.iter().map(show).collect()
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The variable, the flag, or the key in the file.
    pub name: String,
    /// What was given, secrets masked.
    pub given: Option<String>,
    /// What is allowed, or what to do.
    pub allowed: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.given {
            Some(given) => write!(
                f,
                "{}: {given:?} is not allowed: {}",
                self.name, self.allowed
            ),
            None => write!(f, "{}: {}", self.name, self.allowed),
        }
    }
}

/// All that is wrong with a configuration. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Just this one.
    #[must_use]
    pub fn one(name: impl Into<String>, given: Option<String>, allowed: impl Into<String>) -> Self {
        let mut problems = Self::default();
        problems.add(name, given, allowed);
        problems
    }

    pub(super) fn add(
        &mut self,
        name: impl Into<String>,
        given: Option<String>,
        allowed: impl Into<String>,
    ) {
        self.0.push(Problem {
            name: name.into(),
            given,
            allowed: allowed.into(),
        });
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is not valid")?;
        self.0
            .iter()
            .try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// The configuration out of `sources`: defaults ← file ← `.env` ← environment ← flags. A variable
    /// that is set to nothing counts as not set. Touches neither the process's environment nor any file.
    ///
    /// # Errors
    /// All that is wrong, at once, by the name under which it was given.
    pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
        let mut loading = Loading::default();
        if let Some(file) = &sources.file {
            loading.take_file(file);
        }
        loading.take_variables(&sources.dot_env, Source::DotEnv);
        loading.take_variables(&sources.environment, Source::Environment);
        for setting in SETTINGS {
            if let Some(given) = sources.flags.get(setting.key) {
                loading.take(setting, given, Source::Flag);
            }
        }
        loading.check_together();
        if loading.problems.0.is_empty() {
            Ok(Loaded {
                config: loading.config,
                sources: loading.sources,
            })
        } else {
            Err(loading.problems)
        }
    }
}

/// A configuration on its way.
#[derive(Debug, Default)]
struct Loading {
    config: Config,
    sources: BTreeMap<&'static str, Source>,
    problems: Problems,
}

impl Loading {
    fn take(&mut self, setting: &'static Setting, given: &str, source: Source) {
        if setting.read(&mut self.config, given) {
            self.sources.insert(setting.key, source);
        } else {
            self.problems.add(
                source.name_of(setting),
                Some(setting.mask(given)),
                format!("must be {}", setting.allowed()),
            );
        }
    }

    fn take_variables(&mut self, variables: &BTreeMap<String, String>, source: Source) {
        for setting in SETTINGS {
            if let Some(given) = variables.get(setting.variable).filter(|v| !v.is_empty()) {
                self.take(setting, given, source);
            }
        }
    }

    fn take_file(&mut self, file: &FileText) {
        let path = file.path.display().to_string();
        match file.text.parse::<Table>() {
            Ok(table) => self.take_table(table, ""),
            // The error's own text quotes the line, which may hold a secret.
            Err(error) => {
                let line = error.span().map_or(0, |span| {
                    let before = file.text.get(..span.start).unwrap_or_default();
                    before.matches('\n').count() + 1
                });
                self.problems.add(
                    path,
                    None,
                    format!("line {line} is not TOML: {}", error.message()),
                );
            }
        }
    }

    fn take_table(&mut self, table: Table, section: &str) {
        for (name, value) in table {
            let key = format!("{section}{name}");
            match (Setting::by_key(&key), value) {
                (Some(setting), Value::Table(policies)) if setting.is_policies() => {
                    self.take_policies(setting, policies);
                }
                (Some(setting), value) => match text_of(&value) {
                    Some(given) => self.take(setting, &given, Source::File),
                    None => self
                        .problems
                        .add(key, None, format!("must be {}", setting.allowed())),
                },
                (None, Value::Table(inner)) if section.is_empty() && is_section(&name) => {
                    self.take_table(inner, &format!("{name}."));
                }
                (None, _) => self.problems.add(&key, None, unknown(&key)),
            }
        }
    }

    fn take_policies(&mut self, setting: &'static Setting, policies: Table) {
        for (name, value) in policies {
            let at = format!("{}.{name}", setting.key);
            if !is_policy_name(&name) {
                self.problems
                    .add(at, None, "the name must be 1 to 100 of `A-Za-z0-9._:-`");
                continue;
            }
            match value.try_into::<Policy>() {
                Err(error) => self.problems.add(at, None, error.message().trim()),
                Ok(policy) => match policy.gcra() {
                    Err(error) => self.problems.add(at, None, error.to_string()),
                    Ok(_) => {
                        self.config.rate_limits.insert(name, policy);
                        self.sources.insert(setting.key, Source::File);
                    }
                },
            }
        }
    }

    /// What no setting can know alone.
    fn check_together(&mut self) {
        if let Some(name) = self.config.own_rate_limit.clone()
            && !self.config.rate_limits.contains_key(&name)
        {
            let known: Vec<_> = self.config.rate_limits.keys().map(String::as_str).collect();
            let allowed = format!("must be one of: {}", known.join(", "));
            self.refuse("own_rate_limit", name, allowed);
        }
        let sessions = &self.config.sessions;
        if sessions.idle_ttl_seconds > sessions.max_ttl_seconds {
            let allowed = format!(
                "must not be above the longest life of a session, {}",
                sessions.max_ttl_seconds
            );
            self.refuse(
                "sessions.idle_ttl_seconds",
                sessions.idle_ttl_seconds.to_string(),
                allowed,
            );
        }
        if self.config.postgres.direct_url.is_some() && !self.config.uses_postgres() {
            let given = self.config.postgres.direct_url.as_ref();
            let given = given.map_or_else(String::new, |url| mask::url(url.expose()));
            self.refuse(
                "postgres.direct_url",
                given,
                "needs DATABASE_URL to be `postgresql://…`".to_owned(),
            );
        }
    }

    fn refuse(&mut self, key: &str, given: String, allowed: String) {
        let Some(setting) = Setting::by_key(key) else {
            return;
        };
        let source = self.sources.get(key).copied().unwrap_or(Source::Default);
        self.problems
            .add(source.name_of(setting), Some(given), allowed);
    }
}

/// A TOML value as the text that a variable would have. `None` for what no setting is.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(switch) => Some(switch.to_string()),
        Value::Array(parts) => {
            let parts: Option<Vec<_>> = parts.iter().map(|part| part.as_str()).collect();
            Some(parts?.join(","))
        }
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => None,
    }
}

fn is_section(name: &str) -> bool {
    SETTINGS.iter().any(|setting| {
        setting
            .key
            .split_once('.')
            .is_some_and(|(section, _)| section == name)
    })
}

fn unknown(key: &str) -> String {
    let closest = SETTINGS
        .iter()
        .map(|setting| (distance(key, setting.key), setting.key))
        .min();
    match closest {
        Some((steps, name)) if steps <= 1 + key.len() / 4 => {
            format!("there is no such setting; did you mean `{name}`?")
        }
        _ => "there is no such setting".to_owned(),
    }
}

/// Levenshtein's distance: how many characters must be put in, left out or changed.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (above, from_char) in from.chars().enumerate() {
        let mut diagonal = above;
        let mut left = above + 1;
        for (cell, to_char) in row.iter_mut().skip(1).zip(to.chars()) {
            let changed = diagonal + usize::from(from_char != to_char);
            diagonal = *cell;
            left = changed.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = above + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
