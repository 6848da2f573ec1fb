//! What callers use of users: the hybrid user as one.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::served::{Caching, Composed, serve};
use super::*;
use crate::cache::Cache;
use crate::cache::user_tag;
use crate::clock::{SharedClock, Timestamp};
use crate::context::Context;
use crate::detached::detached;
use crate::documents::canonical::{Root, check_document};
use crate::documents::{
    self, DocumentKey, DocumentKind, DocumentState, Freshness, NewDocument, UserDocuments,
};
use crate::error::{StoreError, StoreKind};
use crate::ids::{UserId, random_bytes};
use crate::ledger::{Asset, Page, asset_tag};
use crate::outbox::{self, Promises};
use crate::transaction::guard;
use crate::validation::{FaultCode, Faults};

/// Codes tried for a new user: of 32⁸ possible ones even a billion taken leave a chance of 10⁻²⁴ that
/// none of these is free.
const REFERRAL_CANDIDATES: usize = 8;

/// Longest reason of a KYC decision: as for transactions.
const MAX_REASON_CHARS: usize = 1_000;

/// A user as a caller asks for it.
#[derive(Debug, Clone)]
pub struct CreateUser {
    pub email: Email,
    pub name: Name,
    pub wallet_address: Option<WalletAddress>,
    pub phone: Option<Phone>,
    pub social: Option<SocialId>,
    pub referred_by: Option<ReferralCode>,
    /// `None`: the defaults.
    pub preferences: Option<Value>,
    /// `None`: `{}`.
    pub metadata: Option<Value>,
}

/// What a `PATCH` asks for.
pub type UserPatch = UserChange;

/// What a change of KYC asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct KycRequest {
    pub status: KycStatus,
    pub data: Option<Value>,
    pub reason: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    documents: documents::Service,
    cache: Cache,
    clock: SharedClock,
    default_asset: Asset,
    profile_ttl: Duration,
}

