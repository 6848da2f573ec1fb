//! What a document is, given its head and what the document store says: pure.
//!
//! Invariant: [`Freshness::Current`] is said only of content whose version and hash are the head's, and
//! of content that never had a head.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::parse::{MAX_BODY_DEPTH, parse_json};
use super::{
    DocumentKind, DocumentState, DocumentView, Freshness, Head, StoredDocument, preferences,
};
use crate::clock::Timestamp;

/// A document as far as it could be found out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Resolved {
    /// As stored; `None`: there is none, or it is deleted.
    pub(super) value: Option<Value>,
    pub(super) version: i64,
    pub(super) state: Freshness,
    /// When a copy was known to be right; for what is known now, the caller's now.
    pub(super) as_of: Option<Timestamp>,
}

impl Resolved {
    /// Whether it is what the head says, so that a patch may start from it.
    pub(super) const fn is_sure(&self) -> bool {
        matches!(self.state, Freshness::Current | Freshness::Pending)
    }

    /// As it is served.
    pub(super) fn into_view(self, kind: DocumentKind, now: Timestamp) -> DocumentView {
        let as_of = if self.is_sure() {
            Some(now)
        } else {
            self.as_of
        };
        let value = self.value.unwrap_or_else(|| Value::Object(Map::new()));
        DocumentView {
            value: match kind {
                DocumentKind::Preferences => preferences::effective(&value),
                DocumentKind::Metadata => value,
            },
            version: self.version,
            state: DocumentState {
                state: self.state,
                as_of,
            },
        }
    }
}

/// What the document store says of one document.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content<'a> {
    Read(Option<&'a StoredDocument>),
    Away,
}

impl<'a> Content<'a> {
    pub(super) const fn document(self) -> Option<&'a StoredDocument> {
        match self {
            Self::Read(document) => document,
            Self::Away => None,
        }
    }
}

/// The last copy that was served as current, as the cache keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub(super) version: i64,
    #[serde(with = "hex::serde")]
    pub(super) hash: [u8; 32],
    /// Canonical JSON.
    pub(super) canonical: String,
    pub(super) as_of: Timestamp,
}

/// The document, if head and content settle it: what matches the head, else the head's image. `None`:
/// they disagree, or too little is known.
pub(super) fn judge(head: Option<&Head>, content: Content<'_>) -> Option<Resolved> {
    let Some(head) = head else {
        return judge_without_head(content);
    };
    let accepted = if head.applied_version >= head.version {
        Freshness::Current
    } else {
        Freshness::Pending
    };
    if head.deleted {
        return Some(Resolved {
            value: None,
            version: head.version,
            state: accepted,
            as_of: None,
        });
    }
    if let Some(document) = content.document()
        && is_of(document, head)
    {
        return Some(Resolved {
            value: Some(document.value.clone()),
            version: head.version,
            state: Freshness::Current,
            as_of: None,
        });
    }
    let image = head
        .image
        .as_deref()
        .and_then(|image| read(image, head.hash))?;
    Some(Resolved {
        value: Some(image),
        version: head.version,
        state: accepted,
        as_of: None,
    })
}

/// A document that was never written through this platform is what the document store says. One that
/// was, and has no head, is not to be trusted: the relational store does not know it.
fn judge_without_head(content: Content<'_>) -> Option<Resolved> {
    let value = match content {
        Content::Away => return None,
        Content::Read(None) => None,
        Content::Read(Some(document)) if document.version == 0 => Some(document.value.clone()),
        Content::Read(Some(_unknown)) => return None,
    };
    Some(Resolved {
        value,
        version: 0,
        state: Freshness::Current,
        as_of: None,
    })
}

fn is_of(document: &StoredDocument, head: &Head) -> bool {
    !document.deleted && document.version == head.version && document.hash == head.hash
}

