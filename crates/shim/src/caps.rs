//! Capability sets as bit masks, in the kernel's numbering (`capabilities(7)`).

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// A set of capabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CapSet(pub u64);

impl CapSet {
    /// What Docker gives when nothing is said.
    pub const DOCKER_DEFAULT: Self = Self(0xa804_25fb);

    /// Whether the capability of this number is in it.
    pub fn has(self, number: u32) -> bool {
        number < 64 && self.0 & (1 << number) != 0
    }

    /// With one more.
    #[must_use]
    pub fn with(self, number: u32) -> Self {
        Self(self.0 | 1u64.checked_shl(number).unwrap_or(0))
    }

    /// What both have.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn of(list: Option<&Capabilities>) -> Self {
        list.into_iter()
            .flatten()
            .fold(Self(0), |set, cap| set.with(number(*cap)))
    }
}

/// The five sets of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapSets {
    /// Limit of what a program's file can give.
    pub bounding: CapSet,
    /// In force.
    pub effective: CapSet,
    /// Can be put in force.
    pub permitted: CapSet,
    /// Kept over exec where the file agrees.
    pub inheritable: CapSet,
    /// Kept over exec of any file.
    pub ambient: CapSet,
}

impl From<&LinuxCapabilities> for CapSets {
    fn from(sets: &LinuxCapabilities) -> Self {
        Self {
            bounding: CapSet::of(sets.bounding().as_ref()),
            effective: CapSet::of(sets.effective().as_ref()),
            permitted: CapSet::of(sets.permitted().as_ref()),
            inheritable: CapSet::of(sets.inheritable().as_ref()),
            ambient: CapSet::of(sets.ambient().as_ref()),
        }
    }
}

/// The kernel's number of a capability.
pub fn number(cap: Capability) -> u32 {
    use Capability as C;
    match cap {
        C::Chown => 0,
        C::DacOverride => 1,
        C::DacReadSearch => 2,
        C::Fowner => 3,
        C::Fsetid => 4,
        C::Kill => 5,
        C::Setgid => 6,
        C::Setuid => 7,
        C::Setpcap => 8,
        C::LinuxImmutable => 9,
        C::NetBindService => 10,
        C::NetBroadcast => 11,
        C::NetAdmin => 12,
        C::NetRaw => 13,
        C::IpcLock => 14,
        C::IpcOwner => 15,
        C::SysModule => 16,
        C::SysRawio => 17,
        C::SysChroot => 18,
        C::SysPtrace => 19,
        C::SysPacct => 20,
        C::SysAdmin => 21,
        C::SysBoot => 22,
        C::SysNice => 23,
        C::SysResource => 24,
        C::SysTime => 25,
        C::SysTtyConfig => 26,
        C::Mknod => 27,
        C::Lease => 28,
        C::AuditWrite => 29,
        C::AuditControl => 30,
        C::Setfcap => 31,
        C::MacOverride => 32,
        C::MacAdmin => 33,
        C::Syslog => 34,
        C::WakeAlarm => 35,
        C::BlockSuspend => 36,
        C::AuditRead => 37,
        C::Perfmon => 38,
        C::Bpf => 39,
        C::CheckpointRestore => 40,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_become_bits() {
        let sets: LinuxCapabilities =
            serde_json::from_str(r#"{"bounding":["CAP_CHOWN","CAP_BPF"],"effective":[]}"#).unwrap();
        let sets = CapSets::from(&sets);
        assert_eq!(sets.bounding.0, 1 | 1 << 39);
        assert!(sets.bounding.has(39) && !sets.bounding.has(40) && !sets.bounding.has(200));
        assert_eq!(sets.effective, CapSet(0));
    }
}
