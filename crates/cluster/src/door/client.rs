//! The asking side.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use coracle_store::etcd::{Dial, Io};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderValue, UPGRADE};
use hyper::{Request, Response, Uri, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::DoorError;
use super::cut::Cuttable;
use super::error::is_wrong_cluster;
use super::tls::{self, Http};
use crate::MachineId;
use crate::pki::{DOOR_NAME, Fingerprint, Identity, MACHINE_DOMAIN};

/// What a request carries: whatever axum's bodies can hold.
pub type Body = axum::body::Body;

/// How long an address is tried alone before the next one is, too.
const AHEAD: Duration = Duration::from_millis(300);

/// A machine and where its door may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The machine.
    pub machine: MachineId,
    /// `ADDRESS:PORT`, the best first.
    pub addresses: Vec<String>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct DoorOptions {
    /// For a connection and TLS to one address. Default 3 s.
    pub connect: Duration,
    /// How often a connection in use is asked for a sign of life, and how long that may take. Default 10 s.
    pub alive: Duration,
}

impl Default for DoorOptions {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            alive: Duration::from_secs(10),
        }
    }
}

struct Pooled {
    sender: http2::SendRequest<Body>,
    /// When the certificate that it was made with runs out.
    expires: SystemTime,
    /// The best of the addresses then: a machine that is elsewhere now does not answer on it.
    best: Option<String>,
}

/// What is known of the way to one machine.
#[derive(Default)]
struct Way {
    pooled: Option<Pooled>,
    /// When it was in vain last, at which address, and why.
    failed: Option<(Instant, String, io::Error)>,
}

type Slot = Arc<tokio::sync::Mutex<Way>>;

/// Sends requests to other machines' doors. One connection to each is kept and shared; what is upgraded has its own.
pub struct DoorClient {
    identity: Arc<Identity>,
    one: TlsConnector,
    two: TlsConnector,
    options: DoorOptions,
    pool: Mutex<HashMap<MachineId, Slot>>,
    /// By machine; cuts every connection to it.
    cuts: Mutex<HashMap<MachineId, CancellationToken>>,
}

/// A connection to a machine.
type Line = Cuttable<TlsStream<TcpStream>>;

impl DoorClient {
    /// As that machine.
    ///
    /// # Errors
    /// When TLS cannot be spoken with that identity.
    pub fn new(identity: Arc<Identity>, options: DoorOptions) -> Result<Self, DoorError> {
        let connector = |http| {
            let config = tls::member(identity.clone(), http)?;
            Ok::<_, DoorError>(TlsConnector::from(Arc::new(config)))
        };
        Ok(Self {
            one: connector(Http::One)?,
            two: connector(Http::Two)?,
            identity,
            options,
            pool: Mutex::default(),
            cuts: Mutex::default(),
        })
    }

    /// Cuts every connection to a machine, also what was upgraded. It can be reached again.
    pub fn cut(&self, machine: &MachineId) {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cut) = cuts.remove(machine) {
            cut.cancel();
        }
    }

    fn cutter(&self, machine: &MachineId) -> CancellationToken {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        cuts.entry(machine.clone()).or_default().clone()
    }

    /// Sends a request and answers when the head of its answer is here; both bodies may be streams. Of the URI only path and query count.
    /// With an `Upgrade` header it goes on a connection of its own, which `hyper::upgrade::on` gives if the answer is 101.
    ///
    /// # Errors
    /// `NoAddress`, `Unreachable`: nothing was sent. `Broken`: it may have been done.
    pub async fn send(
        &self,
        to: &Target,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, DoorError> {
        if request.headers().contains_key(UPGRADE) {
            return self.send_alone(to, request).await;
        }
        let mut request = addressed(to, request, Http::Two)?;
        // A connection that turns out to be closed is made anew once.
        for again in [true, false] {
            let mut sender = self.pooled(to).await?;
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok(answer),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if again => request = unsent,
                    _ => return Err(broken(to, failed.into_error())),
                },
            }
        }
        unreachable!("the second round always returns")
    }

    async fn send_alone(
        &self,
        to: &Target,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, DoorError> {
        let request = addressed(to, request, Http::One)?;
        let stream = self.connect(&self.one, to).await?;
        let made = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = made.map_err(|e| broken(to, e))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to another machine ended");
            }
        });
        sender
            .send_request(request)
            .await
            .map_err(|e| broken(to, e))
    }

    /// The connection to a machine, made if there is none that may be used.
    async fn pooled(&self, to: &Target) -> Result<http2::SendRequest<Body>, DoorError> {
        let slot = {
            let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
            pool.entry(to.machine.clone()).or_default().clone()
        };
        let asked = Instant::now();
        let mut way = slot.lock().await;
        let expires = self.identity.seen().not_after;
        if let Some(known) = &way.pooled
            && known.expires == expires
            && known.best.as_ref() == to.addresses.first()
            && !known.sender.is_closed()
        {
            return Ok(known.sender.clone());
        }
        // Whoever waited for a try that was in vain need not try it once more, one after the other.
        if let Some((at, address, source)) = &way.failed
            && *at > asked
        {
            return Err(DoorError::Unreachable {
                machine: format!("machine {}", to.machine),
                address: address.clone(),
                source: alike(source),
            });
        }
        let stream = match self.connect(&self.two, to).await {
            Ok(stream) => stream,
            Err(error) => {
                if let DoorError::Unreachable {
                    address, source, ..
                } = &error
                {
                    way.failed = Some((Instant::now(), address.clone(), alike(source)));
                }
                return Err(error);
            }
        };
        let made = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(2 << 20)
            .initial_connection_window_size(8 << 20)
            .keep_alive_interval(self.options.alive)
            .keep_alive_timeout(self.options.alive)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = made.map_err(|e| broken(to, e))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to another machine ended");
            }
        });
        way.pooled = Some(Pooled {
            sender: sender.clone(),
            expires,
            best: to.addresses.first().cloned(),
        });
        Ok(sender)
    }

    async fn connect(&self, connector: &TlsConnector, to: &Target) -> Result<Line, DoorError> {
        let (machine, cut) = (to.machine.as_str(), self.cutter(&to.machine));
        let name = format!("{machine}{MACHINE_DOMAIN}");
        // One that was its address once may swallow all that is sent there, and must not use up the time for the next.
        let tries = to.addresses.iter().zip(0..).map(async |(address, n)| {
            tokio::time::sleep(AHEAD * n).await;
            let reached = reach(connector, address, &name, self.options.connect).await;
            reached.map_err(|source| (address, source))
        });
        let mut tries: FuturesUnordered<_> = tries.collect();
        let mut last = None;
        while let Some(tried) = tries.next().await {
            match tried {
                Ok(stream) => return Ok(Cuttable::new(stream, cut, CancellationToken::new())),
                Err(failed) => last = Some(failed),
            }
        }
        Err(match last {
            Some((address, source)) => DoorError::Unreachable {
                machine: format!("machine {machine}"),
                address: address.clone(),
                source,
            },
            None => DoorError::NoAddress {
                machine: format!("machine {machine}"),
            },
        })
    }

    /// How a [`coracle_store::EtcdStore`] reaches voters' doors: its endpoints are [`endpoint`]s, and `find` says where such a machine is.
    pub fn dial(
        self: &Arc<Self>,
        find: impl Fn(&MachineId) -> Option<Target> + Send + Sync + 'static,
    ) -> Dial {
        let client = self.clone();
        let find = Arc::new(find);
        Dial::new(move |uri: Uri| {
            let (client, find) = (client.clone(), find.clone());
            async move {
                let unknown =
                    || io::Error::new(io::ErrorKind::NotFound, format!("no machine {uri}"));
                let host = uri.host().unwrap_or_default();
                let id = host.strip_suffix(MACHINE_DOMAIN).unwrap_or(host);
                let machine = id.parse().map_err(|_| unknown())?;
                let target = find(&machine).ok_or_else(unknown)?;
                let stream = client.connect(&client.two, &target).await;
                let stream = stream.map_err(io::Error::other)?;
                Ok(Box::new(stream) as Box<dyn Io>)
            }
        })
    }
}

