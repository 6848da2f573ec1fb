//! Rate limits, on random keys. Their counters go by themselves when the period has passed: there is no
//! call that removes one, since that would be a way round the limit.

use std::time::Instant;

use super::Part;
use super::runner::{Found, PartRun, ensure, skip};
use super::sample::random_name;
use crate::DatabaseService;
use crate::rate_limit::{Decision, Error, Policy};

pub(super) async fn run(platform: &DatabaseService) -> Part {
    let mut part = PartRun::new("rate_limiting");
    // The longest interval, so that as little as possible comes back while the check runs.
    let policies = platform.config().rate_limits.iter();
    match policies.max_by_key(|(_, policy)| policy.period_seconds / policy.limit.max(1)) {
        Some((name, policy)) => {
            part.check(
                "exactly the limit is allowed",
                allows_the_limit(platform, name, policy),
            )
            .await;
            part.check(
                "a refusal says when to come again",
                says_when(platform, name, policy),
            )
            .await;
            part.check(
                "keys are counted apart",
                counts_apart(platform, name, policy),
            )
            .await;
        }
        None => {
            part.check("a policy is there", async { skip("none is configured") })
                .await
        }
    }
    part.check(
        "a policy that is not configured is refused",
        refuses_unknown(platform),
    )
    .await;
    part.done()
}

/// More would take longer than a check should; above it the limit is charged at once.
const MOST_SINGLE_CHARGES: u32 = 200;

async fn allows_the_limit(platform: &DatabaseService, name: &str, policy: &Policy) -> Found {
    let key = random_name();
    let limits = platform.rate_limits();
    let (charges, cost) = if policy.limit <= MOST_SINGLE_CHARGES {
        (policy.limit, 1)
    } else {
        (1, policy.limit)
    };
    let started = Instant::now();
    let attempts = (0..charges + 3).map(|_| limits.check(name, &key, cost));
    let decisions = futures::future::try_join_all(attempts).await?;
    let allowed = decisions.iter().filter(|decision| decision.allowed).count();
    let allowed = u128::try_from(allowed).unwrap_or(u128::MAX);
    // What came back meanwhile may be spent again.
    let interval_us =
        u128::from(policy.period_seconds) * 1_000_000 / u128::from(policy.limit.max(1));
    let regained = started.elapsed().as_micros() / interval_us.max(1) / u128::from(cost);
    let least = u128::from(charges);
    ensure(
        (least..=least + regained).contains(&allowed),
        format!("{allowed} of {charges} were allowed"),
    )
}

async fn spend_all(
    platform: &DatabaseService,
    name: &str,
    policy: &Policy,
    key: &str,
) -> Result<Decision, Error> {
    platform.rate_limits().check(name, key, policy.limit).await
}

async fn says_when(platform: &DatabaseService, name: &str, policy: &Policy) -> Found {
    let key = random_name();
    let spent = spend_all(platform, name, policy, &key).await?;
    ensure(
        spent.allowed && spent.remaining == 0,
        "a fresh limit was not whole",
    )?;
    let refused = spend_all(platform, name, policy, &key).await?;
    ensure(!refused.allowed, "twice the limit was allowed")?;
    let most = u64::from(policy.period_seconds) + 1;
    ensure(
        (1..=most).contains(&refused.retry_after),
        format!("it said {} s", refused.retry_after),
    )
}

async fn counts_apart(platform: &DatabaseService, name: &str, policy: &Policy) -> Found {
    let (one, other) = (random_name(), random_name());
    spend_all(platform, name, policy, &one).await?;
    let untouched = spend_all(platform, name, policy, &other).await?;
    ensure(untouched.allowed, "one key's charges counted for another")
}

async fn refuses_unknown(platform: &DatabaseService) -> Found {
    let name = random_name();
    match platform.rate_limits().check(&name, &name, 1).await {
        Err(Error::UnknownPolicy) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => ensure(false, "it was answered"),
    }
}
