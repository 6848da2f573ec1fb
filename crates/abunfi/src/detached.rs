//! Work that its caller cannot interrupt.

use std::future::Future;

use tracing::Instrument as _;

/// Runs `work` to its end in a task of its own, whatever becomes of the caller.
///
/// For what must follow a commit: a client that goes away drops the handler's future, and the cache
/// would keep showing what the commit has changed.
///
/// The mark of [`guard::inside`](crate::transaction::guard::inside) does not pass into the task: ask
/// [`guard::outside`](crate::transaction::guard::outside) before.
pub(crate) async fn detached<T, F>(work: F) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    match tokio::spawn(work.in_current_span()).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only the end of the runtime cancels it, and then nobody waits any more.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn the_work_is_done_although_its_caller_is_gone() {
        let (done, is_done) = oneshot::channel();
        let work = detached(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            done.send(()).ok();
        });
        assert!(
            tokio::time::timeout(Duration::from_millis(1), work)
                .await
                .is_err()
        );
        assert!(is_done.await.is_ok());
    }
}
