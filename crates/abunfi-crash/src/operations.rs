//! What clients ask for, drawn at random.

use serde::Serialize;
use serde_json::{Value, json};

use crate::random::Random;

/// A pending withdrawal that somebody may settle.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    pub(crate) user: String,
    pub(crate) transaction: String,
}

/// A request that changes something, and what it means for the books.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Request {
    pub(crate) key: String,
    pub(crate) path: String,
    pub(crate) body: Value,
    pub(crate) effect: Effect,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Effect {
    Post,
    /// So many postings: all or none, or each by itself.
    Batch {
        atomic: bool,
        items: usize,
    },
    /// Confirm, fail or cancel.
    Settle {
        transaction: String,
    },
    Submit,
}

/// The kinds of postings, with the weight of each and the range of its amount in hundredths.
const KINDS: [(u64, &str, &str, u64, u64); 6] = [
    (38, "deposit", "confirmed", 1_000, 50_000),
    (20, "withdraw", "confirmed", 100, 40_000),
    (22, "withdraw", "pending", 100, 20_000),
    (8, "yield_harvest", "confirmed", 1, 500),
    (8, "referral_bonus", "confirmed", 100, 1_000),
    (4, "deposit", "pending", 100, 1_000),
];

pub(crate) fn posting(random: &mut Random, key: &str, index: usize) -> Value {
    let mut draw = random.between(0, KINDS.iter().map(|kind| kind.0).sum());
    let [mut kind, ..] = KINDS;
    for candidate in KINDS {
        kind = candidate;
        if draw < candidate.0 {
            break;
        }
        draw -= candidate.0;
    }
    let (_, name, status, low, high) = kind;
    let hundredths = random.between(low, high);
    json!({
        "type": name, "status": status,
        "amount": format!("{}.{:02}", hundredths / 100, hundredths % 100),
        "metadata": {"k": key, "i": index},
    })
}

pub(crate) fn post(random: &mut Random, key: String, user: &str) -> Request {
    Request {
        path: format!("users/{user}/transactions"),
        body: posting(random, &key, 0),
        key,
        effect: Effect::Post,
    }
}

pub(crate) fn batch(
    random: &mut Random,
    key: String,
    users: &[String],
    atomic: bool,
    items: usize,
) -> Request {
    let transactions: Vec<Value> = (0..items)
        .map(|index| {
            let mut item = posting(random, &key, index);
            if let (Some(item), Some(user)) = (item.as_object_mut(), random.pick(users)) {
                item.insert("user_id".to_owned(), json!(user));
            }
            item
        })
        .collect();
    Request {
        path: "transactions/batch".to_owned(),
        body: json!({"atomic": atomic, "transactions": transactions}),
        key,
        effect: Effect::Batch { atomic, items },
    }
}

pub(crate) fn settle(random: &mut Random, key: String, hold: &Hold) -> Request {
    let verb = match random.between(0, 100) {
        0..20 => "submit",
        20..55 => "confirm",
        55..75 => "fail",
        _ => "cancel",
    };
    let transaction = hold.transaction.clone();
    Request {
        path: format!("users/{}/transactions/{transaction}/{verb}", hold.user),
        body: json!({}),
        key,
        effect: if verb == "submit" {
            Effect::Submit
        } else {
            Effect::Settle { transaction }
        },
    }
}
