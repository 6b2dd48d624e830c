//! Resource limits: cgroup settings and rlimits.

use super::{Inputs, devices};
use crate::error::Result;
use crate::model::Ulimit;
use serde_json::{Map, Value, json};

/// Everything in `linux.resources`.
///
/// # Errors
/// As [`devices::rules`].
pub fn all(inputs: &Inputs<'_>) -> Result<Value> {
    let host = &inputs.record.host_config;
    let mut resources = Map::new();
    resources.insert("devices".into(), devices::rules(inputs)?);
    let mut memory = Map::new();
    if host.memory > 0 {
        memory.insert("limit".into(), host.memory.into());
        // Docker allows as much swap as memory when nothing is said.
        let swap = if host.memory_swap == 0 {
            host.memory.saturating_mul(2)
        } else {
            host.memory_swap
        };
        memory.insert("swap".into(), swap.into());
    }
    if host.memory_reservation > 0 {
        memory.insert("reservation".into(), host.memory_reservation.into());
    }
    if let Some(swappiness) = host.memory_swappiness.filter(|s| *s >= 0) {
        memory.insert("swappiness".into(), swappiness.into());
    }
    if host.oom_kill_disable == Some(true) {
        memory.insert("disableOOMKiller".into(), true.into());
    }
    let mut cpu = Map::new();
    if host.cpu_shares > 0 {
        cpu.insert("shares".into(), host.cpu_shares.into());
    }
    if host.nano_cpus > 0 {
        let (period, quota) = quota(host.nano_cpus);
        cpu.insert("period".into(), period.into());
        cpu.insert("quota".into(), quota.into());
    }
    if host.cpu_period > 0 {
        cpu.insert("period".into(), host.cpu_period.into());
    }
    if host.cpu_quota != 0 {
        cpu.insert("quota".into(), host.cpu_quota.into());
    }
    if !host.cpuset_cpus.is_empty() {
        cpu.insert("cpus".into(), json!(host.cpuset_cpus));
    }
    if !host.cpuset_mems.is_empty() {
        cpu.insert("mems".into(), json!(host.cpuset_mems));
    }
    for (name, part) in [("memory", memory), ("cpu", cpu)] {
        if !part.is_empty() {
            resources.insert(name.into(), Value::Object(part));
        }
    }
    if let Some(limit) = host.pids_limit.filter(|l| *l > 0) {
        resources.insert("pids".into(), json!({ "limit": limit }));
    }
    if host.blkio_weight > 0 {
        resources.insert("blockIO".into(), json!({ "weight": host.blkio_weight }));
    }
    Ok(Value::Object(resources))
}

/// Period and quota in microseconds for a number of processors in 1e-9.
pub fn quota(nano_cpus: i64) -> (i64, i64) {
    (100_000, nano_cpus / 10_000)
}

/// Resource limits in the OCI's names; -1 is unlimited.
pub fn rlimits(ulimits: &[Ulimit]) -> Value {
    let number = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
    ulimits
        .iter()
        .map(|u| {
            json!({
                "type": format!("RLIMIT_{}", u.name.to_ascii_uppercase()),
                "soft": number(u.soft),
                "hard": number(u.hard),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_to_quota() {
        assert_eq!(quota(1_500_000_000), (100_000, 150_000));
        assert_eq!(quota(10_000_000), (100_000, 1_000));
    }
}
