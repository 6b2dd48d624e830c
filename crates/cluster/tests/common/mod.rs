//! A cluster's parts for tests: a store, an authority, doors on loopback.
#![allow(clippy::unwrap_used, dead_code)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use coracle_cluster::MachineId;
use coracle_cluster::door::{Body, Door, DoorClient, DoorOptions, Limits, Paths, Target};
use coracle_cluster::members::{Members, Standing};
use coracle_cluster::pki::{Authority, Directory, Fingerprint, Identity, Kind};
use coracle_store::{EmbeddedStore, Options};
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub fn id(digit: char) -> MachineId {
    digit.to_string().repeat(32).parse().unwrap()
}

pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

pub fn print(n: u8) -> Fingerprint {
    Fingerprint([n; 32])
}

pub fn store(dir: &std::path::Path) -> Arc<EmbeddedStore> {
    let store = EmbeddedStore::open(&dir.join("store"), Options::default());
    Arc::new(store.unwrap())
}

/// A machine's directory and its identity by that authority.
pub struct Machine {
    pub root: tempfile::TempDir,
    pub id: MachineId,
    pub identity: Arc<Identity>,
}

impl Machine {
    pub fn new(digit: char, authority: &Authority) -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = Directory::open(&root.path().join("cluster")).unwrap();
        let id = id(digit);
        let asked = Identity::ask(&dir, Kind::Machine, &id).unwrap();
        let certificate = authority.machine(&asked.pem, &id, &[]).unwrap();
        let (pin, ca) = (authority.pin(), authority.certificate_pem());
        let identity = Identity::install(&dir, Kind::Machine, &id, &pin, ca, &certificate).unwrap();
        Self { root, id, identity }
    }

    pub fn dir(&self) -> Directory {
        Directory::open(&self.root.path().join("cluster")).unwrap()
    }

    pub fn client(&self) -> Arc<DoorClient> {
        let client = DoorClient::new(self.identity.clone(), DoorOptions::default());
        Arc::new(client.unwrap())
    }
}

pub fn authority() -> (tempfile::TempDir, Authority) {
    let root = tempfile::tempdir().unwrap();
    let dir = Directory::open(&root.path().join("cluster")).unwrap();
    let authority = Authority::found(&dir).unwrap();
    (root, authority)
}

pub fn members(all: &[(char, Standing)]) -> watch::Sender<Members> {
    watch::Sender::new(all.iter().map(|(digit, s)| (id(*digit), *s)).collect())
}

/// A door that is open until this is dropped.
pub struct Open {
    pub machine: MachineId,
    pub address: SocketAddr,
    pub stop: CancellationToken,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Open {
    pub async fn new(
        machine: &Machine,
        members: watch::Receiver<Members>,
        paths: Paths,
        limits: Limits,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = Door::new(machine.identity.clone(), members, limits).unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move { door.serve(listener, paths, stopped).await });
        Self {
            machine: machine.id.clone(),
            address,
            stop,
            task,
        }
    }

    pub async fn with(
        machine: &Machine,
        members: watch::Receiver<Members>,
        router: Router,
    ) -> Self {
        let paths = Paths::new(Router::new()).with_open(router);
        Self::new(machine, members, paths, Limits::default()).await
    }

    pub fn target(&self) -> Target {
        Target {
            machine: self.machine.clone(),
            addresses: vec![self.address.to_string()],
        }
    }

    pub async fn close(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// A request without a body.
pub fn request(path: &str) -> hyper::Request<Body> {
    hyper::Request::builder()
        .uri(path)
        .body(Body::empty())
        .unwrap()
}

/// Status and body.
pub async fn text<B>(answer: hyper::Response<B>) -> (u16, String)
where
    B: hyper::body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8(body.to_vec()).unwrap())
}

/// The answer to a request without a body.
pub async fn ask(client: &DoorClient, to: &Target, path: &str) -> (u16, String) {
    text(client.send(to, request(path)).await.unwrap()).await
}

/// A body that is fed piece by piece.
pub fn pieces() -> (tokio::sync::mpsc::UnboundedSender<Bytes>, Body) {
    let (send, mut receive) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
    let stream = futures_util::stream::poll_fn(move |context| {
        receive
            .poll_recv(context)
            .map(|piece| piece.map(Ok::<_, Infallible>))
    });
    (send, Body::from_stream(stream))
}

/// Waits for a condition, a minute at most.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What comes within a minute.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(60), future).await;
    waited.unwrap_or_else(|_| panic!("in vain: {what}"))
}
