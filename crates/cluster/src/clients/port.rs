//! The listening side.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::net::sockopt;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::{Clients, Server};
use crate::door::{Accepting, Arrival, Arrivals, Cuttable, DoorError};
use crate::pki::{Fingerprint, Seen};

/// Longest wait without a look at the clock, which may be set meanwhile.
const LOOK: Duration = Duration::from_secs(60);
/// How long who was refused is listened to, so that the reason arrives before the connection is reset.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a connection may be silent before the kernel asks whether its workstation is still there, how often it asks again, and how many times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 4);

/// How much is let in.
#[derive(Clone, Copy, Debug)]
pub struct PortLimits {
    /// Time for TLS to be agreed upon, with what its turn takes. Default 10 s.
    pub handshake: Duration,
    /// Handshakes at once; more wait. Default 64.
    pub handshakes: usize,
    /// Of these, such from one address; more wait. Default 16.
    pub turns: usize,
    /// Connections from one address whose client is not known yet; more are closed at once. Default 256. All addresses together have half of
    /// `connections`.
    pub unknown: usize,
    /// Connections at once; more wait in the socket. Default 4096.
    pub connections: usize,
}

impl Default for PortLimits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            handshakes: 64,
            turns: 16,
            unknown: 256,
            connections: 4096,
        }
    }
}

/// A client that was let in.
pub struct Visit<S> {
    /// The connection. Reads and writes fail once it is cut.
    pub stream: S,
    /// Cancelled when it is cut.
    pub cut: CancellationToken,
    /// A copy of the socket, to see whether the client is still there.
    pub socket: Option<OwnedFd>,
}

struct Inside {
    acceptor: TlsAcceptor,
    clients: watch::Receiver<Clients>,
    limits: PortLimits,
    handshakes: Semaphore,
    arrivals: Arc<Arrivals>,
}

/// See the module.
#[derive(Clone)]
pub struct Port(Arc<Inside>);

impl Port {
    /// A port that shows what `server` has and lets `clients` in.
    ///
    /// # Errors
    /// When TLS cannot be spoken.
    pub fn new(
        server: Arc<Server>,
        clients: watch::Receiver<Clients>,
        limits: PortLimits,
    ) -> Result<Self, DoorError> {
        let provider = Arc::new(ring::default_provider());
        let admission = Arc::new(Admission::new(clients.clone(), provider.clone()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(admission)
            .with_cert_resolver(server);
        // Connections are taken over, which HTTP/2 has no word for.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A session that is resumed would let in who was struck off.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self(Arc::new(Inside {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            clients,
            handshakes: Semaphore::new(limits.handshakes),
            // The other half is for those that are known.
            arrivals: Arrivals::new(limits.turns, limits.unknown, limits.connections / 2),
            limits,
        })))
    }

    /// Lets clients in and has each served by `serve`, until `stop` is cancelled: then what is served may end as long as `leaving` takes, and the
    /// rest is cut.
    ///
    /// # Errors
    /// The listener's own, when it can accept no more.
    pub async fn serve<F, Fut>(
        &self,
        listener: TcpListener,
        serve: F,
        stop: CancellationToken,
        leaving: impl Future<Output = ()>,
    ) -> io::Result<()>
    where
        F: Fn(Visit<Box<dyn Stream>>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let accepting = Accepting {
            name: "the API's port",
            connections: self.0.limits.connections,
            arrivals: &self.0.arrivals,
            stop: stop.clone(),
        };
        let each = |stream, address, arrival, cut| {
            let (port, serve, stop) = (self.0.clone(), serve.clone(), stop.clone());
            async move {
                let shaken = tokio::select! {
                    shaken = port.shake(stream, address, arrival) => shaken,
                    () = stop.cancelled() => None,
                };
                if let Some((stream, socket, seen)) = shaken {
                    port.host(stream, socket, seen, address, cut, serve).await;
                }
            }
        };
        accepting.serve(listener, leaving, each).await
    }
}

/// What a client is served on.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Tls = tokio_rustls::server::TlsStream<TcpStream>;

