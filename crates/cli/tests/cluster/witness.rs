//! A witness of who runs: instances of one unit, wherever they are, meet in one directory of the test's host and not by any network,
//! so that two at once are seen also when their machines do not see each other.
//!
//! Each instance tries a lock of the kernel that only one can have, and that goes with its process however that ends. What
//! happens is appended to a log, one word and who it is a line:
//!
//! | word | meaning |
//! | --- | --- |
//! | `begin` | it starts; with its `CORACLE_FENCE`, 0 if it has none |
//! | `two` | another one runs: it waits then until that one is gone |
//! | `stale` | one with a greater fence was there before |
//! | `beat` | it runs; several a second, with the time since boot in seconds |
//! | `end` | it was asked to stop |

use super::Cluster;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::path::PathBuf;

/// The instance's program, in the image `bb`.
pub const PROGRAM: &str = r#"#!/bin/sh
me="$MACHINE $(hostname) ${CORACLE_FENCE:-0}"
say() { read -r now _ </proc/uptime; echo "$1 $me $now" >>/witness/log; }
sleeper=
trap 'say end; kill $sleeper 2>/dev/null; exit 0' TERM
say begin
exec 8>>/witness/alive 9>>/witness/lock
flock -s 8
if ! flock -n 9; then
    say two
    flock 9 8>&- &
    sleeper=$!
    wait $sleeper
fi
fence=${CORACLE_FENCE:-0}
while :; do
    greatest=0
    read -r greatest </witness/fence
    if [ "$fence" -lt "${greatest:-0}" ]; then say stale; else echo "$fence" >/witness/fence; fi
    say beat
    sleep 0.1 8>&- 9>&- &
    sleeper=$!
    wait $sleeper
done
"#;

/// One line of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub word: String,
    /// Host name of its machine, `m1`.
    pub machine: String,
    /// Host name of the container.
    pub instance: String,
    pub fence: u64,
    /// Seconds since the boot of the test's host.
    pub at: f64,
}

fn parse(line: &str) -> Option<Seen> {
    let mut words = line.split(' ');
    let mut word = || words.next().map(str::to_owned);
    Some(Seen {
        word: word()?,
        machine: word()?,
        instance: word()?,
        fence: word()?.parse().ok()?,
        at: word()?.parse().ok()?,
    })
}

/// One witness, for one unit.
pub struct Witness {
    dir: PathBuf,
}

impl Witness {
    /// `name` tells several witnesses of a cluster apart.
    pub fn new(cluster: &Cluster, name: &str) -> Self {
        let dir = cluster.dir().join(format!("witness-{name}"));
        fs::create_dir_all(&dir).unwrap();
        for file in ["log", "lock", "alive"] {
            fs::write(dir.join(file), "").unwrap();
        }
        fs::write(dir.join("fence"), "0\n").unwrap();
        Self { dir }
    }

    /// Text of a `.container` unit of which only one may run; `more` is appended, with its own `[Section]`.
    pub fn unit(&self, more: &str) -> String {
        let dir = self.dir.display();
        format!(
            "[Container]\nImage=bb\nExec=witness\nEnvironment=MACHINE=%H\nVolume={dir}:/witness\nStopTimeout=2\n{more}"
        )
    }

    /// What `--volume` must be for a plain container with the command `witness`.
    pub fn volume(&self) -> String {
        format!("{}:/witness", self.dir.display())
    }

    pub fn seen(&self) -> Vec<Seen> {
        let log = fs::read_to_string(self.dir.join("log")).unwrap();
        log.lines().filter_map(parse).collect()
    }

    /// Whoever began while another one ran.
    pub fn doubles(&self) -> Vec<Seen> {
        self.seen()
            .into_iter()
            .filter(|s| s.word == "two")
            .collect()
    }

    /// Whoever went on after one with a greater fence.
    pub fn stale(&self) -> Vec<Seen> {
        self.seen()
            .into_iter()
            .filter(|s| s.word == "stale")
            .collect()
    }

    /// Who gave the last sign of life.
    pub fn last(&self) -> Option<Seen> {
        self.seen().into_iter().rfind(|s| s.word == "beat")
    }

    /// Whether somebody runs, or is stopped where it was: the kernel is asked, not the log.
    pub fn is_held(&self) -> bool {
        // Not the lock itself: looking at it would take it for an instant.
        let alive = File::open(self.dir.join("alive")).unwrap();
        flock(&alive, FlockOperation::NonBlockingLockExclusive).is_err()
    }

    /// Nobody ever ran beside another one.
    pub fn was_alone(&self) {
        let doubles = self.doubles();
        assert!(
            doubles.is_empty(),
            "two at once: {doubles:?} in\n{:#?}",
            self.seen()
        );
    }
}
