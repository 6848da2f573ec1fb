//! The conformance suite: what the domains demand of a store, run against every backend that serves it.
//!
//! A test is a generic function over the stores' traits; [`on_every_backend!`](support) makes of it one test
//! for each backend, named `{suite}::{backend}::{test}`, each with a database of its own. The tests below
//! `apart` run with documents in a store of their own, all others with documents in the relational store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may stop where it stands"
)]

mod support;

mod audit;
mod audit_verify;
mod cache;
mod checkpoints;
mod documents_content;
mod documents_heads;
mod exports;
mod keys;
mod ledger;
mod outbox;
mod rate_limit;
mod schema;
mod sessions;
mod temp;
mod transaction;
mod users;
