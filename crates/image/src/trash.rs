//! Walks over directory trees that somebody else has made, however deep and wide they are, and takes them away.
//!
//! A hostile layer can nest directories deeper than a recursive removal has stack or descriptors for, and fill one with more names
//! than there is memory. So a directory is never listed whole, and a tree is taken apart from the top: each subdirectory's own
//! subdirectories are moved up beside it, then it is empty and goes. Nothing is followed.

use std::ffi::CStr;
use std::io;
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, DirEntry, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

/// Levels that [`walk`] goes down.
const DEEPEST: usize = 128;

const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Removes the directory with all that is in it; one that is not there is removed already.
///
/// # Errors
/// Those of the file system; what could not be removed is there still, perhaps by another name.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match rustix::fs::open(path, OPEN, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let mut moved = 0;
    // What is moved up while the directory is read, or passed over because of what goes, comes the next time.
    loop {
        let mut found = false;
        for entry in entries(&top)? {
            let entry = entry?;
            found = true;
            match kind(&top, &entry)? {
                FileType::Directory => remove_dir(&top, entry.file_name(), &mut moved)?,
                _ => rustix::fs::unlinkat(&top, entry.file_name(), AtFlags::empty())?,
            }
        }
        if !found {
            return std::fs::remove_dir(path);
        }
    }
}

/// Removes one directory, and leaves its subdirectories in `top`.
fn remove_dir(top: &OwnedFd, name: &CStr, moved: &mut u64) -> io::Result<()> {
    let dir = rustix::fs::openat(top, name, OPEN, Mode::empty())?;
    loop {
        let mut found = false;
        for entry in entries(&dir)? {
            let entry = entry?;
            let child = entry.file_name();
            found = true;
            if kind(&dir, &entry)? != FileType::Directory {
                rustix::fs::unlinkat(&dir, child, AtFlags::empty())?;
            } else if rustix::fs::unlinkat(&dir, child, AtFlags::REMOVEDIR).is_err() {
                move_up(&dir, child, top, moved)?;
            }
        }
        match rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) if found => {}
            other => return Ok(other?),
        }
    }
}

fn move_up(dir: &OwnedFd, child: &CStr, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        match rustix::fs::renameat(dir, child, top, format!(".up-{moved}")) {
            // A name of the tree's own that looks like ours.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            other => return Ok(other?),
        }
    }
}

/// Takes sockets below a directory away; the times of the directories that they were in stay. As deep as [`walk`] goes.
pub(crate) fn remove_sockets(path: &Path) -> io::Result<()> {
    walk(path, |dir, name, kind| {
        if kind != FileType::Socket {
            return Ok(());
        }
        let before = rustix::fs::fstat(dir)?;
        rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
        let at = |seconds, nanos: u64| Timespec {
            tv_sec: seconds,
            tv_nsec: i64::try_from(nanos).unwrap_or(0),
        };
        let times = Timestamps {
            last_access: at(before.st_atime, before.st_atime_nsec),
            last_modification: at(before.st_mtime, before.st_mtime_nsec),
        };
        Ok(rustix::fs::futimens(dir, &times)?)
    })
}

/// Entries and bytes in regular files below a directory, as deep as [`walk`] goes. Sockets do not count: no archive has them.
pub(crate) fn count(path: &Path) -> io::Result<(u64, u64)> {
    let (mut entries, mut bytes) = (0, 0);
    walk(path, |dir, name, kind| {
        entries += u64::from(kind != FileType::Socket);
        if kind == FileType::RegularFile {
            let facts = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            bytes += u64::try_from(facts.st_size).unwrap_or(0);
        }
        Ok(())
    })?;
    Ok((entries, bytes))
}

/// Shows everything below a directory, which may be removed then. A directory is open for each level, down to [`DEEPEST`], below
/// which nothing is shown.
fn walk(
    path: &Path,
    mut act: impl FnMut(&OwnedFd, &CStr, FileType) -> io::Result<()>,
) -> io::Result<()> {
    let top = rustix::fs::open(path, OPEN, Mode::empty())?;
    let mut open = vec![(entries(&top)?, top)];
    loop {
        let depth = open.len();
        let Some((left, dir)) = open.last_mut() else {
            return Ok(());
        };
        let Some(entry) = left.next() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        let (name, kind) = (entry.file_name(), kind(dir, &entry)?);
        act(dir, name, kind)?;
        if kind == FileType::Directory && depth < DEEPEST {
            let inner = rustix::fs::openat(&*dir, name, OPEN, Mode::empty())?;
            open.push((entries(&inner)?, inner));
        }
    }
}

/// What is in a directory, read piece by piece.
fn entries(
    dir: &OwnedFd,
) -> io::Result<impl Iterator<Item = rustix::io::Result<DirEntry>> + use<>> {
    let own = |entry: &rustix::io::Result<DirEntry>| {
        let name = entry.as_ref().map_or(c"", |entry| entry.file_name());
        name != c"." && name != c".."
    };
    Ok(Dir::read_from(dir)?.filter(own))
}

fn kind(dir: &OwnedFd, entry: &DirEntry) -> io::Result<FileType> {
    if entry.file_type() != FileType::Unknown {
        return Ok(entry.file_type());
    }
    let facts = rustix::fs::statat(dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(facts.st_mode))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn deeper_than_any_path() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let mut dir = rustix::fs::open(&root, OPEN, Mode::empty()).unwrap();
        for _ in 0..6000 {
            rustix::fs::mkdirat(&dir, "d", Mode::from_raw_mode(0o700)).unwrap();
            rustix::fs::symlinkat("/etc", &dir, "l").unwrap();
            dir = rustix::fs::openat(&dir, "d", OPEN, Mode::empty()).unwrap();
        }
        std::fs::create_dir(root.join(".up-1")).unwrap();
        std::fs::write(root.join(".up-1/x"), "x").unwrap();
        remove_tree(&root).unwrap();
        assert!(!root.exists());
        remove_tree(&root).unwrap();
        assert!(Path::new("/etc/passwd").exists());
    }

    #[test]
    fn wider_than_a_piece() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("root");
        let outside = tmp.path().join("outside");
        std::fs::create_dir_all(root.join("wide/dirs")).unwrap();
        std::fs::write(&outside, "x").unwrap();
        for n in 0..5000 {
            std::fs::hard_link(&outside, root.join(format!("wide/file-{n}"))).unwrap();
            let dir = root.join(format!("wide/dirs/{n}"));
            std::fs::create_dir(&dir).unwrap();
            std::os::unix::fs::symlink(&outside, dir.join("link")).unwrap();
        }
        assert_eq!(count(&root).unwrap(), (2 + 15_000, 5000));
        remove_tree(&root).unwrap();
        assert!(!root.exists() && outside.exists());
    }

    #[test]
    fn sockets_of_a_wide_directory() {
        let tmp = tempfile::tempdir().unwrap();
        for n in 0..1000 {
            drop(std::os::unix::net::UnixListener::bind(tmp.path().join(format!("s{n}"))).unwrap());
            std::fs::write(tmp.path().join(format!("f{n}")), "xy").unwrap();
        }
        let before = std::fs::metadata(tmp.path()).unwrap().modified().unwrap();
        assert_eq!(count(tmp.path()).unwrap(), (1000, 2000));
        remove_sockets(tmp.path()).unwrap();
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 1000);
        let after = std::fs::metadata(tmp.path()).unwrap().modified().unwrap();
        assert_eq!(after, before);
    }
}
