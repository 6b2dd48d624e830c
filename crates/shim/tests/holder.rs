//! The holder: sockets that it keeps, shims that outlive it, and its own end.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, eventually, start_holder};
use coracle_shim_protocol::{
    PROTOCOL_VERSION, fds, frame,
    holder::{Reply, Request, SOCKET},
    shim::{self, KillMode, State, Workload},
};
use serde_json::json;
use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::AsFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    process::{Command, Stdio},
};

#[test]
fn sockets_are_kept_for_the_next_daemon() {
    let bench = Bench::new();
    let socket = bench.run_dir.join(SOCKET);
    assert_eq!(
        fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o600
    );
    match bench.ask_holder(&Request::Hello { version: 1 }) {
        Reply::Hello { version, pid } => {
            assert_eq!((version, pid), (PROTOCOL_VERSION, bench.holder.id()))
        }
        other => panic!("{other:?}"),
    }
    let mut first = UnixStream::connect(&socket).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    fds::send(
        &mut first,
        &Request::Deposit { name: "api".into() },
        listener.as_fd(),
    )
    .unwrap();
    assert!(matches!(frame::receive(&mut first).unwrap(), Reply::Ok));
    drop((listener, first));
    // Nobody accepts now, and a client waits instead of failing.
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"hello").unwrap();
    let mut second = UnixStream::connect(&socket).unwrap();
    frame::send(&mut second, &Request::Fetch { name: "api".into() }).unwrap();
    let (reply, fd) = fds::receive::<Reply>(&mut second).unwrap();
    assert!(matches!(reply, Reply::Socket { found: true }));
    let (mut accepted, _) = TcpListener::from(fd.unwrap()).accept().unwrap();
    let mut text = [0; 5];
    accepted.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");
    match bench.ask_holder(&Request::List) {
        Reply::Listing { sockets, shims } => {
            assert_eq!((sockets, shims), (vec!["api".to_owned()], vec![]))
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        bench.ask_holder(&Request::Discard { name: "api".into() }),
        Reply::Ok
    ));
    assert!(matches!(
        bench.ask_holder(&Request::Fetch { name: "api".into() }),
        Reply::Socket { found: false }
    ));
    let without = bench.ask_holder(&Request::Deposit { name: "x".into() });
    assert!(matches!(without, Reply::Error { .. }), "{without:?}");
}

#[test]
fn nonsense_and_stalling_peers_hinder_nobody() {
    let mut bench = Bench::new();
    let mut stalled = UnixStream::connect(bench.run_dir.join(SOCKET)).unwrap();
    stalled
        .write_all(&[3, 0, 0, 0, 0, 0, 0, 200, b'{'])
        .unwrap();
    let mut odd = UnixStream::connect(bench.run_dir.join(SOCKET)).unwrap();
    let body = br#"{"type":"fly"}"#;
    odd.write_all(&[3, 0, 0, 0, 0, 0, 0, body.len() as u8])
        .unwrap();
    odd.write_all(body).unwrap();
    assert!(matches!(
        frame::receive(&mut odd).unwrap(),
        Reply::Error { .. }
    ));
    odd.write_all(&[77; 8]).unwrap();
    assert!(matches!(
        frame::receive(&mut odd).unwrap(),
        Reply::Error { .. }
    ));
    assert!(frame::read(&mut odd).unwrap().is_none());
    let good = bench.spec(&["true"], |_| {});
    let refused = |change: &dyn Fn(&mut shim::ShimSpec)| {
        let mut spec = Box::new(good.clone());
        change(&mut spec);
        match bench.ask_holder(&Request::Spawn { spec }) {
            Reply::Error { message } => message,
            other => panic!("{other:?}"),
        }
    };
    assert!(refused(&|s| s.version = 99).contains("version 99"));
    assert!(refused(&|s| s.id = "../x".into()).contains("../x"));
    assert!(refused(&|s| s.run_dir = "/etc".into()).contains("/etc"));
    assert_eq!(bench.run(&good).0.code, 0);
}

#[test]
fn a_second_holder_sees_the_first() {
    let bench = Bench::new();
    let second = Command::new(common::holder_program())
        .arg("--run-dir")
        .arg(&bench.run_dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("runs already"));
    assert!(matches!(
        bench.ask_holder(&Request::Hello { version: 1 }),
        Reply::Hello { .. }
    ));
}

#[test]
fn shims_outlive_a_holder_that_is_killed() {
    let mut bench = Bench::new();
    let spec = bench.spec(&["sleep", "1000"], |_| {});
    let (mut client, pid) = bench.start(&spec);
    bench.holder.kill().unwrap();
    bench.holder.wait().unwrap();
    // The connection lives on, and so does the container.
    bench.holder = start_holder(&bench.run_dir);
    match bench.connect(&spec.id).ask(&shim::Request::Watch) {
        shim::Reply::State {
            state: State::Running { pid: p, .. },
        } => assert_eq!(p, pid),
        other => panic!("{other:?}"),
    }
    let more = bench.spec(&["true"], |_| {});
    assert_eq!(bench.run(&more).0.code, 0);
    let mut other = bench.connect(&spec.id);
    other.ask(&shim::Request::Kill {
        exec_id: None,
        signal: 9,
        all: false,
    });
    assert_eq!(client.exited().code, 137);
    client.release();
}

