//! Identifiers. All are UUIDv7: they sort by the microsecond they were made in, so indexes grow at one end, and
//! a list in the order of time needs no index of its own.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new one, ordered by `now`.
            #[must_use]
            pub fn new(now: Timestamp) -> Self {
                Self(uuid_v7(now))
            }

            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            /// Takes the hyphenated form only, so that one resource has one address.
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse::<uuid::fmt::Hyphenated>().map(|id| Self(id.into_uuid()))
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    };
}

id!(
    /// A user. It leads every primary key of what belongs to the user.
    UserId
);
id!(
    /// A transaction of the ledger.
    TransactionId
);
id!(
    /// A session; not its token, which is secret.
    SessionId
);
id!(
    /// A service key; not its token, which is secret.
    KeyId
);

impl TransactionId {
    /// When it was made.
    #[must_use]
    pub(crate) fn made_at(self) -> Timestamp {
        let [a, b, c, d, e, f, high, low, ..] = self.0.into_bytes();
        let millis = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        let fraction = u64::from(u16::from_be_bytes([high & 0x0F, low]));
        let micros = millis * 1_000 + (fraction * 1_000).div_ceil(4_096);
        Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// Not above any that is made at `at` or later, and above all that were made before.
    pub(crate) fn earliest(at: Timestamp) -> Self {
        Self(uuid_v7_with(at, [0; 10]))
    }
}

/// A UUIDv7, ordered by `now` to the microsecond.
pub(crate) fn uuid_v7(now: Timestamp) -> Uuid {
    uuid_v7_with(now, bytes_of_an_id())
}

/// The twelve bits after the milliseconds hold their fraction (RFC 9562, section 6.2, method 3), which tells
/// microseconds apart; 62 of the last 64 bits are random.
fn uuid_v7_with(now: Timestamp, mut random: [u8; 10]) -> Uuid {
    let micros = u64::try_from(now.micros()).unwrap_or(0);
    let fraction = u16::try_from(micros % 1_000 * 4_096 / 1_000).unwrap_or(0);
    let [high, low] = fraction.to_be_bytes();
    let [first, second, ..] = &mut random;
    (*first, *second) = (high, low);
    uuid::Builder::from_unix_timestamp_millis(micros / 1_000, &random).into_uuid()
}

/// Random bytes for an id, which has to be unique and is no secret: the operating system is asked for a hundred
/// at once, since a batch needs a thousand.
fn bytes_of_an_id() -> [u8; 10] {
    thread_local! {
        static KEPT: RefCell<Vec<[u8; 10]>> = const { RefCell::new(Vec::new()) };
    }
    KEPT.with_borrow_mut(|kept| {
        if kept.is_empty() {
            let fresh: [u8; 1_000] = random_bytes();
            kept.extend_from_slice(fresh.as_chunks().0);
        }
        kept.pop().unwrap_or_else(random_bytes)
    })
}

/// `N` bytes from the operating system's generator.
///
/// # Panics
/// When the operating system has no random numbers to give: nothing safe can be done then.
#[must_use]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0_u8; N];
    #[expect(
        clippy::expect_used,
        reason = "without randomness no token or id is safe"
    )]
    getrandom::fill(&mut bytes).expect("the operating system gives random numbers");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_the_microsecond_that_they_were_made_in() {
        let at = |micros: i64| Timestamp::from_micros(1_700_000_000_000_000 + micros);
        for micros in (0..3_000).chain([999_999, 1_000_000]) {
            let (now, next) = (at(micros), at(micros + 1));
            let (id, later) = (TransactionId::new(now), TransactionId::new(next));
            assert!(id < later, "{micros}");
            assert!(TransactionId::earliest(now) <= id, "{micros}");
            assert_eq!(id.made_at(), now);
            assert!(id < TransactionId::earliest(next), "{micros}");
            assert_eq!(
                (id.0.get_version_num(), id.0.get_variant()),
                (7, uuid::Variant::RFC4122)
            );
        }
    }

    #[test]
    fn ids_of_one_microsecond_differ() {
        let ids: std::collections::BTreeSet<_> =
            (0..1_000).map(|_| UserId::new(Timestamp::EPOCH)).collect();
        assert_eq!(ids.len(), 1_000);
    }
}
