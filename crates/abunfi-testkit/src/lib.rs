//! For tests only: where the servers are, servers that a test may break, names that never
//! collide, and a proxy that loses answers on purpose.
//!
//! - [`servers`]: the shared servers that `cargo xtask test` has started.
//! - [`OwnPostgres`], [`OwnRedis`], [`OwnMongo`]: a server that belongs to one test, which may
//!   stop, kill and freeze it.
//! - [`FaultProxy`]: a TCP proxy in front of a server, for everything a network does wrong.
//! - [`books`]: what must hold of the ledger's rows.
//! - [`unique_name`]: a name for a database, a key prefix or a document database.
//!
//! How tests are named, and so chosen, is written down in `docs/testing.md`.

#![allow(
    clippy::expect_used,
    reason = "a test that cannot set its scene must stop, and say why"
)]

pub mod books;
mod guard;
mod names;
mod own;
mod ports;
mod process;
pub mod programs;
#[cfg(feature = "proxy")]
mod proxy;
pub mod servers;

pub use guard::Guard;
pub use names::unique_name;
pub use own::{Kind, Mongo, Own, OwnMongo, OwnPostgres, OwnRedis, Postgres, Redis};
pub use ports::{free_port, with_address};
pub use process::Stop;
#[cfg(feature = "proxy")]
pub use proxy::{Accept, Direction, FaultProxy, Flow};
