//! Developers' data and logs: what goes straight to the document store.

use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::canonical::{Root, canonical_json, check_document};
use super::merge_patch::merge_patch;
use super::writing::contended;
use super::*;
use crate::error::{StoreError, StoreKind};
use crate::ledger::Page;
use crate::validation::{FaultCode, Faults};

/// Longest name of a namespace or a key, by the contract.
pub const MAX_NAME_CHARS: usize = 200;
/// Most entries in one call, by the contract.
pub const MAX_LOG_ENTRIES: usize = 1_000;
/// Longest message. A log line is read by people; what is longer belongs into a document.
pub const MAX_LOG_MESSAGE_BYTES: usize = 8 * 1024;
/// Longest target: module paths are far shorter.
pub const MAX_LOG_TARGET_CHARS: usize = 200;
/// Largest `fields`, in canonical form: with the message it keeps a page of 200 lines within 5 MiB.
pub const MAX_LOG_FIELDS_BYTES: usize = 16 * 1024;
/// Longest request id, as everywhere.
const MAX_REQUEST_ID_CHARS: usize = 128;

/// How often a patch that nobody bound to a version starts again after it lost to another writer.
const PATCH_ROUNDS: usize = 16;

impl Service {
    pub async fn dev_data(
        &self,
        namespace: &str,
        key: &str,
    ) -> Result<Option<DevDataEntry>, StoreError> {
        if !is_name(namespace) || !is_name(key) {
            return Ok(None);
        }
        self.stores
            .dev_data
            .get(namespace, key, self.clock.now())
            .await
    }

    /// Checks the limits and the names; the flag says whether it was made.
    pub async fn put_dev_data(
        &self,
        namespace: &str,
        key: &str,
        value: Value,
        ttl: Option<Duration>,
        expected: Expected,
    ) -> Result<(DevDataEntry, bool), Error> {
        check_entry(namespace, key, ttl)?;
        check_document(&value, "", Root::Any).map_err(Error::Invalid)?;
        let now = self.clock.now();
        let write = DevDataWrite {
            namespace: namespace.to_owned(),
            key: key.to_owned(),
            value,
            expected,
            expires_at: ttl.map(|ttl| now.plus(ttl)),
            now,
        };
        self.stores.dev_data.put(&write).await
    }

    /// RFC 7396 onto what is there; `NotFound` when there is nothing. `ttl: None` keeps the expiry.
    pub async fn patch_dev_data(
        &self,
        namespace: &str,
        key: &str,
        patch: Value,
        ttl: Option<Duration>,
        expected: Expected,
    ) -> Result<DevDataEntry, Error> {
        check_entry(namespace, key, ttl)?;
        for _round in 0..PATCH_ROUNDS {
            let now = self.clock.now();
            let there = self
                .stores
                .dev_data
                .get(namespace, key, now)
                .await?
                .ok_or(Error::NotFound)?;
            if !versions::holds(expected, Some(there.version)) {
                return Err(Error::VersionMismatch {
                    current: Some(there.version),
                });
            }
            let value = merge_patch(there.value, &patch);
            check_document(&value, "", Root::Any).map_err(Error::Invalid)?;
            let write = DevDataWrite {
                namespace: namespace.to_owned(),
                key: key.to_owned(),
                value,
                expected: Expected::Version(there.version),
                expires_at: ttl.map_or(there.expires_at, |ttl| Some(now.plus(ttl))),
                now,
            };
            match self.stores.dev_data.put(&write).await {
                Ok((entry, _made)) => return Ok(entry),
                Err(Error::VersionMismatch { .. }) if expected == Expected::Anything => {}
                Err(error) => return Err(error),
            }
        }
        Err(contended(StoreKind::Documents))
    }

    /// Also succeeds when there is nothing; `VersionMismatch` when `expected` does not hold.
    pub async fn delete_dev_data(
        &self,
        namespace: &str,
        key: &str,
        expected: Expected,
    ) -> Result<(), Error> {
        check_entry(namespace, key, None)?;
        let now = self.clock.now();
        self.stores
            .dev_data
            .delete(namespace, key, expected, now)
            .await
            .map(drop)
    }

    pub async fn list_dev_data(
        &self,
        namespace: &str,
        prefix: &str,
        page: &Page<String>,
    ) -> Result<Vec<DevDataEntry>, StoreError> {
        let can_match = is_name(namespace) && (prefix.is_empty() || is_name(prefix));
        if !can_match || page.after.as_deref().is_some_and(|after| !is_name(after)) {
            return Ok(Vec::new());
        }
        self.stores
            .dev_data
            .list(namespace, prefix, page, self.clock.now())
            .await
    }

