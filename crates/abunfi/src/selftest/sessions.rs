//! Sessions. A real one needs a user who is committed, and users cannot be removed without a trace, so the
//! durable record is checked inside a transaction that is rolled back, and the service by what it refuses.

use futures::FutureExt;

use super::Part;
use super::runner::{Found, PartRun, ensure};
use super::sample::{Sample, ensure_inside, rolled_back, undo};
use crate::DatabaseService;
use crate::error::Error as AnyError;
use crate::ids::{SessionId, UserId, random_bytes};
use crate::ledger::Page;
use crate::sessions::{Error, NewSession};
use crate::token::{Token, TokenKind};
use crate::transaction::Transaction;

pub(super) async fn run(platform: &DatabaseService) -> Part {
    let mut part = PartRun::new("sessions");
    part.check(
        "a token that nobody was given is refused",
        refuses_unknown(platform),
    )
    .await;
    part.check(
        "what is no session token is refused",
        refuses_others(platform),
    )
    .await;
    part.check("a session needs a user", needs_user(platform))
        .await;
    part.check(
        "the durable record can be written and found",
        keeps_record(platform),
    )
    .await;
    part.check("revocations can be read", async {
        Ok(platform.sessions().refresh_revocations().await?)
    })
    .await;
    part.check("live sessions are counted", async {
        ensure(platform.sessions().count().await? >= 0, "fewer than none")
    })
    .await;
    part.done()
}

async fn refuses(platform: &DatabaseService, token: &str) -> Found {
    match platform.sessions().authenticate(token).await {
        Err(Error::NotValid) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => ensure(false, "it was accepted"),
    }
}

async fn refuses_unknown(platform: &DatabaseService) -> Found {
    let token = Token::from_random(TokenKind::Session, random_bytes());
    refuses(platform, token.expose()).await
}

async fn refuses_others(platform: &DatabaseService) -> Found {
    let key = Token::from_random(TokenKind::ServiceKey, random_bytes());
    for text in ["", "abs_", "abs_short", key.expose()] {
        refuses(platform, text).await?;
    }
    Ok(())
}

async fn needs_user(platform: &DatabaseService) -> Found {
    let nobody = UserId::new(platform.clock().now());
    match platform
        .sessions()
        .create(nobody, NewSession::default())
        .await
    {
        Err(Error::UserNotFound) => {}
        Err(error) => return Err(error.into()),
        Ok(_) => return ensure(false, "it was given to nobody"),
    }
    let page = Page {
        after: None,
        limit: 1,
    };
    let listed = platform.sessions().list(nobody, &page).await?;
    ensure(listed.is_none(), "nobody has a list of sessions")
}

async fn keeps_record(platform: &DatabaseService) -> Found {
    let sample = Sample::new(platform)?;
    rolled_back(platform, move |tx| {
        let sample = sample.clone();
        async move {
            tx.create_user(&sample.ctx, &sample.user).await?;
            let hash = Token::from_random(TokenKind::Session, random_bytes()).hash();
            let found = write_and_find(tx, &sample, hash.as_bytes()).await?;
            ensure_inside(
                found == 1,
                format!("{found} were found by the token's hash"),
            )?;
            undo()
        }
        .boxed()
    })
    .await
}

/// The two dialects differ in their types: times are micro-seconds in SQLite.
async fn write_and_find(
    tx: &mut dyn Transaction,
    sample: &Sample,
    token_hash: &[u8],
) -> Result<i64, AnyError> {
    let (user, session) = (sample.id().uuid(), SessionId::new(sample.now).uuid());
    let found = if let Some(connection) = tx.postgres() {
        let written = sqlx::query(INSERT_POSTGRES)
            .bind(user)
            .bind(session)
            .bind(token_hash)
            .bind(time::OffsetDateTime::from(sample.now))
            .execute(&mut *connection)
            .await;
        match written {
            Ok(_) => {
                sqlx::query_scalar("SELECT count(*) FROM sessions WHERE token_hash = $1")
                    .bind(token_hash)
                    .fetch_one(connection)
                    .await
            }
            Err(error) => Err(error),
        }
    } else if let Some(connection) = tx.sqlite() {
        let written = sqlx::query(INSERT_SQLITE)
            .bind(user)
            .bind(session)
            .bind(token_hash)
            .bind(sample.now.micros())
            .execute(&mut *connection)
            .await;
        match written {
            Ok(_) => {
                sqlx::query_scalar("SELECT count(*) FROM sessions WHERE token_hash = ?1")
                    .bind(token_hash)
                    .fetch_one(connection)
                    .await
            }
            Err(error) => Err(error),
        }
    } else {
        return Err(AnyError::Other(
            "the transaction gives no connection".into(),
        ));
    };
    found.map_err(|error| tx.error(error).into())
}

const INSERT_POSTGRES: &str = "INSERT INTO sessions (user_id, session_id, token_hash, created_at, \
     last_seen_at, idle_expires_at, expires_at) VALUES ($1, $2, $3, $4, $4, $4, $4)";
const INSERT_SQLITE: &str = "INSERT INTO sessions (user_id, session_id, token_hash, created_at, \
     last_seen_at, idle_expires_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?4, ?4, ?4)";
