//! The hybrid user, over stores in memory.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop where it stands"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use super::*;
use crate::clock::{Clock as _, Timestamp};
use crate::context::Context;
use crate::documents::fakes::{FakeHeads, Scene};
use crate::documents::{DocumentKey, DocumentKind, Expected, Freshness, Write};
use crate::error::{StoreError, StoreKind};
use crate::ids::UserId;
use crate::ledger::{Asset, Page};

/// The name of users of whom the commit's answer is lost.
const LOST: &str = "Lost";

fn lost() -> Error {
    Error::Store(StoreError::OutcomeUnknown {
        store: StoreKind::Relational,
        reason: "lost".to_owned(),
    })
}

/// Users, whose heads are those of the documents' fakes, and which is away when they are.
#[derive(Debug)]
struct FakeUsers {
    records: Mutex<Vec<UserRecord>>,
    heads: Arc<FakeHeads>,
    reads: AtomicUsize,
}

impl FakeUsers {
    fn answer(&self) -> Result<(), StoreError> {
        if self.heads.is_away.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable(StoreKind::Relational, "away"));
        }
        Ok(())
    }

    fn with_heads(&self, mut record: UserRecord) -> UserRecord {
        record.heads = self.heads.all(record.id);
        record
    }
}

#[async_trait]
impl Store for FakeUsers {
    async fn create(&self, _ctx: &Context, user: &NewUser) -> Result<UserRecord, Error> {
        self.answer()?;
        let referred_by = user.referred_by.as_ref().map(|code| {
            let mut records = self.records.lock().unwrap();
            let referrer = records
                .iter_mut()
                .find(|record| record.referral.code == *code)
                .unwrap();
            referrer.referral.count += 1;
            referrer.id
        });
        let record = UserRecord {
            id: user.id,
            email: user.email.clone(),
            name: user.name.clone(),
            wallet_address: None,
            phone: None,
            social: None,
            status: UserStatus::Active,
            kyc: Kyc {
                status: KycStatus::Pending,
                data: json!({}),
            },
            referral: Referral {
                code: user.referral_codes[0],
                referred_by,
                count: 0,
            },
            balances: Vec::new(),
            heads: Vec::new(),
            version: 1,
            created_at: user.at,
            updated_at: user.at,
        };
        if user.name.as_str() == LOST {
            return Err(lost());
        }
        self.records.lock().unwrap().push(record.clone());
        self.heads.add_user(user.id);
        for (kind, document) in [
            (DocumentKind::Preferences, &user.documents.preferences),
            (DocumentKind::Metadata, &user.documents.metadata),
        ] {
            let user_id = user.id;
            let value = serde_json::from_str(&document.canonical).unwrap();
            self.heads.put(DocumentKey { user_id, kind }, &value);
        }
        Ok(self.with_heads(record))
    }

    async fn find(&self, id: UserId) -> Result<Option<UserRecord>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.answer()?;
        let records = self.records.lock().unwrap();
        let record = records.iter().find(|record| record.id == id).cloned();
        Ok(record.map(|record| self.with_heads(record)))
    }

    async fn find_by_identity(&self, query: &IdentityQuery) -> Result<Option<UserId>, StoreError> {
        self.answer()?;
        let records = self.records.lock().unwrap();
        let found = records.iter().find(|record| {
            record.email.key() == query.key || record.referral.code.key() == query.key
        });
        Ok(found.map(|record| record.id))
    }

    async fn list(&self, _page: &Page<(Timestamp, UserId)>) -> Result<Vec<UserRecord>, StoreError> {
        self.answer()?;
        let records = self.records.lock().unwrap().clone();
        Ok(records
            .into_iter()
            .map(|record| self.with_heads(record))
            .collect())
    }

    async fn update(
        &self,
        _ctx: &Context,
        id: UserId,
        change: &UserChange,
        if_match: Option<i64>,
        _salt: [u8; 32],
        at: Timestamp,
    ) -> Result<UserRecord, Error> {
        self.answer()?;
        let mut records = self.records.lock().unwrap();
        let record = records
            .iter_mut()
            .find(|record| record.id == id)
            .ok_or(Error::NotFound)?;
        if let Some(changed) = rules::change(record, change, if_match, at)? {
            *record = changed.user;
        }
        Ok(self.with_heads(record.clone()))
    }

    async fn set_kyc(
        &self,
        _ctx: &Context,
        _id: UserId,
        _change: &KycChange,
        _if_match: Option<i64>,
        _at: Timestamp,
    ) -> Result<UserRecord, Error> {
        Err(lost())
    }

    async fn referrals(
        &self,
        _id: UserId,
        _page: &Page<(Timestamp, UserId)>,
    ) -> Result<Option<Vec<ReferralRow>>, StoreError> {
        Ok(None)
    }
}

struct Platform {
    documents: Scene,
    store: Arc<FakeUsers>,
    users: Service,
}

const TTL: Duration = Duration::from_secs(60);

