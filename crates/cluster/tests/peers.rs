//! etcd's peers with our certificates: the real etcd, two members on loopback.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::*;
use coracle_cluster::pki::{Authority, Identity, Kind, PEER_NAME};
use coracle_store::{EtcdOptions, EtcdStore, PutRequest, Store as _, StoreExt as _};

struct Etcd {
    child: Child,
    client: String,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ports() -> [u16; 4] {
    let all = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    all.map(|listener| listener.local_addr().unwrap().port())
}

/// Two members; `files` are each one's certificate, key and CA.
fn start(dir: &std::path::Path, files: [&[PathBuf; 3]; 2]) -> [Etcd; 2] {
    let [p0, p1, c0, c1] = ports();
    let peers = [p0, p1].map(|port| format!("https://127.0.0.1:{port}"));
    let clients = [c0, c1].map(|port| format!("http://127.0.0.1:{port}"));
    let all = format!("m0={},m1={}", peers[0], peers[1]);
    [0, 1].map(|n| {
        let [certificate, key, ca] = files[n];
        let child = Command::new("etcd")
            .args([
                "--name",
                &format!("m{n}"),
                "--initial-cluster",
                &all,
                "--data-dir",
            ])
            .arg(dir.join(format!("m{n}")))
            .args([
                "--listen-peer-urls",
                &peers[n],
                "--initial-advertise-peer-urls",
                &peers[n],
            ])
            .args([
                "--listen-client-urls",
                &clients[n],
                "--advertise-client-urls",
                &clients[n],
            ])
            .args([
                "--peer-client-cert-auth",
                "--peer-cert-allowed-cn",
                PEER_NAME,
            ])
            .arg("--peer-trusted-ca-file")
            .arg(ca)
            .arg("--peer-cert-file")
            .arg(certificate)
            .arg("--peer-key-file")
            .arg(key)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd, of Debian's package etcd-server");
        Etcd {
            child,
            client: clients[n].clone(),
        }
    })
}

fn peer(machine: &Machine, authority: &Authority) -> Arc<Identity> {
    let asked = Identity::ask(&machine.dir(), Kind::Peer, &machine.id).unwrap();
    let loopback = ["127.0.0.1".parse().unwrap()];
    let certificate = authority.peer(&asked.pem, &machine.id, &loopback).unwrap();
    let (pin, ca) = (authority.pin(), authority.certificate_pem());
    let dir = machine.dir();
    Identity::install(&dir, Kind::Peer, &machine.id, &pin, ca, &certificate).unwrap()
}

async fn writes(member: &Etcd) -> bool {
    let mut options = EtcdOptions::new([member.client.clone()]);
    options.timeout = Duration::from_secs(2);
    let store = EtcdStore::new(options).unwrap();
    store.put(PutRequest::new("k", "v")).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_takes_peers_certificates_and_machines_not() {
    let (_ca, authority) = authority();
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Machine::new('a', &authority), Machine::new('b', &authority));
    let (pa, pb) = (peer(&a, &authority), peer(&b, &authority));
    // Ports may be taken between choosing and listening; then the next try has others.
    let mut started = None;
    for n in 0..5 {
        let mut members = start(&dir.path().join(n.to_string()), [&pa.files(), &pb.files()]);
        let exited = |m: &mut Etcd| m.child.try_wait().unwrap().is_some();
        until("etcd to answer", async || {
            members.iter_mut().any(exited) || writes(&members[0]).await
        })
        .await;
        if !members.iter_mut().any(exited) {
            started = Some(members);
            break;
        }
    }
    let members = started.unwrap();
    let options = EtcdOptions::new([members[1].client.clone()]);
    let store = EtcdStore::new(options).unwrap();
    assert_eq!(store.get("k").await.unwrap().unwrap().value, "v");
    drop(members);
    // A machine of the same cluster that is no voter has a certificate of the same CA, and does not get in with it.
    let loopback = ["127.0.0.1".parse().unwrap()];
    let asked = b.identity.request().unwrap();
    let own = authority.machine(&asked.pem, &b.id, &loopback).unwrap();
    b.identity.replace(&own).unwrap();
    let mut members = start(&dir.path().join("x"), [&pa.files(), &b.identity.files()]);
    for _ in 0..3 {
        assert!(!writes(&members[0]).await);
    }
    assert!(members[0].child.try_wait().unwrap().is_none());
}
