//! What users demand of a relational store.

use abunfi::audit::{Private, PrivateField, USER_CHAIN};
use abunfi::ids::UserId;
use abunfi::ids::random_bytes;
use abunfi::ledger::{Page, Settlement};
use abunfi::money::Amount;
use abunfi::sessions::RevocationKind;
use abunfi::users::{
    Email, Error, IdentityKind, KycChange, KycStatus, Name, NewUser, Phone, ReferralCode, SocialId,
    UserChange, UserRecord, UserStatus, WalletAddress,
};
use serde_json::json;

use crate::support::make::{
    Shape as _, at, context, deposit, new_user, next_time, query, settle, vnd, withdraw,
};
use crate::support::{Relational, at_once, on_every_backend};

const WALLET: &str = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";

on_every_backend!(
    a_new_user_has_all_that_it_was_made_with,
    of_two_creates_with_one_email_at_once_one_succeeds,
    of_two_creates_with_one_wallet_at_once_one_succeeds,
    of_two_creates_with_one_phone_at_once_one_succeeds,
    of_two_creates_with_one_social_identity_at_once_one_succeeds,
    a_refused_create_leaves_nothing_behind,
    a_referral_code_that_is_taken_gives_way_to_the_next,
    a_user_is_found_by_each_identity_and_by_no_other,
    an_unknown_user_is_not_found,
    referrals_are_counted_whoever_comes_at_once,
    referrals_are_listed_newest_first,
    a_change_counts_the_version_and_no_change_does_not,
    a_change_for_another_version_is_refused,
    of_two_changes_for_one_version_at_once_one_succeeds,
    a_new_email_frees_the_old_one,
    an_identity_of_another_user_cannot_be_taken,
    an_identity_that_is_cleared_is_free,
    one_s_own_email_may_change_its_case,
    a_change_of_status_is_audited_and_reaches_the_accounts,
    a_closed_user_stays_closed,
    a_user_with_money_or_something_pending_cannot_be_closed,
    a_user_who_is_no_longer_active_gets_a_revocation,
    a_deposit_and_a_closing_at_once_never_both_happen,
    kyc_is_audited_by_commitment_and_never_by_content,
    kyc_without_data_keeps_the_data,
    kyc_for_another_version_is_refused,
    erased_content_leaves_the_chain_intact,
    pages_of_users_neither_repeat_nor_omit_while_users_are_made,
);

async fn change(
    stores: &Relational,
    id: UserId,
    change: &UserChange,
    if_match: Option<i64>,
) -> Result<UserRecord, Error> {
    stores
        .users
        .update(
            &context(),
            id,
            change,
            if_match,
            random_bytes(),
            next_time(),
        )
        .await
}

async fn set_status(
    stores: &Relational,
    id: UserId,
    status: UserStatus,
) -> Result<UserRecord, Error> {
    change(stores, id, &status_change(status), None).await
}

fn status_change(status: UserStatus) -> UserChange {
    UserChange {
        status: Some(status),
        ..UserChange::default()
    }
}

fn name_change(name: &str) -> UserChange {
    UserChange {
        name: Some(Name::parse(name).unwrap()),
        ..UserChange::default()
    }
}

fn email_change(email: &str) -> UserChange {
    UserChange {
        email: Some(Email::parse(email).unwrap()),
        ..UserChange::default()
    }
}

async fn a_new_user_has_all_that_it_was_made_with(stores: &Relational) {
    let new = NewUser {
        wallet_address: Some(WalletAddress::parse(WALLET).unwrap()),
        phone: Some(Phone::parse("+84901234567").unwrap()),
        social: Some(SocialId::parse("google:123").unwrap()),
        ..new_user("An")
    };
    let made = stores.users.create(&context(), &new).await.unwrap();

    assert_eq!(made.id, new.id);
    assert_eq!(made.email.as_str(), "An@example.com", "kept as given");
    assert_eq!(made.name, new.name);
    assert_eq!(made.wallet_address, new.wallet_address);
    assert_eq!(made.phone, new.phone);
    assert_eq!(made.social, new.social);
    assert_eq!(made.status, UserStatus::Active);
    assert_eq!(made.kyc.status, KycStatus::Pending);
    assert_eq!(made.kyc.data, json!({}));
    assert_eq!(made.referral.code, new.referral_codes[0]);
    assert_eq!((made.referral.referred_by, made.referral.count), (None, 0));
    assert_eq!(made.version, 1);
    assert_eq!((made.created_at, made.updated_at), (new.at, new.at));
    let [balance] = made.balances.as_slice() else {
        panic!("one balance: {:?}", made.balances);
    };
    assert_eq!((&balance.asset, balance.version), (&vnd(), 0));
    assert!(balance.available.is_zero() && balance.locked.is_zero() && balance.total.is_zero());
    assert_eq!(balance.share_price, abunfi::ledger::first_share_price());
    assert_eq!(
        made.heads.len(),
        2,
        "preferences and metadata: {:?}",
        made.heads
    );
    assert!(
        made.heads
            .iter()
            .all(|head| head.version == 1 && !head.deleted)
    );

    assert_eq!(stores.users.find(new.id).await.unwrap(), Some(made));
    stores.check_books().await;
}

