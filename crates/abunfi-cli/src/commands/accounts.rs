//! `abunfi accounts`.

use std::process::ExitCode;

use abunfi::config::Loaded;
use abunfi::ledger::{Asset, TrialBalance};
use serde_json::{Value, json};

use crate::failure::Misuse;
use crate::{output, setup};

pub(crate) async fn run(
    loaded: Loaded,
    asset: Option<&str>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let wanted = asset.map(parse).transpose()?;
    let platform = setup::open_to_read(loaded).await?;
    let books = platform.ledger().trial_balance().await;
    platform.close().await;
    let mut books = books?;
    if let Some(wanted) = &wanted {
        books.retain(|books| books.asset == *wanted);
        if books.is_empty() {
            anyhow::bail!("there is no asset {wanted}");
        }
    }
    if json {
        output::json(&books.iter().map(shown).collect::<Vec<_>>())?;
    } else {
        output::line(&output::columns(&table(&books)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn parse(code: &str) -> Result<Asset, Misuse> {
    Asset::parse(code).ok_or_else(|| {
        Misuse(format!(
            "{code:?} is no asset: it has 1 to 12 of A-Z and 0-9"
        ))
    })
}

/// As `GET /api/v1/ledger/trial-balance` has it, and the number of accounts.
fn shown(books: &TrialBalance) -> Value {
    json!({
        "asset": books.asset,
        "accounts": books.accounts,
        "users": books.users,
        "custody": books.custody,
        "yield": books.yield_,
        "promotions": books.promotions,
        "fees": books.fees,
        "net": books.net,
    })
}

fn table(books: &[TrialBalance]) -> Vec<Vec<String>> {
    let head = [
        "asset",
        "accounts",
        "users",
        "custody",
        "yield",
        "promotions",
        "fees",
        "net",
    ];
    let rows = books.iter().map(|books| {
        vec![
            books.asset.to_string(),
            books.accounts.to_string(),
            books.users.to_string(),
            books.custody.to_string(),
            books.yield_.to_string(),
            books.promotions.to_string(),
            books.fees.to_string(),
            books.net.to_string(),
        ]
    });
    std::iter::once(head.map(str::to_owned).to_vec())
        .chain(rows)
        .collect()
}
