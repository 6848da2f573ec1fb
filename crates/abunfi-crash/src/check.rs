//! The history against the books: what was acknowledged is there once, what was not is not there, and the
//! balances are those that follow.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::books::{Place, digits};
use crate::client::micros;
use crate::history::{End, Entry};
use crate::operations::Effect;
use crate::report::{Check, Figures, Violations};

/// A posting of the history: its key and its place in the request.
type PostingKey = (String, u64);

#[derive(Debug, Clone)]
struct Posted {
    transaction: String,
    status: String,
    amount: i128,
}

#[derive(Debug, Clone)]
struct Pending {
    user: String,
    kind: String,
    amount: i128,
}

/// What the history says the books must be.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// Available and locked, by user.
    accounts: BTreeMap<String, (i128, i128)>,
    pending: BTreeMap<String, Pending>,
}

impl Model {
    /// Takes in a cycle's history, whose keys begin with `prefix`, and compares.
    pub(crate) async fn check(
        &mut self,
        place: &Place,
        prefix: &str,
        entries: &[Entry],
        violations: &Violations,
    ) -> Result<()> {
        let mut acknowledged: BTreeMap<PostingKey, Value> = BTreeMap::new();
        for entry in entries {
            self.note_postings(entry, &mut acknowledged);
        }
        self.settle(entries, violations);
        compare_postings(place, prefix, entries, &acknowledged, violations).await?;
        self.compare_balances(place, violations).await
    }

    fn note_postings(&mut self, entry: &Entry, acknowledged: &mut BTreeMap<PostingKey, Value>) {
        let End::Done { body, .. } = &entry.end else {
            return;
        };
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        let transactions: Vec<Value> = match entry.request.effect {
            Effect::Post => vec![body],
            Effect::Batch { .. } => {
                let results = body.get("results").and_then(Value::as_array);
                let results = results.into_iter().flatten();
                results
                    .map(|result| result.get("transaction").cloned().unwrap_or_default())
                    .collect()
            }
            Effect::Settle { .. } | Effect::Submit => return,
        };
        for (index, transaction) in (0_u64..).zip(transactions) {
            if !transaction.is_null() {
                self.post(&transaction);
                acknowledged.insert((entry.request.key.clone(), index), transaction);
            }
        }
    }