/// Both create at the same moment with the same identity in two spellings; ten rounds, since a race must
/// be met to be lost.
async fn race_for_one_identity(
    stores: &Relational,
    kind: IdentityKind,
    set: impl Fn(&mut NewUser, usize, usize),
) {
    for round in 0..10 {
        let results = at_once(2, |index| {
            let (stores, mut user) = (stores.clone(), new_user(&format!("racer-{round}-{index}")));
            set(&mut user, round, index);
            async move { stores.users.create(&context(), &user).await }
        })
        .await;
        let made = results.iter().filter(|result| result.is_ok()).count();
        let taken = results
            .iter()
            .filter(|result| matches!(result, Err(Error::IdentityTaken(of)) if *of == kind))
            .count();
        assert_eq!((made, taken), (1, 1), "{results:?}");
    }
    assert_eq!(stores.all_users().await.len(), 10);
    assert_eq!(stores.raw.number("SELECT count(*) FROM users").await, 10);
    assert_eq!(stores.raw.number("SELECT count(*) FROM accounts").await, 10);
}

async fn of_two_creates_with_one_email_at_once_one_succeeds(stores: &Relational) {
    race_for_one_identity(stores, IdentityKind::Email, |user, round, index| {
        let email = [
            format!("an{round}@Example.com"),
            format!("AN{round}@example.COM"),
        ];
        user.email = Email::parse(&email[index]).unwrap();
    })
    .await;
}

async fn of_two_creates_with_one_wallet_at_once_one_succeeds(stores: &Relational) {
    race_for_one_identity(stores, IdentityKind::WalletAddress, |user, round, index| {
        let lower = format!("0x{:040x}", 0xabc_def0 + round);
        let spelling = [lower.clone(), lower.to_uppercase().replace("0X", "0x")];
        user.wallet_address = Some(WalletAddress::parse(&spelling[index]).unwrap());
    })
    .await;
}

async fn of_two_creates_with_one_phone_at_once_one_succeeds(stores: &Relational) {
    race_for_one_identity(stores, IdentityKind::Phone, |user, round, _index| {
        user.phone = Some(Phone::parse(&format!("+8490123456{round}")).unwrap());
    })
    .await;
}

async fn of_two_creates_with_one_social_identity_at_once_one_succeeds(stores: &Relational) {
    race_for_one_identity(stores, IdentityKind::Social, |user, round, _index| {
        user.social = Some(SocialId::parse(&format!("apple:{round}")).unwrap());
    })
    .await;
}

async fn a_refused_create_leaves_nothing_behind(stores: &Relational) {
    let first = NewUser {
        phone: Some(Phone::parse("+84901234567").unwrap()),
        ..new_user("first")
    };
    stores.users.create(&context(), &first).await.unwrap();
    let count = async |table: &str| {
        stores
            .raw
            .number(&format!("SELECT count(*) FROM {table}"))
            .await
    };
    let tables = [
        "users",
        "user_identities",
        "accounts",
        "document_heads",
        "documents",
        "audit",
        "outbox",
    ];
    let mut before = Vec::new();
    for table in tables {
        before.push(count(table).await);
    }

    let same_phone = NewUser {
        phone: first.phone.clone(),
        ..new_user("second")
    };
    let refused = stores.users.create(&context(), &same_phone).await;
    assert!(
        matches!(refused, Err(Error::IdentityTaken(IdentityKind::Phone))),
        "{refused:?}"
    );
    let unknown_referrer = NewUser {
        referred_by: Some(ReferralCode::from_random([7; 8])),
        ..new_user("third")
    };
    let refused = stores.users.create(&context(), &unknown_referrer).await;
    assert!(
        matches!(refused, Err(Error::UnknownReferralCode)),
        "{refused:?}"
    );

    for (table, before) in tables.into_iter().zip(before) {
        assert_eq!(count(table).await, before, "rows in {table}");
    }
    assert_eq!(stores.users.find(same_phone.id).await.unwrap(), None);
    let free = query(IdentityKind::Email, "second@example.com");
    assert_eq!(stores.users.find_by_identity(&free).await.unwrap(), None);
    // And what it would have taken is free.
    stores
        .users
        .create(&context(), &new_user("second"))
        .await
        .unwrap();
}

