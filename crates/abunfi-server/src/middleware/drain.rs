//! Reads on when a request was answered before its body was read (401, 413, …).
//!
//! A server that answers and closes while the client still sends makes the client's system throw the answer
//! away with the connection: the client sees a broken pipe in place of the 413. So what the handler left of
//! a body is read and dropped, up to a bound.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::oneshot;

/// What is read of a body that nobody wants: above any that a client sends by an honest mistake.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// How long it may take.
const MAX_TIME: Duration = Duration::from_secs(2);

/// Where an unread body comes back to.
#[derive(Debug)]
pub(super) struct Leftover(oneshot::Receiver<Body>);

/// A body that comes back when it is dropped before its end.
struct Returning {
    body: Option<Body>,
    back: Option<oneshot::Sender<Body>>,
}

/// `body`, and the way to what is left of it.
pub(super) fn watch(body: Body) -> (Body, Leftover) {
    let (back, leftover) = oneshot::channel();
    let watched = Returning {
        body: Some(body),
        back: Some(back),
    };
    (Body::new(watched), Leftover(leftover))
}

impl Leftover {
    /// Reads and drops what the handler left, if anything. Called when it has answered.
    pub(super) async fn drain(mut self) {
        let Ok(mut body) = self.0.try_recv() else {
            return;
        };
        let read = async {
            let mut read = 0_usize;
            while let Some(Ok(frame)) = body.frame().await {
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > MAX_BYTES {
                    break;
                }
            }
        };
        // Late or not: the answer is sent now.
        let _elapsed = tokio::time::timeout(MAX_TIME, read).await;
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take())
            && !body.is_end_stream()
        {
            // Nobody waits when the request itself was dropped.
            let _gone = back.send(body);
        }
    }
}

impl HttpBody for Returning {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}
