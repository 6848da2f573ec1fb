//! What sessions demand of a relational store.

use std::collections::BTreeSet;
use std::time::Duration;

use abunfi::clock::Timestamp;
use abunfi::ids::{SessionId, UserId, random_bytes};
use abunfi::ledger::Page;
use abunfi::sessions::{Error, Revocation, RevocationKind, SessionRecord};
use abunfi::users::{UserChange, UserStatus};

use crate::support::make::{at, context};
use crate::support::{Relational, at_once, on_every_backend};

on_every_backend!(
    a_session_is_found_by_its_token_s_hash,
    a_session_of_nobody_or_of_somebody_not_active_is_refused,
    sessions_of_a_user_who_is_no_longer_active_are_not_found,
    a_session_ends_at_its_idle_and_at_its_absolute_time,
    activity_moves_the_idle_time,
    activity_does_not_wake_a_session_that_is_gone,
    beyond_the_bound_the_oldest_sessions_end,
    sessions_that_have_expired_do_not_count_against_the_bound,
    the_bound_holds_however_many_come_at_once,
    live_sessions_are_listed_newest_first,
    rotation_ends_the_old_session_and_begins_the_new_one,
    a_session_that_is_not_live_cannot_be_rotated,
    of_two_rotations_at_once_one_succeeds,
    revoking_ends_one_session_of_one_s_own,
    revoking_all_ends_all_with_one_revocation,
    a_creation_and_a_suspension_at_once_leave_no_live_session,
    revocations_are_read_newest_first,
    what_has_expired_is_purged_a_little_at_a_time,
    live_sessions_are_counted,
);

const HOUR: Duration = Duration::from_secs(3_600);

/// Made at `created_at`, idle after one hour, over after ten.
fn session(user_id: UserId, created_at: Timestamp) -> SessionRecord {
    SessionRecord {
        id: SessionId::new(created_at),
        user_id,
        token_hash: random_bytes(),
        device: Some("điện thoại".to_owned()),
        ip: Some("2001:db8::1".to_owned()),
        created_at,
        last_seen_at: created_at,
        idle_expires_at: created_at.plus(HOUR),
        expires_at: created_at.plus(10 * HOUR),
    }
}

async fn create(stores: &Relational, session: &SessionRecord) {
    stores
        .sessions
        .create(session, 100)
        .await
        .expect("the session is stored");
}

async fn is_live(stores: &Relational, session: &SessionRecord, now: Timestamp) -> bool {
    let found = stores
        .sessions
        .find(&session.token_hash, now)
        .await
        .unwrap();
    if let Some(found) = &found {
        assert_eq!((found.id, found.user_id), (session.id, session.user_id));
    }
    found.is_some()
}

async fn list(stores: &Relational, user: UserId, now: Timestamp) -> Vec<SessionId> {
    let page = Page {
        after: None,
        limit: 200,
    };
    let sessions = stores
        .sessions
        .list(user, &page, now)
        .await
        .unwrap()
        .expect("the user");
    sessions.into_iter().map(|session| session.id).collect()
}

/// Which sessions, users and keys are revoked.
async fn revoked(stores: &Relational) -> BTreeSet<(RevocationKind, uuid::Uuid)> {
    let rows = stores
        .sessions
        .revocations(at(-1_000_000), 1_000)
        .await
        .unwrap();
    rows.into_iter().map(|row| (row.kind, row.id)).collect()
}

async fn set_status(stores: &Relational, user: UserId, status: UserStatus, now: Timestamp) {
    let change = UserChange {
        status: Some(status),
        ..UserChange::default()
    };
    stores
        .users
        .update(&context(), user, &change, None, random_bytes(), now)
        .await
        .unwrap();
}

