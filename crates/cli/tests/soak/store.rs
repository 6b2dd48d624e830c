//! The store, asked of etcd itself: who has it, and what is left in it.

use crate::BOUND;
use crate::cluster::{Cluster, wait_until};
use crate::common::text;
use std::time::Duration;

/// etcd lets nobody in for some seconds after each change.
const LONG: Duration = Duration::from_secs(90);
/// Where a machine's etcd is on loopback.
const ETCD: &str = "127.0.0.1:7375";

/// Waits until as many machines have the store as should, so that which of them may be lost is known.
pub fn has_voters(cluster: &Cluster) {
    let wanted = match cluster.machines().len() {
        0..=2 => 1,
        3..=6 => 3,
        _ => 5,
    };
    wait_until(&format!("{wanted} have the store"), LONG, || {
        let status = cluster.status(1);
        let machines = status["machines"].as_array().unwrap().iter();
        let voters = machines.filter(|m| m["voter"] == true && m["inStep"] == true);
        let right = voters.count() == wanted;
        right.then_some(()).ok_or_else(|| status.to_string())
    });
}

/// What etcdctl says on a machine that has the store.
fn ctl(cluster: &Cluster, args: &[&str]) -> String {
    let voter = *cluster.voters(1).first().unwrap();
    let mut ctl = cluster.machine(voter).inside("etcdctl");
    ctl.env("ETCDCTL_API", "3").args(["--endpoints", ETCD]);
    text(&ctl.args(args).output().unwrap())
}

/// How many leases there are.
pub fn leases(cluster: &Cluster) -> usize {
    let said = ctl(cluster, &["lease", "list"]);
    said.lines().filter(|line| !line.contains(' ')).count()
}

/// Nothing is left of units, and no more leases than these.
pub fn is_bare(cluster: &Cluster, before: usize) {
    for family in ["units", "revisions", "desired", "actual", "status"] {
        let prefix = format!("/coracle/v1/{family}/");
        is_empty(cluster, &prefix);
    }
    is_empty(cluster, "/coracle/v1/apps//discovery/");
    wait_until("there are no more leases than before", BOUND, || {
        let now = leases(cluster);
        let right = now <= before;
        right
            .then_some(())
            .ok_or_else(|| format!("{now} instead of {before}"))
    });
}

fn is_empty(cluster: &Cluster, prefix: &str) {
    wait_until(&format!("nothing is left below {prefix}"), BOUND, || {
        let keys = ctl(cluster, &["get", "--prefix", "--keys-only", prefix]);
        keys.trim().is_empty().then_some(()).ok_or(keys)
    });
}
