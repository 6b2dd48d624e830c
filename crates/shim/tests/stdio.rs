//! Attached clients, terminals, exec.
#![allow(clippy::unwrap_used)]

mod common;

use common::spec::{CAPS, process_json};
use common::{Bench, process};
use coracle_shim_protocol::shim::{FailReason, Reply, Request};
use serde_json::json;
use std::{fs, net::Shutdown};

fn capable(args: &[&str]) -> oci_spec::runtime::Process {
    let mut value = process_json(args);
    value["capabilities"] = json!({ "bounding": CAPS, "effective": CAPS, "permitted": CAPS });
    serde_json::from_value(value).unwrap()
}

#[test]
fn input_goes_in_and_its_end_too() {
    let mut bench = Bench::new();
    let mut spec = bench.spec(&["sh", "-c", "cat; echo end >&2"], |_| {});
    spec.open_stdin = true;
    spec.stdin_once = true;
    let mut client = bench.prepare(&spec);
    let mut attached = bench.attach(&spec.id, true);
    // More than a pipe holds, before anybody reads.
    let text = "0123456789abcdef".repeat(20_000);
    attached.stdin(text.as_bytes());
    attached.stdin(b"");
    assert!(matches!(client.ask(&Request::Start), Reply::Started { .. }));
    let (stdout, stderr) = attached.output();
    assert!(stdout == text, "{} of {} bytes", stdout.len(), text.len());
    assert_eq!(stderr, "end\n");
    assert_eq!(client.exited().code, 0);
    client.release();
}

#[test]
fn a_client_that_leaves_ends_input_only_if_asked() {
    let mut bench = Bench::new();
    for once in [false, true] {
        let mut spec = bench.spec(&["cat"], |_| {});
        spec.open_stdin = true;
        spec.stdin_once = once;
        let (mut client, _) = bench.start(&spec);
        let mut first = bench.attach(&spec.id, true);
        first.stdin(b"one\n");
        assert_eq!(first.until("one\n"), "one\n");
        drop(first);
        if !once {
            let mut second = bench.attach(&spec.id, true);
            second.stdin(b"two\n");
            assert_eq!(second.until("two\n"), "two\n");
            // An end of input is one for this client only; what follows comes from another.
            second.0.shutdown(Shutdown::Write).unwrap();
            let mut third = bench.attach(&spec.id, true);
            third.stdin(b"three\n");
            assert_eq!(second.until("three\n"), "three\n");
            let mut killer = bench.connect(&spec.id);
            assert_eq!(
                killer.ask(&Request::Kill {
                    exec_id: None,
                    signal: 9,
                    all: true
                }),
                Reply::Ok
            );
            assert_eq!(third.output().0, "three\n");
        }
        let status = client.exited();
        assert_eq!(status.code, if once { 0 } else { 137 });
        client.release();
        assert!(bench.log_text(&spec.id).starts_with("one\n"));
    }
}

#[test]
fn a_slow_client_loses_nothing() {
    let mut bench = Bench::new();
    let script = "dd if=/dev/zero bs=65536 count=128 2>/dev/null | tr '\\0' x; echo done >&2";
    let spec = bench.spec(&["sh", "-c", script], |_| {});
    let mut client = bench.prepare(&spec);
    let mut slow = bench.attach(&spec.id, false);
    let mut quick = bench.attach(&spec.id, false);
    client.ask(&Request::Start);
    // The slow one takes nothing until the quick one has seen how far it gets.
    let reader = std::thread::spawn(move || quick.output());
    common::eventually("output waits for the slow client", || {
        fs::metadata(bench.state_dir(&spec.id).join("x.log")).is_ok_and(|m| m.len() > 1 << 20)
    });
    let (stdout, stderr) = slow.output();
    assert_eq!((stdout.len(), stderr.as_str()), (8 << 20, "done\n"));
    assert_eq!(reader.join().unwrap().0.len(), 8 << 20);
    assert_eq!(client.exited().code, 0);
    client.release();
}

