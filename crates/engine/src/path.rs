//! Paths in containers, as clients write them and as Docker reads them.

use crate::error::{EngineError, Result};
use crate::record::Record;
use chrono::{DateTime, Utc};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat2, readlinkat, statat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Links that are followed on one path, as many as Docker follows.
const MOST_LINKS: usize = 255;

/// What is at a path.
#[derive(Debug, Clone, PartialEq)]
pub struct PathStat {
    /// Last part of the path as it was asked for.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Kind and permissions in the bits of Go's `os.FileMode`.
    pub mode: u32,
    /// Last change of the content.
    pub mtime: DateTime<Utc>,
    /// Of a link: where in the container it leads in the end. Empty otherwise.
    pub link_target: String,
}

/// A path as a client writes it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Absolute, without `.`, `..` and double slashes, as Go's `filepath.Clean` makes it.
    clean: PathBuf,
    /// It ended with `/` or `/.`: a directory is meant, and links at its end are followed.
    directory: bool,
    /// What it is called in an archive.
    name: String,
}

impl Asked {
    pub fn new(path: &str) -> Result<Self> {
        if path.is_empty() || path.contains('\0') {
            return Err(EngineError::Invalid(
                "parameter path is missing, or has a NUL byte".into(),
            ));
        }
        let mut parts: Vec<&str> = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => _ = parts.pop(),
                part => parts.push(part),
            }
        }
        let dot = path == "." || path.ends_with("/.");
        Ok(Self {
            directory: dot || path.ends_with('/') || parts.is_empty(),
            name: match parts.last() {
                _ if dot => ".".to_owned(),
                Some(last) => (*last).to_owned(),
                None => "/".to_owned(),
            },
            clean: PathBuf::from(format!("/{}", parts.join("/"))),
        })
    }

    pub fn shown(&self) -> String {
        self.clean.display().to_string()
    }

    fn missing(&self, container: &str, error: Errno) -> EngineError {
        match error {
            Errno::NOENT => EngineError::NoSuchPath {
                path: self.shown(),
                container: container.to_owned(),
            },
            Errno::NOTDIR => EngineError::Invalid(format!("{}: not a directory", self.shown())),
            Errno::NAMETOOLONG => {
                EngineError::Invalid("parameter path is longer than a path may be".into())
            }
            Errno::LOOP => EngineError::Invalid(format!("{}: too many links", self.shown())),
            error => EngineError::file("opening", &self.clean)(error.into()),
        }
    }

    /// The directory that it is in, its name there (empty for the directory itself), and what it is.
    pub fn look(
        &self,
        root: BorrowedFd<'_>,
        container: &str,
    ) -> Result<(OwnedFd, OsString, PathStat)> {
        let missing = |e| self.missing(container, e);
        let (dir, base) = if self.directory {
            (within(root, &self.clean).map_err(missing)?, OsString::new())
        } else {
            let parent = self.clean.parent().unwrap_or(Path::new("/"));
            let base = self.clean.file_name().unwrap_or_default().to_owned();
            (within(root, parent).map_err(missing)?, base)
        };
        let here = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let stat = statat(&dir, &base, here).map_err(missing)?;
        let link_target = if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            let target = follow(root, &self.clean).map_err(missing)?;
            target.display().to_string()
        } else {
            String::new()
        };
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        let found = PathStat {
            name: self.name.clone(),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: go_mode(stat.st_mode),
            mtime: DateTime::from_timestamp(stat.st_mtime, nanoseconds).unwrap_or_default(),
            link_target,
        };
        Ok((dir, base, found))
    }

    /// The directory that an archive is copied into, without links on its way.
    pub fn directory(&self, root: BorrowedFd<'_>, record: &Record) -> Result<PathBuf> {
        let missing = |e| self.missing(&record.name, e);
        let real = follow(root, &self.clean).map_err(missing)?;
        match within(root, &real) {
            Ok(_) => {}
            Err(Errno::NOTDIR) => {
                return Err(EngineError::Invalid(format!(
                    "extraction point is not a directory: {}",
                    self.shown()
                )));
            }
            Err(error) => return Err(missing(error)),
        }
        let inner = record
            .mounts
            .iter()
            .filter(|m| real.starts_with(&m.target))
            .max_by_key(|m| m.target.components().count());
        match inner {
            Some(mount) if !mount.writable => Err(EngineError::Forbidden(format!(
                "mounted volume is marked read-only: {}",
                mount.target.display()
            ))),
            None if record.host_config.readonly_rootfs => Err(EngineError::Forbidden(
                "container rootfs is marked read-only".into(),
            )),
            _ => Ok(real),
        }
    }
}

