//! A machine for a test: real engine, holder and store, in directories and a network namespace of its own.
//!
//! The test runs itself anew inside the namespace, once for each life of the daemon. A life ends as by `kill -9`: nothing
//! is let go of, nothing is written down; the next life finds the same machine. After the last one everything is destroyed.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

pub mod fake;

use coracle_engine::logs::LogQuery;
use coracle_engine::{Engine, EngineOptions};
use coracle_fleet::{Fleet, Stores, UnitView};
use coracle_image::{ImportOptions, Reference};
use coracle_shim_protocol::shim::State;
use coracle_store::{EmbeddedStore, Options, Store};
use coracle_sys::cgroup::Layout;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DIR: &str = "CORACLE_FLEET_TEST_DIR";
const LIFE: &str = "CORACLE_FLEET_TEST_LIFE";
const CLUSTER: &str = "CORACLE_FLEET_TEST_CLUSTER";
const PATIENCE: Duration = Duration::from_secs(60);
/// Name of an image that holds busybox.
pub const IMAGE: &str = "localhost/fleet-busybox:latest";

pub type Life = fn(Machine) -> Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Clone)]
pub struct Machine {
    pub dir: PathBuf,
    pub engine: Engine,
    pub fleet: Fleet,
    /// Everybody's.
    pub store: Arc<dyn Store>,
}

/// Runs lives of a daemon one after the other on one machine. `name` is the test's own.
pub fn machine(name: &str, lives: &[Life]) {
    run(name, lives, false);
}

/// As [`machine`], of one whose own store is not everybody's. It has the label `rack=here`.
pub fn machine_in_cluster(name: &str, lives: &[Life]) {
    run(name, lives, true);
}

fn run(name: &str, lives: &[Life], cluster: bool) {
    if let Some(dir) = std::env::var_os(DIR) {
        let number: usize = std::env::var(LIFE).unwrap().parse().unwrap();
        return live(Path::new(&dir), lives[number], number + 1 == lives.len());
    }
    let dir = tempfile::Builder::new().prefix("fleet").tempdir().unwrap();
    let cleanup = Leftovers(dir.path().to_owned());
    let script = format!(
        "ip link set lo up && for life in $(seq 0 {}); do {LIFE}=$life \"$@\"; code=$?; [ $code = 137 ] || [ $code = 0 ] || exit $code; done",
        lives.len() - 1
    );
    let output = Command::new("unshare")
        .args(["--net", "--", "sh", "-c", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(DIR, dir.path())
        .envs(cluster.then_some((CLUSTER, "1")))
        .output()
        .unwrap();
    drop(cleanup);
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(
        output.status.success() && out.contains("1 passed"),
        "{name}: {}\n{out}\n{err}",
        output.status
    );
}

fn live(dir: &Path, life: Life, last: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let machine = Machine::open(dir).await;
        let work = tokio::spawn(life(machine.clone()));
        let ended = tokio::time::timeout(2 * PATIENCE, work).await;
        let good = matches!(ended, Ok(Ok(())));
        if good && !last {
            // As somebody else's `kill -9` would.
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
        }
        machine.clear().await;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            Err(_) => panic!("the test took too long; units: {:#?}", machine.fleet.list()),
        }
    });
}

/// Whatever a test that failed left running.
struct Leftovers(PathBuf);

impl Drop for Leftovers {
    fn drop(&mut self) {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            // The holder and its shims have files open below the directory that only this test has.
            let open = fs::read_dir(entry.path().join("fd"))
                .into_iter()
                .flatten()
                .flatten();
            let mut open = open.filter_map(|fd| fs::read_link(fd.path()).ok());
            if open.any(|file| file.starts_with(&self.0))
                && let Some(pid) = rustix::process::Pid::from_raw(pid)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        // Of a test that came to its end there is nothing to remove here.
        if let Ok(id) = fs::read_to_string(self.0.join("state/machine-id")) {
            let groups = Layout::detect().unwrap();
            let _ = groups.remove_root(&format!("/coracle/{}", &id[..12]));
            let _ = groups.remove_if_empty("/coracle");
        }
    }
}

