//! What is left of a request's body after an error.
//!
//! A client that is still sending when the daemon answers and closes sees a broken pipe instead of the answer. So the rest
//! is read and thrown away first, as long as it keeps coming.

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;

/// A client that sends nothing for this long is not waited for.
const IDLE: Duration = Duration::from_secs(10);

/// A body that comes back when it is dropped.
struct Lent {
    body: Body,
    back: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            // Nobody cares after an answer that is no error.
            let _ = back.send(std::mem::take(&mut self.body));
        }
    }
}

/// Answers a request; before an error is answered, its body is read to the end.
pub async fn taken(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (tell, rest) = oneshot::channel();
    let request = request.map(|body| {
        Body::new(Lent {
            body,
            back: Some(tell),
        })
    });
    let response = next.run(request).await;
    let status = response.status();
    if (status.is_client_error() || status.is_server_error())
        && let Ok(mut rest) = rest.await
    {
        while let Ok(Some(Ok(_))) = tokio::time::timeout(IDLE, rest.frame()).await {}
    }
    response
}
