//! The command as its users meet it: a process with arguments, an environment and an exit code.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot set its scene must stop, and say why"
)]

mod audit;
mod check;
mod config;
mod docs;
mod help;
mod keys;
mod migrate;
mod outage;
mod role;
mod serve;
mod stores;
mod support;
mod tour;
mod verify;
