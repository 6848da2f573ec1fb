//! MongoDB: the home of documents, when there is one.
//!
//! Everything that is sent to it works on MongoDB 4.4 and later, standalone or replica set, without
//! transactions, change streams or updates by pipeline. Read in this order: [`MongoDb`] and how a call
//! is made (here), [`convert`] (JSON and BSON), `documents` (content of user-owned documents),
//! `dev_data`, `logs`, `setup` (indexes and capabilities), `health`.
//!
//! Invariant: a future of the driver is never dropped: its README warns that this breaks connections.
//! Every call runs in a task of its own; the deadline is on the task's handle.
//!
//! Invariant: what was reported as certainly not done is never done later: see [`Attempt`].

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use mongodb::bson::Document;
use mongodb::options::{
    Acknowledgment, ClientOptions, ConnectionString, ReadPreference, SelectionCriteria,
    WriteConcern,
};
use mongodb::{Client, Collection, Database};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config::MongoConfig;
use crate::database_service::OpenError;
use crate::error::{StoreError, StoreKind};
use crate::stores::breaker::Breaker;
use crate::transaction::guard;

mod convert;
mod dev_data;
mod documents;
mod failure;
mod health;
mod logs;
mod setup;

pub use setup::Capabilities;

/// The variable that names the server.
const VARIABLE: &str = "MONGODB_URI";

/// How often the driver asks each server whether it is there. A frozen server is noticed by nothing
/// else (there is no socket time-out), and the default is ten seconds.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a connection may take. It bounds the heartbeat too, so a frozen server is noticed, and
/// what waits for it is interrupted, after this and one heartbeat.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a call may wait for a server that can serve it: shorter than the deadline, so that an
/// absent server is told from a slow one.
const SELECTION_TIMEOUT: Duration = Duration::from_millis(800);
/// Connections that nobody uses are closed after this time.
const MAX_IDLE: Duration = Duration::from_secs(300);
/// What a refused caller is told to wait.
const OVERLOAD_RETRY: Duration = Duration::from_secs(1);

/// A document database. Cheap to clone; all clones share connections, breaker and bounds.
#[derive(Clone, Debug)]
pub struct MongoDb {
    inner: Arc<Inner>,
}

struct Inner {
    uri: ConnectionString,
    /// By the URI, or by the configuration.
    database: String,
    max_connections: u32,
    deadline: Duration,
    client: OnceCell<Client>,
    breaker: Breaker,
    /// As many calls as connections. A call holds its permit until the driver is done with it, however
    /// long ago its caller gave up: so a frozen server cannot pile up tasks.
    permits: Arc<Semaphore>,
    capabilities: std::sync::OnceLock<Capabilities>,
}

