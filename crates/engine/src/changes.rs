//! What a container has changed of its image: its layer compared with those below.

use crate::engine::Engine;
use crate::error::{EngineError, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, statat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A path that was changed since the container was made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// In the container.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What happened to a path, in Docker's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It was there and is another now.
    Modified = 0,
    /// It was not there.
    Added = 1,
    /// It is gone.
    Deleted = 2,
}

impl Engine {
    /// What the container has changed of its image, in the order of the paths.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::File`].
    pub async fn changes(&self, key: &str) -> Result<Vec<Change>> {
        let container = self.find(key)?;
        let mut lower = self.0.images.layer_dirs(&container.record().image()?)?;
        lower.push(crate::skeleton::directory(&self.0.options.state_dir));
        let upper = container.dir.join("upper");
        tokio::task::spawn_blocking(move || {
            let failed = EngineError::file("comparing", &upper);
            let compare = || -> io::Result<Vec<Change>> {
                let lower = coracle_sys::overlay::open_overlay(&lower).map_err(io::Error::other)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let upper = rustix::fs::open(&upper, flags, Mode::empty())?;
                let mut found = Vec::new();
                compare(&upper, Some(&lower), "", &mut found)?;
                Ok(found)
            };
            compare().map_err(failed)
        })
        .await?
    }
}

/// Compares a layer with what is below it. `lower` is missing where nothing is below.
fn compare(
    upper: &OwnedFd,
    lower: Option<&OwnedFd>,
    path: &str,
    found: &mut Vec<Change>,
) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(upper)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    let here = AtFlags::SYMLINK_NOFOLLOW;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for name in names {
        let path = format!("{path}/{}", name.to_string_lossy());
        let stat = match statat(upper, &name, here) {
            Ok(stat) => stat,
            // Gone meanwhile.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let below = match lower.map(|l| statat(l, &name, here)) {
            None | Some(Err(Errno::NOENT | Errno::NOTDIR)) => None,
            Some(below) => Some(below?),
        };
        let is_dir = |mode| FileType::from_raw_mode(mode) == FileType::Directory;
        let whiteout =
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0;
        let kind = match (&below, whiteout) {
            (None, true) => continue,
            (Some(_), true) => ChangeKind::Deleted,
            (Some(_), false) => ChangeKind::Modified,
            (None, false) => ChangeKind::Added,
        };
        found.push(Change {
            path: path.clone(),
            kind,
        });
        if !is_dir(stat.st_mode) {
            continue;
        }
        let inner = rustix::fs::openat(upper, &name, flags, Mode::empty())?;
        let same = below.is_some_and(|b| is_dir(b.st_mode)) && !is_opaque(&inner);
        let below = match lower {
            Some(lower) if same => Some(rustix::fs::openat(lower, &name, flags, Mode::empty())?),
            _ => None,
        };
        compare(&inner, below.as_ref(), &path, found)?;
    }
    Ok(())
}

fn is_opaque(dir: impl AsFd) -> bool {
    let mut value = [0; 8];
    let length = rustix::fs::fgetxattr(dir, "trusted.overlay.opaque", &mut value[..]);
    length == Ok(1) && value[0] == b'y'
}