async fn a_session_is_found_by_its_token_s_hash(stores: &Relational) {
    let user = stores.user("An").await.id;
    let (one, bare) = (
        session(user, at(0)),
        SessionRecord {
            device: None,
            ip: None,
            ..session(user, at(1))
        },
    );
    for session in [&one, &bare] {
        create(stores, session).await;
        let found = stores
            .sessions
            .find(&session.token_hash, at(2))
            .await
            .unwrap();
        assert_eq!(found.as_ref(), Some(session));
    }
    assert_eq!(stores.sessions.find(&[0; 32], at(2)).await.unwrap(), None);
    assert!(revoked(stores).await.is_empty());
}

async fn a_session_of_nobody_or_of_somebody_not_active_is_refused(stores: &Relational) {
    let nobody = session(UserId::new(at(0)), at(0));
    let refused = stores.sessions.create(&nobody, 10).await;
    assert!(matches!(refused, Err(Error::UserNotFound)), "{refused:?}");
    for status in [UserStatus::Suspended, UserStatus::Closed] {
        let user = stores.user(status.as_str()).await.id;
        set_status(stores, user, status, at(0)).await;
        let refused = stores.sessions.create(&session(user, at(1)), 10).await;
        assert!(matches!(refused, Err(Error::UserNotActive)), "{refused:?}");
    }
    assert_eq!(stores.raw.number("SELECT count(*) FROM sessions").await, 0);
}

async fn sessions_of_a_user_who_is_no_longer_active_are_not_found(stores: &Relational) {
    let user = stores.user("An").await.id;
    let session = session(user, at(0));
    create(stores, &session).await;
    set_status(stores, user, UserStatus::Suspended, at(10)).await;
    assert!(!is_live(stores, &session, at(11)).await);
    assert!(
        revoked(stores)
            .await
            .contains(&(RevocationKind::User, user.uuid()))
    );
    let rotated = stores
        .sessions
        .rotate(session.id, &self::session(user, at(12)), at(12))
        .await;
    assert!(matches!(rotated, Err(Error::NotValid)), "{rotated:?}");
}

async fn a_session_ends_at_its_idle_and_at_its_absolute_time(stores: &Relational) {
    let user = stores.user("An").await.id;
    let idle = session(user, at(0));
    let busy = SessionRecord {
        idle_expires_at: at(36_000),
        ..session(user, at(0))
    };
    create(stores, &idle).await;
    create(stores, &busy).await;
    assert!(is_live(stores, &idle, at(3_599)).await);
    assert!(!is_live(stores, &idle, at(3_601)).await);
    assert!(is_live(stores, &busy, at(35_999)).await);
    assert!(!is_live(stores, &busy, at(36_001)).await);
    assert_eq!(list(stores, user, at(3_601)).await, [busy.id]);
    assert!(list(stores, user, at(36_001)).await.is_empty());
    let revoked = stores
        .sessions
        .revoke(user, idle.id, at(3_601))
        .await
        .unwrap();
    assert!(!revoked, "what has expired is not live");
}

async fn activity_moves_the_idle_time(stores: &Relational) {
    let user = stores.user("An").await.id;
    let (touched, other) = (session(user, at(0)), session(user, at(0)));
    create(stores, &touched).await;
    create(stores, &other).await;
    stores
        .sessions
        .touch(touched.id, user, at(600), at(4_200))
        .await
        .unwrap();
    let found = stores
        .sessions
        .find(&touched.token_hash, at(4_000))
        .await
        .unwrap()
        .unwrap();
    let expected = SessionRecord {
        last_seen_at: at(600),
        idle_expires_at: at(4_200),
        ..touched.clone()
    };
    assert_eq!(found, expected);
    assert!(!is_live(stores, &other, at(4_000)).await);
    assert!(!is_live(stores, &touched, at(4_201)).await);
}

async fn activity_does_not_wake_a_session_that_is_gone(stores: &Relational) {
    let user = stores.user("An").await.id;
    let gone = session(user, at(0));
    create(stores, &gone).await;
    assert!(stores.sessions.revoke(user, gone.id, at(1)).await.unwrap());
    stores
        .sessions
        .touch(gone.id, user, at(2), at(9_000))
        .await
        .unwrap();
    assert!(!is_live(stores, &gone, at(3)).await);
    let never = SessionId::new(at(0));
    stores
        .sessions
        .touch(never, user, at(2), at(9_000))
        .await
        .unwrap();
    assert_eq!(stores.sessions.count(at(3)).await.unwrap(), 0);
}

