//! Taking the run directory, and leaving everything of who started the holder.

use super::LOCK;
use crate::{error::ShimError, os};
use coracle_shim_protocol::{address::Address, holder::SOCKET};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::{fs::DirBuilderExt, net::UnixListener},
    path::{Path, PathBuf},
};

pub(super) fn prepare_dir(run_dir: &Path) -> Result<PathBuf, ShimError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o711);
    builder
        .create(run_dir)
        .map_err(ShimError::file("make", run_dir))?;
    let run_dir = run_dir
        .canonicalize()
        .map_err(ShimError::file("find", run_dir))?;
    let shims = run_dir.join("shims");
    builder
        .create(&shims)
        .map_err(ShimError::file("make", shims))?;
    Ok(run_dir)
}

pub(super) fn take_lock(run_dir: &Path) -> Result<File, ShimError> {
    let path = run_dir.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(ShimError::file("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::AGAIN) => Err(ShimError::Taken {
            run_dir: run_dir.to_owned(),
        }),
        Err(e) => Err(ShimError::file("lock", path)(e.into())),
    }
}

/// Binds and listens, readable and writable for root only from the first moment.
pub(super) fn listen_on(path: &Path) -> io::Result<UnixListener> {
    let before = rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o177));
    let bound = Address::of(path).and_then(|address| UnixListener::bind(address.path()));
    rustix::process::umask(before);
    let listener = bound?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

pub(super) fn listen(run_dir: &Path) -> Result<UnixListener, ShimError> {
    let path = run_dir.join(SOCKET);
    match fs::remove_file(&path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(ShimError::file("remove", path)(e)),
    }
    listen_on(&path).map_err(ShimError::file("listen on", path))
}

/// Away from the terminal, the directory and the environment of who started it.
pub(super) fn detach() -> Result<(), ShimError> {
    // Fails for the leader of a process group, which has no terminal to lose if it leads its session as well.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/").map_err(ShimError::system("enter the root directory"))?;
    rustix::process::umask(rustix::fs::Mode::from_bits_truncate(0o022));
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGPIPE] {
        os::ignore_signal(signal);
    }
    for name in [
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
    ] {
        // SAFETY: this process has one thread.
        unsafe { std::env::remove_var(name) };
    }
    Ok(())
}
