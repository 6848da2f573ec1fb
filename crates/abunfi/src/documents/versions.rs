//! The arithmetic of versions and the demands of writers, pure, so that every store agrees on them.

use sha2::{Digest, Sha256};

use super::{DocumentKind, EPOCH_SHIFT, Error, Expected, Head, HeadWrite, HeadWritten};
use crate::clock::Timestamp;

/// The version of a write that follows `current` (0: nothing was written, or it was imported) in `epoch`.
#[must_use]
pub fn next(current: i64, epoch: i64) -> i64 {
    let first_of_epoch = epoch.checked_shl(EPOCH_SHIFT).unwrap_or(i64::MAX);
    current.max(first_of_epoch).saturating_add(1)
}

/// The version of an entry of dev data after `current` (`None`: there is none). It leaves no tombstone when it
/// goes, so a new one counts from the moment it is made, in microseconds: its tag is none that an earlier
/// entry of its key had, and nobody who knows that one takes the new entry for it.
#[must_use]
pub fn next_entry(current: Option<i64>, now: Timestamp) -> i64 {
    current.map_or_else(|| now.micros().max(1), |version| version.saturating_add(1))
}

/// The hash of a tombstone: SHA-256 of nothing.
#[must_use]
pub fn tombstone_hash() -> [u8; 32] {
    Sha256::digest([]).into()
}

/// The head of a document that was never written: what deleting it gives back.
#[must_use]
pub fn never_written(kind: DocumentKind, at: Timestamp) -> Head {
    Head {
        kind,
        version: 0,
        hash: tombstone_hash(),
        deleted: true,
        applied_version: -1,
        image: None,
        updated_at: at,
    }
}

/// Whether a user-owned document whose head is `head` may be written.
///
/// A document that was never written is at version 0, and a deleted one at its tombstone's, since that is
/// what a reader was told; `If-None-Match: *` holds for both.
///
/// # Errors
/// [`Error::VersionMismatch`].
pub fn check_head(expected: Expected, head: Option<&Head>) -> Result<(), Error> {
    let holds = match expected {
        Expected::Anything => true,
        Expected::Version(version) => head.map_or(0, |head| head.version) == version,
        Expected::Absent => head.is_none_or(|head| head.deleted),
    };
    if holds {
        Ok(())
    } else {
        Err(Error::VersionMismatch {
            current: head.map(|head| head.version),
        })
    }
}

/// Whether an entry at version `current` (`None`: there is none) may be written: dev data, assets.
#[must_use]
pub fn holds(expected: Expected, current: Option<i64>) -> bool {
    match expected {
        Expected::Anything => true,
        Expected::Version(version) => current == Some(version),
        Expected::Absent => current.is_none(),
    }
}

/// What `write` makes of the locked `head` in `epoch`. `applied`: the document store is the same
/// database, so that the new version is applied at once and no image is kept. `None`: a deletion of what
/// is not there, which changes nothing.
///
/// # Errors
/// [`Error::VersionMismatch`].
pub fn write(
    head: Option<&Head>,
    write: &HeadWrite,
    epoch: i64,
    applied: bool,
) -> Result<Option<HeadWritten>, Error> {
    check_head(write.expected, head)?;
    let is_live = head.is_some_and(|head| !head.deleted);
    if write.content.is_none() && !is_live {
        return Ok(None);
    }
    let version = next(head.map_or(0, |head| head.version), epoch);
    let written = Head {
        kind: write.key.kind,
        version,
        hash: write
            .content
            .as_ref()
            .map_or_else(tombstone_hash, |content| content.hash),
        deleted: write.content.is_none(),
        applied_version: if applied {
            version
        } else {
            head.map_or(-1, |head| head.applied_version)
        },
        image: write
            .content
            .as_ref()
            .filter(|_content| !applied)
            .map(|content| content.canonical.clone()),
        updated_at: head.map_or(write.at, |head| head.updated_at.max(write.at)),
    };
    Ok(Some(HeadWritten {
        head: written,
        created: write.content.is_some() && !is_live,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: i64, deleted: bool) -> Head {
        Head {
            kind: DocumentKind::Metadata,
            version,
            hash: [0; 32],
            deleted,
            applied_version: version,
            image: None,
            updated_at: Timestamp::EPOCH,
        }
    }

    #[test]
    fn a_raised_epoch_puts_the_next_version_above_all_earlier_ones() {
        assert_eq!(next(0, 0), 1);
        assert_eq!(next(7, 0), 8);
        assert_eq!(next(7, 1), (1 << EPOCH_SHIFT) + 1);
        assert_eq!(next((1 << EPOCH_SHIFT) + 1, 1), (1 << EPOCH_SHIFT) + 2);
    }

    #[test]
    fn a_tombstone_is_absent_but_keeps_its_version() {
        let dead = head(5, true);
        assert!(check_head(Expected::Absent, Some(&dead)).is_ok());
        assert!(check_head(Expected::Version(5), Some(&dead)).is_ok());
        assert!(check_head(Expected::Version(4), Some(&dead)).is_err());
        assert!(check_head(Expected::Absent, Some(&head(5, false))).is_err());
        assert!(check_head(Expected::Version(0), None).is_ok());
        assert!(check_head(Expected::Version(1), None).is_err());
    }
}
