//! What scenarios on several machines share.
#![allow(clippy::unwrap_used, dead_code)]

use crate::cluster::{Cluster, Machine, Setup, wait_until};
use crate::common::{errors, text};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// For what needs no machine to be noticed as lost.
pub const SOON: Duration = Duration::from_secs(30);
/// By then the units of a lost machine run elsewhere.
pub const LOST: Duration = Duration::from_secs(20);
/// Stops at once when it is asked to.
pub const SLEEPS: &str = "[Container]\nImage=bb\nExec=sleep 1000\nStopTimeout=1\n";

/// Machines of one cluster; the first began it.
pub fn joined(machines: usize) -> Cluster {
    let cluster = Setup::new(machines).build();
    for n in 2..=machines {
        join(&cluster, n, &[]);
    }
    cluster
}

/// Has a machine join; what it was told.
pub fn join(cluster: &Cluster, n: usize, more: &[&str]) -> String {
    let first = cluster.machine(1);
    let token = first.ok(&["cluster", "token", "-q"]);
    let address = first.address();
    let join = ["join", address.as_str(), "--token", token.trim()];
    cluster.machine(n).ok(&[&join[..], more].concat())
}

/// A unit of [`SLEEPS`] that may be on these machines only, by a label that they get.
pub fn on(cluster: &Cluster, label: &str, machines: &[usize]) -> String {
    for n in machines {
        let id = cluster.machine(*n).id();
        cluster
            .machine(1)
            .ok(&["machine", "label", id, &format!("{label}=yes")]);
    }
    format!("[X-Fleet]\nMachineMetadata={label}=yes\n")
}

/// Whether a container of that name runs on a machine. Its own daemon is asked, which needs no store.
pub fn runs(machine: &Machine, container: &str) -> bool {
    running(machine).iter().any(|name| name == container)
}

/// Names of a machine's running containers.
pub fn running(machine: &Machine) -> Vec<String> {
    let all = machine.ok(&["ps", "--format", "{{.Names}}"]);
    all.lines().map(str::to_owned).collect()
}

/// Machines, by number, that run a container of that name and are on.
pub fn homes(cluster: &Cluster, container: &str) -> Vec<usize> {
    let machines = cluster.machines().iter();
    let homes = machines.filter(|m| m.is_on() && runs(m, container));
    homes.map(Machine::n).collect()
}

/// Waits until just these machines run it.
pub fn is_at(cluster: &Cluster, container: &str, machines: &[usize]) {
    wait_until(&format!("{container} is on {machines:?}"), SOON, || {
        let homes = homes(cluster, container);
        (homes == machines)
            .then_some(())
            .ok_or_else(|| format!("it is on {homes:?}"))
    });
}

/// The process of a container, as its machine sees it.
pub fn pid(machine: &Machine, container: &str) -> String {
    machine.field(container, ".State.Pid")
}

/// A unit as a machine tells it.
pub fn unit(asked: &Machine, name: &str) -> Value {
    serde_json::from_str(&asked.ok(&["unit", "status", "--format", "json", name])).unwrap()
}

pub fn explained(asked: &Machine, name: &str) -> Value {
    serde_json::from_str(&asked.ok(&["unit", "explain", "--format", "json", name])).unwrap()
}

/// What a command says, as it says it.
pub struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Running {
    /// Starts our own command on a machine.
    pub fn start(machine: &Machine, args: &[&str]) -> Self {
        let mut command = machine.limited(Duration::from_secs(200));
        command.args(args).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let outputs: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        let read = |output: Box<dyn std::io::Read + Send>| {
            let said = said.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let mut said = said.lock().unwrap();
                    *said += &line;
                    said.push('\n');
                }
            })
        };
        let readers = outputs.map(read).into_iter().collect();
        Self {
            child,
            said,
            readers,
        }
    }

    /// Both of its outputs until now.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has said something.
    pub fn says(&self, words: &str, within: Duration) {
        wait_until(&format!("it says {words:?}"), within, || {
            let said = self.said();
            said.contains(words).then_some(()).ok_or(said)
        });
    }

    /// Waits for its end: its exit code and all that it said.
    pub fn ends(mut self, within: Duration) -> (Option<i32>, String) {
        let status = wait_until("the command ends", within, || {
            let ended = self.child.try_wait().unwrap();
            ended.ok_or_else(|| self.said())
        });
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        (status.code(), self.said())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of one that a failed test leaves; its machine goes as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that a command said.
pub fn all(output: &Output) -> String {
    format!("{}\n{}", text(output), errors(output))
}
