//! The root file system of a slot: EROFS, and behind it in the same partition the tree of hashes (dm-verity) that it is checked by.
//!
//! Which content is meant stands in the kernel's command line: `coracle.root=HASH:BLOCKS`, the root of the tree in hexadecimal and
//! the number of blocks of data. Blocks have 4,096 bytes, hashes are SHA-256 without salt, the tree begins right behind the data
//! and has no superblock (`veritysetup format --no-superblock --salt=-`).

use coracle_sys::device_mapper;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// The name of the opened root for the device mapper.
pub const NAME: &str = "coracle-root";
/// Bytes of a block, of data and of the tree.
pub const BLOCK: u64 = 4096;
/// Hashes in a block of the tree.
const HASHES: u64 = BLOCK / 32;

/// What the command line says of the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The root of the tree of hashes, in hexadecimal.
    pub hash: String,
    /// Blocks of data.
    pub blocks: u64,
}

/// Why a root cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The kernel was not told of one.
    #[error("the kernel's command line has no coracle.root=HASH:BLOCKS")]
    Missing,
    /// What it was told is none.
    #[error("coracle.root={0} is no hash and number of blocks")]
    Malformed(String),
    /// No partition begins as it must.
    #[error("no partition holds the root {0}")]
    NotFound(String),
    /// The device mapper refused.
    #[error("verity of {device}")]
    Verity {
        /// The partition.
        device: PathBuf,
        /// Its own.
        #[source]
        source: io::Error,
    },
}

impl Root {
    /// Reads the kernel's command line.
    ///
    /// # Errors
    /// [`RootError::Missing`] and [`RootError::Malformed`].
    pub fn of_command_line(text: &str) -> Result<Self, RootError> {
        let value = text
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix("coracle.root="))
            .ok_or(RootError::Missing)?;
        let malformed = || RootError::Malformed(value.to_owned());
        let (hash, blocks) = value.split_once(':').ok_or_else(malformed)?;
        let blocks = blocks.parse().ok().filter(|blocks| *blocks > 0);
        if hash.len() != 64 || !hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(malformed());
        }
        Ok(Self {
            hash: hash.to_owned(),
            blocks: blocks.ok_or_else(malformed)?,
        })
    }

    /// Bytes of data and tree together.
    pub fn size(&self) -> u64 {
        let (mut level, mut tree) = (self.blocks, 0);
        while level > 1 {
            level = level.div_ceil(HASHES);
            tree += level;
        }
        // A single block of data has a tree of one block too.
        (self.blocks + tree.max(1)) * BLOCK
    }

    /// Whether the partition holds this root: its tree begins with the block that the hash is of.
    ///
    /// # Errors
    /// Those of reading; a partition that is too short is simply another one.
    pub fn is_in(&self, device: &Path) -> io::Result<bool> {
        let mut top = [0; BLOCK as usize];
        match File::open(device)?.read_exact_at(&mut top, self.blocks * BLOCK) {
            Ok(()) => Ok(hex(&Sha256::digest(top)) == self.hash),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Reads all of it and computes the tree anew: whether every block is what the hash says.
    ///
    /// # Errors
    /// Those of reading; a partition that is too short simply holds another one.
    pub fn is_whole_in(&self, device: &Path) -> io::Result<bool> {
        let mut from = BufReader::with_capacity(1 << 20, File::open(device)?);
        let mut block = [0; BLOCK as usize];
        let mut level = Vec::new();
        for _ in 0..self.blocks {
            match from.read_exact(&mut block) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                done => done?,
            }
            level.extend_from_slice(&Sha256::digest(block));
        }
        // From the data up; on the disk the top comes first.
        let mut levels = Vec::new();
        let top = loop {
            level.resize(level.len().next_multiple_of(BLOCK as usize), 0);
            let above: Vec<_> = level
                .chunks(BLOCK as usize)
                .map(Sha256::digest)
                .collect::<Vec<_>>()
                .concat();
            levels.push(level);
            if above.len() == 32 {
                break above;
            }
            level = above;
        };
        levels.reverse();
        let tree = levels.concat();
        let mut is = vec![0; tree.len()];
        match from.read_exact(&mut is) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            done => done.map(|()| is == tree && hex(&top) == self.hash),
        }
    }

    /// Opens the partition so that each block is checked as it is read, and returns the device to be mounted.
    ///
    /// # Errors
    /// [`RootError::Verity`].
    pub fn open(&self, device: &Path, name: &str) -> Result<PathBuf, RootError> {
        let Self { hash, blocks } = self;
        let shown = device.display();
        let table = format!("1 {shown} {shown} {BLOCK} {BLOCK} {blocks} {blocks} sha256 {hash} -");
        device_mapper::open(name, "verity", blocks * (BLOCK / 512), &table).map_err(|source| {
            RootError::Verity {
                device: device.to_owned(),
                source,
            }
        })
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_command_line_is_read() {
        let hash = "0a".repeat(32);
        let line = format!("quiet coracle.root={hash}:1000 console=ttyS0\n");
        let root = Root::of_command_line(&line).unwrap();
        assert_eq!((root.hash.as_str(), root.blocks), (hash.as_str(), 1000));
        // 1,000 blocks have 8 blocks of hashes and one above them.
        assert_eq!(root.size(), (1000 + 8 + 1) * BLOCK);
    }

    #[test]
    fn a_root_is_whole_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root");
        for blocks in [2_u64, 128, 129, 300] {
            let data: Vec<u8> = (0..blocks * BLOCK).map(|n| (n / 7) as u8).collect();
            std::fs::write(&path, &data).unwrap();
            let offset = (blocks * BLOCK).to_string();
            let made = std::process::Command::new("veritysetup")
                .args(["format", "--no-superblock", "--salt=-"])
                .arg(format!("--data-blocks={blocks}"))
                .arg(format!("--hash-offset={offset}"))
                .args([&path, &path])
                .output()
                .expect("Debian's package cryptsetup-bin");
            let said = String::from_utf8_lossy(&made.stdout).into_owned();
            let hash = said.lines().find_map(|l| l.strip_prefix("Root hash:"));
            let hash = hash.unwrap().trim().to_owned();
            let root = Root { hash, blocks };
            assert!(root.is_in(&path).unwrap() && root.is_whole_in(&path).unwrap());
            let whole = std::fs::read(&path).unwrap();
            assert_eq!(whole.len() as u64, root.size());
            for at in [0, whole.len() / 2, whole.len() - BLOCK as usize] {
                let mut damaged = whole.clone();
                damaged[at] ^= 1;
                std::fs::write(&path, damaged).unwrap();
                assert!(!root.is_whole_in(&path).unwrap(), "{blocks} {at}");
            }
            std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
            assert!(!root.is_whole_in(&path).unwrap());
        }
    }

    #[test]
    fn what_is_no_root_is_refused() {
        assert!(matches!(
            Root::of_command_line("quiet"),
            Err(RootError::Missing)
        ));
        for value in ["", "abc:1", ":", &format!("{}:0", "0a".repeat(32))] {
            let line = format!("coracle.root={value}");
            assert!(
                matches!(
                    Root::of_command_line(&line),
                    Err(RootError::Malformed(v)) if v == value
                ),
                "{line}"
            );
        }
    }
}
