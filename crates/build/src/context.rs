//! What a build copies from: the files that its client sent.

use crate::error::{BuildError, Result, file, invalid};
use crate::tree;
use coracle_dockerfile::Ignore;
use coracle_image::{CopyInto, copy_into};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Longest Dockerfile that is read.
const LONGEST: u64 = 16 << 20;

/// A context, unpacked.
#[derive(Debug)]
pub(crate) struct Context {
    pub path: PathBuf,
    pub root: OwnedFd,
}

impl Context {
    /// Unpacks an archive, plain or compressed, into a new directory. Blocking.
    pub fn unpack(into: &Path, archive: impl Read) -> Result<Self> {
        let context = Self::empty(into)?;
        let root = context.root.try_clone().map_err(file("opening", into))?;
        let into = CopyInto {
            root,
            directory: PathBuf::from("/"),
            replace: true,
            // As docker has it: what is copied from a context belongs to root.
            owner: Some((0, 0)),
            rename: None,
        };
        copy_into(into, archive).map_err(|source| BuildError::Archive {
            what: "the build context".into(),
            source,
        })?;
        Ok(context)
    }

    /// With nothing in it.
    pub fn empty(into: &Path) -> Result<Self> {
        crate::work::make(into, 0o755)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(into, flags, Mode::empty())
            .map_err(|e| file("opening", into)(e.into()))?;
        Ok(Self {
            path: into.to_owned(),
            root,
        })
    }

    /// Of a file that was fetched: an archive, or a Dockerfile by itself.
    pub fn of_file(into: &Path, from: &Path) -> Result<Self> {
        let mut file_ = fs::File::open(from).map_err(file("reading", from))?;
        if is_archive(&mut file_).map_err(file("reading", from))? {
            return Self::unpack(into, file_);
        }
        let context = Self::empty(into)?;
        let to = into.join("Dockerfile");
        fs::copy(from, &to).map_err(file("writing", &to))?;
        Ok(context)
    }

    /// Reads the Dockerfile.
    pub fn dockerfile(&self, path: &str) -> Result<String> {
        let missing = || {
            BuildError::Missing(format!(
                "Cannot locate specified Dockerfile: {path}; it must be in the build context"
            ))
        };
        let fd = tree::open(self.root.as_fd(), Path::new(path), OFlags::RDONLY)
            .map_err(|_| missing())?;
        let mut text = String::new();
        let file_ = fs::File::from(fd);
        if !file_.metadata().is_ok_and(|m| m.is_file()) {
            return Err(missing());
        }
        let read = file_.take(LONGEST + 1).read_to_string(&mut text);
        match read {
            Ok(length) if length as u64 <= LONGEST => Ok(text),
            Ok(_) => Err(invalid(format!(
                "the Dockerfile ({path}) is longer than {LONGEST} bytes"
            ))),
            Err(error) => Err(invalid(format!(
                "the Dockerfile ({path}) cannot be read as text: {error}"
            ))),
        }
    }

    /// Takes away what `.dockerignore` leaves out. Clients do so before they send, but for the Dockerfile and `.dockerignore`
    /// themselves, which they always send.
    pub fn ignore(&self, dockerfile: &str) -> Result<()> {
        if dockerfile.starts_with(".dockerfile.") && !dockerfile.contains('/') {
            // One from elsewhere, which its client put at the top under a name of its own.
            let _ = rustix::fs::unlinkat(&self.root, dockerfile, AtFlags::empty());
        }
        let own = format!("{dockerfile}.dockerignore");
        let read = |name: &str| {
            let fd = tree::open(self.root.as_fd(), Path::new(name), OFlags::RDONLY).ok()?;
            let mut text = String::new();
            let read = fs::File::from(fd).take(LONGEST).read_to_string(&mut text);
            read.is_ok().then_some(text)
        };
        let Some(text) = read(&own).or_else(|| read(".dockerignore")) else {
            return Ok(());
        };
        let patterns = Ignore::read(&text);
        if patterns.is_empty() {
            return Ok(());
        }
        let ignore = Ignore::new(&patterns).map_err(|e| invalid(format!(".dockerignore: {e}")))?;
        clean(&ignore, &self.path, "")
    }
}

fn clean(ignore: &Ignore, dir: &Path, below: &str) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(file("reading", dir))? {
        let entry = entry.map_err(file("reading", dir))?;
        let path = entry.path();
        // Patterns are text; a name that is none cannot be meant.
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let relative = if below.is_empty() {
            name.to_owned()
        } else {
            format!("{below}/{name}")
        };
        let is_dir = entry.file_type().map_err(file("reading", &path))?.is_dir();
        if ignore.excludes(&relative) {
            if is_dir && ignore.may_hold_exceptions(&relative) {
                clean(ignore, &path, &relative)?;
                // Only what is not empty is kept.
                let _ = fs::remove_dir(&path);
            } else if is_dir {
                coracle_image::remove_tree(&path).map_err(file("removing", &path))?;
            } else {
                fs::remove_file(&path).map_err(file("removing", &path))?;
            }
        } else if is_dir {
            clean(ignore, &path, &relative)?;
        }
    }
    Ok(())
}

/// Whether a file is a tar archive, plain or compressed. It is read from its beginning again afterwards.
pub(crate) fn is_archive(file: &mut fs::File) -> std::io::Result<bool> {
    let found = coracle_image::is_tar(&mut *file);
    file.seek(SeekFrom::Start(0))?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_dockerfile_from_elsewhere_goes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("precious"), "x").unwrap();
        let context = Context::empty(&dir.path().join("context")).unwrap();
        std::os::unix::fs::symlink(&other, context.path.join(".dockerfile.link")).unwrap();
        fs::create_dir(context.path.join(".dockerfile.dir")).unwrap();
        fs::write(context.path.join(".dockerfile.abc"), "FROM scratch").unwrap();
        for name in [
            ".dockerfile.link/precious",
            ".dockerfile.dir/../../other/precious",
            ".dockerfile.abc",
        ] {
            context.ignore(name).unwrap();
        }
        assert!(other.join("precious").exists());
        assert!(!context.path.join(".dockerfile.abc").exists());
    }
}
