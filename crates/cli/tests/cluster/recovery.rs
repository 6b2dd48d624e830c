//! Machines that lose those who have the store: how they stand before, what is carried to them, and what they have after.

use super::{Cluster, Machine, Setup, parts, wait_for};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const SOON: Duration = Duration::from_secs(60);
pub const ETCD: &str = "/usr/bin/etcd";
pub const ETCDCTL: &str = "/usr/bin/etcdctl";

/// A machine that cannot run etcd, so that it never votes.
pub fn hide_etcd(machine: &Machine) {
    for program in [ETCD, ETCDCTL] {
        let mut mount = machine.inside("mount");
        let hidden = mount.args(["--bind", "/dev/null", program]).status();
        assert!(hidden.unwrap().success());
    }
}

pub fn show_etcd(machine: &Machine) {
    let shown = machine.inside("umount").args([ETCD, ETCDCTL]).status();
    assert!(shown.unwrap().success());
}

/// Machines of one cluster, of which only the first can run etcd.
pub fn joined(machines: usize, config: &str) -> Cluster {
    joined_and_more(machines, 0, config)
}

/// As [`joined`], and machines that are in none.
pub fn joined_and_more(machines: usize, more: usize, config: &str) -> Cluster {
    let cluster = Setup {
        config: config.to_owned(),
        ..Setup::new(machines + more).unstarted()
    }
    .build();
    cluster.each(|machine| {
        machine.boot();
        if (2..=machines).contains(&machine.n()) {
            hide_etcd(machine);
        }
        machine.start();
        machine.load(&parts::busybox(), "bb");
    });
    let first = cluster.machine(1);
    for n in 2..=machines {
        join(first, cluster.machine(n));
    }
    cluster
}

pub fn join(at: &Machine, newcomer: &Machine) {
    let token = at.ok(&["cluster", "token", "-q"]);
    newcomer.ok(&["join", &at.address(), "--token", token.trim()]);
}

/// A file of `STATE_DIR/cluster`, as the test reaches it.
pub fn file(machine: &Machine, name: &str) -> PathBuf {
    machine.path(&machine.state_dir().join("cluster").join(name))
}

/// Whether the store answers there, and no recovery is on its way.
pub fn answers(machine: &Machine) -> bool {
    let said = machine.ok(&["cluster", "status", "--format", "json"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    said["answers"] == true && said["recovering"] == false
}

pub fn status(machine: &Machine) -> String {
    machine.ok(&["cluster", "status"])
}

/// Starts a unit that stays, on that machine.
pub fn stay(asked: &Machine, name: &str, on: &Machine) {
    stay_for(asked, name, on, 1000);
}

pub fn stay_for(asked: &Machine, name: &str, on: &Machine, seconds: u32) {
    let text = format!(
        "[Container]\nImage=bb\nExec=sleep {seconds}\n[X-Fleet]\nMachineID={}\n",
        on.id()
    );
    let file = asked.unit(&format!("{name}.container"), &text);
    asked.ok(&["unit", "start", &file]);
}

pub fn pid(machine: &Machine, container: &str) -> String {
    machine.field(container, ".State.Pid")
}

pub fn lists(machine: &Machine, words: &str) -> bool {
    let listed = machine.coracle(&["unit", "list"]);
    String::from_utf8_lossy(&listed.stdout)
        .lines()
        .any(|line| line.contains(words) && line.contains("active") && !line.contains("inactive"))
}

/// A copy of the store that the first machine took, and the CA's key, as an operator may have them, at another machine.
pub fn carry(from: &Machine, taken: &str, to: &Machine, key: bool) -> String {
    let copy = to.state_dir().join("copy.db");
    std::fs::copy(from.path(Path::new(taken.trim())), to.path(&copy)).unwrap();
    if key {
        std::fs::copy(file(from, "ca.key"), file(to, "ca.key")).unwrap();
    }
    copy.to_str().unwrap().to_owned()
}

/// Machines that all can run etcd, once they stand as is said of each.
pub fn standing(machines: usize, of_each: &[&str]) -> Cluster {
    let cluster = Setup::new(machines).build();
    for n in 2..=machines {
        join(cluster.machine(1), cluster.machine(n));
    }
    stand(&cluster, of_each);
    cluster
}

pub fn stand(cluster: &Cluster, of_each: &[&str]) {
    let asked = cluster.machines().last().unwrap();
    wait_for(&format!("machines are {of_each:?}"), 2 * SOON, || {
        let said = status(asked);
        let mut all = cluster.machines().iter().zip(of_each);
        all.all(|(machine, is)| {
            let mut lines = said.lines();
            let line = lines.find(|line| line.starts_with(machine.id()));
            line.is_some_and(|line| line.contains(is))
        })
    });
}