async fn a_referral_code_that_is_taken_gives_way_to_the_next(stores: &Relational) {
    let codes: Vec<_> = (0..4)
        .map(|byte| ReferralCode::from_random([byte; 8]))
        .collect();
    let results = at_once(3, |index| {
        let stores = stores.clone();
        // All want the same first code; each has a last one of its own.
        let user = NewUser {
            referral_codes: vec![codes[0], codes[index + 1]],
            ..new_user(&format!("referrer-{index}"))
        };
        async move { stores.users.create(&context(), &user).await }
    })
    .await;
    let mut given: Vec<_> = results
        .into_iter()
        .map(|result| result.unwrap().referral.code.key())
        .collect();
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 3, "three codes, all different: {given:?}");
    assert!(
        given.contains(&codes[0].key()),
        "the first one is not wasted: {given:?}"
    );
}

async fn a_user_is_found_by_each_identity_and_by_no_other(stores: &Relational) {
    let new = NewUser {
        wallet_address: Some(WalletAddress::parse(WALLET).unwrap()),
        phone: Some(Phone::parse("+84901234567").unwrap()),
        social: Some(SocialId::parse("google:123").unwrap()),
        ..new_user("An")
    };
    let user = stores.users.create(&context(), &new).await.unwrap();
    stores.user("Binh").await;

    for (kind, text) in [
        (IdentityKind::Email, "aN@EXAMPLE.com"),
        (IdentityKind::WalletAddress, &WALLET.to_lowercase()),
        (IdentityKind::Phone, " 84901234567"),
        (IdentityKind::Social, "google:123"),
        (
            IdentityKind::ReferralCode,
            &user.referral.code.key().to_lowercase(),
        ),
    ] {
        let found = stores
            .users
            .find_by_identity(&query(kind, text))
            .await
            .unwrap();
        assert_eq!(found, Some(user.id), "{kind} {text}");
    }
    for (kind, text) in [
        (IdentityKind::Email, "an@example.org"),
        (IdentityKind::Phone, "+84901234568"),
        (IdentityKind::Social, "apple:123"),
    ] {
        let found = stores
            .users
            .find_by_identity(&query(kind, text))
            .await
            .unwrap();
        assert_eq!(found, None, "{kind} {text}");
    }
}

async fn an_unknown_user_is_not_found(stores: &Relational) {
    let nobody = UserId::new(at(0));
    let page = Page {
        after: None,
        limit: 10,
    };
    assert_eq!(stores.users.find(nobody).await.unwrap(), None);
    assert_eq!(stores.users.referrals(nobody, &page).await.unwrap(), None);
    let changed = change(stores, nobody, &name_change("Nobody"), None).await;
    assert!(matches!(changed, Err(Error::NotFound)), "{changed:?}");
    let verified = stores
        .users
        .set_kyc(
            &context(),
            nobody,
            &kyc(KycStatus::Verified),
            None,
            next_time(),
        )
        .await;
    assert!(matches!(verified, Err(Error::NotFound)), "{verified:?}");
    assert_eq!(stores.ledger.balances(nobody).await.unwrap(), None);
}

async fn referrals_are_counted_whoever_comes_at_once(stores: &Relational) {
    let referrer = stores.user("referrer").await;
    let made = at_once(8, |index| {
        let stores = stores.clone();
        let user = NewUser {
            referred_by: Some(referrer.referral.code),
            ..new_user(&format!("referred-{index}"))
        };
        async move { stores.users.create(&context(), &user).await.unwrap() }
    })
    .await;
    for user in made {
        assert_eq!(user.referral.referred_by, Some(referrer.id));
        assert_eq!(user.referral.count, 0);
    }
    let referrer = stores.users.find(referrer.id).await.unwrap().unwrap();
    assert_eq!(referrer.referral.count, 8);
    assert_eq!(
        referrer.version, 1,
        "being named by others is no change of the user"
    );
}

