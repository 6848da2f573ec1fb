//! How user-owned documents are written: one relational commit, applied to the document store right after.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::canonical::{Root, check_document};
use super::merge_patch::merge_patch;
use super::preferences::check_preferences;
use super::reading::Resolved;
use super::relay::OwnApply;
use super::service::Found;
use super::*;
use crate::cache::user_tag;
use crate::context::Context;
use crate::detached::detached;
use crate::error::{StoreError, StoreKind};
use crate::outbox::{self, Promises};
use crate::transaction::guard;
use crate::validation::Faults;

/// How often a patch that nobody bound to a version starts again after it lost to another writer.
const PATCH_ROUNDS: usize = 16;

/// A write of a user-owned document.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    Put(Value),
    /// RFC 7396, onto the current document only: with a stale one it is refused as unavailable.
    Patch(Value),
    Delete,
}

/// What [`Service::apply_now`] came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplyReport {
    /// Accepted, and left to the relay.
    pub pending: Vec<DocumentKey>,
    /// The document store did not answer.
    pub store_away: bool,
}

impl Service {
    /// Accepted (committed in the relational store) on return, and applied to the document store if that
    /// answers within the deadline.
    pub async fn write(
        &self,
        ctx: &Context,
        key: DocumentKey,
        write: Write,
        expected: Expected,
    ) -> Result<DocumentView, Error> {
        guard::outside(StoreKind::Relational)?;
        if let Write::Put(value) = &write {
            check(key.kind, value, "").map_err(Error::Invalid)?;
        }
        let (this, ctx) = (self.clone(), ctx.clone());
        detached(async move { this.write_and_show(&ctx, key, write, expected).await }).await
    }

    async fn write_and_show(
        &self,
        ctx: &Context,
        key: DocumentKey,
        write: Write,
        expected: Expected,
    ) -> Result<DocumentView, Error> {
        let is_free_patch = matches!(write, Write::Patch(_)) && expected == Expected::Anything;
        for _round in 0..PATCH_ROUNDS {
            let prepared = self.prepare(key, &write, expected).await?;
            let writing = self.stores.heads.write(ctx, &prepared.head_write);
            let (written, promises) = outbox::collecting(writing).await;
            match written {
                Ok(written) => {
                    let report = self.after_commit(&[key], promises).await;
                    return Ok(shown(
                        key.kind,
                        written.head.version,
                        prepared.value,
                        report.pending.contains(&key),
                        self.clock.now(),
                    ));
                }
                Err(Error::VersionMismatch { .. }) if is_free_patch => {}
                Err(error) => {
                    if matches!(error, Error::Store(StoreError::OutcomeUnknown { .. })) {
                        // It may be committed yet: its promise stays for those who see it then.
                        self.after_commit(&[key], Promises::default()).await;
                    }
                    return Err(error);
                }
            }
        }
        Err(contended(StoreKind::Relational))
    }

    /// Everything that the transaction needs from elsewhere: read before it, compared and set in it.
    async fn prepare(
        &self,
        key: DocumentKey,
        write: &Write,
        expected: Expected,
    ) -> Result<Prepared, Error> {
        let heads = self
            .stores
            .heads
            .heads(key.user_id)
            .await?
            .ok_or(Error::NotFound)?;
        let head = heads.iter().find(|head| head.kind == key.kind);
        let import = match head {
            None if !self.stores.relational => self.import(key).await?,
            _ => None,
        };
        let (value, expected) = match write {
            Write::Put(value) => (Some(value.clone()), expected),
            Write::Delete => (None, expected),
            Write::Patch(patch) => {
                let (base, version) = self
                    .patch_base(key, head, import.as_ref(), expected)
                    .await?;
                let value = merge_patch(base, patch);
                check(key.kind, &value, "").map_err(Error::Invalid)?;
                // What the caller demands holds for the base, or for nothing at all.
                let expected = match expected {
                    Expected::Anything => Expected::Version(version),
                    demanded => demanded,
                };
                (Some(value), expected)
            }
        };
        let head_write = HeadWrite {
            key,
            expected,
            content: value.as_ref().map(NewDocument::of),
            import: import
                .as_ref()
                .map(|document| NewDocument::of(&document.value)),
            at: self.clock.now(),
        };
        Ok(Prepared { head_write, value })
    }

    /// A document that the document store had before this platform wrote it.
    async fn import(&self, key: DocumentKey) -> Result<Option<StoredDocument>, StoreError> {
        let adopted = self
            .stores
            .content
            .adopt(key)
            .await
            .map_err(|error| match error {
                // Whether the mark was set or not: the write itself has not begun.
                StoreError::OutcomeUnknown { store, reason } => {
                    StoreError::Unavailable { store, reason }
                }
                other => other,
            })?;
        Ok(adopted.filter(|document| !document.deleted))
    }

