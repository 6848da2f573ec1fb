//! The names of keys in Redis.
//!
//! What the cache stores carries the run id of the server, which changes with every start. A server that
//! comes back with an older state (its last second, or its last snapshot, was not on disk) would bring
//! values back that were invalidated meanwhile; under the new id nobody finds them, and they expire. A
//! replica that becomes master has an id of its own as well.
//!
//! Names are hash-tagged: what concerns one user is in one slot of a Cluster.

use std::sync::Arc;

#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: Arc<str>,
}

/// Characters of a UUID with hyphens.
const UUID_CHARS: usize = 36;

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    pub(super) fn cached(&self, run: &str, key: &str) -> String {
        format!("{}c:{run}:{{{}}}:{key}", self.prefix, slot(key))
    }

    pub(super) fn tag(&self, run: &str, tag: &str) -> String {
        format!("{}t:{run}:{{{}}}:{tag}", self.prefix, slot(tag))
    }

    /// A tag that everything carries. No caller's tag is like it, for lack of braces.
    pub(super) fn everything(&self, run: &str) -> String {
        format!("{}t:{run}", self.prefix)
    }

    pub(super) fn sequence(&self, run: &str) -> String {
        format!("{}s:{run}", self.prefix)
    }

    pub(super) fn channel(&self) -> String {
        format!("{}notices", self.prefix)
    }

    pub(super) fn limit(&self, key: &str) -> String {
        format!("{}l:{key}", self.prefix)
    }

    pub(super) fn temp(&self, key: &str) -> String {
        format!("{}v:{key}", self.prefix)
    }
}

/// What decides the slot: the user, when the name holds an id of one, else the whole name.
fn slot(name: &str) -> &str {
    (0..name.len())
        .filter_map(|start| name.get(start..start + UUID_CHARS))
        .find(|part| uuid::Uuid::try_parse(part).is_ok())
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_one_user_is_in_one_slot() {
        let id = "0198c0de-0000-7000-8000-000000000001";
        let keys = Keys::new("p:");
        let tagged = format!("{{{id}}}");
        for name in [
            format!("profile:{id}"),
            format!("{id}:é"),
            format!("user:{id}"),
        ] {
            assert!(keys.cached("r", &name).contains(&tagged), "{name}");
            assert!(keys.tag("r", &name).contains(&tagged), "{name}");
        }
        assert_eq!(keys.cached("r", "plain"), "p:c:r:{plain}:plain");
    }
}