    /// Durable on return. Faults point into the array: `/0/message`.
    pub async fn append_logs(&self, entries: &[LogEntry]) -> Result<(), Error> {
        let mut faults = Faults::new();
        if entries.len() > MAX_LOG_ENTRIES {
            faults.add("", FaultCode::TooLong, "at most 1,000 entries");
        } else {
            for (index, entry) in entries.iter().enumerate() {
                check_log_entry(entry, &format!("/{index}"), &mut faults);
            }
        }
        faults.into_result().map_err(Error::Invalid)?;
        let expires_at = self.clock.now().plus(self.log_retention);
        Ok(self.stores.logs.append(entries, expires_at).await?)
    }

    pub async fn logs(
        &self,
        filter: &LogFilter,
        page: &Page<(Timestamp, Uuid)>,
    ) -> Result<Vec<LogEntry>, StoreError> {
        self.stores.logs.query(filter, page, self.clock.now()).await
    }
}

/// 1–200 of `A-Za-z0-9._:-`.
fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_CHARS).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'))
}

fn check_entry(namespace: &str, key: &str, ttl: Option<Duration>) -> Result<(), Error> {
    let mut faults = Faults::new();
    for (pointer, name) in [("/namespace", namespace), ("/key", key)] {
        if !is_name(name) {
            faults.add(
                pointer,
                FaultCode::BadFormat,
                "must be 1 to 200 of A-Z, a-z, 0-9, ., _, : and -",
            );
        }
    }
    if ttl == Some(Duration::ZERO) {
        faults.add("/ttl", FaultCode::OutOfRange, "must be above zero");
    }
    faults.into_result().map_err(Error::Invalid)
}

/// Checks one log entry, which stands at the JSON pointer `at` of a body.
pub fn check_log_entry(entry: &LogEntry, at: &str, faults: &mut Faults) {
    let target_chars = entry.target.chars().count();
    if target_chars == 0 {
        let pointer = format!("{at}/target");
        faults.add(pointer, FaultCode::TooShort, "must not be empty");
    }
    if target_chars > MAX_LOG_TARGET_CHARS {
        let pointer = format!("{at}/target");
        faults.add(pointer, FaultCode::TooLong, "at most 200 characters");
    }
    if entry.message.len() > MAX_LOG_MESSAGE_BYTES {
        faults.add(format!("{at}/message"), FaultCode::TooLong, "at most 8 KiB");
    }
    for (field, text) in [("target", &entry.target), ("message", &entry.message)] {
        if text.contains('\0') {
            let pointer = format!("{at}/{field}");
            faults.add(pointer, FaultCode::NotAllowed, "must not hold NUL");
        }
    }
    let fields = format!("{at}/fields");
    match check_document(&entry.fields, &fields, Root::Object) {
        Err(found) => faults.extend(found),
        Ok(()) if canonical_json(&entry.fields).len() > MAX_LOG_FIELDS_BYTES => {
            faults.add(fields, FaultCode::TooLong, "at most 16 KiB");
        }
        Ok(()) => {}
    }
    if let Some(request_id) = &entry.request_id {
        let is_visible = request_id.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_visible || !(1..=MAX_REQUEST_ID_CHARS).contains(&request_id.len()) {
            faults.add(
                format!("{at}/request_id"),
                FaultCode::BadFormat,
                "must be 1 to 128 visible ASCII characters",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_those_of_the_contract() {
        for name in ["a", "A.b_c:d-9", &"x".repeat(200)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "a/b", "a b", "é", "a~", "$a", &"x".repeat(201)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn every_fault_of_a_log_entry_is_found_at_once() {
        let entry = LogEntry {
            id: Uuid::nil(),
            at: Timestamp::EPOCH,
            level: LogLevel::Info,
            target: "t\0".repeat(101),
            message: "\0".repeat(MAX_LOG_MESSAGE_BYTES + 1),
            fields: json!({"$x": "y".repeat(MAX_LOG_FIELDS_BYTES)}),
            request_id: Some("a b".to_owned()),
        };
        let mut faults = Faults::new();
        check_log_entry(&entry, "/3", &mut faults);
        let found: Vec<_> = faults
            .iter()
            .map(|fault| (fault.pointer.as_str(), fault.code.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("/3/target", "too_long"),
                ("/3/message", "too_long"),
                ("/3/target", "not_allowed"),
                ("/3/message", "not_allowed"),
                ("/3/fields/$x", "not_allowed"),
                ("/3/request_id", "bad_format"),
            ]
        );
    }
}