    /// What a patch starts from, and its version: the current document, or nothing where there is none.
    async fn patch_base(
        &self,
        key: DocumentKey,
        head: Option<&Head>,
        import: Option<&StoredDocument>,
        expected: Expected,
    ) -> Result<(Value, i64), Error> {
        versions::check_head(expected, head)?;
        let nothing = Value::Object(Map::new());
        match (head, import) {
            (Some(head), _) if head.deleted => Ok((nothing, head.version)),
            (Some(head), _) => self.current(key, head).await,
            (None, Some(_)) if expected == Expected::Absent => {
                Err(Error::VersionMismatch { current: Some(0) })
            }
            (None, Some(import)) => Ok((import.value.clone(), 0)),
            (None, None) => Ok((nothing, 0)),
        }
    }

    /// The current content and its version, or unavailable: a patch onto anything else would bring old
    /// fields back.
    async fn current(&self, key: DocumentKey, head: &Head) -> Result<(Value, i64), Error> {
        let mut found = Found {
            heads: vec![head.clone()],
            content: self.fetch(key.user_id).await,
        };
        let mut judged = found.judge(key.kind);
        if found.content.is_ok() && judged.is_none() {
            found = self.look_again(key.user_id, found).await;
            judged = found.judge(key.kind);
        }
        let resolved = self.settle(key, &found, judged).await;
        if !resolved.is_sure() {
            let reason = "the current document cannot be read";
            return Err(StoreError::unavailable(StoreKind::Documents, reason).into());
        }
        let value = resolved.value.unwrap_or_else(|| Value::Object(Map::new()));
        Ok((value, resolved.version))
    }

    /// What must follow a commit that changed documents of users: this instance shows it at once.
    async fn after_commit(&self, keys: &[DocumentKey], promises: Promises) -> ApplyReport {
        let mut tags: Vec<String> = keys.iter().map(|key| user_tag(key.user_id)).collect();
        tags.dedup();
        let (report, ()) = tokio::join!(self.apply_now(keys), self.cache.keep(&tags, promises));
        report
    }

    /// Applies what a commit of another domain (a new user) left in the heads, up to the deadline.
    pub async fn apply_now(&self, keys: &[DocumentKey]) -> ApplyReport {
        if self.stores.relational {
            return ApplyReport::default();
        }
        let applies = keys.iter().map(|key| {
            let (relay, key) = (Arc::clone(&self.relay), *key);
            // In a task of its own: the answer waits for it only so long, and it goes on.
            let task = tokio::spawn(async move { relay.apply_own(key).await });
            async move { (key, tokio::time::timeout(self.apply_deadline, task).await) }
        });
        let mut report = ApplyReport::default();
        for (key, outcome) in futures::future::join_all(applies).await {
            match outcome {
                Ok(Ok(OwnApply::Applied)) => {}
                Ok(Ok(OwnApply::Left { store_away })) => {
                    report.pending.push(key);
                    report.store_away |= store_away;
                }
                Ok(Err(_)) => report.pending.push(key),
                Err(_elapsed) => {
                    report.pending.push(key);
                    report.store_away = true;
                }
            }
        }
        report
    }

    /// The documents of a user who was made just now, without reading them back.
    pub(crate) fn just_made(
        &self,
        heads: &[Head],
        preferences: Value,
        metadata: Value,
        report: &ApplyReport,
    ) -> UserDocuments {
        let now = self.clock.now();
        let view = |kind, value| {
            let is_pending = report.pending.iter().any(|key| key.kind == kind);
            let head = heads.iter().find(|head| head.kind == kind);
            shown(
                kind,
                head.map_or(0, |head| head.version),
                Some(value),
                is_pending,
                now,
            )
        };
        UserDocuments {
            preferences: view(DocumentKind::Preferences, preferences),
            metadata: view(DocumentKind::Metadata, metadata),
            store_away: report.store_away,
        }
    }
}

struct Prepared {
    head_write: HeadWrite,
    /// As it will be; `None`: deleted.
    value: Option<Value>,
}

/// A document after its commit.
fn shown(
    kind: DocumentKind,
    version: i64,
    value: Option<Value>,
    is_pending: bool,
    now: Timestamp,
) -> DocumentView {
    let state = if is_pending {
        Freshness::Pending
    } else {
        Freshness::Current
    };
    let resolved = Resolved {
        value,
        version,
        state,
        as_of: None,
    };
    resolved.into_view(kind, now)
}

/// Checks a document of that kind, which stands at the JSON pointer `at` of a body: all faults at once.
pub(crate) fn check(kind: DocumentKind, value: &Value, at: &str) -> Result<(), Faults> {
    let mut faults = check_document(value, at, Root::Object)
        .err()
        .unwrap_or_default();
    if kind == DocumentKind::Preferences && value.is_object() {
        faults.extend(check_preferences(value, at).err().unwrap_or_default());
    }
    faults.into_result()
}

/// Others kept winning: certainly not done.
pub(super) fn contended(store: StoreKind) -> Error {
    Error::Store(StoreError::Overloaded {
        store,
        reason: "others kept changing the document".to_owned(),
        retry_after: Duration::from_secs(1),
    })
}
