//! Of a database from which an account was taken away, its chain's head shown as that of another chain.

use super::{a_busy_platform, by_document, by_library, export, run_document, service, signer};
use crate::support::{Relational, on_every_backend};

on_every_backend!(an_account_that_was_taken_away_is_seen);

async fn an_account_that_was_taken_away_is_seen(stores: &Relational) {
    let audit = service(stores, Some(signer()));
    let users = a_busy_platform(stores, &audit).await;
    stores.take_account_away(users[1], "VND").await;
    // With rows of the chain, and after the last checkpoint that covers it, without any.
    for since in [0, 1, 3] {
        let text = export(&audit, since).await;
        let report = by_library(&text, Some(&signer())).unwrap();
        let says = format!(
            "user {}, chain VND: it is an account's, and there is no account",
            users[1]
        );
        assert_eq!(report.findings, [says], "since {since}");
        let other = by_document(&text, Some(&signer())).unwrap();
        assert_eq!(other["disagreements"], 1, "since {since}: {other}");
        // A name that other chains have does not help: its rows tell.
        let renamed = text.replace("\"chain\":\"VND\"", "\"chain\":\"asset:VND\"");
        assert!(renamed.contains("\"type\":\"chain\""));
        let says = format!(
            "user {}, chain asset:VND: it is an account's, and there is no account",
            users[1]
        );
        let has_rows = since < 3;
        let report = by_library(&renamed, None).unwrap();
        assert_eq!(report.findings.contains(&says), has_rows, "since {since}");
        let (_, printed) = run_document(&renamed, None, None).unwrap();
        assert_eq!(printed.contains(&says), has_rows, "since {since}");
    }
}
