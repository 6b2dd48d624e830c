//! Containers from start to end.
#![allow(clippy::unwrap_used)]

mod common;

use common::Bench;
use coracle_shim_protocol::shim::ExitStatus;
use std::fs;

#[test]
fn a_container_runs_to_its_end() {
    let mut bench = Bench::new();
    let spec = bench.spec(&["sh", "-c", "echo out; echo err >&2; exit 7"], |_| {});
    let (status, stdout, stderr) = bench.run(&spec);
    assert_eq!(
        (status.code, status.signal, status.oom_killed),
        (7, None, false)
    );
    assert!(status.started_at.unwrap() <= status.finished_at);
    assert_eq!((stdout.as_str(), stderr.as_str()), ("out\n", "err\n"));
    let mut log = common::log_texts(&bench.state_dir(&spec.id).join("x.log"));
    log.sort();
    assert_eq!(log, ["err\n", "out\n"]);
    let record: ExitStatus =
        serde_json::from_slice(&fs::read(bench.state_dir(&spec.id).join("exit.json")).unwrap())
            .unwrap();
    assert_eq!(record, status);
    assert!(!bench.shim_dir(&spec.id).exists());
}
