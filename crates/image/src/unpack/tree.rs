//! A layer's tree beneath one directory handle: parents, replacements and attributes.
//!
//! Every path is resolved by the kernel with `openat2(RESOLVE_BENEATH)` from the layer's root, so no
//! symbolic link of the layer, whenever it was made, leads outside.

use std::cell::RefCell;
use std::rc::Rc;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::error::{EntryError, shown};
use super::path::split;
use super::tarfile::Entry;
use crate::outline::Outline;

const OPEN_DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
const OPAQUE: &str = "trusted.overlay.opaque";

/// A root filesystem that is written into, rather than a layer of its own.
#[derive(Debug)]
pub(crate) struct Live {
    /// The filesystem's root; links are followed within it.
    pub root: OwnedFd,
    /// The directory below it that the entries' names are relative to, without slashes at its ends.
    pub base: Vec<u8>,
    /// Whether a directory may become something else, and something else a directory.
    pub replace: bool,
    /// Owner of everything, whatever the archive says.
    pub owner: Option<(u32, u32)>,
    /// What names begin with, and with what instead.
    pub rename: Option<(Vec<u8>, Vec<u8>)>,
}

/// The tree being filled.
pub(crate) struct Tree {
    root: OwnedFd,
    /// A directory of its own, outside the layer, for subtrees that were replaced.
    trash: Option<OwnedFd>,
    live: Option<Live>,
    /// Told before something is replaced.
    outline: Option<Rc<RefCell<Outline>>>,
    trashed: u64,
    /// The directory used last: entries of one directory follow each other.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Directories get their times at the end, when nothing is created in them any more.
    times: Vec<(Vec<u8>, Timespec)>,
}

impl Tree {
    pub fn new(root: OwnedFd, trash: OwnedFd, outline: Option<Rc<RefCell<Outline>>>) -> Self {
        Self {
            root,
            trash: Some(trash),
            live: None,
            outline,
            trashed: 0,
            last: None,
            times: Vec::new(),
        }
    }

    /// Into a filesystem that is in use; its directory `base` must be there.
    pub fn live(live: Live) -> Result<Self, Errno> {
        let base = if live.base.is_empty() {
            b"."
        } else {
            &live.base[..]
        };
        Ok(Self {
            root: open_within(&live.root, base, ResolveFlags::IN_ROOT)?,
            trash: None,
            live: Some(live),
            outline: None,
            trashed: 0,
            last: None,
            times: Vec::new(),
        })
    }

    /// Whether it is a layer, in which names can be whiteouts.
    pub fn is_layer(&self) -> bool {
        self.live.is_none()
    }

