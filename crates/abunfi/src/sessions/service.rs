//! What callers use of sessions.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::*;
use crate::cache::{Cache, Cached, Hit};
use crate::clock::SharedClock;
use crate::error::StoreError;
use crate::ids::{SessionId, UserId, random_bytes};
use crate::ledger::Page;
use crate::token::{Token, TokenHash, TokenKind};
use crate::validation::{FaultCode, Faults};

/// How long a serving copy is fresh: activity and idle expiry are read again as often.
const COPY_TTL: Duration = Duration::from_secs(60);
/// Activity is written at most this often for one session.
const TOUCH_EVERY: Duration = Duration::from_secs(60);
/// Sessions whose last write of activity is remembered: it saves writes, no more.
const TOUCHES_REMEMBERED: usize = 100_000;
/// Writes of activity that run at once. Beyond it they are left to a later request.
const MAX_TOUCHES: usize = 16;
/// Room for a user agent's name.
const MAX_DEVICE_CHARS: usize = 200;
/// Times are whole seconds.
const MIN_TTL: Duration = Duration::from_secs(1);
/// Revocations are kept for an hour: longer than any instance looks back.
const REVOCATIONS_KEPT: Duration = Duration::from_secs(3_600);
/// Rows of one sweep, so that it holds nothing up.
const SWEEP_ROWS: u32 = 1_000;

/// Times and bounds of sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPolicy {
    /// Ends a session without activity.
    pub idle_ttl_seconds: u32,
    /// Ends a session whatever happens; also the longest `ttl` that a caller may ask for.
    pub max_ttl_seconds: u32,
    /// Live sessions of one user; beyond it the oldest end.
    pub max_per_user: u32,
}

impl Default for SessionPolicy {
    fn default() -> Self {
        Self {
            idle_ttl_seconds: 7 * 24 * 3600,
            max_ttl_seconds: 30 * 24 * 3600,
            max_per_user: 20,
        }
    }
}

/// A session as a caller asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewSession {
    pub device: Option<String>,
    pub ip: Option<String>,
    /// Absolute life in seconds; `None`: the policy's.
    pub ttl: Option<Duration>,
}

#[derive(Debug, Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    cache: Cache,
    clock: SharedClock,
    policy: SessionPolicy,
    revocations: Revocations,
    touches: Arc<Touches>,
}

/// Which sessions' activity was written lately, and how many writes run.
#[derive(Debug)]
struct Touches {
    at: quick_cache::sync::Cache<SessionId, Timestamp>,
    running: Arc<Semaphore>,
}

