//! The end: what runs is stopped in order, then every process, then the state is unmounted.

use super::{
    children::Children,
    daemon::{self, program},
};
use crate::console::{Level, failed, say};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount_remount, unmount},
    process::{Pid, Signal, kill_process},
    system::{RebootCommand, reboot},
};
use std::{
    fs, thread,
    time::{Duration, Instant},
};

/// How long containers may take, all together, before they are killed.
const CONTAINERS: Duration = Duration::from_secs(240);
/// How long other processes may take after SIGTERM.
const OTHERS: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// How the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It starts again.
    Restart,
    /// It is switched off.
    PowerOff,
}

/// Takes the machine down.
pub fn run(end: End, children: &Children) -> ! {
    let what = match end {
        End::Restart => "restarting",
        End::PowerOff => "switching off",
    };
    say(Level::Notice, what);
    daemon::ending();
    match children.spawn(program("/usr/bin/coracle").args(["system", "down"])) {
        Ok(down) => {
            if down.wait_for(CONTAINERS).is_none() {
                say(Level::Warning, "containers did not stop in time");
            }
        }
        Err(error) => failed("stopping what runs", &error),
    }
    everything(Signal::TERM);
    let until = Instant::now() + OTHERS;
    while processes().next().is_some() && Instant::now() < until {
        thread::sleep(LOOK);
    }
    everything(Signal::KILL);
    let until = Instant::now() + OTHERS;
    while processes().next().is_some() && Instant::now() < until {
        thread::sleep(LOOK);
    }
    rustix::fs::sync();
    state();
    let command = match end {
        End::Restart => RebootCommand::Restart,
        End::PowerOff => RebootCommand::PowerOff,
    };
    let error = reboot(command);
    // What cannot be switched off is at least not changed any more.
    panic!("{what}: {error:?}");
}

/// Processes that have a program: threads of the kernel have no command line.
fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        (pid != 1 && !line.is_empty())
            .then(|| Pid::from_raw(pid))
            .flatten()
    })
}

fn everything(signal: Signal) {
    for pid in processes() {
        kill_process(pid, signal).ok();
    }
}

/// Unmounts the state and what is mounted below it. What is still in use is waited for, and made read-only in the end.
fn state() {
    let until = Instant::now() + OTHERS;
    while !unmounted() && Instant::now() < until {
        thread::sleep(LOOK);
    }
    for place in mounted() {
        if let Err(error) = mount_remount(&*place, MountFlags::RDONLY, c"") {
            say(Level::Warning, &format!("{place}: {error}"));
        }
    }
}

fn unmounted() -> bool {
    for place in mounted() {
        // What is in use is tried again.
        unmount(&*place, UnmountFlags::empty()).ok();
    }
    mounted().is_empty()
}

/// The state's mounts, those that were mounted last first.
fn mounted() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = |place: &&str| *place == "/var" || place.starts_with("/var/");
    let places = mounts.lines().filter_map(|l| l.split(' ').nth(1));
    let mut places: Vec<_> = places.filter(below).map(str::to_owned).collect();
    places.reverse();
    places
}
