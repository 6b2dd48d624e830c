//! Socket paths of any length.
//!
//! `sun_path` holds 107 bytes (`unix(7)`), and an id alone has 64. A socket whose path is longer is reached through its
//! directory's descriptor: `/proc/self/fd/<n>/<name>`.

use rustix::fs::{Mode, OFlags, open};
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Bytes of a path that fit.
const ROOM: usize = 107;

/// A path by which a socket can be bound or connected to as long as this lives.
#[derive(Debug)]
pub struct Address {
    path: PathBuf,
    _dir: Option<OwnedFd>,
}

impl Address {
    /// Finds such a path for `path`, whose directory must be there.
    ///
    /// # Errors
    /// The directory's own; `InvalidInput` for a path without a file name.
    pub fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= ROOM {
            return Ok(Self {
                path: path.to_owned(),
                _dir: None,
            });
        }
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = open(dir, flags, Mode::empty())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
        Ok(Self {
            path,
            _dir: Some(dir),
        })
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_long_path_is_bound_and_reached() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("x.sock");
        let address = Address::of(&path).unwrap();
        let _listener = UnixListener::bind(address.path()).unwrap();
        assert!(path.exists());
        UnixStream::connect(Address::of(&path).unwrap().path()).unwrap();
        assert!(UnixStream::connect(&path).is_err());
    }
}
