//! Which rows a commit has written, told to the one who carries them out without every store's methods having
//! to return it.

use std::cell::RefCell;
use std::future::Future;

use uuid::Uuid;

tokio::task_local! {
    static PROMISED: RefCell<Vec<Uuid>>;
}

/// The rows that some work wrote. Worth something only once that work has committed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Promises(Vec<Uuid>);

impl Promises {
    #[must_use]
    pub fn into_ids(self) -> Vec<Uuid> {
        self.0
    }
}

/// Runs `work` and collects the rows that it writes in this task. Work that is run again after a conflict
/// also leaves the ids of rows that were rolled back; no row will ever have them.
pub async fn collecting<F: Future>(work: F) -> (F::Output, Promises) {
    PROMISED
        .scope(RefCell::default(), async {
            let output = work.await;
            let ids = PROMISED.with(RefCell::take);
            (output, Promises(ids))
        })
        .await
}

/// Called by a store that writes the row `id`.
pub fn promised(id: Uuid) {
    if PROMISED.try_with(|ids| ids.borrow_mut().push(id)).is_err() {
        tracing::trace!(%id, "nobody collects the promise: the relay carries it out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_promised_inside_is_collected() {
        promised(Uuid::from_u128(1));
        let (output, promises) = collecting(async {
            promised(Uuid::from_u128(2));
            tokio::task::yield_now().await;
            promised(Uuid::from_u128(3));
            7
        })
        .await;
        assert_eq!(output, 7);
        assert_eq!(promises.into_ids(), [2, 3].map(Uuid::from_u128));
    }
}
