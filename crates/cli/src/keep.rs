//! Sockets that the holder keeps while there is no daemon, so that clients wait and are not refused.

use coracle_engine::sockets;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// A duplicate of what is kept under that name, if it is.
///
/// # Errors
/// The holder's socket's own.
pub async fn fetch(run_dir: &Path, name: &str) -> io::Result<Option<OwnedFd>> {
    let (dir, name) = (run_dir.to_owned(), name.to_owned());
    let fetched = tokio::task::spawn_blocking(move || sockets::fetch(&dir, &name));
    fetched.await.map_err(io::Error::other)?
}

/// Has a duplicate kept under that name.
///
/// # Errors
/// As [`fetch`].
pub async fn deposit(run_dir: &Path, name: &str, socket: OwnedFd) -> io::Result<()> {
    let (dir, name) = (run_dir.to_owned(), name.to_owned());
    let kept = tokio::task::spawn_blocking(move || sockets::deposit(&dir, &name, socket));
    kept.await.map_err(io::Error::other)?
}

/// Has what is kept under names that begin so closed, but for those that are wanted.
///
/// # Errors
/// As [`fetch`].
pub async fn keep_only(run_dir: &Path, begin: &'static str, wanted: &[String]) -> io::Result<()> {
    let (dir, wanted) = (run_dir.to_owned(), wanted.to_vec());
    let gone = tokio::task::spawn_blocking(move || {
        let kept = sockets::list(&dir)?.into_iter();
        let mut others = kept.filter(|name| name.starts_with(begin) && !wanted.contains(name));
        others.try_for_each(|name| sockets::discard(&dir, &name))
    });
    gone.await.map_err(io::Error::other)?
}