#[test]
fn a_retired_holder_serves_its_last_shim() {
    let mut bench = Bench::new();
    let spec = bench.spec(&["sleep", "1000"], |_| {});
    let (mut client, _) = bench.start(&spec);
    assert!(matches!(bench.ask_holder(&Request::Retire), Reply::Ok));
    let next = start_holder(&bench.run_dir);
    let mut old = std::mem::replace(&mut bench.holder, next);
    assert_eq!(old.try_wait().unwrap(), None);
    let mut other = bench.connect(&spec.id);
    other.ask(&shim::Request::Kill {
        exec_id: None,
        signal: 9,
        all: false,
    });
    assert_eq!(client.exited().code, 137);
    client.release();
    assert!(old.wait().unwrap().success());
    // SIGTERM means the same.
    let held = coracle_sys::process::hold(bench.holder.id()).unwrap();
    coracle_sys::process::signal(&held, 15).unwrap();
    assert!(bench.holder.wait().unwrap().success());
    assert!(!bench.run_dir.join(SOCKET).exists());
}

#[test]
fn host_processes_and_what_they_leave() {
    let mut bench = Bench::new();
    // What each leaves behind in its group.
    let script = "trap '' TERM; (sleep 1000 & echo $!) ; echo out; exit 4";
    for mode in [
        KillMode::ControlGroup,
        KillMode::Mixed,
        KillMode::Process,
        KillMode::None,
    ] {
        let spec = bench.process(
            &[
                "sh",
                "-c",
                if mode == KillMode::ControlGroup {
                    "(sleep 1000 & echo $!); echo out; exit 4"
                } else {
                    script
                },
            ],
            mode,
        );
        let (status, stdout, _) = bench.run(&spec);
        assert_eq!(status.code, 4, "{mode:?}");
        let mut lines = stdout.lines();
        let left: u32 = lines.next().unwrap().parse().unwrap();
        assert_eq!(lines.next(), Some("out"));
        let state = || fs::read_to_string(format!("/proc/{left}/comm")).unwrap_or_default();
        if matches!(mode, KillMode::Process | KillMode::None) {
            assert_eq!(state(), "sleep\n", "{mode:?}");
            let held = coracle_sys::process::hold(left).unwrap();
            coracle_sys::process::signal(&held, 9).unwrap();
        } else {
            // A zombie has no program; who reaps it is the machine's affair.
            eventually("it was killed", || {
                fs::read_link(format!("/proc/{left}/exe")).is_err()
            });
            assert!(!fs::exists(format!("/sys/fs/cgroup/pids{}", spec.cgroup)).unwrap());
        }
    }
}

#[test]
fn host_processes_with_user_and_exec() {
    let mut bench = Bench::new();
    let mut spec = bench.process(
        &[
            "sh",
            "-c",
            "id -u; id -G; pwd; grep -c coracle /proc/self/cgroup; sleep 1000",
        ],
        KillMode::Mixed,
    );
    if let Workload::Process { process, .. } = &mut spec.workload {
        let mut value = serde_json::to_value(&**process).unwrap();
        value["user"] = json!({ "uid": 65534, "gid": 65534, "additionalGids": [7] });
        value["cwd"] = json!("/tmp");
        **process = serde_json::from_value(value).unwrap();
    }
    let mut client = bench.prepare(&spec);
    let mut attached = bench.attach(&spec.id, false);
    assert!(matches!(
        client.ask(&shim::Request::Start),
        shim::Reply::Started { .. }
    ));
    assert_eq!(attached.until("\n9\n"), "65534\n65534 7\n/tmp\n9\n");
    let (_, stdout, _, status) = bench.exec(
        &spec.id,
        common::process(&[
            "sh",
            "-c",
            "id -u; grep -c coracle /proc/self/cgroup; exit 2",
        ]),
    );
    assert_eq!((stdout.as_str(), status.unwrap().code), ("0\n9\n", 2));
    let mut killer = bench.connect(&spec.id);
    killer.ask(&shim::Request::Kill {
        exec_id: None,
        signal: 15,
        all: true,
    });
    assert_eq!(client.exited().code, 143);
    client.release();
    let missing = bench.process(&["/no/such/program"], KillMode::Mixed);
    let mut client = bench.prepare(&missing);
    let reply = client.ask(&shim::Request::Start);
    assert!(
        matches!(
            reply,
            shim::Reply::Failed {
                reason: shim::FailReason::NotFound,
                ..
            }
        ),
        "{reply:?}"
    );
}

#[test]
fn a_host_process_with_a_terminal() {
    let mut bench = Bench::new();
    let mut spec = bench.process(
        &["sh", "-c", "tty; stty size; read x; echo got $x"],
        KillMode::Mixed,
    );
    spec.terminal = true;
    spec.terminal_size = Some((30, 90));
    spec.open_stdin = true;
    let mut client = bench.prepare(&spec);
    let mut attached = bench.attach(&spec.id, true);
    assert!(matches!(
        client.ask(&shim::Request::Start),
        shim::Reply::Started { .. }
    ));
    let seen = attached.until("30 90");
    assert!(seen.contains("/dev/pts/"), "{seen}");
    attached.stdin(b"it\n");
    assert!(attached.output().0.contains("got it\r\n"));
    assert_eq!(client.exited().code, 0);
    client.release();
}

#[test]
fn a_next_life_waits_for_the_last_one_to_leave() {
    let mut bench = Bench::new();
    let spec = bench.spec(&["true"], |_| {});
    for _ in 0..10 {
        let (mut client, _) = bench.start(&spec);
        client.exited();
        // Without waiting until it has left.
        frame::send(&mut client.0, &shim::Request::Release).unwrap();
    }
    bench.run(&spec);
}

#[test]
fn a_next_life_waits_for_a_shim_of_a_former_holder() {
    let mut bench = Bench::new();
    let spec = bench.spec(&["true"], |_| {});
    for _ in 0..5 {
        let (mut client, _) = bench.start(&spec);
        client.exited();
        bench.holder.kill().unwrap();
        bench.holder.wait().unwrap();
        bench.holder = start_holder(&bench.run_dir);
        frame::send(&mut client.0, &shim::Request::Release).unwrap();
    }
    bench.run(&spec);
}
