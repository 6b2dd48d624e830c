//! Frames: an eight-byte header and a payload.

use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};

/// Length of a frame's header in bytes.
pub const HEADER: usize = 8;
/// Longest payload accepted, in bytes.
pub const MAX_PAYLOAD: usize = 16 << 20;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Input for the process; empty means end of input.
    Stdin = 0,
    /// Output of the process (everything, when it has a terminal).
    Stdout = 1,
    /// Error output of the process.
    Stderr = 2,
    /// One JSON message.
    Control = 3,
}

impl Kind {
    /// Reads the first byte of a header.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Stdin,
            1 => Self::Stdout,
            2 => Self::Stderr,
            3 => Self::Control,
            _ => return None,
        })
    }
}

/// Writes a header.
pub fn header(kind: Kind, len: usize) -> [u8; HEADER] {
    // Payloads are at most MAX_PAYLOAD, which fits.
    let [a, b, c, d] = (len as u32).to_be_bytes();
    [kind as u8, 0, 0, 0, a, b, c, d]
}

/// Reads a header.
///
/// # Errors
/// `InvalidData` for an unknown kind or a payload above [`MAX_PAYLOAD`].
pub fn parse_header(bytes: &[u8; HEADER]) -> io::Result<(Kind, usize)> {
    let kind = Kind::from_byte(bytes[0]).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("unknown frame kind {}", bytes[0]),
        )
    })?;
    let len = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
    if len > MAX_PAYLOAD {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("frame of {len} bytes is longer than {MAX_PAYLOAD}"),
        ));
    }
    Ok((kind, len))
}

/// Encodes a message as one control frame.
///
/// # Errors
/// `InvalidData` if it cannot be written as JSON or is longer than [`MAX_PAYLOAD`].
pub fn control<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut out = vec![0; HEADER];
    serde_json::to_writer(&mut out, message)?;
    let len = out.len() - HEADER;
    if len > MAX_PAYLOAD {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("message of {len} bytes is longer than {MAX_PAYLOAD}"),
        ));
    }
    out[..HEADER].copy_from_slice(&header(Kind::Control, len));
    Ok(out)
}

/// Reads a control message's payload.
///
/// # Errors
/// `InvalidData` if it is not the JSON expected.
pub fn parse<T: DeserializeOwned>(payload: &[u8]) -> io::Result<T> {
    Ok(serde_json::from_slice(payload)?)
}

/// Reads one frame from a blocking stream; `None` at a clean end.
///
/// # Errors
/// `UnexpectedEof` in the middle of a frame, `InvalidData` for a malformed header, or the stream's own.
pub fn read(stream: &mut impl Read) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut head = [0; HEADER];
    let mut got = 0;
    while got < HEADER {
        match stream.read(&mut head[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let (kind, len) = parse_header(&head)?;
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload)?;
    Ok(Some((kind, payload)))
}

/// Writes one frame to a blocking stream.
///
/// # Errors
/// The stream's own.
pub fn write(stream: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    stream.write_all(&header(kind, payload.len()))?;
    stream.write_all(payload)
}

/// Sends one control message on a blocking stream.
///
/// # Errors
/// As [`control`] and the stream's own.
pub fn send<T: Serialize>(stream: &mut impl Write, message: &T) -> io::Result<()> {
    stream.write_all(&control(message)?)
}

/// Receives one control message from a blocking stream.
///
/// # Errors
/// `UnexpectedEof` when the peer left, `InvalidData` for another kind of frame or malformed JSON.
pub fn receive<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<T> {
    match read(stream)? {
        Some((Kind::Control, payload)) => parse(&payload),
        Some((kind, _)) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a {kind:?} frame where a message was expected"),
        )),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
