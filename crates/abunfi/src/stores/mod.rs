//! The adapters: each implements the domains' store traits for one server.

pub mod memory;
pub mod mongodb;
pub mod postgres;
pub mod redis;
pub mod sqlite;
