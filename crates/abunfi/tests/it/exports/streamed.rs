//! A proof is judged while it is read: what is held in memory of it does not depend on how long a history is.

use std::io::{BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use abunfi::audit::Progress;
use abunfi::audit::check::{self, Demands, Report, Unreadable};
use abunfi::audit::checkpoint::{Checkpoint, Covered};
use abunfi::audit::format::{CheckpointLine, Hex, Micros, PROOF, Proof, ProvedChain, RowLine};
use abunfi::clock::Timestamp;
use abunfi::ids::UserId;
use serde_json::{Value, json};
use uuid::Uuid;

const ROWS: usize = 20_000;
/// Of what was read and is not judged yet: a few rows, and the reader's own buffer.
const HELD_BYTES: usize = 32 * 1024;

/// A proof of one row, which says whatever: what is under test is when it is looked at.
fn proof() -> Proof {
    let zeros = Hex([0; 32]);
    let row = RowLine {
        user_id: UserId(Uuid::from_u128(1)),
        chain: "VND".to_owned(),
        seq: 1,
        transaction_id: None,
        action: "note".to_owned(),
        previous_status: None,
        new_status: None,
        amount_micros: Some(Micros(1)),
        shares_micros: None,
        available_after_micros: None,
        locked_after_micros: None,
        shares_after_micros: None,
        locked_shares_after_micros: None,
        actor_kind: "system".to_owned(),
        actor_id: "cli".into(),
        actor_session_id: None,
        request_id: "request-1".into(),
        at_micros: 0,
        reason_commitment: None,
        data_commitment: None,
        previous_hash: zeros,
        hash: zeros,
    };
    let covered = Covered {
        size: 1,
        root: [7; 32],
        rows: 1,
    };
    let checkpoint = Checkpoint::next(
        None,
        Uuid::from_u128(2),
        covered,
        Timestamp::from_micros(0),
        None,
    );
    Proof {
        format: PROOF.to_owned(),
        ledger_id: checkpoint.ledger_id,
        user_id: row.user_id,
        checkpoint: CheckpointLine::from(&checkpoint),
        chains: vec![ProvedChain {
            chain: row.chain.clone(),
            inclusion: None,
            rows: vec![row],
        }],
    }
}

fn checked(text: &str) -> Result<Report, Unreadable> {
    check::check(&mut text.as_bytes(), &Demands::default(), &())
}

/// Counts what is taken of it.
struct Counted<R>(R, Arc<AtomicUsize>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let taken = self.0.read(into)?;
        self.1.fetch_add(taken, Ordering::Relaxed);
        Ok(taken)
    }
}

/// The most that was read beyond the rows that were judged.
struct Ahead {
    read: Arc<AtomicUsize>,
    row_bytes: usize,
    most: AtomicUsize,
}

impl Progress for Ahead {
    fn rows(&self, done: u64) {
        let judged = usize::try_from(done).unwrap() * self.row_bytes;
        let ahead = self.read.load(Ordering::Relaxed).saturating_sub(judged);
        self.most.fetch_max(ahead, Ordering::Relaxed);
    }
}

#[test]
fn a_long_history_is_judged_row_by_row() {
    let proof = proof();
    let row = serde_json::to_string(&proof.chains[0].rows[0]).unwrap();
    let text = serde_json::to_string(&proof).unwrap();
    let (before, after) = text.split_once(&row).unwrap();
    // Written over many lines, and as a single one.
    for separator in [",\n", ","] {
        let more = format!("{separator}{row}");
        let long = format!("{before}{row}{}{after}", more.repeat(ROWS - 1));
        let read = Arc::new(AtomicUsize::new(0));
        let all = long.as_bytes();
        let mut reader = BufReader::with_capacity(4_096, Counted(all, Arc::clone(&read)));
        let ahead = Ahead {
            read,
            row_bytes: more.len(),
            most: AtomicUsize::new(0),
        };
        let report = check::check(&mut reader, &Demands::default(), &ahead).unwrap();
        assert_eq!(usize::try_from(report.rows).unwrap(), ROWS);
        // Every row has the number and the hash of the first: none is as it should be.
        assert_eq!(usize::try_from(report.disagreements).unwrap(), ROWS);
        let most = ahead.most.into_inner();
        let first_line = if separator == "," { 1 << 20 } else { 0 };
        assert!(most <= HELD_BYTES + first_line, "{most} bytes were held");
        assert!(most > 0);
    }
}

#[test]
fn members_come_in_the_order_that_lets_a_reader_stream() {
    let whole = serde_json::to_value(proof()).unwrap();
    let text = |names: &[&str], of: &Value| {
        let members = names
            .iter()
            .map(|name| format!("{}: {}", json!(name), of[*name]));
        format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
    };
    let top = ["format", "ledger_id", "user_id", "checkpoint", "chains"];
    assert_eq!(checked(&text(&top, &whole)).unwrap().rows, 1);
    // Only that the chains come last matters, and what is not known is read over.
    let mut more = whole.clone();
    more["note"] = json!({"chains": []});
    let any = [
        "note",
        "checkpoint",
        "user_id",
        "ledger_id",
        "format",
        "chains",
    ];
    assert_eq!(checked(&text(&any, &more)).unwrap().rows, 1);
    let with_chain = |names: &[&str]| {
        let chain = text(names, &whole["chains"][0]);
        let before = text(&top[..4], &whole);
        let before = before.strip_suffix('}').unwrap();
        format!("{before}, \"chains\": [{chain}]}}")
    };
    let cases = [
        (
            text(&["chains", "format"], &whole),
            "`chains` come after `format`",
        ),
        (
            text(
                &["format", "ledger_id", "chains", "user_id", "checkpoint"],
                &whole,
            ),
            "`chains` come after `ledger_id`",
        ),
        (text(&top[..4], &whole), "a proof has chains"),
        (
            text(&[&top[..], &["checkpoint"]].concat(), &whole),
            "duplicate field `checkpoint`",
        ),
        (
            text(&[&top[..], &["chains"]].concat(), &whole),
            "duplicate field `chains`",
        ),
        (
            text(&[&top[..], &["user_id"]].concat(), &whole),
            "duplicate field `user_id`",
        ),
        (
            with_chain(&["rows", "chain", "inclusion"]),
            "`rows` come after",
        ),
        (
            with_chain(&["chain", "rows", "inclusion"]),
            "`rows` come after",
        ),
        (with_chain(&["chain", "inclusion"]), "missing field `rows`"),
        (
            with_chain(&["chain", "inclusion", "rows", "rows"]),
            "`rows` are the last",
        ),
        (text(&top, &whole) + " {}", "trailing characters"),
    ];
    for (text, why) in cases {
        let refused = checked(&text).expect_err(why).to_string();
        assert!(refused.contains(why), "{why}: {refused}");
    }
}