async fn beyond_the_bound_the_oldest_sessions_end(stores: &Relational) {
    let user = stores.user("An").await.id;
    let other = session(stores.user("Binh").await.id, at(0));
    create(stores, &other).await;
    let sessions: Vec<_> = (0..5).map(|index| session(user, at(index))).collect();
    for session in &sessions {
        stores.sessions.create(session, 3).await.unwrap();
    }
    assert_eq!(
        list(stores, user, at(10)).await,
        [sessions[4].id, sessions[3].id, sessions[2].id]
    );
    let expected: BTreeSet<_> = sessions[..2]
        .iter()
        .map(|session| (RevocationKind::Session, session.id.uuid()))
        .collect();
    assert_eq!(revoked(stores).await, expected);
    // The bound may have become smaller since.
    let last = session(user, at(10));
    stores.sessions.create(&last, 1).await.unwrap();
    assert_eq!(list(stores, user, at(11)).await, [last.id]);
    assert!(
        is_live(stores, &other, at(11)).await,
        "another user's is left alone"
    );
}

async fn sessions_that_have_expired_do_not_count_against_the_bound(stores: &Relational) {
    let user = stores.user("An").await.id;
    for index in 0..2 {
        create(stores, &session(user, at(index))).await;
    }
    let long = SessionRecord {
        idle_expires_at: at(30_000),
        ..session(user, at(2))
    };
    create(stores, &long).await;
    let late = session(user, at(10_000));
    stores.sessions.create(&late, 2).await.unwrap();
    assert_eq!(list(stores, user, at(10_001)).await, [late.id, long.id]);
}

async fn the_bound_holds_however_many_come_at_once(stores: &Relational) {
    let user = stores.user("An").await.id;
    at_once(16, |index| {
        let session = session(user, at(i64::try_from(index).unwrap()));
        let stores = stores.clone();
        async move { stores.sessions.create(&session, 4).await.unwrap() }
    })
    .await;
    assert_eq!(list(stores, user, at(100)).await.len(), 4);
    assert_eq!(stores.sessions.count(at(100)).await.unwrap(), 4);
    assert_eq!(revoked(stores).await.len(), 12);
}

async fn live_sessions_are_listed_newest_first(stores: &Relational) {
    let user = stores.user("An").await.id;
    let mut expected = Vec::new();
    for seconds in [0, 1, 1, 1, 2] {
        let session = session(user, at(seconds));
        create(stores, &session).await;
        expected.push((session.created_at, session.id));
    }
    create(stores, &session(stores.user("Binh").await.id, at(1))).await;
    expected.sort();
    expected.reverse();
    let mut listed = Vec::new();
    loop {
        let page = Page {
            after: listed.last().copied(),
            limit: 2,
        };
        let rows = stores
            .sessions
            .list(user, &page, at(10))
            .await
            .unwrap()
            .unwrap();
        if rows.is_empty() {
            break;
        }
        assert!(rows.len() <= 2);
        listed.extend(rows.iter().map(|row| (row.created_at, row.id)));
        create(stores, &session(user, at(5))).await;
    }
    assert_eq!(listed, expected);
    let nobody = UserId::new(at(0));
    let page = Page {
        after: None,
        limit: 2,
    };
    assert_eq!(
        stores.sessions.list(nobody, &page, at(10)).await.unwrap(),
        None
    );
}

