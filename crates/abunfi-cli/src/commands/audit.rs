//! `abunfi audit`.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use abunfi::DatabaseService;
use abunfi::audit::check::{self, Demands, Report};
use abunfi::audit::checkpoint::{PublicKey, Signer};
use abunfi::audit::{Checkpointed, Error, Progress};
use abunfi::config::Loaded;
use abunfi::context::Context;
use abunfi::ids::{UserId, random_bytes};
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use crate::args::Audit;
use crate::failure::Misuse;
use crate::{anchor, output, setup};

/// What needs neither a configuration nor a store; `None`: the rest.
pub(crate) fn run_offline(command: &Audit, json: bool) -> Option<anyhow::Result<ExitCode>> {
    match command {
        Audit::Keygen => Some(keygen(json)),
        Audit::Check {
            file,
            public_keys,
            anchor,
        } => Some(check(file, public_keys, anchor.as_deref(), json)),
        _ => None,
    }
}

pub(crate) async fn run(loaded: Loaded, command: &Audit, json: bool) -> anyhow::Result<ExitCode> {
    // Asked wrongly is said before anything is opened.
    let subject = match command {
        Audit::Prove { user, .. } => Subject::Proved(user_id(user)?),
        Audit::Erase { user, by } => Subject::Erased(user_id(user)?, by.context()?),
        _ => Subject::Nobody,
    };
    let platform = match command {
        Audit::Checkpoint | Audit::Erase { .. } => setup::open_for_command(loaded).await?,
        _ => setup::open_to_read(loaded).await?,
    };
    let done = Box::pin(run_on(&platform, command, subject, json)).await;
    platform.close().await;
    done?;
    Ok(ExitCode::SUCCESS)
}

/// Whom a command is about, checked.
enum Subject {
    Nobody,
    Proved(UserId),
    /// In this operator's name.
    Erased(UserId, Context),
}

async fn run_on(
    platform: &DatabaseService,
    command: &Audit,
    subject: Subject,
    json: bool,
) -> anyhow::Result<()> {
    let audit = platform.audit();
    match (command, subject) {
        (Audit::Checkpoint, _) => checkpoint(platform, json).await,
        (Audit::Anchor { out }, _) => document(out.as_deref(), &audit.anchor().await?, json),
        (Audit::Export { out, since }, _) => export(platform, out.as_deref(), *since, json).await,
        (Audit::Prove { out, .. }, Subject::Proved(user)) => {
            document(out.as_deref(), &audit.prove(user).await?, json)
        }
        (Audit::Erase { .. }, Subject::Erased(user, ctx)) => {
            let erased = audit.erase(&ctx, user).await?;
            if json {
                output::json(&json!({"user_id": user, "erased": erased}))
            } else if erased == 0 {
                Ok(output::line("There was nothing left to erase.")?)
            } else {
                Ok(output::line(&format!(
                    "Erased {erased} values from the trail of {user}."
                ))?)
            }
        }
        _ => Ok(()),
    }
}

fn user_id(text: &str) -> Result<UserId, Misuse> {
    text.parse()
        .map_err(|_malformed| Misuse(format!("{text:?} is no user's id")))
}

