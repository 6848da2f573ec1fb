//! What a forger would do to an export: the table of edits, each of which both checkers must see.

use abunfi::audit::format::{CheckpointLine, RowLine};
use serde_json::Value;

/// What a forger would do to an export, by name.
pub(super) type Edit = (&'static str, fn(&mut Vec<Value>));

/// The last line of that type, for which the rest holds.
pub(super) fn the<'a>(
    lines: &'a mut [Value],
    kind: &str,
    holds: impl Fn(&Value) -> bool,
) -> &'a mut Value {
    lines
        .iter_mut()
        .rfind(|line| line["type"] == kind && holds(line))
        .expect("a line of this type")
}

pub(super) fn more(value: &mut Value) {
    add(value, 1);
}

pub(super) fn flip(value: &mut Value) {
    let text = value.as_str().unwrap();
    let first = if text.starts_with('0') { "1" } else { "0" };
    *value = format!("{first}{}", &text[1..]).into();
}

fn place(lines: &[Value], kind: &str, holds: impl Fn(&Value) -> bool) -> usize {
    lines
        .iter()
        .position(|line| line["type"] == kind && holds(line))
        .unwrap()
}

pub(super) fn is_vnd(line: &Value) -> bool {
    line["chain"] == "VND"
}

pub(super) const EDITS: &[Edit] = &[
    ("a row's amount", |l| {
        more(&mut the(l, "row", is_vnd)["amount_micros"])
    }),
    ("a row's amount after", |l| {
        more(&mut the(l, "row", is_vnd)["available_after_micros"])
    }),
    ("a row's time", |l| {
        the(l, "row", is_vnd)["at_micros"] = 5.into()
    }),
    ("a row's actor", |l| {
        the(l, "row", is_vnd)["actor_id"] = "somebody".into()
    }),
    ("a row's commitment", |l| {
        flip(&mut the(l, "row", |r| !r["reason_commitment"].is_null())["reason_commitment"])
    }),
    ("a row of a user's chain", |l| {
        the(l, "row", |r| r["chain"] == "user")["new_status"] = "rejected".into()
    }),
    ("a row of the platform", |l| {
        the(l, "row", |r| r["chain"] == "asset:USDT")["amount_micros"] = "5".into()
    }),
    ("a row's hash", |l| flip(&mut the(l, "row", is_vnd)["hash"])),
    ("a deleted row", |l| {
        l.remove(place(l, "row", |r| is_vnd(r) && r["seq"] == 2));
    }),
    ("a deleted last row", |l| {
        let row = the(l, "row", is_vnd).clone();
        l.retain(|line| *line != row);
    }),
    ("an inserted row", |l| {
        let row = place(l, "row", is_vnd);
        l.insert(row, l[row].clone());
    }),
    ("swapped rows", |l| {
        let row = place(l, "row", |r| is_vnd(r) && r["seq"] == 2);
        l.swap(row, row + 1);
    }),
    ("a balance", |l| {
        more(&mut the(l, "account", is_vnd)["available_micros"])
    }),
    ("a hold", |l| {
        more(&mut the(l, "account", is_vnd)["locked_micros"])
    }),
    ("shares", |l| {
        more(&mut the(l, "account", is_vnd)["shares_micros"])
    }),
    ("a total", |l| {
        more(&mut the(l, "account", is_vnd)["deposited_micros"])
    }),
    ("a head", |l| flip(&mut the(l, "account", is_vnd)["hash"])),
    ("a shorter chain", |l| {
        let seq = &mut the(l, "account", |a| a["chain"] == "USDT")["seq"];
        *seq = (seq.as_i64().unwrap() - 1).into();
    }),
    ("a transaction's amount", |l| {
        more(&mut the(l, "transaction", |_| true)["amount_micros"])
    }),
    ("a transaction's type", |l| {
        the(l, "transaction", |t| t["kind"] == "deposit")["kind"] = "referral_bonus".into()
    }),
    ("a transaction's status", |l| {
        the(l, "transaction", |t| t["status"] == "confirmed")["status"] = "failed".into()
    }),
    ("a deleted transaction", |l| {
        l.remove(place(l, "transaction", |_| true));
    }),
    ("an entry's amount", |l| {
        more(&mut the(l, "entry", |_| true)["amount_micros"])
    }),
    ("an entry's account", |l| {
        the(l, "entry", |e| e["account"] == "yield")["account"] = "custody".into()
    }),
    ("a deleted entry", |l| {
        l.remove(place(l, "entry", |_| true));
    }),
    ("a checkpoint's root", |l| {
        flip(&mut the(l, "checkpoint", |c| c["number"] == 1)["root"])
    }),
    ("a checkpoint's time", |l| {
        the(l, "checkpoint", |_| true)["at_micros"] = 5.into()
    }),
    ("a checkpoint's signature", |l| {
        flip(&mut the(l, "checkpoint", |_| true)["signature"])
    }),
    ("a checkpoint without its signature", |l| {
        let line = the(l, "checkpoint", |_| true);
        (line["signature"], line["public_key"]) = (Value::Null, Value::Null);
    }),
    ("a deleted checkpoint", |l| {
        l.remove(place(l, "checkpoint", |c| c["number"] == 2));
    }),
    ("the newest checkpoint deleted", |l| {
        l.remove(place(l, "checkpoint", |c| c["number"] == 3));
    }),
    ("all checkpoints stripped", |l| {
        l.retain(|line| {
            !["checkpoint", "leaf", "change"].contains(&line["type"].as_str().unwrap())
        });
        the(l, "header", |_| true)["checkpoint"] = 0.into();
    }),
    ("a header that leaves out the sums", |l| {
        the(l, "header", |_| true)["since"] = 1.into();
        more(&mut the(l, "account", is_vnd)["deposited_micros"]);
        l.remove(place(l, "checkpoint", |c| c["number"] == 1));
    }),
    ("a header that promises another checkpoint", |l| {
        the(l, "header", |_| true)["checkpoint"] = 4.into()
    }),
    ("fees", |l| {
        more(&mut the(l, "account", is_vnd)["fees_micros"])
    }),
    ("an account twice", |l| {
        let account = place(l, "account", is_vnd);
        l.insert(account, l[account].clone());
    }),
    ("users once more in another batch", |l| {
        let end = l.len() - 1;
        let batch = place(l, "batch", |_| true);
        let again: Vec<Value> = l[batch..end].to_vec();
        l.splice(end..end, again);
    }),
    ("half a signature", |l| {
        the(l, "checkpoint", |_| true)["public_key"] = Value::Null
    }),
    ("what a leaf held", |l| {
        flip(&mut the(l, "change", |_| true)["hash"])
    }),
    ("another leaf's owner", |l| {
        let name = &mut the(l, "leaf", is_vnd)["chain"];
        *name = "EUR".into();
    }),
    ("a change deleted", |l| {
        l.remove(place(l, "change", |_| true));
    }),
    ("a whole chain deleted", |l| {
        l.retain(|line| line["chain"] != "USDT" || line["type"] == "leaf")
    }),
    // From here on with new hashes, in a row that no checkpoint covers: the hash is not what tells of it.
    ("a type that does not exist", |l| {
        forge_newest(l, |l, row| {
            row["action"] = "post_gift".into();
            let id = row["transaction_id"].clone();
            the(l, "transaction", |t| t["transaction_id"] == id)["kind"] = "gift".into();
            the(l, "entry", |e| {
                e["transaction_id"] == id && e["account"] == "custody"
            })["account"] = "promotions".into();
            let account = the(l, "account", is_vnd);
            add(&mut account["deposited_micros"], -1_000_000);
            add(&mut account["bonuses_micros"], 1_000_000);
        });
    }),
    ("a first row with a status before it", |l| {
        forge_newest(l, |_, row| row["previous_status"] = "pending".into());
    }),
    ("a row of an account without a transaction", |l| {
        forge_newest(l, |l, row| {
            let id = row["transaction_id"].take();
            l.retain(|line| line["transaction_id"] != id || line["type"] == "row");
            row["action"] = "note".into();
            let account = the(l, "account", is_vnd);
            add(&mut account["deposited_micros"], -1_000_000);
            add(&mut account["available_micros"], -1_000_000);
            add(&mut row["available_after_micros"], -1_000_000);
        });
    }),
];

