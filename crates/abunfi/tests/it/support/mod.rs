//! A fresh database for each test, and what tests have in common.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use abunfi::stores::RelationalOptions;
use abunfi::{audit, documents, keys, ledger, outbox, sessions, transaction, users};
use tokio::sync::Barrier;

mod backends;
pub(crate) mod books;
pub(crate) mod counted;
pub(crate) mod make;
pub(crate) mod random;
mod raw;

pub(crate) use backends::{Backend, Database, POOL_SIZE};
pub(crate) use raw::Raw;

/// Every domain's handle on one relational store, over one fresh database.
#[derive(Debug, Clone)]
pub(crate) struct Relational {
    pub(crate) backend: Backend,
    pub(crate) users: Arc<dyn users::Store>,
    pub(crate) ledger: Arc<dyn ledger::Store>,
    pub(crate) audit: Arc<dyn audit::Store>,
    pub(crate) verify: Arc<dyn audit::verify::Store>,
    pub(crate) checkpoints: Arc<dyn audit::CheckpointStore>,
    pub(crate) exports: Arc<dyn audit::ExportStore>,
    pub(crate) heads: Arc<dyn documents::HeadStore>,
    pub(crate) dev_data: Arc<dyn documents::DevDataStore>,
    pub(crate) logs: Arc<dyn documents::LogStore>,
    pub(crate) sessions: Arc<dyn sessions::Store>,
    pub(crate) keys: Arc<dyn keys::Store>,
    pub(crate) outbox: Arc<dyn outbox::Store>,
    pub(crate) transactions: Arc<dyn transaction::Store>,
    /// The database itself, past the adapter.
    pub(crate) raw: Raw,
}

impl Relational {
    fn of<S>(backend: Backend, store: Arc<S>, raw: Raw) -> Self
    where
        S: users::Store
            + ledger::Store
            + audit::Store
            + audit::verify::Store
            + audit::CheckpointStore
            + audit::ExportStore
            + documents::HeadStore
            + documents::DevDataStore
            + documents::LogStore
            + sessions::Store
            + keys::Store
            + outbox::Store
            + transaction::Store
            + 'static,
    {
        Self {
            backend,
            users: store.clone(),
            ledger: store.clone(),
            audit: store.clone(),
            verify: store.clone(),
            checkpoints: store.clone(),
            exports: store.clone(),
            heads: store.clone(),
            dev_data: store.clone(),
            logs: store.clone(),
            sessions: store.clone(),
            keys: store.clone(),
            outbox: store.clone(),
            transactions: store,
            raw,
        }
    }
}

/// The relational store is the document store as well.
pub(crate) const TOGETHER: RelationalOptions = RelationalOptions {
    holds_documents: true,
    outbox: true,
    migrate: true,
    allow_unsafe_durability: true,
};

/// Documents live in a store of their own, so heads keep images until they are applied.
pub(crate) const APART: RelationalOptions = RelationalOptions {
    holds_documents: false,
    ..TOGETHER
};

/// There is no second level of the cache, so nothing is to be invalidated there.
pub(crate) const WITHOUT_OUTBOX: RelationalOptions = RelationalOptions {
    outbox: false,
    ..TOGETHER
};

/// Makes of each function one test for every backend. `apart` or `without_outbox` as the first word: with
/// [`APART`] or [`WITHOUT_OUTBOX`] instead of [`TOGETHER`].
macro_rules! on_every_backend {
    (apart: $($name:ident),+ $(,)?) => {
        mod apart {
            $(use super::$name;)+
            $crate::support::on_every_backend!(@ $crate::support::APART; $($name),+);
        }
    };
    (without_outbox: $($name:ident),+ $(,)?) => {
        mod without_outbox {
            $(use super::$name;)+
            $crate::support::on_every_backend!(@ $crate::support::WITHOUT_OUTBOX; $($name),+);
        }
    };
    (@ $options:expr; $($name:ident),+) => {
        mod postgres {
            $(#[test] fn $name() {
                $crate::support::run($crate::support::Backend::Postgres, $options, super::$name);
            })+
        }
        mod sqlite {
            $(#[test] fn $name() {
                $crate::support::run($crate::support::Backend::Sqlite, $options, super::$name);
            })+
        }
    };
    ($($name:ident),+ $(,)?) => {
        $crate::support::on_every_backend!(@ $crate::support::TOGETHER; $($name),+);
    };
}
pub(crate) use on_every_backend;

/// For what only one of the backends has: its own catalogue, its own settings.
macro_rules! on_one_backend {
    ($module:ident, $backend:ident: $($name:ident),+ $(,)?) => {
        mod $module {
            $(#[test] fn $name() {
                let backend = $crate::support::Backend::$backend;
                $crate::support::run(backend, $crate::support::TOGETHER, super::$name);
            })+
        }
    };
}
pub(crate) use on_one_backend;

/// Runs one test on a database of its own, which goes when the test succeeds and stays, named, when not.
pub(crate) fn run(
    backend: Backend,
    options: RelationalOptions,
    test: impl AsyncFnOnce(&Relational),
) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let database = backends::Database::create(backend).await;
        let stores = database.open(options).await;
        let ran = AssertUnwindSafe(test(&stores));
        match futures::FutureExt::catch_unwind(ran).await {
            Ok(()) => {
                drop(stores);
                database.remove().await;
            }
            Err(panic) => {
                eprintln!("the database is kept: {}", database.keep());
                resume_unwind(panic);
            }
        }
    });
    // A task that a test left behind must not keep the process alive.
    let _shut = catch_unwind(AssertUnwindSafe(move || runtime.shutdown_background()));
}

/// Runs `count` tasks that start at the same moment, on several threads; their results in order.
pub(crate) async fn at_once<T, F>(count: usize, task: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let start = Arc::new(Barrier::new(count));
    let tasks: Vec<_> = (0..count)
        .map(|index| {
            let (start, work) = (start.clone(), task(index));
            tokio::spawn(async move {
                start.wait().await;
                work.await
            })
        })
        .collect();
    let mut results = Vec::with_capacity(count);
    for task in tasks {
        match task.await {
            Ok(result) => results.push(result),
            Err(error) => resume_unwind(error.into_panic()),
        }
    }
    results
}
