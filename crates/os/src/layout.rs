//! The layout of a disk: the table of partitions for one that gets the image by `coracle os install`, the same as `scripts/os` makes.

use crate::{
    EFI, STATE, Slot,
    guid::Guid,
    partitions::{ALIGN, ENTRY, SECTOR, Table, TableError, sectors},
};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const MIB: u64 = 1 << 20;
/// Bytes of the EFI partition.
const EFI_SIZE: u64 = 512 * MIB;
/// Bytes of a slot.
const SLOT_SIZE: u64 = 1024 * MIB;
/// Bytes that are left for images and volumes, at least.
const STATE_SIZE: u64 = 1024 * MIB;
/// Entries of the table.
const ENTRIES: u64 = 128;

/// Kinds of partitions: the UEFI specification's, and root and `/var` of the Discoverable Partitions Specification.
const KINDS: [&str; 3] = [
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "4d21b016-b534-45c2-a9fb-5c16e091fd2d",
];

/// Bytes that a disk must have.
pub const NEEDED: u64 = MIB + EFI_SIZE + 2 * SLOT_SIZE + STATE_SIZE + MIB;

/// Makes the disk empty for whoever looks what is on it: neither a table of partitions nor anything else is found at its beginning or end.
///
/// # Errors
/// Those of writing.
pub fn erase(disk: &File) -> io::Result<()> {
    let zeroes = vec![0; MIB as usize];
    disk.write_all_at(&zeroes, 0)?;
    // Where the first partition usually begins: a former EFI partition must not come back with the new table.
    disk.write_all_at(&zeroes, MIB)?;
    let end = sectors(disk)? * SECTOR;
    disk.write_all_at(&zeroes, end.saturating_sub(MIB))?;
    disk.sync_all()
}

/// Whether nothing is found there.
///
/// # Errors
/// Those of reading.
pub fn is_empty(disk: &File) -> io::Result<bool> {
    let mut bytes = vec![0; MIB as usize];
    let end = sectors(disk)? * SECTOR;
    for at in [0, MIB, end.saturating_sub(MIB)] {
        disk.read_exact_at(&mut bytes, at)?;
        if bytes.iter().any(|b| *b != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes the table of a disk with at least [`NEEDED`] bytes. Disk and partitions get identifiers of their own, by which the boot loader's
/// word tells this disk from the one that it was copied from.
///
/// # Errors
/// [`TableError::Io`].
pub fn create(disk: &File, path: &Path) -> Result<(), TableError> {
    let io = |source| TableError::Io {
        path: PathBuf::from(path),
        source,
    };
    let sectors = sectors(disk).map_err(io)?;
    let table = table(sectors).map_err(io)?;
    // For programs that do not know of this table: one partition that has all of the disk (chapter 5.2.3).
    let mut first = [0; SECTOR as usize];
    first[446..458].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    first[510..].copy_from_slice(&[0x55, 0xaa]);
    disk.write_all_at(&first, 0).map_err(io)?;
    table.write(disk).map_err(io)
}

fn table(sectors: u64) -> io::Result<Table> {
    let room = ENTRIES * ENTRY as u64 / SECTOR;
    let last_usable = sectors.saturating_sub(room + 2);
    let mut entries = vec![[0; ENTRY]; ENTRIES as usize];
    let mut start = ALIGN;
    let slots = [Slot::A, Slot::B].map(Slot::partition);
    let [a, b] = &slots;
    let state = ((last_usable + 1) / ALIGN * ALIGN).saturating_sub(start);
    let state = state.saturating_sub((EFI_SIZE + 2 * SLOT_SIZE) / SECTOR);
    for (entry, (kind, name, length)) in entries.iter_mut().zip([
        (KINDS[0], EFI, EFI_SIZE / SECTOR),
        (KINDS[1], a, SLOT_SIZE / SECTOR),
        (KINDS[1], b, SLOT_SIZE / SECTOR),
        (KINDS[2], STATE, state),
    ]) {
        let kind = Guid::parse(kind).ok_or(io::ErrorKind::InvalidData)?;
        entry[..16].copy_from_slice(&kind.0);
        entry[16..32].copy_from_slice(&Guid::new()?.0);
        entry[32..40].copy_from_slice(&start.to_le_bytes());
        entry[40..48].copy_from_slice(&(start + length - 1).to_le_bytes());
        for (at, unit) in name.encode_utf16().enumerate() {
            entry[56 + 2 * at..58 + 2 * at].copy_from_slice(&unit.to_le_bytes());
        }
        start += length;
    }
    Ok(Table {
        disk: Guid::new()?.0,
        entries,
        first_usable: ALIGN,
        last_usable,
        other: sectors - 1,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::partitions::grow;

    #[test]
    fn a_new_table_is_read_again_and_is_as_long_as_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let disk = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        for size in [NEEDED, 5_000_000_000 / SECTOR * SECTOR] {
            disk.set_len(size).unwrap();
            create(&disk, &path).unwrap();
            let table = Table::read(&path).unwrap();
            let state = table.last_extent(&path).unwrap();
            assert_eq!((state.number, state.start % ALIGN), (4, 0));
            assert!(state.length * SECTOR > STATE_SIZE - 2 * MIB);
            // Nothing is left to grow by.
            assert_eq!(grow(&path, STATE).unwrap(), None);
            assert!(table.id_of(EFI).is_some() && table.id_of(EFI) != table.id_of(STATE));
            assert!(!is_empty(&disk).unwrap());
            let checked = std::process::Command::new("sfdisk")
                .args(["--verify", "--json"])
                .arg(&path)
                .output()
                .unwrap();
            assert!(checked.status.success(), "{checked:?}");
            erase(&disk).unwrap();
            assert!(is_empty(&disk).unwrap());
            assert!(matches!(Table::read(&path), Err(TableError::None(_))));
        }
    }
}
