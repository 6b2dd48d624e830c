//! What COPY and ADD copy: files found by name or pattern in a context, a stage or an image, and their digests.

use crate::error::{BuildError, Result, invalid};
use crate::tree::{self, Excluded, kind};
use coracle_dockerfile::{is_glob, matches};
use rustix::fs::{FileType, OFlags};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Something to be copied.
pub(crate) struct Item {
    /// What its path is relative to.
    pub root: Arc<OwnedFd>,
    /// Without links.
    pub path: PathBuf,
    /// As it was asked for, without the link's target's name.
    pub asked: PathBuf,
    /// What it is called at its place.
    pub name: OsString,
    /// Whether it is a directory, of which the content is copied.
    pub directory: bool,
    /// An archive that is unpacked at its place.
    pub unpack: bool,
    /// Directories that are kept in front of it (`--parents`).
    pub parents: Option<PathBuf>,
    /// Digest of what is copied.
    pub hash: [u8; 32],
}

/// Where things are looked for, in words.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    Context,
    From(&'a str),
}

impl Place<'_> {
    fn missing(self, command: &str, path: &str) -> BuildError {
        BuildError::Missing(match self {
            Self::Context => format!(
                "{command} failed: file not found in build context or excluded by .dockerignore: stat {path}: file does not exist"
            ),
            Self::From(stage) => {
                format!("{command} failed: stat {path}: file does not exist in {stage}")
            }
        })
    }
}

/// How sources are found.
pub(crate) struct Search<'a> {
    /// `COPY` or `ADD`.
    pub command: &'a str,
    pub root: &'a Arc<OwnedFd>,
    pub place: Place<'a>,
    /// Whether archives are unpacked (ADD, unless it is told otherwise).
    pub unpack: bool,
    pub parents: bool,
    /// Paths relative to a source that are left out.
    pub excluded: Excluded<'a>,
}

impl Search<'_> {
    /// All that a name or pattern means, in byte order.
    pub fn find(&self, asked: &str) -> Result<Vec<Item>> {
        let (front, pattern) = match asked.split_once("/./").filter(|_| self.parents) {
            Some((front, rest)) => (front, rest),
            None => ("", asked),
        };
        let front = self.clean(front)?;
        let whole = front.join(self.clean(pattern)?);
        let found = if is_glob(asked) {
            self.glob(&whole)?
        } else {
            vec![whole]
        };
        if found.is_empty() {
            return Err(self.place.missing(self.command, asked));
        }
        let mut items = Vec::new();
        for path in found {
            items.push(self.item(&path, &front, asked)?);
        }
        Ok(items)
    }

    fn item(&self, path: &Path, front: &Path, asked: &str) -> Result<Item> {
        let failed = |e: rustix::io::Errno| BuildError::Copy(e.into());
        let root = self.root.as_fd();
        let real = tree::resolve(root, path).map_err(failed)?;
        let facts = tree::stat(root, &real).map_err(failed)?;
        let facts = facts.ok_or_else(|| self.place.missing(self.command, asked))?;
        let real = real.strip_prefix("/").unwrap_or(&real).to_owned();
        let directory = kind(&facts) == FileType::Directory;
        let unpack = self.unpack && kind(&facts) == FileType::RegularFile && {
            let fd = tree::open(root, &real, OFlags::RDONLY).map_err(failed)?;
            crate::context::is_archive(&mut fd.into()).map_err(BuildError::Copy)?
        };
        let parents = self.parents.then(|| {
            let kept = path.strip_prefix(front).unwrap_or(path);
            let dir = if directory { Some(kept) } else { kept.parent() };
            dir.unwrap_or(Path::new("")).to_owned()
        });
        let excluded = |p: &Path| (self.excluded)(p.strip_prefix(&real).unwrap_or(p));
        let owners = matches!(self.place, Place::From(_));
        let hash = tree::hash(root, &real, owners, &excluded).map_err(BuildError::Copy)?;
        Ok(Item {
            root: self.root.clone(),
            name: path.file_name().unwrap_or(OsStr::new("")).to_owned(),
            asked: path.to_owned(),
            path: real,
            directory,
            unpack,
            parents,
            hash,
        })
    }

    /// A path relative to the root.
    fn clean(&self, path: &str) -> Result<PathBuf> {
        let mut clean = PathBuf::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." if !clean.pop() => {
                    return Err(invalid(format!(
                        "{} failed: forbidden path outside the build context: {path}",
                        self.command
                    )));
                }
                ".." => {}
                part => clean.push(part),
            }
        }
        Ok(clean)
    }

    fn glob(&self, pattern: &Path) -> Result<Vec<PathBuf>> {
        let root: BorrowedFd<'_> = self.root.as_fd();
        let mut found = vec![PathBuf::new()];
        for part in pattern.iter() {
            let mut next = Vec::new();
            let text = part.to_string_lossy();
            for base in found {
                if !is_glob(&text) {
                    let path = base.join(part);
                    if tree::stat(root, &path).is_ok_and(|s| s.is_some()) {
                        next.push(path);
                    }
                    continue;
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let Ok(dir) = tree::open(root, &base, flags) else {
                    continue;
                };
                for name in tree::names(&dir).map_err(BuildError::Copy)? {
                    let fits = matches(&text, &name.to_string_lossy())
                        .map_err(|e| invalid(format!("{}: {e}", pattern.display())))?;
                    if fits {
                        next.push(base.join(name));
                    }
                }
            }
            found = next;
        }
        Ok(found)
    }
}
