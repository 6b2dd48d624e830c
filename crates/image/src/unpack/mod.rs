//! Unpacks one layer's tar archive into an overlayfs layer directory.
//!
//! The states: entries are read in order; each is checked by name, then by kind, then applied beneath the
//! layer's root handle; at the end directories get their times. The first refusal ends the unpacking, names
//! the entry, and the caller throws the whole work directory away.
//!
//! Worked example: a layer with `etc/` (0755), `etc/.wh.motd`, `etc/passwd` and `link -> etc` becomes a
//! directory `etc` holding a character device 0:0 named `motd` (overlayfs's whiteout) and the file
//! `passwd`, and a symbolic link. A further entry `link/shadow` lands in `etc/shadow`, because the link
//! stays within the layer; `out -> /etc` followed by `out/shadow` is refused.
//!
//! What is decided here, where the specification leaves room:
//! - Absolute names and names with `..` are refused, not bent.
//! - A hard link must point at a file that this layer has already; one to a lower layer's file is refused
//!   (archivers write the file itself into such a layer).
//! - Devices: the ones that Debian's base systems carry (null, zero, full, random, urandom, tty, console,
//!   ptmx) and 0:0 (overlayfs's whiteout) are made, every other is refused.
//! - `trusted.overlay.*` and `user.overlay.*` attributes are refused: they would steer overlayfs.
//! - Missing parents are made as 0755, owned by root.
//! - Bounds: bytes of the uncompressed archive, bytes that files claim (sparse ones too) and entries,
//!   see [`Limits`]. There is no bound on the ratio: images of zeros compress a thousandfold and are honest.

mod error;
mod fields;
mod path;
mod tarfile;
mod tree;

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufRead, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags};

use crate::outline::Outline;
pub use error::{EntryError, LayerError};
pub(crate) use error::{is_no_space, shown};
use path::Meaning;
use tarfile::Entry;
pub(crate) use tarfile::TarReader;
use tree::{Live, Tree};

/// What a layer may claim at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed archive, and of the files in it.
    pub bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
}

impl Default for Limits {
    /// 64 GiB and 4 million entries.
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            entries: 4_000_000,
        }
    }
}

/// What came out of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Bytes in regular files.
    pub size: u64,
    /// Entries of the archive.
    pub entries: u64,
}

/// Major and minor numbers that base systems carry and that mean no harm.
const DEVICES: [(u32, u32); 9] = [
    (0, 0),
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (5, 0),
    (5, 1),
    (5, 2),
];

/// Applies the archive to `root`, an empty directory; `trash` is another one on the same file system. Its outline goes into a new file at
/// `outline`.
pub(crate) fn unpack(
    archive: impl BufRead,
    root: &Path,
    trash: &Path,
    outline: Option<&Path>,
    limits: &Limits,
) -> Result<Unpacked, LayerError> {
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| LayerError::io("open the work directory")(e.into()))
    };
    let failed = || LayerError::io(tarfile::OUTLINE);
    let begin = |path| {
        let outline = Outline::create(path, open(root)?).map_err(failed())?;
        Ok(Rc::new(RefCell::new(outline)))
    };
    let outline = outline.map(begin).transpose()?;
    let tree = Tree::new(open(root)?, open(trash)?, outline.clone());
    let reader = TarReader::new(archive, outline.clone());
    let unpacked = fill(tree, reader, limits)?;
    // Tree and reader are gone.
    if let Some(outline) = outline.and_then(Rc::into_inner) {
        outline.into_inner().finish().map_err(failed())?;
    }
    Ok(unpacked)
}