impl Inside {
    /// Agrees upon TLS; none where somebody is not let in, who is told why.
    async fn shake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        arrival: Arrival,
    ) -> Option<(Tls, Option<OwnedFd>, Seen)> {
        // Small answers are what there is most of; where it cannot be set they come a little later.
        let _ = stream.set_nodelay(true);
        keep_alive(&stream);
        let socket = stream.as_fd().try_clone_to_owned().ok();
        let handshake = async {
            let _own = arrival.turn().await;
            let _turn = self.handshakes.acquire().await;
            self.acceptor.accept(stream).into_fallible().await
        };
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(self.limits.handshake, handshake) => shaken,
            () = arrival.away() => {
                tracing::debug!(%address, "a workstation's place is another's");
                return None;
            }
        };
        match shaken {
            Ok(Ok(stream)) => {
                let shown = stream.get_ref().1.peer_certificates();
                let seen = Seen::read(shown?.first()?).ok()?;
                Some((stream, socket, seen))
            }
            Ok(Err((error, stream))) => {
                tracing::info!(%address, %error, "a workstation is not let in");
                farewell(stream).await;
                None
            }
            Err(_) => {
                tracing::debug!(%address, "who came to the API's port did not speak");
                None
            }
        }
    }

    async fn host<F, Fut>(
        &self,
        stream: Tls,
        socket: Option<OwnedFd>,
        seen: Seen,
        address: SocketAddr,
        cut: CancellationToken,
        serve: F,
    ) where
        F: Fn(Visit<Box<dyn Stream>>) -> Fut,
        Fut: Future<Output = ()>,
    {
        let allowed = self.clients.borrow().get(&seen.key).cloned();
        // Struck off since the handshake.
        let Some(allowed) = allowed else { return };
        tracing::debug!(%address, client = allowed.name, "a workstation is let in");
        let ended = CancellationToken::new();
        let cuttable = Cuttable::new(stream, cut.clone(), ended.clone());
        let wire = socket.as_ref().and_then(|s| s.try_clone().ok());
        let visit = Visit {
            stream: Box::new(cuttable) as Box<dyn Stream>,
            cut: cut.clone(),
            socket,
        };
        let guarding = async {
            let reason = tokio::select! {
                () = struck(self.clients.clone(), seen.key) => "it was revoked",
                () = passed(self.clients.clone(), &seen) => "its time is over",
                () = cut.cancelled() => "the daemon leaves",
                () = ended.cancelled() => return,
            };
            tracing::info!(client = allowed.name, %address, reason, "a workstation's connection is cut");
            cut.cancel();
            // Who neither reads nor writes hears of it by the kernel, on both sides.
            if let Some(wire) = wire {
                rustix::net::shutdown(&wire, rustix::net::Shutdown::Both).ok();
            }
        };
        // What was upgraded goes on after it was served; the guardian stays with it.
        tokio::join!(serve(visit), guarding);
    }
}

/// The kernel finds out about workstations that vanished; where it cannot be told to, they stay until something is written to them.
fn keep_alive(stream: &TcpStream) {
    let (idle, every, times) = KEEPALIVE;
    let set = sockopt::set_socket_keepalive(stream, true)
        .and_then(|()| sockopt::set_tcp_keepidle(stream, idle))
        .and_then(|()| sockopt::set_tcp_keepintvl(stream, every))
        .and_then(|()| sockopt::set_tcp_keepcnt(stream, times));
    if let Err(error) = set {
        tracing::debug!(%error, "a workstation that vanishes will not be noticed");
    }
}

/// Waits until the client has read why it is refused: what it has sent and nobody read would reset the connection.
async fn farewell(mut stream: TcpStream) {
    let read = async {
        let _ = stream.shutdown().await;
        let mut rest = [0; 4096];
        while let Ok(1..) = stream.read(&mut rest).await {}
    };
    let _ = tokio::time::timeout(FAREWELL, read).await;
}

/// Waits until nobody with that key may come in any more.
async fn struck(mut clients: watch::Receiver<Clients>, key: Fingerprint) {
    loop {
        if clients.borrow_and_update().get(&key).is_none() {
            return;
        }
        if clients.changed().await.is_err() {
            // Nobody follows the list any more: the daemon stops.
            return std::future::pending().await;
        }
    }
}

/// Waits until the certificate or the entry runs out, whichever is first.
async fn passed(clients: watch::Receiver<Clients>, seen: &Seen) {
    loop {
        let until = clients.borrow().get(&seen.key).and_then(|a| a.until);
        let end = until.unwrap_or(seen.not_after).min(seen.not_after);
        match end.duration_since(SystemTime::now()) {
            Ok(left) if !left.is_zero() => tokio::time::sleep(left.min(LOOK)).await,
            _ => return,
        }
    }
}
