//! Limits in the OCI's terms, written into version 1 hierarchies; those of version 2 are in [`super::version2`].
//!
//! A controller that this machine lacks is said in the holder's log and done without, as the rest of the container can
//! still be had; a value that the kernel refuses is an error.

use super::Cgroup;
use crate::error::{ShimError, note};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};
use rustix::io::Errno;

/// Writes keys of one group.
pub(super) struct Writer<'a> {
    pub(super) cgroup: &'a Cgroup,
}

impl Writer<'_> {
    pub(super) fn set(
        &self,
        controller: &str,
        key: &str,
        value: impl ToString,
    ) -> Result<(), ShimError> {
        let value = value.to_string();
        let Some(file) = self.cgroup.open(controller, key) else {
            note(
                "shim",
                &format!("{key}={value} is left out: this machine has no {controller} controller"),
            );
            return Ok(());
        };
        match file.and_then(|fd| rustix::io::write(&fd, value.as_bytes())) {
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => {
                note(
                    "shim",
                    &format!("{key}={value} is left out: this kernel does not have it"),
                );
                Ok(())
            }
            Err(e) => Err(ShimError::Limit {
                key: key.to_owned(),
                value,
                source: e.into(),
            }),
        }
    }

    fn memory(&self, memory: &LinuxMemory) -> Result<(), ShimError> {
        let nonzero = |n: Option<i64>| n.filter(|n| *n != 0);
        if let Some(limit) = nonzero(memory.limit()) {
            self.set("memory", "memory.limit_in_bytes", limit)?;
        }
        if let Some(swap) = nonzero(memory.swap()) {
            self.set("memory", "memory.memsw.limit_in_bytes", swap)?;
        }
        if let Some(low) = nonzero(memory.reservation()) {
            self.set("memory", "memory.soft_limit_in_bytes", low)?;
        }
        if let Some(swappiness) = memory.swappiness() {
            self.set("memory", "memory.swappiness", swappiness)?;
        }
        if memory.disable_oom_killer() == Some(true) {
            self.set("memory", "memory.oom_control", 1)?;
        }
        Ok(())
    }

    fn cpu(&self, cpu: &LinuxCpu) -> Result<(), ShimError> {
        if let Some(shares) = cpu.shares().filter(|n| *n != 0) {
            self.set("cpu", "cpu.shares", shares)?;
        }
        if let Some(period) = cpu.period().filter(|n| *n != 0) {
            self.set("cpu", "cpu.cfs_period_us", period)?;
        }
        if let Some(quota) = cpu.quota().filter(|n| *n != 0) {
            self.set("cpu", "cpu.cfs_quota_us", quota)?;
        }
        if let Some(period) = cpu.realtime_period().filter(|n| *n != 0) {
            self.set("cpu", "cpu.rt_period_us", period)?;
        }
        if let Some(runtime) = cpu.realtime_runtime().filter(|n| *n != 0) {
            self.set("cpu", "cpu.rt_runtime_us", runtime)?;
        }
        if let Some(cpus) = cpu.cpus().as_ref().filter(|c| !c.is_empty()) {
            self.set("cpuset", "cpuset.cpus", cpus)?;
        }
        if let Some(mems) = cpu.mems().as_ref().filter(|c| !c.is_empty()) {
            self.set("cpuset", "cpuset.mems", mems)?;
        }
        Ok(())
    }

    fn block_io(&self, block: &LinuxBlockIo) -> Result<(), ShimError> {
        if let Some(weight) = block.weight().filter(|w| *w != 0) {
            let bfq = matches!(self.cgroup.open("blkio", "blkio.weight"), Some(Err(_)));
            let key = if bfq {
                "blkio.bfq.weight"
            } else {
                "blkio.weight"
            };
            self.set("blkio", key, weight)?;
        }
        let throttle = |list: &Option<Vec<LinuxThrottleDevice>>, key: &str| {
            list.iter().flatten().try_for_each(|d| {
                self.set(
                    "blkio",
                    key,
                    format!("{}:{} {}", d.major(), d.minor(), d.rate()),
                )
            })
        };
        throttle(
            block.throttle_read_bps_device(),
            "blkio.throttle.read_bps_device",
        )?;
        throttle(
            block.throttle_write_bps_device(),
            "blkio.throttle.write_bps_device",
        )?;
        throttle(
            block.throttle_read_iops_device(),
            "blkio.throttle.read_iops_device",
        )?;
        throttle(
            block.throttle_write_iops_device(),
            "blkio.throttle.write_iops_device",
        )
    }
}

/// Writes the limits of a group.
///
/// # Errors
/// [`ShimError::Limit`] with the value that the kernel refused, [`ShimError::Devices`] on version 2.
pub fn apply(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), ShimError> {
    if cgroup.machine().is_v2() {
        return super::version2::apply(cgroup, resources);
    }
    let writer = Writer { cgroup };
    for rule in resources.devices().iter().flatten() {
        let key = if rule.allow() {
            "devices.allow"
        } else {
            "devices.deny"
        };
        writer.set("devices", key, rule)?;
    }
    if let Some(memory) = resources.memory() {
        writer.memory(memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        writer.cpu(cpu)?;
    }
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        let value = if limit > 0 {
            limit.to_string()
        } else {
            "max".to_owned()
        };
        writer.set("pids", "pids.max", value)?;
    }
    if let Some(block) = resources.block_io() {
        writer.block_io(block)?;
    }
    for page in resources.hugepage_limits().iter().flatten() {
        writer.set(
            "hugetlb",
            &format!("hugetlb.{}.limit_in_bytes", page.page_size()),
            page.limit(),
        )?;
    }
    Ok(())
}