/// The best that is left when [`judge`] has not settled it: the remembered copy if it is the head's,
/// else the newest older copy, else nothing. The version is that of what is shown, so that no client
/// overwrites by it what it has not seen.
pub(super) fn fall_back(
    head: Option<&Head>,
    content: Content<'_>,
    remembered: Option<Remembered>,
) -> Resolved {
    let remembered = remembered.and_then(|copy| {
        let value = read(&copy.canonical, copy.hash)?;
        let is_current = head.is_some_and(|head| {
            !head.deleted && head.version == copy.version && head.hash == copy.hash
        });
        let state = if is_current {
            Freshness::Current
        } else {
            Freshness::Stale
        };
        Some(Resolved {
            value: Some(value),
            version: copy.version,
            state,
            as_of: Some(copy.as_of),
        })
    });
    if let Some(copy) = remembered
        .as_ref()
        .filter(|copy| copy.state == Freshness::Current)
    {
        return copy.clone();
    }
    let read = content
        .document()
        .filter(|document| !document.deleted)
        .map(|document| Resolved {
            value: Some(document.value.clone()),
            version: document.version,
            state: Freshness::Stale,
            as_of: None,
        });
    [read, remembered]
        .into_iter()
        .flatten()
        .max_by_key(|copy| copy.version)
        .unwrap_or(Resolved {
            value: None,
            version: 0,
            state: Freshness::Default,
            as_of: None,
        })
}

