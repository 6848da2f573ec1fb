use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, FromRedisValue};

use super::RedisStore;
use super::cache::millis;
use super::link::Kind;
use crate::documents::parse::parse_json;
use crate::error::{StoreError, StoreKind};
use crate::temp::{Store, TempValue};

/// What was stored is a value of bounded depth in an object.
const MAX_DEPTH: usize = 64;

#[async_trait]
impl Store for RedisStore {
    async fn put(&self, key: &str, value: &TempValue, ttl: Duration) -> Result<(), StoreError> {
        let text = serde_json::to_string(value)
            .map_err(|error| StoreError::unexpected(StoreKind::KeyValue, error))?;
        let mut set = redis::cmd("SET");
        set.arg(self.keys.temp(key))
            .arg(text)
            .arg("PX")
            .arg(millis(ttl).max(1));
        self.run(Kind::Write, set).await
    }

    async fn get(&self, key: &str) -> Result<Option<TempValue>, StoreError> {
        let mut get = redis::cmd("GET");
        get.arg(self.keys.temp(key));
        read(self.run(Kind::Harmless, get).await?)
    }

    async fn take(&self, key: &str) -> Result<Option<TempValue>, StoreError> {
        let mut take = redis::cmd("GETDEL");
        take.arg(self.keys.temp(key));
        read(self.run(Kind::Write, take).await?)
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let mut delete = redis::cmd("DEL");
        delete.arg(self.keys.temp(key));
        self.run(Kind::Write, delete).await
    }
}

impl RedisStore {
    async fn run<T: FromRedisValue>(&self, kind: Kind, command: Cmd) -> Result<T, StoreError> {
        self.link
            .call(kind, async |live| {
                let mut connection = live.connection;
                command.query_async(&mut connection).await
            })
            .await
    }
}

fn read(text: Option<String>) -> Result<Option<TempValue>, StoreError> {
    let Some(text) = text else { return Ok(None) };
    let unreadable =
        || StoreError::unexpected(StoreKind::KeyValue, "a temporary value cannot be read");
    let value = parse_json(text.as_bytes(), MAX_DEPTH)
        .map_err(|_malformed| unreadable())?
        .into_value()
        .map_err(|_inexact| unreadable())?;
    let value = serde_json::from_value(value).map_err(|_other_shape| unreadable())?;
    Ok(Some(value))
}