#[test]
fn a_terminal_with_a_size() {
    let mut bench = Bench::new();
    let mut spec = bench.spec(
        &[
            "sh",
            "-c",
            "tty; stty size; read x; stty size; echo got $x >&2",
        ],
        |v| {
            v["process"]["terminal"] = json!(true);
        },
    );
    spec.terminal = true;
    spec.terminal_size = Some((33, 101));
    spec.open_stdin = true;
    let mut client = bench.prepare(&spec);
    let mut attached = bench.attach(&spec.id, true);
    client.ask(&Request::Start);
    let seen = attached.until("33 101");
    assert!(seen.contains("/dev/"), "{seen}");
    let mut other = bench.connect(&spec.id);
    assert_eq!(
        other.ask(&Request::Resize {
            exec_id: None,
            rows: 20,
            cols: 50
        }),
        Reply::Ok
    );
    attached.stdin(b"hello\n");
    let (rest, stderr) = attached.output();
    assert!(
        rest.contains("20 50") && rest.contains("got hello\r\n"),
        "{rest:?}"
    );
    assert_eq!(stderr, "");
    assert_eq!(client.exited().code, 0);
    client.release();
    assert!(bench.log_text(&spec.id).contains("20 50"));
    let plain = bench.spec(&["sleep", "1000"], |_| {});
    let (client, _) = bench.start(&plain);
    let no = bench.connect(&plain.id).ask(&Request::Resize {
        exec_id: None,
        rows: 1,
        cols: 1,
    });
    assert!(matches!(no, Reply::Error { .. }), "{no:?}");
    drop(client);
}

#[test]
fn exec_is_as_confined_as_the_container() {
    let mut bench = Bench::new();
    let spec = bench.spec(&["sleep", "1000"], |v| {
        v["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 99 }]);
    });
    let (mut client, init) = bench.start(&spec);
    let script = "unshare -m true 2>/dev/null; echo $?; hostname; ulimit -n; id -u; echo $HOME; \
                  grep -E '^(CapEff|CapBnd|Seccomp):' /proc/self/status; cat /proc/1/comm; \
                  cut -d: -f3 /proc/self/cgroup | grep -c coracle; ls /proc/self/fd | wc -l; echo err >&2; exit 5";
    let (reply, stdout, stderr, status) = bench.exec(&spec.id, capable(&["sh", "-c", script]));
    let Reply::Started { pid } = reply else {
        panic!("{reply:?}")
    };
    assert!(pid != init);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "1",
            "testhost",
            "77",
            "0",
            "/root",
            "CapEff:\t00000000a80425fb",
            "CapBnd:\t00000000a80425fb",
            "Seccomp:\t2",
            "sleep",
            "9",
            "4"
        ],
        "{stderr}"
    );
    assert_eq!((stderr.as_str(), status.unwrap().code), ("err\n", 5));
    // As another user, and with the container's capabilities where none are given.
    let mut value = process_json(&[
        "sh",
        "-c",
        "id -u; pwd; grep CapBnd /proc/self/status; echo x > /dev/stdout",
    ]);
    value["user"] = json!({ "uid": 1000, "gid": 1000 });
    value["cwd"] = json!("/tmp");
    let (_, stdout, _, status) = bench.exec(&spec.id, serde_json::from_value(value).unwrap());
    assert_eq!(stdout, "1000\n/tmp\nCapBnd:\t00000000a80425fb\nx\n");
    assert_eq!(status.unwrap().code, 0);
    for (program, reason) in [
        ("nope", FailReason::NotFound),
        ("/etc/plain", FailReason::NotExecutable),
    ] {
        let (reply, .., status) = bench.exec(&spec.id, capable(&[program]));
        assert!(
            matches!(&reply, Reply::Failed { reason: r, .. } if *r == reason),
            "{reply:?}"
        );
        assert_eq!(status, None);
    }
    let (reply, ..) = bench.exec(&spec.id, {
        let mut value = process_json(&["true"]);
        value["cwd"] = json!("/nowhere");
        serde_json::from_value(value).unwrap()
    });
    assert!(
        matches!(&reply, Reply::Failed { message, .. } if message.contains("/nowhere")),
        "{reply:?}"
    );
    let mut killer = bench.connect(&spec.id);
    assert_eq!(
        killer.ask(&Request::Kill {
            exec_id: None,
            signal: 9,
            all: false
        }),
        Reply::Ok
    );
    assert_eq!(client.exited().code, 137);
    let (reply, ..) = bench.exec(&spec.id, process(&["true"]));
    assert!(matches!(reply, Reply::Failed { .. }), "{reply:?}");
    client.release();
}

