//! Takes directory trees away, however deep they are.
//!
//! A hostile layer can nest directories deeper than a recursive removal has stack or descriptors for. So
//! the tree is taken apart from the top: each subdirectory's own subdirectories are moved up beside it, then
//! it is empty and goes. Nothing is followed and at most two directories are open.

use std::io;
use std::path::Path;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

/// Removes the directory with all that is in it; one that is not there is removed already.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match remove_contents(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    std::fs::remove_dir(path)
}

/// Removes all that is in the directory.
pub(crate) fn remove_contents(path: &Path) -> io::Result<()> {
    let top = rustix::fs::open(path, OPEN, Mode::empty())?;
    let mut moved = 0u64;
    loop {
        let mut left = false;
        for (name, kind) in list(&top)? {
            if kind == FileType::Directory {
                left |= remove_dir(&top, &name, &mut moved)?;
            } else {
                unlink(&top, &name)?;
            }
        }
        if !left {
            return Ok(());
        }
    }
}

/// Takes sockets below a directory away; the times of the directories that they were in stay. As deep as [`count`] looks.
pub(crate) fn remove_sockets(path: &Path) -> io::Result<()> {
    let mut open = vec![rustix::fs::open(path, OPEN, Mode::empty())?];
    let mut waiting = vec![without_sockets(&open[0])?];
    while let (Some(dir), Some(names)) = (open.last(), waiting.last_mut()) {
        let Some(name) = names.pop() else {
            open.pop();
            waiting.pop();
            continue;
        };
        if open.len() == DEEPEST {
            continue;
        }
        let inner = rustix::fs::openat(dir, &name, OPEN, Mode::empty())?;
        waiting.push(without_sockets(&inner)?);
        open.push(inner);
    }
    Ok(())
}

/// Removes a directory's own sockets; names of the directories in it.
fn without_sockets(dir: &OwnedFd) -> io::Result<Vec<Name>> {
    let all = list(dir)?;
    if all.iter().any(|(_, kind)| *kind == FileType::Socket) {
        let before = rustix::fs::fstat(dir)?;
        for (name, _) in all.iter().filter(|(_, kind)| *kind == FileType::Socket) {
            unlink(dir, name)?;
        }
        let at = |seconds, nanos: u64| Timespec {
            tv_sec: seconds,
            tv_nsec: i64::try_from(nanos).unwrap_or(0),
        };
        let times = Timestamps {
            last_access: at(before.st_atime, before.st_atime_nsec),
            last_modification: at(before.st_mtime, before.st_mtime_nsec),
        };
        rustix::fs::futimens(dir, &times)?;
    }
    let directories = |(name, kind)| (kind == FileType::Directory).then_some(name);
    Ok(all.into_iter().filter_map(directories).collect())
}

/// Entries and bytes in regular files below a directory, however deep it is: one directory is open for each level, up to a bound
/// below which nothing is counted. Sockets do not count: no archive has them.
pub(crate) fn count(path: &Path) -> io::Result<(u64, u64)> {
    let mut open = vec![rustix::fs::open(path, OPEN, Mode::empty())?];
    let mut waiting = vec![directories(&open[0])?];
    let (mut entries, mut bytes) = (waiting[0].1, waiting[0].2);
    while let (Some(dir), Some((names, ..))) = (open.last(), waiting.last_mut()) {
        let Some(name) = names.pop() else {
            open.pop();
            waiting.pop();
            continue;
        };
        if open.len() == DEEPEST {
            continue;
        }
        let inner = rustix::fs::openat(dir, &name, OPEN, Mode::empty())?;
        let found = directories(&inner)?;
        entries += found.1;
        bytes += found.2;
        open.push(inner);
        waiting.push(found);
    }
    Ok((entries, bytes))
}

/// Levels that are counted.
const DEEPEST: usize = 128;

/// Names of directories in a directory, its entries, and the bytes in its files.
fn directories(dir: &OwnedFd) -> io::Result<(Vec<Name>, u64, u64)> {
    let (mut names, mut entries, mut bytes) = (Vec::new(), 0, 0);
    for (name, kind) in list(dir)? {
        entries += u64::from(kind != FileType::Socket);
        match kind {
            FileType::Directory => names.push(name),
            FileType::RegularFile => {
                let facts = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                bytes += u64::try_from(facts.st_size).unwrap_or(0);
            }
            _ => {}
        }
    }
    Ok((names, entries, bytes))
}

const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

type Name = std::ffi::CString;

/// Removes one directory; true when it left subdirectories of its own in `top`.
fn remove_dir(top: &OwnedFd, name: &Name, moved: &mut u64) -> io::Result<bool> {
    let dir = rustix::fs::openat(top, name, OPEN, Mode::empty())?;
    let mut left = false;
    for (child, kind) in list(&dir)? {
        if kind != FileType::Directory {
            unlink(&dir, &child)?;
        } else if rustix::fs::unlinkat(&dir, &child, AtFlags::REMOVEDIR).is_err() {
            loop {
                *moved += 1;
                match rustix::fs::renameat(&dir, &child, top, format!(".up-{moved}")) {
                    // A name of the tree's own that looks like ours.
                    Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                    other => break other?,
                }
            }
            left = true;
        }
    }
    rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)?;
    Ok(left)
}

fn unlink(dir: impl AsFd, name: &Name) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?)
}

/// Names and kinds, read whole before anything is changed.
fn list(dir: &OwnedFd) -> io::Result<Vec<(Name, FileType)>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            kind = FileType::from_raw_mode(stat.st_mode);
        }
        entries.push((name.to_owned(), kind));
    }
    Ok(entries)
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
}
