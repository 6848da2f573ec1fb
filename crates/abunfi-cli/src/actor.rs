//! In whose name a command changes what the audit trail keeps.

use abunfi::context::Context;

use crate::args::By;
use crate::failure::Misuse;

/// The part of the platform that acts, for every command.
const PART: &str = "cli";

impl By {
    /// For what the command does. The trail says `system`, `cli` and, where one was given, the name behind a colon.
    pub(crate) fn context(&self) -> Result<Context, Misuse> {
        match &self.actor {
            None => Ok(Context::system(PART)),
            Some(name) => Context::operator(PART, name)
                .map_err(|invalid| Misuse(format!("--actor {invalid}"))),
        }
    }
}
