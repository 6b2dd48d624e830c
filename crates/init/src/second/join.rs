//! Becoming a member of the cluster that the configuration names, once: a machine that left does not come back by a restart.

use super::{
    children::Children,
    daemon::{LOGS, program},
};
use crate::console::{Level, say};
use coracle_cloud_config::Join;
use coracle_os::files::replace;
use std::{
    fs, io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// The address that was joined.
const JOINED: &str = "/var/lib/coracle-os/joined";
/// The daemon's word that the machine belongs to a cluster.
const MEMBER: &str = "/var/lib/coracle/cluster/mode.json";
/// The machine to be joined may boot at the same time.
const LIMIT: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_secs(2);

/// Joins if it has not.
///
/// # Errors
/// That it did not work out; the next boot tries again.
pub fn once(join: &Join, children: &Children) -> io::Result<()> {
    if fs::read_to_string(JOINED).is_ok_and(|known| known.trim() == join.address) {
        return Ok(());
    }
    let mode = fs::read(MEMBER).unwrap_or_default();
    let mode: serde_json::Value = serde_json::from_slice(&mode).unwrap_or_default();
    if mode.to_string().contains("\"etcd\"") {
        // It joined, and its power went before that was noted, or somebody else had it join.
        return note(join);
    }
    let end = Instant::now() + LIMIT;
    let done = loop {
        let mut command = program("/usr/bin/coracle");
        // As a flag it would be shown to whoever lists processes.
        command
            .args(["join", &join.address])
            .env("CORACLE_TOKEN", &join.token);
        match children.run(&mut command) {
            Err(_) if Instant::now() < end => thread::sleep(PAUSE),
            done => break done,
        }
    };
    done.map_err(|e| io::Error::other(format!("{}: {e}; see {LOGS}", join.address)))?;
    say(
        Level::Notice,
        &format!("joined the cluster of {}", join.address),
    );
    note(join)
}

fn note(join: &Join) -> io::Result<()> {
    replace(
        Path::new(JOINED),
        format!("{}\n", join.address).as_bytes(),
        0o600,
    )
}