async fn referrals_are_listed_newest_first(stores: &Relational) {
    let referrer = stores.user("referrer").await;
    let mut referred = Vec::new();
    for index in 0..5 {
        let user = NewUser {
            referred_by: Some(referrer.referral.code),
            // Two of them in the same microsecond.
            at: at(10_000 + index / 2),
            ..new_user(&format!("referred-{index}"))
        };
        stores.users.create(&context(), &user).await.unwrap();
        referred.push((user.at, user.id));
    }
    stores.user("stranger").await;
    referred.sort();
    referred.reverse();

    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = Page { after, limit: 2 };
        let rows = stores
            .users
            .referrals(referrer.id, &page)
            .await
            .unwrap()
            .unwrap();
        let Some(last) = rows.last() else { break };
        after = Some((last.created_at, last.user_id));
        listed.extend(rows.iter().map(|row| (row.created_at, row.user_id)));
    }
    assert_eq!(listed, referred);
}

async fn a_change_counts_the_version_and_no_change_does_not(stores: &Relational) {
    let user = stores.user("An").await;
    let renamed = change(stores, user.id, &name_change("An Nguyen"), Some(1))
        .await
        .unwrap();
    assert_eq!((renamed.version, renamed.name.as_str()), (2, "An Nguyen"));
    assert!(renamed.updated_at > user.updated_at);
    assert_eq!(renamed.created_at, user.created_at);

    let same = change(stores, user.id, &name_change("An Nguyen"), Some(2))
        .await
        .unwrap();
    assert_eq!(same, renamed);
    let nothing = change(stores, user.id, &UserChange::default(), None)
        .await
        .unwrap();
    assert_eq!(nothing, renamed);
    assert_eq!(stores.users.find(user.id).await.unwrap(), Some(renamed));
}

async fn a_change_for_another_version_is_refused(stores: &Relational) {
    let user = stores.user("An").await;
    for version in [0, 2] {
        let refused = change(stores, user.id, &name_change("Other"), Some(version)).await;
        assert!(
            matches!(refused, Err(Error::VersionMismatch { current: 1 })),
            "{refused:?}"
        );
    }
    assert_eq!(stores.users.find(user.id).await.unwrap(), Some(user));
}

async fn of_two_changes_for_one_version_at_once_one_succeeds(stores: &Relational) {
    let user = stores.user("An").await.id;
    for version in 1..=5 {
        let results = at_once(4, |index| {
            let (stores, change_to) = (
                stores.clone(),
                name_change(&format!("An {version} {index}")),
            );
            async move { change(&stores, user, &change_to, Some(version)).await }
        })
        .await;
        let done = results.iter().filter(|result| result.is_ok()).count();
        let mismatched = results
            .iter()
            .filter(|result| {
                matches!(result, Err(Error::VersionMismatch { current }) if *current == version + 1)
            })
            .count();
        assert_eq!((done, mismatched), (1, 3), "{results:?}");
    }
}

async fn a_new_email_frees_the_old_one(stores: &Relational) {
    let user = stores.user("An").await;
    let changed = change(
        stores,
        user.id,
        &email_change("an.nguyen@example.com"),
        None,
    )
    .await
    .unwrap();
    assert_eq!(
        (changed.email.as_str(), changed.version),
        ("an.nguyen@example.com", 2)
    );

    let by = |text| query(IdentityKind::Email, text);
    let found = stores
        .users
        .find_by_identity(&by("AN.NGUYEN@example.com"))
        .await
        .unwrap();
    assert_eq!(found, Some(user.id));
    let freed = stores
        .users
        .find_by_identity(&by("an@example.com"))
        .await
        .unwrap();
    assert_eq!(freed, None);
    let other = stores.user("An").await;
    assert_ne!(other.id, user.id);
}

async fn an_identity_of_another_user_cannot_be_taken(stores: &Relational) {
    let phone = Phone::parse("+84901234567").unwrap();
    let first = NewUser {
        phone: Some(phone.clone()),
        ..new_user("first")
    };
    stores.users.create(&context(), &first).await.unwrap();
    let second = stores.user("second").await;
    for (wanted, kind) in [
        (email_change("FIRST@example.com"), IdentityKind::Email),
        (
            UserChange {
                phone: Some(Some(phone)),
                // What goes with it must not be done either.
                ..name_change("Renamed")
            },
            IdentityKind::Phone,
        ),
    ] {
        let refused = change(stores, second.id, &wanted, None).await;
        assert!(
            matches!(&refused, Err(Error::IdentityTaken(taken)) if *taken == kind),
            "{refused:?}"
        );
    }
    assert_eq!(stores.users.find(second.id).await.unwrap(), Some(second));
}