    /// Owner of everything, if the archive's are not taken.
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.live.as_ref().and_then(|l| l.owner)
    }

    /// What names begin with, and with what instead.
    pub fn rename(&self) -> Option<(&[u8], &[u8])> {
        let rename = self.live.as_ref()?.rename.as_ref()?;
        Some((&rename.0, &rename.1))
    }

    fn open_dir(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        match &self.live {
            None => open_within(&self.root, path, ResolveFlags::BENEATH),
            Some(live) => {
                let whole = [&live.base[..], b"/", path].concat();
                open_within(&live.root, &whole, ResolveFlags::IN_ROOT)
            }
        }
    }

    /// The directory at a clean path, made with its parents (0755, root) where it is missing.
    pub fn dir(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, EntryError> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.last.as_ref().is_none_or(|(known, _)| known != path) {
            let dir = match self.open_dir(path) {
                Ok(dir) => dir,
                Err(Errno::NOENT | Errno::NOTDIR) => self.make_dirs(path)?,
                Err(e) => return Err(parent_error(e)),
            };
            self.last = Some((path.to_vec(), dir));
        }
        // Set just above when it was not there.
        Ok(self
            .last
            .as_ref()
            .map_or(self.root.as_fd(), |(_, dir)| dir.as_fd()))
    }

    fn make_dirs(&mut self, path: &[u8]) -> Result<OwnedFd, EntryError> {
        let mut dir = self
            .open_dir(b".")
            .map_err(EntryError::io("open the layer's root"))?;
        let ends = path
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let prefix = &path[..end];
            let name = split(prefix).1;
            let mut next = self.open_dir(prefix);
            if matches!(next, Err(Errno::NOTDIR)) && is_whiteout(stat(&dir, name)?.as_ref()) {
                unlink(&dir, name)?;
                make_dir(&dir, name)?;
                next = self.open_dir(prefix);
                if let Ok(next) = &next {
                    set_opaque(next)?;
                }
            } else if matches!(next, Err(Errno::NOENT)) {
                match make_dir(&dir, name) {
                    Ok(()) => {}
                    // A link that leads nowhere is in the way.
                    Err(EntryError::Io { source, .. })
                        if source.kind() == std::io::ErrorKind::AlreadyExists =>
                    {
                        return Err(EntryError::SymlinkEscape);
                    }
                    Err(e) => return Err(e),
                }
                next = self.open_dir(prefix);
            }
            dir = next.map_err(parent_error)?;
        }
        Ok(dir)
    }

    /// Takes away what stands at `name`, so that something else can be made there; true when it was
    /// a whiteout.
    fn clear(&mut self, parent: &[u8], name: &[u8]) -> Result<bool, EntryError> {
        let number = self.trashed.to_string();
        let dir = rustix::io::dup(self.dir(parent)?).map_err(EntryError::io("copy a handle"))?;
        let Some(old) = stat(&dir, name)? else {
            return Ok(false);
        };
        if let Some(outline) = &self.outline {
            let failed = |source| EntryError::Io {
                action: super::tarfile::OUTLINE,
                source,
            };
            outline.borrow_mut().fill().map_err(failed)?;
        }
        // It may have been a link that led there.
        self.last = None;
        if FileType::from_raw_mode(old.st_mode) != FileType::Directory {
            unlink(&dir, name)?;
            return Ok(is_whiteout(Some(&old)));
        }
        match (&self.trash, &self.live) {
            // Moving it away takes one call, whatever its size and depth.
            (Some(trash), _) => rustix::fs::renameat(&dir, name, trash, number)
                .map_err(EntryError::io("move a replaced directory away"))?,
            (None, Some(Live { replace: true, .. })) => remove_all(&dir, name)?,
            (None, _) => return Err(EntryError::DirectoryInTheWay),
        }
        self.trashed += 1;
        Ok(false)
    }

    /// Makes something with `make`, clearing the place first if it is taken.
    pub fn place<T>(
        &mut self,
        parent: &[u8],
        name: &[u8],
        action: &'static str,
        make: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, EntryError> {
        match make(self.dir(parent)?) {
            Err(Errno::EXIST) => {
                self.clear(parent, name)?;
                make(self.dir(parent)?).map_err(EntryError::io(action))
            }
            other => other.map_err(EntryError::io(action)),
        }
    }

    /// Makes or finds the directory and gives it the entry's attributes.
    pub fn directory(&mut self, path: &[u8], entry: &Entry) -> Result<(), EntryError> {
        let (parent, name) = split(path);
        let made = make_dir(self.dir(parent)?, name);
        match made {
            Ok(()) => {}
            Err(EntryError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::AlreadyExists =>
            {
                let old = stat(self.dir(parent)?, name)?;
                let is_dir = |s: &Stat| FileType::from_raw_mode(s.st_mode) == FileType::Directory;
                if !old.as_ref().is_some_and(is_dir) {
                    if self.live.as_ref().is_some_and(|l| !l.replace) {
                        return Err(EntryError::FileInTheWay);
                    }
                    let hides = self.clear(parent, name)?;
                    make_dir(self.dir(parent)?, name)?;
                    if hides {
                        set_opaque(self.dir(path)?)?;
                    }
                }
            }
            Err(e) => return Err(e),
        }
        self.directory_attributes(path, entry)
    }

    /// Attributes of a directory that is there; the empty path is the root.
    pub fn directory_attributes(&mut self, path: &[u8], entry: &Entry) -> Result<(), EntryError> {
        attributes(self.dir(path)?, entry)?;
        self.times.push((path.to_vec(), timespec(entry)));
        Ok(())
    }

    /// Marks the name as taken away. What this very layer has there stays: whiteouts are about the layers
    /// below, so a directory of this layer becomes opaque instead.
    pub fn whiteout(&mut self, parent: &[u8], name: &[u8]) -> Result<(), EntryError> {
        let dir = self.dir(parent)?;
        match rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Err(Errno::EXIST) => {
                let old = stat(dir, name)?;
                let is_dir = |s: &Stat| FileType::from_raw_mode(s.st_mode) == FileType::Directory;
                if old.as_ref().is_some_and(is_dir) {
                    let path = [parent, if parent.is_empty() { b"" } else { b"/" }, name].concat();
                    set_opaque(self.dir(&path)?)?;
                }
                Ok(())
            }
            other => other.map_err(EntryError::io("make a whiteout")),
        }
    }

    /// Marks a directory opaque.
    pub fn opaque(&mut self, path: &[u8]) -> Result<(), EntryError> {
        set_opaque(self.dir(path)?)
    }

    /// Links to a file that this layer already has.
    pub fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), EntryError> {
        let missing = || EntryError::LinkTarget {
            target: shown(target),
        };
        let (from, from_name) = split(target);
        let from = self
            .open_dir(if from.is_empty() { b"." } else { from })
            .map_err(|e| match e {
                Errno::NOENT | Errno::NOTDIR => missing(),
                e => EntryError::LinkOutside {
                    target: shown(target),
                    source: Box::new(parent_error(e)),
                },
            })?;
        let old = stat(&from, from_name)?.ok_or_else(missing)?;
        let kind = FileType::from_raw_mode(old.st_mode);
        if from_name.is_empty() || kind == FileType::Directory || is_whiteout(Some(&old)) {
            return Err(missing());
        }
        let (parent, name) = split(path);
        let existing = stat(self.dir(parent)?, name)?;
        if existing.is_some_and(|e| (e.st_dev, e.st_ino) == (old.st_dev, old.st_ino)) {
            return Ok(());
        }
        self.place(parent, name, "make a hard link", |dir| {
            rustix::fs::linkat(&from, from_name, dir, name, AtFlags::empty())
        })
    }

    /// Sets the times of all directories, once everything is in them.
    pub fn finish(mut self) -> Result<(), EntryError> {
        for (path, time) in std::mem::take(&mut self.times) {
            let dir = self.open_dir(if path.is_empty() { b"." } else { &path });
            // It may have been replaced by something else since.
            let Ok(dir) = dir else { continue };
            rustix::fs::futimens(&dir, &stamps(time)).map_err(EntryError::io("set a time"))?;
        }
        Ok(())
    }
}

