//! The tree against the RFC's own definition, and checkpoints against each other.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop where it stands"
)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::checkpoint::{Checkpoint, Covered, Fault, Leaf, Signer, leaf_bytes};
use super::merkle::{
    Above, Change, Tree, leaf_hash, node_hash, path, path_of_tiles, root, root_of_path,
    tiles_of_leaf,
};
use super::{AmountsAfter, Draft, GENESIS, Hash, Head, Private, PrivateField};
use crate::clock::Timestamp;
use crate::context::{Actor, ActorKind};
use crate::ids::{TransactionId, UserId};
use crate::money::Amount;

/// RFC 6962, §2.1, word by word.
fn mth(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [one] => *one,
        many => {
            let k = many.len().next_power_of_two() / 2;
            node_hash(&mth(&many[..k]), &mth(&many[k..]))
        }
    }
}

fn leaf(number: u64) -> Hash {
    leaf_hash(&number.to_be_bytes())
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(leaf).collect()
}

/// From the reference implementation of Certificate Transparency: eight leaves of these contents.
#[test]
fn the_tree_of_the_reference_implementation_has_its_root() {
    let contents = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    let hashes: Vec<_> = contents
        .iter()
        .map(|content| leaf_hash(&hex::decode(content).unwrap()))
        .collect();
    assert_eq!(
        hex::encode(root(&hashes)),
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    );
    assert_eq!(
        hex::encode(root(&[])),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
}

#[test]
fn built_from_the_bottom_it_is_the_tree_that_the_rfc_defines_from_the_top() {
    let mut tree = Tree::default();
    for size in 0..200 {
        let hashes = leaves(size);
        assert_eq!(root(&hashes), mth(&hashes), "{size}");
        assert_eq!(tree.root(), mth(&hashes), "{size}");
        // Made at once it is the same, and goes on as the same.
        let mut at_once = Tree::of(hashes.clone());
        assert_eq!(
            (at_once.size(), at_once.root()),
            (hashes.len(), mth(&hashes))
        );
        assert!(tree.set(tree.size(), leaf(size)));
        assert!(at_once.set(at_once.size(), leaf(size)));
        let middle = hashes.len() / 2;
        let (mut one, mut other) = (tree.clone(), at_once);
        assert!(one.set(middle, leaf(999)) && other.set(middle, leaf(999)));
        assert_eq!(one.root(), other.root(), "{size}");
    }
    assert!(!tree.set(1_000, GENESIS), "no leaf is left out");
}

#[test]
fn every_leaf_is_proved_and_nothing_else_is() {
    for size in 1..70_u64 {
        let hashes = leaves(size);
        let expected = mth(&hashes);
        for index in 0..size {
            let slot = usize::try_from(index).unwrap();
            let proof = path(&hashes, slot);
            assert_eq!(
                root_of_path(index, size, hashes[slot], &proof),
                Some(expected)
            );
            assert_ne!(root_of_path(index, size, leaf(999), &proof), Some(expected));
            if size > 1 {
                let other = (index + 1) % size;
                assert_ne!(
                    root_of_path(other, size, hashes[slot], &proof),
                    Some(expected)
                );
                assert_eq!(root_of_path(index, size, hashes[slot], &proof[1..]), None);
            }
            let longer = [proof, vec![GENESIS]].concat();
            assert_ne!(
                root_of_path(index, size, hashes[slot], &longer),
                Some(expected)
            );
        }
        assert_eq!(root_of_path(size, size, leaf(0), &[]), None);
    }
}

/// The stored tree, as a store keeps it.
#[derive(Default)]
struct Stored(BTreeMap<(u32, u64), Vec<Hash>>);

impl Stored {
    fn change(
        &mut self,
        before: Option<(u64, Hash)>,
        size: u64,
        leaves: &BTreeMap<u64, Hash>,
    ) -> Result<Hash, super::merkle::Damaged> {
        let mut change = Change::new(before, size, leaves.clone());
        loop {
            let level = change.level();
            let loaded = change
                .tiles()
                .into_iter()
                .filter_map(|tile| Some((tile, self.0.get(&(level, tile))?.clone())))
                .collect();
            let (tiles, above) = change.apply(loaded)?;
            for (tile, hashes) in tiles {
                self.0.insert((level, tile), hashes);
            }
            match above {
                Above::Level(above) => change = above,
                Above::Root(root) => return Ok(root),
            }
        }
    }

    fn proof(&self, leaf: u64, size: u64) -> Vec<Hash> {
        let tiles: Vec<_> = tiles_of_leaf(leaf, size)
            .into_iter()
            .map(|place| self.0[&place].clone())
            .collect();
        path_of_tiles(leaf, &tiles)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Grows a stored tree in steps, with changes of leaves that are there, and finds in every step the root
    /// and the proofs of the tree that is made at once; and any damage to a tile that a change reads.
    #[test]
    fn the_stored_tree_is_the_tree(steps in prop::collection::vec((0_u64..400, prop::collection::vec(any::<u64>(), 0..8)), 1..6)) {
        let (mut stored, mut all) = (Stored::default(), Vec::<Hash>::new());
        let mut before = None;
        for (step, (grow, touched)) in (1_u64..).zip(steps) {
            let old = u64::try_from(all.len()).unwrap();
            let size = old + grow;
            let mut changed: BTreeMap<u64, Hash> = (old..size).map(|index| (index, leaf(index))).collect();
            for touched in touched {
                if old > 0 {
                    changed.insert(touched % old, leaf(step * 1_000_000 + touched % 1_000));
                }
            }
            if changed.is_empty() {
                continue;
            }
            for (index, hash) in &changed {
                let index = usize::try_from(*index).unwrap();
                if index < all.len() { all[index] = *hash } else { all.push(*hash) }
            }
            if let (Some(known), Some(first)) = (before, changed.keys().next()) && *first < old {
                let mut damaged = Stored(stored.0.clone());
                damaged.0.get_mut(&(0, first / 16)).unwrap()[0][0] ^= 1;
                prop_assert!(damaged.change(Some(known), size, &changed).is_err());
            }
            let found = stored.change(before, size, &changed).unwrap();
            prop_assert_eq!(found, mth(&all));
            before = Some((size, found));
            for index in [0, size / 2, size - 1] {
                let slot = usize::try_from(index).unwrap();
                prop_assert_eq!(stored.proof(index, size), path(&all, slot));
            }
        }
    }
}

fn made(previous: Option<&Checkpoint>, rows: i64, signer: Option<&Signer>) -> Checkpoint {
    let covered = Covered {
        size: 3,
        root: leaf(7),
        rows,
    };
    let at = Timestamp::from_micros(1_772_323_200_000_000);
    Checkpoint::next(previous, Uuid::from_bytes([7; 16]), covered, at, signer)
}

#[test]
fn checkpoints_follow_each_other_and_no_byte_of_them_can_be_changed() {
    let signer = Signer::of_seed(&[9; 32]);
    let first = made(None, 5, Some(&signer));
    let second = made(Some(&first), 8, Some(&signer));
    assert_eq!((first.number, second.number), (1, 2));
    for (checkpoint, previous) in [(&first, None), (&second, Some(&first))] {
        assert_eq!(checkpoint.check(), Ok(()));
        assert_eq!(checkpoint.check_follows(previous), Ok(()));
    }
    assert_eq!(second.check_follows(None), Err(Fault::Previous));
    assert_eq!(first.check_follows(Some(&first)), Err(Fault::Previous));
    assert_eq!(
        made(Some(&first), 5, None).check_follows(Some(&first)),
        Err(Fault::Backwards)
    );

    let edits: [fn(&mut Checkpoint); 7] = [
        |c| c.number += 1,
        |c| c.size += 1,
        |c| c.covered_rows += 1,
        |c| c.root[0] ^= 1,
        |c| c.previous_hash[31] ^= 1,
        |c| c.at = Timestamp::from_micros(c.at.micros() + 1),
        |c| c.ledger_id = Uuid::nil(),
    ];
    for edit in edits {
        let mut edited = second.clone();
        edit(&mut edited);
        assert_eq!(edited.check(), Err(Fault::Hash));
        // With its hash made good, the signature does not fit.
        edited.hash = edited.computed_hash();
        assert_eq!(edited.check(), Err(Fault::Signature));
    }
    let mut unsigned = made(None, 5, None);
    assert_eq!((unsigned.seal, unsigned.check()), (None, Ok(())));
    unsigned.seal = second.seal;
    assert_eq!(unsigned.check(), Err(Fault::Signature));
}

/// RFC 8032, §7.1, test 1.
#[test]
fn a_seed_is_read_as_hexadecimal_digits_and_as_base64() {
    let hex = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    for text in [
        hex,
        " 9D61B19DEFFD5A60BA844AF492EC2CC44449C5697B326919703BAC031CAE7F60\n",
        "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=",
        "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
    ] {
        let signer = Signer::parse(text).unwrap();
        assert_eq!(hex::encode(signer.public_key()), public);
        assert_eq!(
            format!("{signer:?}"),
            format!("Signer({public})"),
            "never the seed"
        );
    }
    for text in ["", "9d61", "not a key", &hex[..62]] {
        assert!(Signer::parse(text).is_none(), "{text}");
    }
}

/// The worked example of the document: its bytes, in the order in which they stand there.
#[test]
fn the_worked_example_of_the_document_is_what_the_code_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/audit-format.md");
    let text = std::fs::read_to_string(path).unwrap();
    let example = text.split_once("<!-- vector: start -->").unwrap().1;
    let blocks: Vec<Vec<u8>> = example
        .split("```text\n")
        .skip(1)
        .map(|block| {
            let digits = block.split_once("```").unwrap().0.replace('\n', "");
            hex::decode(digits).unwrap()
        })
        .collect();
    let [
        commitment,
        row_bytes,
        row_hash,
        leaf_content,
        leaf_hash_bytes,
        signed,
        hash,
        public_key,
        signature,
    ] = <[Vec<u8>; 9]>::try_from(blocks).unwrap();

    let id = |text: &str| text.parse::<Uuid>().unwrap();
    let amount = |micros| Amount::from_micros(micros).unwrap();
    let draft = Draft {
        user_id: UserId(id("01890000-0000-7000-8000-000000000001")),
        chain: "VND".to_owned(),
        transaction_id: Some(TransactionId(id("01890000-0000-7000-8000-000000000002"))),
        action: "post_deposit",
        previous_status: None,
        new_status: Some("confirmed".into()),
        amount: Some(amount(1_500_000)),
        shares: Some(Amount::ZERO),
        after: Some(AmountsAfter {
            available: amount(1_500_000),
            locked: Amount::ZERO,
            shares: Amount::ZERO,
            locked_shares: Amount::ZERO,
        }),
        actor: Actor {
            kind: ActorKind::ServiceKey,
            id: "admin".into(),
            session_id: None,
        },
        request_id: "request-1".into(),
        trace_id: None,
        at: Timestamp::from_micros(1_772_323_200_000_000),
        private: vec![Private {
            field: PrivateField::Reason,
            salt: std::array::from_fn(|index| u8::try_from(index).unwrap()),
            value: "first deposit".to_owned(),
        }],
    };
    let (row, _) = draft.seal(Head::EMPTY);
    assert_eq!(row.reason_commitment.unwrap().to_vec(), commitment);
    assert_eq!(row.hash.to_vec(), row_hash);
    assert_eq!(Sha256::digest(row_bytes).to_vec(), row_hash);

    let leaf = Leaf {
        leaf: 0,
        user_id: row.user_id,
        chain: row.chain.clone(),
    };
    assert_eq!(leaf_bytes(row.user_id, "VND", row.head()), leaf_content);
    assert_eq!(leaf.hash(row.head()).to_vec(), leaf_hash_bytes);

    let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let covered = Covered {
        size: 1,
        root: leaf.hash(row.head()),
        rows: 1,
    };
    let checkpoint = Checkpoint::next(
        None,
        id("00000000-0000-4000-8000-00000000abcd"),
        covered,
        Timestamp::from_micros(1_772_323_260_000_000),
        Some(&Signer::parse(seed).unwrap()),
    );
    assert_eq!(checkpoint.signed_bytes(), signed);
    assert_eq!(checkpoint.hash.to_vec(), hash);
    let seal = checkpoint.seal.unwrap();
    assert_eq!(seal.public_key.to_vec(), public_key);
    assert_eq!(seal.signature.to_vec(), signature);
}
