//! What is left of a request's body after an error.
//!
//! A client that is still sending when the daemon answers and closes sees a broken pipe instead of the answer. So the rest
//! is read and thrown away first, as long as it keeps coming.

use crate::error::ApiError;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
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

/// Marks an answer that is an error though its status does not say so: what is left of the body is read before it, too.
#[derive(Clone, Copy, Debug)]
pub struct Refusal;

/// Longest text of an error that is none of ours.
const TEXT: usize = 4096;

/// Gives errors that are not ours the form of ours: routes and bodies that are refused before a handler sees them.
pub async fn told(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|t| t.as_bytes().starts_with(b"application/json"));
    if json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), TEXT).await;
    let text = text.map_or_else(
        |_| String::new(),
        |b| String::from_utf8_lossy(&b).into_owned(),
    );
    let reason = status.canonical_reason().unwrap_or("it was refused");
    let text = if text.is_empty() {
        reason.to_owned()
    } else {
        text
    };
    ApiError::new(status, text).into_response()
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
    let refused = response.extensions().get::<Refusal>().is_some();
    if (refused || status.is_client_error() || status.is_server_error())
        && let Ok(mut rest) = rest.await
    {
        while let Ok(Some(Ok(_))) = tokio::time::timeout(IDLE, rest.frame()).await {}
    }
    response
}