fn fill<R: BufRead>(
    mut tree: Tree,
    mut reader: TarReader<R>,
    limits: &Limits,
) -> Result<Unpacked, LayerError> {
    let mut done = Unpacked::default();
    let mut clean = Vec::new();
    while let Some(mut entry) = reader.next()? {
        done.entries += 1;
        if done.entries > limits.entries {
            return Err(LayerError::TooMany {
                limit: limits.entries,
            });
        }
        done.size = done.size.saturating_add(entry.real_size);
        if done.size > limits.bytes {
            return Err(LayerError::TooLarge {
                limit: limits.bytes,
            });
        }
        let mut raw = std::mem::take(&mut entry.path);
        if let Some((old, new)) = tree.rename() {
            raw = renamed(raw, old, new);
            if entry.kind == b'1' {
                entry.link = renamed(std::mem::take(&mut entry.link), old, new);
            }
        }
        let mut named = &raw[..];
        if !tree.is_layer() {
            // Archives of root filesystems are written either way.
            let start = raw.iter().position(|b| *b != b'/');
            named = start.map_or(b".", |start| &raw[start..]);
            if let Some((uid, gid)) = tree.owner() {
                (entry.uid, entry.gid) = (uid.into(), gid.into());
            }
        }
        let applied = path::clean(named, &mut clean)
            .and_then(|()| entry.refused.take().map_or(Ok(()), Err))
            .and_then(|()| check_xattrs(&entry));
        applied.map_err(|e| e.of(&raw))?;
        apply(&mut tree, &clean, &entry, &mut reader)?.map_err(|e| e.of(&raw))?;
    }
    reader.drain()?;
    tree.finish().map_err(|e| e.of(b"."))?;
    Ok(done)
}

fn renamed(name: Vec<u8>, old: &[u8], new: &[u8]) -> Vec<u8> {
    let old = if old == b"/" { b"" } else { old };
    match name.strip_prefix(old) {
        Some(rest) if rest.is_empty() || rest.starts_with(b"/") => [new, rest].concat(),
        _ => name,
    }
}

/// Where and how an archive is copied into a root filesystem that is in use.
#[derive(Debug)]
pub struct CopyInto {
    /// Its root. Every link is followed within it.
    pub root: OwnedFd,
    /// The directory that the names are relative to; it must be there.
    pub directory: PathBuf,
    /// Whether a directory may become something else, and something else a directory.
    pub replace: bool,
    /// Owner (user and group id) of everything, whatever the archive says.
    pub owner: Option<(u32, u32)>,
    /// What names begin with, and with what instead: `("a", "b")` makes `b/x` of `a/x`.
    pub rename: Option<(Vec<u8>, Vec<u8>)>,
}

/// Copies an archive, plain or compressed with gzip, zstd, xz or bzip2, into a root filesystem. What was copied before an error stays.
/// Names ending in `.wh.…` are plain names here, and devices are made.
///
/// # Errors
/// [`LayerError`], naming the entry that is refused.
pub fn copy_into(into: CopyInto, archive: impl Read) -> Result<(), LayerError> {
    let base: Vec<u8> = into.directory.as_os_str().as_bytes().to_vec();
    let start = base.iter().position(|b| *b != b'/').unwrap_or(base.len());
    let live = Live {
        root: into.root,
        base: base[start..].to_vec(),
        replace: into.replace,
        owner: into.owner,
        rename: into.rename,
    };
    let tree = Tree::live(live)
        .map_err(|e| LayerError::io("open the directory that is copied into")(e.into()))?;
    let plain = crate::ingest::plain(archive)?;
    let plain = std::io::BufReader::with_capacity(256 << 10, plain);
    fill(tree, TarReader::new(plain, None), &Limits::default()).map(drop)
}

/// Whether what is read, plain or compressed, begins as a tar archive.
pub fn is_tar(stream: impl Read) -> bool {
    let Ok(plain) = crate::ingest::plain(stream) else {
        return false;
    };
    let mut reader = TarReader::new(std::io::BufReader::new(plain), None);
    matches!(reader.next(), Ok(Some(_)))
}

fn check_xattrs(entry: &Entry) -> Result<(), EntryError> {
    let reserved =
        |name: &[u8]| name.starts_with(b"trusted.overlay") || name.starts_with(b"user.overlay");
    match entry
        .xattrs
        .iter()
        .find(|(name, _)| reserved(name) || name.contains(&0))
    {
        Some((name, _)) => Err(EntryError::Xattr(shown(name))),
        None => Ok(()),
    }
}

/// The outer error is the archive's, the inner one this entry's.
type Applied = Result<Result<(), EntryError>, LayerError>;

