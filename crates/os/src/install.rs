//! The running system onto another disk.
//!
//! In this order, each step on the disk before the next one: what was there is gone; the table of partitions; the root, read back and
//! checked by its hash; an EFI partition with the kernel image and the configuration; the boot entry; and last, by a new name, the boot
//! loader. Firmware passes over a disk without one, so that whenever the power goes the disk starts nothing, or all of it.

use crate::{
    CONFIGURATION, EFI, STATE, Slot,
    block::{Partition, beside, partitions},
    entries::{self, Entry, Standing},
    layout,
    machine::{Machine, MachineError},
    partitions::{SECTOR, TableError, sectors},
    release::Part,
    root::hex,
    write::{self, WriteError},
};
use rustix::{
    fs::syncfs,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Command,
};

/// Where the new EFI partition is while it is filled.
const PLACE: &str = "/run/coracle-os/target";
/// `O_EXCL`, which for a disk means that nobody uses it or a partition of it.
const ALONE: i32 = rustix::fs::OFlags::EXCL.bits() as i32;
/// What the firmware starts, and the name that it has until all else is there.
const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
const UNFINISHED: &str = "EFI/BOOT/BOOTX64.NEW";
const SETTINGS: &str = "loader/loader.conf";
/// Bytes at the state's beginning by which it is told whether a file system is to be made there.
const BEGIN: usize = 1 << 20;

/// Why a disk is not taken, or was not written.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It is not there, or no disk.
    #[error("{0} is no disk")]
    NoDisk(PathBuf, #[source] io::Error),
    /// It is a part of one.
    #[error("{path} is a partition: name the whole disk, /dev/{disk}")]
    Part {
        /// What was named.
        path: PathBuf,
        /// Its disk.
        disk: String,
    },
    /// It runs from there.
    #[error("this machine runs from {0}: `coracle os update` writes to it")]
    Own(PathBuf),
    /// It cannot be written.
    #[error("{0} is read-only")]
    ReadOnly(PathBuf),
    /// Its sectors have another size.
    #[error("{path} has sectors of {size} bytes; only those of 512 are known here")]
    Sectors {
        /// The disk.
        path: PathBuf,
        /// Bytes.
        size: u64,
    },
    /// It is too small.
    #[error("{path} has {} MiB, and {} MiB are needed", .has >> 20, layout::NEEDED >> 20)]
    Small {
        /// The disk.
        path: PathBuf,
        /// Bytes.
        has: u64,
    },
    /// Somebody uses it.
    #[error("{0} is in use: unmount what is on it first")]
    Busy(PathBuf),
    /// There is something on it.
    #[error("{path} is not empty{found}: --erase writes over all of it")]
    NotEmpty {
        /// The disk.
        path: PathBuf,
        /// The names of its partitions, in words.
        found: String,
    },
    /// Reading or writing failed.
    #[error("{0}")]
    Io(PathBuf, #[source] io::Error),
    /// The table of partitions.
    #[error(transparent)]
    Table(#[from] TableError),
    /// What was written is not what runs.
    #[error(
        "{0} does not hold the root that runs here: the disk may be failing, or the one that this machine runs from"
    )]
    Differs(PathBuf),
    /// A program that was needed for it failed.
    #[error("{name} of {path}: {said}")]
    Program {
        /// Which one.
        name: &'static str,
        /// The disk or partition.
        path: PathBuf,
        /// What it said.
        said: String,
    },
    /// A file was not written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The machine that runs.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |error| InstallError::Io(path, error)
}

