//! Checkpoints: every chain, nothing twice, nothing late, nothing lost; and old ones can be made again.

use std::collections::BTreeMap;

use abunfi::audit::checkpoint::{Checkpoint, Leaf, Signer};
use abunfi::audit::merkle::{self, Tree};
use abunfi::audit::{Attempt, Head, PLATFORM, USER_CHAIN};
use abunfi::ids::{KeyId, UserId, random_bytes};
use abunfi::keys::{Scope, ServiceKey};
use abunfi::users::{KycChange, KycStatus};

use crate::support::make::{Shape as _, context, deposit, next_time};
use crate::support::{Backend, Relational, at_once, on_every_backend};

on_every_backend!(
    a_checkpoint_covers_every_chain,
    a_ledger_without_news_makes_none,
    only_what_has_grown_changes_and_every_old_root_can_be_made_again,
    many_chains_take_several_checkpoints,
    every_leaf_of_the_newest_checkpoint_can_be_proved,
    two_at_once_make_one_after_the_other,
    checkpoints_refuse_update_and_delete,
    a_damaged_tree_is_made_again,
    leaves_that_were_changed_make_no_checkpoint,
    a_chain_that_was_cut_keeps_its_leaf,
    positions_that_began_anew_are_noticed,
    rows_that_wait_are_counted,
);
/// What takes a server with several writers at once.
mod writers_at_once {
    use super::{
        a_row_that_commits_during_a_long_look_is_not_lost,
        a_transaction_that_commits_late_is_in_the_next_checkpoint, another_cluster_is_noticed,
    };
    use crate::support::on_one_backend;

    on_one_backend!(
        postgres, Postgres:
        a_transaction_that_commits_late_is_in_the_next_checkpoint,
        a_row_that_commits_during_a_long_look_is_not_lost,
        another_cluster_is_noticed,
    );
}

const MANY: u32 = 10_000;

fn signer() -> Signer {
    Signer::of_seed(&[3; 32])
}

async fn attempt(stores: &Relational, max_chains: u32) -> Attempt {
    let signer = signer();
    let made = stores
        .checkpoints
        .make_checkpoint(Some(&signer), next_time(), max_chains);
    made.await.unwrap()
}

/// Makes one, which there must be something for.
async fn checkpoint(stores: &Relational) -> Checkpoint {
    match attempt(stores, MANY).await {
        Attempt::Made { checkpoint, .. } => checkpoint,
        other => panic!("{other:?}"),
    }
}

/// Users, platform, money: some of every kind of chain.
async fn some_of_each(stores: &Relational) -> UserId {
    stores.asset("USDT").await;
    let user = stores.user_with("An", 10).await;
    stores.posted(deposit(user, 3).asset("USDT")).await;
    let kyc = KycChange {
        status: KycStatus::Verified,
        data: None,
        reason: Some("papers seen".to_owned()),
        salts: [random_bytes(), random_bytes()],
    };
    let now = next_time();
    stores
        .users
        .set_kyc(&context(), user, &kyc, None, now)
        .await
        .unwrap();
    let key = ServiceKey {
        id: KeyId::new(now),
        owner: "tests".to_owned(),
        scopes: vec![Scope::Read],
        token_hash: random_bytes(),
        created_at: now,
        revoked_at: None,
    };
    stores.keys.insert(&context(), &key).await.unwrap();
    user
}

/// Where every chain ends, by the trail itself.
async fn heads(stores: &Relational) -> BTreeMap<(UserId, String), Head> {
    let mut heads = BTreeMap::new();
    let mut users = stores.all_users().await;
    users.push(PLATFORM);
    for user in users {
        for chain in [
            "VND",
            "USDT",
            USER_CHAIN,
            "system",
            "asset:VND",
            "asset:USDT",
        ] {
            let rows = stores.check_chain(user, chain).await;
            if let Some(last) = rows.last() {
                heads.insert((user, chain.to_owned()), last.head());
            }
        }
    }
    heads
}