fn open_within(root: &OwnedFd, path: &[u8], how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let how = how | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, OPEN_DIR, Mode::empty(), how) {
            // The kernel could not be sure of a ".." in a link while something was renamed.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Removes a directory and all below it, following no link.
fn remove_all(dir: &OwnedFd, name: &[u8]) -> Result<(), EntryError> {
    use rustix::fd::AsRawFd as _;
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::path::PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    let path = path.join(std::ffi::OsStr::from_bytes(name));
    crate::trash::remove_tree(&path).map_err(|source| EntryError::Io {
        action: "remove a directory that is replaced",
        source,
    })
}

fn parent_error(errno: Errno) -> EntryError {
    match errno {
        Errno::XDEV | Errno::LOOP | Errno::NOENT => EntryError::SymlinkEscape,
        Errno::NOTDIR => EntryError::NotDirectory,
        other => EntryError::io("open its directory")(other),
    }
}

fn make_dir(dir: impl AsFd, name: &[u8]) -> Result<(), EntryError> {
    let mode = Mode::from_raw_mode(0o755);
    rustix::fs::mkdirat(&dir, name, mode).map_err(EntryError::io("make a directory"))
}

fn unlink(dir: impl AsFd, name: &[u8]) -> Result<(), EntryError> {
    rustix::fs::unlinkat(dir, name, AtFlags::empty()).map_err(EntryError::io("replace a file"))
}

fn stat(dir: impl AsFd, name: &[u8]) -> Result<Option<Stat>, EntryError> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(EntryError::io("look at a file")(e)),
    }
}