impl Service {
    /// `profile_ttl`: how long a hybrid user is cached.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        documents: documents::Service,
        cache: Cache,
        clock: SharedClock,
        default_asset: Asset,
        profile_ttl: Duration,
    ) -> Self {
        Self {
            store,
            documents,
            cache,
            clock,
            default_asset,
            profile_ttl,
        }
    }

    /// One relational commit; the documents are applied to the document store before it returns, or by
    /// the relay soon after.
    pub async fn create(&self, ctx: &Context, request: CreateUser) -> Result<HybridUser, Error> {
        guard::outside(StoreKind::Relational)?;
        let preferences = request
            .preferences
            .unwrap_or_else(documents::preferences::defaults);
        let metadata = request
            .metadata
            .unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        check_first_documents(&preferences, &metadata).map_err(Error::Invalid)?;
        let at = self.clock.now();
        let user = NewUser {
            id: UserId::new(at),
            email: request.email,
            name: request.name,
            wallet_address: request.wallet_address,
            phone: request.phone,
            social: request.social,
            referral_codes: (0..REFERRAL_CANDIDATES)
                .map(|_| ReferralCode::from_random(random_bytes()))
                .collect(),
            referred_by: request.referred_by,
            default_asset: self.default_asset,
            documents: FirstDocuments {
                preferences: NewDocument::of(&preferences),
                metadata: NewDocument::of(&metadata),
            },
            at,
        };
        let (this, ctx) = (self.clone(), ctx.clone());
        detached(async move {
            // Asked before, since a commit whose answer is lost does not say whom it concerns.
            let referrer = match user.referred_by {
                Some(code) => {
                    let (kind, key) = (IdentityKind::ReferralCode, code.key());
                    let query = IdentityQuery { kind, key };
                    this.store.find_by_identity(&query).await?
                }
                None => None,
            };
            let creating = this.store.create(&ctx, &user);
            let (created, promises) = outbox::collecting(creating).await;
            if let Err(Error::Store(StoreError::OutcomeUnknown { .. })) = &created {
                // It may be committed yet: its promise stays for those who see it then.
                let tags: Vec<String> = referrer
                    .into_iter()
                    .chain([user.id])
                    .map(user_tag)
                    .collect();
                this.cache.invalidate(&[], &tags).await;
            }
            let record = created?;
            let tags: Vec<String> = [Some(record.id), record.referral.referred_by]
                .into_iter()
                .flatten()
                .map(user_tag)
                .collect();
            let keys = DocumentKind::ALL.iter().map(|kind| DocumentKey {
                user_id: record.id,
                kind: *kind,
            });
            let keys: Vec<DocumentKey> = keys.collect();
            // The referrer's profile shows how many it referred.
            let (report, ()) = tokio::join!(
                this.documents.apply_now(&keys),
                this.cache.keep(&tags, promises)
            );
            let documents = this
                .documents
                .just_made(&record.heads, preferences, metadata, &report);
            Ok(compose(record, documents))
        })
        .await
    }

    /// The hybrid user. With `use_cache` a copy may serve that is current as of the last write this
    /// instance made, and at most a second behind the others'; with the relational store away, an older
    /// copy marked [`Source::Stale`].
    pub async fn get(
        &self,
        id: UserId,
        use_cache: bool,
    ) -> Result<Option<Served<HybridUser>>, StoreError> {
        let caching = Caching {
            cache: &self.cache,
            clock: &self.clock,
            key: format!("user:{id}"),
            tags: self.tags(id),
            ttl: self.profile_ttl,
            use_cache,
        };
        let read = || {
            let this = self.clone();
            async move { this.read(id).await }
        };
        serve(caching, read).await
    }

    /// The tags of all that shows a user: the user's own, and the assets', whose prices it shows.
    pub(crate) fn tags(&self, id: UserId) -> Vec<String> {
        vec![user_tag(id), asset_tag(&self.default_asset)]
    }

    /// From the stores: the relational one and the document store side by side.
    pub(crate) async fn read(&self, id: UserId) -> Result<Option<HybridUser>, StoreError> {
        let (record, content) = tokio::join!(self.store.find(id), self.documents.fetch(id));
        let Some(record) = record? else {
            return Ok(None);
        };
        let documents = self.documents.resolve(id, &record.heads, content).await;
        Ok(Some(compose(record, documents)))
    }

    pub async fn find(&self, query: &IdentityQuery) -> Result<Option<HybridUser>, StoreError> {
        match self.store.find_by_identity(query).await? {
            Some(id) => self.read(id).await,
            None => Ok(None),
        }
    }

    /// Newest first.
    pub async fn list(
        &self,
        page: &Page<(Timestamp, UserId)>,
    ) -> Result<Vec<HybridUser>, StoreError> {
        let records = self.store.list(page).await?;
        let ids: Vec<UserId> = records.iter().map(|record| record.id).collect();
        let contents = self.documents.fetch_many(&ids).await;
        let mut users = Vec::with_capacity(records.len());
        for (record, content) in records.into_iter().zip(contents) {
            // Settled at once but for the few that are written at this moment.
            let documents = self
                .documents
                .resolve(record.id, &record.heads, content)
                .await;
            users.push(compose(record, documents));
        }
        Ok(users)
    }

    pub async fn update(
        &self,
        ctx: &Context,
        id: UserId,
        patch: UserPatch,
        if_match: Option<i64>,
    ) -> Result<HybridUser, Error> {
        guard::outside(StoreKind::Relational)?;
        let (this, ctx) = (self.clone(), ctx.clone());
        detached(async move {
            let at = this.clock.now();
            let changing = this
                .store
                .update(&ctx, id, &patch, if_match, random_bytes(), at);
            this.after_change(id, outbox::collecting(changing).await)
                .await
        })
        .await
    }

    pub async fn set_kyc(
        &self,
        ctx: &Context,
        id: UserId,
        request: KycRequest,
        if_match: Option<i64>,
    ) -> Result<HybridUser, Error> {
        guard::outside(StoreKind::Relational)?;
        check_kyc(&request).map_err(Error::Invalid)?;
        let change = KycChange {
            status: request.status,
            data: request.data,
            reason: request.reason,
            salts: [random_bytes(), random_bytes()],
        };
        let (this, ctx) = (self.clone(), ctx.clone());
        detached(async move {
            let at = this.clock.now();
            let changing = this.store.set_kyc(&ctx, id, &change, if_match, at);
            this.after_change(id, outbox::collecting(changing).await)
                .await
        })
        .await
    }

    /// Invalidates what a commit changed, or may have changed, and composes the answer.
    async fn after_change(
        &self,
        id: UserId,
        (changed, promises): (Result<UserRecord, Error>, Promises),
    ) -> Result<HybridUser, Error> {
        match &changed {
            Ok(_) => self.cache.keep(&[user_tag(id)], promises).await,
            // It may be committed yet: its promise stays for those who see it then.
            Err(Error::Store(StoreError::OutcomeUnknown { .. })) => {
                self.cache.invalidate(&[], &[user_tag(id)]).await;
            }
            Err(_) => {}
        }
        let record = changed?;
        let documents = self.documents.read_for(id, &record.heads).await;
        Ok(compose(record, documents))
    }

    /// The user's own code, how many it referred, and a page of them, newest first.
    pub async fn referrals(
        &self,
        id: UserId,
        page: &Page<(Timestamp, UserId)>,
    ) -> Result<Option<(Referral, Vec<ReferralRow>)>, StoreError> {
        let (record, rows) = tokio::join!(self.store.find(id), self.store.referrals(id, page));
        Ok(record?.map(|record| record.referral).zip(rows?))
    }
}

