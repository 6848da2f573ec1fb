//! One file for each command.

pub(crate) mod accounts;
pub(crate) mod audit;
pub(crate) mod check;
pub(crate) mod config;
pub(crate) mod keys;
pub(crate) mod migrate;
pub(crate) mod openapi;
pub(crate) mod serve;
pub(crate) mod stats;
pub(crate) mod verify;
