//! A build's own directory: its context, layers that are being written, downloads. It goes with the build, with all that is
//! mounted in it; what a killed daemon left goes when the next one comes up.

use crate::error::{BuildError, Result, file};
use coracle_sys::overlay::mount_overlay;
use rustix::mount::{UnmountFlags, unmount};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A directory that is removed when dropped.
#[derive(Debug)]
pub(crate) struct Work {
    path: PathBuf,
    serial: AtomicU64,
}

pub(crate) fn make(path: &Path, mode: u32) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(mode);
    builder.create(path).map_err(file("making", path))
}

impl Work {
    /// Below `root`, with a name of its own.
    pub fn new(root: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("build-")
            .tempdir_in(root)
            .map_err(file("making a directory in", root))?;
        Ok(Self {
            path: dir.keep(),
            serial: AtomicU64::new(0),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it that nobody else has.
    pub fn place(&self, what: &str) -> PathBuf {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        self.path.join(format!("{what}-{serial}"))
    }

    /// A new directory in it.
    pub fn directory(&self, what: &str) -> Result<PathBuf> {
        let path = self.place(what);
        make(&path, 0o755)?;
        Ok(path)
    }

    /// Lower directories with a layer on top that is thrown away, mounted where a container can have it.
    pub fn mount(&self, lower: &[PathBuf]) -> Result<Mounted> {
        let dir = self.directory("mount")?;
        let part = |name: &str| {
            let path = dir.join(name);
            make(&path, 0o755).map(|()| path)
        };
        let (root, upper, work) = (part("root")?, part("upper")?, part("work")?);
        mount_overlay(lower, &upper, &work, &root)?;
        Ok(Mounted { root })
    }
}

/// Something that is mounted as long as this lives.
#[derive(Debug)]
pub(crate) struct Mounted {
    pub root: PathBuf,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.root, UnmountFlags::DETACH) {
            tracing::warn!(path = %self.root.display(), %error, "a build's mount cannot be taken away");
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        // A context may be large; whoever asked need not wait for its end.
        std::thread::spawn(move || remove(&path));
    }
}

fn remove(path: &Path) {
    if let Err(error) = coracle_image::remove_tree(path) {
        tracing::warn!(path = %path.display(), %error, "a build's directory cannot be removed");
    }
}

/// Takes away what builds of an earlier daemon left below `root`.
pub(crate) fn clear(root: &Path) -> Result<()> {
    make(root, 0o700)?;
    let table = "/proc/self/mountinfo";
    let mounts = fs::read_to_string(table).map_err(file("reading", table))?;
    for line in mounts.lines() {
        let Some(place) = line.split(' ').nth(4).map(Path::new) else {
            continue;
        };
        if place.starts_with(root) {
            unmount(place, UnmountFlags::DETACH).map_err(|e| BuildError::File {
                action: "unmounting",
                path: place.to_owned(),
                source: e.into(),
            })?;
        }
    }
    for entry in fs::read_dir(root).map_err(file("reading", root))? {
        remove(&entry.map_err(file("reading", root))?.path());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::{Mode, OFlags, mkdirat, open, openat};

    #[test]
    fn a_context_deeper_than_the_stack() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("deep");
        make(&path, 0o755).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut dir = open(&path, flags, Mode::empty()).unwrap();
        for _ in 0..3000 {
            mkdirat(&dir, "d", Mode::RWXU).unwrap();
            dir = openat(&dir, "d", flags, Mode::empty()).unwrap();
        }
        let doomed = path.clone();
        let small = std::thread::Builder::new().stack_size(128 << 10);
        let removal = small.spawn(move || remove(&doomed)).unwrap();
        removal.join().unwrap();
        assert!(!path.exists());
    }
}
