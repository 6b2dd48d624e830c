//! Tables of partitions as Debian's `sfdisk` makes and checks them.
#![allow(clippy::unwrap_used)]

use coracle_os::partitions::{Extent, Table, TableError, grow};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
};

const MIB: u64 = 1 << 20;

/// A disk with two partitions, the last one of 8 MiB.
fn disk(path: &Path) {
    File::create(path).unwrap().set_len(20 * MIB).unwrap();
    let mut made = Command::new("sfdisk")
        .args(["--quiet", "--no-reread", "--no-tell-kernel"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("Debian's package fdisk has sfdisk");
    let table =
        "label: gpt\nstart=1MiB, size=4MiB, name=coracle-a\nsize=8MiB, name=coracle-state\n";
    made.stdin
        .take()
        .unwrap()
        .write_all(table.as_bytes())
        .unwrap();
    assert!(made.wait().unwrap().success());
}

/// What sfdisk says of a disk: whether all is well, and where the partitions are.
fn said(path: &Path) -> (bool, String) {
    let run = |option: &str| {
        Command::new("sfdisk")
            .arg(option)
            .arg(path)
            .output()
            .unwrap()
    };
    let checked = run("--verify");
    let well = checked.status.success() && checked.stderr.is_empty();
    let dumped = String::from_utf8(run("--dump").stdout).unwrap();
    (well, dumped)
}

fn enlarge(path: &Path, mib: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(mib * MIB).unwrap();
}

#[test]
fn the_last_partition_takes_what_the_disk_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    disk(&path);
    let before = said(&path).1;
    enlarge(&path, 64);
    let extent = grow(&path, "coracle-state").unwrap();
    let mib = MIB / 512;
    assert_eq!(
        extent,
        Some(Extent {
            number: 2,
            start: 5 * mib,
            length: 58 * mib,
        })
    );
    let (well, after) = said(&path);
    assert!(well, "{after}");
    // The disk's id, the other partition, types, names and ids are what they were.
    let changed = |text: &str| {
        text.replace(&format!("size=      {}", 58 * mib), "SIZE")
            .replace(&format!("size=       {}", 8 * mib), "SIZE")
            .lines()
            .filter(|l| !l.starts_with("last-lba"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(changed(&after), changed(&before));
    assert_ne!(after, before);
    assert_eq!(grow(&path, "coracle-state").unwrap(), None);
}

#[test]
fn a_table_that_is_damaged_is_read_from_its_copy_and_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    disk(&path);
    let whole = Table::read(&path).unwrap();
    let damage = |at: u64| {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"damaged", at).unwrap();
    };
    // The first list of partitions.
    damage(2 * 512);
    assert_eq!(Table::read(&path).unwrap().id(), whole.id());
    // The disk has grown, so the copy is not at its end any more and nothing can be done.
    enlarge(&path, 40);
    assert!(matches!(Table::read(&path), Err(TableError::None(_))));
    enlarge(&path, 20);
    // A little was left behind the last partition.
    assert!(grow(&path, "coracle-state").unwrap().is_some());
    assert!(said(&path).0);
}

#[test]
fn whenever_the_power_goes_one_of_the_copies_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (path, new) = (dir.path().join("disk"), dir.path().join("new"));
    disk(&path);
    enlarge(&path, 64);
    let before = std::fs::read(&path).unwrap();
    std::fs::write(&new, &before).unwrap();
    grow(&new, "coracle-state").unwrap().unwrap();
    let after = std::fs::read(&new).unwrap();
    // Sectors in the order in which they are written: the first one, list and header at the end, then those at the beginning.
    let last = 64 * MIB / 512 - 1;
    let order: Vec<u64> = [0]
        .into_iter()
        .chain(last - 32..last)
        .chain([last])
        .chain(2..34)
        .chain([1])
        .collect();
    let mut disk = before.clone();
    for sector in order {
        let at = (sector * 512) as usize;
        disk[at..at + 512].copy_from_slice(&after[at..at + 512]);
        std::fs::write(&path, &disk).unwrap();
        assert!(Table::read(&path).is_ok(), "after sector {sector}");
        // What was cut short is done again.
        grow(&path, "coracle-state").unwrap();
        assert!(said(&path).0, "after sector {sector}");
    }
    assert_eq!(disk, after);
}

#[test]
fn another_disk_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    disk(&path);
    enlarge(&path, 64);
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(
        grow(&path, "home"),
        Err(TableError::Other { found, .. }) if found == "coracle-state"
    ));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    std::fs::write(&path, vec![0; 4096]).unwrap();
    assert!(matches!(
        grow(&path, "coracle-state"),
        Err(TableError::None(_))
    ));
}