async fn an_identity_that_is_cleared_is_free(stores: &Relational) {
    let social = SocialId::parse("facebook:77").unwrap();
    let first = NewUser {
        social: Some(social.clone()),
        ..new_user("first")
    };
    let first = stores.users.create(&context(), &first).await.unwrap();
    let clear = UserChange {
        social: Some(None),
        ..UserChange::default()
    };
    let cleared = change(stores, first.id, &clear, None).await.unwrap();
    assert_eq!((cleared.social, cleared.version), (None, 2));

    let by = query(IdentityKind::Social, "facebook:77");
    assert_eq!(stores.users.find_by_identity(&by).await.unwrap(), None);
    let second = stores.user("second").await;
    let take = UserChange {
        social: Some(Some(social)),
        ..UserChange::default()
    };
    change(stores, second.id, &take, None).await.unwrap();
    assert_eq!(
        stores.users.find_by_identity(&by).await.unwrap(),
        Some(second.id)
    );
}

async fn one_s_own_email_may_change_its_case(stores: &Relational) {
    let user = stores.user("an").await;
    let changed = change(stores, user.id, &email_change("An@Example.com"), None)
        .await
        .unwrap();
    assert_eq!(
        (changed.email.as_str(), changed.version),
        ("An@Example.com", 2)
    );
}

async fn a_change_of_status_is_audited_and_reaches_the_accounts(stores: &Relational) {
    let user = stores.user_with("An", 10).await;
    let suspended = set_status(stores, user, UserStatus::Suspended)
        .await
        .unwrap();
    assert_eq!(
        (suspended.status, suspended.version),
        (UserStatus::Suspended, 2)
    );
    stores.check_books().await;
    let again = set_status(stores, user, UserStatus::Suspended)
        .await
        .unwrap();
    assert_eq!(again, suspended, "no change");
    let active = set_status(stores, user, UserStatus::Active).await.unwrap();
    assert_eq!((active.status, active.version), (UserStatus::Active, 3));
    change(stores, user, &name_change("An Nguyen"), None)
        .await
        .unwrap();

    let rows = stores.check_chain(user, USER_CHAIN).await;
    let said: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.action.as_ref(),
                row.previous_status.as_deref(),
                row.new_status.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            ("status", Some("active"), Some("suspended")),
            ("status", Some("suspended"), Some("active")),
        ]
    );
    assert!(rows.iter().all(|row| row.actor == context().actor));
    assert!(
        rows.iter()
            .all(|row| row.request_id == context().request_id)
    );
    stores.check_books().await;
}

async fn a_closed_user_stays_closed(stores: &Relational) {
    for from in [UserStatus::Active, UserStatus::Suspended] {
        let user = stores.user(from.as_str()).await.id;
        set_status(stores, user, from).await.unwrap();
        let closed = set_status(stores, user, UserStatus::Closed).await.unwrap();
        assert_eq!(closed.status, UserStatus::Closed);
        for to in [UserStatus::Active, UserStatus::Suspended] {
            let refused = set_status(stores, user, to).await;
            assert!(
                matches!(refused, Err(Error::InvalidTransition { from: UserStatus::Closed, to: wanted })
                    if wanted == to),
                "{refused:?}"
            );
        }
        let again = set_status(stores, user, UserStatus::Closed).await.unwrap();
        assert_eq!(again, closed);
    }
    stores.check_books().await;
}

