//! Other machines, as a real engine with a real container knows them.
#![allow(clippy::unwrap_used)]

use coracle_engine::remove::RemoveOptions;
use coracle_engine::{Engine, EngineOptions};
use coracle_image::ImportOptions;
use coracle_network::dns::{Ports, Remote};
use coracle_network::overlay::{OverlayKind, OverlaySpec};
use coracle_sys::netns;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    output.stdout
}

fn said_in(ns: &OwnedFd, program: &str, args: &[&str]) -> String {
    let text = netns::run_in(ns.as_fd(), || run(program, args)).unwrap();
    String::from_utf8(text).unwrap()
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

fn spec(subnet: &str) -> OverlaySpec {
    OverlaySpec {
        kind: OverlayKind::default(),
        own: Ipv4Addr::new(192, 0, 2, 1),
        subnet: subnet.parse().unwrap(),
        peers: Vec::new(),
        ranges: Vec::new(),
        mtu: None,
    }
}

#[test]
fn a_machine_comes_to_a_cluster_and_leaves_it() {
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
        runtime.block_on(async {
            let mut options = EngineOptions::new(dir.path().join("state"), dir.path().join("run"));
            options.holder = Some(holder());
            let engine = Engine::open(options).await.unwrap();
            let (tested, place) = (engine.clone(), dir.path().to_owned());
            let test = async move { comes_and_leaves(&tested, &place).await };
            let tested = tokio::spawn(test).await;
            let down = engine.down(Some(Duration::ZERO)).await;
            tested.unwrap();
            down.unwrap();
        });
    })
    .unwrap();
}

async fn comes_and_leaves(engine: &Engine, dir: &Path) {
    image(engine, dir).await;
    let door = |listener: tokio::net::TcpListener| -> coracle_engine::Served {
        Box::pin(async move {
            loop {
                listener.accept().await?.0.write_all(b"door").await?;
            }
        })
    };
    engine.open_door(Arc::new(door)).await;
    let (_, ns) = container(engine, "first").await;
    let mtu = |ns: &OwnedFd| said_in(ns, "ip", &["-o", "link", "show", "eth0"]);
    assert!(mtu(&ns).contains("mtu 1500"));
    engine
        .set_overlay(Some(spec("10.210.0.0/22")))
        .await
        .unwrap();
    assert!(mtu(&ns).contains("mtu 1450"));
    run("ip", &["link", "set", "eth0", "mtu", "1400"]);
    assert!(engine.ensure_overlay().await.unwrap());
    assert!(mtu(&ns).contains("mtu 1350"));
    engine.set_overlay(None).await.unwrap();
    assert!(mtu(&ns).contains("mtu 1500"));

    // It is another machine's subnet, and whoever comes is empty.
    let subnet = "10.212.0.0/22".parse().unwrap();
    let refused = engine.renumber_default(subnet).await.unwrap_err();
    let refused = coracle_engine::full_error(&refused);
    assert!(refused.contains("first"), "{refused}");
    let force = RemoveOptions {
        force: true,
        volumes: true,
    };
    engine.remove("first", force).await.unwrap();
    engine.renumber_default(subnet).await.unwrap();
    engine
        .set_overlay(Some(spec("10.212.0.0/22")))
        .await
        .unwrap();
    let (ip, ns) = container(engine, "second").await;
    assert_eq!(ip, Ipv4Addr::new(10, 212, 0, 2));
    assert!(mtu(&ns).contains("mtu 1350"));

    // Names and the door are at the new address.
    engine.set_remote(vec![Remote {
        machine: "bb".repeat(16),
        service: "web".into(),
        name: "web-1".into(),
        container: "ab".repeat(32),
        ip: Ipv4Addr::new(10, 212, 4, 9),
        ports: Ports::read(["80"]),
        healthy: true,
    }]);
    // Elsewhere than on a thread that the server may need.
    let ns = Arc::new(ns);
    let ask = async |name: &'static str| {
        let ns = ns.clone();
        let ask = move || said_in(&ns, "dig", &["@10.212.0.1", "+short", name]);
        tokio::task::spawn_blocking(ask).await.unwrap()
    };
    assert_eq!(ask("web").await, "10.212.4.9\n");
    assert_eq!(ask("second").await, "10.212.0.2\n");
    engine.set_remote(Vec::new());
    assert_eq!(ask("web").await, "");
    let mut stream = tokio::net::TcpStream::connect("10.212.0.1:2379")
        .await
        .unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "door");
}
