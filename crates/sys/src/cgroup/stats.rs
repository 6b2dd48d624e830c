//! Figures of a cgroup, for `docker stats`.

use super::{CgroupError, Layout};
use std::{collections::BTreeMap, fs, path::Path};

/// What a cgroup has used. A figure that this machine does not keep is 0, a limit that is not set is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time in nanoseconds.
    pub cpu_total_ns: u64,
    /// Of it, in programs.
    pub cpu_user_ns: u64,
    /// Of it, in the kernel.
    pub cpu_system_ns: u64,
    /// Periods of the quota that passed.
    pub periods: u64,
    /// Periods in which it was held back.
    pub throttled_periods: u64,
    /// For how long, in nanoseconds.
    pub throttled_ns: u64,
    /// Bytes of memory, cache included.
    pub memory_usage: u64,
    /// Limit in bytes.
    pub memory_limit: Option<u64>,
    /// Bytes of file cache.
    pub memory_cache: u64,
    /// Bytes of file cache not used lately, which `docker stats` takes off the usage.
    pub memory_inactive_file: u64,
    /// Highest usage in bytes.
    pub memory_peak: u64,
    /// How often a limit of memory was met.
    pub memory_failures: u64,
    /// Tasks.
    pub pids_current: u64,
    /// Limit of tasks.
    pub pids_limit: Option<u64>,
    /// Bytes read from block devices.
    pub io_read_bytes: u64,
    /// Bytes written to block devices.
    pub io_write_bytes: u64,
}

/// The kernel counts `cpuacct.stat` in hundredths of a second for user space on every architecture we build for.
const TICK_NS: u64 = 10_000_000;
/// Version 1 writes "no limit" as the largest page-aligned `i64`.
const V1_NO_LIMIT: u64 = 1 << 62;

impl Layout {
    /// Reads the figures. A missing cgroup gives zeros.
    ///
    /// # Errors
    /// `BadPath`.
    pub fn stats(&self, path: &str) -> Result<Stats, CgroupError> {
        let mut s = Stats::default();
        if let Some(dir) = self.dir("pids", path)? {
            s.pids_current = number(&dir, "pids.current").unwrap_or(0);
            s.pids_limit = number(&dir, "pids.max");
        }
        if self.is_v2() {
            self.stats_v2(path, &mut s)?
        } else {
            self.stats_v1(path, &mut s)?
        }
        Ok(s)
    }

    fn stats_v1(&self, path: &str, s: &mut Stats) -> Result<(), CgroupError> {
        if let Some(dir) = self.dir("cpuacct", path)? {
            s.cpu_total_ns = number(&dir, "cpuacct.usage").unwrap_or(0);
            let stat = table(&read(&dir, "cpuacct.stat"));
            s.cpu_user_ns = get(&stat, "user").saturating_mul(TICK_NS);
            s.cpu_system_ns = get(&stat, "system").saturating_mul(TICK_NS);
        }
        if let Some(dir) = self.dir("cpu", path)? {
            let stat = table(&read(&dir, "cpu.stat"));
            (s.periods, s.throttled_periods) =
                (get(&stat, "nr_periods"), get(&stat, "nr_throttled"));
            s.throttled_ns = get(&stat, "throttled_time");
        }
        if let Some(dir) = self.dir("memory", path)? {
            s.memory_usage = number(&dir, "memory.usage_in_bytes").unwrap_or(0);
            s.memory_limit = number(&dir, "memory.limit_in_bytes").filter(|n| *n < V1_NO_LIMIT);
            s.memory_peak = number(&dir, "memory.max_usage_in_bytes").unwrap_or(0);
            s.memory_failures = number(&dir, "memory.failcnt").unwrap_or(0);
            let stat = table(&read(&dir, "memory.stat"));
            s.memory_cache = get(&stat, "total_cache");
            s.memory_inactive_file = get(&stat, "total_inactive_file");
        }
        if let Some(dir) = self.dir("blkio", path)? {
            for line in read(&dir, "blkio.throttle.io_service_bytes_recursive").lines() {
                let mut words = line.split_whitespace().skip(1);
                let (kind, bytes) = (
                    words.next(),
                    words.next().and_then(|w| w.parse().ok()).unwrap_or(0u64),
                );
                match kind {
                    Some("Read") => s.io_read_bytes = s.io_read_bytes.saturating_add(bytes),
                    Some("Write") => s.io_write_bytes = s.io_write_bytes.saturating_add(bytes),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn stats_v2(&self, path: &str, s: &mut Stats) -> Result<(), CgroupError> {
        let Some(dir) = self.dir("", path)? else {
            return Ok(());
        };
        let cpu = table(&read(&dir, "cpu.stat"));
        let ns = |key| get(&cpu, key).saturating_mul(1000);
        (s.cpu_total_ns, s.cpu_user_ns, s.cpu_system_ns) =
            (ns("usage_usec"), ns("user_usec"), ns("system_usec"));
        (s.periods, s.throttled_periods) = (get(&cpu, "nr_periods"), get(&cpu, "nr_throttled"));
        s.throttled_ns = ns("throttled_usec");
        s.memory_usage = number(&dir, "memory.current").unwrap_or(0);
        s.memory_limit = number(&dir, "memory.max");
        s.memory_peak = number(&dir, "memory.peak").unwrap_or(0);
        s.memory_failures = get(&table(&read(&dir, "memory.events")), "max");
        let memory = table(&read(&dir, "memory.stat"));
        (s.memory_cache, s.memory_inactive_file) =
            (get(&memory, "file"), get(&memory, "inactive_file"));
        for word in read(&dir, "io.stat").split_whitespace() {
            match word
                .split_once('=')
                .map(|(k, v)| (k, v.parse().unwrap_or(0u64)))
            {
                Some(("rbytes", n)) => s.io_read_bytes = s.io_read_bytes.saturating_add(n),
                Some(("wbytes", n)) => s.io_write_bytes = s.io_write_bytes.saturating_add(n),
                _ => {}
            }
        }
        Ok(())
    }

    /// How often the kernel killed a process of this cgroup for want of memory.
    ///
    /// # Errors
    /// `BadPath`.
    pub fn oom_kills(&self, path: &str) -> Result<u64, CgroupError> {
        let file = if self.is_v2() {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        Ok(self
            .dir("memory", path)?
            .map_or(0, |dir| get(&table(&read(&dir, file)), "oom_kill")))
    }
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default()
}

fn number(dir: &Path, file: &str) -> Option<u64> {
    read(dir, file).trim().parse().ok()
}

/// Lines of a key and a number.
fn table(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|l| l.split_once(' '))
        .filter_map(|(k, v)| Some((k.to_owned(), v.trim().parse().ok()?)))
        .collect()
}

fn get(table: &BTreeMap<String, u64>, key: &str) -> u64 {
    table.get(key).copied().unwrap_or(0)
}
