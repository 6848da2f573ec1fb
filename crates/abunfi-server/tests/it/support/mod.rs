//! A service of its own for each test, and a client for it.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

mod client;
mod make;
pub(crate) mod schema;
mod server;
mod stores;

pub(crate) use client::{Answer, Call};
pub(crate) use make::{Seed, unique};
pub(crate) use server::TestServer;
pub(crate) use stores::{Backend, create};

/// Makes of each function one test for every kind of stores.
macro_rules! on_every_backend {
    ($($name:ident),+ $(,)?) => {
        mod embedded {
            $(#[test] fn $name() {
                $crate::support::run($crate::support::Backend::Embedded, |_| {}, super::$name);
            })+
        }
        mod servers {
            $(#[test] fn $name() {
                $crate::support::run($crate::support::Backend::Servers, |_| {}, super::$name);
            })+
        }
    };
}
/// The same, with a change of the configuration: `with_config!(|config| …; tests)`. Once per module.
macro_rules! with_config {
    ($module:ident, $configure:expr; $($name:ident),+ $(,)?) => {
        mod $module {
            mod embedded {
                $(#[test] fn $name() {
                    $crate::support::run($crate::support::Backend::Embedded, $configure, super::super::$name);
                })+
            }
            mod servers {
                $(#[test] fn $name() {
                    $crate::support::run($crate::support::Backend::Servers, $configure, super::super::$name);
                })+
            }
        }
    };
}
pub(crate) use {on_every_backend, with_config};

/// Runs one test on stores of its own, which go when it succeeds and stay, named, when not.
pub(crate) fn run(
    backend: Backend,
    configure: impl FnOnce(&mut abunfi::Config),
    test: impl AsyncFnOnce(&TestServer),
) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime");
    let (stores, mut config) = runtime.block_on(stores::create(backend));
    be_patient(&mut config);
    configure(&mut config);
    let ran = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let server = TestServer::start(backend, config).await;
            let ran = catch(test(&server)).await;
            server.stop().await;
            ran
        })
    }));
    match ran {
        Ok(Ok(())) => runtime.block_on(stores.remove()),
        Ok(Err(panic)) | Err(panic) => {
            stores.keep();
            resume_unwind(panic)
        }
    }
}

/// Deadlines that a busy machine keeps: what is missed for lack of its processor says nothing about what a
/// test asks. Tests of outages have those of the defaults.
fn be_patient(config: &mut abunfi::Config) {
    config.mongodb.deadline_ms = 20_000;
    config.mongodb.apply_deadline_ms = 10_000;
    config.redis.deadline_ms = 5_000;
    config.redis.connect_timeout_ms = 10_000;
}

/// The panic of `test`, so that the service can be stopped first.
async fn catch(test: impl Future<Output = ()>) -> std::thread::Result<()> {
    let mut test = Box::pin(AssertUnwindSafe(test));
    std::future::poll_fn(move |context| {
        match catch_unwind(AssertUnwindSafe(|| test.as_mut().poll(context))) {
            Ok(std::task::Poll::Ready(())) => std::task::Poll::Ready(Ok(())),
            Ok(std::task::Poll::Pending) => std::task::Poll::Pending,
            Err(panic) => std::task::Poll::Ready(Err(panic)),
        }
    })
    .await
}
