//! The table of partitions (GPT, UEFI specification 2.10, chapter 5): the last partition takes what the disk has.
//!
//! The image that is copied onto a disk ends with a small state partition. On a larger disk its second table has to move to the end,
//! and the partition is made larger. The second table is written first, at its new place: whenever the power goes, one of the two is
//! whole, and whoever reads them takes the one that is.

use crate::{guid::Guid, root::hex};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Bytes of a sector; disks with others are not read.
pub const SECTOR: u64 = 512;
pub(crate) const ENTRY: usize = 128;
const HEADER: usize = 92;
/// The kind of the one partition that the first sector has for programs that do not know of this table.
const PROTECTIVE: u8 = 0xee;
/// Where the last partition ends: on a multiple of 1 MiB.
pub(crate) const ALIGN: u64 = 2048;

/// Why a table cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Reading or writing failed.
    #[error("{path}")]
    Io {
        /// The disk.
        path: PathBuf,
        /// The kernel's.
        #[source]
        source: io::Error,
    },
    /// There is none, or both copies of it are damaged.
    #[error("{0} has no table of partitions that can be read")]
    None(PathBuf),
    /// The last partition is another one.
    #[error("{path}: the last partition is \"{found}\", not \"{wanted}\"")]
    Other {
        /// The disk.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What was asked for.
        wanted: String,
    },
}

/// A table of partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The disk's identifier.
    pub(crate) disk: [u8; 16],
    /// As they are on the disk.
    pub(crate) entries: Vec<[u8; ENTRY]>,
    pub(crate) first_usable: u64,
    pub(crate) last_usable: u64,
    /// Sector of the copy at the end.
    pub(crate) other: u64,
}

/// Where a partition is, in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Its number, from 1.
    pub number: u32,
    /// The first sector.
    pub start: u64,
    /// How many.
    pub length: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The name in an entry.
fn name(entry: &[u8; ENTRY]) -> String {
    let units = entry[56..]
        .chunks_exact(2)
        .map(|c| u16::from_le_bytes([c[0], c[1]]));
    let units: Vec<u16> = units.take_while(|u| *u != 0).collect();
    String::from_utf16_lossy(&units)
}

fn read_at(disk: &File, sector: u64) -> io::Result<Option<Table>> {
    let mut header = [0; SECTOR as usize];
    disk.read_exact_at(&mut header, sector * SECTOR)?;
    let size = u32_at(&header, 12) as usize;
    if &header[..8] != b"EFI PART" || !(HEADER..=header.len()).contains(&size) {
        return Ok(None);
    }
    let mut summed = header[..size].to_vec();
    summed[16..20].fill(0);
    let (count, length) = (u32_at(&header, 80), u32_at(&header, 84));
    if crc32fast::hash(&summed) != u32_at(&header, 16)
        || u64_at(&header, 24) != sector
        || length as usize != ENTRY
        || !(1..=1024).contains(&count)
    {
        return Ok(None);
    }
    let mut bytes = vec![0; count as usize * ENTRY];
    disk.read_exact_at(&mut bytes, u64_at(&header, 72).saturating_mul(SECTOR))?;
    if crc32fast::hash(&bytes) != u32_at(&header, 88) {
        return Ok(None);
    }
    let (entries, _) = bytes.as_chunks::<ENTRY>();
    let mut id = [0; 16];
    id.copy_from_slice(&header[56..72]);
    Ok(Some(Table {
        disk: id,
        entries: entries.to_vec(),
        first_usable: u64_at(&header, 40),
        last_usable: u64_at(&header, 48),
        other: u64_at(&header, 32),
    }))
}

impl Table {
    /// Reads the table of a disk, or the copy at its end if the first one is damaged.
    ///
    /// # Errors
    /// [`TableError::Io`] and [`TableError::None`].
    pub fn read(path: &Path) -> Result<Self, TableError> {
        let io = |source| TableError::Io {
            path: path.to_owned(),
            source,
        };
        let disk = File::open(path).map_err(io)?;
        if let Some(table) = read_at(&disk, 1).map_err(io)? {
            return Ok(table);
        }
        let sectors = sectors(&disk).map_err(io)?;
        let copy = match sectors.checked_sub(1) {
            Some(last) if last > 1 => read_at(&disk, last).map_err(io)?,
            _ => None,
        };
        let mut table = copy.ok_or_else(|| TableError::None(path.to_owned()))?;
        table.other = sectors - 1;
        Ok(table)
    }

    /// The partition that begins last.
    fn last(&self) -> Option<usize> {
        let used = |e: &[u8; ENTRY]| e[..16] != [0; 16];
        let used = self.entries.iter().enumerate().filter(|(_, e)| used(e));
        used.max_by_key(|(_, e)| u64_at(&e[..], 32)).map(|(i, _)| i)
    }

