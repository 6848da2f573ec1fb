//! The work queue of effects that commits promised.

use std::collections::BTreeSet;
use std::time::Duration;

use abunfi::clock::Timestamp;
use abunfi::documents::{DocumentKey, DocumentKind, Expected, HeadWrite};
use abunfi::ids::{UserId, random_bytes};
use abunfi::outbox::{self, Backlog, Claimed, Effect};
use abunfi::users::{KycChange, KycStatus, Name, NewUser, UserChange};
use serde_json::json;

use crate::support::make::{
    Shape as _, at, context, deposit, document, new_user, next_time, withdraw,
};
use crate::support::{Relational, at_once, on_every_backend};

on_every_backend!(
    every_commit_that_changes_a_user_promises_an_invalidation,
    what_was_refused_promises_nothing_of_its_own,
    a_slice_promises_all_of_its_users_in_one_row,
    young_rows_are_left_to_those_who_wrote_them,
    rows_are_claimed_oldest_first_and_bounded,
    a_leased_row_is_nobody_else_s_until_the_lease_runs_out,
    finishing_needs_the_lease,
    no_row_is_claimed_twice_by_workers_at_once,
    the_backlog_says_what_is_left,
    a_writer_knows_its_rows_and_all_see_them_until_they_are_deleted,
);

on_every_backend!(
    without_outbox:
    without_an_l2_nothing_is_promised,
);

const MINUTE: Duration = Duration::from_secs(60);
/// Later than anything that a test writes.
const LATE: i64 = 5_000_000;

async fn claim(stores: &Relational, limit: u32, now: Timestamp) -> Vec<Claimed> {
    stores
        .outbox
        .claim(limit, Duration::ZERO, MINUTE, now)
        .await
        .unwrap()
}

fn tags(claimed: &Claimed) -> BTreeSet<&str> {
    let Effect::Invalidate { tags } = &claimed.effect;
    tags.iter().map(String::as_str).collect()
}

/// Takes all rows out; the tags of each.
async fn drained(stores: &Relational) -> Vec<BTreeSet<String>> {
    let claimed = claim(stores, 1_000, at(LATE)).await;
    stores.outbox.finish(&claimed).await.unwrap();
    assert_eq!(stores.outbox.backlog().await.unwrap(), Backlog::default());
    claimed
        .iter()
        .map(|row| tags(row).into_iter().map(str::to_owned).collect())
        .collect()
}

fn tag(user: UserId) -> String {
    format!("user:{user}")
}

async fn every_commit_that_changes_a_user_promises_an_invalidation(stores: &Relational) {
    let user = stores.user("An").await;
    let promised = async |what: &str, user: UserId| {
        let rows = drained(stores).await;
        assert_eq!(rows.len(), 1, "{what}: one row a commit: {rows:?}");
        assert!(rows[0].contains(&tag(user)), "{what}: {rows:?}");
    };
    drained(stores).await;
    stores.posted(deposit(user.id, 10)).await;
    promised("a posting", user.id).await;
    stores.posted(withdraw(user.id, 1).pending()).await;
    promised("a hold", user.id).await;
    let change = UserChange {
        name: Some(Name::parse("An Nguyen").unwrap()),
        ..UserChange::default()
    };
    stores
        .users
        .update(
            &context(),
            user.id,
            &change,
            None,
            random_bytes(),
            next_time(),
        )
        .await
        .unwrap();
    promised("a change", user.id).await;
    let kyc = KycChange {
        status: KycStatus::Verified,
        data: None,
        reason: None,
        salts: [random_bytes(), random_bytes()],
    };
    stores
        .users
        .set_kyc(&context(), user.id, &kyc, None, next_time())
        .await
        .unwrap();
    promised("KYC", user.id).await;
    stores
        .heads
        .write(&context(), &write(user.id))
        .await
        .unwrap();
    promised("a document", user.id).await;
    // Whoever is referred changes the count that the referrer shows.
    let referred = NewUser {
        referred_by: Some(user.referral.code),
        ..new_user("Binh")
    };
    stores.users.create(&context(), &referred).await.unwrap();
    promised("a referral", user.id).await;
}

