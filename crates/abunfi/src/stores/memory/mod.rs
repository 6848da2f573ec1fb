//! In this process: what serves as the key-value store when no Redis is configured, and what counts rate
//! limits while the one that is configured is away. Bounded, and gone with the process.

use std::sync::Arc;

use crate::clock::SharedClock;

mod probe;
mod rate_limit;
mod temp;
#[cfg(test)]
mod tests;

/// Cheap to clone; all clones are one store.
#[derive(Debug, Clone)]
pub struct Memory {
    clock: SharedClock,
    limits: Arc<rate_limit::Limits>,
    temp: Arc<temp::Values>,
}

impl Memory {
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            limits: Arc::default(),
            temp: Arc::default(),
        }
    }
}