impl std::fmt::Debug for Inner {
    /// Without the URI, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("database", &self.database)
            .field("breaker", &self.breaker)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

impl MongoDb {
    /// Checks the URI and starts to look for the server. A server that is absent is no error: indexes and
    /// capabilities are seen to in the background, until that succeeds or the last clone is gone.
    ///
    /// # Errors
    /// [`OpenError::Configuration`] for a URI that the driver refuses. It repeats nothing of it.
    #[expect(
        clippy::unused_async,
        reason = "as every adapter's connect; it also proves that there is a runtime to spawn on"
    )]
    pub async fn connect(uri: &str, config: &MongoConfig) -> Result<Self, OpenError> {
        let uri = ConnectionString::parse(uri).map_err(|_may_repeat_the_password| {
            refused(
                "not a MongoDB connection string: expected \
                 mongodb://[user:password@]host[:port][,…]/[database][?options] or mongodb+srv://…, \
                 with user and password percent-encoded",
            )
        })?;
        if uri
            .write_concern
            .as_ref()
            .is_some_and(|concern| concern.w == Some(Acknowledgment::Nodes(0)))
        {
            return Err(refused("w=0 would acknowledge writes that are not done"));
        }
        let database = uri
            .default_database
            .clone()
            .unwrap_or_else(|| config.database.clone());
        let max_connections = config.max_connections.max(1);
        let permits = usize::try_from(max_connections).unwrap_or(Semaphore::MAX_PERMITS);
        let store = Self {
            inner: Arc::new(Inner {
                uri,
                database,
                max_connections,
                deadline: Duration::from_millis(config.deadline_ms.max(1)),
                client: OnceCell::new(),
                breaker: Breaker::new(StoreKind::Documents),
                permits: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
                capabilities: std::sync::OnceLock::new(),
            }),
        };
        setup::spawn(&store.inner);
        Ok(store)
    }

    /// What the server was found to be able to do; `None` until it was first reached.
    #[must_use]
    pub fn capabilities(&self) -> Option<&Capabilities> {
        self.inner.capabilities.get()
    }

    /// Runs `work` in a task of its own, within the deadline of the configuration.
    ///
    /// A call that gives up before `work` said [`Attempt::sending`] is certainly not done; after it, the
    /// outcome is unknown.
    async fn call<T, F, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send,
        W: FnOnce(Database, Attempt) -> F + Send + 'static,
    {
        guard::outside(StoreKind::Documents)?;
        self.inner.breaker.admit()?;
        let result = self.run(work).await;
        // A caller who found all connections busy has learned nothing about the server.
        if !matches!(result, Err(StoreError::Overloaded { .. })) {
            self.inner.breaker.record(&result);
        }
        result
    }

    async fn run<T, F, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send,
        W: FnOnce(Database, Attempt) -> F + Send + 'static,
    {
        let deadline = Instant::now() + self.inner.deadline;
        let permit = self.permit(deadline).await?;
        let attempt = Attempt::default();
        let inner = Arc::clone(&self.inner);
        let task = tokio::spawn({
            let attempt = attempt.clone();
            async move {
                let database = inner.open().await?;
                let result = work(database, attempt).await;
                drop(permit);
                result
            }
        });
        match tokio::time::timeout_at(deadline, task).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(StoreError::unexpected(StoreKind::Documents, panic)),
            Err(_elapsed) => Err(attempt.give_up("no answer within the deadline")),
        }
    }

    async fn permit(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, StoreError> {
        let permits = Arc::clone(&self.inner.permits);
        match tokio::time::timeout_at(deadline, permits.acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(closed)) => Err(StoreError::unavailable(StoreKind::Documents, closed)),
            Err(_elapsed) => Err(StoreError::Overloaded {
                store: StoreKind::Documents,
                reason: "all connections are busy".to_owned(),
                retry_after: OVERLOAD_RETRY,
            }),
        }
    }
}

impl Inner {
    /// The database, by a client that is made when it is first needed: a `mongodb+srv` URI asks the DNS,
    /// which may be away at the start just as the server.
    async fn open(&self) -> Result<Database, StoreError> {
        let client = self
            .client
            .get_or_try_init(|| async {
                let mut options = ClientOptions::parse(self.uri.clone()).await?;
                self.bound(&mut options);
                Client::with_options(options)
            })
            .await
            .map_err(|error| failure::of_read(&error))?;
        Ok(client.database(&self.database))
    }

    fn bound(&self, options: &mut ClientOptions) {
        options.app_name.get_or_insert_with(|| "abunfi".to_owned());
        options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
        options.heartbeat_freq.get_or_insert(HEARTBEAT);
        options
            .server_selection_timeout
            .get_or_insert(SELECTION_TIMEOUT.min(self.deadline));
        options.max_idle_time.get_or_insert(MAX_IDLE);
        options.max_pool_size = Some(self.max_connections);
        // Reads decide what is current, so they never go to a secondary, whatever the URI says.
        options.selection_criteria =
            Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        // `w: 1` without the journal can lose the last 100 ms of what was acknowledged.
        options.write_concern = Some(
            WriteConcern::builder()
                .w(Acknowledgment::Majority)
                .journal(true)
                .w_timeout(self.deadline)
                .build(),
        );
    }
}

/// How far a call has come, so that its caller and its task agree on whether anything was written.
///
/// The task asks before it writes; the caller asks when it gives up. Whoever is first decides: a call
/// that was given up does not write any more, and one that may have written is not called undone.
#[derive(Clone, Debug, Default)]
struct Attempt(Arc<AtomicU8>);

impl Attempt {
    const IDLE: u8 = 0;
    const SENT: u8 = 1;
    const GIVEN_UP: u8 = 2;

    /// To be called before every write.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the caller has given up: then nothing may be written.
    fn sending(&self) -> Result<(), StoreError> {
        match self
            .0
            .compare_exchange(Self::IDLE, Self::SENT, Ordering::SeqCst, Ordering::SeqCst)
        {
            Err(Self::GIVEN_UP) => Err(StoreError::unavailable(
                StoreKind::Documents,
                "the caller has given up",
            )),
            _ => Ok(()),
        }
    }

    /// The error of a caller who waits no longer.
    fn give_up(&self, reason: &str) -> StoreError {
        match self.0.compare_exchange(
            Self::IDLE,
            Self::GIVEN_UP,
            Ordering::SeqCst,
            Ordering::SeqCst,
        ) {
            Err(Self::SENT) => StoreError::OutcomeUnknown {
                store: StoreKind::Documents,
                reason: reason.to_owned(),
            },
            _ => StoreError::unavailable(StoreKind::Documents, reason),
        }
    }
}

