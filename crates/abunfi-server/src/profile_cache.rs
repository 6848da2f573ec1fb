//! Rendered profiles: the bytes and the tag of what was last served from the cache, so that a profile that
//! is asked for again and again is turned into JSON and hashed once.
//!
//! Invariant: nothing is ever served from here that differs from what the library gave just now. The copy is
//! compared with the user about to be served (the same value in memory, or an equal one), so there is nothing
//! to invalidate and nothing to go stale.

use std::sync::Arc;

use abunfi::ids::UserId;
use abunfi::users::HybridUser;
use axum::body::Bytes;
use quick_cache::sync::Cache;

use crate::error::{Problem, Result};
use crate::extract::ETag;

/// How many profiles are kept: about 4 KiB each, so 32 MiB at most in practice.
const CAPACITY: usize = 8_192;
/// Profiles with larger documents are rendered each time: comparing them saves less, and they would make
/// the memory unbounded.
const MAX_BYTES: usize = 16 * 1024;

/// A profile, ready to be sent.
#[derive(Debug)]
pub(crate) struct Rendered {
    user: Arc<HybridUser>,
    pub(crate) body: Bytes,
    pub(crate) tag: ETag,
}

#[derive(Debug)]
pub(crate) struct ProfileCache(Cache<UserId, Arc<Rendered>>);

impl Default for ProfileCache {
    fn default() -> Self {
        Self(Cache::new(CAPACITY))
    }
}

impl ProfileCache {
    /// `user` as JSON, with the tag of the whole body.
    pub(crate) fn render(&self, user: Arc<HybridUser>) -> Result<Arc<Rendered>> {
        if let Some(rendered) = self.0.get(&user.id)
            && (Arc::ptr_eq(&rendered.user, &user) || rendered.user == user)
        {
            return Ok(rendered);
        }
        let body = serde_json::to_vec(user.as_ref()).map_err(Problem::internal)?;
        let is_small = body.len() <= MAX_BYTES;
        let rendered = Arc::new(Rendered {
            tag: ETag::of_body(user.version, &body),
            body: body.into(),
            user,
        });
        if is_small {
            self.0.insert(rendered.user.id, Arc::clone(&rendered));
        }
        Ok(rendered)
    }
}
