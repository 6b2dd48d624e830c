//! The state partition: found on the disk that the root is on, made at first boot, grown when the disk has grown.

use super::{children::Children, daemon::program};
use crate::{
    console::{Level, failed, say},
    devices::Devices,
};
use coracle_os::{
    STATE,
    block::{Partition, beside, partitions},
    partitions::{SECTOR, grow},
};
use rustix::mount::{MountFlags, mount};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

const WAIT: Duration = Duration::from_secs(60);
/// Where it is mounted.
const PLACE: &str = "/var";
/// What of it there is from the beginning.
const DIRECTORIES: [&str; 5] = ["lib/coracle", "lib/coracle-os", "log", "tmp", "root"];

/// Mounts it.
///
/// # Errors
/// That it is not there, or cannot be made or mounted. Something that is damaged is never made anew.
pub fn open(devices: &mut Devices, children: &Children) -> io::Result<()> {
    let disk = disk_of_root()?;
    let found = devices.until(WAIT, || {
        let all = partitions().ok()?;
        beside(&all, &disk, STATE).cloned()
    });
    let Some(partition) = found else {
        let text = format!("/dev/{disk} has no partition \"{STATE}\"");
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    };
    let device = partition.device.clone();
    let mut grown = enlarge(&partition).unwrap_or_else(|error| {
        failed("the state partition keeps its size", &*error);
        false
    });
    for name in devices.modules().find("ext4") {
        devices.modules().load(name)?;
    }
    if is_empty(&device)? {
        say(
            Level::Notice,
            &format!("making the state on {}", device.display()),
        );
        // Inodes for many small files, as layers have them. What the kernel does lazily afterwards the first boot need not wait for.
        children.run(
            program("mkfs.ext4")
                .args([
                    "-q",
                    "-L",
                    "coracle-state",
                    "-i",
                    "8192",
                    "-E",
                    "lazy_itable_init=1",
                ])
                .arg(&device),
        )?;
        grown = false;
    } else {
        check(&device, children)?;
    }
    let flags = MountFlags::NODEV | MountFlags::NOATIME;
    mount(&device, PLACE, "ext4", flags, None)?;
    if grown {
        // Mounted and in use: the kernel does it.
        children.run(program("resize2fs").arg(&device))?;
    }
    for directory in DIRECTORIES {
        fs::create_dir_all(Path::new(PLACE).join(directory))?;
    }
    Ok(())
}

/// The disk whose slot the opened root is of.
pub fn disk_of_root() -> io::Result<String> {
    // The device mapper's device lists what it is made of.
    for entry in fs::read_dir("/sys/class/block")?.flatten() {
        let path = entry.path();
        let name = fs::read_to_string(path.join("dm/name")).unwrap_or_default();
        if name.trim_end() != crate::first::NAME {
            continue;
        }
        if let Some(slave) = fs::read_dir(path.join("slaves"))?.flatten().next() {
            let whole = slave.path().canonicalize()?;
            let disk = whole.parent().and_then(Path::file_name).unwrap_or_default();
            return Ok(disk.to_string_lossy().into_owned());
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        "the root is not on a slot of a disk",
    ))
}

/// Takes what the disk has; true if there is more than before.
fn enlarge(partition: &Partition) -> Result<bool, Box<dyn std::error::Error>> {
    let disk = PathBuf::from("/dev").join(&partition.disk);
    let Some(extent) = grow(&disk, STATE)? else {
        return Ok(false);
    };
    let (start, length) = (extent.start * SECTOR, extent.length * SECTOR);
    coracle_sys::partition::resize(&disk, extent.number, start, length)?;
    say(
        Level::Info,
        &format!("the state partition has {} MiB", length >> 20),
    );
    Ok(true)
}

/// Whether nothing was ever written there: only then may a file system be made.
fn is_empty(device: &Path) -> io::Result<bool> {
    let mut begin = vec![0; 1 << 20];
    let length = File::open(device)?.read_at(&mut begin, 0)?;
    Ok(begin[..length].iter().all(|b| *b == 0))
}

/// Repairs what can be repaired without a question; the journal is taken up by this too.
fn check(device: &Path, children: &Children) -> io::Result<()> {
    let ended = children
        .spawn(program("e2fsck").arg("-p").arg(device))?
        .wait();
    match ended {
        0 => Ok(()),
        1 => {
            say(Level::Warning, "the state's file system was repaired");
            Ok(())
        }
        // A kernel can often mount what e2fsck asks a person about; losing the machine would be worse.
        code => {
            say(
                Level::Error,
                &format!("e2fsck ended with {code}: the state's file system needs a person"),
            );
            Ok(())
        }
    }
}
