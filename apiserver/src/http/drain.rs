//! What is left of the body of a refused request is taken off the connection before the answer goes: an HTTP/2 stream
//! that ends before its body makes curl complain of the stream and hide the refusal.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

/// More is not waited for: the stream is reset, as any server would.
const MOST: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(1);

/// The rest of a body that was handed out.
#[derive(Debug)]
pub(super) struct Rest(Arc<Mutex<Body>>);

/// The body to hand out; no rest where there is no body.
pub(super) fn shared(body: Body) -> (Body, Option<Rest>) {
    if body.is_end_stream() {
        return (body, None);
    }
    let both = Arc::new(Mutex::new(body));
    (Body::new(Shared(both.clone())), Some(Rest(both)))
}

impl Rest {
    /// Reads and forgets what is left, within bounds.
    pub(super) async fn drain(self) {
        let mut shared = Shared(self.0);
        let read = async {
            let mut read = 0;
            while read < MOST {
                let frame = std::future::poll_fn(|cx| Pin::new(&mut shared).poll_frame(cx)).await;
                match frame {
                    Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                    Some(Err(_)) | None => return,
                }
            }
        };
        // Who is slow or sends more than that is cut off.
        let _ = tokio::time::timeout(PATIENCE, read).await;
    }
}

struct Shared(Arc<Mutex<Body>>);

impl http_body::Body for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_a_refusal_leaves_unread_is_read() {
        let parts = ["a", "b", "c"].map(|part| Ok::<_, std::io::Error>(Bytes::from(part)));
        let (mut body, rest) = shared(Body::from_stream(stream::iter(parts)));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        let left = rest.unwrap();
        let seen = Shared(left.0.clone());
        left.drain().await;
        assert!(Body::new(seen).collect().await.unwrap().to_bytes().is_empty());
        assert!(shared(Body::empty()).1.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_forever() {
        let (_body, rest) = shared(Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>()));
        rest.unwrap().drain().await;
        let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[0; 4096])));
        let (_body, rest) = shared(Body::from_stream(endless));
        rest.unwrap().drain().await;
    }
}
