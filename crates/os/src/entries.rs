//! Boot entries: one file for each slot, below `loader/entries` of the EFI partition, as the Boot Loader Specification has them
//! (type 1), with its counters of tries in the name.
//!
//! `coracle-a.conf` is proven. `coracle-b+3.conf` has three tries left, `coracle-b+2-1.conf` two after one, and what has none left
//! (`coracle-b+0-3.conf`) comes after all that have. Among the others the boot loader takes the one whose `version` is highest; that is
//! a number that only grows, so that what was written last comes first, whatever release it is.
//!
//! FAT knows no journal. Each change is one file written under another name, synced and renamed, and never touches the entry of the
//! slot that runs but for its own counters, so that what a power cut may spoil is the entry that is being changed.

use crate::Slot;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Tries that a new slot has.
pub const TRIES: u32 = 3;

/// How a slot stands with the boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It was good once.
    Proven,
    /// It has this many tries left, after as many that did not end well.
    Tries {
        /// Left.
        left: u32,
        /// Done.
        done: u32,
    },
}

/// A slot's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which slot.
    pub slot: Slot,
    /// How it stands.
    pub standing: Standing,
    /// The number that the boot loader sorts by.
    pub order: u64,
    /// What a person reads in the menu: name and release.
    pub title: String,
}

impl Entry {
    /// Whether the boot loader takes it before one without tries.
    pub fn hopeful(&self) -> bool {
        !matches!(self.standing, Standing::Tries { left: 0, .. })
    }

    /// The same with no tries left, which comes after all that have some.
    pub fn without_tries(&self) -> Self {
        let done = match self.standing {
            Standing::Proven => 0,
            Standing::Tries { done, .. } => done,
        };
        Self {
            standing: Standing::Tries { left: 0, done },
            ..self.clone()
        }
    }

    fn file(&self) -> String {
        let letter = self.slot.letter();
        match self.standing {
            Standing::Proven => format!("coracle-{letter}.conf"),
            Standing::Tries { left, done: 0 } => format!("coracle-{letter}+{left}.conf"),
            Standing::Tries { left, done } => format!("coracle-{letter}+{left}-{done}.conf"),
        }
    }

    fn text(&self) -> String {
        let Self { title, order, .. } = self;
        let kernel = kernel(self.slot);
        format!("title {title}\nsort-key coracle\nversion {order}\nefi /{kernel}\n")
    }
}

/// The slot's kernel image on the EFI partition.
pub fn kernel(slot: Slot) -> String {
    format!("coracle/{}.efi", slot.letter())
}

/// The slot that an entry's file is of, by its name.
pub fn slot_of(file: &str) -> Option<Slot> {
    name(file).map(|(slot, _)| slot)
}

/// The name of a file that is an entry of ours.
fn name(file: &str) -> Option<(Slot, Standing)> {
    let rest = file.strip_prefix("coracle-")?.strip_suffix(".conf")?;
    let slot = match rest.get(..1)? {
        "a" => Slot::A,
        "b" => Slot::B,
        _ => return None,
    };
    let Some(counters) = rest[1..].strip_prefix('+') else {
        return (rest.len() == 1).then_some((slot, Standing::Proven));
    };
    let (left, done) = counters.split_once('-').unwrap_or((counters, "0"));
    let (left, done) = (left.parse().ok()?, done.parse().ok()?);
    Some((slot, Standing::Tries { left, done }))
}

/// The entries of an EFI partition that is mounted at `efi`, by slot. Of two for one slot, which a power cut while one was renamed may
/// leave, that which is better off counts. An entry that cannot be read, or whose kernel image is not there, is none.
///
/// # Errors
/// Those of reading the directory, but not that there is none.
pub fn read(efi: &Path) -> io::Result<BTreeMap<Slot, Entry>> {
    let mut entries = BTreeMap::new();
    for (slot, standing, path) in files(efi)? {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let value = |key: &str| {
            text.lines()
                .find_map(|l| l.split_once(' ').filter(|(k, _)| *k == key))
                .map(|(_, value)| value.trim().to_owned())
        };
        let Some(order) = value("version").and_then(|v| v.parse().ok()) else {
            continue;
        };
        if !efi.join(kernel(slot)).exists() {
            continue;
        }
        let entry = Entry {
            slot,
            standing,
            order,
            title: value("title").unwrap_or_default(),
        };
        let rank = |e: &Entry| match e.standing {
            Standing::Proven => (u32::MAX, e.order),
            Standing::Tries { left, .. } => (left, e.order),
        };
        match entries.get(&slot) {
            Some(other) if rank(other) >= rank(&entry) => {}
            _ => drop(entries.insert(slot, entry)),
        }
    }
    Ok(entries)
}

