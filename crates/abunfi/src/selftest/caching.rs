//! The cache and temporary data, under random names that are removed at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;

use super::Part;
use super::runner::{Because, Found, PartRun, ensure};
use super::sample::random_name;
use crate::DatabaseService;
use crate::temp;

/// Longer than a check may take; what is left after a kill goes by itself.
const LIFE: Duration = Duration::from_secs(60);

pub(super) async fn run(platform: &DatabaseService) -> Part {
    let mut part = PartRun::new("caching");
    part.check(
        "the second read of a value does not fetch it again",
        hits(platform),
    )
    .await;
    part.check(
        "sixteen readers at once fetch a value once",
        flies_once(platform),
    )
    .await;
    part.check(
        "an invalidated value is fetched again",
        invalidates(platform),
    )
    .await;
    part.check("an error is not cached", errors_pass(platform))
        .await;
    part.check("temporary data can be taken once", takes_once(platform))
        .await;
    part.done()
}

/// A value under a name of its own, and how often it was fetched.
#[derive(Debug)]
struct Probe<'a> {
    platform: &'a DatabaseService,
    key: String,
    fetched: AtomicU32,
}

impl<'a> Probe<'a> {
    fn new(platform: &'a DatabaseService) -> Self {
        Self {
            platform,
            key: random_name(),
            fetched: AtomicU32::new(0),
        }
    }

    async fn read(&self) -> Result<u32, std::fmt::Error> {
        let fetch = async {
            // Long enough for others to arrive meanwhile.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(self.fetched.fetch_add(1, Ordering::SeqCst) + 1)
        };
        Ok(*self.platform.cache(&self.key, LIFE, fetch).await?)
    }

    async fn forget(&self) {
        let keys = [self.key.clone()];
        self.platform.cache_service().invalidate(&keys, &[]).await;
    }
}

async fn hits(platform: &DatabaseService) -> Found {
    let probe = Probe::new(platform);
    let first = probe.read().await?;
    let second = probe.read().await?;
    probe.forget().await;
    ensure(first == 1 && second == 1, format!("fetched {second} times"))
}

async fn flies_once(platform: &DatabaseService) -> Found {
    let probe = Probe::new(platform);
    let readers = (0..16).map(|_| probe.read());
    let read = futures::future::try_join_all(readers).await?;
    probe.forget().await;
    ensure(
        read.iter().all(|value| *value == 1),
        format!("fetched {} times", probe.fetched.load(Ordering::SeqCst)),
    )
}

async fn invalidates(platform: &DatabaseService) -> Found {
    let probe = Probe::new(platform);
    probe.read().await?;
    probe.forget().await;
    let again = probe.read().await?;
    probe.forget().await;
    ensure(again == 2, "the old value was served")
}

async fn errors_pass(platform: &DatabaseService) -> Found {
    let probe = Probe::new(platform);
    let failed: Result<Arc<u32>, std::fmt::Error> = platform
        .cache(&probe.key, LIFE, async { Err(std::fmt::Error) })
        .await;
    ensure(failed.is_err(), "the error was swallowed")?;
    let read = probe.read().await?;
    probe.forget().await;
    ensure(read == 1, "the value was not fetched")
}

async fn takes_once(platform: &DatabaseService) -> Found {
    let temp = platform.temp();
    let key = random_name();
    let value = json!({"code": "493027"});
    temp.put(&key, value.clone(), LIFE).await?;
    ensure(
        temp.get(&key).await?.value == value,
        "another value was read",
    )?;
    let takes = futures::future::join_all((0..8).map(|_| temp.take(&key))).await;
    let mut taken = 0;
    for take in takes {
        match take {
            Ok(found) => {
                taken += 1;
                ensure(found.value == value, "another value was taken")?;
            }
            Err(temp::Error::NotFound) => {}
            Err(error) => return Err(Because::from(error)),
        }
    }
    temp.delete(&key).await?;
    ensure(taken == 1, format!("{taken} of 8 got it"))
}