impl Platform {
    fn new() -> Self {
        let documents = Scene::new();
        let store = Arc::new(FakeUsers {
            records: Mutex::default(),
            heads: documents.heads.clone(),
            reads: AtomicUsize::new(0),
        });
        let users = Service::new(
            store.clone(),
            documents.service.clone(),
            documents.cache.clone(),
            documents.clock.clone(),
            Asset::parse("VND").unwrap(),
            TTL,
        );
        Self {
            documents,
            store,
            users,
        }
    }

    async fn create(&self, name: &str, referred_by: Option<ReferralCode>) -> HybridUser {
        self.try_create(name, referred_by).await.unwrap()
    }

    async fn try_create(
        &self,
        name: &str,
        referred_by: Option<ReferralCode>,
    ) -> Result<HybridUser, Error> {
        let request = CreateUser {
            email: Email::parse(&format!("{name}@example.com")).unwrap(),
            name: Name::parse(name).unwrap(),
            wallet_address: None,
            phone: None,
            social: None,
            referred_by,
            preferences: Some(json!({"language": "en"})),
            metadata: None,
        };
        let ctx = Context::system("test");
        self.users.create(&ctx, request).await
    }

    async fn get(&self, id: UserId) -> Served<HybridUser> {
        self.users.get(id, true).await.unwrap().unwrap()
    }

    async fn put(&self, id: UserId, value: serde_json::Value) {
        let key = DocumentKey {
            user_id: id,
            kind: DocumentKind::Metadata,
        };
        let (ctx, write) = (Context::system("test"), Write::Put(value));
        let service = &self.documents.service;
        service
            .write(&ctx, key, write, Expected::Anything)
            .await
            .unwrap();
    }
}

fn is_well(user: &HybridUser) -> bool {
    user.degraded.is_empty() && user.document_state.is_none()
}

#[tokio::test]
async fn a_new_user_is_whole_and_its_documents_are_applied() {
    let platform = Platform::new();
    let user = platform.create("an", None).await;
    assert!(is_well(&user));
    assert_eq!(user.preferences["language"], "en");
    assert_eq!(user.preferences["currency"], "VND", "the gaps are filled");
    assert_eq!(user.metadata, json!({}));
    assert_eq!(*platform.get(user.id).await.value, user);
    let text = serde_json::to_string(&user).unwrap();
    assert!(!text.contains("degraded") && !text.contains("document_state"));
}

#[tokio::test]
async fn a_user_made_while_the_document_store_is_away_is_marked_until_it_is_back() {
    let platform = Platform::new();
    platform.documents.content_is_away(true);
    let user = platform.create("an", None).await;
    assert_eq!(user.degraded, ["mongodb"]);
    let states = user.document_state.unwrap();
    assert_eq!(states.metadata.unwrap().state, Freshness::Pending);
    for _ in 0..2 {
        let served = platform.get(user.id).await;
        assert_eq!(
            served.source,
            Source::Miss,
            "what misses a part is not cached"
        );
        assert_eq!(served.value.degraded, ["mongodb"]);
        assert_eq!(served.value.preferences["language"], "en");
    }

    platform.documents.content_is_away(false);
    platform.documents.clock.advance(Duration::from_secs(10));
    platform.documents.service.relay().run_once().await.unwrap();
    assert!(is_well(&platform.get(user.id).await.value));
}

#[tokio::test]
async fn a_profile_is_cached_until_something_of_it_changes() {
    let platform = Platform::new();
    let user = platform.create("an", None).await;
    let ctx = Context::system("test");
    assert_eq!(platform.get(user.id).await.source, Source::Miss);
    platform.documents.clock.advance(Duration::from_secs(5));
    let served = platform.get(user.id).await;
    assert_eq!(
        (served.source, served.age),
        (Source::Hit, Duration::from_secs(5))
    );
    assert_eq!(platform.store.reads.load(Ordering::SeqCst), 1);
    let bypass = platform.users.get(user.id, false).await.unwrap().unwrap();
    assert_eq!(bypass.source, Source::Bypass);

    platform.put(user.id, json!({"n": 1})).await;
    let served = platform.get(user.id).await;
    assert_eq!(
        (served.source, &served.value.metadata),
        (Source::Miss, &json!({"n": 1}))
    );

    let patch = UserPatch {
        name: Some(Name::parse("Binh").unwrap()),
        ..UserPatch::default()
    };
    let updated = platform
        .users
        .update(&ctx, user.id, patch.clone(), Some(1))
        .await;
    assert_eq!(updated.unwrap().version, 2);
    assert_eq!(platform.get(user.id).await.value.name.as_str(), "Binh");
    let refused = platform.users.update(&ctx, user.id, patch, Some(1)).await;
    assert!(matches!(
        refused,
        Err(Error::VersionMismatch { current: 2 })
    ));
}