/// Those that a key which is demanded would find in any case: seen without one.
pub(super) const UNSIGNED_EDITS: &[Edit] = &[
    ("half a signature", |l| {
        the(l, "checkpoint", |_| true)["public_key"] = Value::Null
    }),
    ("the other half", |l| {
        the(l, "checkpoint", |_| true)["signature"] = Value::Null
    }),
    ("another's signature", |l| {
        flip(&mut the(l, "checkpoint", |_| true)["signature"])
    }),
    (
        "a newest checkpoint that is older than the one before",
        |l| {
            forge_checkpoint(l, |line| line["at_micros"] = 5.into());
        },
    ),
    ("a newest checkpoint of a smaller tree", |l| {
        forge_checkpoint(l, |line| line["size"] = 1.into());
    }),
    ("a newest checkpoint that covers other rows", |l| {
        forge_checkpoint(l, |line| line["covered_rows"] = 1_000_000.into());
    }),
    ("a newest checkpoint with another root", |l| {
        forge_checkpoint(l, |line| flip(&mut line["root"]));
    }),
    ("a newest checkpoint after another one", |l| {
        forge_checkpoint(l, |line| flip(&mut line["previous_hash"]));
    }),
];

/// Changes the newest checkpoint, and makes its hash good; it is not signed then.
fn forge_checkpoint(lines: &mut [Value], edit: impl Fn(&mut Value)) {
    let ledger_id = the(lines, "header", |_| true)["ledger_id"].clone();
    let line = the(lines, "checkpoint", |_| true);
    (line["signature"], line["public_key"]) = (Value::Null, Value::Null);
    edit(line);
    let forged: CheckpointLine = serde_json::from_value(line.clone()).unwrap();
    let ledger_id = serde_json::from_value(ledger_id).unwrap();
    let hash = forged.into_checkpoint(ledger_id).computed_hash();
    line["hash"] = hex::encode(hash).into();
}

/// Changes the newest row of the last user, a deposit of 1, and makes its hash good and the head that has it.
fn forge_newest(lines: &mut Vec<Value>, edit: impl Fn(&mut Vec<Value>, &mut Value)) {
    let place = lines
        .iter()
        .rposition(|line| line["type"] == "row" && is_vnd(line))
        .unwrap();
    let mut row = lines[place].clone();
    edit(lines, &mut row);
    let line: RowLine = serde_json::from_value(row.clone()).unwrap();
    let hash = hex::encode(line.into_entry().unwrap().computed_hash());
    row["hash"] = hash.clone().into();
    // Everything that an edit takes away comes after the rows.
    lines[place] = row;
    the(lines, "account", is_vnd)["hash"] = hash.into();
}

fn add(value: &mut Value, micros: i64) {
    let before: i64 = value.as_str().unwrap().parse().unwrap();
    *value = (before + micros).to_string().into();
}