fn apply<R: BufRead>(
    tree: &mut Tree,
    path: &[u8],
    entry: &Entry,
    reader: &mut TarReader<R>,
) -> Applied {
    let meaning = if tree.is_layer() {
        path::meaning(path)
    } else if path.is_empty() {
        // Docker leaves the directory that is copied into as it is.
        Ok(Meaning::Ignored)
    } else {
        let (parent, name) = path::split(path);
        Ok(Meaning::Plain { parent, name })
    };
    let (parent, name) = match meaning {
        Err(e) => return Ok(Err(e)),
        Ok(Meaning::Ignored) => return Ok(Ok(())),
        Ok(Meaning::Root) if entry.kind == b'5' => {
            return Ok(tree.directory_attributes(b"", entry));
        }
        Ok(Meaning::Root) => return Ok(Err(EntryError::Root)),
        Ok(Meaning::Opaque { parent }) => return Ok(tree.opaque(parent)),
        Ok(Meaning::Whiteout { parent, name }) => return Ok(tree.whiteout(parent, name)),
        Ok(Meaning::Plain { parent, name }) => (parent, name),
    };
    match entry.kind {
        b'0' | b'S' => file(tree, path, parent, name, entry, reader),
        kind => Ok(special(tree, path, parent, name, kind, entry)),
    }
}

fn special(
    tree: &mut Tree,
    path: &[u8],
    parent: &[u8],
    name: &[u8],
    kind: u8,
    entry: &Entry,
) -> Result<(), EntryError> {
    match kind {
        b'5' => return tree.directory(path, entry),
        b'1' => {
            let mut target = Vec::new();
            let mut link = &entry.link[..];
            if !tree.is_layer() {
                let start = link.iter().position(|b| *b != b'/').unwrap_or(0);
                link = &link[start..];
            }
            path::clean(link, &mut target).map_err(|source| EntryError::LinkOutside {
                target: shown(&entry.link),
                source: Box::new(source),
            })?;
            return tree.hard_link(path, &target);
        }
        b'2' if entry.link.is_empty() || entry.link.contains(&0) => {
            return Err(EntryError::EmptyLink);
        }
        b'2' => tree.place(parent, name, "make a symbolic link", |dir| {
            rustix::fs::symlinkat(&entry.link[..], dir, name)
        })?,
        b'3' | b'4' | b'6' => {
            let (major, minor) = entry.device;
            if tree.is_layer() && (kind == b'4' || kind == b'3' && !DEVICES.contains(&entry.device))
            {
                let kind = if kind == b'4' { "block" } else { "character" };
                return Err(EntryError::Device { kind, major, minor });
            }
            let (file_type, device) = match kind {
                b'6' => (FileType::Fifo, 0),
                b'4' => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
                _ => (FileType::CharacterDevice, rustix::fs::makedev(major, minor)),
            };
            let mode = Mode::from_raw_mode(0o600);
            tree.place(parent, name, "make a device or pipe", |dir| {
                rustix::fs::mknodat(dir, name, file_type, mode, device)
            })?;
        }
        other => return Err(EntryError::Kind(char::from(other))),
    }
    tree::attributes_at(tree.dir(parent)?, name, entry)
}

fn file<R: BufRead>(
    tree: &mut Tree,
    path: &[u8],
    parent: &[u8],
    name: &[u8],
    entry: &Entry,
    reader: &mut TarReader<R>,
) -> Applied {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = tree.place(parent, name, "make a file", |dir| {
        rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))
    });
    let mut file = match made {
        Ok(fd) => File::from(fd),
        Err(e) => return Ok(Err(e)),
    };
    let failed = |source| EntryError::Io {
        action: "write the file",
        source,
    };
    if entry.kind == b'S' {
        if let Err(e) = file.set_len(entry.real_size) {
            return Ok(Err(failed(e)));
        }
        for (start, length) in &entry.sparse {
            let mut at = *start;
            let written = reader.data(*length, |piece| {
                file.write_all_at(piece, at).map_err(failed)?;
                at += piece.len() as u64;
                Ok(())
            })?;
            if written.is_err() {
                return Ok(written);
            }
        }
    } else {
        let write = |piece: &[u8]| file.write_all(piece).map_err(failed);
        let written = reader.content(path, entry.size, write)?;
        if written.is_err() {
            return Ok(written);
        }
    }
    Ok(tree::attributes(&file, entry).and_then(|()| tree::times(&file, entry)))
}
