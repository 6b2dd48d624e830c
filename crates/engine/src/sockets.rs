//! Listening sockets that the holder keeps, so that a daemon's restart makes clients wait instead of failing.
//!
//! All functions block for one round trip on the holder's socket.

use coracle_shim_protocol::address::Address;
use coracle_shim_protocol::fds;
use coracle_shim_protocol::frame;
use coracle_shim_protocol::holder::{Reply, Request, SOCKET};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

fn open(run_dir: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(Address::of(&run_dir.join(SOCKET))?.path())
}

fn refused(reply: &Reply) -> io::Error {
    io::Error::other(match reply {
        Reply::Error { message } => message.clone(),
        other => format!("the holder answered {other:?}"),
    })
}

/// A duplicate of a kept socket, if there is one of that name.
///
/// # Errors
/// The holder's socket's own, or its refusal.
pub fn fetch(run_dir: &Path, name: &str) -> io::Result<Option<OwnedFd>> {
    let mut stream = open(run_dir)?;
    frame::send(&mut stream, &Request::Fetch { name: name.into() })?;
    match fds::receive::<Reply>(&mut stream)? {
        (Reply::Socket { found: false }, _) => Ok(None),
        (Reply::Socket { found: true }, Some(fd)) => Ok(Some(fd)),
        (other, _) => Err(refused(&other)),
    }
}

/// Gives the holder a duplicate to keep.
///
/// # Errors
/// As [`fetch`].
pub fn deposit(run_dir: &Path, name: &str, socket: OwnedFd) -> io::Result<()> {
    let mut stream = open(run_dir)?;
    fds::send(
        &mut stream,
        &Request::Deposit { name: name.into() },
        socket.as_fd(),
    )?;
    match frame::receive::<Reply>(&mut stream)? {
        Reply::Ok => Ok(()),
        other => Err(refused(&other)),
    }
}

/// The names of the sockets that are kept.
///
/// # Errors
/// As [`fetch`].
pub fn list(run_dir: &Path) -> io::Result<Vec<String>> {
    let mut stream = open(run_dir)?;
    frame::send(&mut stream, &Request::List)?;
    match frame::receive::<Reply>(&mut stream)? {
        Reply::Listing { sockets, .. } => Ok(sockets),
        other => Err(refused(&other)),
    }
}

/// Has the holder close a kept socket.
///
/// # Errors
/// As [`fetch`].
pub fn discard(run_dir: &Path, name: &str) -> io::Result<()> {
    let mut stream = open(run_dir)?;
    frame::send(&mut stream, &Request::Discard { name: name.into() })?;
    match frame::receive::<Reply>(&mut stream)? {
        Reply::Ok => Ok(()),
        other => Err(refused(&other)),
    }
}