async fn rotation_ends_the_old_session_and_begins_the_new_one(stores: &Relational) {
    let user = stores.user("An").await.id;
    let old = session(user, at(0));
    let other = session(user, at(0));
    create(stores, &old).await;
    create(stores, &other).await;
    let new = SessionRecord {
        expires_at: old.expires_at,
        ..session(user, at(60))
    };
    stores.sessions.rotate(old.id, &new, at(60)).await.unwrap();
    assert!(!is_live(stores, &old, at(61)).await);
    assert!(is_live(stores, &new, at(61)).await);
    assert!(is_live(stores, &other, at(61)).await);
    assert_eq!(
        revoked(stores).await,
        BTreeSet::from([(RevocationKind::Session, old.id.uuid())])
    );
    assert_eq!(list(stores, user, at(61)).await, [new.id, other.id]);
}

async fn a_session_that_is_not_live_cannot_be_rotated(stores: &Relational) {
    let user = stores.user("An").await.id;
    let (expired, revoked) = (session(user, at(0)), session(user, at(0)));
    create(stores, &expired).await;
    create(stores, &revoked).await;
    stores
        .sessions
        .revoke(user, revoked.id, at(1))
        .await
        .unwrap();
    for (old, now) in [
        (SessionId::new(at(0)), at(10)),
        (revoked.id, at(10)),
        (expired.id, at(3_601)),
    ] {
        let new = session(user, now);
        let refused = stores.sessions.rotate(old, &new, now).await;
        assert!(matches!(refused, Err(Error::NotValid)), "{refused:?}");
        assert!(!is_live(stores, &new, now).await);
    }
}

async fn of_two_rotations_at_once_one_succeeds(stores: &Relational) {
    for round in 0..5 {
        let user = stores.user(&format!("An-{round}")).await.id;
        let old = session(user, at(0));
        create(stores, &old).await;
        let results = at_once(6, |_index| {
            let (stores, new, old) = (stores.clone(), session(user, at(60)), old.id);
            async move { stores.sessions.rotate(old, &new, at(60)).await }
        })
        .await;
        assert_eq!(
            results.iter().filter(|result| result.is_ok()).count(),
            1,
            "{results:?}"
        );
        let refused = results
            .iter()
            .filter(|result| matches!(result, Err(Error::NotValid)))
            .count();
        assert_eq!(refused, 5, "{results:?}");
        assert_eq!(list(stores, user, at(61)).await.len(), 1);
    }
}

async fn revoking_ends_one_session_of_one_s_own(stores: &Relational) {
    let (an, binh) = (stores.user("An").await.id, stores.user("Binh").await.id);
    let (one, other) = (session(an, at(0)), session(an, at(1)));
    create(stores, &one).await;
    create(stores, &other).await;
    assert!(
        !stores.sessions.revoke(binh, one.id, at(2)).await.unwrap(),
        "not Binh's"
    );
    assert!(is_live(stores, &one, at(3)).await);
    assert!(revoked(stores).await.is_empty(), "nothing ended");
    assert!(stores.sessions.revoke(an, one.id, at(2)).await.unwrap());
    assert!(!is_live(stores, &one, at(3)).await);
    assert!(is_live(stores, &other, at(3)).await);
    assert!(
        !stores.sessions.revoke(an, one.id, at(4)).await.unwrap(),
        "it is gone already"
    );
    let rows = stores.sessions.revocations(at(0), 10).await.unwrap();
    let expected = Revocation {
        kind: RevocationKind::Session,
        id: one.id.uuid(),
        at: at(2),
    };
    assert_eq!(rows, [expected]);
}

async fn revoking_all_ends_all_with_one_revocation(stores: &Relational) {
    let (an, binh) = (stores.user("An").await.id, stores.user("Binh").await.id);
    let sessions: Vec<_> = (0..3).map(|index| session(an, at(index))).collect();
    let other = session(binh, at(0));
    for session in sessions.iter().chain([&other]) {
        create(stores, session).await;
    }
    assert_eq!(stores.sessions.revoke_all(an, at(10)).await.unwrap(), 3);
    for session in &sessions {
        assert!(!is_live(stores, session, at(11)).await);
    }
    assert!(is_live(stores, &other, at(11)).await);
    assert_eq!(
        revoked(stores).await,
        BTreeSet::from([(RevocationKind::User, an.uuid())])
    );
    // A session made afterwards lives.
    let new = session(an, at(12));
    create(stores, &new).await;
    assert!(is_live(stores, &new, at(13)).await);
}

