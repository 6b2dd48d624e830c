//! Control groups of the machine the tests run on, with real processes in them.
#![allow(clippy::unwrap_used)]

use coracle_sys::cgroup::{Layout, Limits};
use std::process::{Child, Command};

/// A cgroup that goes away with everything in it, also when the test fails.
struct Scratch(Layout, String);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = format!("/coracle-test-{}-{name}", std::process::id());
        let layout = Layout::detect().unwrap();
        layout.create(&path).unwrap();
        Self(layout, path)
    }
    fn sleeper(&self) -> Child {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        self.0.attach(&self.1, child.id()).unwrap();
        child
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.0.remove_root(&self.1);
    }
}

#[test]
fn processes_are_listed_killed_and_the_cgroup_removed() {
    let s = Scratch::new("kill");
    let mut child = s.sleeper();
    assert_eq!(s.0.procs(&s.1).unwrap(), [child.id()]);
    assert!(
        s.0.remove(&s.1).is_err(),
        "a cgroup with a process in it must not be removed"
    );
    // kill_all waits until the process was reaped by its parent.
    let waiter = std::thread::spawn(move || child.wait().unwrap());
    s.0.kill_all(&s.1).unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&waiter.join().unwrap()),
        Some(9)
    );
    s.0.remove(&s.1).unwrap();
    s.0.remove(&s.1).unwrap();
    assert!(s.0.procs(&s.1).unwrap().is_empty());
}

#[test]
fn limits_are_written_and_read_back() {
    let s = Scratch::new("limits");
    let limits = Limits {
        memory: Some(64 << 20),
        pids: Some(7),
        ..Limits::default()
    };
    s.0.set_limits(&s.1, &limits).unwrap();
    let stats = s.0.stats(&s.1).unwrap();
    assert_eq!(
        (stats.memory_limit, stats.pids_limit),
        (Some(64 << 20), Some(7))
    );
    assert_eq!(s.0.oom_kills(&s.1).unwrap(), 0);
    // Up and down again, with swap, whichever must come first.
    for (memory, swap) in [(128, 256), (256, 512), (32, 32), (64, -1), (64, 64)] {
        let limits = Limits {
            memory: Some(memory << 20),
            memory_swap: Some(if swap < 0 { -1 } else { swap << 20 }),
            cpu_quota_usec: Some(50_000),
            cpu_shares: Some(512),
            pids: Some(-1),
            ..Limits::default()
        };
        s.0.set_limits(&s.1, &limits).unwrap();
        let stats = s.0.stats(&s.1).unwrap();
        assert_eq!(
            (stats.memory_limit, stats.pids_limit),
            (Some(memory << 20), None)
        );
    }
}

#[test]
fn a_frozen_process_is_killed_too() {
    let s = Scratch::new("freeze");
    let mut child = s.sleeper();
    s.0.freeze(&s.1).unwrap();
    assert!(s.0.is_frozen(&s.1).unwrap());
    let waiter = std::thread::spawn(move || child.wait().unwrap());
    s.0.kill_all(&s.1).unwrap();
    waiter.join().unwrap();
    assert!(!s.0.is_frozen(&s.1).unwrap());
}
