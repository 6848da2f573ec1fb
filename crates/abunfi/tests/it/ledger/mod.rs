//! What the ledger demands of a relational store.

mod assets;
mod batches;
mod concurrency;
mod idempotency;
mod model;
mod posting;
mod reading;
mod settling;
