//! The listening side.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use coracle_gateway::{Face, Reply};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::accept::Accepting;
use super::arrivals::{Arrival, Arrivals};
use super::cut::Cuttable;
use super::{DoorError, Peer, members_only, tls};
use crate::MachineId;
use crate::guard::Faces;
use crate::members::{Members, Standing};
use crate::pki::{Fingerprint, Identity, Seen};

/// Longest wait without a look at the clock, which may be set meanwhile.
const LOOK: Duration = Duration::from_secs(60);
/// Requests at once on one connection.
const STREAMS: u32 = 4096;
/// What may be on its way of one stream, in bytes: images pass here.
const WINDOW: u32 = 2 << 20;

/// How much is let in.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time for TLS to be agreed upon, with what its turn takes. Default 10 s.
    pub handshake: Duration,
    /// Handshakes at once; more wait in the socket. Default 128.
    pub handshakes: usize,
    /// Of these, such from one address; more wait. Default 32.
    pub turns: usize,
    /// Connections from one address that are no member's, or not known yet; more are closed at once. Default 512. All addresses together have half of
    /// `connections`.
    pub unknown: usize,
    /// Connections at once; more wait in the socket. Default 4096.
    pub connections: usize,
    /// Of these, such without a certificate; more are closed at once. Default 64.
    pub strangers: usize,
    /// How long somebody who is no member may stay. Default 2 minutes.
    pub visit: Duration,
    /// Time for answers when the door closes. Default 1 s.
    pub leaving: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            handshakes: 128,
            turns: 32,
            unknown: 512,
            connections: 4096,
            strangers: 64,
            visit: Duration::from_secs(120),
            leaving: Duration::from_secs(1),
        }
    }
}

/// What is behind the door. Requests bear the extension [`Peer`].
#[derive(Clone)]
pub struct Paths {
    members: Router,
    open: Router,
    store: Option<Faces>,
}

impl Paths {
    /// These paths, for members only; others are answered 401.
    pub fn new(members: Router) -> Self {
        Self {
            members: members_only(members),
            open: Router::new(),
            store: None,
        }
    }

    /// And these for everybody who finds the door, certificate or not.
    pub fn with_open(mut self, open: Router) -> Self {
        self.open = self.open.merge(open);
        self
    }

    /// And etcd's v3 API over gRPC, for members, each with its own view of the store.
    pub fn with_store(mut self, faces: Faces) -> Self {
        self.store = Some(faces);
        self
    }
}

/// The same, ready to be asked.
#[derive(Clone)]
struct Served {
    router: Face,
    store: Option<Faces>,
}

struct Inside {
    acceptor: TlsAcceptor,
    members: watch::Receiver<Members>,
    limits: Limits,
    handshakes: Semaphore,
    arrivals: Arc<Arrivals>,
    strangers: Arc<Semaphore>,
}

/// See the module.
#[derive(Clone)]
pub struct Door(Arc<Inside>);

impl Door {
    /// A door that shows `identity` and lets `members` in.
    ///
    /// # Errors
    /// When TLS cannot be spoken with that identity.
    pub fn new(
        identity: Arc<Identity>,
        members: watch::Receiver<Members>,
        limits: Limits,
    ) -> Result<Self, DoorError> {
        let config = tls::server(identity)?;
        Ok(Self(Arc::new(Inside {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            members,
            handshakes: Semaphore::new(limits.handshakes),
            // The other half is for those that are known.
            arrivals: Arrivals::new(limits.turns, limits.unknown, limits.connections / 2),
            strangers: Arc::new(Semaphore::new(limits.strangers)),
            limits,
        })))
    }

    /// Serves until `stop` is cancelled; then requests have a moment for their answers, and the rest is cut.
    ///
    /// # Errors
    /// The listener's own, when it can accept no more.
    pub async fn serve(
        &self,
        listener: TcpListener,
        paths: Paths,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let paths = Served {
            router: Face::from(paths.members.merge(paths.open)),
            store: paths.store,
        };
        let accepting = Accepting {
            name: "the door",
            connections: self.0.limits.connections,
            arrivals: &self.0.arrivals,
            stop: stop.clone(),
        };
        let limit = self.0.limits.leaving;
        // Its time begins when it is asked.
        let leaving = async move { tokio::time::sleep(limit).await };
        let each = |stream, address, arrival, cut| {
            let visitor = Visitor {
                door: self.0.clone(),
                paths: paths.clone(),
                stop: stop.clone(),
                cut,
            };
            visitor.visit(stream, address, arrival)
        };
        accepting.serve(listener, leaving, each).await
    }
}

/// One connection.
struct Visitor {
    door: Arc<Inside>,
    paths: Served,
    stop: CancellationToken,
    cut: CancellationToken,
}

