//! What the ledger demands of a relational store.

mod assets;
mod batches;
mod bounds;
mod concurrency;
mod expiry;
mod idempotency;
mod lost;
mod plans;
mod posting;
mod reading;
mod settling;
mod state_machine;
