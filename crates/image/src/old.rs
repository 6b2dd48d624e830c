//! xz and bzip2: compressions of archives that people have, and that no layer in a registry is of. Decoders are Rust, since what they
//! read may come from anybody, and take memory within bounds.

use std::io::{self, BufReader, Read};

use bzip2::bufread::MultiBzDecoder;
use lzma_rust2::XzReader;

use crate::ingest::first_bytes;

/// A stream that is plain, or compressed as layers may be. What is compressed with xz or bzip2 is made plain: no registry has layers
/// of that kind.
pub(crate) fn as_layer<'a>(mut stream: impl Read + Send + 'a) -> Box<dyn Read + Send + 'a> {
    let (start, failed) = first_bytes(&mut stream);
    let old = Old::of(&start);
    let whole = io::Cursor::new(start).chain(Failing(failed).chain(stream));
    match old {
        Some(old) => Box::new(old.reader(whole)),
        None => Box::new(whole),
    }
}

/// Says once that reading failed.
struct Failing(Option<io::Error>);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// How an archive is compressed, told by its first bytes.
#[derive(Clone, Copy)]
pub(crate) enum Old {
    Xz,
    Bzip2,
}

impl Old {
    pub fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Some(Self::Xz),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Self::Bzip2),
            _ => None,
        }
    }

    /// The uncompressed stream. Several streams one after the other are one, as their tools have it.
    pub fn reader<R: Read>(self, inner: R) -> OldReader<R> {
        let inner = BufReader::with_capacity(128 * 1024, inner);
        match self {
            Self::Xz => OldReader::Xz(Box::new(XzReader::new_mem_limit(inner, true, XZ_MEMORY))),
            Self::Bzip2 => OldReader::Bzip2(MultiBzDecoder::new(inner)),
        }
    }
}

/// The uncompressed stream.
pub(crate) enum OldReader<R: Read> {
    Xz(Box<XzReader<BufReader<R>>>),
    Bzip2(MultiBzDecoder<BufReader<R>>),
}

impl<R: Read> Read for OldReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Xz(reader) => reader.read(buffer),
            Self::Bzip2(reader) => reader.read(buffer),
        }
    }
}

/// KiB that decoding xz may take: `xz -9` asks for 65 MiB.
const XZ_MEMORY: u32 = 128 << 10;
