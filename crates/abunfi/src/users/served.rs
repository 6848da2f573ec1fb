//! Answers that may come from the cache, and say so.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cache::{Cache, Hit};
use crate::clock::{SharedClock, Timestamp};
use crate::error::StoreError;

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Hit,
    Miss,
    /// From the cache although it had run out: the authority is away, which the value says then, or it is
    /// being read again.
    Stale,
    /// The caller wanted the stores.
    Bypass,
}

/// An answer that may have come from the cache, which shares it.
#[derive(Debug, Clone, PartialEq)]
pub struct Served<T> {
    pub value: Arc<T>,
    pub source: Source,
    /// How old the copy is; zero when it was read now.
    pub age: Duration,
}

impl<T> Served<T> {
    fn now(value: T, source: Source) -> Self {
        Self {
            value: Arc::new(value),
            source,
            age: Duration::ZERO,
        }
    }
}

/// An answer that is composed of several stores, and says itself when one was away.
pub(crate) trait Composed: Clone {
    /// Whether nothing is missing or in doubt, so that it may be cached.
    fn is_whole(&self) -> bool;
    /// Marks what was right at `as_of` and can no longer be confirmed.
    fn mark_stale(&mut self, as_of: Timestamp);
}

/// How an answer is cached.
#[derive(Debug)]
pub(crate) struct Caching<'a> {
    pub(crate) cache: &'a Cache,
    pub(crate) clock: &'a SharedClock,
    pub(crate) key: String,
    /// The same at every call for a key.
    pub(crate) tags: Vec<String>,
    pub(crate) ttl: Duration,
    /// `false`: read the stores, and leave the cache alone.
    pub(crate) use_cache: bool,
}

/// Why a fetch is not cached.
enum Uncached<T> {
    Nothing,
    /// Good enough to be answered with, once: the next reader asks the store that was away again.
    Partial(Box<T>),
    Failed(StoreError),
}

/// The answer from the cache or from `fetch`. What has run out and was never invalidated is served while it
/// is read again; with the authority away, the last known copy, marked.
pub(crate) async fn serve<T, F>(
    caching: Caching<'_>,
    fetch: impl FnOnce() -> F + Send,
) -> Result<Option<Served<T>>, StoreError>
where
    T: Composed + Serialize + DeserializeOwned + Send + Sync + 'static,
    F: Future<Output = Result<Option<T>, StoreError>> + Send + 'static,
{
    if !caching.use_cache {
        let value = fetch().await?;
        return Ok(value.map(|value| Served::now(value, Source::Bypass)));
    }
    let fetch = || {
        let fetched = fetch();
        async move {
            match fetched.await {
                Ok(Some(value)) if value.is_whole() => Ok(value),
                Ok(Some(value)) => Err(Uncached::Partial(Box::new(value))),
                Ok(None) => Err(Uncached::Nothing),
                Err(error) => Err(Uncached::Failed(error)),
            }
        }
    };
    let authority_is_away =
        |error: &Uncached<T>| matches!(error, Uncached::Failed(error) if error.is_away());
    let cached = caching
        .cache
        .get_or_revalidate(
            &caching.key,
            &caching.tags,
            caching.ttl,
            authority_is_away,
            fetch,
        )
        .await;
    let cached = match cached {
        Ok(cached) => cached,
        Err(Uncached::Nothing) => return Ok(None),
        Err(Uncached::Partial(value)) => return Ok(Some(Served::now(*value, Source::Miss))),
        Err(Uncached::Failed(error)) => return Err(error),
    };
    let source = match cached.hit {
        Hit::L1 | Hit::L2 => Source::Hit,
        Hit::Fetched => Source::Miss,
        Hit::Revalidated | Hit::Stale => Source::Stale,
    };
    let value = if cached.hit == Hit::Stale {
        let mut copy = T::clone(&cached.value);
        copy.mark_stale(caching.clock.now().minus(cached.age));
        Arc::new(copy)
    } else {
        cached.value
    };
    Ok(Some(Served {
        value,
        source,
        age: cached.age,
    }))
}
