//! What callers use of temporary data.

use std::sync::Arc;

use super::*;
use crate::clock::SharedClock;
use crate::error::StoreError;
use crate::validation::{FaultCode, Faults};

const MAX_KEY_BYTES: usize = 200;
/// Shorter than this it would be gone before the answer is.
const MIN_TTL: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("there is no such value")]
    NotFound,
    #[error("the request is not valid")]
    Invalid(Faults),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    clock: SharedClock,
}

impl Service {
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: SharedClock) -> Self {
        Self { store, clock }
    }

    /// `key`: 1–200 of `A-Za-z0-9._:-`; `ttl` from one second to [`MAX_TTL`]. Replaces what is there.
    pub async fn put(&self, key: &str, value: Value, ttl: Duration) -> Result<TempValue, Error> {
        check(key, &value, ttl).map_err(Error::Invalid)?;
        let expires_at = self.clock.now().plus(ttl);
        let value = TempValue { value, expires_at };
        self.store.put(key, &value, ttl).await?;
        Ok(value)
    }

    pub async fn get(&self, key: &str) -> Result<TempValue, Error> {
        let found = match is_key(key) {
            true => self.store.get(key).await?,
            false => None,
        };
        self.live(found)
    }

    /// Gets it and removes it: of many callers at once, one has it.
    pub async fn take(&self, key: &str) -> Result<TempValue, Error> {
        let found = match is_key(key) {
            true => self.store.take(key).await?,
            false => None,
        };
        self.live(found)
    }

    /// Fine when it is gone already.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        if is_key(key) {
            self.store.delete(key).await?;
        }
        Ok(())
    }

    /// Stores may be late in dropping what has expired.
    fn live(&self, found: Option<TempValue>) -> Result<TempValue, Error> {
        found
            .filter(|value| self.clock.now() < value.expires_at)
            .ok_or(Error::NotFound)
    }
}

fn check(key: &str, value: &Value, ttl: Duration) -> Result<(), Faults> {
    let mut faults = Faults::new();
    if !is_key(key) {
        let detail = format!("must be 1 to {MAX_KEY_BYTES} of A-Z a-z 0-9 . _ : -");
        faults.add("/key", FaultCode::BadFormat, detail);
    }
    if !(MIN_TTL..=MAX_TTL).contains(&ttl) {
        let detail = format!(
            "must be from {} to {} seconds",
            MIN_TTL.as_secs(),
            MAX_TTL.as_secs()
        );
        faults.add("/ttl", FaultCode::OutOfRange, detail);
    }
    if value.to_string().len() > MAX_VALUE_BYTES {
        let detail = format!("must have at most {MAX_VALUE_BYTES} bytes as JSON");
        faults.add("/value", FaultCode::TooLong, detail);
    }
    faults.into_result()
}

fn is_key(key: &str) -> bool {
    (1..=MAX_KEY_BYTES).contains(&key.len())
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}
