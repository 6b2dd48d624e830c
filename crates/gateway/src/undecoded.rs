//! Messages that are too large or too deep to be read: refused in etcd's words instead of those of our libraries.

use axum::response::Response;
use tonic::{Code, Status};

use crate::serve::LARGEST;

/// Of a unary call, whose refusal is in the headers.
pub(crate) async fn in_etcds_words(response: Response) -> Response {
    let refused = Status::from_header_map(response.headers());
    match refused.as_ref().and_then(known) {
        Some(status) => status.into_http(),
        None => response,
    }
}

/// The same of a stream's.
pub(crate) fn status(status: Status) -> Status {
    known(&status).unwrap_or(status)
}

fn known(status: &Status) -> Option<Status> {
    let text = status.message();
    match status.code() {
        Code::OutOfRange => {
            let (_, rest) = text.split_once("message length too large: found ")?;
            let (size, _) = rest.split_once(' ')?;
            Some(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({size} vs. {LARGEST})"
            )))
        }
        // Only transactions within transactions go deep.
        Code::Internal if text.contains("recursion limit") => Some(Status::invalid_argument(
            "etcdserver: too many operations in txn request",
        )),
        _ => None,
    }
}
