//! Who asks, and whether they may.

use std::net::{IpAddr, SocketAddr};

use abunfi::ids::UserId;
use abunfi::keys::{Authenticated, Scope};
use abunfi::sessions::SessionRecord;
use abunfi::token::{Token, TokenKind};
use abunfi::{Actor, Context, Principal};
use axum::extract::{ConnectInfo, FromRequestParts};
use http::request::Parts;
use http::{HeaderMap, header};

use super::PathParams;
use crate::error::{Code, Problem, Result};
use crate::middleware::{RequestId, TraceParent, rate_limit};
use crate::state::App;

/// The longest credential that is looked at: an admin key may have any form, but not a megabyte.
const MAX_CREDENTIAL_BYTES: usize = 1024;

/// Who asks: a back end with a service key, or a user with a session.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    who: Who,
    request_id: RequestId,
    trace: Option<TraceParent>,
}

#[derive(Debug, Clone)]
enum Who {
    Key(Authenticated),
    Session(Box<SessionRecord>),
}

/// What a session may do on a route of its own user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BySession {
    Allowed,
    Refused,
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let authenticated = match bearer(&parts.headers) {
            Ok(token) => authenticate(app, token).await,
            Err(problem) => Err(problem),
        };
        let limiter = app.platform().config().own_rate_limit.as_deref();
        match (authenticated, limiter) {
            (Ok(who), None) => Ok(Self::new(who, parts)),
            (Ok(who), Some(policy)) => {
                let caller = Self::new(who, parts);
                rate_limit::charge(app, policy, caller.principal().as_str(), parts).await?;
                Ok(caller)
            }
            // Guessing is limited by where it comes from, since nobody is known yet.
            (Err(problem), Some(policy)) if problem.code() == Code::Unauthenticated => {
                if let Some(address) = address(parts) {
                    rate_limit::charge(app, policy, &format!("address:{address}"), parts).await?;
                }
                Err(problem)
            }
            (Err(problem), _) => Err(problem),
        }
    }
}

impl Caller {
    fn new(who: Who, parts: &Parts) -> Self {
        let request_id = parts.extensions.get::<RequestId>().cloned();
        Self {
            who,
            request_id: request_id.unwrap_or_default(),
            trace: parts.extensions.get().cloned(),
        }
    }

    /// A service key with this scope; nobody else.
    pub(crate) fn require(&self, scope: Scope) -> Result<()> {
        self.require_any(&[scope])
    }

    /// A service key with one of these scopes; nobody else.
    pub(crate) fn require_any(&self, scopes: &[Scope]) -> Result<()> {
        match &self.who {
            Who::Key(key) if scopes.iter().any(|scope| key.scopes.contains(scope)) => Ok(()),
            Who::Key(_) => {
                let names: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
                Err(insufficient(format!(
                    "the key lacks the scope `{}`",
                    names.join("` or `")
                )))
            }
            Who::Session(_) => Err(insufficient(
                "a session reaches the routes of its own user only",
            )),
        }
    }

    /// The user of a route below `/users/{id}`. A key needs the scope; a session must be that user's
    /// (to any other it does not exist) and be allowed here.
    pub(crate) fn user(
        &self,
        path: &PathParams,
        scope: Scope,
        by_session: BySession,
    ) -> Result<UserId> {
        match &self.who {
            Who::Key(_) => {
                self.require(scope)?;
                path.user_id()
            }
            Who::Session(session) => {
                if path.user_id()? != session.user_id {
                    return Err(Problem::not_found());
                }
                match by_session {
                    BySession::Allowed => Ok(session.user_id),
                    BySession::Refused => Err(insufficient("a session may not do this")),
                }
            }
        }
    }

    /// The session that asks, if one does.
    pub(crate) fn as_session(&self) -> Option<&SessionRecord> {
        match &self.who {
            Who::Key(_) => None,
            Who::Session(session) => Some(session),
        }
    }

    /// The session that asks.
    pub(crate) fn session(&self) -> Result<&SessionRecord> {
        self.as_session()
            .ok_or_else(|| insufficient("this route is for session tokens"))
    }

    /// Whom idempotency keys and limits belong to: it outlives the rotation of tokens and keys.
    pub(crate) fn principal(&self) -> Principal {
        match &self.who {
            Who::Key(key) => Principal::key_owner(&key.owner),
            Who::Session(session) => Principal::user(session.user_id),
        }
    }

    /// What the library is told about who asks.
    pub(crate) fn context(&self) -> Context {
        let actor = match &self.who {
            Who::Key(key) => match key.id {
                Some(id) => Actor::service_key(id),
                None => Actor {
                    kind: abunfi::context::ActorKind::ServiceKey,
                    id: key.owner.as_str().into(),
                    session_id: None,
                },
            },
            Who::Session(session) => Actor::session(session.user_id, session.id),
        };
        let trace = self.trace.as_ref().map(|trace| trace.trace_id().to_owned());
        Context::new(actor, self.principal(), self.request_id.as_str()).traced(trace)
    }
}

/// A refusal of what was asked by who is known.
pub(crate) fn insufficient(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(Code::InsufficientScope, detail)
}

/// The token of `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Result<&str> {
    const FORM: &str = "Authorization must be `Bearer` and one token";
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err(Problem::unauthenticated(
            "the header Authorization is missing",
        ));
    };
    let (scheme, token) = value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .ok_or_else(|| Problem::unauthenticated(FORM))?;
    let token = token.trim();
    let is_well_formed = values.next().is_none()
        && scheme.eq_ignore_ascii_case("bearer")
        && (1..=MAX_CREDENTIAL_BYTES).contains(&token.len());
    if is_well_formed {
        Ok(token)
    } else {
        Err(Problem::unauthenticated(FORM))
    }
}

async fn authenticate(app: &App, token: &str) -> Result<Who> {
    let is_session = Token::parse(token).is_some_and(|token| token.kind() == TokenKind::Session);
    if is_session {
        let session = app.platform().sessions().authenticate(token).await?;
        Ok(Who::Session(Box::new(session)))
    } else {
        let key = app.platform().keys().authenticate(token).await?;
        Ok(Who::Key(key))
    }
}

fn address(parts: &Parts) -> Option<IpAddr> {
    parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(address)| address.ip())
}
