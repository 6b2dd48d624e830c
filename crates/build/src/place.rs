//! Putting things into the filesystem of an image in the making, so that the same things make the same layer: no time of now is
//! left behind.

use crate::error::{BuildError, Result, invalid};
use crate::source::Item;
use crate::tree::{self, Copier, Rules, kind};
use coracle_image::{CopyInto, copy_into};
use rustix::fs::{FileType, Gid, Mode, OFlags, Timestamps, Uid, futimens, mkdirat, openat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What is changed of what is copied.
pub(crate) struct Change<'a> {
    pub owner: Option<(u32, u32)>,
    pub mode: Option<&'a (dyn Fn(u32, bool) -> u32 + Sync)>,
    pub excluded: tree::Excluded<'a>,
}

/// Puts things below a root.
pub(crate) struct Placer<'r> {
    root: BorrowedFd<'r>,
    owner: Option<(u32, u32)>,
    /// Directories that were there and got new entries, with the times that they had.
    touched: Vec<(PathBuf, OwnedFd, Timestamps)>,
    /// Directories that were made by the way.
    made: Vec<OwnedFd>,
    newest: i64,
}

fn copying(error: impl Into<io::Error>) -> BuildError {
    BuildError::Copy(error.into())
}

impl<'r> Placer<'r> {
    /// `owner` gets the directories that are made by the way.
    pub fn new(root: BorrowedFd<'r>, owner: Option<(u32, u32)>) -> Self {
        Self {
            root,
            owner,
            touched: Vec::new(),
            made: Vec::new(),
            newest: 0,
        }
    }

    /// The directory at a path without links, made with those above it; whether it was made.
    pub fn directory(&mut self, path: &Path) -> Result<(OwnedFd, bool)> {
        let mut at = tree::open(
            self.root,
            Path::new("/"),
            OFlags::RDONLY | OFlags::DIRECTORY,
        )
        .map_err(copying)?;
        let (mut whole, mut new) = (PathBuf::new(), false);
        for part in path.strip_prefix("/").unwrap_or(path).iter() {
            let next = match openat(&at, part, OPEN, Mode::empty()) {
                Ok(next) => {
                    new = false;
                    next
                }
                Err(Errno::NOENT) => {
                    if !new {
                        self.touch(&whole, &at)?;
                    }
                    mkdirat(&at, part, Mode::from_raw_mode(0o755)).map_err(copying)?;
                    new = true;
                    let next = openat(&at, part, OPEN, Mode::empty()).map_err(copying)?;
                    // mkdir leaves out what the process's mask says.
                    rustix::fs::fchmod(&next, Mode::from_raw_mode(0o755)).map_err(copying)?;
                    if let Some((uid, gid)) = self.owner {
                        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                        rustix::fs::fchown(&next, Some(uid), Some(gid)).map_err(copying)?;
                    }
                    self.made.push(next.try_clone().map_err(copying)?);
                    next
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Err(invalid(format!(
                        "{} is no directory in the image",
                        Path::new("/").join(&whole).join(part).display()
                    )));
                }
                Err(error) => return Err(copying(error)),
            };
            whole.push(part);
            at = next;
        }
        Ok((at, new))
    }

    /// Notes that a directory that was there gets a new entry.
    fn touch(&mut self, path: &Path, dir: &OwnedFd) -> Result<()> {
        if self.touched.iter().any(|(known, ..)| known == path) {
            return Ok(());
        }
        let facts = rustix::fs::fstat(dir).map_err(copying)?;
        let dir = dir.try_clone().map_err(copying)?;
        self.touched
            .push((path.to_owned(), dir, tree::times(&facts)));
        Ok(())
    }

    /// Copies everything to `target`, a path without links. `into` says that it is a directory, also if it is not there.
    pub fn copy(
        &mut self,
        items: &[Item],
        target: &Path,
        into: bool,
        change: &Change<'_>,
    ) -> Result<()> {
        let there = tree::stat(self.root, target).map_err(copying)?;
        let is_directory = there
            .as_ref()
            .is_some_and(|s| kind(s) == FileType::Directory);
        let mut newest = 0;
        for item in items {
            let target = match &item.parents {
                Some(parents) => target.join(parents),
                None => target.to_owned(),
            };
            if item.unpack {
                self.unpack(item, &target, change)?;
                continue;
            }
            let excluded = |p: &Path| (change.excluded)(p.strip_prefix(&item.path).unwrap_or(p));
            let mut copier = Copier::new(Rules {
                owner: change.owner,
                mode: change.mode,
                excluded: &excluded,
            });
            if item.directory {
                self.contents(item, &target, &mut copier, change)?;
            } else {
                let whole = into || is_directory || item.parents.is_some();
                let (dir, name) = if whole {
                    (target.as_path(), item.name.as_os_str())
                } else {
                    let parent = target.parent().unwrap_or(Path::new("/"));
                    (parent, target.file_name().unwrap_or(OsStr::new("")))
                };
                if (change.excluded)(Path::new(&item.name)) {
                    continue;
                }
                let (fd, new) = self.directory(dir)?;
                if !new {
                    self.touch(dir.strip_prefix("/").unwrap_or(dir), &fd)?;
                }
                let parent = item.path.parent().unwrap_or(Path::new(""));
                let from = tree::open(item.root.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY)
                    .map_err(copying)?;
                let of = item.path.file_name().unwrap_or(OsStr::new(""));
                copier
                    .entry((from.as_fd(), of), &item.path, (fd.as_fd(), name))
                    .map_err(BuildError::Copy)?;
            }
            newest = newest.max(copier.newest);
        }
        self.newest = self.newest.max(newest);
        Ok(())
    }

