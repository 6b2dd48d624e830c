//! Control groups of version 2, as far as a machine shows them that has version 1 too.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, process};
use coracle_shim_protocol::shim::{KillMode, Reply, Request};

#[test]
fn run_exec_kill_and_devices() {
    let mut bench = Bench::on_version_2();
    let script = "cat /proc/self/cgroup | grep ^0:; ls /sys/fs/cgroup/cgroup.procs; mknod /tmp/kmsg c 1 11; \
                  head -c 1 /tmp/kmsg >/dev/null 2>&1 || echo refused; echo fine > /dev/null && echo allowed";
    let spec = bench.spec(&["sh", "-c", script], |v| {
        let namespaces = v["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(serde_json::json!({ "type": "cgroup" }));
    });
    let (status, stdout, stderr) = bench.run(&spec);
    assert_eq!(status.code, 0, "{stderr}");
    assert_eq!(
        stdout, "0::/\n/sys/fs/cgroup/cgroup.procs\nrefused\nallowed\n",
        "{stderr}"
    );

    let spec = bench.spec(&["sleep", "1000"], |_| {});
    let (mut client, _) = bench.start(&spec);
    let (_, stdout, _, status) = bench.exec(
        &spec.id,
        process(&["sh", "-c", "grep ^0: /proc/self/cgroup; exit 3"]),
    );
    assert_eq!(status.unwrap().code, 3);
    assert!(stdout.ends_with(&format!("{}\n", spec.cgroup)), "{stdout}");
    let request = Request::Kill {
        exec_id: None,
        signal: 9,
        all: true,
    };
    assert_eq!(bench.connect(&spec.id).ask(&request), Reply::Ok);
    assert_eq!(client.exited().code, 137);
    client.release();
    let unified = std::path::Path::new("/sys/fs/cgroup/unified");
    assert!(!unified.join(spec.cgroup.trim_start_matches('/')).exists());

    let spec = bench.process(
        &[
            "sh",
            "-c",
            "(sleep 1000 &) ; grep ^0: /proc/self/cgroup; exit 6",
        ],
        KillMode::Mixed,
    );
    let (status, stdout, _) = bench.run(&spec);
    assert_eq!((status.code, stdout), (6, format!("0::{}\n", spec.cgroup)));
}
