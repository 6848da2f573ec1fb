use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::Memory;
use crate::clock::Timestamp;
use crate::error::{StoreError, StoreKind};
use crate::temp::{Store, TempValue};

/// Values at once, and the bytes of all of them as JSON: memory is bounded by this, not by the load.
pub(super) const MAX_VALUES: usize = 100_000;
pub(super) const MAX_BYTES: usize = 64 * 1024 * 1024;
/// What a full store tells its caller: something may have expired by then.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Values(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    by_key: HashMap<String, Held>,
    /// Who goes next.
    by_expiry: BTreeSet<(Timestamp, String)>,
    bytes: usize,
}

#[derive(Debug)]
struct Held {
    value: TempValue,
    bytes: usize,
    /// By this process's clock; the value's own time is for its reader.
    until: Timestamp,
}

#[async_trait]
impl Store for Memory {
    async fn put(&self, key: &str, value: &TempValue, ttl: Duration) -> Result<(), StoreError> {
        let now = self.clock.now();
        let held = Held {
            bytes: value.value.to_string().len() + key.len(),
            value: value.clone(),
            until: now.plus(ttl),
        };
        let mut table = self.temp.lock();
        table.expire(now);
        table.put(key, held)
    }

    async fn get(&self, key: &str) -> Result<Option<TempValue>, StoreError> {
        let mut table = self.temp.lock();
        table.expire(self.clock.now());
        Ok(table.by_key.get(key).map(|held| held.value.clone()))
    }

    async fn take(&self, key: &str) -> Result<Option<TempValue>, StoreError> {
        let mut table = self.temp.lock();
        table.expire(self.clock.now());
        Ok(table.remove(key).map(|held| held.value))
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.temp.lock().remove(key);
        Ok(())
    }
}

impl Values {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many, and their bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        let table = self.lock();
        (table.by_key.len(), table.bytes)
    }
}

impl Table {
    fn put(&mut self, key: &str, held: Held) -> Result<(), StoreError> {
        let replaced = self.by_key.get(key).map_or(0, |old| old.bytes);
        let values = self.by_key.len() + usize::from(replaced == 0);
        if values > MAX_VALUES || self.bytes - replaced + held.bytes > MAX_BYTES {
            return Err(StoreError::Overloaded {
                store: StoreKind::KeyValue,
                reason: "the memory for temporary data is full".to_owned(),
                retry_after: RETRY_AFTER,
            });
        }
        self.remove(key);
        self.bytes += held.bytes;
        self.by_expiry.insert((held.until, key.to_owned()));
        self.by_key.insert(key.to_owned(), held);
        Ok(())
    }

    fn remove(&mut self, key: &str) -> Option<Held> {
        let held = self.by_key.remove(key)?;
        self.bytes -= held.bytes;
        self.by_expiry.remove(&(held.until, key.to_owned()));
        Some(held)
    }

    fn expire(&mut self, now: Timestamp) {
        while let Some((until, key)) = self.by_expiry.first() {
            if *until > now {
                return;
            }
            let key = key.clone();
            self.remove(&key);
        }
    }
}