fn keygen(json: bool) -> anyhow::Result<ExitCode> {
    let seed: [u8; 32] = random_bytes();
    let key = hex::encode(seed);
    let public_key = hex::encode(Signer::of_seed(&seed).public_key());
    if json {
        output::json(&json!({"signing_key": key, "public_key": public_key}))?;
    } else {
        // The key alone on its line, so that it can be piped on.
        eprintln!("Public key {public_key}. The signing key is shown this once:");
        output::line(&key)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn checkpoint(platform: &DatabaseService, json: bool) -> anyhow::Result<()> {
    let done = platform.audit().checkpoint().await?;
    if let Checkpointed::NeedsKey { newest } = done {
        return Err(Misuse(format!(
            "no checkpoint was made: the newest one, {newest}, is signed, and there is no key here to sign the \
             next with; set AUDIT_SIGNING_KEY or AUDIT_SIGNING_KEY_FILE, as where the service runs"
        ))
        .into());
    }
    let is_busy = done == Checkpointed::Busy;
    let made = done.made();
    let newest = match &made {
        Some(made) => Some(made.clone()),
        None => platform.audit().newest_checkpoint().await?,
    };
    if json {
        let shown = newest.as_ref().map(|newest| {
            json!({"number": newest.number, "hash": hex::encode(newest.hash), "at": newest.at,
                   "chains": newest.size, "covered_rows": newest.covered_rows,
                   "public_key": newest.seal.map(|seal| hex::encode(seal.public_key))})
        });
        return output::json(
            &json!({"made": made.is_some(), "busy": is_busy, "checkpoint": shown}),
        );
    }
    let text = match (made, newest) {
        (Some(made), _) => format!(
            "Made checkpoint {} over {} rows in {} chains{}: {}",
            made.number,
            made.covered_rows,
            made.size,
            if made.seal.is_some() {
                ""
            } else {
                ", not signed"
            },
            hex::encode(made.hash)
        ),
        (None, Some(newest)) if is_busy => format!(
            "Another instance is making a checkpoint now; the newest is still {}.",
            newest.number
        ),
        (None, None) if is_busy => {
            "Another instance is making the first checkpoint now.".to_owned()
        }
        (None, Some(newest)) => format!("Nothing is new since checkpoint {}.", newest.number),
        (None, None) => "There is nothing yet to make a checkpoint of.".to_owned(),
    };
    Ok(output::line(&text)?)
}

/// Writes a JSON document to `out`, whole or not at all, or to standard output.
fn document(out: Option<&Path>, document: &impl Serialize, json: bool) -> anyhow::Result<()> {
    let Some(path) = out else {
        return output::json(document);
    };
    let mut draft = Draft::new(path)?;
    serde_json::to_writer_pretty(&mut draft.file, document)?;
    writeln!(draft.file)?;
    draft.keep()?;
    said_where(path, json, &json!({}))
}

fn said_where(path: &Path, json: bool, also: &serde_json::Value) -> anyhow::Result<()> {
    if json {
        let mut shown = also.clone();
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("file".to_owned(), json!(path));
        }
        output::json(&shown)
    } else {
        Ok(output::line(&format!("Written to {}.", path.display()))?)
    }
}

/// A file that takes its name when it is whole.
struct Draft {
    file: BufWriter<tempfile::NamedTempFile>,
    path: PathBuf,
}

impl Draft {
    fn new(path: &Path) -> anyhow::Result<Self> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let file = tempfile::NamedTempFile::new_in(folder)
            .with_context(|| format!("cannot write to {}", folder.display()))?;
        Ok(Self {
            file: BufWriter::new(file),
            path: path.to_owned(),
        })
    }

    fn keep(self) -> anyhow::Result<()> {
        let file = self
            .file
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        file.persist(&self.path)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(())
    }
}

async fn export(
    platform: &DatabaseService,
    out: Option<&Path>,
    since: i64,
    json: bool,
) -> anyhow::Result<()> {
    let audit = platform.audit();
    let explain = |error: Error| match error {
        Error::NoSuchCheckpoint(_) => anyhow::Error::from(Misuse(error.to_string())),
        other => other.into(),
    };
    let Some(path) = out else {
        let mut stdout = BufWriter::new(std::io::stdout());
        return match audit.export(since, &mut stdout, &()).await {
            // A reader who has enough (`| head`).
            Err(Error::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                // What is still held back cannot be written either.
                let _gone = stdout.into_parts();
                Ok(())
            }
            done => done.map(drop).map_err(explain),
        };
    };
    let mut draft = Draft::new(path)?;
    let bar = Bar::new(json);
    let written = audit.export(since, &mut draft.file, &bar).await;
    bar.0.finish_and_clear();
    let written = written.map_err(explain)?;
    draft.keep()?;
    said_where(
        path,
        json,
        &json!({"lines": written.lines, "rows": written.rows}),
    )
}

