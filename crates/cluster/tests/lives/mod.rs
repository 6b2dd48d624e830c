//! A machine for a test: a real engine in directories and a network namespace of its own.
//!
//! The test runs itself anew inside the namespace, once for each life of the daemon. A life ends as by `kill -9`; the next one
//! finds the same machine. After the last one everything is ended.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::time::Duration;

use coracle_engine::{Engine, EngineOptions};
use coracle_shim_protocol::shim::State;
use coracle_sys::cgroup::Layout;

const DIR: &str = "CORACLE_CLUSTER_TEST_DIR";
const LIFE: &str = "CORACLE_CLUSTER_TEST_LIFE";
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The arguments: the machine, and the number of the life.
pub type Life = fn(Machine, usize) -> Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Clone)]
pub struct Machine {
    pub dir: PathBuf,
    pub engine: Engine,
}

/// Dies as by `kill -9`.
pub fn die() -> ! {
    let own = rustix::process::getpid();
    let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
    unreachable!()
}

/// Lives of a daemon one after the other on one machine. `name` is the test's own.
pub fn machine(name: &str, lives: usize, life: Life) {
    if let Some(dir) = std::env::var_os(DIR) {
        let number: usize = std::env::var(LIFE).unwrap().parse().unwrap();
        return live(Path::new(&dir), life, number, number + 1 == lives);
    }
    let dir = tempfile::Builder::new()
        .prefix("cluster")
        .tempdir()
        .unwrap();
    let cleanup = Leftovers(dir.path().to_owned());
    let script = format!(
        "ip link set lo up && for life in $(seq 0 {}); do {LIFE}=$life \"$@\"; code=$?; [ $code = 137 ] || [ $code = 0 ] || exit $code; done",
        lives - 1
    );
    let output = Command::new("unshare")
        .args(["--net", "--", "sh", "-c", &script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(DIR, dir.path())
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

fn live(dir: &Path, life: Life, number: usize, last: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let machine = Machine::open(dir).await;
        let work = tokio::spawn(life(machine.clone(), number));
        match tokio::time::timeout(2 * PATIENCE, work).await {
            Ok(Ok(())) if last => machine.clear().await,
            Ok(Ok(())) => die(),
            Ok(Err(error)) => {
                eprintln!("life {number} failed");
                std::panic::resume_unwind(error.into_panic())
            }
            Err(_) => panic!("life {number} took too long"),
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
            // The holder, its shims and their etcd have files open below the directory that only this test has.
            let open = fs::read_dir(entry.path().join("fd"));
            let mut open = open.into_iter().flatten().flatten();
            let own = |fd: fs::DirEntry| {
                fs::read_link(fd.path()).is_ok_and(|file| file.starts_with(&self.0))
            };
            if open.any(own)
                && let Some(pid) = rustix::process::Pid::from_raw(pid)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let groups = Layout::detect().unwrap();
        let beside = fs::read_dir(&self.0).unwrap().flatten();
        let machines = beside.map(|entry| entry.path());
        for machine in machines.chain([self.0.clone()]) {
            if let Ok(id) = fs::read_to_string(machine.join("state/machine-id")) {
                let _ = groups.remove_root(&format!("/coracle/{}", &id[..12]));
            }
        }
        let _ = groups.remove_if_empty("/coracle");
    }
}

impl Machine {
    async fn open(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let options = EngineOptions::new(dir.join("state"), dir.join("run"));
        let engine = Engine::open(options)
            .await
            .expect("the engine opens; coracle-holder is built by `cargo build -p coracle-shim`");
        Self {
            dir: dir.to_owned(),
            engine,
        }
    }

    /// Another one, in the same network namespace.
    pub async fn beside(&self, name: &str) -> Self {
        Self::open(&self.dir.join(name)).await
    }

    /// `STATE_DIR/cluster`.
    pub fn cluster(&self) -> PathBuf {
        self.dir.join("state/cluster")
    }

    /// Process ids of the etcds that the engine runs.
    pub async fn etcds(&self) -> Vec<u32> {
        let running = |(id, state): (String, State)| match state {
            State::Running { pid, .. } if id.starts_with("etcd.") => Some(pid),
            _ => None,
        };
        let processes = self.engine.processes().await;
        processes.into_iter().filter_map(running).collect()
    }

    pub async fn clear(&self) {
        let left = self.etcds().await;
        assert!(left.is_empty(), "etcds that run on: {left:?}");
        self.engine.down(Some(Duration::ZERO)).await.unwrap();
    }
}