impl Visitor {
    async fn visit(self, stream: TcpStream, address: SocketAddr, arrival: Arrival) {
        // Small answers are what there is most of; where it cannot be set they come a little later.
        let _ = stream.set_nodelay(true);
        let away = arrival.away();
        let shaken = {
            let handshake = async {
                let _own = arrival.turn().await;
                let _turn = self.door.handshakes.acquire().await;
                self.door.acceptor.accept(stream).await
            };
            tokio::select! {
                shaken = tokio::time::timeout(self.door.limits.handshake, handshake) => shaken,
                () = arrival.away() => return tracing::debug!(%address, "a visitor's place is another's"),
                () = self.stop.cancelled() => return,
            }
        };
        let stream = match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%address, %error, "no TLS with a visitor"),
            Err(_) => return tracing::debug!(%address, "a visitor did not speak"),
        };
        let seen = seen(&stream);
        let shown = seen.as_ref().and_then(Shown::of);
        // Who is a member takes nobody's place; one with a certificate that is none may have been removed.
        let is_member = |shown: &Shown| shown.standing(&self.door.members.borrow()).is_some();
        let arrival = Some(arrival).filter(|_| !shown.as_ref().is_some_and(is_member));
        let is_known = arrival.is_none();
        let place = match shown {
            Some(_) => None,
            None => match self.door.strangers.clone().try_acquire_owned() {
                Ok(place) => Some(place),
                Err(_) => return tracing::warn!(%address, "too many strangers at the door"),
            },
        };
        let ended = CancellationToken::new();
        let granted = Arc::new(AtomicU8::new(0));
        let service = Asked {
            paths: self.paths.clone(),
            granted: granted.clone(),
            members: self.door.members.clone(),
            shown: shown.clone(),
            address,
        };
        let io = Cuttable::new(stream, self.cut.clone(), ended.clone());
        let serving = self.serve(io, service);
        let expires = seen.map(|seen| seen.not_after);
        let guarding = async {
            let members = self.door.members.clone();
            let reason = tokio::select! {
                reason = standing(members, shown.as_ref(), &granted, self.door.limits.visit) => reason,
                () = passed(expires) => "its certificate has run out",
                () = away, if !is_known => "its place is another's",
                () = ended.cancelled() => return,
            };
            let machine = shown.as_ref().map(|s| tracing::field::display(&s.machine));
            tracing::info!(machine, %address, reason, "a connection is cut");
            self.cut.cancel();
        };
        tokio::join!(serving, guarding);
        drop((place, arrival));
    }

    /// Ends when the connection does, or was upgraded.
    async fn serve(&self, io: Cuttable<TlsStream<TcpStream>>, service: Asked) {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new());
        builder.http2().auto_date_header(false);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * 4)
            // A machine that vanished does not keep its watches for ever.
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        let served = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
        tokio::pin!(served);
        let ended = tokio::select! {
            ended = &mut served => ended,
            // What is asked already has no answer any more.
            () = self.cut.cancelled() => return,
            () = self.stop.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error, "a machine left early");
        }
    }
}

/// Whom a certificate names, and with which key.
#[derive(Clone)]
struct Shown {
    machine: MachineId,
    key: Fingerprint,
}

impl Shown {
    /// None for a certificate that is no machine's.
    fn of(seen: &Seen) -> Option<Self> {
        Some(Self {
            machine: seen.machine.clone()?,
            key: seen.key,
        })
    }

    fn standing(&self, members: &Members) -> Option<Standing> {
        members.standing_with(&self.machine, &self.key)
    }
}

/// What the client's certificate says, which TLS has verified.
fn seen(stream: &TlsStream<TcpStream>) -> Option<Seen> {
    let chain = stream.get_ref().1.peer_certificates()?;
    Seen::read(chain.first()?).ok()
}

/// Waits until whoever it is has lost what the connection was granted, or stayed too long without being a member; says which.
async fn standing(
    mut members: watch::Receiver<Members>,
    shown: Option<&Shown>,
    granted: &AtomicU8,
    visit: Duration,
) -> &'static str {
    const OVER: &str = "its visit is over";
    let visit = tokio::time::sleep(visit);
    let Some(shown) = shown else {
        visit.await;
        return OVER;
    };
    tokio::pin!(visit);
    loop {
        let now = shown.standing(&members.borrow_and_update());
        if Standing::rank(now) < granted.load(Ordering::SeqCst) {
            return match now {
                None => "it was removed from the cluster",
                Some(_) => "it is a voter no more",
            };
        }
        tokio::select! {
            changed = members.changed() => if changed.is_err() {
                // Nobody follows the list any more: the daemon stops.
                return std::future::pending().await;
            },
            () = &mut visit, if now.is_none() => return OVER,
        }
    }
}

async fn passed(expires: Option<SystemTime>) {
    let Some(expires) = expires else {
        return std::future::pending().await;
    };
    while let Ok(left) = expires.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

/// Answers one connection's requests.
struct Asked {
    paths: Served,
    members: watch::Receiver<Members>,
    /// The highest rank that a request on this connection had.
    granted: Arc<AtomicU8>,
    shown: Option<Shown>,
    address: SocketAddr,
}

impl Asked {
    /// What the machine may do now. What is granted is noted before it is looked at a last time: whoever changes the list after that
    /// look finds the note, and cuts.
    fn standing(&self) -> Option<Standing> {
        let look = || self.shown.as_ref()?.standing(&self.members.borrow());
        let mut now = look();
        loop {
            let rank = Standing::rank(now);
            self.granted.fetch_max(rank, Ordering::SeqCst);
            let again = look();
            if again <= now {
                return again;
            }
            now = again;
        }
    }
}

type Answer = Result<Response<Reply>, Infallible>;

impl Service<Request<Incoming>> for Asked {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let standing = self.standing();
        let shown = self.shown.as_ref().map(|shown| shown.machine.clone());
        let peer = Peer {
            machine: shown.clone().filter(|_| standing.is_some()),
            standing,
            shown,
            address: self.address,
        };
        if let Some(faces) = &self.paths.store
            && Faces::is_for(request.uri().path())
        {
            return faces.call(&peer, request);
        }
        request.extensions_mut().insert(peer);
        self.paths.router.call(request)
    }
}
