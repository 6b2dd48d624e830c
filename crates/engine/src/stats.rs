//! Figures of running containers.

use crate::engine::Engine;
use crate::error::Result;
use crate::record::Phase;
use chrono::{DateTime, Utc};
use coracle_sys::cgroup::Stats;
use std::collections::BTreeMap;
use std::fs;

/// Counters of one interface, from inside the container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interface {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Of them, erroneous.
    pub rx_errors: u64,
    /// Of them, dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Of them, erroneous.
    pub tx_errors: u64,
    /// Of them, dropped.
    pub tx_dropped: u64,
}

/// One look at a container.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// When.
    pub read: Option<DateTime<Utc>>,
    /// What its control groups count.
    pub cgroup: Stats,
    /// By interface name; empty on the host's network.
    pub networks: BTreeMap<String, Interface>,
    /// Processor time of the whole machine in nanoseconds.
    pub system_cpu_ns: u64,
    /// Processors of the machine.
    pub online_cpus: u32,
    /// Bytes of memory of the machine, which is the limit of a container that has none.
    pub machine_memory: u64,
}

impl Engine {
    /// Looks at a container; zeros if it does not run, as Docker answers.
    ///
    /// # Errors
    /// [`crate::EngineError::NotFound`].
    pub fn sample(&self, key: &str) -> Result<Sample> {
        let container = self.find(key)?;
        let (phase, pid, own_network) =
            container.read(|r| (r.state.phase, r.state.pid, !r.state.endpoints.is_empty()));
        if phase != Phase::Running {
            return Ok(Sample::default());
        }
        Ok(Sample {
            read: Some(Utc::now()),
            cgroup: self.0.cgroups.stats(&container.cgroup())?,
            networks: if own_network {
                interfaces(&fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
            } else {
                BTreeMap::new()
            },
            system_cpu_ns: system_cpu(&fs::read_to_string("/proc/stat").unwrap_or_default()),
            online_cpus: std::thread::available_parallelism()
                .map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
            machine_memory: machine_memory(),
        })
    }

    /// Host process ids of everything in a container.
    ///
    /// # Errors
    /// [`crate::EngineError::Conflict`] if it does not run.
    pub fn pids(&self, key: &str) -> Result<Vec<u32>> {
        let container = self.find(key)?;
        if container.phase() != Phase::Running {
            return Err(crate::EngineError::Conflict(format!(
                "container {} is not running",
                container.id
            )));
        }
        Ok(self.0.cgroups.procs(&container.cgroup())?)
    }
}

/// Bytes of memory of this machine.
pub fn machine_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Reads `/proc/<pid>/net/dev`, without the loopback.
fn interfaces(text: &str) -> BTreeMap<String, Interface> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let Some((name, counters)) = line.split_once(':') else {
            continue;
        };
        let c: Vec<u64> = counters
            .split_whitespace()
            .map(|n| n.parse().unwrap_or(0))
            .collect();
        if name.trim() == "lo" || c.len() < 12 {
            continue;
        }
        let interface = Interface {
            rx_bytes: c[0],
            rx_packets: c[1],
            rx_errors: c[2],
            rx_dropped: c[3],
            tx_bytes: c[8],
            tx_packets: c[9],
            tx_errors: c[10],
            tx_dropped: c[11],
        };
        found.insert(name.trim().to_owned(), interface);
    }
    found
}

/// Reads the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal in hundredths of a
/// second.
fn system_cpu(text: &str) -> u64 {
    let line = text.lines().next().unwrap_or_default();
    let ticks: u64 = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|n| n.parse::<u64>().ok())
        .sum();
    ticks * 10_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 100 2 3 4 0 0 0 0 500 6 7 8 0 0 0 0\n";
        let found = interfaces(text);
        assert_eq!(found.len(), 1);
        assert_eq!((found["eth0"].rx_bytes, found["eth0"].tx_dropped), (100, 8));
        assert_eq!(system_cpu("cpu  1 2 3 4 5 6 7 8 9 10\n"), 360_000_000);
    }
}