fn write(user_id: UserId) -> HeadWrite {
    HeadWrite {
        key: DocumentKey {
            user_id,
            kind: DocumentKind::Metadata,
        },
        expected: Expected::Anything,
        content: Some(document(&json!({"a": 1}))),
        import: None,
        at: next_time(),
    }
}

async fn what_was_refused_promises_nothing_of_its_own(stores: &Relational) {
    let user = stores.user("An").await.id;
    drained(stores).await;
    let taken = stores.users.create(&context(), &new_user("An")).await;
    assert!(taken.is_err());
    let mismatch = HeadWrite {
        expected: Expected::Version(99),
        ..write(user)
    };
    assert!(stores.heads.write(&context(), &mismatch).await.is_err());
    let (ctx, change) = (context(), UserChange::default());
    let refused = stores
        .users
        .update(&ctx, user, &change, Some(99), random_bytes(), next_time())
        .await;
    assert!(refused.is_err());
    assert_eq!(drained(stores).await, Vec::<BTreeSet<String>>::new());
}

async fn a_slice_promises_all_of_its_users_in_one_row(stores: &Relational) {
    let mut users = Vec::new();
    for index in 0..5 {
        users.push(stores.user(&format!("user-{index}")).await.id);
    }
    drained(stores).await;
    let commands: Vec<_> = users
        .iter()
        .cycle()
        .take(15)
        .map(|user| deposit(*user, 1))
        .collect();
    stores.ledger.post(&commands).await.unwrap();
    let rows = drained(stores).await;
    assert_eq!(rows.len(), 1, "one row, however many postings");
    for user in users {
        assert!(rows[0].contains(&tag(user)), "{rows:?}");
    }
}

async fn young_rows_are_left_to_those_who_wrote_them(stores: &Relational) {
    let user = stores.user("An").await.id;
    drained(stores).await;
    stores.posted(deposit(user, 1).at(at(1_000_000))).await;
    let claim = async |min_age: u64, seconds: i64| {
        let min_age = Duration::from_secs(min_age);
        stores
            .outbox
            .claim(10, min_age, MINUTE, at(1_000_000 + seconds))
            .await
            .unwrap()
            .len()
    };
    assert_eq!(claim(5, 4).await, 0);
    assert_eq!(claim(5, 6).await, 1);
}

/// Five rows, a second apart, whose tags tell their order.
async fn five_rows(stores: &Relational) -> Vec<UserId> {
    let mut users = Vec::new();
    for index in 0..5 {
        users.push(stores.user(&format!("user-{index}")).await.id);
    }
    drained(stores).await;
    for (seconds, index) in [2, 0, 4, 1, 3].into_iter().enumerate() {
        let at = at(1_000_000 + i64::try_from(seconds).unwrap());
        stores.posted(deposit(users[index], 1).at(at)).await;
    }
    users
}

async fn a_writer_knows_its_rows_and_all_see_them_until_they_are_deleted(stores: &Relational) {
    let (users, promises) = outbox::collecting(five_rows(stores)).await;
    let outbox = &stores.outbox;
    // However young they are, and whoever has leased them.
    claim(stores, 2, at(LATE)).await;
    let there = outbox.pending(10).await.unwrap();
    assert_eq!(there.len(), 5);
    assert_eq!(outbox.pending(2).await.unwrap(), there[..2], "oldest first");
    let promised: BTreeSet<_> = promises.into_ids().into_iter().collect();
    assert!(there.iter().all(|id| promised.contains(id)));

    let of = async |ids: &[uuid::Uuid]| {
        let effects = outbox.effects(ids).await.unwrap();
        let tags = effects.into_iter().flat_map(|effect| {
            let Effect::Invalidate { tags } = effect;
            tags
        });
        tags.collect::<BTreeSet<_>>()
    };
    assert_eq!(of(&there[..1]).await, BTreeSet::from([tag(users[2])]));
    assert_eq!(of(&there).await.len(), 5);
    outbox.delete(&there[..4]).await.unwrap();
    assert_eq!(outbox.pending(10).await.unwrap(), there[4..]);
    assert_eq!(of(&there).await, BTreeSet::from([tag(users[3])]));
    outbox.delete(&there).await.unwrap();
    assert_eq!(outbox.backlog().await.unwrap(), Backlog::default());
}

