//! L2 of the cache. What makes its tags work is told in `get_or_lease.lua`.

use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use redis::{RedisResult, Script, ScriptInvocation};
use tokio::sync::broadcast::Receiver;

use super::RedisStore;
use super::link::{Kind, Live};
use super::packing::{pack, unpack};
use crate::cache::{LeaseToken, Lookup, Notice, Store, Stored};
use crate::clock::Timestamp;
use crate::error::{StoreError, StoreKind};
use crate::ids::random_bytes;

/// The longest that a value is kept, whatever its caller asked for.
const LONGEST_KEEP: Duration = Duration::from_secs(24 * 3_600);
/// How long a tag's version is kept after the last lease under it: longer than any value, so that one
/// never outlives the version that would void it. (If it did, it would only be a miss.)
pub(super) const TAG_KEEP: Duration = Duration::from_secs(25 * 3_600);
/// Names in one script: it holds the server up while it runs.
const NAMES_PER_SCRIPT: usize = 500;

/// State, value as it is stored, `stored_at`, `fresh_until`, token.
type Found = (String, Vec<u8>, String, String, String);

#[async_trait]
impl Store for RedisStore {
    async fn get(&self, key: &str, tags: &[String]) -> Result<Option<Stored>, StoreError> {
        let look = self.look(key, tags, [0; 16], Duration::ZERO);
        let (state, value, stored_at, fresh_until, _) = look.await?;
        match state.as_str() {
            "fresh" | "stale" => Ok(Some(stored(value, &stored_at, &fresh_until, tags)?)),
            _ => Ok(None),
        }
    }

    async fn get_or_lease(
        &self,
        key: &str,
        tags: &[String],
        token: LeaseToken,
        lease_for: Duration,
    ) -> Result<Lookup, StoreError> {
        let look = self.look(key, tags, token, lease_for.max(Duration::from_millis(1)));
        let (state, value, stored_at, fresh_until, leased) = look.await?;
        match state.as_str() {
            "fresh" => Ok(Lookup::Fresh(stored(
                value,
                &stored_at,
                &fresh_until,
                tags,
            )?)),
            "stale" => Ok(Lookup::Stale {
                stored: stored(value, &stored_at, &fresh_until, tags)?,
                lease: (!leased.is_empty()).then_some(token),
            }),
            "leased" => Ok(Lookup::Leased(token)),
            "busy" => Ok(Lookup::Busy),
            _ => Err(unreadable()),
        }
    }

    async fn fill(
        &self,
        key: &str,
        token: LeaseToken,
        stored: &Stored,
        keep: Duration,
    ) -> Result<bool, StoreError> {
        let fresh_for = stored.fresh_until.since(stored.stored_at);
        let packed = pack(&stored.value, self.compress_above_bytes);
        let call = async |live: Live| -> RedisResult<bool> {
            let mut live = live;
            let mut script = self.scripts.fill.prepare_invoke();
            script
                .key(self.keys.cached(&live.run, key))
                .arg(hex::encode(token))
                .arg(packed.as_ref())
                .arg(stored.stored_at.micros())
                .arg(stored.fresh_until.micros())
                .arg(micros(fresh_for))
                .arg(millis(keep.min(LONGEST_KEEP)));
            self.add_tags(&mut script, &mut live, &stored.tags, false)
                .await?;
            script.invoke_async(&mut live.connection).await
        };
        self.link.call(Kind::Harmless, call).await
    }

    async fn release(&self, key: &str, token: LeaseToken) -> Result<(), StoreError> {
        let call = async |live: Live| -> RedisResult<()> {
            let mut live = live;
            self.scripts
                .release
                .key(self.keys.cached(&live.run, key))
                .arg(hex::encode(token))
                .invoke_async(&mut live.connection)
                .await
        };
        self.link.call(Kind::Harmless, call).await
    }

    async fn invalidate(&self, keys: &[String], tags: &[String]) -> Result<(), StoreError> {
        for keys in keys.chunks(NAMES_PER_SCRIPT) {
            self.invalidate_some(keys, &[]).await?;
        }
        for tags in tags.chunks(NAMES_PER_SCRIPT) {
            self.invalidate_some(&[], tags).await?;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), StoreError> {
        let call = async |live: Live| {
            let everything = vec![self.keys.everything(&live.run)];
            let message = self.link.notices.flush();
            self.void(live, Vec::new(), everything, message).await
        };
        self.link.call(Kind::Harmless, call).await
    }

    fn subscribe(&self) -> Receiver<Notice> {
        self.link.notices.listen()
    }
}

impl RedisStore {
    async fn look(
        &self,
        key: &str,
        tags: &[String],
        token: LeaseToken,
        lease_for: Duration,
    ) -> Result<Found, StoreError> {
        let call = async |live: Live| -> RedisResult<Found> {
            let mut live = live;
            let mut script = self.scripts.get_or_lease.prepare_invoke();
            script
                .key(self.keys.cached(&live.run, key))
                .arg(hex::encode(token))
                .arg(millis(lease_for))
                .arg(millis(TAG_KEEP))
                .arg(new_version());
            self.add_tags(&mut script, &mut live, tags, !lease_for.is_zero())
                .await?;
            script.invoke_async(&mut live.connection).await
        };
        self.link.call(Kind::Harmless, call).await
    }

