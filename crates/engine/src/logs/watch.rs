//! Waiting for what comes.

use rustix::fs::inotify;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// Tells of changes in a log's directory.
pub struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// Begins to look.
    pub fn new(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let dir = path.parent().unwrap_or(path);
        let events = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, dir, events)?;
        // Its successor is unsafe because a source may change its descriptor; an `OwnedFd` does not.
        #[allow(deprecated)]
        let watched = AsyncFd::new(fd)?;
        Ok(Self(watched))
    }

    /// Returns when something has changed since it was asked last.
    pub async fn changed(&self) -> io::Result<()> {
        let mut buffer = [0u8; 4096];
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer)?)) {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(e)) => return Err(e),
                Err(_would_block) => {}
            }
        }
    }
}
