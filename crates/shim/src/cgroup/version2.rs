//! Limits in the OCI's terms, written into a version 2 group.
//!
//! The OCI speaks version 1's language; the conversions are those of the OCI runtimes. Devices are a program attached to
//! the group, which libcgroups writes. Its own loader is not used: it changes this process's limit of locked memory,
//! which exec'd processes would inherit and which takes CAP_SYS_RESOURCE; kernels since 5.11 do not ask for that.

use super::{Cgroup, resources::Writer};
use crate::error::ShimError;
use libcgroups::v2::devices::{bpf::prog, emulator::Emulator, program::Program};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxResources, LinuxThrottleDevice,
};
use rustix::fs::{Mode, OFlags, openat};
use std::{
    error::Error,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// Ends with a NUL, as the kernel reads it.
const LICENSE: &str = "Apache-2.0\0";
const DEFAULT_PERIOD: u64 = 100_000;

/// -1 is no limit.
fn or_max(n: i64) -> String {
    if n < 0 {
        "max".to_owned()
    } else {
        n.to_string()
    }
}

/// Shares of 2 to 262144 onto weights of 1 to 10000.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Weights of 10 to 1000 onto 1 to 10000.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990
}

fn memory(to: &Writer<'_>, memory: &LinuxMemory) -> Result<(), ShimError> {
    let limit = memory.limit().filter(|n| *n != 0);
    if let Some(swap) = memory.swap().filter(|n| *n != 0) {
        // Version 1 counts memory and swap together.
        let alone = match limit {
            Some(limit) if swap > 0 && limit > 0 => (swap - limit).max(0),
            _ => swap,
        };
        to.set("memory", "memory.swap.max", or_max(alone))?;
    }
    if let Some(limit) = limit {
        to.set("memory", "memory.max", or_max(limit))?;
    }
    if let Some(low) = memory.reservation().filter(|n| *n != 0) {
        to.set("memory", "memory.low", or_max(low))?;
    }
    Ok(())
}

fn cpu(to: &Writer<'_>, cpu: &LinuxCpu) -> Result<(), ShimError> {
    if let Some(shares) = cpu.shares().filter(|n| *n != 0) {
        to.set("cpu", "cpu.weight", weight(shares))?;
    }
    let (quota, period) = (
        cpu.quota().filter(|q| *q != 0),
        cpu.period().filter(|p| *p != 0),
    );
    if quota.is_some() || period.is_some() {
        let (quota, period) = (
            or_max(quota.unwrap_or(-1)),
            period.unwrap_or(DEFAULT_PERIOD),
        );
        to.set("cpu", "cpu.max", format!("{quota} {period}"))?;
    }
    if let Some(cpus) = cpu.cpus().as_ref().filter(|c| !c.is_empty()) {
        to.set("cpuset", "cpuset.cpus", cpus)?;
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|c| !c.is_empty()) {
        to.set("cpuset", "cpuset.mems", mems)?;
    }
    Ok(())
}

fn block_io(to: &Writer<'_>, block: &LinuxBlockIo) -> Result<(), ShimError> {
    if let Some(weight) = block.weight().filter(|w| *w != 0) {
        if to.cgroup.has("io", "io.bfq.weight") {
            to.set("io", "io.bfq.weight", weight)?;
        } else {
            to.set("io", "io.weight", io_weight(weight))?;
        }
    }
    let throttle = |list: &Option<Vec<LinuxThrottleDevice>>, key: &str| {
        list.iter().flatten().try_for_each(|d| {
            to.set(
                "io",
                "io.max",
                format!("{}:{} {key}={}", d.major(), d.minor(), d.rate()),
            )
        })
    };
    throttle(block.throttle_read_bps_device(), "rbps")?;
    throttle(block.throttle_write_bps_device(), "wbps")?;
    throttle(block.throttle_read_iops_device(), "riops")?;
    throttle(block.throttle_write_iops_device(), "wiops")
}

/// Writes the limits of a group.
///
/// # Errors
/// [`ShimError::Limit`] with the value that the kernel refused, [`ShimError::Devices`].
pub(super) fn apply(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), ShimError> {
    let to = Writer { cgroup };
    if let Some(rules) = resources.devices() {
        devices(cgroup, rules).map_err(|source| ShimError::Devices {
            path: cgroup.path.clone(),
            source,
        })?;
    }
    if let Some(wanted) = resources.memory() {
        memory(&to, wanted)?;
    }
    if let Some(wanted) = resources.cpu() {
        cpu(&to, wanted)?;
    }
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        to.set(
            "pids",
            "pids.max",
            or_max(if limit > 0 { limit } else { -1 }),
        )?;
    }
    if let Some(block) = resources.block_io() {
        block_io(&to, block)?;
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let key = format!("hugetlb.{}.max", page.page_size());
        to.set("hugetlb", &key, page.limit())?;
    }
    for (key, value) in resources.unified().iter().flatten() {
        // A file of the group itself and of nothing else.
        if key.contains('/') {
            return Err(ShimError::Invalid(format!(
                "{key:?} is no file of a control group"
            )));
        }
        to.set("unified", key, value)?;
    }
    Ok(())
}

fn devices(
    cgroup: &Cgroup,
    rules: &[LinuxDeviceCgroup],
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut emulator = Emulator::with_default_allow(false);
    emulator.add_rules(rules);
    let program = Program::from_rules(&emulator.rules, emulator.default_allow)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = cgroup
        .machine
        .others
        .first()
        .ok_or("no version 2 hierarchy")?;
    let group = openat(root, cgroup.below(), flags, Mode::empty())?;
    let loaded = prog::load(LICENSE, program.bytecodes())?;
    // SAFETY: just made by the kernel and owned by nobody else. The group holds the program when this closes.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    prog::attach(loaded.as_raw_fd(), group.as_raw_fd())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions() {
        assert_eq!(
            [weight(2), weight(1024), weight(262_144), weight(0)],
            [1, 39, 10_000, 1]
        );
        assert_eq!([io_weight(10), io_weight(1000)], [1, 10_000]);
        assert_eq!([or_max(-1), or_max(7)], ["max", "7"]);
    }
}