    /// The tags, as keys of the script. On a Cluster, where they may be in other slots, their versions
    /// instead. Those are read before the script runs, and so before what it leases is loaded: a value
    /// filled under a version that was replaced meanwhile is never found valid.
    async fn add_tags(
        &self,
        script: &mut ScriptInvocation<'_>,
        live: &mut Live,
        tags: &[String],
        make: bool,
    ) -> RedisResult<()> {
        let tags = tags.iter().map(|tag| self.keys.tag(&live.run, tag));
        let all = std::iter::once(self.keys.everything(&live.run)).chain(tags);
        if !self.link.is_cluster() {
            for tag in all {
                script.key(tag);
            }
            return Ok(());
        }
        let versions = try_join_all(all.map(|tag| {
            let mut connection = live.connection.clone();
            async move {
                if make {
                    version(&self.scripts.version, &tag)
                        .invoke_async(&mut connection)
                        .await
                } else {
                    let found: Option<String> = redis::cmd("GET")
                        .arg(tag)
                        .query_async(&mut connection)
                        .await?;
                    Ok(found.unwrap_or_else(new_version))
                }
            }
        }))
        .await?;
        for version in versions {
            script.arg(version);
        }
        Ok(())
    }

    async fn invalidate_some(&self, keys: &[String], tags: &[String]) -> Result<(), StoreError> {
        let call = async |live: Live| {
            let values = keys.iter().map(|key| self.keys.cached(&live.run, key));
            let values = values.collect();
            let versions = tags.iter().map(|tag| self.keys.tag(&live.run, tag));
            let versions = versions.collect();
            let message = self.link.notices.invalidation(keys, tags);
            self.void(live, values, versions, message).await
        };
        self.link.call(Kind::Harmless, call).await
    }

    async fn void(
        &self,
        live: Live,
        values: Vec<String>,
        tags: Vec<String>,
        message: String,
    ) -> RedisResult<()> {
        let mut live = live;
        let channel = self.link.notices.channel();
        if !self.link.is_cluster() {
            let mut script = self.scripts.invalidate.prepare_invoke();
            script.key(self.keys.sequence(&live.run));
            for key in values.iter().chain(&tags) {
                script.key(key);
            }
            return script
                .arg(values.len())
                .arg(new_version())
                .arg(millis(TAG_KEEP))
                .arg(channel)
                .arg(message)
                .invoke_async(&mut live.connection)
                .await;
        }
        // One command for each: each is atomic, and nothing may be told before all are done.
        let removals = values.into_iter().map(|value| {
            let mut command = redis::cmd("DEL");
            command.arg(value);
            command
        });
        let new_versions = tags.into_iter().map(|tag| {
            let mut command = redis::cmd("SET");
            command
                .arg(tag)
                .arg(new_version())
                .arg("PX")
                .arg(millis(TAG_KEEP));
            command
        });
        try_join_all(removals.chain(new_versions).map(|command| {
            let mut connection = live.connection.clone();
            async move { command.query_async::<()>(&mut connection).await }
        }))
        .await?;
        redis::cmd("PUBLISH")
            .arg(channel)
            .arg(format!("- {message}"))
            .query_async(&mut live.connection)
            .await
    }
}

fn version<'a>(script: &'a Script, tag: &str) -> ScriptInvocation<'a> {
    let mut invocation = script.key(tag);
    invocation.arg(new_version()).arg(millis(TAG_KEEP));
    invocation
}

pub(super) fn new_version() -> String {
    hex::encode(random_bytes::<8>())
}

fn stored(
    value: Vec<u8>,
    stored_at: &str,
    fresh_until: &str,
    tags: &[String],
) -> Result<Stored, StoreError> {
    let time = |micros: &str| {
        micros
            .parse()
            .map(Timestamp::from_micros)
            .map_err(|_not_a_number| unreadable())
    };
    Ok(Stored {
        value: unpack(value).ok_or_else(unreadable)?,
        stored_at: time(stored_at)?,
        fresh_until: time(fresh_until)?,
        tags: tags.to_vec(),
    })
}

fn unreadable() -> StoreError {
    StoreError::unexpected(
        StoreKind::KeyValue,
        "a cache entry is not what a script wrote",
    )
}

/// At least 1 of what is not nothing: Redis refuses to expire in no time.
pub(super) fn millis(span: Duration) -> u64 {
    if span.is_zero() {
        return 0;
    }
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
