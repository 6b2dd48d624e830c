//! Our store behind the gateway in a process of its own, and Debian's etcd.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use coracle_etcd_proto::etcdserverpb as pb;
use coracle_gateway::Role;
use coracle_store::{EmbeddedStore, Options};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use pb::kv_client::KvClient;

use super::rounds::Server;
use crate::common;

/// Where the process that serves finds its store.
const CHILD: &str = "CORACLE_GATEWAY_TEST_CHILD";

const ANNOUNCED: &str = "serves at ";

/// The test `name` of this program, as the process that serves.
pub struct Ours {
    name: &'static str,
    pub dir: PathBuf,
    child: Option<Child>,
}

impl Ours {
    pub fn new(name: &'static str, dir: &Path) -> Self {
        Self {
            name,
            dir: dir.to_owned(),
            child: None,
        }
    }
}

impl Server for Ours {
    fn start(&mut self) -> BoxFuture<'static, String> {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", self.name, "--nocapture", "--include-ignored"])
            .env(CHILD, &self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let child = self.child.insert(child.unwrap());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (announce, announced) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut announce = Some(announce);
            for line in lines.map_while(Result::ok) {
                if let Some((_, url)) = line.split_once(ANNOUNCED)
                    && let Some(announce) = announce.take()
                {
                    // Nobody waits where it is killed before.
                    let _ = announce.send(url.to_owned());
                }
            }
        });
        async { announced.await.expect("it serves before it ends") }.boxed()
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.kill();
    }
}

/// In the process that is to serve: does so until it is killed, or its parent is gone. Elsewhere nothing.
pub async fn serve_if_child() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let options = Options {
        keep_revisions: 0,
        memory_bytes: 16 << 10,
        ..Options::default()
    };
    let store = Arc::new(EmbeddedStore::open(dir.as_ref(), options).unwrap());
    let face = common::face(store, Role::App, common::scope(), None).await;
    println!("{ANNOUNCED}http://{}", face.address);
    std::future::pending().await
}

/// Between two kills, the disk forgets all that was written to it.
pub struct Forgetful {
    pub ours: Ours,
    /// Of what was there at the kill before.
    pub copy: PathBuf,
}

impl Server for Forgetful {
    fn start(&mut self) -> BoxFuture<'static, String> {
        self.ours.start()
    }

    fn kill(&mut self) {
        self.ours.kill();
        if self.copy.exists() {
            std::fs::remove_dir_all(&self.ours.dir).unwrap();
            std::fs::rename(&self.copy, &self.ours.dir).unwrap();
        } else {
            copy(&self.ours.dir, &self.copy);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Runs from the beginning, and again after each kill.
pub struct Theirs {
    etcd: common::Etcd,
    runs: bool,
}

impl Theirs {
    pub async fn new() -> Self {
        Self {
            etcd: common::etcd().await,
            runs: true,
        }
    }
}

impl Server for Theirs {
    fn start(&mut self) -> BoxFuture<'static, String> {
        if !std::mem::replace(&mut self.runs, true) {
            self.etcd.start();
        }
        let url = self.etcd.url();
        let endpoint = tonic::transport::Channel::from_shared(url.clone()).unwrap();
        async move {
            loop {
                if let Ok(channel) = endpoint.connect().await {
                    let asked = pb::RangeRequest {
                        key: "ready".into(),
                        ..Default::default()
                    };
                    if KvClient::new(channel).range(asked).await.is_ok() {
                        return url;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        .boxed()
    }

    fn kill(&mut self) {
        self.etcd.kill();
        self.runs = false;
    }
}