#[test]
fn exec_with_input_terminal_kill_and_resize() {
    let mut bench = Bench::new();
    let spec = bench.spec(&["sleep", "1000"], |_| {});
    let (mut client, _) = bench.start(&spec);
    let ask = |exec_id: &str, process, terminal, stdin| {
        let mut conn = bench.connect(&spec.id);
        let request = Request::Exec {
            exec_id: exec_id.into(),
            process: Box::new(process),
            terminal,
            stdin,
            output: true,
        };
        let reply = conn.ask(&request);
        assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
        conn
    };
    let mut cat = ask("cat", capable(&["cat"]), false, true);
    cat.stdin(b"through\n");
    cat.stdin(b"");
    let (stdout, _, last) = cat.frames();
    assert_eq!(stdout, "through\n");
    assert!(matches!(last, Some(Reply::Exited { status }) if status.code == 0));

    let mut value = process_json(&["sh", "-c", "tty; stty size; read x; stty size"]);
    value["consoleSize"] = json!({ "height": 12, "width": 34 });
    let mut shell = ask("shell", serde_json::from_value(value).unwrap(), true, true);
    let seen = shell.until("12 34");
    assert!(seen.contains("/dev/pts/0"), "{seen}");
    let mut other = bench.connect(&spec.id);
    assert_eq!(
        other.ask(&Request::Resize {
            exec_id: Some("shell".into()),
            rows: 21,
            cols: 43
        }),
        Reply::Ok
    );
    shell.stdin(b"\n");
    let (stdout, ..) = shell.frames();
    assert!(stdout.contains("21 43"), "{stdout}");

    let mut sleep = ask("sleep", capable(&["sleep", "1000"]), false, false);
    assert_eq!(
        other.ask(&Request::Kill {
            exec_id: Some("sleep".into()),
            signal: 15,
            all: false
        }),
        Reply::Ok
    );
    let (.., last) = sleep.frames();
    assert!(
        matches!(last, Some(Reply::Exited { status }) if status.code == 143 && status.signal == Some(15))
    );
    let gone = other.ask(&Request::Kill {
        exec_id: Some("sleep".into()),
        signal: 15,
        all: false,
    });
    assert!(matches!(gone, Reply::Error { .. }), "{gone:?}");

    // A client that leaves does not end the process, which ends with the container.
    drop(ask(
        "stays",
        capable(&["sh", "-c", "touch /tmp/there; sleep 1000"]),
        false,
        false,
    ));
    let upper = bench.state_dir(&spec.id).join("upper/tmp/there");
    common::eventually("it went on", || upper.exists());
    // Its descendants may hold its output, which is not waited for.
    let mut leaves = ask(
        "leaves",
        capable(&["sh", "-c", "sleep 1000 & echo left"]),
        false,
        false,
    );
    let (stdout, _, last) = leaves.frames();
    assert_eq!(stdout, "left\n");
    assert!(matches!(last, Some(Reply::Exited { .. })));
    let mut attached = ask("dies", capable(&["sleep", "1000"]), false, false);
    other.ask(&Request::Kill {
        exec_id: None,
        signal: 9,
        all: false,
    });
    let (.., last) = attached.frames();
    assert!(matches!(last, Some(Reply::Exited { status }) if status.code == 137));
    assert_eq!(client.exited().code, 137);
    client.release();
}

#[test]
fn nonsense_is_answered_and_harms_nobody() {
    use std::io::Write;
    let mut bench = Bench::new();
    let spec = bench.spec(&["sleep", "1000"], |_| {});
    let (_client, pid) = bench.start(&spec);
    let mut odd = bench.connect(&spec.id);
    let body = br#"{"type":"fly"}"#;
    odd.0
        .write_all(&[3, 0, 0, 0, 0, 0, 0, body.len() as u8])
        .unwrap();
    odd.0.write_all(body).unwrap();
    let reply: Reply = coracle_shim_protocol::frame::receive(&mut odd.0).unwrap();
    assert!(
        matches!(&reply, Reply::Error { message } if message.contains("fly")),
        "{reply:?}"
    );
    // Still usable.
    assert!(matches!(odd.ask(&Request::Watch), Reply::State { .. }));
    let mut broken = bench.connect(&spec.id);
    broken.0.write_all(&[9; 64]).unwrap();
    let reply: Reply = coracle_shim_protocol::frame::receive(&mut broken.0).unwrap();
    assert!(matches!(reply, Reply::Error { .. }));
    // One that stalls in the middle of a frame keeps nobody waiting.
    let mut stalled = bench.connect(&spec.id);
    stalled.0.write_all(&[3, 0, 0, 0, 0, 0, 1]).unwrap();
    assert!(matches!(
        bench.connect(&spec.id).ask(&Request::Watch),
        Reply::State { .. }
    ));
    assert!(fs::exists(format!("/proc/{pid}")).unwrap());
}
