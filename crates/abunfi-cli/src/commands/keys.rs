//! `abunfi keys create | list | revoke`.

use std::process::ExitCode;

use abunfi::DatabaseService;
use abunfi::config::Loaded;
use abunfi::context::Context;
use abunfi::ids::KeyId;
use abunfi::keys::{self, Scope, ServiceKey};
use serde_json::{Value, json};

use crate::args::Keys;
use crate::failure::Misuse;
use crate::{output, setup};

pub(crate) async fn run(loaded: Loaded, command: &Keys, json: bool) -> anyhow::Result<ExitCode> {
    // Asked wrongly is said before anything is opened.
    let task = Task::of(command)?;
    let platform = setup::open_for_command(loaded).await?;
    let done = task.run(&platform, json).await;
    platform.close().await;
    done?;
    Ok(ExitCode::SUCCESS)
}

/// What is asked, checked.
enum Task {
    Create {
        owner: String,
        scopes: Vec<Scope>,
        ctx: Context,
    },
    List,
    Revoke {
        id: KeyId,
        ctx: Context,
    },
}

impl Task {
    fn of(command: &Keys) -> Result<Self, Misuse> {
        match command {
            Keys::Create { owner, scopes, by } => Ok(Self::Create {
                owner: owner.clone(),
                scopes: parse_scopes(scopes)?,
                ctx: by.context()?,
            }),
            Keys::List => Ok(Self::List),
            Keys::Revoke { id, by } => match id.parse() {
                Ok(id) => Ok(Self::Revoke {
                    id,
                    ctx: by.context()?,
                }),
                Err(_malformed) => Err(Misuse(format!(
                    "{id:?} is no key's id; `abunfi keys list` shows them"
                ))),
            },
        }
    }

    async fn run(self, platform: &DatabaseService, json: bool) -> anyhow::Result<()> {
        match self {
            Self::Create { owner, scopes, ctx } => {
                let made = platform.keys().create(&ctx, &owner, &scopes).await;
                let made = made.map_err(explain)?;
                if json {
                    let mut shown = shown(&made.key);
                    if let Value::Object(fields) = &mut shown {
                        fields.insert("token".to_owned(), made.token.into());
                    }
                    output::json(&shown)
                } else {
                    // The token alone on its line, so that it can be piped on.
                    eprintln!(
                        "Made key {} of {} ({}). The token is shown this once:",
                        made.key.id,
                        made.key.owner,
                        names(&made.key.scopes)
                    );
                    Ok(output::line(&made.token)?)
                }
            }
            Self::List => {
                let keys = platform.keys().list().await?;
                if json {
                    let keys: Vec<_> = keys.iter().map(shown).collect();
                    output::json(&keys)
                } else {
                    Ok(output::line(&table(&keys))?)
                }
            }
            Self::Revoke { id, ctx } => {
                let key = platform.keys().revoke(&ctx, id).await.map_err(explain)?;
                if json {
                    output::json(&shown(&key))
                } else {
                    let text = format!("Key {} of {} is revoked.", key.id, key.owner);
                    Ok(output::line(&text)?)
                }
            }
        }
    }
}

/// Faults of what was given are the caller's; the rest is not.
fn explain(error: keys::Error) -> anyhow::Error {
    match error {
        keys::Error::Invalid(faults) => {
            let details: Vec<_> = faults
                .iter()
                .map(|fault| fault.detail.to_string())
                .collect();
            Misuse(format!("the owner's name {}", details.join(", "))).into()
        }
        other => other.into(),
    }
}

fn parse_scopes(text: &str) -> Result<Vec<Scope>, Misuse> {
    let mut scopes = Vec::new();
    for name in text.split(',').map(str::trim) {
        let scope = Scope::from_name(name).ok_or_else(|| {
            Misuse(format!(
                "{name:?} is no scope; there are {}",
                names(Scope::ALL)
            ))
        })?;
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    Ok(scopes)
}

fn names(scopes: &[Scope]) -> String {
    let names: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
    names.join(", ")
}

fn shown(key: &ServiceKey) -> Value {
    json!({
        "id": key.id, "owner": key.owner, "scopes": key.scopes,
        "created_at": key.created_at, "revoked_at": key.revoked_at
    })
}

fn table(keys: &[ServiceKey]) -> String {
    if keys.is_empty() {
        return "There is no key yet. Make one: abunfi keys create NAME".to_owned();
    }
    let head = ["ID", "OWNER", "SCOPES", "CREATED", "REVOKED"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(keys.iter().map(|key| {
        let revoked = key
            .revoked_at
            .map_or_else(|| "–".to_owned(), |at| at.to_string());
        vec![
            key.id.to_string(),
            key.owner.clone(),
            names(&key.scopes),
            key.created_at.to_string(),
            revoked,
        ]
    }));
    output::columns(&rows)
}
