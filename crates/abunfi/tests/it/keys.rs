//! What service keys demand of a relational store.

use abunfi::audit::PLATFORM;
use abunfi::clock::Timestamp;
use abunfi::ids::{KeyId, random_bytes};
use abunfi::keys::{Scope, ServiceKey};
use abunfi::sessions::RevocationKind;

use crate::support::make::{at, context};
use crate::support::{Relational, at_once, on_every_backend};

on_every_backend!(
    a_key_is_found_by_its_token_s_hash,
    keys_are_listed_newest_first,
    a_revoked_key_is_still_found_and_marked,
    revoking_twice_changes_nothing,
    revoking_an_unknown_key_finds_none,
    keys_are_audited_in_the_system_chain,
    many_keys_at_once_keep_one_chain,
);

fn key(owner: &str, created_at: Timestamp) -> ServiceKey {
    ServiceKey {
        id: KeyId::new(created_at),
        owner: owner.to_owned(),
        scopes: vec![Scope::Read, Scope::Money],
        token_hash: random_bytes(),
        created_at,
        revoked_at: None,
    }
}

async fn insert(stores: &Relational, key: &ServiceKey) {
    stores
        .keys
        .insert(&context(), key)
        .await
        .expect("the key is stored");
}

async fn a_key_is_found_by_its_token_s_hash(stores: &Relational) {
    assert!(stores.keys.list().await.unwrap().is_empty());
    let (shop, bank) = (key("shop", at(1)), key("bank", at(2)));
    let all = ServiceKey {
        scopes: Scope::ALL.to_vec(),
        ..key("ops team", at(3))
    };
    let none = ServiceKey {
        scopes: vec![],
        ..key("none", at(4))
    };
    for key in [&shop, &bank, &all, &none] {
        insert(stores, key).await;
    }
    for key in [&shop, &bank, &all, &none] {
        let found = stores.keys.find(&key.token_hash).await.unwrap();
        assert_eq!(found.as_ref(), Some(key));
    }
    let mut near = shop.token_hash;
    near[31] ^= 1;
    assert_eq!(stores.keys.find(&near).await.unwrap(), None);
    assert_eq!(stores.keys.find(&[0; 32]).await.unwrap(), None);
}

async fn keys_are_listed_newest_first(stores: &Relational) {
    // Two keys of one owner while it rotates.
    let keys = [key("shop", at(1)), key("bank", at(3)), key("shop", at(2))];
    for key in &keys {
        insert(stores, key).await;
    }
    stores
        .keys
        .revoke(&context(), keys[0].id, at(4))
        .await
        .unwrap();
    let listed: Vec<_> = stores
        .keys
        .list()
        .await
        .unwrap()
        .into_iter()
        .map(|key| key.id)
        .collect();
    assert_eq!(
        listed,
        [keys[1].id, keys[2].id, keys[0].id],
        "revoked ones too"
    );
}

async fn a_revoked_key_is_still_found_and_marked(stores: &Relational) {
    let (shop, bank) = (key("shop", at(1)), key("bank", at(2)));
    insert(stores, &shop).await;
    insert(stores, &bank).await;
    let revoked = stores
        .keys
        .revoke(&context(), shop.id, at(10))
        .await
        .unwrap();
    let expected = ServiceKey {
        revoked_at: Some(at(10)),
        ..shop.clone()
    };
    assert_eq!(revoked.as_ref(), Some(&expected));
    assert_eq!(
        stores.keys.find(&shop.token_hash).await.unwrap(),
        Some(expected)
    );
    assert_eq!(
        stores.keys.find(&bank.token_hash).await.unwrap(),
        Some(bank)
    );
    let revocations = stores.sessions.revocations(at(10), 10).await.unwrap();
    assert_eq!(revocations.len(), 1);
    assert_eq!(
        (revocations[0].kind, revocations[0].id, revocations[0].at),
        (RevocationKind::Key, shop.id.uuid(), at(10))
    );
}

async fn revoking_twice_changes_nothing(stores: &Relational) {
    let shop = key("shop", at(1));
    insert(stores, &shop).await;
    let first = stores
        .keys
        .revoke(&context(), shop.id, at(10))
        .await
        .unwrap();
    let rows = stores.check_chain(PLATFORM, "system").await.len();
    let again = stores
        .keys
        .revoke(&context(), shop.id, at(20))
        .await
        .unwrap();
    assert_eq!(again, first, "with the time of the first");
    assert_eq!(stores.check_chain(PLATFORM, "system").await.len(), rows);
}

async fn revoking_an_unknown_key_finds_none(stores: &Relational) {
    insert(stores, &key("shop", at(1))).await;
    let unknown = stores
        .keys
        .revoke(&context(), KeyId::new(at(1)), at(10))
        .await
        .unwrap();
    assert_eq!(unknown, None);
    assert!(
        stores
            .sessions
            .revocations(at(0), 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(stores.check_chain(PLATFORM, "system").await.len(), 1);
}

async fn keys_are_audited_in_the_system_chain(stores: &Relational) {
    let shop = key("shop", at(1));
    insert(stores, &shop).await;
    stores
        .keys
        .revoke(&context(), shop.id, at(10))
        .await
        .unwrap();
    let rows = stores.check_chain(PLATFORM, "system").await;
    assert_eq!(rows.len(), 2);
    assert_ne!(rows[0].action, rows[1].action);
    assert_eq!((rows[0].at, rows[1].at), (at(1), at(10)));
    for row in rows {
        assert_eq!(
            (&row.actor, &row.request_id),
            (&context().actor, &context().request_id)
        );
    }
    let hash = hex::encode(shop.token_hash);
    let leaks = format!(
        "SELECT count(*) FROM audit WHERE action LIKE '%{hash}%' OR new_status LIKE '%{hash}%'"
    );
    assert_eq!(stores.raw.number(&leaks).await, 0);
}

async fn many_keys_at_once_keep_one_chain(stores: &Relational) {
    at_once(12, |index| {
        let (stores, key) = (stores.clone(), key(&format!("owner-{index}"), at(1)));
        async move {
            insert(&stores, &key).await;
            stores
                .keys
                .revoke(&context(), key.id, at(2))
                .await
                .unwrap()
                .unwrap();
        }
    })
    .await;
    assert_eq!(stores.check_chain(PLATFORM, "system").await.len(), 24);
    assert_eq!(stores.keys.list().await.unwrap().len(), 12);
}