/// A machine's door as [`coracle_store::EtcdOptions::endpoints`] has it, for [`DoorClient::dial`].
pub fn endpoint(machine: &MachineId) -> String {
    format!("http://{machine}{MACHINE_DOMAIN}")
}

/// Makes one connection, with TLS, to one address.
async fn reach(
    connector: &TlsConnector,
    address: &str,
    name: &str,
    within: Duration,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let made = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        connector.connect(name, stream).await
    };
    let late = || {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {within:?}"),
        )
    };
    tokio::time::timeout(within, made)
        .await
        .map_err(|_| late())?
}

/// The same once more, with what TLS said.
fn alike(error: &io::Error) -> io::Error {
    match super::error::tls(error) {
        Some(tls) => io::Error::new(error.kind(), tls.clone()),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

fn broken(to: &Target, source: hyper::Error) -> DoorError {
    DoorError::Broken {
        machine: format!("machine {}", to.machine),
        source,
    }
}

/// The request as it stands on the wire.
fn addressed(
    to: &Target,
    mut request: Request<Body>,
    http: Http,
) -> Result<Request<Body>, DoorError> {
    let host = format!("{}{MACHINE_DOMAIN}", to.machine);
    let wrong = |why: String| DoorError::Request {
        machine: to.machine.to_string(),
        why,
    };
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let uri = match http {
        Http::One => path.to_owned(),
        Http::Two => format!("https://{host}{path}"),
    };
    *request.uri_mut() = uri.parse().map_err(|e| wrong(format!("{uri:?}: {e}")))?;
    let headers = request.headers_mut();
    headers.remove(HOST);
    if http == Http::One {
        let host = HeaderValue::from_str(&host).map_err(|e| wrong(e.to_string()))?;
        headers.insert(HOST, host);
    }
    *request.version_mut() = match http {
        Http::One => Version::HTTP_11,
        Http::Two => Version::HTTP_2,
    };
    Ok(request)
}

/// Asks as a machine that has a token only: it knows the CA by its hash and shows no certificate.
pub struct Stranger {
    connector: TlsConnector,
    options: DoorOptions,
}

impl Stranger {
    /// Trusts the CA whose key has that hash.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(pin: Fingerprint, options: DoorOptions) -> Result<Self, DoorError> {
        let config = tls::stranger(pin)?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            options,
        })
    }

    /// Sends one request on a connection of its own.
    ///
    /// # Errors
    /// `WrongCluster` for what is not of the token's cluster, `Unreachable`, `Broken`.
    pub async fn send(
        &self,
        address: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, DoorError> {
        let machine = || "the machine".to_owned();
        let reached = reach(&self.connector, address, DOOR_NAME, self.options.connect).await;
        let stream = reached.map_err(|source| match is_wrong_cluster(&source) {
            true => DoorError::WrongCluster {
                address: address.to_owned(),
            },
            false => DoorError::Unreachable {
                machine: machine(),
                address: address.to_owned(),
                source,
            },
        })?;
        let broken = |source| DoorError::Broken {
            machine: format!("the machine at {address}"),
            source,
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        tokio::spawn(connection);
        let host = HeaderValue::from_static(DOOR_NAME);
        request.headers_mut().insert(HOST, host);
        sender.send_request(request).await.map_err(broken)
    }
}
