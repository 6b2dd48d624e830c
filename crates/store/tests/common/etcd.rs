//! Debian's etcd on loopback: clusters of one or more, killed and started again, with certificates or without.
#![allow(clippy::unwrap_used, dead_code)]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coracle_etcd_proto::etcdserverpb as pb;
use tonic::transport::Channel;

/// One member; gone when dropped.
pub struct Etcd {
    pub address: SocketAddr,
    pub dir: tempfile::TempDir,
    arguments: Vec<String>,
    child: Child,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Etcd {
    /// As a power cut would, but for what the kernel still has.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends it in order, so that all is in its files.
    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }

    /// The database's file.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("data/member/snap/db")
    }

    /// Starts it again where it was.
    pub fn start(&mut self) {
        self.child = spawn(&self.arguments);
    }

    /// Its address, as etcd's clients write it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn spawn(arguments: &[String]) -> Child {
    Command::new("etcd")
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd, of Debian's package etcd-server")
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Certificates for one side.
pub struct Certificates {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// A cluster of one that answers.
pub async fn etcd() -> Etcd {
    // Another process may take a port between choosing and listening; then the next try has others.
    for _ in 0..10 {
        let mut members = cluster(1, None);
        if answers(&mut members[0]).await {
            return members.remove(0);
        }
    }
    panic!("etcd does not start");
}

/// A cluster of one that began with a file, and answers.
pub async fn restored(file: &Path) -> Etcd {
    for _ in 0..10 {
        let (client, peer) = (free(), free());
        let dir = tempfile::tempdir().unwrap();
        let own = [
            "--name=m0".to_owned(),
            format!("--data-dir={}", dir.path().join("data").display()),
            format!("--initial-advertise-peer-urls=http://{peer}"),
            format!("--initial-cluster=m0=http://{peer}"),
        ];
        let made = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["snapshot", "restore"])
            .arg(file)
            .args(&own)
            .output()
            .expect("etcdctl, of Debian's package etcd-client");
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{said}");
        let mut arguments = own.to_vec();
        arguments.extend([
            format!("--listen-client-urls=http://{client}"),
            format!("--advertise-client-urls=http://{client}"),
            format!("--listen-peer-urls=http://{peer}"),
        ]);
        let child = spawn(&arguments);
        let mut etcd = Etcd {
            address: client,
            dir,
            arguments,
            child,
        };
        if answers(&mut etcd).await {
            return etcd;
        }
    }
    panic!("etcd does not start on {}", file.display());
}

/// Members that are starting.
pub fn cluster(count: usize, tls: Option<&Certificates>) -> Vec<Etcd> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let addresses: Vec<_> = (0..count).map(|_| (free(), free())).collect();
    let peers = addresses.iter().enumerate();
    let peers: Vec<_> = peers
        .map(|(n, (_, peer))| format!("m{n}=http://{peer}"))
        .collect();
    let member = |(n, (client, peer)): (usize, &(SocketAddr, SocketAddr))| {
        let dir = tempfile::tempdir().unwrap();
        let mut arguments = vec![
            format!("--name=m{n}"),
            format!("--data-dir={}", dir.path().join("data").display()),
            format!("--listen-client-urls={scheme}://{client}"),
            format!("--advertise-client-urls={scheme}://{client}"),
            format!("--listen-peer-urls=http://{peer}"),
            format!("--initial-advertise-peer-urls=http://{peer}"),
            format!("--initial-cluster={}", peers.join(",")),
        ];
        if let Some(tls) = tls {
            arguments.push("--client-cert-auth".into());
            arguments.push(format!("--trusted-ca-file={}", tls.ca.display()));
            arguments.push(format!("--cert-file={}", tls.certificate.display()));
            arguments.push(format!("--key-file={}", tls.key.display()));
        }
        let child = spawn(&arguments);
        Etcd {
            address: *client,
            dir,
            arguments,
            child,
        }
    };
    addresses.iter().enumerate().map(member).collect()
}

/// Waits until it answers; false if it ended before.
async fn answers(etcd: &mut Etcd) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline && etcd.child.try_wait().unwrap().is_none() {
        let endpoint = Channel::from_shared(etcd.url()).unwrap();
        if let Ok(channel) = endpoint.connect().await {
            let asked = pb::RangeRequest {
                key: "ready".into(),
                ..Default::default()
            };
            let mut kv = pb::kv_client::KvClient::new(channel);
            if kv.range(asked).await.is_ok() {
                return true;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

/// A CA, and a certificate by it for 127.0.0.1 that serves both sides.
pub fn certificates(dir: &Path, name: &str) -> Certificates {
    let openssl = |words: &[&str]| {
        let made = Command::new("openssl")
            .args(words)
            .current_dir(dir)
            .output();
        let made = made.expect("openssl, of Debian's package");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
    };
    let path = |what: &str| dir.join(format!("{name}{what}"));
    let text = |what: &str| path(what).to_str().unwrap().to_owned();
    let (ca, ca_key) = (text("-ca.pem"), text("-ca.key"));
    let (certificate, key, request) = (text(".pem"), text(".key"), text(".csr"));
    let new = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    openssl(
        &[
            &new[..],
            &["-subj", "/CN=ca", "-keyout", &ca_key, "-out", &ca],
        ]
        .concat(),
    );
    let new = [
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    openssl(
        &[
            &new[..],
            &["-subj", "/CN=it", "-keyout", &key, "-out", &request],
        ]
        .concat(),
    );
    let extensions = path(".ext");
    let uses = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
    std::fs::write(&extensions, uses).unwrap();
    let extensions = extensions.to_str().unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-CAcreateserial",
        "-out",
        &certificate,
        "-extfile",
        extensions,
    ]);
    Certificates {
        ca: ca.into(),
        certificate: certificate.into(),
        key: key.into(),
    }
}
