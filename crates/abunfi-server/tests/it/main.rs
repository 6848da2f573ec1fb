//! The HTTP contract, held against the service in process: embedded, and over three servers.
//!
//! A test is an async function over a [`support::TestServer`]; `on_every_backend!` makes of it one test for
//! each, named `{domain}::{embedded|servers}::{test}`, each with stores of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop where it stands"
)]

mod support;

mod access;
mod assets;
mod batch;
mod bounds;
mod dashboard;
mod dev_data;
mod documents;
mod http;
mod idempotency;
mod ledger_figures;
mod limits;
mod logs;
mod openapi;
mod operations;
mod outage;
mod refusals;
mod sessions;
mod shutdown;
mod snapshots;
mod temp;
mod transactions;
mod users;
