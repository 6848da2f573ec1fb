//! The adapters: each implements the domains' store traits for one server.

pub mod breaker;
pub mod memory;
pub mod mongodb;
pub mod postgres;
pub mod redis;
pub mod sqlite;

/// What a relational store must know of the rest of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationalOptions {
    /// It is the document store as well: a head's write also writes the document.
    pub holds_documents: bool,
    /// Commits leave outbox rows, since there is an L2 whose copies must be invalidated.
    pub outbox: bool,
    /// Migrate the schema now; else refuse one that is too old.
    pub migrate: bool,
    /// Accept a server that may lose what it acknowledged.
    pub allow_unsafe_durability: bool,
}
