//! The mongodb adapter.
