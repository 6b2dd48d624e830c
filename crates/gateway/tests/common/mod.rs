//! What the tests share: a store behind the gateway, Debian's etcd, and connections to both.
#![allow(clippy::unwrap_used, dead_code)]

#[path = "../../../store/tests/common/etcd.rs"]
mod server;

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_gateway::{Face, Gateway, Identity, Role, Scope, Scoped};
use coracle_store::{EmbeddedStore, EtcdOptions, EtcdStore, Options, Store};
use tokio::sync::watch;
use tonic::transport::Channel;

#[allow(unused_imports, reason = "each test takes what it needs")]
pub use server::{Etcd, etcd, restored};

pub const APPS: &[u8] = b"/coracle/v1/apps/";

/// A store behind the gateway, on loopback; gone when dropped.
pub struct Ours {
    pub address: SocketAddr,
    /// The whole store, behind the scope.
    pub store: Arc<dyn Store>,
    _stop: watch::Sender<bool>,
    _dir: Option<tempfile::TempDir>,
}

pub fn scope() -> Scope {
    Scope {
        prefix: Bytes::from_static(APPS),
        offset: 0,
        quota_bytes: 64 << 20,
    }
}

/// An app's face, or the operator's.
pub async fn ours(role: Role) -> Ours {
    // Little memory: what the answers are made of moves from the log to the database all the time.
    let options = Options {
        memory_bytes: 4096,
        ..Options::default()
    };
    ours_with(role, scope(), options).await
}

pub async fn ours_with(role: Role, scope: Scope, options: Options) -> Ours {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::open(dir.path(), options).unwrap());
    face(store, role, scope, Some(dir)).await
}

/// The gateway over an etcd.
pub async fn over(etcd: &Etcd, role: Role) -> Ours {
    let options = EtcdOptions::new([etcd.url()]);
    let store = Arc::new(EtcdStore::new(options).unwrap());
    face(store, role, scope(), None).await
}

/// A store on loopback as one role sees it.
pub async fn face(
    store: Arc<dyn Store>,
    role: Role,
    scope: Scope,
    dir: Option<tempfile::TempDir>,
) -> Ours {
    let scoped: Arc<dyn Store> = Arc::new(Scoped::new(store.clone(), scope));
    let identity = Identity {
        cluster: 7,
        member: 8,
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let urls = vec![format!("http://{address}")];
    let gateway = Gateway::new(scoped, role, identity, "here", urls);
    let stop = watch::Sender::new(false);
    let face = Face::new(gateway);
    tokio::spawn(coracle_gateway::serve(listener, face, stop.subscribe()));
    Ours {
        address,
        store,
        _stop: stop,
        _dir: dir,
    }
}

pub async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

/// `etcdctl` against an address; what it printed, and whether it went well.
pub async fn etcdctl(address: SocketAddr, words: &[&str]) -> (bool, String) {
    etcdctl_fed(address, words, "").await
}

/// The same with an input.
pub async fn etcdctl_fed(address: SocketAddr, words: &[&str], input: &str) -> (bool, String) {
    use tokio::io::AsyncWriteExt as _;
    let mut child = etcdctl_command(address, words).spawn().expect(PACKAGE);
    let mut stdin = child.stdin.take().unwrap();
    // A child that reads nothing of it may be gone already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output();
    let output = tokio::time::timeout(PATIENCE, output).await;
    let output = output
        .unwrap_or_else(|_| panic!("etcdctl {words:?} does not end"))
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

const PACKAGE: &str = "etcdctl, of Debian's package etcd-client";

/// How long a test waits for what should be there in a moment.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// `etcdctl` to be started, with pipes; killed when its child is dropped.
pub fn etcdctl_command(address: SocketAddr, words: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("etcdctl");
    command
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={address}"))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The same sequences at each run, so that a failure is there again; others each time where `CORACLE_ROUNDS` asks for many.
pub fn runner(cases: u32) -> proptest::test_runner::TestRunner {
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    if std::env::var_os("CORACLE_ROUNDS").is_some() {
        return TestRunner::new(config);
    }
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng)
}