fn files(efi: &Path) -> io::Result<Vec<(Slot, Standing, PathBuf)>> {
    let mut found = Vec::new();
    let listed = match fs::read_dir(directory(efi)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        listed => listed?,
    };
    for entry in listed {
        let entry = entry?;
        if let Some((slot, standing)) = entry.file_name().to_str().and_then(name) {
            found.push((slot, standing, entry.path()));
        }
    }
    Ok(found)
}

fn directory(efi: &Path) -> PathBuf {
    efi.join("loader/entries")
}

/// Makes an entry the only one of its slot. Whatever it replaces stays until the new one is on the disk.
///
/// # Errors
/// Those of writing.
pub fn write(efi: &Path, entry: &Entry) -> io::Result<()> {
    let directory = directory(efi);
    fs::create_dir_all(&directory)?;
    let path = directory.join(entry.file());
    // A name that the boot loader does not read.
    let new = directory.join(format!("{}.new", entry.slot.letter()));
    let mut file = File::create(&new)?;
    file.write_all(entry.text().as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    sync(&directory)?;
    for (slot, _, other) in files(efi)? {
        if slot == entry.slot && other != path {
            fs::remove_file(other)?;
        }
    }
    sync(&directory)
}

/// Removes the entries of a slot, so that the boot loader does not know of it while its content is written.
///
/// # Errors
/// Those of removing.
pub fn remove(efi: &Path, slot: Slot) -> io::Result<()> {
    for (of, _, path) in files(efi)? {
        if of == slot {
            fs::remove_file(path)?;
        }
    }
    match File::open(directory(efi)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => opened?.sync_all(),
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The number for an entry that is to come first.
pub fn next_order(entries: &BTreeMap<Slot, Entry>) -> u64 {
    entries.values().map(|e| e.order).max().unwrap_or(0) + 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(slot: Slot, standing: Standing, order: u64) -> Entry {
        Entry {
            slot,
            standing,
            order,
            title: format!("Coracle {order}"),
        }
    }

    fn listed(efi: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory(efi))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_entry_is_read_as_it_was_written_and_replaced_as_a_whole() {
        let efi = tempfile::tempdir().unwrap();
        let efi = efi.path();
        assert!(read(efi).unwrap().is_empty());
        fs::create_dir(efi.join("coracle")).unwrap();
        for slot in ["a", "b"] {
            fs::write(efi.join(format!("coracle/{slot}.efi")), "").unwrap();
        }
        let a = entry(Slot::A, Standing::Proven, 1);
        let b = entry(Slot::B, Standing::Tries { left: 3, done: 0 }, 2);
        write(efi, &a).unwrap();
        write(efi, &b).unwrap();
        assert_eq!(listed(efi), ["coracle-a.conf", "coracle-b+3.conf"]);
        let all = read(efi).unwrap();
        assert_eq!(all.values().collect::<Vec<_>>(), [&a, &b]);
        assert_eq!(next_order(&all), 3);
        write(
            efi,
            &entry(Slot::B, Standing::Tries { left: 1, done: 2 }, 2),
        )
        .unwrap();
        assert_eq!(listed(efi), ["coracle-a.conf", "coracle-b+1-2.conf"]);
        write(efi, &entry(Slot::B, Standing::Proven, 2)).unwrap();
        assert_eq!(listed(efi), ["coracle-a.conf", "coracle-b.conf"]);
        remove(efi, Slot::B).unwrap();
        assert_eq!(
            read(efi).unwrap().into_keys().collect::<Vec<_>>(),
            [Slot::A]
        );
    }

    #[test]
    fn what_a_power_cut_leaves_is_read() {
        let efi = tempfile::tempdir().unwrap();
        let efi = efi.path();
        fs::create_dir_all(efi.join("coracle")).unwrap();
        fs::write(efi.join("coracle/a.efi"), "").unwrap();
        write(
            efi,
            &entry(Slot::A, Standing::Tries { left: 2, done: 1 }, 4),
        )
        .unwrap();
        let of = |name: &str| efi.join("loader/entries").join(name);
        // Renamed, and the former name still there.
        fs::copy(of("coracle-a+2-1.conf"), of("coracle-a.conf")).unwrap();
        assert_eq!(read(efi).unwrap()[&Slot::A].standing, Standing::Proven);
        // Nothing was written of it.
        fs::write(of("coracle-a.conf"), "").unwrap();
        let left = Standing::Tries { left: 2, done: 1 };
        assert_eq!(read(efi).unwrap()[&Slot::A].standing, left);
        // Others' entries, and names that are almost ours.
        for name in [
            "debian.conf",
            "coracle-c.conf",
            "coracle-ab.conf",
            "coracle-a+x.conf",
        ] {
            fs::write(of(name), "version 9\n").unwrap();
        }
        // An entry without its kernel.
        fs::write(of("coracle-b.conf"), "version 9\n").unwrap();
        assert_eq!(read(efi).unwrap().len(), 1);
    }
}
