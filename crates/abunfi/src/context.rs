//! Who asks, and under which request: passed first to every call that leaves a trace.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{KeyId, SessionId, UserId};
use crate::validation::{Invalid, check_name};

/// Who does something, as the audit trail keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    pub kind: ActorKind,
    /// A service key's id (or `admin` for the key of the configuration), a user's id, or the name of
    /// the part of the platform that acts by itself (`expiry`, `start`, …) or that an operator acts through
    /// (`cli`, or `cli:` and the name that they gave).
    pub id: Arc<str>,
    pub session_id: Option<SessionId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    ServiceKey,
    Session,
    System,
}

impl ActorKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServiceKey => "service_key",
            Self::Session => "session",
            Self::System => "system",
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::ServiceKey, Self::Session, Self::System]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

impl Actor {
    #[must_use]
    pub fn service_key(id: KeyId) -> Self {
        Self {
            kind: ActorKind::ServiceKey,
            id: id.to_string().into(),
            session_id: None,
        }
    }

    #[must_use]
    pub fn session(user: UserId, session: SessionId) -> Self {
        Self {
            kind: ActorKind::Session,
            id: user.to_string().into(),
            session_id: Some(session),
        }
    }

    /// The platform itself, by the name of the part that acts.
    #[must_use]
    pub fn system(part: &str) -> Self {
        Self {
            kind: ActorKind::System,
            id: part.into(),
            session_id: None,
        }
    }
}

/// Whom an idempotency key belongs to. It outlives the rotation of tokens and service keys: it is the
/// user of a session, or the *owner's name* of a service key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Principal(Arc<str>);

impl Principal {
    #[must_use]
    pub fn key_owner(owner: &str) -> Self {
        Self(format!("key:{owner}").into())
    }

    #[must_use]
    pub fn user(id: UserId) -> Self {
        Self(format!("user:{id}").into())
    }

    /// One that a store gives back.
    #[must_use]
    pub fn stored(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who asks and under which request.
#[derive(Debug, Clone)]
pub struct Context {
    pub actor: Actor,
    pub principal: Principal,
    /// 1–128 visible ASCII characters.
    pub request_id: Arc<str>,
    /// The trace that the request is part of, as W3C Trace Context has it.
    pub trace_id: Option<String>,
}

impl Context {
    #[must_use]
    pub fn new(actor: Actor, principal: Principal, request_id: impl Into<Arc<str>>) -> Self {
        Self {
            actor,
            principal,
            request_id: request_id.into(),
            trace_id: None,
        }
    }

    /// The same, as a part of this trace.
    #[must_use]
    pub fn traced(mut self, trace_id: Option<String>) -> Self {
        self.trace_id = trace_id;
        self
    }

    /// For what the platform does by itself (and for embedders that act in their own name).
    #[must_use]
    pub fn system(part: &str) -> Self {
        Self::new(
            Actor::system(part),
            Principal(format!("system:{part}").into()),
            Uuid::new_v4().to_string(),
        )
    }

    /// For what an operator does through a part of the platform, under the name that they gave. Nothing proves
    /// it: it is worth what the access to that part is worth.
    ///
    /// # Errors
    /// When it is not 1–100 visible ASCII characters.
    pub fn operator(part: &str, name: &str) -> Result<Self, Invalid> {
        check_name(name)?;
        Ok(Self::system(&format!("{part}:{name}")))
    }
}
