//! The parts of `examples/fleet-load` at a tiny size: simulated machines, the real leader in a process of its own, a real etcd.
//!
//! The test runs itself anew in namespaces of its own, and there once more as the leader.
#![allow(clippy::unwrap_used)]

#[path = "../examples/fleet-load/agents.rs"]
mod agents;
#[path = "../examples/fleet-load/etcd.rs"]
mod etcd;
#[path = "../examples/fleet-load/lead.rs"]
mod lead;
#[path = "../examples/fleet-load/run.rs"]
mod run;
#[path = "../examples/fleet-load/units.rs"]
mod units;

use run::{Figures, Size};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const NAME: &str = "what_the_bench_measures_is_there";
const DIR: &str = "CORACLE_FLEET_LOAD_DIR";
const LEAD: &str = "CORACLE_FLEET_LOAD_LEAD";

#[test]
fn what_the_bench_measures_is_there() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.enable_all().build().unwrap()
    };
    if let Some(url) = std::env::var_os(LEAD) {
        let dir = std::env::var_os(DIR).unwrap();
        let served = lead::serve(url.to_str().unwrap(), Path::new(&dir));
        return runtime().block_on(served).unwrap();
    }
    if let Some(dir) = std::env::var_os(DIR) {
        return runtime().block_on(measure(Path::new(&dir)));
    }
    let dir = tempfile::tempdir().unwrap();
    // The namespaces take everything with them, however the test ends.
    let output = std::process::Command::new("unshare")
        .args(["--net", "--mount-proc", "--pid", "--fork", "--kill-child"])
        .args(["--", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture"])
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "{out}\n{err}");
}

async fn measure(dir: &Path) {
    let size = Size {
        machines: 20,
        units: 200,
        idle: Duration::from_secs(1),
        // A leader that has just begun waits for longer than a test should take.
        lost: 0,
        more: 2,
    };
    let program = |url: &str, dir: &Path| {
        let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
        command
            .args([NAME, "--exact", "--nocapture"])
            .env(LEAD, url)
            .env(DIR, dir);
        command
    };
    let mut figures = BTreeMap::new();
    let mut tell = |name: &'static str, value: f64, _: &'static str| {
        figures.insert(name, value);
    };
    let told = &mut Figures(&mut tell);
    run::measure(size, dir, &program, told).await.unwrap();
    for (name, value) in &figures {
        let may_be_nothing = name.starts_with("lapsed")
            || name.starts_with("idle-")
            || matches!(*name, "lost-units" | "replaced" | "replaced-most")
            || name.contains("-etcd")
            || name.contains("-leader")
            || name.contains("-agents");
        assert!(
            value.is_finite() && (*value > 0.0 || may_be_nothing),
            "{figures:#?}"
        );
    }
    // Each is asked for by one record beside its own, and answered by one; what happens beside that comes to little.
    assert!((2.0..2.2).contains(&figures["commit-puts"]), "{figures:#?}");
    assert!((1.0..1.2).contains(&figures["answer-puts"]), "{figures:#?}");
    // Signs are all that is asked while nothing happens: none is a read or a write.
    assert!(figures["idle-operations"] < 0.1, "{figures:#?}");
}
