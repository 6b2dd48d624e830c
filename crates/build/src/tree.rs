//! Walking, hashing and copying trees below directory descriptors, following no link on the way.
//!
//! Copying is BuildKit's: directories are merged and take the source's attributes, a file replaces a file, and what is a directory
//! on one side only is an error that names the place.

use coracle_image::pack::{Tree, attributes};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
    XattrFlags, copy_file_range, fchmod, fchown, fsetxattr, futimens, linkat, mkdirat, mknodat,
    openat, openat2, readlinkat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const LINK: AtFlags = AtFlags::SYMLINK_NOFOLLOW;
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Whether a path, relative to the root of what is walked, is left out.
pub type Excluded<'a> = &'a (dyn Fn(&Path) -> bool + Sync);

/// Opens what is at a path, links followed within the root.
pub fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// What is at a path, links followed within the root; none if there is nothing.
pub fn stat(root: BorrowedFd<'_>, path: &Path) -> Result<Option<Stat>, Errno> {
    match open(root, path, OFlags::PATH) {
        Ok(fd) => rustix::fs::fstat(&fd).map(Some),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}

pub fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Where a path leads within the root, without links. What is not there stays as it is written.
pub fn resolve(root: BorrowedFd<'_>, path: &Path) -> Result<PathBuf, Errno> {
    let mut left: Vec<OsString> = parts(path).into_iter().rev().collect();
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let parent = match open(root, &at, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(parent) => parent,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                at = next;
                continue;
            }
            Err(e) => return Err(e),
        };
        match readlinkat(&parent, &part, Vec::new()) {
            Ok(target) => {
                links += 1;
                if links > 255 {
                    return Err(Errno::LOOP);
                }
                let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                left.extend(parts(target).into_iter().rev());
            }
            Err(Errno::INVAL | Errno::NOENT) => at = next,
            Err(e) => return Err(e),
        }
    }
    Ok(at)
}

fn parts(path: &Path) -> Vec<OsString> {
    use std::path::Component as C;
    let part = |c: C<'_>| match c {
        C::Normal(name) => Some(name.to_owned()),
        C::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

/// Names in a directory, in byte order.
pub fn names(dir: impl AsFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Hashes what is at a path without following it: kinds, modes, owners if they count, links' targets, attributes and content;
/// no times. `path` is relative to `root` and what `excluded` hears.
pub fn hash(
    root: BorrowedFd<'_>,
    path: &Path,
    owners: bool,
    excluded: Excluded<'_>,
) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let parent = open(
        root,
        path.parent().unwrap_or(Path::new("")),
        OFlags::PATH | OFlags::DIRECTORY,
    )?;
    let name = path.file_name().unwrap_or(OsStr::new("."));
    let mut buffer = vec![0; 128 << 10];
    hash_entry(
        parent.as_fd(),
        name,
        path,
        owners,
        excluded,
        &mut hasher,
        &mut buffer,
    )?;
    Ok(hasher.finalize().into())
}

fn hash_entry(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
    owners: bool,
    excluded: Excluded<'_>,
    hasher: &mut Sha256,
    buffer: &mut [u8],
) -> io::Result<()> {
    let stat = statat(dir, name, LINK)?;
    let kind = kind(&stat);
    hasher.update(stat.st_mode.to_le_bytes());
    if owners {
        hasher.update(stat.st_uid.to_le_bytes());
        hasher.update(stat.st_gid.to_le_bytes());
    }
    match kind {
        FileType::Directory => {
            let dir = openat(dir, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
            hash_attributes(&dir, hasher)?;
            for name in names(&dir)? {
                let path = path.join(&name);
                if excluded(&path) {
                    continue;
                }
                hasher.update((name.len() as u64).to_le_bytes());
                hasher.update(name.as_bytes());
                hash_entry(dir.as_fd(), &name, &path, owners, excluded, hasher, buffer)?;
            }
            hasher.update([0xff; 8]);
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let mut file = File::from(openat(dir, name, flags, Mode::empty())?);
            hash_attributes(&file, hasher)?;
            hasher.update(stat.st_size.to_le_bytes());
            loop {
                match file.read(buffer)? {
                    0 => break,
                    n => hasher.update(&buffer[..n]),
                }
            }
        }
        FileType::Symlink => hasher.update(readlinkat(dir, name, Vec::new())?.as_bytes()),
        _ => hasher.update(stat.st_rdev.to_le_bytes()),
    }
    Ok(())
}

fn hash_attributes(file: impl AsFd, hasher: &mut Sha256) -> io::Result<()> {
    for (name, value) in attributes(file, Tree::Layer)? {
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(&name);
        hasher.update((value.len() as u64).to_le_bytes());
        hasher.update(&value);
    }
    Ok(())
}

/// What is changed on the way.
pub struct Rules<'a> {
    /// User and group id of everything; the source's own if none.
    pub owner: Option<(u32, u32)>,
    /// What a mode becomes; the second is whether it is a directory's.
    pub mode: Option<&'a (dyn Fn(u32, bool) -> u32 + Sync)>,
    /// Paths relative to the source's root that are left out.
    pub excluded: Excluded<'a>,
}

/// Copies into one tree, keeping what is linked there linked.
pub struct Copier<'a> {
    rules: Rules<'a>,
    /// Where files that have several names were put first, as the rules hear of them.
    links: HashMap<(u64, u64), PathBuf>,
    /// The directory that is copied into, and what the rules call its like.
    base: Option<(OwnedFd, PathBuf)>,
    buffer: Vec<u8>,
    /// The newest time of a file that was copied, in seconds since 1970.
    pub newest: i64,
}

