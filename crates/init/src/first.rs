//! The first stage, in the file system inside the kernel image: find the slot that holds the root that the command line names, open it
//! under verity, and go on in it.
//!
//! Where that does not work the slot is lost, proven or not: its entry is marked as having no tries left, and the machine
//! restarts into the other one. If that has none left either, the machine says so and stays, for a person to look at.

use crate::{
    console::{Level, failed, say},
    devices::Devices,
    modprobe, mounts, watchdog,
};
use coracle_os::{
    EFI, Slot,
    block::{Partition, beside, partitions},
    entries,
    guid::Guid,
    modules::Modules,
    partitions::Table,
    root::{NAME, Root, RootError},
};
use coracle_sys::watchdog::Watchdog;
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, mount_move, unmount},
    process::{chdir, chroot},
    system::{RebootCommand, reboot},
};
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
    time::Duration,
};

/// A file of the first file system alone.
pub const MARK: &str = "/first-stage";
/// Where it is mounted.
const ROOT: &str = "/root";
/// The list, in the root, of files that are read before it counts as sound: what the machine cannot be reached or updated without.
const EARLY: &str = "usr/share/coracle/early-reads";
/// How long disks may take to show up.
const DISKS: Duration = Duration::from_secs(60);
/// How long it is waited for the disk that the boot loader is on, before another one with the same root will do.
const OWN: Duration = Duration::from_secs(20);
/// The boot loader's words among the firmware's variables.
const LOADER: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// File systems and targets that no device asks for.
const NEEDED: [&str; 7] = [
    "dm-mod",
    "dm-verity",
    "erofs",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "efivarfs",
];

