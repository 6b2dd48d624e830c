//! Containers from start to end.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, eventually, log_texts};
use coracle_shim_protocol::shim::{ExitStatus, FailReason, Reply, Request, State, Workload};
use serde_json::json;
use std::{fs, os::unix::fs::PermissionsExt};

fn record(bench: &Bench, id: &str) -> ExitStatus {
    serde_json::from_slice(&fs::read(bench.state_dir(id).join("exit.json")).unwrap()).unwrap()
}

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
    let mut log = log_texts(&bench.state_dir(&spec.id).join("x.log"));
    log.sort();
    assert_eq!(log, ["err\n", "out\n"]);
    assert_eq!(record(&bench, &spec.id), status);
    assert!(!bench.shim_dir(&spec.id).exists());
    let layout = coracle_sys::cgroup::Layout::detect().unwrap();
    assert!(layout.procs(&spec.cgroup).unwrap().is_empty());
    assert!(!fs::exists(format!("/sys/fs/cgroup/pids{}", spec.cgroup)).unwrap());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(&spec.id),
        "a mount is left on the host:\n{mounts}"
    );
}

#[test]
fn programs_that_do_not_start() {
    let mut bench = Bench::new();
    let root = bench.dir.path().join("rootfs");
    fs::write(root.join("bin/nonsense"), "\x7fELF nonsense").unwrap();
    fs::set_permissions(root.join("bin/nonsense"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(root.join("bin/lost"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(root.join("bin/lost"), fs::Permissions::from_mode(0o755)).unwrap();
    for (program, reason, code, words) in [
        (
            "nope",
            FailReason::NotFound,
            127,
            "executable file not found in $PATH",
        ),
        (
            "/nope",
            FailReason::NotFound,
            127,
            "no such file or directory",
        ),
        ("lost", FailReason::NotFound, 127, ""),
        (
            "/etc/plain",
            FailReason::NotExecutable,
            126,
            "permission denied",
        ),
        ("/etc", FailReason::NotExecutable, 126, "permission denied"),
        (
            "nonsense",
            FailReason::NotExecutable,
            126,
            "exec format error",
        ),
    ] {
        let spec = bench.spec(&[program], |_| {});
        let mut client = bench.prepare(&spec);
        let mut watcher = bench.connect(&spec.id);
        assert_eq!(
            watcher.ask(&Request::Watch),
            Reply::State {
                state: State::Prepared
            }
        );
        match client.ask(&Request::Start) {
            Reply::Failed { reason: r, message } => {
                assert_eq!(r, reason, "{program}: {message}");
                assert!(message.contains(words), "{program}: {message}");
                assert!(message.contains(program), "{program}: {message}");
            }
            other => panic!("{program}: {other:?}"),
        }
        let status = watcher.exited();
        assert_eq!((status.code, status.started_at), (code, None), "{program}");
        assert!(status.error.is_some());
        assert_eq!(record(&bench, &spec.id), status);
        watcher.release();
        assert!(!bench.shim_dir(&spec.id).exists());
    }
}

#[test]
fn what_cannot_be_made_is_said() {
    let mut bench = Bench::new();
    let spec = bench.spec(&["true"], |v| {
        let mounts = v["mounts"].as_array_mut().unwrap();
        mounts.push(json!({ "destination": "/x", "type": "bind", "source": "/no/such/place", "options": ["rbind"] }));
    });
    let mut client = bench.prepare(&spec);
    match client.ask(&Request::Start) {
        Reply::Failed {
            reason: FailReason::Other,
            message,
        } => {
            assert!(message.contains("/no/such/place"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    eventually("the shim has left", || !bench.shim_dir(&spec.id).exists());
    let status = record(&bench, &spec.id);
    assert_eq!(status.code, 128);
    assert!(status.error.unwrap().contains("/no/such/place"));
    // A limit that the kernel refuses is found once init waits already.
    let spec = bench.spec(&["true"], |v| {
        v["linux"]["resources"]["cpu"] = json!({ "cpus": "4000" })
    });
    let mut client = bench.prepare(&spec);
    match client.ask(&Request::Start) {
        Reply::Failed { message, .. } => {
            assert!(message.contains("cpuset.cpus to 4000"), "{message}")
        }
        other => panic!("{other:?}"),
    }
    eventually("the shim has left", || !bench.shim_dir(&spec.id).exists());
    assert!(!fs::exists(format!("/sys/fs/cgroup/pids{}", spec.cgroup)).unwrap());
}

#[test]
fn killed_and_starved() {
    let mut bench = Bench::new();
    let spec = bench.spec(&["sleep", "1000"], |_| {});
    let (mut client, pid) = bench.start(&spec);
    assert_eq!(
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(),
        "sleep\n"
    );
    let mut other = bench.connect(&spec.id);
    let bad = other.ask(&Request::Kill {
        exec_id: None,
        signal: 999,
        all: false,
    });
    assert!(matches!(bad, Reply::Error { .. }), "{bad:?}");
    assert_eq!(
        other.ask(&Request::Kill {
            exec_id: None,
            signal: 9,
            all: false
        }),
        Reply::Ok
    );
    let status = client.exited();
    assert_eq!((status.code, status.signal), (137, Some(9)));
    let late = other.ask(&Request::Kill {
        exec_id: None,
        signal: 15,
        all: false,
    });
    assert!(matches!(late, Reply::Error { .. }), "{late:?}");
    client.release();

    let spec = bench.spec(&["sh", "-c", "exec tail /dev/zero"], |v| {
        v["linux"]["resources"]["memory"] = json!({ "limit": 16 << 20, "swap": 16 << 20 });
    });
    let (status, ..) = bench.run(&spec);
    assert_eq!((status.code, status.oom_killed), (137, true));
}

#[test]
fn inside_it_looks_as_asked() {
    let mut bench = Bench::new();
    let script = "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ip addr show lo | grep -c UP,LOWER_UP; \
                  ls /sys/class/net | wc -l; wc -c < /proc/version; ls /sys/firmware | wc -l; \
                  touch /x 2>/dev/null || echo readonly; (echo 1 > /proc/sys/kernel/sysrq) 2>/dev/null || echo masked; \
                  pwd; id -u; id -g; id -G; echo $HOME; grep -E '^(CapEff|CapBnd|CapPrm|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status; \
                  ulimit -n; cat /proc/self/oom_score_adj; echo $$; ls /proc/self/fd | wc -l; \
                  cat /sys/fs/cgroup/memory/memory.limit_in_bytes; touch /sys/fs/cgroup/memory/x 2>/dev/null || echo ro; \
                  cat /sys/fs/cgroup/pids/pids.max";
    let spec = bench.spec(&["sh", "-c", script], |v| {
        v["root"]["readonly"] = json!(true);
        v["linux"]["maskedPaths"]
            .as_array_mut()
            .unwrap()
            .push(json!("/proc/version"));
        v["process"]["cwd"] = json!("/tmp");
        v["process"]["oomScoreAdj"] = json!(500);
        v["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 99 }]);
        v["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
        v["linux"]["resources"]["pids"] = json!({ "limit": 33 });
    });
    let (status, stdout, stderr) = bench.run(&spec);
    let lines: Vec<&str> = stdout.lines().collect();
    let expected = [
        "testhost",
        "0",
        "1",
        "1",
        "0",
        "0",
        "readonly",
        "masked",
        "/tmp",
        "0",
        "0",
        "0",
        "/root",
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
        "77",
        "500",
        "1",
        "4",
        "67108864",
        "ro",
        "33",
    ];
    assert_eq!(lines, expected, "{stderr} {status:?}");
}

#[test]
fn another_user_and_no_new_privileges() {
    let mut bench = Bench::new();
    let script = "id -u; id -g; id -G; echo $HOME; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; \
                  echo again > /dev/stdout; echo error > /dev/stderr; pwd";
    let spec = bench.spec(&["sh", "-c", script], |v| {
        v["process"]["user"] = json!({ "uid": 1000, "gid": 100, "additionalGids": [7, 8] });
        v["process"]["noNewPrivileges"] = json!(true);
        v["process"]["capabilities"]["effective"] = json!([]);
        v["process"]["capabilities"]["permitted"] = json!([]);
        v["process"]["cwd"] = json!("/made/for/it");
    });
    let (_, stdout, stderr) = bench.run(&spec);
    let lines: Vec<&str> = stdout.lines().collect();
    let expected = [
        "1000",
        "100",
        "100 7 8",
        "/home/user",
        "CapEff:\t0000000000000000",
        "CapBnd:\t00000000a80425fb",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "again",
        "/made/for/it",
    ];
    assert_eq!((lines, stderr.as_str()), (expected.to_vec(), "error\n"));
}

#[test]
fn filters_default_unconfined_and_own() {
    use coracle_shim_protocol::shim::Seccomp;
    let mut bench = Bench::new();
    let script = "unshare -m true 2>/dev/null; echo unshare $?; mkdir /tmp/a 2>/dev/null; echo mkdir $?; \
                  chroot / true; echo chroot $?; grep Seccomp: /proc/self/status";
    let admin = |v: &mut serde_json::Value| {
        for set in ["bounding", "effective", "permitted"] {
            v["process"]["capabilities"][set]
                .as_array_mut()
                .unwrap()
                .push(json!("CAP_SYS_ADMIN"));
        }
    };
    let spec = bench.spec(&["sh", "-c", script], |_| {});
    assert_eq!(
        bench.run(&spec).1,
        "unshare 1\nmkdir 0\nchroot 0\nSeccomp:\t2\n"
    );
    // The filter follows the capabilities.
    let spec = bench.spec(&["sh", "-c", script], admin);
    assert_eq!(
        bench.run(&spec).1,
        "unshare 0\nmkdir 0\nchroot 0\nSeccomp:\t2\n"
    );
    let with = |bench: &mut Bench, filter: Seccomp| {
        let mut spec = bench.spec(&["sh", "-c", script], admin);
        let Workload::Container { seccomp, .. } = &mut spec.workload else {
            panic!()
        };
        *seccomp = filter;
        bench.run(&spec).1
    };
    assert_eq!(
        with(&mut bench, Seccomp::Unconfined),
        "unshare 0\nmkdir 0\nchroot 0\nSeccomp:\t0\n"
    );
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 }] });
    let profile = Box::new(serde_json::from_value(profile).unwrap());
    assert_eq!(
        with(&mut bench, Seccomp::Profile { profile }),
        "unshare 0\nmkdir 1\nchroot 0\nSeccomp:\t2\n"
    );
}

#[test]
fn where_the_hierarchies_are_bound_they_are_seen() {
    let mut bench = Bench::new();
    let script = format!(
        "ls /host/sys/fs/cgroup/memory{} | grep -c ^t[0-9]; cat /sys/fs/cgroup/pids/pids.max",
        bench.cgroups
    );
    let spec = bench.spec(&["sh", "-c", &script], |v| {
        let mounts = v["mounts"].as_array_mut().unwrap();
        mounts.push(json!({ "destination": "/host", "type": "bind", "source": "/", "options": ["rbind", "ro"] }));
        v["linux"]["resources"]["pids"] = json!({ "limit": 44 });
    });
    let (status, stdout, stderr) = bench.run(&spec);
    assert_eq!(stdout, "1\n44\n", "{stderr} {status:?}");
}

#[test]
fn many_at_once_leave_nothing() {
    let mut bench = Bench::new();
    let specs: Vec<_> = (0..40)
        .map(|n| bench.spec(&["sh", "-c", &format!("echo {n}; exit {n}")], |_| {}))
        .collect();
    let queue = std::sync::Mutex::new(specs.iter().enumerate());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some((n, spec)) = { queue.lock().unwrap().next() } {
                    let (status, stdout, _) = bench.run(spec);
                    assert_eq!((status.code, stdout), (n as i32, format!("{n}\n")));
                }
            });
        }
    });
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for spec in &specs {
        assert!(!bench.shim_dir(&spec.id).exists());
        assert!(!fs::exists(format!("/sys/fs/cgroup/memory{}", spec.cgroup)).unwrap());
        assert!(!mounts.contains(&spec.id));
    }
    eventually("the holder has forgotten them", || {
        use coracle_shim_protocol::holder::{Reply, Request};
        matches!(bench.ask_holder(&Request::List), Reply::Listing { shims, .. } if shims.is_empty())
    });
}

#[test]
fn a_shim_without_a_daemon_leaves_by_itself() {
    let mut bench = Bench::new();
    let spec = bench.spec(&["sh", "-c", "read x < /tmp/go; exit 3"], |_| {});
    let fifo = bench.state_dir(&spec.id).join("upper/tmp");
    fs::create_dir_all(&fifo).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        fifo.join("go"),
        rustix::fs::FileType::Fifo,
        0o666.into(),
        0,
    )
    .unwrap();
    let (client, pid) = bench.start(&spec);
    // The daemon goes and another comes.
    drop(client);
    let mut watcher = bench.connect(&spec.id);
    match watcher.ask(&Request::Watch) {
        Reply::State {
            state: State::Running { pid: p, .. },
        } => assert_eq!(p, pid),
        other => panic!("{other:?}"),
    }
    let again = watcher.ask(&Request::Prepare);
    assert!(matches!(again, Reply::Error { .. }), "{again:?}");
    drop(watcher);
    fs::write(format!("/proc/{pid}/root/tmp/go"), "\n").unwrap();
    eventually("the shim has left", || !bench.shim_dir(&spec.id).exists());
    assert_eq!(record(&bench, &spec.id).code, 3);
}

