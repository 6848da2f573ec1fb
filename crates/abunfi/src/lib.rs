//! Abunfi: PostgreSQL keeps the money, MongoDB the flexible documents, Redis makes it fast, and
//! [`DatabaseService`] makes the three behave as one database.
//!
//! Domains first: `users`, `ledger`, `documents`, … hold types, rules and services; each says in a
//! `Store` trait what it asks of a store. `stores` implements those traits and imports the domains, never
//! the other way round. This crate knows no HTTP.
//!
//! ```
//! use abunfi::money::Amount;
//!
//! // Amounts are exact: decimal text in, canonical text out, never a float in between.
//! let amount = Amount::parse("1500000.50")?;
//! assert_eq!(amount.to_string(), "1500000.5");
//! assert!(Amount::parse("0.0000001").is_err());
//! # Ok::<(), abunfi::money::DecimalError>(())
//! ```

pub mod audit;
pub mod cache;
pub mod clock;
pub mod config;
pub mod context;
pub mod cursor;
mod dashboard;
mod database_service;
mod detached;
pub mod documents;
pub mod error;
pub mod faults;
pub mod health;
pub mod ids;
pub mod json_reader;
pub mod keys;
pub mod ledger;
pub mod money;
pub mod outbox;
pub mod rate_limit;
pub mod selftest;
pub mod sessions;
pub mod stores;
pub mod temp;
pub mod token;
pub mod transaction;
pub mod users;
pub mod validation;

pub use config::Config;
pub use context::{Actor, Context, Principal};
pub use dashboard::Dashboard;
pub use database_service::{Backends, DatabaseService, LedgerAround, OpenError, WrapLedger};
pub use error::{Error, StoreError, StoreKind};