impl<'a> Copier<'a> {
    pub fn new(rules: Rules<'a>) -> Self {
        Self {
            rules,
            links: HashMap::new(),
            base: None,
            buffer: vec![0; 128 << 10],
            newest: 0,
        }
    }

    /// Copies what is called `name` in `from` to `to_name` in `to`. `path` is what the rules hear of.
    pub fn entry(
        &mut self,
        (from, name): (BorrowedFd<'_>, &OsStr),
        path: &Path,
        (to, to_name): (BorrowedFd<'_>, &OsStr),
    ) -> io::Result<()> {
        let facts = statat(from, name, LINK).map_err(at(path))?;
        let there = match statat(to, to_name, LINK) {
            Ok(there) => Some(kind(&there)),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(at(path)(e)),
        };
        if kind(&facts) == FileType::Directory {
            match there {
                Some(FileType::Directory) => {}
                Some(_) => {
                    return Err(clash(to_name, "cannot copy a directory onto what is none"));
                }
                None => mkdirat(to, to_name, Mode::from_raw_mode(0o755)).map_err(at(path))?,
            }
            let inside = openat(to, to_name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
                .map_err(at(path))?;
            let of = openat(from, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
                .map_err(at(path))?;
            self.walk(&of, path, &inside)?;
            return self
                .finish(&inside, &of, &facts, true)
                .map_err(in_path(path));
        }
        match there {
            Some(FileType::Directory) => {
                return Err(clash(to_name, "cannot replace a directory with a file"));
            }
            Some(_) => unlinkat(to, to_name, AtFlags::empty()).map_err(at(path))?,
            None => {}
        }
        self.newest = self.newest.max(facts.st_mtime);
        if facts.st_nlink > 1 {
            let key = (facts.st_dev, facts.st_ino);
            if let Some(first) = self.links.get(&key) {
                match self.link(first, (to, to_name)) {
                    Ok(()) => return Ok(()),
                    // It was replaced by something else since.
                    Err(Errno::NOENT) => {}
                    Err(e) => return Err(at(path)(e)),
                }
            }
            self.links.insert(key, path.to_owned());
        }
        self.leaf((from, name), &facts, (to, to_name))
            .map_err(in_path(path))
    }

    /// Copies what is in a directory, and not its attributes.
    pub fn inside(&mut self, from: &OwnedFd, path: &Path, to: &OwnedFd) -> io::Result<()> {
        self.base = Some((to.try_clone()?, path.to_owned()));
        self.walk(from, path, to)
    }

    /// Gives a file that was copied one more name.
    fn link(&self, first: &Path, (to, to_name): (BorrowedFd<'_>, &OsStr)) -> Result<(), Errno> {
        let (base, path) = self.base.as_ref().ok_or(Errno::NOENT)?;
        let first = first.strip_prefix(path).map_err(|_| Errno::NOENT)?;
        let name = first.file_name().ok_or(Errno::NOENT)?;
        let dir = match first.parent().filter(|p| !p.as_os_str().is_empty()) {
            None => base.try_clone().map_err(|_| Errno::MFILE)?,
            Some(parent) => {
                let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                openat2(base, parent, flags, Mode::empty(), how)?
            }
        };
        linkat(&dir, name, to, to_name, AtFlags::empty())
    }

    fn walk(&mut self, from: &OwnedFd, path: &Path, to: &OwnedFd) -> io::Result<()> {
        for name in names(from).map_err(in_path(path))? {
            let path = path.join(&name);
            if !(self.rules.excluded)(&path) {
                self.entry((from.as_fd(), &name), &path, (to.as_fd(), &name))?;
            }
        }
        Ok(())
    }

    fn leaf(
        &mut self,
        (from, name): (BorrowedFd<'_>, &OsStr),
        facts: &Stat,
        (to, to_name): (BorrowedFd<'_>, &OsStr),
    ) -> io::Result<()> {
        match kind(facts) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let mut source = File::from(openat(from, name, flags, Mode::empty())?);
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let made = openat(to, to_name, flags, Mode::from_raw_mode(0o600))?;
                let mut target = File::from(made);
                self.data(&mut source, &mut target)?;
                return self.finish(&target, &source, facts, false);
            }
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new())?;
                symlinkat(&target, to, to_name)?;
            }
            // It lives with its process.
            FileType::Socket => return Ok(()),
            kind => mknodat(
                to,
                to_name,
                kind,
                Mode::from_raw_mode(facts.st_mode & 0o7777),
                facts.st_rdev,
            )?,
        }
        let (uid, gid) = self.rules.owner.unwrap_or((facts.st_uid, facts.st_gid));
        rustix::fs::chownat(
            to,
            to_name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            LINK,
        )?;
        utimensat(to, to_name, &times(facts), LINK)?;
        Ok(())
    }

    fn data(&mut self, source: &mut File, target: &mut File) -> io::Result<()> {
        let mut copied = false;
        loop {
            match copy_file_range(&*source, None, &*target, None, 1 << 30) {
                Ok(0) if copied => return Ok(()),
                // Some file systems say so of files that have something.
                Ok(0) => break,
                Ok(_) => copied = true,
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) if !copied => {
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
        loop {
            match source.read(&mut self.buffer)? {
                0 => return Ok(()),
                n => target.write_all(&self.buffer[..n])?,
            }
        }
    }

    /// Owner, mode, attributes and times, in the order that keeps them: a change of owner takes capabilities away.
    fn finish(
        &self,
        to: impl AsFd,
        from: impl AsFd,
        facts: &Stat,
        directory: bool,
    ) -> io::Result<()> {
        let (uid, gid) = self.rules.owner.unwrap_or((facts.st_uid, facts.st_gid));
        fchown(&to, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        let mode = facts.st_mode & 0o7777;
        let mode = self
            .rules
            .mode
            .map_or(mode, |change| change(mode, directory));
        fchmod(&to, Mode::from_raw_mode(mode))?;
        for (name, value) in attributes(from, Tree::Layer)? {
            match fsetxattr(&to, &name[..], &value, XattrFlags::empty()) {
                Err(Errno::NOTSUP) => {}
                other => other?,
            }
        }
        futimens(&to, &times(facts))?;
        Ok(())
    }
}

fn clash(name: &OsStr, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("{why}: {}", name.to_string_lossy()),
    )
}

fn at(path: &Path) -> impl FnOnce(Errno) -> io::Error {
    move |e| in_path(path)(e.into())
}

fn in_path(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |e| {
        if e.get_ref().is_some() {
            return e;
        }
        io::Error::new(e.kind(), format!("{}: {e}", path.display()))
    }
}

pub fn times(facts: &Stat) -> Timestamps {
    let time = Timespec {
        tv_sec: facts.st_mtime,
        tv_nsec: i64::try_from(facts.st_mtime_nsec).unwrap_or(0),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Whole seconds.
pub fn at_second(seconds: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn linked_files_stay_linked_and_take_no_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir(&to).unwrap();
        for n in 0..300 {
            let here = from.join(format!("d{n}"));
            std::fs::create_dir_all(&here).unwrap();
            std::fs::write(here.join("a"), n.to_string()).unwrap();
            std::fs::hard_link(here.join("a"), here.join("b")).unwrap();
        }
        std::fs::hard_link(from.join("d0/a"), from.join("z")).unwrap();
        let open = |path: &Path| rustix::fs::open(path, DIRECTORY, Mode::empty()).unwrap();
        let rules = Rules {
            owner: None,
            mode: None,
            excluded: &|_| false,
        };
        let mut copier = Copier::new(rules);
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let (source, target) = (open(&from), open(&to));
        let before = descriptors();
        copier.inside(&source, Path::new("x/y"), &target).unwrap();
        // Other tests may have opened some meanwhile.
        assert!(descriptors() < before + 100);
        let inode = |path: &str| std::fs::metadata(to.join(path)).unwrap().ino();
        for n in 0..300 {
            assert_eq!(inode(&format!("d{n}/a")), inode(&format!("d{n}/b")));
        }
        assert_eq!(inode("d0/a"), inode("z"));
    }
}