async fn rows_are_claimed_oldest_first_and_bounded(stores: &Relational) {
    let users = five_rows(stores).await;
    let first = claim(stores, 2, at(LATE)).await;
    let rest = claim(stores, 100, at(LATE)).await;
    assert_eq!((first.len(), rest.len()), (2, 3));
    let order: Vec<_> = first
        .iter()
        .chain(&rest)
        .map(|row| {
            users
                .iter()
                .position(|user| tags(row).contains(tag(*user).as_str()))
                .unwrap()
        })
        .collect();
    assert_eq!(order, [2, 0, 4, 1, 3]);
}

async fn a_leased_row_is_nobody_else_s_until_the_lease_runs_out(stores: &Relational) {
    five_rows(stores).await;
    let now = at(LATE);
    let first = claim(stores, 10, now).await;
    assert_eq!(first.len(), 5);
    assert!(first.iter().all(|row| row.attempts == 1));
    assert!(
        claim(stores, 10, now.plus(Duration::from_secs(59)))
            .await
            .is_empty()
    );
    let second = claim(stores, 10, now.plus(Duration::from_secs(61))).await;
    assert_eq!(second.len(), 5);
    assert!(
        second.iter().all(|row| row.attempts == 2),
        "counted on claim"
    );
    let ids = |rows: &[Claimed]| rows.iter().map(|row| row.id).collect::<BTreeSet<_>>();
    assert_eq!(ids(&first), ids(&second));
    assert!(
        first
            .iter()
            .all(|old| second.iter().all(|new| new.lease != old.lease))
    );
}

async fn finishing_needs_the_lease(stores: &Relational) {
    five_rows(stores).await;
    let now = at(LATE);
    let slow = claim(stores, 10, now).await;
    let later = now.plus(2 * MINUTE);
    let quick = claim(stores, 3, later).await;
    assert_eq!(quick.len(), 3);
    stores.outbox.finish(&slow).await.unwrap();
    assert_eq!(
        stores.outbox.backlog().await.unwrap().pending,
        3,
        "only what was still its own"
    );
    stores.outbox.finish(&quick[..1]).await.unwrap();
    assert_eq!(stores.outbox.backlog().await.unwrap().pending, 2);
    stores.outbox.finish(&quick).await.unwrap();
    stores.outbox.finish(&[]).await.unwrap();
    assert_eq!(stores.outbox.backlog().await.unwrap(), Backlog::default());
}

async fn no_row_is_claimed_twice_by_workers_at_once(stores: &Relational) {
    let user = stores.user("An").await.id;
    drained(stores).await;
    for _ in 0..24 {
        stores.posted(deposit(user, 1)).await;
    }
    let claims = at_once(6, |_worker| {
        let stores = stores.clone();
        async move {
            let mut mine = Vec::new();
            loop {
                let claimed = claim(&stores, 2, at(LATE)).await;
                if claimed.is_empty() {
                    return mine;
                }
                mine.extend(claimed.into_iter().map(|row| row.id));
            }
        }
    })
    .await;
    let claims: Vec<_> = claims.into_iter().flatten().collect();
    assert_eq!(claims.len(), 24);
    assert_eq!(claims.iter().collect::<BTreeSet<_>>().len(), 24);
}

async fn the_backlog_says_what_is_left(stores: &Relational) {
    let user = stores.user("An").await.id;
    drained(stores).await;
    stores.posted(deposit(user, 1).at(at(1_000_000))).await;
    stores.posted(deposit(user, 1).at(at(1_000_005))).await;
    let left = stores.outbox.backlog().await.unwrap();
    assert_eq!((left.pending, left.oldest), (2, Some(at(1_000_000))));
    let claimed = claim(stores, 1, at(LATE)).await;
    assert_eq!(
        stores.outbox.backlog().await.unwrap(),
        left,
        "what is leased is not done"
    );
    stores.outbox.finish(&claimed).await.unwrap();
    let left = stores.outbox.backlog().await.unwrap();
    assert_eq!((left.pending, left.oldest), (1, Some(at(1_000_005))));
}

async fn without_an_l2_nothing_is_promised(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    stores.heads.write(&context(), &write(user)).await.unwrap();
    assert_eq!(stores.outbox.backlog().await.unwrap(), Backlog::default());
    assert_eq!(stores.raw.number("SELECT count(*) FROM outbox").await, 0);
}
