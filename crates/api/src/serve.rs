//! Accepting connections on a Unix socket, and answering on them and on others.

use crate::{API_VERSION, version};
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use coracle_sys::accept::{Missed, SHORTAGE};
use futures_util::future::{Either, ready};
use hyper::body::{Frame, SizeHint};
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Who answers, as HTTP names it.
const SERVER: &str = concat!("Coracle/", env!("CARGO_PKG_VERSION"), " (linux)");
/// Longest wait for requests that have no answer yet when the daemon leaves.
const ANSWERS: Duration = Duration::from_secs(10);
/// How often it is looked whether a client that came by TCP is still there.
const LOOK: Duration = Duration::from_millis(500);
/// Longest wait for the last bytes of answers.
const BYTES: Duration = Duration::from_secs(1);

/// What answers on connections, whoever accepts them.
#[derive(Clone)]
pub struct Answers {
    inner: TowerToHyperService<Router>,
    unanswered: watch::Sender<usize>,
    stop: watch::Receiver<bool>,
}

impl Answers {
    /// Answers by that router until `stop` is true.
    pub fn new(router: Router, stop: watch::Receiver<bool>) -> Self {
        Self {
            inner: TowerToHyperService::new(router),
            unanswered: watch::Sender::new(0),
            stop,
        }
    }

    /// Waits until no request is without an answer, but not for ever.
    pub async fn given(&self) {
        let mut count = self.unanswered.subscribe();
        let _ = tokio::time::timeout(ANSWERS, count.wait_for(|n| *n == 0)).await;
    }
}

/// Serves until `stop` is true. Requests that wait for their answer then still get it; streams are cut, and connections that
/// nobody accepted yet stay in the socket.
///
/// # Errors
/// The listener's own, when it can accept no more.
pub async fn serve(
    listener: UnixListener,
    router: Router,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let answers = Answers::new(router, stop.clone());
    let mut connections = JoinSet::new();
    let ended = loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => match Missed::of(&error) {
                    Missed::One => continue,
                    Missed::Room => {
                        tracing::warn!(%error, "connections wait");
                        tokio::time::sleep(SHORTAGE).await;
                        continue;
                    }
                    Missed::All => break Err(error),
                },
            },
            Some(_) = connections.join_next() => continue,
            () = stopped(&mut stop) => break Ok(()),
        };
        if has_left(&stream) {
            continue;
        }
        let socket = stream.as_fd().try_clone_to_owned().ok();
        let answers = answers.clone();
        connections.spawn(async move { answers.on(stream, socket.map(Peer::local)).await });
    };
    // Whoever does not answer in time is cut off.
    answers.given().await;
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(BYTES, all).await;
    ended
}

/// The client closed its connection before we came to it, while no daemon was there perhaps: what it asked is not wanted any
/// more. One that has only said its last word still listens.
fn has_left(stream: &UnixStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut looked = [PollFd::new(stream, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let found = poll(&mut looked, Some(&now));
    found.is_ok()
        && looked
            .iter()
            .any(|fd| fd.revents().contains(PollFlags::HUP))
}

/// Says on every answer whose it is, as docker does; clients look for the version.
fn signed(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert("api-version", HeaderValue::from_static(API_VERSION));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert(header::SERVER, HeaderValue::from_static(SERVER));
    answer
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone stops nobody.
    if stop.wait_for(|s| *s).await.is_err() {
        std::future::pending().await
    }
}

impl Answers {
    /// Answers on that connection until it ends or is taken over. `peer` is its socket, where that is known.
    pub async fn on(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Option<Peer>,
    ) {
        let Self {
            inner,
            unanswered,
            stop,
        } = self.clone();
        let mut stop = stop;
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            let mut refused = None;
            if let Some((version, uri)) = version::split(request.uri()) {
                *request.uri_mut() = uri;
                request.extensions_mut().insert(version);
                refused = version.served().err();
            }
            let open = Open::new(unanswered.clone());
            let answer = match refused {
                None => Either::Left(inner.call(request)),
                Some(error) => Either::Right(ready(Ok(error.into_response()))),
            };
            let peer = peer.clone();
            async move {
                let answer = answer.await;
                drop(open);
                answer.map(signed).map(|a| match peer {
                    Some(peer) if a.body().size_hint().exact().is_none() => {
                        a.map(|body| Body::new(WhileHere::new(body, peer)))
                    }
                    _ => a,
                })
            }
        });
        let served = hyper::server::conn::http1::Builder::new()
            // Docker's clients close their half of an attached connection when input ends.
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(served);
        let ended = tokio::select! {
            ended = &mut served => ended,
            () = stopped(&mut stop) => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a client left early");
        }
    }
}

