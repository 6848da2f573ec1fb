//! Money: several users in one commit, a transaction that rolls back, a withdrawal in two steps.
//!
//! ```sh
//! cargo run --example financial_transaction
//! ```
//!
//! Needs no server: the whole platform runs in this process, on a temporary folder.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use abunfi::config::Config;
use abunfi::context::Context;
use abunfi::ids::UserId;
use abunfi::ledger::{
    Outcome, Page, PostRequest, Posted, SendOut, SettleRequest, Settlement, TransactionType,
};
use abunfi::money::Amount;
use abunfi::users::{CreateUser, Email, Name};
use abunfi::{DatabaseService, Error};
use anyhow::Context as _;
use futures::FutureExt;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run().await?;
    Ok(())
}

/// What each of the two has at the end, and how long the trail of the first is.
async fn run() -> anyhow::Result<(Amount, Amount, usize)> {
    let folder = tempfile::tempdir()?;
    let platform = DatabaseService::open(Config {
        data_dir: folder.path().to_owned(),
        ..Config::default()
    })
    .await?;
    let ctx = Context::system("example");
    let chi = user(&platform, &ctx, "chi@example.com", "Chi").await?;
    let dung = user(&platform, &ctx, "dung@example.com", "Dũng").await?;

    // Chi deposits, and Dũng has a bonus for it: both or none.
    pay_with_bonus(&platform, &ctx, chi, dung, "1000000", "50000").await?;
    println!("a deposit and its bonus, in one commit");

    // The second posting cannot be done, so the first is not done either.
    let refused = withdraw_both(&platform, &ctx, chi, dung, "60000").await;
    let reason = refused.err().context("Dũng has less than that")?;
    println!("two withdrawals together: {reason}; neither was done");

    // A withdrawal that needs the outside world: hold the amount, send it, confirm.
    let amount = Amount::parse("400000")?;
    let request = PostRequest::pending(TransactionType::Withdraw, amount);
    let held = posted(platform.ledger().post(&ctx, chi, request, None).await?)?;
    let id = held.transaction.id;
    println!(
        "pending: {} available, {} locked",
        held.balance.available, held.balance.locked
    );
    let sent = SendOut {
        tx_hash: Some("0x5f2c…".to_owned()),
    };
    platform.ledger().submit(&ctx, chi, id, sent, None).await?;
    let details = SettleRequest::default();
    let settled = platform
        .ledger()
        .settle(&ctx, chi, id, Settlement::Confirm, details, false, None)
        .await?;
    println!("confirmed: {} in all", posted(settled)?.balance.total);

    let page = Page {
        after: None,
        limit: 50,
    };
    let trail = platform.ledger().history(chi, None, &page).await?;
    let trail = trail.context("Chi is there")?;
    for row in trail.iter().rev() {
        println!("  {}", serde_json::to_string(row)?);
    }
    for books in platform.ledger().trial_balance().await? {
        println!(
            "books of {}: users {}, custody {}, net {}",
            books.asset, books.users, books.custody, books.net
        );
    }
    let totals = (
        total(&platform, chi).await?,
        total(&platform, dung).await?,
        trail.len(),
    );
    platform.close().await;
    Ok(totals)
}

async fn pay_with_bonus(
    platform: &DatabaseService,
    ctx: &Context,
    payer: UserId,
    referrer: UserId,
    amount: &str,
    bonus: &str,
) -> anyhow::Result<()> {
    let ledger = platform.ledger();
    let deposit = PostRequest::new(TransactionType::Deposit, Amount::parse(amount)?);
    let bonus = PostRequest::new(TransactionType::ReferralBonus, Amount::parse(bonus)?);
    let commands = vec![
        ledger.prepare(ctx, payer, deposit)?,
        ledger.prepare(ctx, referrer, bonus)?,
    ];
    all_or_none(platform, commands).await?;
    Ok(())
}

async fn withdraw_both(
    platform: &DatabaseService,
    ctx: &Context,
    one: UserId,
    other: UserId,
    amount: &str,
) -> anyhow::Result<()> {
    let request = PostRequest::new(TransactionType::Withdraw, Amount::parse(amount)?);
    let commands = vec![
        platform.ledger().prepare(ctx, one, request.clone())?,
        platform.ledger().prepare(ctx, other, request)?,
    ];
    all_or_none(platform, commands).await?;
    Ok(())
}

/// The body may run again after a conflict, so it owns what it needs and does nothing outside. Whatever
/// error it ends with rolls everything back.
async fn all_or_none(
    platform: &DatabaseService,
    commands: Vec<abunfi::ledger::Command>,
) -> Result<(), Error> {
    platform
        .execute_transaction(move |tx| {
            let commands = commands.clone();
            async move {
                for command in &commands {
                    let outcome = tx.update_user_balance(command).await?;
                    outcome.answer.result.map_err(abunfi::ledger::Error::from)?;
                }
                Ok(())
            }
            .boxed()
        })
        .await
}

fn posted(outcome: Outcome) -> anyhow::Result<Posted> {
    Ok(outcome.answer.result?)
}

async fn user(
    platform: &DatabaseService,
    ctx: &Context,
    email: &str,
    name: &str,
) -> anyhow::Result<UserId> {
    let request = CreateUser {
        email: Email::parse(email)?,
        name: Name::parse(name)?,
        wallet_address: None,
        phone: None,
        social: None,
        referred_by: None,
        preferences: None,
        metadata: None,
    };
    Ok(platform.users().create(ctx, request).await?.id)
}

async fn total(platform: &DatabaseService, user: UserId) -> anyhow::Result<Amount> {
    let balances = platform.ledger().balances(user).await?;
    let balance = balances.and_then(|balances| balances.into_iter().next());
    Ok(balance.context("every user has a balance")?.total)
}

#[cfg(test)]
mod embedded {
    use abunfi::money::Amount;

    #[tokio::test]
    async fn the_example_moves_money_all_or_none() -> anyhow::Result<()> {
        let (chi, dung, trail) = super::run().await?;
        assert_eq!(chi, Amount::parse("600000")?);
        assert_eq!(dung, Amount::parse("50000")?);
        // Deposit, hold, submission, confirmation.
        assert_eq!(trail, 4);
        Ok(())
    }
}
