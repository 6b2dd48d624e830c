//! The key-value calls, without the layers that stand before the others.
//!
//! Gets, puts, deletions and transactions are nearly all that is asked of a store, and most of what they cost is the way to
//! it. So the plain ones are read, done and answered here: one message, whole, not compressed. Whatever is not plain goes on
//! to the router as it came, and is refused there in the words that all calls have.
//!
//! The format is gRPC's over HTTP/2: each message has a byte before it that says whether it is compressed, and its length in
//! four, largest byte first; the status is in the trailers.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{self, StreamExt};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use prost::Message;
use tonic::Status;

use crate::context::Gateway;
use crate::serve::{LARGEST, router};

/// What stands before a message.
const PREFIX: usize = 5;
const GRPC: &str = "application/grpc";

/// All paths of one face of the store, as [`crate::serve`] takes them.
#[derive(Clone)]
pub struct Face {
    gateway: Option<Gateway>,
    others: TowerToHyperService<Router>,
}

impl Face {
    /// gRPC, JSON, health, version and metrics of `gateway`.
    pub fn new(gateway: Gateway) -> Self {
        Self {
            others: TowerToHyperService::new(router(gateway.clone())),
            gateway: Some(gateway),
        }
    }
}

impl From<Router> for Face {
    /// The paths of `router` alone.
    fn from(router: Router) -> Self {
        Self {
            gateway: None,
            others: TowerToHyperService::new(router),
        }
    }
}

type Answer = Result<Response<Reply>, Infallible>;

impl Service<Request<Incoming>> for Face {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let others = self.others.clone();
        let Some(gateway) = self.gateway.clone().filter(|_| is_plain(&request)) else {
            return Box::pin(async move { pass(&others, request.map(Body::new)).await });
        };
        match request.uri().path() {
            "/etcdserverpb.KV/Range" => Box::pin(unary(others, request, |range| async move {
                gateway.do_range(range).await
            })),
            "/etcdserverpb.KV/Put" => Box::pin(unary(others, request, |put| async move {
                gateway.do_put(put).await
            })),
            "/etcdserverpb.KV/DeleteRange" => {
                Box::pin(unary(others, request, |range| async move {
                    gateway.do_delete(range).await
                }))
            }
            "/etcdserverpb.KV/Txn" => Box::pin(unary(others, request, |txn| async move {
                gateway.do_txn(txn).await
            })),
            _ => Box::pin(async move { pass(&others, request.map(Body::new)).await }),
        }
    }
}

async fn pass(others: &TowerToHyperService<Router>, request: Request<Body>) -> Answer {
    others
        .call(request)
        .await
        .map(|answer| answer.map(Reply::Other))
}

/// A call as clients make it. What its body is like shows when it is read.
fn is_plain(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    request.version() == Version::HTTP_2
        && request.method() == Method::POST
        && headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind == GRPC)
        && !headers.contains_key("grpc-encoding")
}

/// Reads the message, and answers with what `call` makes of it.
async fn unary<Q, A, F>(
    others: TowerToHyperService<Router>,
    request: Request<Incoming>,
    call: impl FnOnce(Q) -> F,
) -> Answer
where
    Q: Message + Default,
    A: Message,
    F: Future<Output = Result<A, Status>>,
{
    let (head, mut body) = request.into_parts();
    let mut read: Vec<Bytes> = Vec::new();
    let mut length = 0;
    let broken = loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else {
                    // Trailers: nothing comes after them.
                    break None;
                };
                length += data.len();
                read.push(data);
                if length > PREFIX + LARGEST {
                    break None;
                }
            }
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    let whole = match &read[..] {
        [one] => one.clone(),
        parts => parts.concat().into(),
    };
    let message = match broken {
        None => message(whole.clone()),
        Some(_) => None,
    };
    let Some(message) = message else {
        let again = stream::iter([Some(Ok(Frame::data(whole))), broken.map(Err)]);
        let again = again.filter_map(std::future::ready);
        let body = Body::new(StreamBody::new(again.chain(BodyStream::new(body))));
        return pass(&others, Request::from_parts(head, body)).await;
    };
    Ok(match call(message).await {
        Ok(answer) => {
            let mut response = Response::new(Reply::answer(&answer));
            let kind = HeaderValue::from_static(GRPC);
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(status) => status.into_http::<Body>().map(Reply::Other),
    })
}

/// The one message of a body; None where that is not what it holds.
fn message<Q: Message + Default>(mut body: Bytes) -> Option<Q> {
    if body.len() < PREFIX {
        return None;
    }
    let prefix = body.split_to(PREFIX);
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?) as usize;
    if prefix[0] != 0 || length != body.len() || length > LARGEST {
        return None;
    }
    Q::decode(body).ok()
}

/// The body of an answer.
pub enum Reply {
    /// A message, and the status that says that all is well.
    Message(Bytes),
    /// That status alone is left.
    Trailers,
    /// All is sent.
    Done,
    /// The router's.
    Other(Body),
}

impl Reply {
    fn answer(message: &impl Message) -> Self {
        let length = message.encoded_len();
        let Ok(prefix) = u32::try_from(length) else {
            let status = Status::out_of_range("the answer is larger than 4 GiB");
            return Self::Other(status.into_http().into_body());
        };
        let mut bytes = BytesMut::with_capacity(PREFIX + length);
        bytes.put_u8(0);
        bytes.put_u32(prefix);
        message.encode_raw(&mut bytes);
        Self::Message(bytes.freeze())
    }
}

impl hyper::body::Body for Reply {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let reply = self.get_mut();
        let frame = match reply {
            Self::Other(body) => return Pin::new(body).poll_frame(context),
            Self::Message(bytes) => {
                let frame = Frame::data(std::mem::take(bytes));
                *reply = Self::Trailers;
                frame
            }
            Self::Trailers => {
                *reply = Self::Done;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                Frame::trailers(trailers)
            }
            Self::Done => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Other(body) => body.is_end_stream(),
            Self::Done => true,
            Self::Message(_) | Self::Trailers => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Other(body) => body.size_hint(),
            // As it is not said how long the answer is: trailers follow.
            _ => SizeHint::default(),
        }
    }
}
