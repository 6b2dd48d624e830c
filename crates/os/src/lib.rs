//! The image on a machine's disk.
//!
//! A disk has, in this order, an EFI partition with the boot loader and its entries ([`entries`]), two slots with a root file system
//! each ([`root`]), and the state partition, which takes what is left ([`partitions`]). A slot is a letter; what it holds is told by
//! the kernel's command line, which is part of the signed image that the boot loader starts.
//!
//! # A worked example
//!
//! Version 7 runs from slot `a`. Version 8 is written into slot `b`, its kernel image beside it, and an entry `coracle-b+3.conf`,
//! whose number is higher than that of `coracle-a.conf`. The boot loader takes `b` and writes `coracle-b+2-1.conf`. What is good is
//! renamed to `coracle-b.conf`; what is not, three times, becomes `coracle-b+0-3.conf`, and the boot loader goes by `a` again.

pub mod block;
pub mod entries;
pub mod files;
pub mod guid;
pub mod history;
pub mod install;
mod layout;
pub mod machine;
pub mod modules;
pub mod partitions;
pub mod release;
pub mod root;
pub mod turns;
pub mod write;

/// One of the two places for a root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The first one.
    A,
    /// The second one.
    B,
}

impl Slot {
    /// The letter in names of files and of partitions.
    pub fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The slot that a partition of this name is.
    pub fn of_partition(name: &str) -> Option<Self> {
        [Self::A, Self::B]
            .into_iter()
            .find(|slot| slot.partition() == name)
    }

    /// The name of its partition.
    pub fn partition(self) -> String {
        format!("coracle-{}", self.letter())
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.letter())
    }
}

/// How process 1 reports of the boot, as JSON.
pub const BOOT_REPORT: &str = "/run/coracle-os/boot.json";
/// The configuration that the machine goes by.
pub const RUNNING: &str = "/run/coracle-os/cloud-config.yaml";
/// Where the EFI partition has a configuration.
pub const CONFIGURATION: &str = "coracle/cloud-config.yaml";
/// The label of the container that serves SSH; its value tells how it was made.
pub const SSH_LABEL: &str = "coracle.os.ssh";
/// The name of the EFI partition.
pub const EFI: &str = "coracle-efi";
/// The name of the state partition.
pub const STATE: &str = "coracle-state";
