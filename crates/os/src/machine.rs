//! This machine: which slot it runs from, and its EFI partition.

use crate::{
    EFI, Slot,
    block::{beside, of_root, partitions},
    entries::{self, Entry, Standing},
    release::Release,
    root::{Root, RootError},
    write::{Target, WriteError},
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use semver::Version;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Where the EFI partition is while it is used.
const PLACE: &str = "/run/coracle-os/efi";
/// The same for process 1: neither unmounts what the other one uses.
const OWN_PLACE: &str = "/run/coracle-os/efi-1";
/// What the image says of itself.
const ABOUT: &str = "/usr/share/coracle/os.json";
/// The keys that the image takes updates by: minisign's `.pub` files, one after the other.
pub const KEYS: &str = "/usr/share/coracle/update-keys";

/// What the image says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Format of this file.
    pub format: u32,
    /// Its release.
    pub version: Version,
    /// The oldest release that a machine may go back to from this one.
    pub floor: Version,
    /// The minor release of etcd: `3.4`.
    pub etcd: String,
}

/// Why the machine's slots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// It runs another system.
    #[error("this machine does not run Coracle's own image: `coracle os` is for machines that do")]
    NotOurs,
    /// The root that runs is in no slot.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The image says nothing of itself.
    #[error("{ABOUT}")]
    About(#[source] io::Error),
    /// A partition is missing.
    #[error("the disk {disk} has no partition \"{name}\"")]
    Missing {
        /// The disk.
        disk: String,
        /// The partition.
        name: String,
    },
    /// The EFI partition cannot be used.
    #[error("the EFI partition {0}")]
    Efi(PathBuf, #[source] io::Error),
    /// Reading which partitions there are.
    #[error("reading which partitions there are")]
    Partitions(#[source] io::Error),
    /// There is nothing to go back to.
    #[error("slot {0} holds nothing that could be started")]
    Empty(Slot),
    /// Writing.
    #[error(transparent)]
    Write(#[from] WriteError),
}

fn efi_place() -> &'static str {
    match std::process::id() {
        1 => OWN_PLACE,
        _ => PLACE,
    }
}

/// A machine that runs from a slot.
#[derive(Debug)]
pub struct Machine {
    /// The slot that runs.
    pub slot: Slot,
    /// What the running image says of itself.
    pub about: About,
    /// The root that runs, and the partition that it is on.
    pub(crate) root: Root,
    pub(crate) device: PathBuf,
    pub(crate) disk: String,
    efi: PathBuf,
    /// One at a time has the EFI partition.
    mounted: Mutex<()>,
}

impl Machine {
    /// This machine, if it runs from a slot.
    ///
    /// # Errors
    /// [`MachineError::NotOurs`] on any other system; the others if something is missing that an image has.
    pub fn here() -> Result<Self, MachineError> {
        let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let root = match Root::of_command_line(&line) {
            Err(RootError::Missing) => return Err(MachineError::NotOurs),
            root => root?,
        };
        let about = fs::read(ABOUT).map_err(MachineError::About)?;
        let about = serde_json::from_slice(&about).map_err(|e| MachineError::About(e.into()))?;
        let all = partitions().map_err(MachineError::Partitions)?;
        // Another disk may hold the same root.
        let (slot, partition) = of_root(&all).map_err(MachineError::Partitions)?;
        let efi = beside(&all, &partition.disk, EFI).ok_or_else(|| MachineError::Missing {
            disk: partition.disk.clone(),
            name: EFI.to_owned(),
        })?;
        Ok(Self {
            slot,
            about,
            root,
            device: partition.device.clone(),
            disk: partition.disk.clone(),
            efi: efi.device.clone(),
            mounted: Mutex::default(),
        })
    }

    /// Does something with the EFI partition mounted.
    pub(crate) fn with_efi<T>(
        &self,
        act: impl FnOnce(&Path) -> Result<T, MachineError>,
    ) -> Result<T, MachineError> {
        let _alone = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |error: io::Error| MachineError::Efi(self.efi.clone(), error);
        let place = efi_place();
        fs::create_dir_all(place).map_err(failed)?;
        // A daemon that was killed in the midst of it has left it mounted.
        unmount(place, UnmountFlags::DETACH).ok();
        // FAT has no journal: what is written is written at once.
        let flags =
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::SYNCHRONOUS;
        mount(&self.efi, place, "vfat", flags, Some(c"umask=0077"))
            .map_err(|e| failed(e.into()))?;
        /// Also when `act` panics.
        struct Mounted;
        impl Drop for Mounted {
            fn drop(&mut self) {
                unmount(efi_place(), UnmountFlags::DETACH).ok();
            }
        }
        let mounted = Mounted;
        let done = act(Path::new(place));
        // What it did stands; that it stays mounted is told.
        let unmounted = unmount(place, UnmountFlags::empty());
        drop(mounted);
        let done = done?;
        unmounted.map_err(|e| failed(e.into()))?;
        Ok(done)
    }

    fn io(&self) -> impl Fn(io::Error) -> MachineError {
        let efi = self.efi.clone();
        move |error| MachineError::Efi(efi.clone(), error)
    }

    /// What the boot loader knows of.
    ///
    /// # Errors
    /// [`MachineError::Efi`].
    pub fn entries(&self) -> Result<BTreeMap<Slot, Entry>, MachineError> {
        self.with_efi(|efi| entries::read(efi).map_err(self.io()))
    }

    /// Marks the running slot as proven; true if it was not.
    ///
    /// # Errors
    /// [`MachineError::Efi`].
    pub fn prove(&self) -> Result<bool, MachineError> {
        self.with_efi(|efi| {
            let known = entries::read(efi).map_err(self.io())?;
            let Some(own) = known.get(&self.slot) else {
                return Ok(false);
            };
            if own.standing == Standing::Proven {
                return Ok(false);
            }
            let proven = Entry {
                standing: Standing::Proven,
                ..own.clone()
            };
            entries::write(efi, &proven).map_err(self.io())?;
            Ok(true)
        })
    }

    /// Takes the tries of the running slot away, so that the next start is from the other one.
    ///
    /// # Errors
    /// [`MachineError::Efi`]; [`MachineError::Empty`] if the other one cannot be started, and nothing is changed.
    pub fn condemn(&self) -> Result<(), MachineError> {
        self.with_efi(|efi| {
            let known = entries::read(efi).map_err(self.io())?;
            if !known.get(&self.slot.other()).is_some_and(Entry::hopeful) {
                return Err(MachineError::Empty(self.slot.other()));
            }
            if let Some(own) = known.get(&self.slot) {
                entries::write(efi, &own.without_tries()).map_err(self.io())?;
            }
            Ok(())
        })
    }

    /// Makes the other slot the one that is started next.
    ///
    /// # Errors
    /// [`MachineError::Empty`] if it has nothing that could be started.
    pub fn prefer_other(&self) -> Result<Entry, MachineError> {
        let other = self.slot.other();
        self.with_efi(|efi| {
            let known = entries::read(efi).map_err(self.io())?;
            let entry = known.get(&other).ok_or(MachineError::Empty(other))?;
            let first = Entry {
                order: entries::next_order(&known),
                // Whoever asks for one that failed wants to see it try.
                standing: match entry.standing {
                    Standing::Proven => Standing::Proven,
                    Standing::Tries { .. } => Standing::Tries {
                        left: entries::TRIES,
                        done: 0,
                    },
                },
                ..entry.clone()
            };
            entries::write(efi, &first).map_err(self.io())?;
            Ok(first)
        })
    }

    /// Has the boot loader forget the other slot: an update that is not to be started after all.
    ///
    /// # Errors
    /// [`MachineError::Efi`].
    pub fn forget_other(&self) -> Result<(), MachineError> {
        self.with_efi(|efi| entries::remove(efi, self.slot.other()).map_err(self.io()))
    }

    /// This boot's number, as the kernel gives it; nothing if it cannot be read, which is no boot's.
    pub fn boot() -> String {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        id.unwrap_or_default().trim().to_owned()
    }

    /// Time since the machine's start, with that in which it slept.
    pub fn up() -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::from_secs(now.tv_sec.unsigned_abs())
    }

    /// Writes a release into the other slot; `sources` gives root and kernel image.
    ///
    /// # Errors
    /// [`MachineError`]; the other slot has no entry then.
    pub fn install(
        &self,
        release: &Release,
        root: impl io::Read,
        kernel: impl io::Read,
        progress: impl FnMut(u64),
    ) -> Result<Slot, MachineError> {
        let slot = self.slot.other();
        let all = partitions().map_err(MachineError::Partitions)?;
        let partition = beside(&all, &self.disk, &slot.partition());
        let partition = partition.ok_or_else(|| MachineError::Missing {
            disk: self.disk.clone(),
            name: slot.partition(),
        })?;
        fn target<'a>(slot: Slot, device: &'a Path, efi: &'a Path) -> Target<'a> {
            Target { slot, device, efi }
        }
        let device = &partition.device;
        self.with_efi(|efi| Ok(target(slot, device, efi).begin(release)?))?;
        // The longest part, and others may look at the entries meanwhile.
        target(slot, device, Path::new(efi_place())).root(release, root, progress)?;
        self.with_efi(|efi| {
            let target = target(slot, device, efi);
            target.kernel(release, kernel)?;
            target.commit(release)?;
            Ok(slot)
        })
    }
}
