//! Other limits and another restart policy for a container that is there.

use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::model::{HostConfig, check};
use crate::record::Phase;
use crate::spec::resources;
use coracle_sys::cgroup::Limits;

impl Engine {
    /// Changes limits and restart policy. What `asked` leaves at its zero value stays as it is; limits hold at once, also for a
    /// container that runs, and after every start.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for what cannot be honoured and what contradicts what is set already, by name;
    /// [`EngineError::Cgroup`] if the kernel refuses a limit, as one below what is in use.
    pub async fn update(&self, key: &str, asked: HostConfig) -> Result<()> {
        check::changeable(&asked)?;
        let container = self.find(key)?;
        let _op = container.op.lock().await;
        let (now, runs) = container.read(|r| {
            let runs = r.state.phase == Phase::Running;
            (r.host_config.clone(), runs)
        });
        let next = merged(&now, &asked)?;
        check::limits(&next)?;
        let limits = limits(&next, &asked);
        if runs && limits != Limits::default() {
            self.0.cgroups.set_limits(&container.cgroup(), &limits)?;
        }
        container.change(|r| r.host_config = next)?;
        self.tell(&container, "update", &[]);
        Ok(())
    }
}

fn invalid<T>(text: &str) -> Result<T> {
    Err(EngineError::Invalid(text.to_owned()))
}

/// What is set, with what is asked for on top.
fn merged(now: &HostConfig, asked: &HostConfig) -> Result<HostConfig> {
    if asked.nano_cpus > 0 && (now.cpu_period > 0 || now.cpu_quota != 0) {
        return invalid(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period or CPU Quota has already been set",
        );
    }
    if (asked.cpu_period > 0 || asked.cpu_quota != 0) && now.nano_cpus > 0 {
        return invalid(
            "Conflicting options: CPU Period and CPU Quota cannot be updated as NanoCPUs has already been set",
        );
    }
    let mut next = now.clone();
    for (field, value) in [
        (&mut next.memory, asked.memory),
        (&mut next.memory_swap, asked.memory_swap),
        (&mut next.memory_reservation, asked.memory_reservation),
        (&mut next.nano_cpus, asked.nano_cpus),
        (&mut next.cpu_shares, asked.cpu_shares),
        (&mut next.cpu_period, asked.cpu_period),
        (&mut next.cpu_quota, asked.cpu_quota),
    ] {
        if value != 0 {
            *field = value;
        }
    }
    if next.memory_swap > 0 && next.memory > next.memory_swap {
        return invalid(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        );
    }
    for (field, value) in [
        (&mut next.cpuset_cpus, &asked.cpuset_cpus),
        (&mut next.cpuset_mems, &asked.cpuset_mems),
    ] {
        if !value.is_empty() {
            field.clone_from(value);
        }
    }
    if asked.blkio_weight != 0 {
        next.blkio_weight = asked.blkio_weight;
    }
    if let Some(count) = asked.pids_limit.filter(|n| *n != 0) {
        next.pids_limit = Some(count);
    }
    if !asked.restart_policy.name.is_empty() {
        if next.auto_remove && asked.restart_policy.name != "no" {
            return invalid(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            );
        }
        next.restart_policy.clone_from(&asked.restart_policy);
    }
    Ok(next)
}

/// What is to be written into the control group.
fn limits(next: &HostConfig, asked: &HostConfig) -> Limits {
    let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    let memory = asked.memory != 0 || asked.memory_swap != 0;
    // Docker allows as much swap as memory when nothing is said.
    let swap = match next.memory_swap {
        0 => next.memory.saturating_mul(2),
        swap => swap,
    };
    let (period, quota) = if asked.nano_cpus > 0 {
        resources::quota(asked.nano_cpus)
    } else {
        (asked.cpu_period, asked.cpu_quota)
    };
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    Limits {
        memory: positive(next.memory).filter(|_| memory),
        memory_swap: (memory && next.memory > 0).then_some(swap),
        memory_reservation: positive(asked.memory_reservation),
        cpu_quota_usec: (quota != 0).then_some(quota),
        cpu_period_usec: positive(period),
        cpu_shares: positive(asked.cpu_shares),
        cpuset_cpus: text(&asked.cpuset_cpus),
        cpuset_mems: text(&asked.cpuset_mems),
        pids: asked.pids_limit.filter(|n| *n != 0),
        blkio_weight: (asked.blkio_weight != 0).then_some(asked.blkio_weight),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_not_said_stays() {
        let now = HostConfig {
            memory: 64 << 20,
            cpu_shares: 7,
            ..HostConfig::default()
        };
        let asked = HostConfig {
            memory: 128 << 20,
            pids_limit: Some(5),
            ..HostConfig::default()
        };
        let next = merged(&now, &asked).unwrap();
        assert_eq!(
            (next.memory, next.cpu_shares, next.pids_limit),
            (128 << 20, 7, Some(5))
        );
        let written = limits(&next, &asked);
        assert_eq!(written.memory_swap, Some(256 << 20));
        assert_eq!((written.cpu_shares, written.pids), (None, Some(5)));
    }

    #[test]
    fn contradictions_are_refused() {
        let set = |memory: i64, swap: i64, nano: i64| HostConfig {
            memory,
            memory_swap: swap,
            nano_cpus: nano,
            ..HostConfig::default()
        };
        let error = merged(&set(64 << 20, 128 << 20, 0), &set(256 << 20, 0, 0)).unwrap_err();
        assert!(error.to_string().contains("memoryswap"), "{error}");
        let asked = HostConfig {
            cpu_quota: 1000,
            ..HostConfig::default()
        };
        assert!(merged(&set(0, 0, 1_000_000_000), &asked).is_err());
    }
}
