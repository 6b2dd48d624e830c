//! The network between machines, as a real engine with real containers follows a real etcd, into which the test writes what other
//! machines would.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use coracle_engine::remove::RemoveOptions;
use coracle_engine::{Engine, EngineOptions};
use coracle_fleet::overlay::SubnetRecord;
use coracle_fleet::{Announced, ConnectOptions, Fleet, Stores};
use coracle_image::ImportOptions;
use coracle_network::overlay::OverlayKind;
use coracle_store::{
    DeleteRangeRequest, EmbeddedStore, EtcdOptions, EtcdStore, KeyValue, Options, PutRequest,
    Store, StoreExt as _,
};
use coracle_sys::netns;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(60);
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const C: &str = "cccccccccccccccccccccccccccccccc";
const FIRST: &str = "10.210.0.0/22";

fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    output.stdout
}

fn said(program: &str, args: &[&str]) -> String {
    String::from_utf8(run(program, args)).unwrap()
}

fn routes() -> String {
    said("ip", &["route"])
}

/// Asks until it is so.
async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}\n{}", routes());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_route(what: &str, is: impl Fn(&str) -> bool) {
    until(what, async || is(&routes()).then_some(())).await;
}

/// The holder's program, which belongs to another crate.
fn holder() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("coracle-holder");
    if !program.exists() {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--locked", "-p", "coracle-shim"])
            .status();
        assert!(built.unwrap().success());
    }
    program
}