/// How far it is, on a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new(json: bool) -> Self {
        let is_shown = !json && std::io::stderr().is_terminal();
        let target = if is_shown {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let style =
            ProgressStyle::with_template("{spinner} {human_pos} rows, {per_sec}, {elapsed}");
        Self(match style {
            Ok(style) => bar.with_style(style),
            Err(_template) => bar,
        })
    }
}

impl Progress for Bar {
    fn rows(&self, done: u64) {
        self.0.set_position(done);
    }
}

fn check(
    file: &Path,
    public_keys: &[String],
    anchor: Option<&Path>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let demands = Demands {
        public_keys: public_keys
            .iter()
            .map(|text| public_key(text))
            .collect::<Result<_, _>>()?,
        anchor: anchor.map(anchor::read).transpose()?,
    };
    let mut reader: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        let opened = File::open(file).map_err(|error| unreadable(file, &error));
        Box::new(BufReader::with_capacity(1 << 20, opened?))
    };
    let bar = Bar::new(json);
    let report = check::check(reader.as_mut(), &demands, &bar);
    bar.0.finish_and_clear();
    let report = report.map_err(|error| unreadable(file, &error))?;
    if json {
        output::json(&report)?;
    } else {
        output::line(&shown(&report, demands.public_keys.is_empty()))?;
    }
    Ok(if report.clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Nothing was checked, which is not the same as a disagreement.
fn unreadable(file: &Path, error: &dyn std::error::Error) -> Misuse {
    Misuse(format!("cannot check {}: {error}", file.display()))
}

fn public_key(text: &str) -> Result<PublicKey, Misuse> {
    let mut key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut key).map_err(|_malformed| {
        Misuse(format!("{text:?} is no public key: 64 hexadecimal digits"))
    })?;
    Ok(key)
}

fn shown(report: &Report, any_key: bool) -> String {
    let mut lines = report.findings.clone();
    let more = report
        .disagreements
        .saturating_sub(u64::try_from(lines.len()).unwrap_or(u64::MAX));
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.push(format!(
        "{} rows in {} chains, {} checkpoints; {} rows are newer than the newest checkpoint.",
        report.rows, report.chains, report.checkpoints, report.rows_not_covered
    ));
    if report.since > 0 {
        lines.push(format!(
            "Only what came after checkpoint {}; balances were not added up.",
            report.since
        ));
    }
    if let Some(user) = report.user_id {
        lines.push(format!(
            "It is of user {user}; {} chains are not covered by the checkpoint.",
            report.chains_not_covered
        ));
    }
    lines.push(match (&report.signed_by, report.checkpoint) {
        (_, 0) => {
            "There is no checkpoint: nothing says that this is all there ever was.".to_owned()
        }
        (None, number) => format!("Checkpoint {number} is not signed."),
        (Some(key), number) if any_key => {
            format!(
                "Checkpoint {number} is signed by {key}: compare it, or give it with --public-key."
            )
        }
        (Some(key), number) => format!("Checkpoint {number} is signed by {key}."),
    });
    let others = i64::try_from(report.checkpoints)
        .unwrap_or(i64::MAX)
        .saturating_sub(1);
    let first = report.checkpoint.saturating_sub(others);
    if let Some(from) = report.signed_from.filter(|from| *from > first) {
        lines.push(format!("Signed from checkpoint {from} on."));
    }
    if let (Some(number), Some(later)) = (report.anchored, report.not_anchored) {
        lines.push(format!(
            "Anchored up to checkpoint {number}; not anchored yet: {later} checkpoints."
        ));
    }
    lines.push(if report.clean {
        "Everything agrees.".to_owned()
    } else {
        format!("{} disagreements.", report.disagreements)
    });
    lines.join("\n")
}
