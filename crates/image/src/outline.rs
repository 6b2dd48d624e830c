//! A plain archive without the content of its files. Together with the tree that was unpacked of it, it is that archive again, byte by
//! byte, whoever wrote it and in which order; so a layer that came plain is on the disk once.
//!
//! ```text
//! coracle outline 1\n                           and then, compressed with zstd, records; numbers are little-endian:
//! 0  length (u32)                bytes          stand so in the archive
//! 1  length (u64)  length (u32)  path           the content of that file, relative to the layer's root
//! ```
//!
//! Worked example: the archive of `etc/` and `etc/motd` ("hello") becomes a record 0 with two headers, a record 1 `5, "etc/motd"`, and
//! a record 0 with the padding and the end mark.
//!
//! It relies on every path leading to what was unpacked there. An archive that replaces what it brought itself breaks that, so from
//! before the first replacement on its outline holds all content: it is a compressed copy then.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use zstd::stream::{read::Decoder, write::Encoder};

const MAGIC: &[u8] = b"coracle outline 1\n";
/// Headers are much alike: the fastest level makes a fortieth of them.
const LEVEL: i32 = 1;
const BYTES: u8 = 0;
const CONTENT: u8 = 1;
/// Bytes of a record 0 at most.
const PIECE: usize = 64 << 10;
/// Bytes of a path that the kernel resolves at once.
const LONGEST: usize = 4095;

/// An outline as it is written.
pub(crate) struct Outline {
    path: PathBuf,
    root: OwnedFd,
    records: Records,
    whole: bool,
}

impl Outline {
    /// Begins a new file at `path`, for what is unpacked below `root`.
    pub fn create(path: &Path, root: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            records: Records::create(path)?,
            path: path.to_owned(),
            root,
            whole: false,
        })
    }

    /// These bytes come next in the archive.
    pub fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.records.bytes(bytes)
    }

    /// The content of the file at `path` comes next. False if the bytes themselves are wanted.
    pub fn content(&mut self, path: &[u8], length: u64) -> io::Result<bool> {
        let referred = !self.whole && path.len() <= LONGEST;
        if referred {
            self.records.content(path, length)?;
        }
        Ok(referred)
    }

    /// Something is about to be replaced: takes in all content so far, and wants all that follows.
    pub fn fill(&mut self) -> io::Result<()> {
        if self.whole {
            return Ok(());
        }
        let path = self.path.with_extension("whole");
        let whole = Records::create(&path)?;
        std::mem::replace(&mut self.records, whole).finish()?;
        replay(&self.path, &self.root, &mut self.records)?;
        std::fs::rename(&path, &self.path)?;
        self.whole = true;
        Ok(())
    }

    /// Writes the rest.
    pub fn finish(self) -> io::Result<()> {
        self.records.finish()
    }
}

struct Records {
    encoder: Encoder<'static, BufWriter<File>>,
    held: Vec<u8>,
}

impl Records {
    fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create_new(path)?);
        file.write_all(MAGIC)?;
        Ok(Self {
            encoder: Encoder::new(file, LEVEL)?,
            held: Vec::with_capacity(PIECE),
        })
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(PIECE - self.held.len()));
            self.held.extend_from_slice(now);
            bytes = rest;
            if self.held.len() == PIECE {
                self.empty()?;
            }
        }
        Ok(())
    }

    /// Writes what is held as a record.
    fn empty(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        self.encoder.write_all(&[BYTES])?;
        let length = u32::try_from(self.held.len()).map_err(io::Error::other)?;
        self.encoder.write_all(&length.to_le_bytes())?;
        self.encoder.write_all(&self.held)?;
        self.held.clear();
        Ok(())
    }

    fn content(&mut self, path: &[u8], length: u64) -> io::Result<()> {
        self.empty()?;
        let path_length = u32::try_from(path.len()).map_err(io::Error::other)?;
        self.encoder.write_all(&[CONTENT])?;
        self.encoder.write_all(&length.to_le_bytes())?;
        self.encoder.write_all(&path_length.to_le_bytes())?;
        self.encoder.write_all(path)
    }

    fn finish(mut self) -> io::Result<()> {
        self.empty()?;
        self.encoder.finish()?.flush()
    }
}

impl Write for Records {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the archive whose outline is at `path` and whose files are below `root`. Whether it is what it was is seen by its digest
/// alone.
///
/// # Errors
/// Those of reading either and of writing, and an outline that cannot be read.
pub(crate) fn replay(path: &Path, root: impl AsFd, out: &mut impl Write) -> io::Result<()> {
    let damaged = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut file = BufReader::with_capacity(PIECE, File::open(path)?);
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(damaged("its outline has a format that is not known here"));
    }
    let mut records = BufReader::with_capacity(PIECE, Decoder::with_buffer(file)?);
    let mut kind = [0];
    while records.read(&mut kind)? == 1 {
        match kind[0] {
            BYTES => {
                let length = u64::from(number(&mut records)?);
                copy(&mut records, length, out)?;
            }
            CONTENT => {
                let mut length = [0; 8];
                records.read_exact(&mut length)?;
                let path_length = number(&mut records)? as usize;
                if path_length > LONGEST {
                    return Err(damaged("its outline is damaged"));
                }
                let mut path = vec![0; path_length];
                records.read_exact(&mut path)?;
                copy(open(&root, &path)?, u64::from_le_bytes(length), out)?;
            }
            _ => return Err(damaged("its outline is damaged")),
        }
    }
    Ok(())
}

fn number(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn copy(from: impl Read, length: u64, out: &mut impl Write) -> io::Result<()> {
    if io::copy(&mut from.take(length), out)? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Opens a file as it was made: links are followed within the layer.
fn open(root: impl AsFd, path: &[u8]) -> io::Result<File> {
    // Not blocking: somebody may have put a pipe there.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(&root, path, flags, Mode::empty(), how) {
            // The kernel could not be sure of a ".." in a link while something was renamed.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            opened => return Ok(File::from(opened?)),
        }
    }
}