impl Machine {
    async fn open(dir: &Path) -> Self {
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let options = EngineOptions::new(dir.join("state"), dir.join("run"));
        let engine = Engine::open(options)
            .await
            .expect("the engine opens; coracle-holder is built by `cargo build -p coracle-shim`");
        let store = |name: &str| -> Arc<dyn Store> {
            Arc::new(EmbeddedStore::open(&dir.join(name), Options::default()).unwrap())
        };
        let mut stores = Stores::alone(store("state/store"));
        if std::env::var_os(CLUSTER).is_some() {
            stores = Stores {
                cluster: store("cluster"),
                alone: tokio::sync::watch::channel(false).1,
                labels: [("rack".to_owned(), "here".to_owned())].into(),
                ..stores
            };
        }
        let store = stores.cluster.clone();
        let fleet = Fleet::join(stores, engine.clone()).await.unwrap();
        let machine = Self {
            dir: dir.to_owned(),
            engine,
            fleet,
            store,
        };
        let own = machine.fleet.machine().id.clone();
        machine
            .sees("the machine leads", || {
                machine.fleet.machine_named(&own).is_ok()
            })
            .await;
        machine
    }

    /// Waits until something is so.
    pub async fn sees(&self, what: &str, mut so: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !so() {
            let units = self.fleet.list();
            assert!(
                Instant::now() < deadline,
                "never seen: {what}; units: {units:#?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Imports an image of Debian's busybox.
    pub async fn image(&self) {
        let root = self.dir.join("rootfs");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox"))
            .expect("Debian's busybox-static is installed");
        for name in [
            "sh", "sleep", "cat", "echo", "hostname", "true", "wget", "nslookup",
        ] {
            let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(name));
        }
        let tar = self.dir.join("rootfs.tar");
        let made = Command::new("tar")
            .args([
                "-C".as_ref(),
                root.as_os_str(),
                "-cf".as_ref(),
                tar.as_os_str(),
                ".".as_ref(),
            ])
            .status()
            .unwrap();
        assert!(made.success());
        let options = ImportOptions {
            reference: Some(Reference::parse_normalized(IMAGE).unwrap()),
            ..ImportOptions::default()
        };
        let bytes = std::io::Cursor::new(fs::read(tar).unwrap());
        self.engine.images().import(bytes, options).await.unwrap();
    }

    pub async fn submit(&self, name: &str, text: &str) -> UnitView {
        let submitted = self.fleet.submit(name, text, vec![]).await;
        submitted.unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub async fn start(&self, name: &str) -> UnitView {
        let started = self.fleet.start(name, true).await;
        started.unwrap_or_else(|e| panic!("{name}: {}", coracle_engine::full_error(&e)))
    }

    pub fn view(&self, name: &str) -> UnitView {
        let found = self.fleet.list().into_iter().find(|u| u.name == name);
        found.unwrap_or_else(|| panic!("no unit {name}"))
    }

    /// Waits until a unit is seen so.
    pub async fn until(
        &self,
        name: &str,
        what: &str,
        seen: impl Fn(&UnitView) -> bool,
    ) -> UnitView {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = self.view(name);
            if seen(&view) {
                return view;
            }
            assert!(Instant::now() < deadline, "never {what}: {view:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a file holds a text.
    pub async fn until_file(&self, file: &str, text: &str) {
        let path = self.dir.join(file);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = fs::read_to_string(&path).unwrap_or_default();
            if found.contains(text) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{file} never held {text:?}: {found:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir.join(file)).unwrap_or_default()
    }

    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.dir.join(file), text).unwrap();
    }

    /// What a unit has said.
    pub async fn said(&self, name: &str) -> String {
        let query = LogQuery {
            stdout: true,
            stderr: true,
            ..LogQuery::default()
        };
        let mut lines = self.fleet.logs(name, query).unwrap();
        let mut text = String::new();
        while let Some(line) = lines.recv().await {
            text.push_str(&String::from_utf8_lossy(&line.text));
        }
        text
    }

    /// A unit's text with `DIR` standing for the machine's directory.
    pub fn text(&self, text: &str) -> String {
        text.replace("DIR", self.dir.to_str().unwrap())
            .replace("IMAGE", IMAGE)
    }

    async fn clear(&self) {
        for unit in self.fleet.list() {
            if let Err(error) = self.fleet.destroy(&unit.name).await {
                eprintln!("{}: {error}", unit.name);
            }
        }
        let left: Vec<_> = self.engine.list();
        assert!(
            left.is_empty(),
            "containers of destroyed units: {}",
            left.len()
        );
        let runs = |p: &(String, State)| matches!(p.1, State::Running { .. });
        let mut left = self.engine.processes().await;
        left.retain(runs);
        assert!(left.is_empty(), "processes of destroyed units: {left:?}");
        self.fleet.shutdown(None).await;
        self.engine.down(Some(Duration::ZERO)).await.unwrap();
    }
}
