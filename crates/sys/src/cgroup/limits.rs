//! Writing limits, in the files of either version.

use super::{CgroupError, Layout, Limits, control::write, layout::io_error};
use std::{fs, io, path::Path};

/// Writes files of one cgroup.
struct Writer<'a> {
    layout: &'a Layout,
    path: &'a str,
}

impl Writer<'_> {
    fn file(&self, controller: &str, name: &str) -> Result<std::path::PathBuf, CgroupError> {
        match self.layout.dir(controller, self.path)? {
            Some(dir) => Ok(dir.join(name)),
            None => Err(io_error(
                "write",
                Path::new(name),
                io::ErrorKind::NotFound.into(),
            )),
        }
    }

    fn set(&self, controller: &str, name: &str, value: impl ToString) -> Result<(), CgroupError> {
        write(&self.file(controller, name)?, &value.to_string())
    }

    fn number(&self, controller: &str, name: &str) -> Option<i64> {
        let text = fs::read_to_string(self.file(controller, name).ok()?).ok()?;
        text.trim().parse().ok()
    }
}

/// As version 2 writes numbers that can be unlimited.
fn or_max(number: i64) -> String {
    if number < 0 {
        "max".to_owned()
    } else {
        number.to_string()
    }
}

impl Layout {
    /// Writes limits; an absent one is left as it is.
    ///
    /// # Errors
    /// `Io` with the file that refused, also if this machine lacks the controller. Those before it are in force then.
    pub fn set_limits(&self, path: &str, limits: &Limits) -> Result<(), CgroupError> {
        let to = Writer { layout: self, path };
        if self.is_v2() {
            to.version2(limits)
        } else {
            to.version1(limits)
        }
    }
}

impl Writer<'_> {
    fn version1(&self, limits: &Limits) -> Result<(), CgroupError> {
        const BOTH: &str = "memory.memsw.limit_in_bytes";
        // The kernel keeps the sum at or above the limit at every moment.
        let rises = limits.memory_swap.is_some_and(|swap| {
            swap < 0 || self.number("memory", BOTH).is_some_and(|now| swap >= now)
        });
        if let (true, Some(swap)) = (rises, limits.memory_swap) {
            self.set("memory", BOTH, swap)?;
        }
        if let Some(bytes) = limits.memory {
            self.set("memory", "memory.limit_in_bytes", bytes)?;
        }
        if let (false, Some(swap)) = (rises, limits.memory_swap) {
            self.set("memory", BOTH, swap)?;
        }
        if let Some(bytes) = limits.memory_reservation {
            self.set("memory", "memory.soft_limit_in_bytes", bytes)?;
        }
        if let Some(shares) = limits.cpu_shares {
            self.set("cpu", "cpu.shares", shares.clamp(2, 262_144))?;
        }
        if let Some(period) = limits.cpu_period_usec {
            self.set("cpu", "cpu.cfs_period_us", period)?;
        }
        if let Some(quota) = limits.cpu_quota_usec {
            self.set("cpu", "cpu.cfs_quota_us", quota.max(-1))?;
        }
        if let Some(weight) = limits.blkio_weight {
            let bfq = !self.file("blkio", "blkio.weight")?.exists();
            let name = if bfq {
                "blkio.bfq.weight"
            } else {
                "blkio.weight"
            };
            self.set("blkio", name, weight)?;
        }
        self.same(limits)
    }

    fn version2(&self, limits: &Limits) -> Result<(), CgroupError> {
        if let Some(bytes) = limits.memory {
            self.set("memory", "memory.max", bytes)?;
            if let Some(swap) = limits.memory_swap {
                let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                let swap = if swap < 0 { -1 } else { (swap - bytes).max(0) };
                self.set("memory", "memory.swap.max", or_max(swap))?;
            }
        }
        if let Some(bytes) = limits.memory_reservation {
            self.set("memory", "memory.low", bytes)?;
        }
        if let Some(shares) = limits.cpu_shares {
            // The conversion of the OCI runtimes: 2…262144 onto 1…10000.
            let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
            self.set("cpu", "cpu.weight", weight)?;
        }
        if limits.cpu_quota_usec.is_some() || limits.cpu_period_usec.is_some() {
            let file = self.file("cpu", "cpu.max")?;
            let now = fs::read_to_string(&file).map_err(|e| io_error("read", &file, e))?;
            let quota = limits.cpu_quota_usec.map(or_max);
            let quota = quota.unwrap_or_else(|| now.split(' ').next().unwrap_or("max").into());
            let period = limits.cpu_period_usec.map(|p| format!(" {p}"));
            write(&file, &(quota + &period.unwrap_or_default()))?;
        }
        if let Some(weight) = limits.blkio_weight {
            // The conversion of the OCI runtimes: 10…1000 onto 1…10000.
            let weight = 1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990;
            self.set("io", "io.weight", weight)?;
        }
        self.same(limits)
    }

    /// What is the same in both.
    fn same(&self, limits: &Limits) -> Result<(), CgroupError> {
        if let Some(list) = &limits.cpuset_cpus {
            self.set("cpuset", "cpuset.cpus", list)?;
        }
        if let Some(list) = &limits.cpuset_mems {
            self.set("cpuset", "cpuset.mems", list)?;
        }
        if let Some(count) = limits.pids {
            let count = if count <= 0 { -1 } else { count };
            self.set("pids", "pids.max", or_max(count))?;
        }
        Ok(())
    }
}
