//! Control messages with a file descriptor (`SCM_RIGHTS`, `unix(7)`) on the first byte of their frame.

use crate::frame::{self, HEADER, Kind};
use rustix::{
    io::{Errno, retry_on_intr},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

/// Sends a control message and a descriptor along on a blocking stream. The peer gets a duplicate.
///
/// # Errors
/// As [`frame::control`] and the stream's own; `EPIPE` instead of a signal when the peer left.
pub fn send<T: Serialize>(
    stream: &mut UnixStream,
    message: &T,
    fd: BorrowedFd<'_>,
) -> io::Result<()> {
    let bytes = frame::control(message)?;
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::MSGSIZE.into());
    }
    let sent = retry_on_intr(|| {
        sendmsg(
            stream.as_fd(),
            &[IoSlice::new(&bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
    })?;
    stream.write_all(&bytes[sent..])
}

/// Receives one control message from a blocking stream, and the descriptor that came on its first byte, if any.
/// The descriptor closes on exec.
///
/// # Errors
/// As [`frame::receive`]; `InvalidData` if more than one descriptor came.
pub fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<(T, Option<OwnedFd>)> {
    let mut head = [0; HEADER];
    // Room for two, so that a second one is seen and closed rather than cut off silently.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = retry_on_intr(|| {
        recvmsg(
            stream.as_fd(),
            &mut [IoSliceMut::new(&mut head)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    if message.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if fds.len() > 1 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "more than one file descriptor with a message",
        ));
    }
    stream.read_exact(&mut head[message.bytes..])?;
    let (kind, len) = frame::parse_header(&head)?;
    if kind != Kind::Control {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a {kind:?} frame where a message was expected"),
        ));
    }
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload)?;
    Ok((frame::parse(&payload)?, fds.pop()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::holder::{Reply, Request};
    use std::net::TcpListener;

    #[test]
    fn a_listening_socket_travels_with_its_message() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        send(
            &mut a,
            &Request::Deposit { name: "api".into() },
            listener.as_fd(),
        )
        .unwrap();
        frame::send(&mut a, &Reply::Ok).unwrap();
        drop(listener);
        let (request, fd) = receive::<Request>(&mut b).unwrap();
        assert!(matches!(request, Request::Deposit { name } if name == "api"));
        let kept = TcpListener::from(fd.unwrap());
        assert_eq!(kept.local_addr().unwrap(), address);
        let (reply, none) = receive::<Reply>(&mut b).unwrap();
        assert!(matches!(reply, Reply::Ok) && none.is_none());
        drop(a);
        assert_eq!(
            receive::<Reply>(&mut b).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn malformed_frames_are_refused() {
        for bytes in [
            &[9u8, 0, 0, 0, 0, 0, 0, 0][..],
            &[3, 0, 0, 0, 255, 255, 255, 255],
            &[1, 0, 0, 0, 0, 0, 0, 0],
            &[3, 0],
        ] {
            let (mut a, mut b) = UnixStream::pair().unwrap();
            a.write_all(bytes).unwrap();
            drop(a);
            assert!(receive::<Reply>(&mut b).is_err(), "{bytes:?}");
        }
    }
}
