//! Network namespaces: make, open and run code inside one.
//!
//! A namespace is held by its file descriptor; when the last descriptor and the last process in it
//! are gone, the kernel removes it with every link inside.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Why a network namespace could not be made, opened or entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The namespace file cannot be opened.
    #[error("cannot open the network namespace {path}")]
    Open {
        /// The file that was asked for.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The namespace cannot be made; CAP_SYS_ADMIN is needed.
    #[error("cannot make a network namespace (CAP_SYS_ADMIN is needed)")]
    Create(#[source] io::Error),
    /// The namespace cannot be entered; CAP_SYS_ADMIN is needed.
    #[error("cannot enter the network namespace (CAP_SYS_ADMIN is needed)")]
    Enter(#[source] io::Error),
    /// No thread could be started to work inside the namespace.
    #[error("cannot start a thread to work inside the network namespace")]
    Thread(#[source] io::Error),
}

/// Opens a namespace file, such as `/proc/<pid>/ns/net` or a bind mount of one.
pub fn open_path(path: &Path) -> Result<OwnedFd, NetnsError> {
    File::open(path)
        .map(OwnedFd::from)
        .map_err(|source| NetnsError::Open {
            path: path.to_path_buf(),
            source,
        })
}

/// Opens the network namespace of process `pid`.
pub fn of_pid(pid: u32) -> Result<OwnedFd, NetnsError> {
    open_path(Path::new(&format!("/proc/{pid}/ns/net")))
}

/// Opens the calling thread's own namespace.
pub fn current() -> Result<OwnedFd, NetnsError> {
    open_path(Path::new("/proc/thread-self/ns/net"))
}

/// Makes a new, empty namespace that lives as long as the returned descriptor.
pub fn create_anonymous() -> Result<OwnedFd, NetnsError> {
    in_thread(|| {
        // SAFETY: only this short-lived thread leaves the network namespace; no descriptor table or
        // other shared state is unshared with it.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
            .map_err(|e| NetnsError::Create(e.into()))?;
        current()
    })?
}

/// Runs `work` on a thread of its own inside `netns` and gives back what it returns. A panic in
/// `work` goes on in the caller.
pub fn run_in<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NetnsError> {
    in_thread(|| {
        move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
            .map_err(|e| NetnsError::Enter(e.into()))?;
        Ok(work())
    })?
}

fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .spawn_scoped(scope, work)
            .map_err(NetnsError::Thread)?;
        Ok(thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// A namespace that is kept by a bind mount on a file; unmounted and removed on drop.
#[derive(Debug)]
pub struct NamedNetns {
    path: PathBuf,
    fd: OwnedFd,
}

impl NamedNetns {
    /// Makes a namespace and mounts it on the new file `path`.
    pub fn create(path: &Path) -> Result<Self, NetnsError> {
        let open = |source| NetnsError::Open {
            path: path.to_path_buf(),
            source,
        };
        let fd = create_anonymous()?;
        File::create_new(path).map_err(open)?;
        let from = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        if let Err(error) = rustix::mount::mount_bind(from.as_str(), path) {
            let _ = std::fs::remove_file(path);
            return Err(open(error.into()));
        }
        Ok(Self {
            path: path.to_path_buf(),
            fd,
        })
    }
}

impl AsFd for NamedNetns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for NamedNetns {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH);
        let _ = std::fs::remove_file(&self.path);
    }
}
