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
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use bytes::{BufMut, Bytes, BytesMut};
use coracle_etcd_proto::etcdserverpb as pb;
use futures_util::stream::{self, StreamExt};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use prost::Message;
use tonic::Status;

use crate::context::Gateway;
use crate::serve::{LARGEST, router};

/// What stands before a message.
const PREFIX: usize = 5;
const GRPC: &str = "application/grpc";
/// gRPC writes a message's length in 32 bits.
const TOO_LARGE: &str = "the answer is larger than a gRPC message can be (4 GiB): ask for fewer keys, with a limit or a narrower range";

/// All paths of one face of the store, as [`crate::serve`] takes them.
#[derive(Clone)]
pub struct Face(Arc<Paths>);

struct Paths {
    /// What the plain calls ask.
    gateway: Option<Gateway>,
    others: TowerToHyperService<Router>,
}

impl Face {
    /// gRPC, JSON, health, version and metrics of `gateway`.
    pub fn new(gateway: Gateway) -> Self {
        Self(Arc::new(Paths {
            others: TowerToHyperService::new(router(gateway.clone())),
            gateway: Some(gateway),
        }))
    }
}

impl From<Router> for Face {
    /// The paths of `router` alone.
    fn from(router: Router) -> Self {
        Self(Arc::new(Paths {
            gateway: None,
            others: TowerToHyperService::new(router),
        }))
    }
}

type Answer = Result<Response<Reply>, Infallible>;

impl Service<Request<Incoming>> for Face {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let paths = Arc::clone(&self.0);
        if paths.gateway.is_none() || !is_plain(&request) {
            return Box::pin(async move { paths.pass(request.map(Body::new)).await });
        }
        match request.uri().path() {
            "/etcdserverpb.KV/Range" => Box::pin(paths.unary::<pb::RangeRequest>(request)),
            "/etcdserverpb.KV/Put" => Box::pin(paths.unary::<pb::PutRequest>(request)),
            "/etcdserverpb.KV/DeleteRange" => {
                Box::pin(paths.unary::<pb::DeleteRangeRequest>(request))
            }
            "/etcdserverpb.KV/Txn" => Box::pin(paths.unary::<pb::TxnRequest>(request)),
            _ => Box::pin(async move { paths.pass(request.map(Body::new)).await }),
        }
    }
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

/// A request that is done here.
trait Plain: Message + Default {
    type Answer: Message;

    fn ask(
        self,
        gateway: &Gateway,
    ) -> impl Future<Output = Result<Self::Answer, Status>> + Send + '_;
}

macro_rules! plain {
    ($request:ident, $answer:ident, $ask:ident) => {
        impl Plain for pb::$request {
            type Answer = pb::$answer;

            fn ask(
                self,
                gateway: &Gateway,
            ) -> impl Future<Output = Result<Self::Answer, Status>> + Send + '_ {
                gateway.$ask(self)
            }
        }
    };
}
plain!(RangeRequest, RangeResponse, do_range);
plain!(PutRequest, PutResponse, do_put);
plain!(DeleteRangeRequest, DeleteRangeResponse, do_delete);
plain!(TxnRequest, TxnResponse, do_txn);

impl Paths {
    async fn pass(&self, request: Request<Body>) -> Answer {
        let answer = self.others.call(request).await;
        answer.map(|answer| answer.map(Reply::Other))
    }

    /// Reads the message, and answers it.
    async fn unary<Q: Plain>(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let (head, mut body) = request.into_parts();
        let (whole, broken) = read(&mut body).await;
        let message = match broken {
            None => message::<Q>(whole.clone()),
            Some(_) => None,
        };
        let (Some(message), Some(gateway)) = (message, &self.gateway) else {
            let again = stream::iter([Some(Ok(Frame::data(whole))), broken.map(Err)]);
            let again = again.filter_map(std::future::ready);
            let body = Body::new(StreamBody::new(again.chain(BodyStream::new(body))));
            return self.pass(Request::from_parts(head, body)).await;
        };
        let answered = message.ask(gateway).await;
        Ok(match answered.and_then(|answer| Reply::answer(&answer)) {
            Ok(answer) => {
                let mut response = Response::new(answer);
                let kind = HeaderValue::from_static(GRPC);
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            Err(status) => status.into_http::<Body>().map(Reply::Other),
        })
    }
}

/// The bytes of a body, up to what is too many, and what went wrong then.
async fn read(body: &mut Incoming) -> (Bytes, Option<hyper::Error>) {
    // Nearly always all of it is in one frame, and is not copied.
    let (mut first, mut more, mut length) = (Bytes::new(), BytesMut::new(), 0);
    let broken = loop {
        let data = match body.frame().await.map(|read| read.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => data,
            // After trailers nothing comes.
            Some(Ok(Err(_))) | None => break None,
            Some(Err(error)) => break Some(error),
        };
        if length == 0 {
            first = data;
            length = first.len();
        } else {
            if more.is_empty() {
                more.extend_from_slice(&first);
            }
            more.extend_from_slice(&data);
            length = more.len();
        }
        let so_far = if more.is_empty() { &first } else { &more[..] };
        if body.is_end_stream() || length > PREFIX + LARGEST || is_odd(so_far) {
            break None;
        }
    };
    let whole = if more.is_empty() {
        first
    } else {
        more.freeze()
    };
    (whole, broken)
}

/// What is before a message says that it is compressed or too large: it need not be waited for.
fn is_odd(body: &[u8]) -> bool {
    let prefix = body.split_first_chunk::<PREFIX>();
    prefix.is_some_and(|([flag, length @ ..], _)| {
        *flag != 0 || u32::from_be_bytes(*length) as usize > LARGEST
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
    fn answer(message: &impl Message) -> Result<Self, Status> {
        let length = message.encoded_len();
        let prefix = u32::try_from(length).map_err(|_| Status::resource_exhausted(TOO_LARGE))?;
        let mut bytes = BytesMut::with_capacity(PREFIX + length);
        bytes.put_u8(0);
        bytes.put_u32(prefix);
        message.encode_raw(&mut bytes);
        Ok(Self::Message(bytes.freeze()))
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