#[tokio::test]
async fn a_change_whose_outcome_is_unknown_is_not_hidden_by_the_cache() {
    let platform = Platform::new();
    let user = platform.create("an", None).await;
    platform.get(user.id).await;
    let request = KycRequest {
        status: KycStatus::Verified,
        data: None,
        reason: None,
    };
    let ctx = Context::system("test");
    let unknown = platform.users.set_kyc(&ctx, user.id, request, None).await;
    assert!(unknown.is_err());
    assert_eq!(platform.get(user.id).await.source, Source::Miss);
}

#[tokio::test]
async fn the_referrers_profile_counts_a_new_user_at_once() {
    let platform = Platform::new();
    let referrer = platform.create("an", None).await;
    assert_eq!(platform.get(referrer.id).await.value.referral.count, 0);
    let code = referrer.referral.code;
    let referred = platform.create("binh", Some(code)).await;
    assert_eq!(referred.referral.referred_by, Some(referrer.id));
    assert_eq!(platform.get(referrer.id).await.value.referral.count, 1);
}

#[tokio::test]
async fn the_referrers_profile_is_not_hidden_by_the_cache_when_it_is_unknown_whether_a_user_was_made()
 {
    let platform = Platform::new();
    let referrer = platform.create("an", None).await;
    platform.get(referrer.id).await;
    let code = referrer.referral.code;
    let unknown = platform.try_create(LOST, Some(code)).await;
    assert!(matches!(
        unknown,
        Err(Error::Store(StoreError::OutcomeUnknown { .. }))
    ));
    let served = platform.get(referrer.id).await;
    assert_eq!(
        (served.source, served.value.referral.count),
        (Source::Miss, 1)
    );
}

#[tokio::test]
async fn with_the_relational_store_away_the_last_copy_answers_marked_with_its_age() {
    let platform = Platform::new();
    let user = platform.create("an", None).await;
    let read_at = platform.documents.clock.now();
    platform.get(user.id).await;
    platform.documents.heads_are_away(true);
    platform.documents.clock.advance(TTL * 2);

    let served = platform.get(user.id).await;
    assert_eq!((served.source, served.age), (Source::Stale, TTL * 2));
    assert_eq!(served.value.degraded, ["postgresql"]);
    let state = served
        .value
        .document_state
        .clone()
        .unwrap()
        .metadata
        .unwrap();
    assert_eq!(
        (state.state, state.as_of),
        (Freshness::Stale, Some(read_at))
    );

    let bypass = platform.users.get(user.id, false).await;
    assert!(bypass.is_err(), "the stores were wanted");
    let unknown = platform
        .users
        .get(UserId::new(Timestamp::EPOCH), true)
        .await;
    assert!(unknown.is_err(), "away is not the same as not there");

    platform.documents.heads_are_away(false);
    let served = platform.get(user.id).await;
    assert_eq!(served.source, Source::Miss);
    assert!(is_well(&served.value), "the mark was never cached");
}

#[tokio::test]
async fn a_list_reads_all_documents_in_one_go() {
    let platform = Platform::new();
    for name in ["an", "binh", "chi"] {
        let user = platform.create(name, None).await;
        platform.put(user.id, json!({ "name": name })).await;
    }
    let reads = &platform.documents.content.reads;
    let before = reads.load(Ordering::SeqCst);
    let page = Page {
        after: None,
        limit: 10,
    };
    let users = platform.users.list(&page).await.unwrap();
    assert_eq!(users.len(), 3);
    for user in &users {
        assert!(is_well(user));
        assert_eq!(user.metadata["name"], user.name.as_str());
    }
    let content = &platform.documents.content;
    assert_eq!(content.bulk_reads.load(Ordering::SeqCst), 1);
    assert_eq!(reads.load(Ordering::SeqCst), before);

    platform.documents.content_is_away(true);
    let users = platform.users.list(&page).await.unwrap();
    assert!(users.iter().all(|user| user.degraded == ["mongodb"]));
}

#[tokio::test]
async fn all_faults_of_the_first_documents_and_of_kyc_come_at_once() {
    let platform = Platform::new();
    let ctx = Context::system("test");
    let request = CreateUser {
        email: Email::parse("an@example.com").unwrap(),
        name: Name::parse("An").unwrap(),
        wallet_address: None,
        phone: None,
        social: None,
        referred_by: None,
        preferences: Some(json!({"language": "fr", "currency": 1})),
        metadata: Some(json!([])),
    };
    let Err(Error::Invalid(faults)) = platform.users.create(&ctx, request).await else {
        panic!("taken");
    };
    let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
    assert_eq!(
        pointers,
        [
            "/preferences/language",
            "/preferences/currency",
            "/metadata"
        ]
    );
    assert!(platform.store.records.lock().unwrap().is_empty());

    let request = KycRequest {
        status: KycStatus::Rejected,
        data: Some(json!({"$x": 1})),
        reason: Some("x".repeat(1_001)),
    };
    let id = UserId::new(Timestamp::EPOCH);
    let Err(Error::Invalid(faults)) = platform.users.set_kyc(&ctx, id, request, None).await else {
        panic!("taken");
    };
    let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
    assert_eq!(pointers, ["/data/$x", "/reason"]);
}