/// The value of a canonical text, if it is what the hash says.
fn read(canonical: &str, hash: [u8; 32]) -> Option<Value> {
    let computed: [u8; 32] = Sha256::digest(canonical.as_bytes()).into();
    let value = (computed == hash)
        .then(|| parse_json(canonical.as_bytes(), MAX_BODY_DEPTH).ok())
        .flatten()
        .and_then(|parsed| parsed.into_value().ok());
    if value.is_none() {
        tracing::error!("a copy of a document is damaged, and left aside");
    }
    value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::documents::NewDocument;

    const VERSION: i64 = 5;

    fn of(version: i64, value: &Value) -> StoredDocument {
        StoredDocument {
            kind: DocumentKind::Metadata,
            version,
            hash: NewDocument::of(value).hash,
            deleted: false,
            value: value.clone(),
        }
    }

    /// Applied, without an image.
    fn head(value: &Value) -> Head {
        Head {
            kind: DocumentKind::Metadata,
            version: VERSION,
            hash: NewDocument::of(value).hash,
            deleted: false,
            applied_version: VERSION,
            image: None,
            updated_at: Timestamp::EPOCH,
        }
    }

    fn pending(value: &Value) -> Head {
        Head {
            applied_version: VERSION - 1,
            image: Some(NewDocument::of(value).canonical),
            ..head(value)
        }
    }

    fn remembered(version: i64, value: &Value) -> Remembered {
        let NewDocument { canonical, hash } = NewDocument::of(value);
        Remembered {
            version,
            hash,
            canonical,
            as_of: Timestamp::from_micros(7),
        }
    }

    fn shown(resolved: Option<Resolved>) -> Option<(Option<Value>, i64, Freshness)> {
        resolved.map(|resolved| (resolved.value, resolved.version, resolved.state))
    }

    #[test]
    fn content_with_the_heads_version_and_hash_is_current() {
        let value = json!({"a": 1});
        let document = of(VERSION, &value);
        assert_eq!(
            shown(judge(Some(&head(&value)), Content::Read(Some(&document)))),
            Some((Some(value), VERSION, Freshness::Current))
        );
    }

    #[test]
    fn content_of_another_version_or_hash_gives_way_to_the_image() {
        let (new, old) = (json!({"a": 2}), json!({"a": 1}));
        for content in [
            Content::Read(Some(&of(VERSION - 1, &old))),
            Content::Read(Some(&of(VERSION, &old))),
            Content::Read(Some(&of(VERSION + 1, &old))),
            Content::Read(None),
            Content::Away,
        ] {
            let image = Some((Some(new.clone()), VERSION, Freshness::Pending));
            assert_eq!(shown(judge(Some(&pending(&new)), content)), image);
            assert_eq!(shown(judge(Some(&head(&new)), content)), None, "no image");
        }
    }

    #[test]
    fn an_image_that_was_applied_is_current_whatever_the_store_says() {
        let value = json!({"a": 2});
        let head = Head {
            applied_version: VERSION,
            ..pending(&value)
        };
        assert_eq!(
            shown(judge(Some(&head), Content::Away)),
            Some((Some(value), VERSION, Freshness::Current))
        );
    }

    #[test]
    fn a_damaged_image_is_not_served() {
        let mut head = pending(&json!({"a": 2}));
        head.image = Some(r#"{"a":3}"#.to_owned());
        assert_eq!(judge(Some(&head), Content::Away), None);
    }

    #[test]
    fn a_tombstone_beats_any_document_and_any_copy() {
        let value = json!({"a": 1});
        let head = Head {
            deleted: true,
            ..head(&value)
        };
        for content in [
            Content::Read(Some(&of(VERSION + 9, &value))),
            Content::Read(Some(&of(VERSION, &value))),
            Content::Away,
        ] {
            assert_eq!(
                shown(judge(Some(&head), content)),
                Some((None, VERSION, Freshness::Current))
            );
        }
        let pending = Head {
            applied_version: 0,
            ..head
        };
        let pending = judge(Some(&pending), Content::Away);
        assert_eq!(shown(pending), Some((None, VERSION, Freshness::Pending)));
    }

    #[test]
    fn a_deleted_document_is_not_the_live_one_of_its_head() {
        let mut document = of(VERSION, &json!(null));
        document.deleted = true;
        let head = head(&json!(null));
        assert_eq!(judge(Some(&head), Content::Read(Some(&document))), None);
    }

    #[test]
    fn without_a_head_only_what_this_platform_never_wrote_is_current() {
        let value = json!({"a": 1});
        assert_eq!(
            shown(judge(None, Content::Read(None))),
            Some((None, 0, Freshness::Current))
        );
        assert_eq!(
            shown(judge(None, Content::Read(Some(&of(0, &value))))),
            Some((Some(value.clone()), 0, Freshness::Current))
        );
        assert_eq!(judge(None, Content::Read(Some(&of(3, &value)))), None);
        assert_eq!(judge(None, Content::Away), None);
    }

    #[test]
    fn the_remembered_copy_is_current_if_it_is_the_heads_and_stale_with_its_age_if_not() {
        let (new, old) = (json!({"a": 2}), json!({"a": 1}));
        let copy = Some(remembered(VERSION, &new));
        let found = fall_back(Some(&head(&new)), Content::Away, copy);
        assert_eq!((found.state, found.version), (Freshness::Current, VERSION));

        let copy = Some(remembered(VERSION - 1, &old));
        let found = fall_back(Some(&head(&new)), Content::Away, copy);
        assert_eq!(
            (found.state, found.version),
            (Freshness::Stale, VERSION - 1)
        );
        assert_eq!(found.value, Some(old));
        assert_eq!(found.as_of, Some(Timestamp::from_micros(7)));
    }

    #[test]
    fn of_two_older_copies_the_newer_is_shown() {
        let (new, old, older) = (json!({"a": 3}), json!({"a": 2}), json!({"a": 1}));
        let document = of(VERSION - 1, &old);
        let copy = Some(remembered(VERSION - 2, &older));
        let found = fall_back(Some(&head(&new)), Content::Read(Some(&document)), copy);
        assert_eq!((found.value, found.state), (Some(old), Freshness::Stale));
    }

    #[test]
    fn with_nothing_at_all_the_defaults_are_marked_as_such() {
        let head = head(&json!({"language": "en"}));
        let found = fall_back(Some(&head), Content::Away, None);
        assert_eq!((found.state, found.version), (Freshness::Default, 0));
        let view = found.into_view(DocumentKind::Preferences, Timestamp::EPOCH);
        assert_eq!(view.value, preferences::defaults());
        assert_eq!(view.state.as_of, None);
    }
}