    fn post(&mut self, transaction: &Value) {
        let text = |name| {
            transaction
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (user, kind) = (digits(&text("user_id")), text("type"));
        let amount = micros(&text("amount")).unwrap_or_default();
        let (available, locked) = self.accounts.entry(user.clone()).or_default();
        match (kind.as_str(), text("status").as_str()) {
            ("withdraw", "pending") => {
                *available -= amount;
                *locked += amount;
            }
            ("withdraw", _) => *available -= amount,
            (_, "pending") => {}
            _ => *available += amount,
        }
        if text("status") == "pending" {
            self.pending
                .insert(digits(&text("id")), Pending { user, kind, amount });
        }
    }

    /// Applies what was settled: each hold once at most.
    fn settle(&mut self, entries: &[Entry], violations: &Violations) {
        for entry in entries {
            let (Effect::Settle { transaction }, End::Done { body, .. }) =
                (&entry.request.effect, &entry.end)
            else {
                continue;
            };
            let Some(pending) = self.pending.remove(&digits(transaction)) else {
                let detail = format!(
                    "{}: {transaction} was settled before: {body}",
                    entry.request.key
                );
                violations.add(Check::SettledOnce, detail);
                continue;
            };
            let body: Value = serde_json::from_str(body).unwrap_or_default();
            let confirmed = body.get("status").and_then(Value::as_str) == Some("confirmed");
            let (available, locked) = self.accounts.entry(pending.user).or_default();
            if pending.kind == "withdraw" {
                *locked -= pending.amount;
                *available += if confirmed { 0 } else { pending.amount };
            } else if confirmed {
                *available += pending.amount;
            }
        }
    }

    async fn compare_balances(&self, place: &Place, violations: &Violations) -> Result<()> {
        let rows = place
            .texts(
                "SELECT {id:user_id} || ' ' || CAST(available AS text) || ' ' || CAST(locked AS text)
                 FROM accounts WHERE asset = 'VND'",
            )
            .await?;
        for row in rows {
            let mut parts = row.split(' ');
            let user = parts.next().unwrap_or_default();
            let mut figure = || parts.next().and_then(|text| text.parse::<i128>().ok());
            let found = (figure(), figure());
            let (available, locked) = self.accounts.get(user).copied().unwrap_or_default();
            if found != (Some(available), Some(locked)) {
                let detail = format!(
                    "{user}: the history gives {available} and {locked}, the books {found:?}"
                );
                violations.add(Check::BooksAreTheHistory, detail);
            }
        }
        let pending = place
            .texts("SELECT {id:transaction_id} FROM transactions WHERE status = 'pending'")
            .await?;
        let pending: BTreeSet<String> = pending.into_iter().collect();
        let known: BTreeSet<String> = self.pending.keys().cloned().collect();
        if pending != known {
            let odd: Vec<_> = pending.symmetric_difference(&known).take(5).collect();
            violations.add(
                Check::BooksAreTheHistory,
                format!("pending in one of the two alone: {odd:?}"),
            );
        }
        Ok(())
    }
}

/// Every posting of the cycle: once in the books when it was acknowledged, else not at all.
async fn compare_postings(
    place: &Place,
    prefix: &str,
    entries: &[Entry],
    acknowledged: &BTreeMap<PostingKey, Value>,
    violations: &Violations,
) -> Result<()> {
    let rows = place
        .texts(&format!(
            "SELECT {{id:transaction_id}} || ' ' || status || ' ' || CAST(amount AS text) || ' ' || metadata
             FROM transactions WHERE metadata LIKE '%\"{prefix}%'"
        ))
        .await?;
    let mut found: BTreeMap<PostingKey, Vec<Posted>> = BTreeMap::new();
    for row in &rows {
        let (key, posted) = read_row(row).with_context(|| row.clone())?;
        found.entry(key).or_default().push(posted);
    }
    for (key, transaction) in acknowledged {
        let there = found.remove(key).unwrap_or_default();
        let text = |name| {
            transaction
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let is_it = match there.as_slice() {
            [one] => {
                let same_status = one.status == text("status") || text("status") == "pending";
                one.transaction == digits(text("id"))
                    && Some(one.amount) == micros(text("amount"))
                    && same_status
            }
            _ => false,
        };
        if !is_it {
            let detail =
                format!("{key:?} was acknowledged as {transaction}, in the books: {there:?}");
            violations.add(Check::Acknowledged, detail);
        }
    }
    let ends: BTreeMap<&str, &End> = entries
        .iter()
        .map(|entry| (entry.request.key.as_str(), &entry.end))
        .collect();
    for (key, there) in found {
        let end = ends.get(key.0.as_str());
        let detail = format!("{key:?} is in the books, and ended with {end:?}: {there:?}");
        violations.add(Check::NotDone, detail);
    }
    Ok(())
}

fn read_row(row: &str) -> Option<(PostingKey, Posted)> {
    let mut parts = row.splitn(4, ' ');
    let posted = Posted {
        transaction: parts.next()?.to_owned(),
        status: parts.next()?.to_owned(),
        amount: parts.next()?.parse().ok()?,
    };
    let metadata: Value = serde_json::from_str(parts.next()?).ok()?;
    let key = metadata.get("k")?.as_str()?.to_owned();
    Some(((key, metadata.get("i")?.as_u64()?), posted))
}

/// What the clients did, in figures.
pub(crate) fn count(entries: &[Entry]) -> Figures {
    let mut figures = Figures::default();
    for entry in entries {
        figures.unknown += u64::from(entry.attempts > 1);
        figures.answers_lost += u64::from(entry.answer_was_lost);
        match (&entry.end, &entry.request.effect) {
            (End::Done { body, .. }, effect) => {
                figures.acknowledged += 1;
                figures.postings += match effect {
                    Effect::Post => 1,
                    Effect::Batch { .. } => {
                        u64::try_from(body.matches("\"transaction\":").count()).unwrap_or_default()
                    }
                    Effect::Settle { .. } | Effect::Submit => 0,
                };
            }
            (End::Refused { .. }, _) => figures.refused += 1,
            (End::NotDone { .. }, _) => figures.not_done += 1,
            (End::Unknown, _) => {}
        }
    }
    figures
}