/// Opens a directory; links are followed within the root.
fn within(root: BorrowedFd<'_>, path: &Path) -> std::result::Result<OwnedFd, Errno> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(root, path, flags, Mode::empty(), how)
}

/// The path without links. Parts that are not there stay as they are.
fn follow(root: BorrowedFd<'_>, path: &Path) -> std::result::Result<PathBuf, Errno> {
    let parts = |path: &[u8]| -> Vec<Vec<u8>> {
        let parts = path.split(|b| *b == b'/');
        parts
            .filter(|p| !matches!(*p, b"" | b"."))
            .map(<[u8]>::to_vec)
            .collect()
    };
    let mut left: VecDeque<Vec<u8>> = parts(path.as_os_str().as_bytes()).into();
    let mut real = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        if part == b".." {
            real.pop();
            continue;
        }
        let name = OsString::from_vec(part);
        let link = within(root, &real).and_then(|dir| readlinkat(dir, &name, Vec::new()));
        let Ok(link) = link else {
            real.push(name);
            continue;
        };
        links += 1;
        if links > MOST_LINKS {
            return Err(Errno::LOOP);
        }
        let link = link.as_bytes();
        if link.starts_with(b"/") {
            real = PathBuf::from("/");
        }
        for part in parts(link).into_iter().rev() {
            left.push_front(part);
        }
    }
    Ok(real)
}

/// The bits of Go's `io/fs.FileMode`.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let flag = |bit: u32, go: u32| if mode & bit != 0 { go } else { 0 };
    mode & 0o777 | kind | flag(0o4000, 1 << 23) | flag(0o2000, 1 << 22) | flag(0o1000, 1 << 20)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    #[test]
    fn paths_as_docker_reads_them() {
        for (path, clean, directory, name) in [
            ("/", "/", true, "/"),
            ("/.", "/", true, "."),
            (".", "/", true, "."),
            ("a/../b", "/b", false, "b"),
            ("/../../etc", "/etc", false, "etc"),
            ("/etc/", "/etc", true, "etc"),
            ("//etc//x/.", "/etc/x", true, "."),
        ] {
            let asked = Asked::new(path).unwrap();
            let got = (asked.shown(), asked.directory, asked.name);
            assert_eq!(
                got,
                (clean.to_owned(), directory, name.to_owned()),
                "{path}"
            );
        }
        assert!(Asked::new("").is_err());
    }

    #[test]
    fn links_are_followed_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
        symlink("/../../lib/x", root.join("abs")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let fd = fs::File::open(root).unwrap();
        let real = |path: &str| follow(fd.as_fd(), Path::new(path));
        assert_eq!(real("/lib/../lib/a/b").unwrap(), Path::new("/usr/lib/a/b"));
        assert_eq!(real("/abs").unwrap(), Path::new("/usr/lib/x"));
        assert_eq!(real("/loop"), Err(Errno::LOOP));
    }

    #[test]
    fn modes_as_go_has_them() {
        assert_eq!(go_mode(0o040_755), 1 << 31 | 0o755);
        assert_eq!(go_mode(0o104_755), 1 << 23 | 0o755);
        assert_eq!(go_mode(0o020_666), 1 << 26 | 1 << 21 | 0o666);
    }
}