fn is_whiteout(stat: Option<&Stat>) -> bool {
    stat.is_some_and(|s| {
        FileType::from_raw_mode(s.st_mode) == FileType::CharacterDevice && s.st_rdev == 0
    })
}

fn set_opaque(dir: impl AsFd) -> Result<(), EntryError> {
    rustix::fs::fsetxattr(dir, OPAQUE, b"y", XattrFlags::empty())
        .map_err(EntryError::io("mark a directory opaque"))
}

fn timespec(entry: &Entry) -> Timespec {
    Timespec {
        tv_sec: entry.mtime.0,
        tv_nsec: i64::from(entry.mtime.1),
    }
}

fn stamps(time: Timespec) -> Timestamps {
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn owner(entry: &Entry) -> Result<(Uid, Gid), EntryError> {
    // -1 means "leave alone" to chown.
    let id = |n: i64| {
        u32::try_from(n)
            .ok()
            .filter(|n| *n != u32::MAX)
            .ok_or(EntryError::Owner(n))
    };
    Ok((Uid::from_raw(id(entry.uid)?), Gid::from_raw(id(entry.gid)?)))
}

/// Owner, mode and extended attributes of an open file or directory. The order matters: a change of owner
/// drops setuid bits and file capabilities.
pub(crate) fn attributes(file: impl AsFd, entry: &Entry) -> Result<(), EntryError> {
    if (entry.uid, entry.gid) != (0, 0) {
        let (uid, gid) = owner(entry)?;
        rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(EntryError::io("set the owner"))?;
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))
        .map_err(EntryError::io("set the mode"))?;
    for (name, value) in &entry.xattrs {
        let set = rustix::fs::fsetxattr(&file, &name[..], value, XattrFlags::empty());
        xattr_result(name, set)?;
    }
    Ok(())
}

/// Times of an open file.
pub(crate) fn times(file: impl AsFd, entry: &Entry) -> Result<(), EntryError> {
    rustix::fs::futimens(file, &stamps(timespec(entry))).map_err(EntryError::io("set a time"))
}

/// Attributes of something that cannot be opened: links, pipes, devices.
pub(crate) fn attributes_at(
    dir: BorrowedFd<'_>,
    name: &[u8],
    entry: &Entry,
) -> Result<(), EntryError> {
    let (uid, gid) = owner(entry)?;
    let here = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), here)
        .map_err(EntryError::io("set the owner"))?;
    if entry.kind != b'2' {
        // We made it just now and nobody else works in this directory: it is no link.
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .map_err(EntryError::io("set the mode"))?;
    }
    if !entry.xattrs.is_empty() {
        use rustix::fd::AsRawFd as _;
        let path = [
            format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(),
            name,
        ]
        .concat();
        for (key, value) in &entry.xattrs {
            let set = rustix::fs::lsetxattr(&path[..], &key[..], value, XattrFlags::empty());
            xattr_result(key, set)?;
        }
    }
    rustix::fs::utimensat(dir, name, &stamps(timespec(entry)), here)
        .map_err(EntryError::io("set a time"))
}

/// Attributes that the file system does not know are left out, as docker does.
fn xattr_result(name: &[u8], set: Result<(), Errno>) -> Result<(), EntryError> {
    match set {
        Err(Errno::NOTSUP) => {
            tracing::debug!(name = %name.escape_ascii(), "extended attribute not supported here");
            Ok(())
        }
        // Only files and directories may have them.
        Err(Errno::PERM) if name.starts_with(b"user.") => Ok(()),
        other => other.map_err(EntryError::io("set an extended attribute")),
    }
}
