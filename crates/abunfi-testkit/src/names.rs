//! Names that no other test, process or earlier run uses.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A name such as `abunfi_test_4711_3_9f86d081884c7d65`: process, counter, 64 random bits.
///
/// Fits where names are narrow: ASCII lower case, digits and `_`, at most 63 bytes (`PostgreSQL`'s
/// limit for identifiers), so it serves as database name, key prefix and document database alike.
#[must_use]
pub fn unique_name() -> String {
    let count = NEXT.fetch_add(1, Ordering::Relaxed);

    format!(
        "abunfi_test_{}_{count}_{:016x}",
        std::process::id(),
        random()
    )
}

/// 64 random bits, without a dependency: the standard library seeds its hash maps from the
/// system's generator.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_thousand_names_are_distinct_and_fit_an_identifier() {
        let names: HashSet<String> = (0..1_000).map(|_| unique_name()).collect();

        assert_eq!(names.len(), 1_000);
        for name in &names {
            assert!(name.len() <= 63, "{name}");
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
        }
    }

    #[test]
    fn randomness_differs_from_call_to_call() {
        let values: HashSet<u64> = (0..100).map(|_| random()).collect();

        assert_eq!(values.len(), 100);
    }
}
