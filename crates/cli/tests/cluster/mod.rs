//! Machines in one test: each is a set of namespaces with a disk, an address and a daemon of its own, and all are on one bridge.
//!
//! Everything is inside one outer set of namespaces, the *room*, that a test makes and that goes with it. On the host nothing
//! is seen of it but processes and control groups: no link, no rule, no mount. So tests run beside each other and beside a
//! Docker of the host. Whoever is first in a namespace of processes takes all others with it, so that a machine that is
//! killed, and the room when its test is killed, leave nothing behind.
//!
//! ```text
//! room (net, mnt, pid) ── bridge br0, the faults' rules, the disks
//!   ├─ outside (net)                  192.0.2.254: gateway to nowhere, registry
//!   ├─ m1 (net, mnt, pid, uts, ipc)   192.0.2.1, 2001:db8::1: daemon, holder, shims, containers
//!   └─ m2 …
//! ```
//!
//! # A worked example
//!
//! ```ignore
//! let cluster = Cluster::new(3);
//! cluster.machine(1).ok(&["run", "-d", "--name", "web", "bb", "sleep", "1000"]);
//! cluster.machine(2).cut();                 // no packet comes or goes
//! cluster.machine(3).kill_all();            // the power is gone
//! wait_for("m1 notices", Duration::from_secs(20), || …);
//! cluster.machine(2).heal();
//! cluster.machine(3).start();               // on the same disk
//! ```
//!
//! Machines are counted from 1, as their names are: `machine(1)` is `m1`.
#![allow(dead_code)]

mod address;
pub mod chaos;
mod disk;
mod forming;
pub mod holding;
mod machine;
pub mod network;
pub mod outside;
pub mod parts;
mod probe;
pub mod processes;
pub mod recovery;
pub mod signals;
mod sweep;
pub mod traces;
pub mod wait;
pub mod witness;

pub use machine::Machine;
pub use traces::Traces;
pub use wait::{wait_for, wait_until};

use holding::Holding;
use network::Network;
use outside::Outside;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use sweep::Place;

/// What every daemon gets besides its directories; `{address}` is the machine's IPv4 address.
const FLAGS: &[&str] = &[outside::REGISTRY, "--advertise={address}"];
/// Lines of a daemon's log that a failed test shows.
const SHOWN: usize = 60;

/// What machines are made like.
#[derive(Debug, Clone)]
pub struct Setup {
    /// How many.
    pub machines: usize,
    /// Size of each machine's disk in MiB. It is memory, of which only what is used is taken.
    pub disk_mib: u32,
    /// Flags for every daemon besides those that the harness gives; `{address}` is the machine's IPv4 address.
    pub flags: Vec<String>,
    /// Text of every daemon's configuration file.
    pub config: String,
    /// Whether daemons are started and have the image `bb` ([`parts::busybox`]).
    pub started: bool,
}

impl Setup {
    pub fn new(machines: usize) -> Self {
        Self {
            machines,
            disk_mib: 2048,
            flags: Vec::new(),
            config: String::new(),
            started: true,
        }
    }

    /// One more flag for every daemon.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Daemons are not started.
    pub fn unstarted(mut self) -> Self {
        self.started = false;
        self
    }

    pub fn build(self) -> Cluster {
        Cluster::with(&self)
    }
}

/// What machines and the cluster share.
struct Shared {
    room: Holding,
    network: Mutex<Network>,
    journal: Mutex<Vec<String>>,
    begun: Instant,
    flags: Vec<String>,
    config: PathBuf,
    dir: PathBuf,
}

impl Shared {
    /// Notes what was done, for whoever reads of a failure.
    fn note(&self, what: String) {
        let line = format!("{:9.3} {what}", self.begun.elapsed().as_secs_f64());
        let mut journal = self.journal.lock().unwrap_or_else(|e| e.into_inner());
        journal.push(line);
    }
}

/// Machines on one bridge. All of it goes when this is dropped.
pub struct Cluster {
    machines: Vec<Machine>,
    outside: Outside,
    shared: Arc<Shared>,
    // The last field: its directory goes when all others are gone.
    place: Place,
}

impl Cluster {
    /// `machines` machines whose daemons answer and have the image `bb`.
    pub fn new(machines: usize) -> Self {
        Setup::new(machines).build()
    }

    /// Machines as asked for.
    pub fn with(setup: &Setup) -> Self {
        sweep::sweep();
        let place = Place::make(setup.machines);
        let dir = place.dir().to_owned();
        let config = dir.join("coracle.toml");
        std::fs::write(&config, &setup.config).unwrap();
        let room = Holding::room(&dir);
        let network = Mutex::new(Network::new(&room));
        let own = FLAGS.iter().map(|f| (*f).to_owned());
        let shared = Arc::new(Shared {
            room,
            network,
            journal: Mutex::default(),
            begun: Instant::now(),
            flags: own.chain(setup.flags.iter().cloned()).collect(),
            config,
            dir,
        });
        let outside = Outside::new(&shared);
        let machine = |n: usize| Machine::new(&shared, n, place.id(n), setup.disk_mib);
        let cluster = Self {
            machines: (1..=setup.machines).map(machine).collect(),
            outside,
            shared,
            place,
        };
        if setup.started {
            cluster.each(|machine| {
                machine.start();
                machine.load(&parts::busybox(), "bb");
            });
        }
        cluster
    }

    /// Machine `m<n>`, counted from 1.
    pub fn machine(&self, n: usize) -> &Machine {
        &self.machines[n - 1]
    }

    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// What is beside the machines.
    pub fn outside(&self) -> &Outside {
        &self.outside
    }

    /// Does something on all machines at the same time.
    pub fn each(&self, work: impl Fn(&Machine) + Sync) {
        let work = &work;
        std::thread::scope(|scope| {
            for machine in &self.machines {
                scope.spawn(move || work(machine));
            }
        });
    }

    /// Ends all faults of the network. Machines that are paused or dead stay so.
    pub fn heal(&self) {
        self.shared.note("the network is healed".to_owned());
        self.shared
            .network
            .lock()
            .unwrap()
            .heal_all(&self.shared.room);
    }

    /// Where the cluster's files are; machines see them at the same path.
    pub fn dir(&self) -> &Path {
        self.place.dir()
    }

    /// What must be gone once this is dropped.
    pub fn traces(&self) -> Traces {
        Traces::of(self)
    }

    /// What was done to machines, and the ends of their daemons' logs.
    pub fn story(&self) -> String {
        let mut told = String::from("--- what was done (seconds since the start)\n");
        for line in self
            .shared
            .journal
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .iter()
        {
            let _ = writeln!(told, "{line}");
        }
        for machine in &self.machines {
            let log = machine.log();
            let lines: Vec<_> = log.lines().collect();
            let _ = writeln!(told, "--- {}, the end of its daemon's log", machine.name());
            for line in &lines[lines.len().saturating_sub(SHOWN)..] {
                let _ = writeln!(told, "{line}");
            }
        }
        told
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.story());
        }
        for machine in &self.machines {
            machine.let_go();
        }
        self.outside.let_go();
        self.shared.room.end();
        for machine in &self.machines {
            machine.reap();
        }
        self.place.remove();
    }
}