impl Service {
    /// `revocations`: the same as the service keys'.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        cache: Cache,
        clock: SharedClock,
        policy: SessionPolicy,
        revocations: Revocations,
    ) -> Self {
        Self {
            store,
            cache,
            clock,
            policy,
            revocations,
            touches: Arc::new(Touches {
                at: quick_cache::sync::Cache::new(TOUCHES_REMEMBERED),
                running: Arc::new(Semaphore::new(MAX_TOUCHES)),
            }),
        }
    }

    /// The token (shown this once) and the session. Durable on return.
    pub async fn create(
        &self,
        user_id: UserId,
        request: NewSession,
    ) -> Result<(String, Session), Error> {
        let request = self.checked(request).map_err(Error::Invalid)?;
        let now = self.clock.now();
        let life = request.ttl.unwrap_or(self.max_ttl());
        let (token, record) = self.record(user_id, request, now.plus(life));
        self.store.create(&record, self.policy.max_per_user).await?;
        Ok((token, record.show(None)))
    }

    /// Who this token is, counted as activity. [`Error::NotValid`] for anything that is not live. With the
    /// relational store away, a serving copy of at most ten minutes answers.
    pub async fn authenticate(&self, token: &str) -> Result<SessionRecord, Error> {
        let hash = session_hash(token).ok_or(Error::NotValid)?;
        let found = match self.revocations.check().await? {
            Trust::Copies => self.find_with_copies(&hash).await?,
            Trust::StoreOnly => self.find(&hash).await?,
        };
        let now = self.clock.now();
        let live = now < found.expires_at && now < found.idle_expires_at;
        if !live || self.revocations.refuse_session(&found) {
            return Err(Error::NotValid);
        }
        Ok(self.touched(found))
    }

    pub async fn list(
        &self,
        user_id: UserId,
        page: &Page<(Timestamp, SessionId)>,
    ) -> Result<Option<Vec<SessionRecord>>, StoreError> {
        self.store.list(user_id, page, self.clock.now()).await
    }

    /// A new token for the same session's user and life; the old one ends in the same commit.
    pub async fn rotate(&self, session: &SessionRecord) -> Result<(String, Session), Error> {
        let same = NewSession {
            device: session.device.clone(),
            ip: session.ip.clone(),
            ttl: None,
        };
        let (token, record) = self.record(session.user_id, same, session.expires_at);
        let now = self.clock.now();
        self.store.rotate(session.id, &record, now).await?;
        self.revocations
            .note(RevocationKind::Session, session.id.uuid());
        let key = copy_key(&TokenHash::from_bytes(session.token_hash));
        self.cache.invalidate(&[key], &[]).await;
        let asking = Some(record.id);
        Ok((token, record.show(asking)))
    }

    /// Ends one session; fine when it is gone already. `UserNotFound` when there is no such user.
    pub async fn revoke(&self, user_id: UserId, id: SessionId) -> Result<(), Error> {
        if self.store.revoke(user_id, id, self.clock.now()).await? {
            // Refused here from now on, elsewhere when the row is polled; copies need no removal.
            self.revocations.note(RevocationKind::Session, id.uuid());
            return Ok(());
        }
        self.user_must_exist(user_id).await
    }

    pub async fn revoke_all(&self, user_id: UserId) -> Result<(), Error> {
        let ended = self.store.revoke_all(user_id, self.clock.now()).await?;
        if ended == 0 {
            return self.user_must_exist(user_id).await;
        }
        self.revocations.note(RevocationKind::User, user_id.uuid());
        Ok(())
    }

    /// Reads the revocation rows since a while ago, so that serving copies of what was revoked are
    /// refused. Called every half second by a background task.
    pub async fn refresh_revocations(&self) -> Result<(), StoreError> {
        self.revocations.refresh().await
    }

    /// One bounded sweep over what has expired; how many rows went.
    pub async fn sweep(&self) -> Result<u64, StoreError> {
        let now = self.clock.now();
        let revoked_before = now.minus(REVOCATIONS_KEPT);
        self.store.purge(now, revoked_before, SWEEP_ROWS).await
    }

    pub async fn count(&self) -> Result<i64, StoreError> {
        self.store.count(self.clock.now()).await
    }

    async fn find(&self, hash: &TokenHash) -> Result<SessionRecord, Error> {
        let found = self.store.find(hash.as_bytes(), self.clock.now()).await?;
        found.ok_or(Error::NotValid)
    }

    async fn find_with_copies(&self, hash: &TokenHash) -> Result<SessionRecord, Error> {
        let is_away = |error: &Error| matches!(error, Error::Store(error) if error.is_away());
        let Cached { value, hit, age } = self
            .cache
            .get_or_fetch(&copy_key(hash), &[], COPY_TTL, is_away, self.find(hash))
            .await?;
        if age >= GRACE {
            return Err(Error::Store(StoreError::unavailable(
                crate::error::StoreKind::Relational,
                "the serving copy is older than the grace",
            )));
        }
        // A copy does not know of activity since it was made. What stands in for an absent store cannot
        // be asked about.
        let idle = self.clock.now() >= value.idle_expires_at;
        if idle && matches!(hit, Hit::L1 | Hit::L2) {
            return self.find(hash).await;
        }
        Ok(Arc::unwrap_or_clone(value))
    }

    /// The session with this activity, which is written soon if the last write is a while ago.
    fn touched(&self, mut session: SessionRecord) -> SessionRecord {
        let now = self.clock.now();
        let last = self.touches.at.get(&session.id);
        let last = last
            .unwrap_or(session.last_seen_at)
            .max(session.last_seen_at);
        // Often enough for an idle life that is shorter than usual.
        let every = TOUCH_EVERY.min(self.idle_ttl() / 2);
        if now.since(last) < every {
            return session;
        }
        let Ok(permit) = Arc::clone(&self.touches.running).try_acquire_owned() else {
            return session;
        };
        session.last_seen_at = now;
        session.idle_expires_at = now.plus(self.idle_ttl()).min(session.expires_at);
        self.touches.at.insert(session.id, now);
        let store = Arc::clone(&self.store);
        let SessionRecord {
            id,
            user_id,
            idle_expires_at,
            ..
        } = session;
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = store.touch(id, user_id, now, idle_expires_at).await {
                tracing::debug!(%error, "the activity of a session was not written");
            }
        });
        session
    }

    /// A store says only that nothing was ended.
    async fn user_must_exist(&self, user_id: UserId) -> Result<(), Error> {
        let first = Page {
            after: None,
            limit: 1,
        };
        match self.list(user_id, &first).await? {
            Some(_) => Ok(()),
            None => Err(Error::UserNotFound),
        }
    }

    fn record(
        &self,
        user_id: UserId,
        request: NewSession,
        expires_at: Timestamp,
    ) -> (String, SessionRecord) {
        let now = self.clock.now();
        let token = Token::from_random(TokenKind::Session, random_bytes());
        let record = SessionRecord {
            id: SessionId::new(now),
            user_id,
            token_hash: *token.hash().as_bytes(),
            device: request.device,
            ip: request.ip,
            created_at: now,
            last_seen_at: now,
            idle_expires_at: now.plus(self.idle_ttl()).min(expires_at),
            expires_at,
        };
        (token.expose().to_owned(), record)
    }

    fn checked(&self, mut request: NewSession) -> Result<NewSession, Faults> {
        let mut faults = Faults::new();
        if let Some(device) = &request.device {
            if device.chars().count() > MAX_DEVICE_CHARS {
                let detail = format!("must have at most {MAX_DEVICE_CHARS} characters");
                faults.add("/device", FaultCode::TooLong, detail);
            } else if device.chars().any(char::is_control) {
                let detail = "must not have control characters";
                faults.add("/device", FaultCode::BadFormat, detail);
            }
        }
        if let Some(ip) = request.ip.take() {
            match ip.parse::<IpAddr>() {
                Ok(ip) => request.ip = Some(ip.to_string()),
                Err(_not_an_address) => {
                    faults.add(
                        "/ip",
                        FaultCode::BadFormat,
                        "must be an IPv4 or IPv6 address",
                    );
                }
            }
        }
        let allowed = MIN_TTL..=self.max_ttl().max(MIN_TTL);
        if request.ttl.is_some_and(|ttl| !allowed.contains(&ttl)) {
            let detail = format!(
                "must be from {} to {} seconds",
                allowed.start().as_secs(),
                allowed.end().as_secs()
            );
            faults.add("/ttl", FaultCode::OutOfRange, detail);
        }
        faults.into_result().map(|()| request)
    }

    fn max_ttl(&self) -> Duration {
        Duration::from_secs(u64::from(self.policy.max_ttl_seconds))
    }

    fn idle_ttl(&self) -> Duration {
        Duration::from_secs(u64::from(self.policy.idle_ttl_seconds))
    }
}

/// `None`: not the form of a session's token.
fn session_hash(token: &str) -> Option<TokenHash> {
    let token = Token::parse(token)?;
    (token.kind() == TokenKind::Session).then(|| token.hash())
}

fn copy_key(hash: &TokenHash) -> String {
    format!("session:{}", hash.to_hex())
}
