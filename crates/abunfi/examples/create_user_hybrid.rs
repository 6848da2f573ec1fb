//! One call makes a user in all stores, one call reads it back from all of them.
//!
//! ```sh
//! cargo run --example create_user_hybrid
//! ```
//!
//! Needs no server: the whole platform runs in this process, on a temporary folder.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use abunfi::DatabaseService;
use abunfi::config::Config;
use abunfi::context::Context;
use abunfi::documents::{DocumentKey, DocumentKind, Expected, Write};
use abunfi::users::{CreateUser, Email, HybridUser, Name, Phone};
use anyhow::Context as _;
use serde_json::json;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let user = run().await?;
    println!("{}", serde_json::to_string_pretty(&user)?);
    Ok(())
}

async fn run() -> anyhow::Result<HybridUser> {
    let folder = tempfile::tempdir()?;
    let platform = DatabaseService::open(Config {
        data_dir: folder.path().to_owned(),
        ..Config::default()
    })
    .await?;
    let ctx = Context::system("example");

    // User, identities, zero balance and both documents are one relational commit. The document store may
    // be away meanwhile: it is brought up to date when it returns.
    let created = platform
        .users()
        .create(
            &ctx,
            CreateUser {
                email: Email::parse("an@example.com")?,
                name: Name::parse("An")?,
                wallet_address: None,
                phone: Some(Phone::parse("+84901234567")?),
                social: None,
                referred_by: None,
                preferences: Some(json!({"language": "en", "theme": "dark"})),
                metadata: Some(json!({"goal": {"name": "a bicycle", "amount": "6000000"}})),
            },
        )
        .await?;
    println!(
        "made user {} with referral code {}",
        created.id,
        created.referral.code.key()
    );

    // A merge patch (RFC 7396): what it does not name stays.
    let metadata = DocumentKey {
        user_id: created.id,
        kind: DocumentKind::Metadata,
    };
    let patch = Write::Patch(json!({"goal": {"reached": false}}));
    let view = platform
        .documents()
        .write(&ctx, metadata, patch, Expected::Anything)
        .await?;
    println!(
        "metadata is now at version {}: {}",
        view.version, view.value
    );

    // The hybrid user, read past the cache: relational row, balances and documents as one.
    let read = platform.get_user_by_id(created.id, false).await?;
    let read = read.context("the user that was just made")?;
    println!("read back from the stores:");
    platform.close().await;
    Ok(read.value.as_ref().clone())
}

#[cfg(test)]
mod embedded {
    #[tokio::test]
    async fn the_example_makes_a_user_and_reads_it_back() -> anyhow::Result<()> {
        let user = super::run().await?;
        assert_eq!(user.email.as_str(), "an@example.com");
        assert_eq!(user.preferences["theme"], "dark");
        // A core key that was not given has its default.
        assert_eq!(user.preferences["currency"], "VND");
        assert_eq!(user.metadata["goal"]["name"], "a bicycle");
        assert_eq!(user.metadata["goal"]["reached"], false);
        assert_eq!(user.balances.len(), 1);
        assert!(user.degraded.is_empty());
        Ok(())
    }
}
