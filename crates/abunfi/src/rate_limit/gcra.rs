//! The arithmetic of GCRA, the generic cell rate algorithm.
//!
//! Source: ATM Forum, *Traffic Management Specification 4.0* (af-tm-0056.000), §4.4.2, in its
//! "virtual scheduling" form, GCRA(I, τ): a cell conforms unless it arrives more than τ before its
//! theoretical arrival time (TAT); each conforming cell moves the TAT on by I from the later of TAT
//! and now. Here I is the *interval* `⌈period / limit⌉` and τ is `limit · I − I`, so that a key that
//! was idle may spend its whole limit at once and then gets one unit back every I. A request of cost
//! *c* is *c* cells that conform together or not at all.
//!
//! # The bound
//!
//! Let requests of costs c₁ … cₙ be admitted at times t₁ ≤ … ≤ tₙ. Right after the first, the TAT is
//! at least t₁ + c₁·I; every admission adds at least its cost times I; and the last was admitted, so
//! the TAT after it is at most tₙ + limit·I. Hence `t₁ + I·Σc ≤ tₙ + limit·I`, that is
//!
//! > **Σc ≤ limit + (tₙ − t₁) / I.**
//!
//! Over a long time that is the limit per period. Within any one half-open window of a period,
//! tₙ − t₁ < period ≤ limit·I, so at most `2·limit − 1` are admitted: the burst, and what comes back
//! while it is spent. Unlike a fixed window's doubling, those come spread over the period; a burst
//! alone never exceeds the limit. The properties below check both bounds.
//!
//! All times are integer microseconds; the epoch is the caller's as long as it is always the same
//! one. The script that runs this in Redis does the same arithmetic in doubles, which are exact up
//! to 2⁵³ µs, the year 2255.

use std::time::Duration;

/// Largest limit of a policy.
pub const MAX_LIMIT: u32 = 1_000_000;

/// Shortest period of a policy.
pub const MIN_PERIOD: Duration = Duration::from_millis(1);

/// Longest period of a policy, 366 days.
pub const MAX_PERIOD: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Why a policy cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The limit is 0 or above [`MAX_LIMIT`].
    #[error("the limit must be 1 to {MAX_LIMIT}")]
    Limit,
    /// The period is below [`MIN_PERIOD`] or above [`MAX_PERIOD`].
    #[error("the period must be from 1 ms to 366 days")]
    Period,
}

/// `limit` units a `period`, all of which may be spent at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Policy {
    limit: u32,
    period: Duration,
    interval_us: i64,
}

impl Policy {
    /// A policy of `limit` a `period`, which is used in whole microseconds.
    ///
    /// # Errors
    /// [`PolicyError`] outside the ranges of [`MAX_LIMIT`], [`MIN_PERIOD`] and [`MAX_PERIOD`].
    pub fn new(limit: u32, period: Duration) -> Result<Self, PolicyError> {
        if limit == 0 || limit > MAX_LIMIT {
            return Err(PolicyError::Limit);
        }
        if period < MIN_PERIOD || period > MAX_PERIOD {
            return Err(PolicyError::Period);
        }
        let interval_us = period.as_micros().div_ceil(u128::from(limit));
        let interval_us = i64::try_from(interval_us).or(Err(PolicyError::Period))?;
        Ok(Self {
            limit,
            period,
            interval_us,
        })
    }

    /// Units a period, and the largest burst.
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// The period.
    pub const fn period(&self) -> Duration {
        self.period
    }

    /// Microseconds in which one unit comes back: the period over the limit, rounded up so that the
    /// limit is never exceeded in the long run.
    pub const fn interval_us(&self) -> i64 {
        self.interval_us
    }

    /// Microseconds in which a spent limit comes back whole; at least the period, and less than
    /// `limit` microseconds more.
    pub fn window_us(&self) -> i64 {
        self.interval_us.saturating_mul(i64::from(self.limit))
    }

    /// Decides on a request of `cost` at `now`, of which `tat` is all that is remembered (`None` for
    /// a key not seen before, or forgotten since its TAT passed).
    ///
    /// - A cost of 0 is a peek: always allowed, never changes anything.
    /// - A cost above the limit is never allowed, whatever the state.
    /// - A refusal changes nothing, so that asking again and again does not prolong the wait.
    /// - A TAT further ahead than any admission leaves it (the clock was set back) counts as the
    ///   furthest possible one, so a key is never locked for longer than [`Self::window_us`].
    pub fn check(&self, tat: Option<i64>, now: i64, cost: u32) -> Decision {
        let ceiling = now.saturating_add(self.window_us());
        let tat = tat.unwrap_or(now).clamp(now, ceiling);
        let charged = tat.saturating_add(self.interval_us.saturating_mul(i64::from(cost)));
        let allowed = cost == 0 || (cost <= self.limit && charged <= ceiling);
        let after = if allowed { charged } else { tat };
        let retry_after_us = if allowed {
            Some(0)
        } else if cost <= self.limit {
            Some(charged.saturating_sub(ceiling))
        } else {
            None
        };
        Decision {
            allowed,
            remaining: self.units_until(after, ceiling),
            retry_after_us,
            reset_after_us: after.saturating_sub(now),
            new_tat: (allowed && cost > 0).then_some(charged),
        }
    }

