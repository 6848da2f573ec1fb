//! What a checkpoint says, and how it is signed. Pure. The bytes are those of `docs/audit-format.md`.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{GENESIS, Hash, Head, merkle};
use crate::clock::Timestamp;
use crate::ids::UserId;

/// The first bytes of a leaf; a new format gets a new one.
const LEAF_DOMAIN: &[u8] = b"abunfi.leaf.v1\n";
/// The first bytes of what is signed.
const CHECKPOINT_DOMAIN: &[u8] = b"abunfi.checkpoint.v1\n";

/// An Ed25519 public key.
pub type PublicKey = [u8; 32];

/// Where all chains of a ledger ended at some moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose checkpoint it is: made once, at random, with the database.
    pub ledger_id: Uuid,
    /// Counts from 1 without gaps.
    pub number: i64,
    /// The hash of the checkpoint before; [`GENESIS`] for the first.
    pub previous_hash: Hash,
    /// Leaves in the tree, one for each chain that has a row.
    pub size: i64,
    /// The tree's root.
    pub root: Hash,
    /// Rows of the trail that it covers: the sum of the leaves' `seq`.
    pub covered_rows: i64,
    /// When it was made; never before the one before.
    pub at: Timestamp,
    /// SHA-256 over the signed bytes.
    pub hash: Hash,
    /// `None`: made without a key.
    pub seal: Option<Seal>,
}

/// Who signed a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    pub public_key: PublicKey,
    pub signature: [u8; 64],
}

/// Where a leaf's chain ended, since which checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafChange {
    pub checkpoint: i64,
    pub leaf: i64,
    pub head: Head,
}

/// Which chain a leaf is of, for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    pub leaf: i64,
    pub user_id: UserId,
    pub chain: String,
}

impl Leaf {
    /// Its hash in the tree while its chain ends at `head`.
    #[must_use]
    pub fn hash(&self, head: Head) -> Hash {
        merkle::leaf_hash(&leaf_bytes(self.user_id, &self.chain, head))
    }
}

/// The content of a leaf.
#[must_use]
pub fn leaf_bytes(user_id: UserId, chain: &str, head: Head) -> Vec<u8> {
    let mut bytes = LEAF_DOMAIN.to_vec();
    field(&mut bytes, user_id.0.as_bytes());
    field(&mut bytes, chain.as_bytes());
    field(&mut bytes, &head.seq.to_be_bytes());
    field(&mut bytes, &head.hash);
    bytes
}

/// As in a row's hash: 1, the length as 4 bytes big-endian, the bytes.
fn field(bytes: &mut Vec<u8>, content: &[u8]) {
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    bytes.push(1);
    bytes.extend(length.to_be_bytes());
    bytes.extend(content);
}

/// What a new checkpoint says of the tree.
#[derive(Debug, Clone, Copy)]
pub struct Covered {
    pub size: i64,
    pub root: Hash,
    pub rows: i64,
}

/// How a checkpoint disagrees with itself, or with the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("its hash is not that of its content")]
    Hash,
    #[error("its signature is not over its content")]
    Signature,
    #[error("it does not follow the checkpoint before")]
    Previous,
    #[error("it covers less than the checkpoint before, or is older")]
    Backwards,
    #[error("it is of another ledger")]
    Ledger,
}

impl Checkpoint {
    /// The one that follows `previous`.
    #[must_use]
    pub fn next(
        previous: Option<&Self>,
        ledger_id: Uuid,
        covered: Covered,
        at: Timestamp,
        signer: Option<&Signer>,
    ) -> Self {
        let mut next = Self {
            ledger_id,
            number: previous
                .map_or(0, |previous| previous.number)
                .saturating_add(1),
            previous_hash: previous.map_or(GENESIS, |previous| previous.hash),
            size: covered.size,
            root: covered.root,
            covered_rows: covered.rows,
            at: previous.map_or(at, |previous| at.max(previous.at)),
            hash: GENESIS,
            seal: None,
        };
        next.hash = next.computed_hash();
        next.seal = signer.map(|signer| signer.seal(&next.signed_bytes()));
        next
    }

    /// What is hashed and signed.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = CHECKPOINT_DOMAIN.to_vec();
        field(&mut bytes, self.ledger_id.as_bytes());
        field(&mut bytes, &self.number.to_be_bytes());
        field(&mut bytes, &self.previous_hash);
        field(&mut bytes, &self.size.to_be_bytes());
        field(&mut bytes, &self.root);
        field(&mut bytes, &self.covered_rows.to_be_bytes());
        field(&mut bytes, &self.at.micros().to_be_bytes());
        bytes
    }

    /// The hash that it must have.
    #[must_use]
    pub fn computed_hash(&self) -> Hash {
        Sha256::digest(self.signed_bytes()).into()
    }

    /// That its hash and, if it has one, its signature are those of its content. Whether the key that signed
    /// it is to be trusted is for the caller to know.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), Fault> {
        if self.hash != self.computed_hash() {
            return Err(Fault::Hash);
        }
        match &self.seal {
            Some(seal) if !seal.is_over(&self.signed_bytes()) => Err(Fault::Signature),
            _ => Ok(()),
        }
    }

    /// From which checkpoint on all up to this one are signed, given what it was for the one before.
    #[must_use]
    pub fn signed_from(&self, before: Option<i64>) -> Option<i64> {
        self.seal.map(|_seal| before.unwrap_or(self.number))
    }

    /// That it is the checkpoint after `previous` (`None`: the first).
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_follows(&self, previous: Option<&Self>) -> Result<(), Fault> {
        let (number, hash) = previous.map_or((0, GENESIS), |before| (before.number, before.hash));
        if self.number != number.saturating_add(1) || self.previous_hash != hash {
            return Err(Fault::Previous);
        }
        let Some(previous) = previous else {
            return Ok(());
        };
        if self.ledger_id != previous.ledger_id {
            return Err(Fault::Ledger);
        }
        // Every checkpoint covers something that the one before did not.
        let goes_on = self.size >= previous.size
            && self.covered_rows > previous.covered_rows
            && self.at >= previous.at;
        goes_on.then_some(()).ok_or(Fault::Backwards)
    }
}

impl Seal {
    /// Whether it was made over `bytes` by the holder of its key.
    #[must_use]
    pub fn is_over(&self, bytes: &[u8]) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        VerifyingKey::from_bytes(&self.public_key)
            .is_ok_and(|key| key.verify_strict(bytes, &signature).is_ok())
    }
}

/// A signing key. It need not be where the database is.
#[derive(Clone)]
pub struct Signer(SigningKey);

impl Signer {
    /// The key of a seed, 32 random bytes.
    #[must_use]
    pub fn of_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The key of a seed as 64 hexadecimal digits or as base64. `None`: it is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        use base64::Engine as _;
        use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
        let text = text.trim();
        let seed = match hex::decode(text) {
            Ok(seed) => seed,
            Err(_no_hex) => [STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD]
                .iter()
                .find_map(|form| form.decode(text).ok())?,
        };
        Some(Self::of_seed(seed.as_slice().try_into().ok()?))
    }

    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.0.verifying_key().to_bytes()
    }

    fn seal(&self, bytes: &[u8]) -> Seal {
        Seal {
            public_key: self.public_key(),
            signature: self.0.sign(bytes).to_bytes(),
        }
    }
}

/// Shows which key it is, and not the key.
impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", hex::encode(self.public_key()))
    }
}
