//! One connection that carries frames and never blocks: what came is buffered, what shall go is queued.

use coracle_shim_protocol::frame::{self, HEADER, Kind};
use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use serde::Serialize;
use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

/// Most messages are shorter, and memory that is never touched costs nothing.
const READ_SIZE: usize = 8 << 10;
/// Bytes that may wait for one peer before the process whose output it is has to wait too.
const HIGH_WATER: usize = 1 << 20;
/// How long a peer may take nothing while something waits for it.
const STALL: Duration = Duration::from_secs(30);
/// Descriptors that may wait for their message.
const MAX_FDS: usize = 8;

struct Chunk {
    bytes: Vec<u8>,
    sent: usize,
    fd: Option<OwnedFd>,
}

/// A connection.
pub struct Wire {
    stream: UnixStream,
    input: Vec<u8>,
    taken: usize,
    fds: VecDeque<OwnedFd>,
    output: VecDeque<Chunk>,
    pending: usize,
    progress: Instant,
    ended: bool,
}

impl Wire {
    /// Takes over a stream.
    ///
    /// # Errors
    /// When it cannot be made non-blocking.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            input: Vec::new(),
            taken: 0,
            fds: VecDeque::new(),
            output: VecDeque::new(),
            pending: 0,
            progress: Instant::now(),
            ended: false,
        })
    }

    /// Reads once what is there. `Ok(false)` when the peer sends nothing more.
    ///
    /// # Errors
    /// The stream's own.
    pub fn fill(&mut self) -> io::Result<bool> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut chunk = [0u8; READ_SIZE];
        let got = recvmsg(
            self.stream.as_fd(),
            &mut [IoSliceMut::new(&mut chunk)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        );
        if let Ok(message) = &got {
            self.input.drain(..self.taken);
            self.taken = 0;
            self.input.extend_from_slice(&chunk[..message.bytes]);
        }
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = part {
                self.fds.extend(received);
                self.fds.truncate(MAX_FDS);
            }
        }
        match got {
            Ok(message) if message.bytes == 0 => {
                self.ended = true;
                Ok(false)
            }
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }

    /// The next whole frame, if it has arrived.
    ///
    /// # Errors
    /// `InvalidData` for a malformed header; nothing can be understood after it.
    pub fn frame(&mut self) -> io::Result<Option<(Kind, Vec<u8>)>> {
        let rest = &self.input[self.taken..];
        let Some(head) = rest.first_chunk::<HEADER>() else {
            self.shrink();
            return Ok(None);
        };
        let (kind, len) = frame::parse_header(head)?;
        let Some(payload) = rest.get(HEADER..HEADER + len) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.taken += HEADER + len;
        Ok(Some((kind, payload)))
    }

    fn shrink(&mut self) {
        if self.taken == self.input.len() {
            self.input = Vec::new();
            self.taken = 0;
        }
    }

    /// The oldest descriptor that came along and was not taken yet.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    /// Queues a message and sends what can be sent.
    pub fn send<T: Serialize>(&mut self, message: &T) {
        self.send_with(message, None);
    }

    /// As [`Wire::send`], with a descriptor on the first byte.
    pub fn send_with<T: Serialize>(&mut self, message: &T, fd: Option<OwnedFd>) {
        // Messages of ours are small and always valid JSON.
        if let Ok(bytes) = frame::control(message) {
            self.push(bytes, fd);
        }
    }

    /// Queues output of a process and sends what can be sent.
    pub fn output(&mut self, kind: Kind, payload: &[u8]) {
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend_from_slice(&frame::header(kind, payload.len()));
        bytes.extend_from_slice(payload);
        self.push(bytes, None);
    }

    fn push(&mut self, bytes: Vec<u8>, fd: Option<OwnedFd>) {
        if self.output.is_empty() {
            self.progress = Instant::now();
        }
        self.pending += bytes.len();
        self.output.push_back(Chunk { bytes, sent: 0, fd });
        // An error shows again when the loop polls.
        let _ = self.flush();
    }

    /// Sends what can be sent now.
    ///
    /// # Errors
    /// The stream's own, `EPIPE` when the peer left.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(chunk) = self.output.front_mut() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let fds;
            if let Some(fd) = &chunk.fd {
                fds = [fd.as_fd()];
                ancillary.push(SendAncillaryMessage::ScmRights(&fds));
            }
            let sent = sendmsg(
                self.stream.as_fd(),
                &[IoSlice::new(&chunk.bytes[chunk.sent..])],
                &mut ancillary,
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            );
            match sent {
                Ok(n) => {
                    chunk.fd = None;
                    chunk.sent += n;
                    self.pending -= n;
                    self.progress = Instant::now();
                    if chunk.sent == chunk.bytes.len() {
                        self.output.pop_front();
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.output.shrink_to(4);
        Ok(())
    }

    /// Bytes that wait for the peer.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Whether so much waits for the peer that more would only grow our memory.
    pub fn is_full(&self) -> bool {
        self.pending > HIGH_WATER
    }

    /// Until when the peer has to take something, if anything waits for it.
    pub fn patience(&self) -> Option<Instant> {
        (self.pending > 0).then_some(self.progress + STALL)
    }

    /// Whether the peer sends nothing more.
    pub fn ended(&self) -> bool {
        self.ended
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use coracle_shim_protocol::shim::Reply;
    use std::io::Write;

    fn pair() -> (UnixStream, Wire) {
        let (a, b) = UnixStream::pair().unwrap();
        (a, Wire::new(b).unwrap())
    }

    #[test]
    fn frames_may_come_in_pieces() {
        let (mut peer, mut wire) = pair();
        let bytes = frame::control(&Reply::Ok).unwrap();
        for byte in &bytes {
            assert!(wire.frame().unwrap().is_none());
            peer.write_all(&[*byte]).unwrap();
            assert!(wire.fill().unwrap());
        }
        assert_eq!(
            wire.frame().unwrap().unwrap(),
            (Kind::Control, bytes[HEADER..].to_vec())
        );
        assert!(wire.frame().unwrap().is_none());
        drop(peer);
        assert!(!wire.fill().unwrap() && wire.ended());
    }

    #[test]
    fn a_peer_that_takes_nothing_blocks_nobody() {
        let (mut peer, mut wire) = pair();
        let block = vec![7; 1 << 20];
        wire.output(Kind::Stdout, &block);
        assert!(wire.pending() > 0);
        let reader = std::thread::spawn(move || frame::read(&mut peer).unwrap().unwrap().1);
        while wire.pending() > 0 {
            wire.flush().unwrap();
        }
        assert_eq!(reader.join().unwrap(), block);
    }

    #[test]
    fn patience_begins_anew_with_every_byte_taken() {
        let (mut peer, mut wire) = pair();
        assert_eq!(wire.patience(), None);
        wire.output(Kind::Stdout, &vec![1; 2 << 20]);
        assert!(wire.is_full());
        let first = wire.patience().unwrap();
        assert!(first > Instant::now() + STALL / 2);
        wire.flush().unwrap();
        assert_eq!(wire.patience(), Some(first), "nothing was taken");
        let mut some = vec![0; 1 << 16];
        std::io::Read::read_exact(&mut peer, &mut some).unwrap();
        wire.flush().unwrap();
        assert!(wire.patience().unwrap() > first);
    }

    #[test]
    fn nonsense_is_an_error() {
        let (mut peer, mut wire) = pair();
        peer.write_all(&[9; 8]).unwrap();
        wire.fill().unwrap();
        assert_eq!(wire.frame().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