fn check_first_documents(preferences: &Value, metadata: &Value) -> Result<(), Faults> {
    let mut faults = Faults::new();
    for (kind, value) in [
        (DocumentKind::Preferences, preferences),
        (DocumentKind::Metadata, metadata),
    ] {
        let at = format!("/{kind}");
        faults.extend(documents::check(kind, value, &at).err().unwrap_or_default());
    }
    faults.into_result()
}

fn check_kyc(request: &KycRequest) -> Result<(), Faults> {
    let mut faults = Faults::new();
    if let Some(data) = &request.data {
        let found = check_document(data, "/data", Root::Object);
        faults.extend(found.err().unwrap_or_default());
    }
    if let Some(reason) = &request.reason {
        if reason.is_empty() {
            faults.add("/reason", FaultCode::TooShort, "must not be empty");
        }
        if reason.chars().count() > MAX_REASON_CHARS {
            faults.add("/reason", FaultCode::TooLong, "at most 1,000 characters");
        }
        if reason.chars().any(char::is_control) {
            let detail = "control characters are not allowed";
            faults.add("/reason", FaultCode::BadFormat, detail);
        }
    }
    faults.into_result()
}

/// The record and the documents as one. Marks are there only for what is not well.
fn compose(record: UserRecord, documents: UserDocuments) -> HybridUser {
    let store_away = documents.store_away;
    let concerned =
        |state: DocumentState| (store_away || state.state != Freshness::Current).then_some(state);
    let states = DocumentStates {
        preferences: concerned(documents.preferences.state),
        metadata: concerned(documents.metadata.state),
    };
    HybridUser {
        id: record.id,
        email: record.email,
        name: record.name,
        wallet_address: record.wallet_address,
        phone: record.phone,
        social: record.social,
        status: record.status,
        kyc: record.kyc,
        referral: record.referral,
        balances: record.balances,
        preferences: documents.preferences.value,
        metadata: documents.metadata.value,
        version: record.version,
        created_at: record.created_at,
        updated_at: record.updated_at,
        degraded: if store_away {
            vec![StoreKind::Documents.as_str().to_owned()]
        } else {
            Vec::new()
        },
        document_state: (states != DocumentStates::default()).then_some(states),
    }
}

impl Composed for HybridUser {
    fn is_whole(&self) -> bool {
        self.degraded.is_empty() && self.document_state.is_none()
    }

    fn mark_stale(&mut self, as_of: Timestamp) {
        self.degraded = vec![StoreKind::Relational.as_str().to_owned()];
        let stale = Some(DocumentState {
            state: Freshness::Stale,
            as_of: Some(as_of),
        });
        self.document_state = Some(DocumentStates {
            preferences: stale.clone(),
            metadata: stale,
        });
    }
}
