//! A user as one: relational row, balance and documents together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use serde_json::json;

use super::Part;
use super::runner::{Because, Found, PartRun, ensure, skip};
use super::sample::{Sample, ensure_inside, rolled_back, undo};
use crate::DatabaseService;
use crate::cache::user_tag;
use crate::documents::{DocumentKey, DocumentKind, Error, Expected, HeadWrite, NewDocument};
use crate::ids::UserId;
use crate::ledger::Page;
use crate::users::{IdentityKind, IdentityQuery};

pub(super) async fn run(platform: &DatabaseService) -> Part {
    let mut part = PartRun::new("hybrid_user_operations");
    part.check(
        "user, balance and documents are made together, and undone together",
        creates(platform),
    )
    .await;
    part.check(
        "a document's write counts its version up",
        writes_document(platform),
    )
    .await;
    part.check(
        "nothing but the relational store is called inside a transaction",
        guards(platform),
    )
    .await;
    part.check(
        "a user who does not exist is found nowhere",
        finds_nobody(platform),
    )
    .await;
    part.check(
        "the newest user reads the same from the stores and through the cache",
        reads(platform),
    )
    .await;
    part.done()
}

async fn creates(platform: &DatabaseService) -> Found {
    let sample = Sample::new(platform)?;
    let query = IdentityQuery {
        kind: IdentityKind::Email,
        key: sample.user.email.key(),
    };
    let (body, inside_query) = (sample.clone(), query.clone());
    rolled_back(platform, move |tx| {
        let (sample, query) = (body.clone(), inside_query.clone());
        async move {
            tx.create_user(&sample.ctx, &sample.user).await?;
            let found = tx.user_by_identity(&query).await?;
            ensure_inside(
                found == Some(sample.id()),
                "it is not found by its e-mail address",
            )?;
            let user = tx.user(sample.id()).await?;
            let (balances, heads) =
                user.map_or((0, 0), |user| (user.balances.len(), user.heads.len()));
            ensure_inside(
                (balances, heads) == (1, 2),
                format!("it has {balances} balances and {heads} documents, not 1 and 2"),
            )?;
            undo()
        }
        .boxed()
    })
    .await?;
    let user = platform.users().get(sample.id(), false).await?;
    ensure(user.is_none(), "the user is still there")?;
    let user = platform.users().find(&query).await?;
    ensure(user.is_none(), "its e-mail address is still taken")?;
    forget(platform, sample.id()).await;
    Ok(())
}

async fn writes_document(platform: &DatabaseService) -> Found {
    let sample = Sample::new(platform)?;
    rolled_back(platform, move |tx| {
        let sample = sample.clone();
        async move {
            tx.create_user(&sample.ctx, &sample.user).await?;
            let content = NewDocument::of(&json!({"goal": "a bicycle"}));
            let mut write = HeadWrite {
                key: DocumentKey {
                    user_id: sample.id(),
                    kind: DocumentKind::Metadata,
                },
                expected: Expected::Anything,
                content: Some(content.clone()),
                import: None,
                at: sample.now,
            };
            let first = tx.write_document(&sample.ctx, &write).await?.head;
            ensure_inside(first.hash == content.hash, "the head's hash is another one")?;
            write.content = None;
            let second = tx.write_document(&sample.ctx, &write).await?.head;
            ensure_inside(
                second.deleted && second.version == first.version + 1,
                format!(
                    "version {} was deleted as {}",
                    first.version, second.version
                ),
            )?;
            undo()
        }
        .boxed()
    })
    .await
}

/// A second connection taken inside a transaction hangs a platform under load: it must be an error at once.
async fn guards(platform: &DatabaseService) -> Found {
    let refused = Arc::new(AtomicBool::new(false));
    let (inner, seen) = (platform.clone(), Arc::clone(&refused));
    rolled_back(platform, move |tx| {
        let (platform, refused) = (inner.clone(), Arc::clone(&seen));
        async move {
            let nobody = UserId::new(platform.clock().now());
            tx.user(nobody).await?;
            let answer = platform.ledger().balances(nobody).await;
            refused.store(answer.is_err(), Ordering::SeqCst);
            undo()
        }
        .boxed()
    })
    .await?;
    ensure(
        refused.load(Ordering::SeqCst),
        "a second connection was given out",
    )
}

async fn finds_nobody(platform: &DatabaseService) -> Found {
    let nobody = UserId::new(platform.clock().now());
    for use_cache in [false, true] {
        let found = platform.get_user_by_id(nobody, use_cache).await?;
        ensure(found.is_none(), "somebody was found")?;
        let found = platform.dashboard(nobody, use_cache).await?;
        ensure(found.is_none(), "a dashboard was made up")?;
    }
    forget(platform, nobody).await;
    let key = DocumentKey {
        user_id: nobody,
        kind: DocumentKind::Preferences,
    };
    match platform.documents().get(key).await {
        Err(Error::NotFound) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => ensure(false, "preferences were made up"),
    }
}

/// Reads only: whoever it is, nothing of it is changed.
async fn reads(platform: &DatabaseService) -> Found {
    let page = Page {
        after: None,
        limit: 1,
    };
    let newest = platform.users().list(&page).await?.into_iter().next();
    let Some(newest) = newest else {
        return skip("there is no user yet");
    };
    let gone = || Because::Failed("it could not be read again".to_owned());
    let stores = platform.get_user_by_id(newest.id, false).await?;
    let stores = stores.ok_or_else(gone)?.value;
    let cached = platform.get_user_by_id(newest.id, true).await?;
    let cached = cached.ok_or_else(gone)?.value;
    let dashboard = platform.dashboard(newest.id, false).await?;
    let dashboard = dashboard.ok_or_else(gone)?.value;
    ensure(
        stores.degraded.is_empty(),
        format!("parts are missing: {}", stores.degraded.join(", ")),
    )?;
    // What others write meanwhile may show in one and not yet in another; who it is may not change.
    let same = [&cached, &dashboard.user]
        .iter()
        .all(|user| user.id == stores.id);
    ensure(same, "they are different users")
}

async fn forget(platform: &DatabaseService, user: UserId) {
    let tags = [user_tag(user)];
    platform.cache_service().invalidate(&[], &tags).await;
}
