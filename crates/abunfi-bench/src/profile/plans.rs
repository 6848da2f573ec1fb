//! Plans with what they took, as `auto_explain` logs them while the service works: those of the values and the
//! connections that it really has, which an EXPLAIN by hand is not.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use sqlx::Connection;

use crate::ledger::connect;

/// The ledger's statements, each with what only its text contains.
const STATEMENTS: [(&str, &str); 3] = [
    ("the locks", "FOR UPDATE OF a"),
    (ANSWERS, "JOIN idempotency_keys i USING"),
    ("the writes", "WITH changed AS"),
];
/// Not looked for in a batch that has just been claimed.
const ANSWERS: &str = "the answers";

const SETTINGS: [&str; 6] = [
    "log_min_duration = 0",
    "log_analyze = on",
    "log_buffers = on",
    "log_wal = on",
    "log_triggers = on",
    // Arrays of a thousand values; known from PostgreSQL 16 on, and before it there is nothing to leave out.
    "log_parameter_max_length = 0",
];
const FIRST_WITH_PARAMETERS: i32 = 160_000;

/// Lets the server log plans, or no longer; connections that are open do as well, from their next statement.
pub(super) async fn switch(server: &str, on: bool) -> Result<()> {
    let mut connection = connect(server).await?;
    let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int")
        .fetch_one(&mut connection)
        .await?;
    for setting in SETTINGS {
        let (name, _) = setting.split_once(' ').context("a setting")?;
        if name == "log_parameter_max_length" && version < FIRST_WITH_PARAMETERS {
            continue;
        }
        let sql = if on {
            format!("ALTER SYSTEM SET auto_explain.{setting}")
        } else {
            format!("ALTER SYSTEM RESET auto_explain.{name}")
        };
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut connection)
            .await?;
    }
    sqlx::raw_sql("SELECT pg_reload_conf()")
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(())
}

/// The plan of median duration of each of the [`STATEMENTS`], from what `log` says after its first `from` bytes.
pub(super) fn of(log: &Path, from: u64) -> Result<String> {
    let mut file = File::open(log).with_context(|| format!("cannot read {}", log.display()))?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    medians(&String::from_utf8_lossy(&bytes))
}

fn medians(log: &str) -> Result<String> {
    let logged = parse(log);
    let mut text = String::new();
    for (title, mark) in STATEMENTS {
        let mut plans: Vec<&Logged> = logged
            .iter()
            .filter(|plan| plan.query.contains(mark))
            .collect();
        plans.sort_by_key(|plan| plan.micros);
        let Some(median) = plans.get(plans.len() / 2) else {
            ensure!(title == ANSWERS, "no plan of {title} was logged");
            writeln!(text, "{title}: not looked for\n")?;
            continue;
        };
        writeln!(
            text,
            "{title}: {} plans, that of median duration, {}.{:03} ms\n\n{}\n",
            plans.len(),
            median.micros / 1_000,
            median.micros % 1_000,
            median.plan
        )?;
    }
    Ok(text)
}

#[derive(Debug, PartialEq, Eq)]
struct Logged {
    micros: u64,
    query: String,
    plan: String,
}

/// Messages of the log that are plans. Each begins with a line of its own, `… LOG:  duration: 1.234 ms  plan:`;
/// the lines after it begin with a tab: the query's, then the plan's, of which the first tells of costs.
fn parse(log: &str) -> Vec<Logged> {
    let mut lines = log.lines().peekable();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(micros) = duration(line) else {
            continue;
        };
        let (mut query, mut plan) = (Vec::new(), Vec::new());
        while let Some(line) = lines.peek().and_then(|line| line.strip_prefix('\t')) {
            lines.next();
            if plan.is_empty() && !line.contains("  (cost=") {
                query.push(line);
            } else {
                plan.push(line);
            }
        }
        found.push(Logged {
            micros,
            query: query.join("\n"),
            plan: plan.join("\n"),
        });
    }
    found
}

fn duration(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("LOG:  duration: ")?;
    let (millis, _) = rest.strip_suffix(" ms  plan:")?.split_once('.')?;
    let (_, fraction) = rest.split_once('.')?;
    let micros = fraction.get(..3)?.parse::<u64>().ok()?;
    Some(millis.parse::<u64>().ok()? * 1_000 + micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(millis: &str, query: &str, node: &str) -> String {
        format!(
            "2026-07-01 10:00:00.000 UTC [7] LOG:  duration: {millis} ms  plan:\n\tQuery Text: {query}\n\t    \
             AND more\n\t{node}  (cost=0.00..1.00 rows=1 width=4) (actual time=0.010..0.020 rows=1 loops=1)\n\t  \
             Buffers: shared hit=3\n"
        )
    }

    #[test]
    fn a_plan_ends_where_the_next_message_begins() {
        let log = format!(
            "\tof an earlier message\n{}2026-07-01 10:00:00.000 UTC [8] ERROR:  duration: none\n\tDETAIL: x\n{}",
            message("0.250", "SELECT 1", "Result"),
            message("12.034", "SELECT 2", "Seq Scan on t")
        );

        let found = parse(&log);

        let durations: Vec<u64> = found.iter().map(|plan| plan.micros).collect();
        assert_eq!(durations, [250, 12_034]);
        assert_eq!(found[0].query, "Query Text: SELECT 1\n    AND more");
        assert!(found[1].plan.starts_with("Seq Scan on t  (cost="));
        assert!(found[1].plan.ends_with("\n  Buffers: shared hit=3"));
    }

    #[test]
    fn of_each_statement_the_plan_of_median_duration_is_shown() {
        let mut log = String::new();
        for (_, mark) in STATEMENTS {
            for (millis, node) in [("9.000", "Slow"), ("1.000", "Fast"), ("2.001", "Middle")] {
                log += &message(millis, mark, node);
            }
        }

        let text = medians(&log).expect("all are there");

        assert_eq!(
            text.matches("3 plans, that of median duration, 2.001 ms")
                .count(),
            3
        );
        assert_eq!(text.matches("Middle  (cost=").count(), 3);
        assert!(!text.contains("Slow") && !text.contains("Fast"));
    }

    #[test]
    fn a_statement_without_a_plan_is_an_error_unless_it_may_be_missing() {
        let mut log = message("1.000", "WITH changed AS", "Insert on audit");

        let error = medians(&log).expect_err("the locks are missing");

        assert!(error.to_string().contains("the locks"), "{error}");
        log += &message("1.000", "FOR UPDATE OF a", "LockRows");
        let text = medians(&log).expect("a batch looks for no answers");
        assert!(text.contains("the answers: not looked for"), "{text}");
    }
}
