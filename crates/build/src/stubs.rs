//! Places that a mount needs in a filesystem and that are not there: the runtime makes them, and they are no part of what the
//! command did.

use crate::error::{BuildError, Result, file};
use crate::tree::{self, kind};
use rustix::fs::FileType;
use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What was not there before.
pub(crate) struct Stubs {
    /// Paths without links, relative to the root, the innermost last.
    made: Vec<PathBuf>,
    /// Directories that were there and got one of them.
    parents: Vec<PathBuf>,
}

impl Stubs {
    /// Looks what of these places is not in `root`.
    pub fn look<'a>(root: BorrowedFd<'_>, targets: impl Iterator<Item = &'a Path>) -> Result<Self> {
        let failed = |e: rustix::io::Errno| BuildError::Copy(e.into());
        let (mut made, mut parents) = (Vec::new(), Vec::new());
        for target in targets {
            let real = tree::resolve(root, target).map_err(failed)?;
            let real = real.strip_prefix("/").unwrap_or(&real);
            let mut at = PathBuf::new();
            for part in real.iter() {
                let parent = at.clone();
                at.push(part);
                if tree::stat(root, &at).map_err(failed)?.is_some() {
                    continue;
                }
                if tree::stat(root, &parent).map_err(failed)?.is_some()
                    && !parents.contains(&parent)
                {
                    parents.push(parent);
                }
                if !made.contains(&at) {
                    made.push(at.clone());
                }
            }
        }
        Ok(Self { made, parents })
    }

    /// Takes them away from the layer that a command has written, as far as nothing is in them. `root` is what was there before.
    pub fn remove(&self, root: BorrowedFd<'_>, upper: &Path) -> Result<()> {
        let mut any = false;
        for path in self.made.iter().rev() {
            let path = upper.join(path);
            let Ok(facts) = fs::symlink_metadata(&path) else {
                continue;
            };
            let removed = if facts.is_dir() {
                fs::remove_dir(&path)
            } else if facts.is_file() && facts.len() == 0 {
                fs::remove_file(&path)
            } else {
                continue;
            };
            match removed {
                Ok(()) => any = true,
                // The command has put something there.
                Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
                Err(e) => return Err(file("removing", &path)(e)),
            }
        }
        if any {
            for parent in self.parents.iter().rev() {
                self.restore(root, upper, parent)?;
            }
        }
        Ok(())
    }

    /// A directory that was copied up for a place in it: away with it if it is as it was, or at least as old.
    fn restore(&self, root: BorrowedFd<'_>, upper: &Path, path: &Path) -> Result<()> {
        let whole = upper.join(path);
        let Ok(now) = fs::symlink_metadata(&whole) else {
            return Ok(());
        };
        let before = tree::stat(root, path).map_err(|e| BuildError::Copy(e.into()))?;
        let Some(before) = before.filter(|b| kind(b) == FileType::Directory) else {
            return Ok(());
        };
        let same = now.mode() == before.st_mode
            && (now.uid(), now.gid()) == (before.st_uid, before.st_gid);
        if same && !path.as_os_str().is_empty() && fs::remove_dir(&whole).is_ok() {
            return match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => self.restore(root, upper, parent),
                _ => Ok(()),
            };
        }
        let directory = fs::File::open(&whole).map_err(file("opening", &whole))?;
        rustix::fs::futimens(&directory, &tree::times(&before))
            .map_err(|e| file("setting the time of", &whole)(e.into()))
    }
}
