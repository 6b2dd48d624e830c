//! The kernel's list of partitions (`/sys/class/block`).

use crate::Slot;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// A partition as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its device: `/dev/vda2`.
    pub device: PathBuf,
    /// The disk that it is on: `vda`.
    pub disk: String,
    /// Its number, from 1.
    pub number: u32,
    /// Its name in the table of partitions.
    pub name: String,
}

/// The partitions that have a name, in the order of their disks and numbers.
///
/// # Errors
/// Those of reading `/sys/class/block`; what vanishes meanwhile is left out.
pub fn partitions() -> io::Result<Vec<Partition>> {
    in_directory(Path::new("/sys/class/block"))
}

fn in_directory(class: &Path) -> io::Result<Vec<Partition>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(class)? {
        let path = entry?.path();
        let Ok(text) = fs::read_to_string(path.join("uevent")) else {
            continue;
        };
        let told: BTreeMap<_, _> = text.lines().filter_map(|l| l.split_once('=')).collect();
        let (Some(device), Some(number), Some(name)) = (
            told.get("DEVNAME"),
            told.get("PARTN").and_then(|n| n.parse().ok()),
            told.get("PARTNAME"),
        ) else {
            continue;
        };
        // The entry is a link into the directory of its disk.
        let Ok(whole) = path.canonicalize() else {
            continue;
        };
        let disk = whole.parent().and_then(Path::file_name);
        found.push(Partition {
            device: Path::new("/dev").join(device),
            disk: disk.unwrap_or_default().to_string_lossy().into_owned(),
            number,
            name: (*name).to_owned(),
        });
    }
    found.sort_by(|a, b| (&a.disk, a.number).cmp(&(&b.disk, b.number)));
    Ok(found)
}

/// The slot that the opened root is on, and its partition among those that there are: the device mapper says what its device is made of.
///
/// # Errors
/// Those of reading `/sys`; `NotFound` if there is no such root.
pub fn of_root(all: &[Partition]) -> io::Result<(Slot, Partition)> {
    for entry in fs::read_dir("/sys/class/block")?.flatten() {
        let path = entry.path();
        let name = fs::read_to_string(path.join("dm/name")).unwrap_or_default();
        if name.trim_end() != crate::root::NAME {
            continue;
        }
        for below in fs::read_dir(path.join("slaves"))?.flatten() {
            let device = Path::new("/dev").join(below.file_name());
            let found = all.iter().find(|p| p.device == device);
            let slot = found.and_then(|p| Slot::of_partition(&p.name));
            if let Some((slot, found)) = slot.zip(found) {
                return Ok((slot, found.clone()));
            }
        }
    }
    let text = "the root is not on a slot of a disk";
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

/// The partition of that name on the same disk.
pub fn beside<'a>(all: &'a [Partition], disk: &str, name: &str) -> Option<&'a Partition> {
    all.iter().find(|p| p.disk == disk && p.name == name)
}