/// The connection that a request came on.
#[derive(Debug, Clone)]
pub struct Peer {
    socket: Arc<OwnedFd>,
    /// It is one of TCP, with TLS on it.
    is_remote: bool,
}

impl Peer {
    /// A client on a Unix socket.
    pub fn local(socket: OwnedFd) -> Self {
        Self {
            socket: Arc::new(socket),
            is_remote: false,
        }
    }

    /// A client that came by TCP and speaks TLS.
    pub fn remote(socket: OwnedFd) -> Self {
        Self {
            socket: Arc::new(socket),
            is_remote: true,
        }
    }

    /// Waits until the client has read all that it was sent (its kernel, where it came by TCP), but not for ever.
    pub async fn has_read(&self) {
        for _ in 0..1000 {
            match coracle_sys::socket::unread(&*self.socket) {
                Ok(1..) => tokio::time::sleep(Duration::from_millis(1)).await,
                _ => return,
            }
        }
    }

    /// Waits until a client has gone that waits for an answer. By TCP a process that ended looks like one that ended its half, and who speaks HTTP
    /// does that only on a connection that was taken over.
    async fn stops_waiting(self) {
        match self.is_remote {
            // What is received wakes whoever reads it, so this looks by itself.
            true => {
                while !shows(&self.socket, PollFlags::HUP | PollFlags::RDHUP) {
                    tokio::time::sleep(LOOK).await;
                }
            }
            false => self.gone().await,
        }
    }
}

/// Whether a socket shows one of these now.
fn shows(socket: impl AsFd, flags: PollFlags) -> bool {
    let mut asked = [PollFd::new(&socket, flags)];
    let looked = poll(&mut asked, Some(&Timespec::default()));
    looked.is_ok() && asked[0].revents().intersects(flags)
}

impl Peer {
    /// Waits until the client has gone. One that only ends its own half of the connection has not.
    pub async fn gone(self) {
        let copy = self.socket.try_clone();
        let copy = copy.map(std::os::unix::net::UnixStream::from);
        let Ok(watched) = copy.and_then(UnixStream::from_std) else {
            return std::future::pending().await;
        };
        while watched.writable().await.is_ok() {
            if shows(&watched, PollFlags::HUP) {
                return;
            }
            // That it can be written is known; only what changes is to wake.
            let known = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = watched.try_io(Interest::WRITABLE, known);
        }
        std::future::pending().await
    }
}

/// Waits until a client has gone; for ever if it is not known which connection is its.
pub async fn left(peer: Option<Peer>) {
    match peer {
        Some(peer) => peer.gone().await,
        None => std::future::pending().await,
    }
}

/// An answer without a length, which ends when its client has gone: hyper would notice only by writing to it, and there may be
/// nothing to write for days.
struct WhileHere {
    body: Body,
    gone: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl WhileHere {
    fn new(body: Body, peer: Peer) -> Self {
        Self {
            body,
            gone: Box::pin(peer.stops_waiting()),
        }
    }
}

impl HttpBody for WhileHere {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        // What can be sent is sent; only who waits looks whether there is anybody to wait for.
        if frame.is_pending() && self.gone.as_mut().poll(context).is_ready() {
            self.body = Body::empty();
            return Poll::Ready(None);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request without an answer.
struct Open(watch::Sender<usize>);

impl Open {
    fn new(count: watch::Sender<usize>) -> Self {
        count.send_modify(|n| *n += 1);
        Self(count)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}
