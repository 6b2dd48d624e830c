//! A real etcd, in a directory of its own, and what it counts.

use super::Fallible;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// The network namespace is this program's own, so that the port is free.
const ADDRESS: &str = "127.0.0.1:2379";
const PEER: &str = "http://127.0.0.1:2380";
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster of one; it ends when dropped.
pub struct Etcd(Child);

impl Etcd {
    /// Starts one in `dir`, and waits until it answers.
    pub async fn start(dir: &Path) -> Fallible<Self> {
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(dir)
            .args(["--name", "m0", "--initial-cluster"])
            .arg(format!("m0={PEER}"))
            .args(["--listen-client-urls", &Self::url()])
            .args(["--advertise-client-urls", &Self::url()])
            .args(["--listen-peer-urls", PEER])
            .args(["--initial-advertise-peer-urls", PEER])
            // As a cluster's member is told (coracle-cluster's `member::config`).
            .args(["--backend-batch-limit", "200"])
            .args(["--auto-compaction-mode", "revision"])
            .args(["--auto-compaction-retention", "10000"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("etcd, of Debian's package etcd-server: {e}"))?;
        let etcd = Self(child);
        let deadline = Instant::now() + PATIENCE;
        while !get("/health").await.is_ok_and(|told| told.contains("true")) {
            if Instant::now() > deadline {
                return Err("etcd does not answer".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(etcd)
    }

    /// Where it is.
    pub fn url() -> String {
        format!("http://{ADDRESS}")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id().unwrap_or_default()
    }

    /// Ends it.
    pub async fn end(mut self) -> Fallible<()> {
        Ok(self.0.kill().await?)
    }

    /// What it has counted up to now.
    pub async fn counts(&self) -> Fallible<Counts> {
        let text = get("/metrics").await?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let counts = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(Counts(counts.collect()))
    }
}

async fn get(path: &str) -> Fallible<String> {
    let mut stream = TcpStream::connect(ADDRESS).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: etcd\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Counters of etcd's, by name with labels.
pub struct Counts(BTreeMap<String, f64>);

impl Counts {
    fn sum(&self, name: &str, label: &str) -> f64 {
        let of = |key: &str| {
            let rest = key.strip_prefix(name)?;
            (rest.is_empty() || rest.starts_with('{') && rest.contains(label)).then_some(())
        };
        let all = self.0.iter().filter(|(key, _)| of(key).is_some());
        all.map(|(_, value)| value).sum()
    }

    /// Requests that it has answered, signs of machines among them.
    pub fn requests(&self) -> f64 {
        self.sum("grpc_server_handled_total", "")
    }

    /// Reads, writes and transactions.
    pub fn operations(&self) -> f64 {
        self.sum(
            "grpc_server_handled_total",
            "grpc_service=\"etcdserverpb.KV\"",
        )
    }

    /// Keys that were set, in transactions or alone.
    pub fn puts(&self) -> f64 {
        self.sum("etcd_debugging_mvcc_put_total", "")
    }

    /// Bytes from clients.
    pub fn received(&self) -> f64 {
        self.sum("etcd_network_client_grpc_received_bytes_total", "")
    }

    /// Bytes to clients.
    pub fn sent(&self) -> f64 {
        self.sum("etcd_network_client_grpc_sent_bytes_total", "")
    }
}
