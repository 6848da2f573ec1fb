use async_trait::async_trait;
use redis::RedisResult;

use super::RedisStore;
use super::link::{Kind, Live};
use crate::error::StoreError;
use crate::rate_limit::{Store, gcra};

#[async_trait]
impl Store for RedisStore {
    async fn check(
        &self,
        key: &str,
        policy: gcra::Policy,
        cost: u32,
    ) -> Result<gcra::Decision, StoreError> {
        let call = async |live: Live| -> RedisResult<(bool, i64, i64, i64, i64)> {
            let mut live = live;
            self.scripts
                .gcra
                .key(self.keys.limit(key))
                .arg(policy.interval_us())
                .arg(policy.limit())
                .arg(cost)
                .invoke_async(&mut live.connection)
                .await
        };
        // A charge whose answer was lost only makes the limit stricter.
        let (allowed, remaining, retry_after_us, reset_after_us, new_tat) =
            self.link.call(Kind::Harmless, call).await?;
        Ok(gcra::Decision {
            allowed,
            remaining: u32::try_from(remaining).unwrap_or(0),
            retry_after_us: (retry_after_us >= 0).then_some(retry_after_us),
            reset_after_us,
            new_tat: (new_tat >= 0).then_some(new_tat),
        })
    }
}