async fn a_creation_and_a_suspension_at_once_leave_no_live_session(stores: &Relational) {
    for round in 0..10 {
        let user = stores.user(&format!("An-{round}")).await.id;
        let new = session(user, at(10));
        let (made, token) = (new.clone(), new);
        at_once(2, |index| {
            let (stores, made) = (stores.clone(), made.clone());
            async move {
                if index == 0 {
                    let created = stores.sessions.create(&made, 10).await;
                    assert!(
                        matches!(created, Ok(()) | Err(Error::UserNotActive)),
                        "{created:?}"
                    );
                } else {
                    set_status(&stores, user, UserStatus::Suspended, at(10)).await;
                }
            }
        })
        .await;
        assert!(!is_live(stores, &token, at(11)).await);
    }
}

async fn revocations_are_read_newest_first(stores: &Relational) {
    let user = stores.user("An").await.id;
    let sessions: Vec<_> = (0..5).map(|index| session(user, at(index))).collect();
    for (index, session) in sessions.iter().enumerate() {
        create(stores, session).await;
        let now = at(100 + i64::try_from(index).unwrap());
        assert!(stores.sessions.revoke(user, session.id, now).await.unwrap());
    }
    let ids = async |since, limit| {
        let rows = stores.sessions.revocations(since, limit).await.unwrap();
        rows.iter()
            .map(|row| {
                sessions
                    .iter()
                    .position(|session| session.id.uuid() == row.id)
                    .unwrap()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(at(0), 100).await, [4, 3, 2, 1, 0]);
    assert_eq!(ids(at(102), 100).await, [4, 3, 2], "at that time or later");
    assert_eq!(ids(at(0), 2).await, [4, 3]);
    assert!(ids(at(105), 100).await.is_empty());
}

async fn what_has_expired_is_purged_a_little_at_a_time(stores: &Relational) {
    let user = stores.user("An").await.id;
    for index in 0..4 {
        create(stores, &session(user, at(index))).await;
    }
    let live = session(user, at(10_000));
    create(stores, &live).await;
    for index in 0..3 {
        let gone = session(user, at(20 + index));
        create(stores, &gone).await;
        stores.sessions.revoke(user, gone.id, at(30)).await.unwrap();
    }
    let fresh = session(user, at(10_000));
    create(stores, &fresh).await;
    stores
        .sessions
        .revoke(user, fresh.id, at(10_001))
        .await
        .unwrap();

    let mut purged = 0;
    loop {
        let more = stores
            .sessions
            .purge(at(10_002), at(10_000), 2)
            .await
            .unwrap();
        // At most so many of each sort.
        assert!(more <= 4, "{more}");
        if more == 0 {
            break;
        }
        purged += more;
    }
    assert_eq!(
        purged,
        4 + 3,
        "four sessions that had expired, three old revocations"
    );
    assert!(is_live(stores, &live, at(10_002)).await);
    assert_eq!(
        revoked(stores).await,
        BTreeSet::from([(RevocationKind::Session, fresh.id.uuid())]),
        "a fresh revocation is still needed"
    );
}

async fn live_sessions_are_counted(stores: &Relational) {
    assert_eq!(stores.sessions.count(at(0)).await.unwrap(), 0);
    for name in ["An", "Binh"] {
        let user = stores.user(name).await.id;
        for index in 0..3 {
            create(stores, &session(user, at(index * 1_000))).await;
        }
        let gone = session(user, at(2_000));
        create(stores, &gone).await;
        stores
            .sessions
            .revoke(user, gone.id, at(2_001))
            .await
            .unwrap();
    }
    assert_eq!(stores.sessions.count(at(2_001)).await.unwrap(), 6);
    assert_eq!(
        stores.sessions.count(at(4_000)).await.unwrap(),
        4,
        "two have idled out"
    );
    assert_eq!(stores.sessions.count(at(50_000)).await.unwrap(), 0);
}