async fn a_user_with_money_or_something_pending_cannot_be_closed(stores: &Relational) {
    let refused = async |user| {
        let refused = set_status(stores, user, UserStatus::Closed).await;
        assert!(matches!(refused, Err(Error::BalanceNotZero)), "{refused:?}");
        let record = stores.users.find(user).await.unwrap().unwrap();
        assert_eq!((record.status, record.version), (UserStatus::Active, 1));
    };
    let available = stores.user_with("available", 1).await;
    refused(available).await;

    let held = stores.user_with("held", 1).await;
    let hold = stores
        .posted(withdraw(held, 1).pending())
        .await
        .transaction
        .id;
    refused(held).await;
    stores.posted(settle(held, hold, Settlement::Confirm)).await;
    set_status(stores, held, UserStatus::Closed).await.unwrap();

    let expecting = stores.user("expecting").await.id;
    let pending = stores
        .posted(deposit(expecting, 5).pending())
        .await
        .transaction
        .id;
    refused(expecting).await;
    stores
        .posted(settle(expecting, pending, Settlement::Cancel))
        .await;
    set_status(stores, expecting, UserStatus::Closed)
        .await
        .unwrap();

    // Shares are a balance as well.
    let shares = stores.user_with("shares", 1).await;
    stores.posted(deposit(shares, 1).shares("0.5")).await;
    stores.posted(withdraw(shares, 2)).await;
    refused(shares).await;
    stores.check_books().await;
}

async fn a_user_who_is_no_longer_active_gets_a_revocation(stores: &Relational) {
    let suspended = stores.user("suspended").await.id;
    let renamed = stores.user("renamed").await.id;
    let before = next_time();
    set_status(stores, suspended, UserStatus::Suspended)
        .await
        .unwrap();
    change(stores, renamed, &name_change("Renamed"), None)
        .await
        .unwrap();

    let revocations = stores.sessions.revocations(before, 100).await.unwrap();
    let users: Vec<_> = revocations
        .iter()
        .map(|revocation| (revocation.kind, revocation.id))
        .collect();
    assert_eq!(users, [(RevocationKind::User, suspended.uuid())]);
}

async fn a_deposit_and_a_closing_at_once_never_both_happen(stores: &Relational) {
    let mut closed = 0;
    for round in 0..20 {
        let user = stores.user(&format!("user-{round}")).await.id;
        let results = at_once(2, |index| {
            let stores = stores.clone();
            async move {
                if index == 0 {
                    set_status(&stores, user, UserStatus::Closed).await.is_ok()
                } else {
                    stores
                        .post(deposit(user, 1))
                        .await
                        .unwrap()
                        .answer
                        .result
                        .is_ok()
                }
            }
        })
        .await;
        assert_ne!(
            results[0], results[1],
            "one of closing and depositing is done: {results:?}"
        );
        closed += i64::from(results[0]);
    }
    eprintln!("{closed} of 20 users were closed");
    stores.check_books().await;
}

fn kyc(status: KycStatus) -> KycChange {
    KycChange {
        status,
        data: None,
        reason: None,
        salts: [random_bytes(), random_bytes()],
    }
}

async fn kyc_is_audited_by_commitment_and_never_by_content(stores: &Relational) {
    let user = stores.user("An").await;
    let data = json!({"passport": "C1234567-secret", "born": 1990});
    let verified = KycChange {
        data: Some(data.clone()),
        reason: Some("seen by reason-secret".to_owned()),
        ..kyc(KycStatus::Verified)
    };
    let record = stores
        .users
        .set_kyc(&context(), user.id, &verified, Some(1), next_time())
        .await
        .unwrap();
    assert_eq!(
        (record.kyc.status, &record.kyc.data, record.version),
        (KycStatus::Verified, &data, 2)
    );
    // The same again is another act, and audited.
    let again = stores
        .users
        .set_kyc(
            &context(),
            user.id,
            &kyc(KycStatus::Verified),
            None,
            next_time(),
        )
        .await
        .unwrap();
    assert_eq!(again.kyc, record.kyc);

    let rows = stores.check_chain(user.id, USER_CHAIN).await;
    assert_eq!(rows.len(), 2);
    let row = &rows[0];
    assert_eq!(row.action, "kyc");
    assert_eq!(
        (row.previous_status.as_deref(), row.new_status.as_deref()),
        (Some("pending"), Some("verified"))
    );
    let commitment = |field, salt, value: &str| {
        let value = value.to_owned();
        Some(Private { field, salt, value }.commitment())
    };
    assert_eq!(
        row.reason_commitment,
        commitment(
            PrivateField::Reason,
            verified.salts[0],
            "seen by reason-secret"
        ),
    );
    let canonical = abunfi::documents::canonical::canonical_json(&data);
    assert_eq!(
        row.data_commitment,
        commitment(PrivateField::Data, verified.salts[1], &canonical)
    );

    let shown = stores.audit.chain(user.id, USER_CHAIN, 0, 1).await.unwrap();
    assert_eq!(shown[0].reason.as_deref(), Some("seen by reason-secret"));
    // No column of the trail holds the content.
    for column in [
        "chain",
        "action",
        "previous_status",
        "new_status",
        "actor_id",
        "request_id",
    ] {
        let leaks = format!("SELECT count(*) FROM audit WHERE {column} LIKE '%secret%'");
        assert_eq!(stores.raw.number(&leaks).await, 0, "{column}");
    }
    assert_eq!(
        stores
            .raw
            .number("SELECT count(*) FROM audit_private WHERE value LIKE '%secret%'")
            .await,
        2
    );
}