/// Writes the system that runs onto a disk, with a configuration; its state is empty. `tell` hears how it goes, a line each.
///
/// # Errors
/// [`InstallError`]. If it was begun, the disk starts nothing.
pub fn install(
    machine: &Machine,
    onto: &Path,
    erase: bool,
    configuration: &str,
    tell: impl Fn(String),
) -> Result<(), InstallError> {
    // One that was killed in the midst of it has left it mounted.
    unmount(PLACE, UnmountFlags::DETACH).ok();
    let (path, name) = whole(onto)?;
    if name == machine.disk {
        return Err(InstallError::Own(path));
    }
    let disk = taken(&path, &name, erase)?;
    let shown = path.display();
    tell(format!("{shown}: partitions"));
    layout::erase(&disk).map_err(failed(&path))?;
    layout::create(&disk, &path)?;
    // Its partitions are used next.
    drop(disk);
    program("blockdev", &["--rereadpt"], &path)?;
    let all = partitions().map_err(MachineError::Partitions)?;
    let find = |wanted: &str| -> Result<&Partition, InstallError> {
        let missing = || MachineError::Missing {
            disk: name.clone(),
            name: wanted.to_owned(),
        };
        Ok(beside(&all, &name, wanted).ok_or_else(missing)?)
    };
    let state = &find(STATE)?.device;
    clear(state).map_err(failed(state))?;
    root(machine, &find(&Slot::A.partition())?.device, &tell)?;
    tell(format!("{shown}: kernel image and configuration"));
    let efi = &find(EFI)?.device;
    program("mkfs.fat", &["-F", "32", "-n", "CORACLE-EFI"], efi)?;
    machine.with_efi(|own| Ok(fill(machine, own, efi, configuration)))??;
    let version = &machine.about.version;
    tell(format!(
        "{shown} holds release {version}, and can be started from"
    ));
    Ok(())
}

/// The device and the name of a whole disk.
fn whole(onto: &Path) -> Result<(PathBuf, String), InstallError> {
    let no = |error| InstallError::NoDisk(onto.to_owned(), error);
    let path = onto.canonicalize().map_err(no)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let class = Path::new("/sys/class/block").join(&*name);
    let about = fs::metadata(&path).map_err(no)?;
    if !about.file_type().is_block_device() || !class.exists() {
        return Err(no(io::Error::from(io::ErrorKind::InvalidInput)));
    }
    if class.join("partition").exists() {
        let whole = class.canonicalize().map_err(no)?;
        let disk = whole.parent().and_then(Path::file_name);
        let disk = disk.unwrap_or_default().to_string_lossy().into_owned();
        return Err(InstallError::Part { path, disk });
    }
    let name = name.into_owned();
    Ok((path, name))
}

/// The disk, opened so that nobody else uses it, if it may be written over.
fn taken(path: &Path, name: &str, erase: bool) -> Result<File, InstallError> {
    let class = Path::new("/sys/class/block").join(name);
    let told = |what: &str| {
        let text = fs::read_to_string(class.join(what)).unwrap_or_default();
        text.trim().parse::<u64>().ok()
    };
    if told("ro") == Some(1) {
        return Err(InstallError::ReadOnly(path.to_owned()));
    }
    let size = told("queue/logical_block_size").unwrap_or(SECTOR);
    if size != SECTOR {
        let path = path.to_owned();
        return Err(InstallError::Sectors { path, size });
    }
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).custom_flags(ALONE);
    let disk = opened.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => InstallError::Busy(path.to_owned()),
        _ => InstallError::NoDisk(path.to_owned(), error),
    })?;
    let has = sectors(&disk).map_err(failed(path))? * SECTOR;
    if has < layout::NEEDED {
        let path = path.to_owned();
        return Err(InstallError::Small { path, has });
    }
    let entries = fs::read_dir(&class).map_err(failed(&class))?.flatten();
    let parts = entries.filter(|e| e.path().join("partition").exists());
    let mut parts: Vec<_> = parts
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    parts.sort();
    let empty = parts.is_empty() && layout::is_empty(&disk).map_err(failed(path))?;
    if !empty && !erase {
        let found = match parts.as_slice() {
            [] => String::new(),
            parts => format!(" (it has {})", parts.join(", ")),
        };
        let path = path.to_owned();
        return Err(InstallError::NotEmpty { path, found });
    }
    Ok(disk)
}

/// So that a file system is made there when the disk is started from.
fn clear(state: &Path) -> io::Result<()> {
    let device = OpenOptions::new().write(true).open(state)?;
    device.write_all_at(&vec![0; BEGIN], 0)?;
    device.sync_all()
}