async fn all_leaves(stores: &Relational) -> Vec<abunfi::audit::LeafState> {
    // Pages of 3, so that the paging is under test as well.
    let mut all: Vec<abunfi::audit::LeafState> = Vec::new();
    loop {
        let after = all.last().map_or(-1, |last| last.leaf.leaf);
        let page = stores.checkpoints.leaves(after, 3).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// What leaves hold is where the chains end.
async fn check_everything_is_covered(stores: &Relational) {
    let held: BTreeMap<_, _> = all_leaves(stores)
        .await
        .into_iter()
        .map(|state| ((state.leaf.user_id, state.leaf.chain), state.head))
        .collect();
    assert_eq!(held, heads(stores).await);
}

/// Makes every checkpoint again out of what the leaves were, and checks signatures and the chain.
async fn replay(stores: &Relational) -> Vec<Checkpoint> {
    let checkpoints = stores.checkpoints.checkpoints(0, MANY).await.unwrap();
    let leaves: BTreeMap<i64, Leaf> = all_leaves(stores)
        .await
        .into_iter()
        .map(|state| (state.leaf.leaf, state.leaf))
        .collect();
    let mut changes = Vec::new();
    loop {
        let after = changes
            .last()
            .map_or((0, -1), |last: &abunfi::audit::checkpoint::LeafChange| {
                (last.checkpoint, last.leaf)
            });
        let page = stores.checkpoints.leaf_changes(after, 5).await.unwrap();
        if page.is_empty() {
            break;
        }
        changes.extend(page);
    }
    let mut changes = changes.into_iter().peekable();
    let (mut tree, mut seqs) = (Tree::default(), BTreeMap::new());
    let mut previous: Option<&Checkpoint> = None;
    for checkpoint in &checkpoints {
        while let Some(change) = changes.next_if(|change| change.checkpoint == checkpoint.number) {
            let hash = leaves[&change.leaf].hash(change.head);
            assert!(tree.set(usize::try_from(change.leaf).unwrap(), hash));
            assert!(seqs.insert(change.leaf, change.head.seq) < Some(change.head.seq));
        }
        assert_eq!(checkpoint.check(), Ok(()));
        assert_eq!(checkpoint.check_follows(previous), Ok(()));
        assert_eq!(
            checkpoint.seal.map(|seal| seal.public_key),
            Some(signer().public_key())
        );
        assert_eq!(
            checkpoint.root,
            tree.root(),
            "checkpoint {}",
            checkpoint.number
        );
        assert_eq!(usize::try_from(checkpoint.size).unwrap(), tree.size());
        assert_eq!(checkpoint.covered_rows, seqs.values().sum::<i64>());
        assert_eq!(
            checkpoint.ledger_id,
            stores.checkpoints.ledger_id().await.unwrap()
        );
        previous = Some(checkpoint);
    }
    assert!(changes.next().is_none(), "a change of no checkpoint");
    checkpoints
}

async fn a_checkpoint_covers_every_chain(stores: &Relational) {
    let user = some_of_each(stores).await;
    let first = checkpoint(stores).await;
    let chains: Vec<_> = heads(stores).await.into_keys().collect();
    assert_eq!(
        chains,
        [
            (PLATFORM, "asset:USDT".to_owned()),
            (PLATFORM, "system".to_owned()),
            (user, "USDT".to_owned()),
            (user, "VND".to_owned()),
            (user, USER_CHAIN.to_owned()),
        ],
        "every kind of chain"
    );
    assert_eq!((first.number, first.size, first.covered_rows), (1, 5, 5));
    check_everything_is_covered(stores).await;
    replay(stores).await;
    assert_eq!(
        stores.checkpoints.newest_checkpoint().await.unwrap(),
        Some(first)
    );
}

async fn a_ledger_without_news_makes_none(stores: &Relational) {
    assert_eq!(
        attempt(stores, MANY).await,
        Attempt::Nothing { more: false }
    );
    let user = stores.user_with("An", 10).await;
    checkpoint(stores).await;
    for _ in 0..3 {
        assert_eq!(
            attempt(stores, MANY).await,
            Attempt::Nothing { more: false }
        );
    }
    stores.posted(deposit(user, 1)).await;
    assert_eq!(checkpoint(stores).await.number, 2);
}

async fn only_what_has_grown_changes_and_every_old_root_can_be_made_again(stores: &Relational) {
    let mut users = Vec::new();
    // Beyond one tile of leaves, in steps that end inside, at, and behind the edges of tiles.
    for (round, count) in [3, 13, 1, 20, 2].into_iter().enumerate() {
        for number in 0..count {
            users.push(stores.user_with(&format!("u{round}x{number}"), 5).await);
        }
        stores.posted(deposit(users[0], 1)).await;
        let Attempt::Made {
            checkpoint,
            chains,
            more,
        } = attempt(stores, MANY).await
        else {
            panic!("nothing new");
        };
        let again = u64::from(round > 0);
        assert_eq!(
            (chains, more),
            (u64::try_from(count).unwrap() + again, false)
        );
        assert_eq!(usize::try_from(checkpoint.size).unwrap(), users.len());
        check_everything_is_covered(stores).await;
    }
    assert_eq!(replay(stores).await.len(), 5);
    // A leaf is a chain's for ever.
    let leaves = stores
        .checkpoints
        .leaves_of(users[0], Some("VND"), 1)
        .await
        .unwrap();
    let now = stores
        .checkpoints
        .leaves_of(users[0], None, 5)
        .await
        .unwrap();
    assert_eq!(
        (leaves[0].leaf.clone(), leaves[0].head.seq),
        (now[0].leaf.clone(), 2)
    );
    assert_eq!((now[0].head.seq, now[0].checkpoint), (6, 5));
    assert!(
        stores
            .checkpoints
            .leaves_of(users[5], None, 1)
            .await
            .unwrap()
            .is_empty()
    );
}

async fn many_chains_take_several_checkpoints(stores: &Relational) {
    for number in 0..7 {
        stores.user_with(&format!("u{number}"), 5).await;
    }
    let mut sizes = Vec::new();
    loop {
        match attempt(stores, 3).await {
            Attempt::Made {
                checkpoint, more, ..
            } => {
                sizes.push(checkpoint.size);
                if !more {
                    break;
                }
                // What comes meanwhile is in this look or in the next one.
                if sizes.len() == 1 {
                    for user in stores.all_users().await {
                        stores.posted(deposit(user, 1)).await;
                    }
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sizes, [3, 6, 7]);
    loop {
        match attempt(stores, 3).await {
            Attempt::Made { more: true, .. } | Attempt::Nothing { more: true } => {}
            Attempt::Made { .. } | Attempt::Nothing { .. } => break,
            Attempt::Busy | Attempt::NeedsKey { .. } => {
                panic!("nobody else is there, and there is a key")
            }
        }
    }
    check_everything_is_covered(stores).await;
    replay(stores).await;
}

async fn every_leaf_of_the_newest_checkpoint_can_be_proved(stores: &Relational) {
    for number in 0..18 {
        stores.user_with(&format!("u{number}"), 5).await;
    }
    let newest = checkpoint(stores).await;
    let size = u64::try_from(newest.size).unwrap();
    for state in all_leaves(stores).await {
        let leaf = u64::try_from(state.leaf.leaf).unwrap();
        let places = merkle::tiles_of_leaf(leaf, size);
        let stored = stores.checkpoints.tiles(&places).await.unwrap();
        let found: Vec<_> = stored.iter().map(|(place, _)| *place).collect();
        assert_eq!(found, places);
        let tiles: Vec<_> = stored.into_iter().map(|(_, hashes)| hashes).collect();
        let path = merkle::path_of_tiles(leaf, &tiles);
        let hash = state.leaf.hash(state.head);
        assert_eq!(
            merkle::root_of_path(leaf, size, hash, &path),
            Some(newest.root)
        );
    }
}

async fn two_at_once_make_one_after_the_other(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    for _ in 0..5 {
        stores.posted(deposit(user, 1)).await;
        let attempts = at_once(6, |_| {
            let stores = stores.clone();
            async move { attempt(&stores, MANY).await }
        });
        let attempts = attempts.await;
        let made = attempts
            .iter()
            .filter(|attempt| matches!(attempt, Attempt::Made { .. }));
        assert_eq!(made.count(), 1, "{attempts:?}");
    }
    assert_eq!(replay(stores).await.len(), 5);
}

/// The database must refuse it; whether by a trigger or by a key is its business.
async fn refused(stores: &Relational, sql: &str) {
    match stores.raw.execute(sql).await {
        Ok(rows) => panic!("{sql} changed {rows} rows"),
        Err(sqlx::Error::Database(_)) => {}
        Err(error) => panic!("{sql}: {error}"),
    }
}

async fn checkpoints_refuse_update_and_delete(stores: &Relational) {
    stores.user_with("An", 10).await;
    checkpoint(stores).await;
    for (table, column) in [
        ("checkpoints", "size"),
        ("chain_leaves", "leaf"),
        ("leaf_changes", "seq"),
    ] {
        refused(
            stores,
            &format!("UPDATE {table} SET {column} = {column} + 1"),
        )
        .await;
        refused(stores, &format!("DELETE FROM {table}")).await;
        if stores.backend == Backend::Postgres {
            refused(stores, &format!("TRUNCATE {table}")).await;
        } else {
            refused(
                stores,
                &format!("INSERT OR REPLACE INTO {table} SELECT * FROM {table}"),
            )
            .await;
        }
    }
    replay(stores).await;
}

/// Lets an administrator through, as in the tests of the trail.
async fn without_triggers(stores: &Relational, table: &str) {
    if stores.backend == Backend::Postgres {
        let sql = format!("ALTER TABLE {table} DISABLE TRIGGER USER");
        stores.raw.execute(&sql).await.unwrap();
        return;
    }
    let sql =
        format!("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = '{table}'");
    for trigger in stores.raw.texts(&sql).await {
        stores
            .raw
            .execute(&format!("DROP TRIGGER {trigger}"))
            .await
            .unwrap();
    }
}

async fn a_damaged_tree_is_made_again(stores: &Relational) {
    let mut users = Vec::new();
    for number in 0..20 {
        users.push(stores.user_with(&format!("u{number}"), 5).await);
    }
    checkpoint(stores).await;
    let blank = match stores.backend {
        Backend::Postgres => "decode(repeat('00', 512), 'hex')",
        Backend::Sqlite => "zeroblob(512)",
    };
    for damage in [
        "DELETE FROM merkle_tiles".to_owned(),
        "DELETE FROM merkle_tiles WHERE level = 0 AND tile = 0".to_owned(),
        format!("UPDATE merkle_tiles SET hashes = {blank} WHERE level = 0 AND tile = 0"),
        format!("UPDATE merkle_tiles SET hashes = {blank} WHERE level = 1"),
    ] {
        assert!(stores.raw.execute(&damage).await.unwrap() > 0);
        stores.posted(deposit(users[3], 1)).await;
        stores.posted(deposit(users[9], 1)).await;
        checkpoint(stores).await;
        replay(stores).await;
    }
    // Growing is a change like any other.
    stores.user_with("another", 1).await;
    stores
        .raw
        .execute("DELETE FROM merkle_tiles")
        .await
        .unwrap();
    checkpoint(stores).await;
    replay(stores).await;
}

async fn leaves_that_were_changed_make_no_checkpoint(stores: &Relational) {
    let user = stores.user_with("An", 5).await;
    stores.user_with("Binh", 5).await;
    checkpoint(stores).await;
    without_triggers(stores, "chain_leaves").await;
    let swap = "UPDATE chain_leaves SET leaf = leaf + 10";
    stores.raw.execute(swap).await.unwrap();
    stores
        .raw
        .execute("DELETE FROM merkle_tiles")
        .await
        .unwrap();
    stores.posted(deposit(user, 1)).await;
    let signer = Signer::of_seed(&[1; 32]);
    let refused = stores
        .checkpoints
        .make_checkpoint(Some(&signer), next_time(), MANY)
        .await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(
        stores.checkpoints.checkpoints(0, 10).await.unwrap().len(),
        1
    );
}

async fn a_chain_that_was_cut_keeps_its_leaf(stores: &Relational) {
    let user = stores.user_with("An", 5).await;
    stores.posted(deposit(user, 1)).await;
    stores.posted(deposit(user, 1)).await;
    let other = stores.user_with("Binh", 5).await;
    checkpoint(stores).await;
    without_triggers(stores, "audit").await;
    stores
        .raw
        .execute("DELETE FROM audit WHERE seq > 1")
        .await
        .unwrap();
    // A chain that is looked at again, with less than its leaf holds.
    stores
        .raw
        .execute("UPDATE checkpoint_state SET since = 0")
        .await
        .unwrap();
    stores.posted(deposit(other, 1)).await;
    checkpoint(stores).await;
    let held = stores.checkpoints.leaves_of(user, None, 2).await.unwrap();
    assert_eq!((held[0].head.seq, held[0].checkpoint), (3, 1));
    replay(stores).await;
}

/// A restored database may count from the beginning.
async fn positions_that_began_anew_are_noticed(stores: &Relational) {
    let user = stores.user_with("An", 5).await;
    checkpoint(stores).await;
    let ahead = "UPDATE checkpoint_state SET since = since + 1000000000000";
    stores.raw.execute(ahead).await.unwrap();
    // Also by whoever asks whether there is anything to be done.
    assert_eq!(stores.checkpoints.rows_waiting(5).await.unwrap(), 1);
    stores.posted(deposit(user, 1)).await;
    assert_eq!(stores.checkpoints.rows_waiting(5).await.unwrap(), 2);
    assert_eq!(checkpoint(stores).await.covered_rows, 2);
    stores.posted(deposit(user, 1)).await;
    assert_eq!(checkpoint(stores).await.covered_rows, 3);
    check_everything_is_covered(stores).await;
}

async fn rows_that_wait_are_counted(stores: &Relational) {
    let waiting = async || stores.checkpoints.rows_waiting(5).await.unwrap();
    assert_eq!(waiting().await, 0);
    let user = stores.user_with("An", 5).await;
    assert_eq!(waiting().await, 1);
    for _ in 0..9 {
        stores.posted(deposit(user, 1)).await;
    }
    assert_eq!(waiting().await, 5, "counted up to the bound");
    checkpoint(stores).await;
    if stores.backend == Backend::Sqlite {
        assert_eq!(waiting().await, 0);
    }
}

/// It takes its transaction id, writes, and is still open when the checkpoint is made.
async fn a_transaction_that_commits_late_is_in_the_next_checkpoint(stores: &Relational) {
    let late = stores.user_with("Late", 5).await;
    let early = stores.user_with("Early", 5).await;
    checkpoint(stores).await;
    let mut open = stores.transactions.begin().await.unwrap();
    open.update_user_balance(&deposit(late, 1)).await.unwrap();
    // Later ids commit first, and a checkpoint covers them.
    for _ in 0..3 {
        stores.posted(deposit(early, 1)).await;
        assert_eq!(checkpoint(stores).await.covered_rows, rows(stores).await);
    }
    open.commit().await.unwrap();
    let last = checkpoint(stores).await;
    assert_eq!(last.covered_rows, rows(stores).await);
    check_everything_is_covered(stores).await;
    replay(stores).await;
}

async fn rows(stores: &Relational) -> i64 {
    stores.raw.number("SELECT count(*) FROM audit").await
}

/// The same while a look over many chains is under way: behind its place, and before its end.
async fn a_row_that_commits_during_a_long_look_is_not_lost(stores: &Relational) {
    let mut users = Vec::new();
    for number in 0..5 {
        users.push(stores.user_with(&format!("u{number}"), 5).await);
    }
    checkpoint(stores).await;
    users.sort_unstable();
    let mut open = stores.transactions.begin().await.unwrap();
    open.update_user_balance(&deposit(users[0], 1))
        .await
        .unwrap();
    for user in &users[1..] {
        stores.posted(deposit(*user, 1)).await;
    }
    let Attempt::Made { more: true, .. } = attempt(stores, 3).await else {
        panic!("the look was over at once");
    };
    open.commit().await.unwrap();
    while let Attempt::Made { more: true, .. } | Attempt::Nothing { more: true } =
        attempt(stores, 3).await
    {}
    attempt(stores, MANY).await;
    check_everything_is_covered(stores).await;
    replay(stores).await;
}

async fn another_cluster_is_noticed(stores: &Relational) {
    let user = stores.user_with("An", 5).await;
    checkpoint(stores).await;
    // A row whose id this cluster gave long ago, as after a restore into one that had counted further.
    stores.posted(deposit(user, 1)).await;
    without_triggers(stores, "audit").await;
    stores
        .raw
        .execute("UPDATE audit SET written_by = 5")
        .await
        .unwrap();
    assert_eq!(
        attempt(stores, MANY).await,
        Attempt::Nothing { more: false }
    );
    let moved = "UPDATE checkpoint_state SET cluster = cluster + 1";
    assert_eq!(stores.raw.execute(moved).await.unwrap(), 1);
    assert_eq!(stores.checkpoints.rows_waiting(5).await.unwrap(), 2);
    assert_eq!(checkpoint(stores).await.covered_rows, 2);
    check_everything_is_covered(stores).await;
}