#[test]
fn given_up_before_the_start() {
    let mut bench = Bench::new();
    let spec = bench.spec(&["true"], |_| {});
    let client = bench.prepare(&spec);
    client.release();
    assert!(!bench.shim_dir(&spec.id).exists());
    assert!(!bench.state_dir(&spec.id).join("exit.json").exists());
    assert!(!fs::exists(format!("/sys/fs/cgroup/pids{}", spec.cgroup)).unwrap());
    // A shim that was asked nothing.
    let spec = bench.spec(&["true"], |_| {});
    bench.spawn(&spec);
    bench.connect(&spec.id).release();
    assert!(!bench.shim_dir(&spec.id).exists());
}

#[test]
fn killed_before_the_start() {
    let mut bench = Bench::new();
    let spec = bench.spec(&["true"], |_| {});
    let mut client = bench.prepare(&spec);
    let request = Request::Kill {
        exec_id: None,
        signal: 9,
        all: false,
    };
    assert_eq!(bench.connect(&spec.id).ask(&request), Reply::Ok);
    let status = client.exited();
    assert_eq!((status.code, status.started_at), (137, None));
    client.release();
    // With its shim goes an init that waits, whoever it is.
    for uid in [0, 1000] {
        let spec = bench.spec(&["true"], |v| v["process"]["user"]["uid"] = json!(uid));
        let shim = bench.spawn(&spec);
        let mut client = bench.connect(&spec.id);
        client.ask(&Request::Prepare);
        let layout = coracle_sys::cgroup::Layout::detect().unwrap();
        let waiting = || layout.procs(&spec.cgroup).unwrap();
        // Answered only once init waits.
        client.ask(&Request::Watch);
        assert_eq!(waiting().len(), 1);
        let held = coracle_sys::process::hold(shim).unwrap();
        coracle_sys::process::signal(&held, 9).unwrap();
        eventually("init has ended", || waiting().is_empty());
    }
}

#[test]
fn a_shim_that_is_killed_takes_its_container_along() {
    let mut bench = Bench::new();
    let spec = bench.spec(&["sleep", "1000"], |_| {});
    let shim = bench.spawn(&spec);
    let mut client = bench.connect(&spec.id);
    client.ask(&Request::Prepare);
    let Reply::Started { pid } = client.ask(&Request::Start) else {
        panic!()
    };
    let held = coracle_sys::process::hold(shim).unwrap();
    coracle_sys::process::signal(&held, 9).unwrap();
    eventually("the container ended", || {
        !fs::exists(format!("/proc/{pid}/exe")).unwrap()
            || fs::read_link(format!("/proc/{pid}/exe")).is_err()
    });
    assert!(!bench.state_dir(&spec.id).join("exit.json").exists());
    // Its directory is in nobody's way.
    eventually("it can be spawned again", || {
        let spec = Box::new(spec.clone());
        matches!(
            bench.ask_holder(&coracle_shim_protocol::holder::Request::Spawn { spec }),
            coracle_shim_protocol::holder::Reply::Spawned { .. }
        )
    });
    bench.connect(&spec.id).release();
}