    /// Where the last partition is.
    ///
    /// # Errors
    /// [`TableError::None`] if there is no partition.
    pub fn last_extent(&self, path: &Path) -> Result<Extent, TableError> {
        let last = self
            .last()
            .ok_or_else(|| TableError::None(path.to_owned()))?;
        let start = u64_at(&self.entries[last], 32);
        Ok(Extent {
            number: last as u32 + 1,
            start,
            length: u64_at(&self.entries[last], 40) - start + 1,
        })
    }

    /// The identifier of the partition of that name.
    pub fn id_of(&self, wanted: &str) -> Option<Guid> {
        let entry = self.entries.iter().find(|e| name(e) == wanted)?;
        let mut id = [0; 16];
        id.copy_from_slice(&entry[16..32]);
        Some(Guid(id))
    }

    /// The disk's identifier, in hexadecimal as it is stored.
    pub fn id(&self) -> String {
        hex(&self.disk)
    }
}

pub(crate) fn sectors(disk: &File) -> io::Result<u64> {
    // The size of a block device is where its end is.
    use std::io::{Seek, SeekFrom};
    let mut disk = disk.try_clone()?;
    Ok(disk.seek(SeekFrom::End(0))? / SECTOR)
}

/// Makes the last partition, which must have that name, end where the disk ends; `None` if it does already, but for less than 1 MiB.
/// The kernel has to be told afterwards.
///
/// # Errors
/// [`TableError`]. A table that is damaged on one place is written anew on both.
pub fn grow(path: &Path, wanted: &str) -> Result<Option<Extent>, TableError> {
    let io = |source| TableError::Io {
        path: path.to_owned(),
        source,
    };
    let mut table = Table::read(path)?;
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(io)?;
    let sectors = sectors(&disk).map_err(io)?;
    let room = (table.entries.len() * ENTRY) as u64 / SECTOR;
    let Some(last) = table.last() else {
        return Err(TableError::None(path.to_owned()));
    };
    let found = name(&table.entries[last]);
    if found != wanted {
        return Err(TableError::Other {
            path: path.to_owned(),
            found,
            wanted: wanted.to_owned(),
        });
    }
    let start = u64_at(&table.entries[last], 32);
    let end = u64_at(&table.entries[last], 40);
    let usable = sectors.saturating_sub(room + 2);
    let new_end = (usable + 1) / ALIGN * ALIGN - 1;
    if new_end <= end || new_end < start {
        let last_sector = sectors.saturating_sub(1);
        let whole = |at| Ok(read_at(&disk, at)?.is_some());
        if !(whole(1).map_err(io)? && whole(last_sector).map_err(io)?) {
            // What was cut short, or damaged since.
            table.other = last_sector;
            table.last_usable = usable;
            table.write(&disk).map_err(io)?;
        }
        return Ok(None);
    }
    table.entries[last][40..48].copy_from_slice(&new_end.to_le_bytes());
    table.last_usable = usable;
    table.other = sectors - 1;
    table.write(&disk).map_err(io)?;
    Ok(Some(Extent {
        number: last as u32 + 1,
        start,
        length: new_end - start + 1,
    }))
}

impl Table {
    /// Writes the record in the first sector that keeps old programs away, which says how long the disk is; then both copies, that at the end
    /// first, each on the disk before the next one.
    pub(crate) fn write(&self, disk: &File) -> io::Result<()> {
        let mut first = [0; SECTOR as usize];
        disk.read_exact_at(&mut first, 0)?;
        if first[450] == PROTECTIVE {
            let length = u32::try_from(self.other).unwrap_or(u32::MAX);
            first[458..462].copy_from_slice(&length.to_le_bytes());
            disk.write_all_at(&first, 0)?;
            disk.sync_all()?;
        }
        let bytes = self.entries.concat();
        let room = bytes.len() as u64 / SECTOR;
        for (own, other, list) in [(self.other, 1, self.other - room), (1, self.other, 2)] {
            disk.write_all_at(&bytes, list * SECTOR)?;
            disk.sync_all()?;
            disk.write_all_at(&self.header(&bytes, own, other, list), own * SECTOR)?;
            disk.sync_all()?;
        }
        Ok(())
    }

    fn header(&self, entries: &[u8], own: u64, other: u64, list: u64) -> [u8; SECTOR as usize] {
        let mut header = [0; SECTOR as usize];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"EFI PART");
        put(8, &0x10000_u32.to_le_bytes());
        put(12, &(HEADER as u32).to_le_bytes());
        for (at, number) in [
            (24, own),
            (32, other),
            (40, self.first_usable),
            (48, self.last_usable),
            (72, list),
        ] {
            put(at, &number.to_le_bytes());
        }
        put(56, &self.disk);
        put(80, &(self.entries.len() as u32).to_le_bytes());
        put(84, &(ENTRY as u32).to_le_bytes());
        put(88, &crc32fast::hash(entries).to_le_bytes());
        let sum = crc32fast::hash(&header[..HEADER]);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header
    }
}
