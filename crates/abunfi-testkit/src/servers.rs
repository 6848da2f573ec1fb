//! The servers that the tests of one run share. `cargo xtask test` starts them and says where they
//! are in the environment; by hand one sets the same variables.
//!
//! A test that needs a server is never skipped in silence. It carries the server's name in its path
//! (`postgres::`, `mongodb::`, `redis::`, or `servers::` for all three), `cargo xtask test` selects
//! it only when the server is there and reports it as *not run* otherwise, and when it is run
//! without its variable, [`Server::require`] fails it with the variable's name.

use std::env;

/// One of the three servers that the shared environment may offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Postgres,
    Mongodb,
    Redis,
}

impl Server {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Postgres, Self::Mongodb, Self::Redis];

    /// The environment variable that holds its URL.
    #[must_use]
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Postgres => "TEST_DATABASE_URL",
            Self::Mongodb => "TEST_MONGODB_URI",
            Self::Redis => "TEST_REDIS_URL",
        }
    }

    /// Its URL, if this run has such a server. An empty variable counts as unset.
    #[must_use]
    pub fn url(self) -> Option<String> {
        env::var(self.variable())
            .ok()
            .filter(|url| !url.trim().is_empty())
    }

    /// Its URL, for a test that cannot do without.
    ///
    /// # Panics
    /// When the variable is missing, naming it.
    #[must_use]
    #[track_caller]
    pub fn require(self) -> String {
        let Some(url) = self.url() else {
            let variable = self.variable();
            panic!(
                "this test needs {self:?}, and {variable} is not set; run it by `cargo xtask test`, \
                 or start the servers with `cargo xtask servers` and set what it prints"
            );
        };

        url
    }
}

/// The URL of the shared `PostgreSQL`, as a superuser, naming its maintenance database.
#[must_use]
pub fn postgres_url() -> Option<String> {
    Server::Postgres.url()
}

/// The URL of the shared Redis.
#[must_use]
pub fn redis_url() -> Option<String> {
    Server::Redis.url()
}

/// The URI of the shared `MongoDB`, naming no database.
#[must_use]
pub fn mongodb_uri() -> Option<String> {
    Server::Mongodb.url()
}

/// As [`postgres_url`], and fails the test that cannot have it.
#[must_use]
#[track_caller]
pub fn require_postgres_url() -> String {
    Server::Postgres.require()
}

/// As [`redis_url`], and fails the test that cannot have it.
#[must_use]
#[track_caller]
pub fn require_redis_url() -> String {
    Server::Redis.require()
}

/// As [`mongodb_uri`], and fails the test that cannot have it.
#[must_use]
#[track_caller]
pub fn require_mongodb_uri() -> String {
    Server::Mongodb.require()
}