    fn contents(
        &mut self,
        item: &Item,
        target: &Path,
        copier: &mut Copier<'_>,
        change: &Change<'_>,
    ) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let from = tree::open(item.root.as_fd(), &item.path, flags).map_err(copying)?;
        let (to, new) = self.directory(target)?;
        if !new {
            self.touch(target.strip_prefix("/").unwrap_or(target), &to)?;
        }
        copier
            .inside(&from, &item.path, &to)
            .map_err(BuildError::Copy)?;
        // A root's own mode is that of wherever it was unpacked.
        if new && !item.path.as_os_str().is_empty() {
            let facts = rustix::fs::fstat(&from).map_err(copying)?;
            let (uid, gid) = change.owner.unwrap_or((facts.st_uid, facts.st_gid));
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::fchown(&to, Some(uid), Some(gid)).map_err(copying)?;
            let mode = facts.st_mode & 0o7777;
            let mode = change.mode.map_or(mode, |change| change(mode, true));
            rustix::fs::fchmod(&to, Mode::from_raw_mode(mode)).map_err(copying)?;
        }
        Ok(())
    }

    fn unpack(&mut self, item: &Item, target: &Path, change: &Change<'_>) -> Result<()> {
        let (to, new) = self.directory(target)?;
        if !new {
            self.touch(target.strip_prefix("/").unwrap_or(target), &to)?;
        }
        let from = tree::open(item.root.as_fd(), &item.path, OFlags::RDONLY).map_err(copying)?;
        let root = tree::open(
            self.root,
            Path::new("/"),
            OFlags::RDONLY | OFlags::DIRECTORY,
        )
        .map_err(copying)?;
        let into = CopyInto {
            root,
            directory: target.to_owned(),
            replace: true,
            owner: change.owner,
            rename: None,
        };
        copy_into(into, File::from(from)).map_err(|source| BuildError::Archive {
            what: item.asked.display().to_string(),
            source,
        })
    }

    /// Gives directories that were there their times back, and new ones that of the newest file in them, or `stamp`.
    pub fn finish(self, stamp: i64, at_most: Option<i64>) -> Result<()> {
        let time = if self.newest > 0 { self.newest } else { stamp };
        let time = tree::at_second(at_most.map_or(time, |most| time.min(most)));
        for dir in self.made.iter().rev() {
            futimens(dir, &time).map_err(copying)?;
        }
        for (_, dir, times) in self.touched.iter().rev() {
            futimens(dir, times).map_err(copying)?;
        }
        Ok(())
    }
}

/// Reads `--chmod`: octal digits, or changes as chmod(1) reads them (`u=rwX,go=rX`).
pub(crate) fn mode_change(text: &str) -> Option<Box<dyn Fn(u32, bool) -> u32 + Send + Sync>> {
    if !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'7')) {
        let mode = u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777)?;
        return Some(Box::new(move |_, _| mode));
    }
    let mut changes = Vec::new();
    for clause in text.split(',') {
        let at = clause.find(['+', '-', '='])?;
        let (who, rest) = clause.split_at(at);
        let mut mask = 0;
        for c in who.chars() {
            mask |= match c {
                'u' => 0o4700,
                'g' => 0o2070,
                'o' => 0o1007,
                'a' => 0o7777,
                _ => return None,
            };
        }
        if who.is_empty() {
            mask = 0o7777;
        }
        let operator = rest.chars().next()?;
        let what = &rest[1..];
        if !what.chars().all(|c| "rwxXst".contains(c)) {
            return None;
        }
        changes.push((mask, operator, what.to_owned()));
    }
    Some(Box::new(move |mode, directory| {
        changes.iter().fold(mode, |mode, (mask, operator, what)| {
            let bits = what.chars().fold(0, |bits, c| {
                bits | match c {
                    'r' => 0o444,
                    'w' => 0o222,
                    'x' => 0o111,
                    'X' if directory || mode & 0o111 != 0 => 0o111,
                    's' => 0o6000,
                    't' => 0o1000,
                    _ => 0,
                }
            }) & mask;
            match operator {
                '+' => mode | bits,
                '-' => mode & !bits,
                // Of a directory, setuid and setgid stay unless they are named.
                _ => mode & !(mask & 0o777) | bits,
            }
        })
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn modes() {
        let apply = |text: &str, mode, dir| mode_change(text).unwrap()(mode, dir);
        assert_eq!(apply("755", 0o644, false), 0o755);
        assert_eq!(apply("0600", 0o4755, true), 0o600);
        assert_eq!(apply("u=rwX,go=rX", 0o666, false), 0o644);
        assert_eq!(apply("u=rwX,go=rX", 0o700, true), 0o755);
        assert_eq!(apply("+x", 0o644, false), 0o755);
        assert_eq!(apply("go-rwx", 0o755, false), 0o700);
        assert_eq!(apply("a=r,u+w", 0o777, false), 0o644);
        for bad in ["", "9", "77777", "u", "u+q", "z+x"] {
            assert!(mode_change(bad).is_none(), "{bad}");
        }
    }
}
