//! What is exclusive ends at its deadline, with nobody there to say so.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Bench, eventually, log_texts, process, shim_pids};
use coracle_shim_protocol::{
    boottime_ms,
    shim::{Deadline, ExitStatus, FailReason, KillMode, Reply, Request, ShimSpec},
};
use coracle_sys::cgroup::Layout;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    io,
    process::Command,
    thread,
    time::Duration,
};

const TERM: i32 = 15;

/// A deadline so many milliseconds from now.
fn within(until_ms: u64, stop_ms: u64) -> Deadline {
    let now = boottime_ms();
    Deadline {
        asked_ms: now,
        until_ms: now + until_ms,
        stop_ms,
        signal: TERM,
    }
}

fn exclusive(mut spec: ShimSpec, deadline: Deadline) -> ShimSpec {
    spec.deadline = Some(deadline);
    spec
}

fn record(bench: &Bench, id: &str) -> Option<ExitStatus> {
    let text = fs::read(bench.state_dir(id).join("exit.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Waits for the end as somebody does who was not there, and gives the time.
fn ends(bench: &Bench, id: &str) -> (ExitStatus, u64) {
    eventually("it ends", || record(bench, id).is_some());
    (record(bench, id).unwrap(), boottime_ms())
}

fn group(bench: &Bench, id: &str) -> Vec<u32> {
    let layout = Layout::detect().unwrap();
    layout
        .procs(&format!("{}/{id}", bench.cgroups))
        .unwrap_or_default()
}

/// It writes a line when it has taken the signal, and ends.
const GENTLE: &[&str] = &[
    "sh",
    "-c",
    "trap 'echo asked to end; exit 3' TERM; echo ready; while :; do sleep 0.05; done",
];
/// It does not end.
const DEAF: &[&str] = &[
    "sh",
    "-c",
    "trap '' TERM; echo ready; while :; do sleep 0.05; done",
];

fn ready(bench: &Bench, id: &str) {
    let log = bench.state_dir(id).join("x.log");
    eventually("it is ready", || {
        log_texts(&log).contains(&"ready\n".to_owned())
    });
}

#[test]
fn nobody_is_there_and_it_ends_by_itself() {
    let mut bench = Bench::new();
    let spec = bench.spec(GENTLE, |_| {});
    let deadline = within(2500, 1000);
    let spec = exclusive(spec, deadline);
    let (client, _) = bench.start(&spec);
    // As a daemon that was killed.
    drop(client);
    let (status, at) = ends(&bench, &spec.id);
    assert!(
        at >= deadline.stop_at_ms() && at < deadline.until_ms,
        "{at} {deadline:?}"
    );
    assert_eq!(
        (status.code, status.signal, status.watchdog),
        (3, None, true)
    );
    let why = "stopped by its watchdog: the store could not be asked for 1 s";
    assert_eq!(status.error.as_deref(), Some(why));
    let log = log_texts(&bench.state_dir(&spec.id).join("x.log"));
    assert_eq!(
        log,
        ["ready\n", "asked to end\n", &format!("coracle: {why}\n")]
    );
    eventually("the shim has left", || !bench.shim_dir(&spec.id).exists());
}

#[test]
fn the_whole_container_is_killed_at_the_deadline() {
    let mut bench = Bench::new();
    let deadline = within(3000, 700);
    let spec = bench.spec(DEAF, |_| {});
    let spec = exclusive(spec, deadline);
    let (mut client, pid) = bench.start(&spec);
    ready(&bench, &spec.id);
    let mut exec = bench.connect(&spec.id);
    let reply = exec.ask(&Request::Exec {
        exec_id: "e".into(),
        process: Box::new(process(DEAF)),
        terminal: false,
        stdin: false,
        output: false,
    });
    assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
    assert!(group(&bench, &spec.id).len() > 1);
    let status = client.exited();
    let at = boottime_ms();
    assert!(at >= deadline.until_ms, "{at} {deadline:?}");
    assert_eq!((status.signal, status.watchdog), (Some(9), true));
    assert_eq!(group(&bench, &spec.id), [] as [u32; 0]);
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
}

#[test]
fn what_is_paused_ends_too() {
    let mut bench = Bench::new();
    let layout = Layout::detect().unwrap();
    for (args, code) in [(GENTLE, 3), (DEAF, 137)] {
        let deadline = within(2500, 1000);
        let spec = bench.spec(args, |_| {});
        let spec = exclusive(spec, deadline);
        let (mut client, _) = bench.start(&spec);
        ready(&bench, &spec.id);
        layout.freeze(&spec.cgroup).unwrap();
        let status = client.exited();
        assert_eq!((status.code, status.watchdog), (code, true));
        client.release();
    }
}

#[test]
fn a_deadline_is_moved_on_and_never_back() {
    let mut bench = Bench::new();
    let spec = bench.spec(GENTLE, |_| {});
    let spec = exclusive(spec, within(1500, 500));
    let (mut client, _) = bench.start(&spec);
    let mut other = bench.connect(&spec.id);
    let mut limit = |deadline| other.ask(&Request::Limit { deadline });
    let mut last = within(1500, 500);
    // Past the first one's end.
    for _ in 0..12 {
        last = within(1500, 500);
        assert_eq!(limit(Some(last)), Reply::Ok);
        let earlier = Deadline {
            until_ms: last.until_ms - 1400,
            ..last
        };
        assert_eq!(limit(Some(earlier)), Reply::Ok);
        thread::sleep(Duration::from_millis(200));
        assert!(record(&bench, &spec.id).is_none());
    }
    let status = client.exited();
    let at = boottime_ms();
    assert!(at >= last.stop_at_ms(), "{at} {last:?}");
    assert!(status.watchdog);
    // What is ending is not kept from it.
    assert_eq!(record(&bench, &spec.id), Some(status));

    // Nobody else could run it any more: it has no end.
    let spec = bench.spec(GENTLE, |_| {});
    let deadline = within(1500, 500);
    let spec = exclusive(spec, deadline);
    let (mut client, pid) = bench.start(&spec);
    let mut other = bench.connect(&spec.id);
    assert_eq!(other.ask(&Request::Limit { deadline: None }), Reply::Ok);
    eventually("its time is over", || boottime_ms() > deadline.until_ms);
    assert!(fs::exists(format!("/proc/{pid}")).unwrap());
    // Again it has.
    let again = Some(within(300, 200));
    assert_eq!(other.ask(&Request::Limit { deadline: again }), Reply::Ok);
    assert!(client.exited().watchdog);
}

#[test]
fn a_missed_deadline_stays_missed() {
    let mut bench = Bench::new();
    let spec = bench.spec(DEAF, |_| {});
    let deadline = within(3000, 2000);
    let spec = exclusive(spec, deadline);
    let (mut client, _) = bench.start(&spec);
    ready(&bench, &spec.id);
    eventually("it is asked to end", || {
        boottime_ms() > deadline.stop_at_ms() + 100
    });
    let mut other = bench.connect(&spec.id);
    match other.ask(&Request::Limit {
        deadline: Some(within(60_000, 1000)),
    }) {
        Reply::Error { message } => assert!(message.contains("watchdog"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.exited().signal, Some(9));
    assert!(boottime_ms() >= deadline.until_ms);
}

#[test]
fn nothing_starts_after_its_deadline() {
    let mut bench = Bench::new();
    // Over before it begins, and over while its start was held up.
    for deadline in [within(100, 500), within(900, 500)] {
        let spec = bench.spec(&["sh", "-c", "echo ran"], |_| {});
        let spec = exclusive(spec, deadline);
        let mut client = bench.prepare(&spec);
        eventually("its time is over", || boottime_ms() > deadline.stop_at_ms());
        match client.ask(&Request::Start) {
            Reply::Failed {
                reason: FailReason::Late,
                message,
            } => assert!(message.contains("watchdog"), "{message}"),
            other => panic!("{other:?}"),
        }
        // It has its answer, and nobody else listens.
        eventually("the shim has left", || !bench.shim_dir(&spec.id).exists());
        let status = record(&bench, &spec.id).unwrap();
        assert_eq!((status.started_at, status.watchdog), (None, true));
        assert_eq!(bench.log_text(&spec.id), "");
    }
}

/// Also processes that such a service would leave running otherwise.
#[test]
fn host_processes_end_with_all_that_they_started() {
    let mut bench = Bench::new();
    for mode in [KillMode::ControlGroup, KillMode::Process] {
        let script = "trap '' TERM; (while :; do sleep 0.05; done) & trap 'exit 4' TERM; while :; do sleep 0.05; done";
        let spec = bench.process(&["/bin/sh", "-c", script], mode);
        let deadline = within(1500, 800);
        let spec = exclusive(spec, deadline);
        let (mut client, _) = bench.start(&spec);
        eventually("both are there", || group(&bench, &spec.id).len() > 1);
        let status = client.exited();
        assert_eq!((status.code, status.watchdog), (4, true), "{mode:?}");
        assert_eq!(group(&bench, &spec.id), [] as [u32; 0], "{mode:?}");
        assert!(boottime_ms() < deadline.until_ms + 2000);
        client.release();
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn shim(bench: &Bench, id: &str) -> u32 {
    let pids = shim_pids(&bench.shim_dir(id).join("shim.sock"));
    assert_eq!(pids.len(), 1, "only the shim itself listens");
    pids[0]
}

/// Of a shim whose container has a deadline.
fn guards(id: &str) -> Vec<u32> {
    let title = format!("coracle-guard {id}");
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).trim_end_matches('\0') == title
    })
    .collect()
}

fn namespace(pid: u32) -> std::path::PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap()
}

/// It writes more than anything that is not read has room for, and does not end.
const LOUD: &[&str] = &[
    "sh",
    "-c",
    "trap '' TERM; while :; do echo a line of some length; done",
];

#[test]
fn a_log_that_cannot_be_written_does_not_keep_it_from_its_end() {
    let mut bench = Bench::new();
    let deadline = within(3000, 700);
    let spec = exclusive(bench.spec(LOUD, |_| {}), deadline);
    // As a disk that does not answer: who writes to it waits.
    let log = bench.state_dir(&spec.id).join("x.log");
    assert!(Command::new("mkfifo").arg(&log).status().unwrap().success());
    let mut disk = File::options().read(true).write(true).open(&log).unwrap();
    let (client, _) = bench.start(&spec);
    drop(client);
    eventually("nothing of it is left", || {
        group(&bench, &spec.id).is_empty()
    });
    assert!(boottime_ms() >= deadline.until_ms);
    assert!(record(&bench, &spec.id).is_none(), "the shim waits still");
    // The disk is back, for as long as there is this test.
    thread::spawn(move || io::copy(&mut disk, &mut io::sink()));
    let (status, _) = ends(&bench, &spec.id);
    assert_eq!((status.signal, status.watchdog), (Some(9), true));
    eventually("the shim has left", || !bench.shim_dir(&spec.id).exists());
}

#[test]
fn a_shim_that_is_stopped_does_not_keep_it_from_its_end() {
    let mut bench = Bench::new();
    let deadline = within(3000, 700);
    let spec = exclusive(bench.spec(DEAF, |_| {}), deadline);
    let (mut client, _) = bench.start(&spec);
    ready(&bench, &spec.id);
    let own = shim(&bench, &spec.id);
    signal(own, Signal::STOP);
    eventually("nothing of it is left", || {
        group(&bench, &spec.id).is_empty()
    });
    assert!(boottime_ms() >= deadline.until_ms);
    signal(own, Signal::CONT);
    let status = client.exited();
    assert_eq!((status.signal, status.watchdog), (Some(9), true));
    client.release();
    assert_eq!(guards(&spec.id), [] as [u32; 0]);
}

#[test]
fn a_shim_that_is_killed_does_not_keep_it_from_its_end() {
    let mut bench = Bench::new();
    let deadline = within(3000, 700);
    // The kernel ends the main process with its shim, and nothing else.
    let script = "(while :; do sleep 0.05; done) & wait";
    let spec = bench.process(&["/bin/sh", "-c", script], KillMode::ControlGroup);
    let spec = exclusive(spec, deadline);
    let (_client, _) = bench.start(&spec);
    eventually("both are there", || group(&bench, &spec.id).len() > 1);
    signal(shim(&bench, &spec.id), Signal::KILL);
    eventually("nothing of it is left", || {
        group(&bench, &spec.id).is_empty()
    });
    assert!(boottime_ms() >= deadline.until_ms);
    eventually("its guard has left", || guards(&spec.id).is_empty());
}

#[test]
fn what_runs_without_a_deadline_is_given_its_first_one() {
    let mut bench = Bench::new();
    let spec = bench.spec(DEAF, |_| {});
    let (mut client, init) = bench.start(&spec);
    ready(&bench, &spec.id);
    assert_eq!(guards(&spec.id), [] as [u32; 0]);
    let deadline = within(3000, 700);
    let mut other = bench.connect(&spec.id);
    let limit = Request::Limit {
        deadline: Some(deadline),
    };
    assert_eq!(other.ask(&limit), Reply::Ok);
    // Its guard is out of the container's sight and reach, and what is exec'd is not.
    eventually("it has a guard", || guards(&spec.id).len() == 1);
    let guard = guards(&spec.id);
    assert_eq!(namespace(guard[0]), namespace(std::process::id()));
    let mut exec = bench.connect(&spec.id);
    let reply = exec.ask(&Request::Exec {
        exec_id: "e".into(),
        process: Box::new(process(DEAF)),
        terminal: false,
        stdin: false,
        output: false,
    });
    let Reply::Started { pid } = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(namespace(pid), namespace(init));
    assert!(!group(&bench, &spec.id).contains(&guard[0]));
    signal(shim(&bench, &spec.id), Signal::STOP);
    eventually("nothing of it is left", || {
        group(&bench, &spec.id).is_empty()
    });
    assert!(boottime_ms() >= deadline.until_ms);
    signal(shim(&bench, &spec.id), Signal::CONT);
    assert!(client.exited().watchdog);
    client.release();
    assert_eq!(guards(&spec.id), [] as [u32; 0]);
}

/// What such a service is to leave running is left, if it ended by itself.
#[test]
fn what_outlives_its_service_by_right_is_not_killed_later() {
    let mut bench = Bench::new();
    let script = "sleep 1000 & exit 0";
    let spec = bench.process(&["/bin/sh", "-c", script], KillMode::Process);
    let deadline = within(1500, 500);
    let spec = exclusive(spec, deadline);
    let (mut client, _) = bench.start(&spec);
    let status = client.exited();
    assert_eq!((status.code, status.watchdog), (0, false));
    let left = group(&bench, &spec.id);
    assert_eq!(left.len(), 1);
    eventually("its time is over", || {
        boottime_ms() > deadline.until_ms + 200
    });
    assert_eq!(group(&bench, &spec.id), left);
    client.release();
    assert_eq!(guards(&spec.id), [] as [u32; 0]);
}