/// Copies the root and its tree, and checks every block of it on the new disk.
fn root(machine: &Machine, device: &Path, tell: &impl Fn(String)) -> Result<(), InstallError> {
    let source = File::open(&machine.device).map_err(failed(&machine.device))?;
    let mut target = OpenOptions::new()
        .write(true)
        .open(device)
        .map_err(failed(device))?;
    let size = machine.root.size();
    let (mut done, mut buffer) = (0, vec![0; 1 << 20]);
    while done < size {
        let length = usize::try_from(size - done).unwrap_or(usize::MAX);
        let length = length.min(buffer.len());
        let part = &mut buffer[..length];
        let read = source.read_exact_at(part, done);
        read.map_err(failed(&machine.device))?;
        target.write_all(part).map_err(failed(device))?;
        done += length as u64;
        if done % (16 << 20) == 0 || done == size {
            tell(format!("{} of {} MiB", done >> 20, size >> 20));
        }
    }
    target.sync_all().map_err(failed(device))?;
    write::forget(&target).map_err(failed(device))?;
    drop(target);
    match machine.root.is_whole_in(device).map_err(failed(device))? {
        true => Ok(()),
        false => Err(InstallError::Differs(device.to_owned())),
    }
}

/// Runs a program of the image on a disk or a partition.
fn program(name: &'static str, words: &[&str], device: &Path) -> Result<(), InstallError> {
    let done = Command::new(name).args(words).arg(device).output();
    let done = done.map_err(failed(device))?;
    if !done.status.success() {
        return Err(InstallError::Program {
            name,
            path: device.to_owned(),
            said: String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        });
    }
    Ok(())
}

/// Fills the new EFI partition from this machine's own.
fn fill(
    machine: &Machine,
    own: &Path,
    device: &Path,
    configuration: &str,
) -> Result<(), InstallError> {
    fs::create_dir_all(PLACE).map_err(failed(Path::new(PLACE)))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(device, PLACE, "vfat", flags, Some(c"umask=0077"))
        .map_err(|e| failed(device)(e.into()))?;
    let place = Path::new(PLACE);
    let filled = files(machine, own, place, configuration);
    let unmounted = unmount(PLACE, UnmountFlags::empty());
    if unmounted.is_err() {
        unmount(PLACE, UnmountFlags::DETACH).ok();
    }
    filled?;
    unmounted.map_err(|e| failed(device)(e.into()))
}

fn files(
    machine: &Machine,
    own: &Path,
    place: &Path,
    configuration: &str,
) -> Result<(), InstallError> {
    let kernel = entries::kernel(Slot::A);
    for (name, new) in [
        (entries::kernel(machine.slot).as_str(), kernel.as_str()),
        (SETTINGS, SETTINGS),
        (LOADER, UNFINISHED),
    ] {
        carry(&own.join(name), &place.join(new))?;
    }
    let path = place.join(CONFIGURATION);
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(configuration.as_bytes())?;
        file.sync_all()
    });
    written.map_err(failed(&path))?;
    on_disk(place).map_err(failed(place))?;
    let entry = Entry {
        slot: Slot::A,
        standing: Standing::Proven,
        order: 1,
        title: format!("Coracle {}", machine.about.version),
    };
    entries::write(place, &entry).map_err(failed(place))?;
    on_disk(place).map_err(failed(place))?;
    let path = place.join(LOADER);
    fs::rename(place.join(UNFINISHED), &path)
        .and_then(|()| on_disk(place))
        .map_err(failed(&path))
}

/// Copies a file and reads back what it became.
fn carry(from: &Path, to: &Path) -> Result<(), InstallError> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).map_err(failed(directory))?;
    }
    let mut source = File::open(from).map_err(failed(from))?;
    let mut digest = Sha256::new();
    let size = io::copy(&mut source, &mut digest).map_err(failed(from))?;
    let part = Part {
        size,
        sha256: hex(&digest.finalize()),
    };
    let source = File::open(from).map_err(failed(from))?;
    let mut target = File::create(to).map_err(failed(to))?;
    let limited = source.take(size);
    write::copy("the EFI partition", &part, limited, &mut target, to, |_| {})?;
    write::read_back(&part, to)?;
    Ok(())
}

/// All of a file system.
fn on_disk(place: &Path) -> io::Result<()> {
    Ok(syncfs(File::open(place)?)?)
}
