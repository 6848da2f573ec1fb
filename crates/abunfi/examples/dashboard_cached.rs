//! A dashboard over all stores, cached, and right again at once after money has moved.
//!
//! ```sh
//! cargo run --example dashboard_cached
//! ```
//!
//! Needs no server: the whole platform runs in this process, on a temporary folder.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Instant;

use abunfi::config::Config;
use abunfi::context::Context;
use abunfi::ids::UserId;
use abunfi::ledger::{PostRequest, TransactionType};
use abunfi::money::Amount;
use abunfi::users::{CreateUser, Email, Name, Source};
use abunfi::{Dashboard, DatabaseService};
use anyhow::{Context as _, bail};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run().await?;
    Ok(())
}

/// Where each read came from, and what was available then.
async fn run() -> anyhow::Result<Vec<(Source, String)>> {
    let folder = tempfile::tempdir()?;
    let platform = DatabaseService::open(Config {
        data_dir: folder.path().to_owned(),
        ..Config::default()
    })
    .await?;
    let ctx = Context::system("example");
    let user = platform
        .users()
        .create(
            &ctx,
            CreateUser {
                email: Email::parse("binh@example.com")?,
                name: Name::parse("Bình")?,
                wallet_address: None,
                phone: None,
                social: None,
                referred_by: None,
                preferences: None,
                metadata: None,
            },
        )
        .await?
        .id;

    let mut reads = Vec::new();
    deposit(&platform, &ctx, user, "1500000").await?;
    // From the stores, and then from the cache.
    reads.push(read(&platform, user).await?);
    reads.push(read(&platform, user).await?);
    // A commit invalidates what it changed: whoever reads after it sees it, cached or not.
    deposit(&platform, &ctx, user, "250000.5").await?;
    reads.push(read(&platform, user).await?);
    reads.push(read(&platform, user).await?);
    platform.close().await;
    Ok(reads)
}

async fn deposit(
    platform: &DatabaseService,
    ctx: &Context,
    user: UserId,
    amount: &str,
) -> anyhow::Result<()> {
    let request = PostRequest::new(TransactionType::Deposit, Amount::parse(amount)?);
    let outcome = platform.ledger().post(ctx, user, request, None).await?;
    match outcome.answer.result {
        Ok(posted) => println!("deposited {amount}, available {}", posted.balance.available),
        Err(refusal) => bail!("the deposit was refused: {refusal}"),
    }
    Ok(())
}

async fn read(platform: &DatabaseService, user: UserId) -> anyhow::Result<(Source, String)> {
    let started = Instant::now();
    let served = platform
        .dashboard(user, true)
        .await?
        .context("the user is there")?;
    let took = started.elapsed();
    let available = available(&served.value).context("the user has a balance")?;
    println!(
        "read the dashboard in {took:?} ({:?}): {available} available",
        served.source
    );
    Ok((served.source, available))
}

fn available(dashboard: &Dashboard) -> Option<String> {
    let balance = dashboard.balances.first()?;
    Some(balance.available.to_string())
}

#[cfg(test)]
mod embedded {
    use abunfi::users::Source;

    #[tokio::test]
    async fn the_example_reads_from_the_cache_until_money_moves() -> anyhow::Result<()> {
        let reads = super::run().await?;
        let wanted = [
            (Source::Miss, "1500000"),
            (Source::Hit, "1500000"),
            (Source::Miss, "1750000.5"),
            (Source::Hit, "1750000.5"),
        ];
        let wanted = wanted.map(|(source, available)| (source, available.to_owned()));
        assert_eq!(reads, wanted);
        Ok(())
    }
}