/// Why the root cannot be used.
#[derive(Debug, thiserror::Error)]
enum FirstError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("the root cannot be mounted")]
    Mount(#[source] io::Error),
    #[error("/{0} of the root cannot be read")]
    Read(String, #[source] io::Error),
    #[error("going on in the root")]
    Switch(#[source] io::Error),
}

/// Goes on in the root of this kernel's slot, or restarts the machine.
pub fn run() -> ! {
    if let Err(error) = mounts::kernel() {
        failed("the first file systems", &error);
    }
    let (mut slot, mut fed) = (None, None);
    let error = match start(&mut slot, &mut fed) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    failed("this slot cannot be started", &error);
    // What does not show which slot it is has a damaged tree, or is on a disk that is not there.
    let slot = slot.or_else(selected);
    give_up(slot.as_ref(), fed);
}

/// Only an error comes back.
enum Never {}

fn start(slot: &mut Option<Partition>, fed: &mut Option<Watchdog>) -> Result<Never, FirstError> {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let root = Root::of_command_line(&line)?;
    let modules = Modules::read(&modprobe::directory()).unwrap_or_default();
    NEEDED.iter().for_each(|name| load(&modules, name));
    let mut devices = Devices::new(modules).map_err(FirstError::Switch)?;
    devices.look();
    *fed = watchdog::start(|| load(devices.modules(), watchdog::SOFT));
    let feed = || fed.iter().for_each(watchdog::feed);
    let mut until = |limit: Duration, own: Option<Guid>| {
        let looks = limit.div_duration_f32(watchdog::FEED).ceil() as usize;
        (0..looks).find_map(|_| {
            feed();
            devices.until(watchdog::FEED, || find(&root, own))
        })
    };
    let own = own_disk();
    let found = own.and_then(|_| until(OWN, own));
    // A copy of the root on another disk has another machine's state.
    let found = match own.is_some_and(is_there) {
        true => found,
        false => found.or_else(|| until(DISKS, None)),
    };
    let Some(partition) = found else {
        return Err(RootError::NotFound(root.hash).into());
    };
    *slot = Some(partition.clone());
    let device = root.open(&partition.device, NAME)?;
    // Its devices are those of the kernel, below /dev, and nobody becomes root by a program of it.
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount(&device, ROOT, "erofs", flags, None).map_err(|e| FirstError::Mount(e.into()))?;
    read_early(feed)?;
    go_on(fed).map_err(FirstError::Switch)
}

fn load(modules: &Modules, name: &str) {
    for module in modules.find(name) {
        if let Err(error) = modules.load(module) {
            say(Level::Warning, &format!("module {module}: {error}"));
        }
    }
}

/// The identifier of the EFI partition that the boot loader is on, by its own word.
fn own_disk() -> Option<Guid> {
    Guid::parse(&loader("LoaderDevicePartUUID")?)
}

/// Whether a disk with that EFI partition is there.
fn is_there(efi: Guid) -> bool {
    let all = partitions().unwrap_or_default();
    all.iter().any(|p| holds(&p.disk, Some(efi)))
}

/// Whether a disk has that EFI partition; if none is given, each one does.
fn holds(disk: &str, efi: Option<Guid>) -> bool {
    let table = || Table::read(&Path::new("/dev").join(disk)).ok();
    efi.is_none_or(|id| table().and_then(|t| t.id_of(EFI)) == Some(id))
}

/// The partition that holds the root, on the disk with that EFI partition.
fn find(root: &Root, efi: Option<Guid>) -> Option<Partition> {
    let all = partitions().ok()?;
    let slots = all.iter().filter(|p| Slot::of_partition(&p.name).is_some());
    let mut slots = slots.filter(|p| holds(&p.disk, efi));
    slots
        .find(|p| match root.is_in(&p.device) {
            Ok(holds) => holds,
            Err(error) => {
                say(Level::Warning, &format!("{}: {error}", p.device.display()));
                false
            }
        })
        .cloned()
}

/// A text that the boot loader has left among the firmware's variables (systemd's Boot Loader Interface).
fn loader(name: &str) -> Option<String> {
    let place = "/sys/firmware/efi/efivars";
    mount("efivarfs", place, "efivarfs", MountFlags::RDONLY, None).ok()?;
    let bytes = fs::read(Path::new(place).join(format!("{name}-{LOADER}"))).ok();
    unmount(place, UnmountFlags::DETACH).ok();
    // Four bytes of attributes, then UTF-16.
    let bytes = bytes?;
    let units = bytes.get(4..)?.chunks_exact(2);
    let units: Vec<_> = units.map(|u| u16::from_le_bytes([u[0], u[1]])).collect();
    Some(
        String::from_utf16_lossy(&units)
            .trim_end_matches('\0')
            .to_owned(),
    )
}

/// The slot whose entry the boot loader took, by its own word.
fn selected() -> Option<Partition> {
    let name = loader("LoaderEntrySelected")?;
    let slot = entries::slot_of(&name)?;
    let own = own_disk();
    let all = partitions().ok()?;
    let slots = all.into_iter().filter(|p| p.name == slot.partition());
    let mut found = slots.filter(|p| holds(&p.disk, own));
    let one = found.next();
    // With two such disks nobody knows which one it was.
    one.filter(|_| found.next().is_none())
}

/// Reads what the machine cannot do without, so that a damaged block shows now and not when it is too late for another slot.
fn read_early(feed: impl Fn()) -> Result<(), FirstError> {
    let failed = |path: &str| {
        let path = path.to_owned();
        move |error| FirstError::Read(path, error)
    };
    let list = fs::read_to_string(Path::new(ROOT).join(EARLY)).map_err(failed(EARLY))?;
    let mut buffer = vec![0; 1 << 20];
    for path in list.lines() {
        let mut file = File::open(Path::new(ROOT).join(path)).map_err(failed(path))?;
        while file.read(&mut buffer).map_err(failed(path))? > 0 {
            feed();
        }
    }
    Ok(())
}

/// Takes the kernel's file systems along and becomes the root's own process 1.
fn go_on(fed: &mut Option<Watchdog>) -> io::Result<Never> {
    for place in ["/dev", "/proc", "/sys"] {
        mount_move(place, format!("{ROOT}{place}"))?;
    }
    // What is in memory stays there otherwise.
    for entry in fs::read_dir("/")?.flatten() {
        let path = entry.path();
        if path != Path::new(ROOT) && entry.file_name() != "dev" {
            let gone = if path.is_dir() && !path.is_symlink() {
                match entry.file_name().to_str() {
                    Some("proc" | "sys") => Ok(()),
                    _ => fs::remove_dir_all(&path),
                }
            } else {
                fs::remove_file(&path)
            };
            // Then it takes its room, which is no reason to stop.
            gone.ok();
        }
    }
    chdir(ROOT)?;
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")?;
    let mut init = Command::new("/sbin/init");
    watchdog::leave(fed.take(), &mut init);
    Err(init.exec())
}

/// Takes the slot's tries away and restarts, if another slot is left to try.
fn give_up(slot: Option<&Partition>, fed: Option<Watchdog>) -> ! {
    let other = match slot.map(mark_bad) {
        Some(Ok(other)) => other,
        Some(Err(error)) => {
            failed("the boot entry cannot be marked as bad", &error);
            // What is unproven has its tries counted by the boot loader.
            true
        }
        // Without a disk there is nothing to mark; it may be there next time.
        None => true,
    };
    if !other {
        say(
            Level::Error,
            "no slot of this machine can be started; the state is not touched",
        );
        loop {
            fed.iter().for_each(watchdog::feed);
            std::thread::sleep(watchdog::FEED);
        }
    }
    say(Level::Error, "restarting");
    restart()
}

/// Restarts the machine at once.
pub fn restart() -> ! {
    rustix::fs::sync();
    let error = reboot(RebootCommand::Restart);
    say(Level::Error, &format!("restarting: {error:?}"));
    loop {
        std::thread::park();
    }
}

/// Writes the slot's entry without tries; true if the other slot is left.
fn mark_bad(partition: &Partition) -> io::Result<bool> {
    let slot = Slot::of_partition(&partition.name).ok_or(io::ErrorKind::NotFound)?;
    let all = partitions()?;
    let efi = beside(&all, &partition.disk, EFI).ok_or(io::ErrorKind::NotFound)?;
    fs::create_dir_all("/efi")?;
    mount(&efi.device, "/efi", "vfat", mounts::BASE, None)?;
    let place = Path::new("/efi");
    let done = entries::read(place).and_then(|known| {
        let other = known.get(&slot.other());
        if !other.is_some_and(entries::Entry::hopeful) {
            // This one may work the next time, the other one will not.
            return Ok(false);
        }
        if let Some(entry) = known.get(&slot) {
            entries::write(place, &entry.without_tries())?;
        }
        Ok(true)
    });
    unmount(place, UnmountFlags::empty())?;
    done
}
