//! Users, money and the trail, inside transactions that are rolled back.

use futures::FutureExt;

use super::Part;
use super::runner::{Found, PartRun, ensure};
use super::sample::{Sample, decide, ensure_inside, must_post, rolled_back, undo, units};
use crate::DatabaseService;
use crate::error::Error;
use crate::ledger::TransactionStatus::{Confirmed, Pending};
use crate::ledger::TransactionType::{Deposit, Withdraw, YieldHarvest};
use crate::ledger::{Refusal, Settlement};
use crate::transaction::Transaction;
use crate::users::{self, IdentityKind};

pub(super) async fn run(platform: &DatabaseService) -> Part {
    let mut part = PartRun::new("relational_operations");
    part.check(
        "a deposit and a withdrawal change the balance exactly",
        deposits(platform),
    )
    .await;
    part.check(
        "a withdrawal beyond the balance is refused",
        refuses_overdraft(platform),
    )
    .await;
    part.check(
        "a pending withdrawal holds its amount until it is settled",
        holds(platform),
    )
    .await;
    part.check(
        "an e-mail address belongs to one user",
        emails_are_unique(platform),
    )
    .await;
    part.check(
        "the audit trail refuses UPDATE",
        trail_refuses(platform, UPDATE_AUDIT),
    )
    .await;
    part.check(
        "the audit trail refuses DELETE",
        trail_refuses(platform, DELETE_AUDIT),
    )
    .await;
    part.check(
        "the books of every asset sum to zero",
        books_balance(platform),
    )
    .await;
    part.done()
}

async fn deposits(platform: &DatabaseService) -> Found {
    let sample = Sample::new(platform)?;
    let body = sample.clone();
    rolled_back(platform, move |tx| {
        let sample = body.clone();
        async move {
            tx.create_user(&sample.ctx, &sample.user).await?;
            must_post(tx, &sample.post(Deposit, units(100), Confirmed)?).await?;
            must_post(tx, &sample.post(YieldHarvest, units(5), Confirmed)?).await?;
            let posted = must_post(tx, &sample.post(Withdraw, units(30), Confirmed)?).await?;
            ensure_inside(
                posted.balance.available == units(75) && posted.balance.version == 3,
                format!(
                    "100 + 5 - 30 made {} after {} changes",
                    posted.balance.available, posted.balance.version
                ),
            )?;
            let user = tx.user(sample.id()).await?;
            let read = user.and_then(|user| user.balances.into_iter().next());
            ensure_inside(
                read.is_some_and(|balance| balance.available == units(75)),
                "the balance that is read is another one",
            )?;
            undo()
        }
        .boxed()
    })
    .await?;
    is_gone(platform, &sample).await
}

/// What was rolled back is nowhere.
async fn is_gone(platform: &DatabaseService, sample: &Sample) -> Found {
    let balances = platform.ledger().balances(sample.id()).await?;
    ensure(balances.is_none(), "what was rolled back is still there")
}

async fn refuses_overdraft(platform: &DatabaseService) -> Found {
    let sample = Sample::new(platform)?;
    rolled_back(platform, move |tx| {
        let sample = sample.clone();
        async move {
            tx.create_user(&sample.ctx, &sample.user).await?;
            must_post(tx, &sample.post(Deposit, units(10), Confirmed)?).await?;
            let refused = decide(tx, &sample.post(Withdraw, units(11), Confirmed)?).await?;
            ensure_inside(
                refused
                    == Err(Refusal::InsufficientFunds {
                        available: units(10),
                    }),
                "11 could be taken out of 10",
            )?;
            undo()
        }
        .boxed()
    })
    .await
}

async fn holds(platform: &DatabaseService) -> Found {
    let sample = Sample::new(platform)?;
    rolled_back(platform, move |tx| {
        let sample = sample.clone();
        async move {
            tx.create_user(&sample.ctx, &sample.user).await?;
            must_post(tx, &sample.post(Deposit, units(10), Confirmed)?).await?;
            let held = must_post(tx, &sample.post(Withdraw, units(4), Pending)?).await?;
            ensure_inside(
                (held.balance.available, held.balance.locked) == (units(6), units(4)),
                format!(
                    "{} is available and {} locked",
                    held.balance.available, held.balance.locked
                ),
            )?;
            let cancel = sample.settle(held.transaction.id, Settlement::Cancel);
            let released = must_post(tx, &cancel).await?;
            ensure_inside(
                released.balance.available == units(10),
                "cancelling did not release it",
            )?;
            let held = must_post(tx, &sample.post(Withdraw, units(4), Pending)?).await?;
            let confirm = sample.settle(held.transaction.id, Settlement::Confirm);
            let taken = must_post(tx, &confirm).await?;
            ensure_inside(
                taken.balance.total == units(6),
                "confirming did not take it",
            )?;
            ensure_inside(
                decide(tx, &confirm).await?.is_err(),
                "what is confirmed could be confirmed again",
            )?;
            undo()
        }
        .boxed()
    })
    .await
}

async fn emails_are_unique(platform: &DatabaseService) -> Found {
    let first = Sample::new(platform)?;
    let mut second = Sample::new(platform)?;
    second.user.email = first.user.email.clone();
    rolled_back(platform, move |tx| {
        let (first, second) = (first.clone(), second.clone());
        async move {
            tx.create_user(&first.ctx, &first.user).await?;
            match tx.create_user(&second.ctx, &second.user).await {
                Err(users::Error::IdentityTaken(IdentityKind::Email)) => undo(),
                Err(error) => Err(error.into()),
                Ok(_) => ensure_inside(false, "two users could be made with one address"),
            }
        }
        .boxed()
    })
    .await
}

/// One row by its key, whatever the types of the key are; there is one, since the body has made it.
const UPDATE_AUDIT: &str = "UPDATE audit SET action = action WHERE (user_id, chain, seq) IN \
                            (SELECT user_id, chain, seq FROM audit LIMIT 1)";
const DELETE_AUDIT: &str = "DELETE FROM audit WHERE (user_id, chain, seq) IN \
                            (SELECT user_id, chain, seq FROM audit LIMIT 1)";

async fn trail_refuses(platform: &DatabaseService, statement: &'static str) -> Found {
    let sample = Sample::new(platform)?;
    rolled_back(platform, move |tx| {
        let sample = sample.clone();
        async move {
            tx.create_user(&sample.ctx, &sample.user).await?;
            must_post(tx, &sample.post(Deposit, units(1), Confirmed)?).await?;
            let refused = execute(tx, statement).await?;
            ensure_inside(refused.is_err(), "it was allowed")?;
            undo()
        }
        .boxed()
    })
    .await
}

/// Runs a statement on the driver itself; the inner error is the database's.
async fn execute(
    tx: &mut dyn Transaction,
    statement: &'static str,
) -> Result<Result<(), sqlx::Error>, Error> {
    if let Some(connection) = tx.postgres() {
        return Ok(sqlx::query(statement).execute(connection).await.map(|_| ()));
    }
    if let Some(connection) = tx.sqlite() {
        return Ok(sqlx::query(statement).execute(connection).await.map(|_| ()));
    }
    Err(Error::Other("the transaction gives no connection".into()))
}

async fn books_balance(platform: &DatabaseService) -> Found {
    for books in platform.ledger().trial_balance().await? {
        let net = books.net.to_string();
        ensure(net == "0", format!("{} is off by {net}", books.asset))?;
    }
    Ok(())
}