    /// The TAT after a charge of `cost` is taken back, or `None` if nothing is left to remember.
    ///
    /// To be used once for a charge that [`Self::check`] allowed, when another policy then refused
    /// the same request. A refund that comes after the charge has expired gives nothing extra.
    pub fn refund(&self, tat: Option<i64>, now: i64, cost: u32) -> Option<i64> {
        let back = self.interval_us.saturating_mul(i64::from(cost));
        tat.map(|tat| tat.saturating_sub(back))
            .filter(|tat| *tat > now)
    }

    /// Whole units that fit between `tat` and `ceiling`; at most the limit, as `tat` is not before
    /// now.
    fn units_until(&self, tat: i64, ceiling: i64) -> u32 {
        let units = ceiling.saturating_sub(tat) / self.interval_us;
        u32::try_from(units).unwrap_or(0).min(self.limit)
    }
}

/// The answer to one request, and what to remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may go on.
    pub allowed: bool,
    /// Units that could be spent right after this decision, 0 to the limit.
    pub remaining: u32,
    /// Microseconds until the same request would be allowed if no other came: 0 when it was allowed,
    /// `None` when it never will be (a cost above the limit).
    pub retry_after_us: Option<i64>,
    /// Microseconds until the whole limit is there again; also how long `new_tat` must be kept.
    pub reset_after_us: i64,
    /// The TAT to remember; `None` when what is remembered stays as it is.
    pub new_tat: Option<i64>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

    use proptest::prelude::*;

    use super::*;

    fn policy(limit: u32, period_us: u64) -> Policy {
        Policy::new(limit, Duration::from_micros(period_us)).unwrap()
    }

    #[test]
    fn five_logins_a_minute_are_five_at_once_and_then_one_every_twelve_seconds() {
        let login = policy(5, 60_000_000);
        let mut tat = None;
        for remaining in [4, 3, 2, 1, 0] {
            let decision = login.check(tat, 1_000, 1);
            assert_eq!((decision.allowed, decision.remaining), (true, remaining));
            tat = decision.new_tat;
        }
        let refused = login.check(tat, 1_000, 1);
        assert_eq!(
            refused,
            Decision {
                allowed: false,
                remaining: 0,
                retry_after_us: Some(12_000_000),
                reset_after_us: 60_000_000,
                new_tat: None
            }
        );
        assert!(!login.check(tat, 12_000_999, 1).allowed);
        assert!(login.check(tat, 12_001_000, 1).allowed);
    }

    #[test]
    fn a_cost_above_the_limit_is_never_allowed_and_no_cost_always_is() {
        let policy = policy(3, 3_000);
        let refused = policy.check(None, 0, 4);
        assert_eq!(
            (refused.allowed, refused.retry_after_us, refused.remaining),
            (false, None, 3)
        );
        assert!(!policy.check(None, 0, u32::MAX).allowed);
        let spent = policy.check(None, 0, 3).new_tat;
        let peek = policy.check(spent, 0, 0);
        assert_eq!(
            (peek.allowed, peek.remaining, peek.new_tat),
            (true, 0, None)
        );
    }

    #[test]
    fn a_clock_that_was_set_back_locks_nobody_out() {
        let policy = policy(2, 2_000);
        let refused = policy.check(Some(1_000_000_000), 0, 1);
        assert_eq!(
            (refused.allowed, refused.retry_after_us),
            (false, Some(1_000))
        );
        assert!(policy.check(Some(1_000_000_000), 0, 0).reset_after_us <= policy.window_us());
    }

    #[test]
    fn policies_outside_their_ranges_are_refused() {
        for limit in [0, MAX_LIMIT + 1] {
            assert_eq!(Policy::new(limit, MIN_PERIOD), Err(PolicyError::Limit));
        }
        for period in [Duration::ZERO, Duration::from_micros(999), Duration::MAX] {
            assert_eq!(Policy::new(1, period), Err(PolicyError::Period));
        }
        assert_eq!(policy(MAX_LIMIT, 1_000).interval_us(), 1);
        assert_eq!(policy(3, 1_000).interval_us(), 334);
    }

    /// Policies, and requests as pauses and costs.
    fn runs() -> impl Strategy<Value = (Policy, Vec<(i64, u32)>)> {
        (1..20_u32, 1_000..50_000_u64).prop_flat_map(|(limit, period_us)| {
            let pause = prop_oneof![Just(0), 0..100_i64, 0..10_000_i64, 0..100_000_i64];
            let cost = prop_oneof![4 => Just(1), 1 => 0..=limit + 1];
            (
                Just(policy(limit, period_us)),
                prop::collection::vec((pause, cost), 1..200),
            )
        })
    }

    /// What was admitted: times and costs.
    fn run(policy: &Policy, requests: &[(i64, u32)]) -> Vec<(i64, u32)> {
        let (mut now, mut tat, mut admitted) = (0, None, Vec::new());
        for (pause, cost) in requests {
            now += pause;
            let decision = policy.check(tat, now, *cost);
            tat = decision.new_tat.or(tat);
            if decision.allowed && *cost > 0 {
                admitted.push((now, *cost));
            }
        }
        admitted
    }

    proptest! {
        #[test]
        fn every_stretch_admits_at_most_the_limit_and_one_more_an_interval((policy, requests) in runs()) {
            let admitted = run(&policy, &requests);
            for (i, (first, _)) in admitted.iter().enumerate() {
                let mut sum = 0;
                for (last, cost) in admitted.iter().skip(i) {
                    sum += i64::from(*cost);
                    prop_assert!(sum <= i64::from(policy.limit()) + (last - first) / policy.interval_us());
                }
            }
        }

        #[test]
        fn any_period_admits_less_than_twice_the_limit((policy, requests) in runs()) {
            let admitted = run(&policy, &requests);
            let period = i64::try_from(policy.period().as_micros()).unwrap();
            for (first, _) in &admitted {
                let sum: u32 = admitted.iter().filter(|(at, _)| first <= at && *at < first + period).map(|(_, cost)| cost).sum();
                prop_assert!(sum < 2 * policy.limit());
            }
        }

        #[test]
        fn the_wait_that_is_named_is_the_shortest_that_helps((policy, requests) in runs(), cost in 1..20_u32) {
            let (mut now, mut tat) = (0, None);
            for (pause, earlier) in requests {
                now += pause;
                tat = policy.check(tat, now, earlier).new_tat.or(tat);
            }
            let decision = policy.check(tat, now, cost);
            match decision.retry_after_us {
                None => prop_assert!(cost > policy.limit()),
                Some(0) => prop_assert!(decision.allowed),
                Some(wait) => {
                    prop_assert!(!policy.check(tat, now + wait - 1, cost).allowed);
                    prop_assert!(policy.check(tat, now + wait, cost).allowed);
                }
            }
            let full = policy.check(decision.new_tat.or(tat), now + decision.reset_after_us, 0);
            prop_assert_eq!(full.remaining, policy.limit());
        }

        #[test]
        fn refusals_and_peeks_leave_no_trace((policy, requests) in runs()) {
            let admitted = run(&policy, &requests);
            let mut last = 0;
            let alone: Vec<_> = admitted.iter().map(|(at, cost)| { let pause = at - last; last = *at; (pause, *cost) }).collect();
            prop_assert_eq!(run(&policy, &alone), admitted);
        }

        #[test]
        fn any_numbers_give_an_answer_within_its_ranges(limit in 1..=MAX_LIMIT, period_us in 1_000..30_000_000_000_000_u64, tat in any::<Option<i64>>(), now in any::<i64>(), cost in any::<u32>()) {
            let policy = policy(limit, period_us);
            let decision = policy.check(tat, now, cost);
            prop_assert!(decision.remaining <= limit);
            prop_assert!((0..=policy.window_us()).contains(&decision.reset_after_us));
            prop_assert!(decision.retry_after_us.is_none_or(|wait| (0..=policy.window_us()).contains(&wait)));
            prop_assert_eq!(decision.new_tat.is_some(), decision.allowed && cost > 0);
            let _ = policy.refund(tat, now, cost);
        }

        #[test]
        fn what_remains_is_what_can_be_spent((policy, requests) in runs()) {
            let (mut now, mut tat) = (0, None);
            for (pause, cost) in requests {
                now += pause;
                let decision = policy.check(tat, now, cost);
                tat = decision.new_tat.or(tat);
                prop_assert!(policy.check(tat, now, decision.remaining).allowed);
                prop_assert!(!policy.check(tat, now, decision.remaining + 1).allowed);
            }
        }

        #[test]
        fn a_refund_undoes_its_charge((policy, requests) in runs(), cost in 1..20_u32) {
            let (mut now, mut tat) = (0, None);
            for (pause, earlier) in requests {
                now += pause;
                tat = policy.check(tat, now, earlier).new_tat.or(tat);
            }
            let charged = policy.check(tat, now, cost);
            if charged.allowed {
                let refunded = policy.refund(charged.new_tat, now, cost);
                prop_assert_eq!(policy.check(refunded, now, 0), policy.check(tat, now, 0));
            }
        }
    }
}
