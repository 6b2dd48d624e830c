//! The store, asked of etcd itself: who has it, and what is left in it.

use crate::BOUND;
use crate::cluster::{Cluster, wait_until};
use crate::common::{errors, text};
use std::{collections::BTreeSet, time::Duration};

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
fn ctl(cluster: &Cluster, args: &[&str]) -> Result<String, String> {
    let voters = cluster.voters(1);
    let voter = *voters.first().ok_or("nobody is known to have the store")?;
    let mut ctl = cluster.machine(voter).inside("etcdctl");
    ctl.env("ETCDCTL_API", "3").args(["--endpoints", ETCD]);
    let output = ctl.args(args).output().unwrap();
    match output.status.success() {
        true => Ok(text(&output)),
        false => Err(errors(&output)),
    }
}

/// Machines have what they are to have: what is to go from one, as from one that was drained, still runs for a moment, and no list of units has it.
pub fn is_settled(cluster: &Cluster) -> Result<(), String> {
    let below = |family: &str| {
        let prefix = format!("/coracle/v1/{family}/");
        let keys = ctl(cluster, &["get", "--prefix", "--keys-only", &prefix])?;
        let keys = keys.lines().filter_map(|key| key.strip_prefix(&prefix));
        Ok::<BTreeSet<String>, String>(keys.map(str::to_owned).collect())
    };
    let (desired, actual) = (below("desired")?, below("actual")?);
    let differ: Vec<_> = desired.symmetric_difference(&actual).collect();
    match differ[..] {
        [] => Ok(()),
        _ => Err(format!("it goes or comes: {differ:?}")),
    }
}

/// How many leases there are.
pub fn leases(cluster: &Cluster) -> usize {
    wait_until("leases are listed", BOUND, || listed(cluster))
}

fn listed(cluster: &Cluster) -> Result<usize, String> {
    let said = ctl(cluster, &["lease", "list"])?;
    Ok(said.lines().filter(|line| !line.contains(' ')).count())
}

/// Nothing is left of units, and no more leases than these.
pub fn is_bare(cluster: &Cluster, before: usize) {
    for family in ["units", "revisions", "desired", "actual", "status"] {
        let prefix = format!("/coracle/v1/{family}/");
        is_empty(cluster, &prefix);
    }
    is_empty(cluster, "/coracle/v1/apps//discovery/");
    wait_until("there are no more leases than before", BOUND, || {
        let now = listed(cluster)?;
        let right = now <= before;
        right
            .then_some(())
            .ok_or_else(|| format!("{now} instead of {before}"))
    });
}

fn is_empty(cluster: &Cluster, prefix: &str) {
    wait_until(&format!("nothing is left below {prefix}"), BOUND, || {
        let keys = ctl(cluster, &["get", "--prefix", "--keys-only", prefix])?;
        keys.trim().is_empty().then_some(()).ok_or(keys)
    });
}
