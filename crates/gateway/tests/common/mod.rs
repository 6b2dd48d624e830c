//! What the tests share: a store behind the gateway, Debian's etcd, and connections to both.
#![allow(clippy::unwrap_used, dead_code)]

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_gateway::{Gateway, Identity, Role, Scope, Scoped};
use coracle_store::{EmbeddedStore, Options, Store};
use tokio::sync::watch;
use tonic::transport::Channel;

pub const APPS: &[u8] = b"/coracle/v1/apps/";

/// A store behind the gateway, on loopback; gone when dropped.
pub struct Ours {
    pub address: SocketAddr,
    /// The whole store, behind the scope.
    pub store: Arc<EmbeddedStore>,
    _stop: watch::Sender<bool>,
    _dir: tempfile::TempDir,
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
    ours_with(role, scope(), Options::default()).await
}

pub async fn ours_with(role: Role, scope: Scope, options: Options) -> Ours {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::open(dir.path(), options).unwrap());
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
    let router = coracle_gateway::router(gateway);
    tokio::spawn(coracle_gateway::serve(listener, router, stop.subscribe()));
    Ours {
        address,
        store,
        _stop: stop,
        _dir: dir,
    }
}

/// Debian's etcd on loopback, a cluster of one; gone when dropped.
pub struct Etcd {
    pub address: SocketAddr,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

pub async fn etcd() -> Etcd {
    // Another process may take a port between the two; then the next try has others.
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let (client, peer) = (free(), free());
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let child = Command::new("etcd")
            .args(["--data-dir".as_ref(), dir.path().as_os_str()])
            .args(["--listen-client-urls", &client_url])
            .args(["--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url])
            .args(["--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd, of Debian's package etcd-server");
        let mut etcd = Etcd {
            address: client,
            child,
            _dir: dir,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline && etcd.child.try_wait().unwrap().is_none() {
            if is_ready(client).await {
                return etcd;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    panic!("etcd does not start");
}

async fn is_ready(address: SocketAddr) -> bool {
    use coracle_etcd_proto::etcdserverpb as pb;
    let Ok(endpoint) = Channel::from_shared(format!("http://{address}")) else {
        return false;
    };
    let Ok(channel) = endpoint.connect().await else {
        return false;
    };
    let mut kv = pb::kv_client::KvClient::new(channel);
    let asked = pb::RangeRequest {
        key: "ready".into(),
        ..Default::default()
    };
    kv.range(asked).await.is_ok()
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