async fn kyc_without_data_keeps_the_data(stores: &Relational) {
    let user = stores.user("An").await.id;
    let with_data = KycChange {
        data: Some(json!({"level": 1})),
        ..kyc(KycStatus::Verified)
    };
    let set = async |change: &KycChange| {
        stores
            .users
            .set_kyc(&context(), user, change, None, next_time())
            .await
            .unwrap()
    };
    set(&with_data).await;
    let rejected = set(&kyc(KycStatus::Rejected)).await;
    assert_eq!(
        (rejected.kyc.status, &rejected.kyc.data),
        (KycStatus::Rejected, &json!({"level": 1}))
    );
    let emptied = set(&KycChange {
        data: Some(json!({})),
        ..kyc(KycStatus::Pending)
    })
    .await;
    assert_eq!(emptied.kyc.data, json!({}));
    assert_eq!(emptied.version, 4);
    assert_eq!(stores.users.find(user).await.unwrap(), Some(emptied));
}

async fn kyc_for_another_version_is_refused(stores: &Relational) {
    let user = stores.user("An").await;
    let refused = stores
        .users
        .set_kyc(
            &context(),
            user.id,
            &kyc(KycStatus::Verified),
            Some(2),
            next_time(),
        )
        .await;
    assert!(
        matches!(refused, Err(Error::VersionMismatch { current: 1 })),
        "{refused:?}"
    );
    assert_eq!(
        stores.users.find(user.id).await.unwrap(),
        Some(user.clone())
    );
    assert!(stores.check_chain(user.id, USER_CHAIN).await.is_empty());
}

async fn erased_content_leaves_the_chain_intact(stores: &Relational) {
    let user = stores.user("An").await.id;
    for reason in ["one", "two"] {
        let rejected = KycChange {
            reason: Some(reason.to_owned()),
            ..kyc(KycStatus::Rejected)
        };
        stores
            .users
            .set_kyc(&context(), user, &rejected, None, next_time())
            .await
            .unwrap();
    }
    let erased = stores
        .raw
        .execute("DELETE FROM audit_private WHERE value = 'one'")
        .await
        .unwrap();
    assert_eq!(erased, 1);
    stores.check_chain(user, USER_CHAIN).await;
    let reasons: Vec<_> = stores
        .audit
        .chain(user, USER_CHAIN, 0, 10)
        .await
        .unwrap()
        .into_iter()
        .map(|row| row.reason)
        .collect();
    assert_eq!(reasons, [None, Some("two".to_owned())]);
}

async fn pages_of_users_neither_repeat_nor_omit_while_users_are_made(stores: &Relational) {
    let mut there = Vec::new();
    for index in 0..20 {
        // Four share each microsecond, so that the id decides.
        let user = NewUser {
            at: at(100_000 + index / 4),
            ..new_user(&format!("there-{index}"))
        };
        let made = stores.users.create(&context(), &user).await.unwrap();
        assert_eq!(made.created_at, user.at);
        there.push((user.at, user.id));
    }
    there.sort();
    there.reverse();

    let mut listed = Vec::new();
    let mut after = None;
    for index in 0.. {
        let page = Page { after, limit: 3 };
        let rows = stores.users.list(&page).await.unwrap();
        let Some(last) = rows.last() else { break };
        assert!(rows.len() <= 3);
        after = Some((last.created_at, last.id));
        for row in &rows {
            assert_eq!(row.balances.len(), 1);
            assert_eq!(row.balances[0].available, Amount::ZERO);
            assert_eq!(row.heads.len(), 2);
            listed.push((row.created_at, row.id));
        }
        // Newer than all that was there, so it belongs to no later page.
        let newer = NewUser {
            at: at(200_000),
            ..new_user(&format!("newer-{index}"))
        };
        stores.users.create(&context(), &newer).await.unwrap();
    }
    assert_eq!(listed, there);
}
