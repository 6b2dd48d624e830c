//! What the kernel knows of a socket.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Bytes that were sent on a Unix stream socket and that its peer has not read yet (`SIOCOUTQ`, `unix(7)`), with the kernel's own
/// for each piece: only zero is exact.
///
/// # Errors
/// The kernel's own, for what is no socket.
pub fn unread(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ, which is SIOCOUTQ, writes one int to the address given, which lives over the call.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_read_is_not_counted() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        assert_eq!(unread(&here).unwrap(), 0);
        here.write_all(b"head").unwrap();
        assert!(unread(&here).unwrap() > 0);
        let mut text = [0; 4];
        there.read_exact(&mut text).unwrap();
        assert_eq!(unread(&here).unwrap(), 0);
        assert!(unread(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