/// etcd on loopback; gone when dropped.
struct Etcd {
    child: Child,
    arguments: Vec<String>,
    url: String,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Etcd {
    /// Of a namespace in which nothing else listens.
    fn begin(dir: &Path) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (client, peer) = (free(), free());
        let url = |l: &TcpListener| format!("http://{}", l.local_addr().unwrap());
        let (client, peer) = (url(&client), url(&peer));
        let arguments = vec![
            "--name=m".to_owned(),
            format!("--data-dir={}", dir.join("etcd").display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=m={peer}"),
        ];
        Self {
            child: Self::spawn(&arguments),
            arguments,
            url: client,
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

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn start(&mut self) {
        self.child = Self::spawn(&self.arguments);
    }
}

/// An image `bb` of busybox alone.
async fn image(engine: &Engine, dir: &Path) {
    let bin = dir.join("root/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
    let tar = run(
        "tar",
        &["-C", dir.join("root").to_str().unwrap(), "-c", "."],
    );
    let options = ImportOptions {
        reference: Some("bb".parse().unwrap()),
        ..ImportOptions::default()
    };
    let archive = std::io::Cursor::new(tar);
    engine.images().import(archive, options).await.unwrap();
}

/// Runs a container of this name; its address and namespace.
async fn container(engine: &Engine, name: &str) -> (Ipv4Addr, OwnedFd) {
    let request = serde_json::json!({"Image": "bb", "Cmd": ["/bin/busybox", "sleep", "1000"]});
    let request = serde_json::from_value(request).unwrap();
    engine.create(Some(name), request).await.unwrap();
    engine.start(name).await.unwrap();
    let state = engine.get(name).unwrap().record.state;
    (state.endpoints[0].ip, netns::of_pid(state.pid).unwrap())
}

/// What other machines write.
struct Others<'a>(&'a dyn Store);

impl Others<'_> {
    async fn put(&self, key: String, value: impl Into<Vec<u8>>, lease: i64) {
        let put = PutRequest::new(key, value.into()).with_lease(lease);
        self.0.put(put).await.unwrap();
    }

    /// It is there; its lease.
    async fn comes(&self, machine: &str) -> i64 {
        let lease = self.0.lease_grant(1000, 0).await.unwrap().id;
        self.put(format!("/coracle/v1/machines/{machine}"), "{}", 0)
            .await;
        self.put(format!("/coracle/v1/alive/{machine}"), "now", lease)
            .await;
        lease
    }

    async fn claims(&self, machine: &str, subnet: &str, underlay: &str) {
        let record = SubnetRecord {
            version: 1,
            subnet: subnet.parse().unwrap(),
            underlay: underlay.parse().unwrap(),
            mtu: None,
            kind: Some(OverlayKind::default()),
        };
        let value = serde_json::to_vec(&record).unwrap();
        self.put(format!("/coracle/v1/subnets/{machine}"), value, 0)
            .await;
    }

    async fn announces(&self, machine: &str, lease: i64, instance: &str, ip: &str) {
        let ip: Ipv4Addr = ip.parse().unwrap();
        let announced = Announced {
            version: 1,
            address: Some(ip),
            address6: None,
            networks: [("bridge".to_owned(), ip)].into(),
            ports: vec!["80/tcp".into()],
            unit: None,
            machine: machine.into(),
            container: format!("{:0>64}", instance.len()),
            health: "healthy".into(),
        };
        let value = serde_json::to_vec(&announced).unwrap();
        let key = format!("/coracle/v1/apps//discovery/{instance}");
        self.put(key, value, lease).await;
    }
}

#[test]
fn a_machine_follows_the_clusters_store() {
    let dir = tempfile::tempdir().unwrap();
    let ns = netns::create_anonymous().unwrap();
    netns::run_in(ns.as_fd(), || {
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["link", "add", "eth0", "type", "bridge"]);
        run("ip", &["addr", "add", "192.0.2.1/24", "dev", "eth0"]);
        run("ip", &["link", "set", "eth0", "up"]);
        // Its threads, and what they run, are in this namespace.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(4).enable_all().build().unwrap();
        let mut options = EngineOptions::new(dir.path().join("state"), dir.path().join("run"));
        options.holder = Some(holder());
        let engine = runtime.block_on(Engine::open(options)).unwrap();
        // What it left running ends also if it failed.
        let test = || runtime.block_on(follows(&engine, dir.path()));
        let tested = catch_unwind(AssertUnwindSafe(test));
        let down = runtime.block_on(engine.down(Some(Duration::ZERO)));
        if let Err(panic) = tested {
            resume_unwind(panic);
        }
        down.unwrap();
    })
    .unwrap();
}

async fn join(engine: &Engine, local: &Arc<dyn Store>, cluster: &Arc<dyn Store>) -> Fleet {
    let stores = Stores {
        local: local.clone(),
        cluster: cluster.clone(),
        alone: watch::channel(false).1,
        may_lead: watch::channel(false).1,
        door: "192.0.2.1:7373".into(),
        can_vote: false,
        api_ca: String::new(),
        labels: std::collections::BTreeMap::new(),
    };
    let fleet = Fleet::join(stores, engine.clone()).await.unwrap();
    fleet.connect_machines(ConnectOptions {
        underlay: Ipv4Addr::new(192, 0, 2, 1),
    });
    fleet
}

async fn follows(engine: &Engine, dir: &Path) {
    let mut etcd = Etcd::begin(dir);
    let cluster: Arc<dyn Store> =
        Arc::new(EtcdStore::new(EtcdOptions::new([etcd.url.clone()])).unwrap());
    until("etcd answers", async || cluster.status().await.ok()).await;
    let local = EmbeddedStore::open(&dir.join("state/store"), Options::default()).unwrap();
    let local: Arc<dyn Store> = Arc::new(local);
    let others = Others(&*cluster);
    let own_key = format!("/coracle/v1/subnets/{}", engine.machine_id());
    let own = async || -> Option<(KeyValue, String)> {
        let kv = cluster.get(own_key.clone()).await.unwrap()?;
        let record: SubnetRecord = serde_json::from_slice(&kv.value).unwrap();
        assert_eq!(record.underlay, Ipv4Addr::new(192, 0, 2, 1));
        Some((kv, record.subnet.to_string()))
    };
    image(engine, dir).await;
    container(engine, "first").await;

    // It was there before, and has what this machine's default network has.
    let lease_b = others.comes(B).await;
    let fleet = join(engine, &local, &cluster).await;
    others.claims(B, FIRST, "192.0.2.2").await;
    let (claimed, subnet) = until("it claims a subnet", own).await;
    assert_eq!(subnet, "10.212.0.0/22");

    // Not while something runs on it; as soon as nothing does.
    assert!(engine.networks().overlay().unwrap().is_none());
    assert_eq!(engine.get("first").unwrap().record.state.endpoints.len(), 1);
    let force = RemoveOptions {
        force: true,
        volumes: true,
    };
    engine.remove("first", force).await.unwrap();
    until_route("b is routed", |r| {
        r.contains("10.210.0.0/22 via 10.210.0.1 dev cor-overlay")
    })
    .await;
    assert!(routes().contains("unreachable 10.212.0.0/14"));
    let (ip, ns) = container(engine, "second").await;
    assert_eq!(ip, Ipv4Addr::new(10, 212, 0, 2));
    // Elsewhere than on a thread that the server may need.
    let ns = Arc::new(ns);
    let dig = async |name: &'static str| {
        let ns = ns.clone();
        let ask = move || {
            let ask = || said("dig", &["@10.212.0.1", "+short", name]);
            netns::run_in(ns.as_fd(), ask).unwrap()
        };
        tokio::task::spawn_blocking(ask).await.unwrap()
    };
    let answers = async |name: &'static str, all: &[&str]| {
        let mut last = Vec::new();
        let what = format!("{name} is {all:?}");
        until(&what, async || {
            let said = dig(name).await;
            last = said.lines().map(str::to_owned).collect();
            last.sort();
            (last == all).then_some(())
        })
        .await;
    };

    // Names of the others; addresses that are not theirs are not believed.
    let lease_c = others.comes(C).await;
    others.claims(C, "10.212.4.0/22", "192.0.2.3").await;
    others
        .announces(B, lease_b, "web/web-1", "10.210.0.5")
        .await;
    others
        .announces(C, lease_c, "web/web-22", "10.212.4.5")
        .await;
    others
        .announces(C, lease_c, "bad/bad-1", "10.210.0.6")
        .await;
    answers("web", &["10.210.0.5", "10.212.4.5"]).await;
    assert_eq!(dig("web-22").await, "10.212.4.5\n");
    assert_eq!(dig("bad").await, "");
    assert!(routes().contains("10.212.4.0/22 via 10.212.4.1 dev cor-overlay"));

    // The store is away: all stays. It comes back: it is followed again.
    etcd.kill();
    until("etcd is away", async || cluster.get("x").await.err()).await;
    assert_eq!(dig("web-22").await, "10.212.4.5\n");
    assert!(routes().contains("10.212.4.0/22 via 10.212.4.1 dev cor-overlay"));
    etcd.start();
    until("etcd answers again", async || cluster.status().await.ok()).await;
    // c is lost: its names at once, its route after a grace, which passes meanwhile.
    cluster.lease_revoke(lease_c).await.unwrap();
    answers("web", &["10.210.0.5"]).await;

    // Its own claim is gone, as when an older state of the store is brought back.
    let delete = DeleteRangeRequest::key(own_key.clone());
    cluster.delete_range(delete).await.unwrap();
    let (anew, subnet) = until("it claims again", own).await;
    assert_eq!(subnet, "10.212.0.0/22");
    assert!(anew.mod_revision > claimed.mod_revision);

    until_route("c is withdrawn", |r| !r.contains("via 10.212.4.1")).await;
    assert!(routes().contains("unreachable 10.212.4.0/22"));
    assert!(routes().contains("10.210.0.0/22 via"));

    // The fleet goes, and with it what followed the store.
    drop(fleet);
    until("nobody has the store", async || {
        (Arc::strong_count(&cluster) == 1).then_some(())
    })
    .await;
    others
        .announces(B, lease_b, "late/late-1", "10.210.0.7")
        .await;
    let fleet = join(engine, &local, &cluster).await;
    answers("late", &["10.210.0.7"]).await;
    let (kept, _) = own().await.unwrap();
    assert_eq!(kept.mod_revision, anew.mod_revision, "it is the machine's");
    drop(fleet);
}
