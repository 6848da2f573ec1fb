//! Placeholder.

pub mod cursor;
pub mod money;
pub mod token;
pub mod validation;
pub mod documents {
    //! Placeholder.
    pub mod canonical;
    pub mod merge_patch;
    pub mod parse;
    pub mod preferences;
}
pub mod rate_limit {
    //! Placeholder.
    pub mod gcra;
}
pub mod users {
    //! Placeholder.
    pub mod identity;
}