fn refused(reason: &str) -> OpenError {
    OpenError::Configuration {
        variable: VARIABLE,
        reason: reason.to_owned(),
    }
}

fn dev_data_of(database: &Database) -> Collection<Document> {
    database.collection("dev_data")
}

fn logs_of(database: &Database) -> Collection<Document> {
    database.collection("logs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> MongoConfig {
        MongoConfig {
            deadline_ms: 200,
            ..MongoConfig::default()
        }
    }

    #[tokio::test]
    async fn a_bad_uri_is_refused_by_its_variable_and_never_repeated() {
        for uri in [
            "postgres://app:s3cret@localhost/x",
            "mongodb://app:s3cret@localhost:port/x",
            "mongodb://app:s3cret@localhost/x?w=-1",
            "mongodb://app:s3cret@localhost/x?w=0",
            "mongodb://app:s3c@ret@localhost/x",
            "s3cret",
        ] {
            let error = MongoDb::connect(uri, &config()).await.err();
            let Some(OpenError::Configuration { variable, reason }) = error else {
                panic!("{uri} is taken: {error:?}");
            };
            assert_eq!(variable, "MONGODB_URI");
            assert!(!reason.contains("s3c"), "{reason}");
        }
    }

    #[tokio::test]
    async fn a_secret_of_the_uri_is_in_no_debug_output() -> Result<(), OpenError> {
        let store = MongoDb::connect("mongodb://app:s3cret@127.0.0.1:1/x", &config()).await?;
        assert!(!format!("{store:?}").contains("s3cret"));
        Ok(())
    }

    #[tokio::test]
    async fn an_absent_server_is_no_error_at_the_start_and_unavailable_afterwards()
    -> Result<(), OpenError> {
        let store = MongoDb::connect("mongodb://127.0.0.1:1/x", &config()).await?;
        assert!(store.capabilities().is_none());
        let result = store
            .call(|database, _attempt| async move {
                database
                    .list_collection_names()
                    .await
                    .map_err(|error| failure::of_read(&error))
            })
            .await;
        assert!(
            matches!(result, Err(StoreError::Unavailable { .. })),
            "{result:?}"
        );
        Ok(())
    }

    #[test]
    fn a_call_is_unknown_only_after_it_began_to_write_and_never_writes_after_it_was_given_up() {
        let early = Attempt::default();
        assert!(matches!(
            early.give_up("late"),
            StoreError::Unavailable { .. }
        ));
        assert!(early.sending().is_err());

        let late = Attempt::default();
        assert!(late.sending().is_ok());
        assert!(late.sending().is_ok(), "a call may write more than once");
        assert!(matches!(
            late.give_up("late"),
            StoreError::OutcomeUnknown { .. }
        ));
    }

    #[tokio::test]
    async fn no_call_is_made_inside_a_relational_transaction() -> Result<(), OpenError> {
        let store = MongoDb::connect("mongodb://127.0.0.1:1/x", &config()).await?;
        let result = guard::inside(store.call(|_database, _attempt| async { Ok(()) })).await;
        assert!(matches!(result, Err(StoreError::InsideTransaction { .. })));
        Ok(())
    }

    #[tokio::test]
    async fn a_caller_gets_its_answer_in_time_and_the_work_goes_on_with_its_permit()
    -> Result<(), OpenError> {
        let one = MongoConfig {
            max_connections: 1,
            ..config()
        };
        let store = MongoDb::connect("mongodb://127.0.0.1:1/x", &one).await?;
        let release = Arc::new(tokio::sync::Notify::new());
        // Again until the background has given its permit back.
        let frozen = loop {
            let released = Arc::clone(&release);
            let ran = store
                .run(move |_database, attempt| async move {
                    attempt.sending()?;
                    released.notified().await;
                    Ok(())
                })
                .await;
            if !matches!(ran, Err(StoreError::Overloaded { .. })) {
                break ran;
            }
        };
        assert!(
            matches!(frozen, Err(StoreError::OutcomeUnknown { .. })),
            "{frozen:?}"
        );
        let refused = store.run(|_database, _attempt| async { Ok(()) }).await;
        assert!(
            matches!(refused, Err(StoreError::Overloaded { .. })),
            "{refused:?}"
        );
        release.notify_one();
        let later = store.run(|_database, _attempt| async { Ok(()) }).await;
        assert!(later.is_ok(), "{later:?}");
        Ok(())
    }
}
