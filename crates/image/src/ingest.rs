//! One layer from a stream to a finished work directory: keep, check, decompress, check, unpack.
//!
//! Two threads share the work, joined by a few buffers that go round:
//! ```text
//! stream -> hash, count, keep the blob -> decompress  ==buffers==>  hash -> read tar -> write files
//! ```
//! Of a layer that comes plain an outline is kept instead of the blob, see [`crate::outline`].

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest as _, Sha256};

use crate::content::WorkDir;
use crate::digest::Digest;
use crate::old::Old;
use crate::unpack::{self, LayerError, Limits, Unpacked};

/// Size of a buffer between the threads.
const BUFFER: usize = 512 * 1024;
const BUFFERS: usize = 6;

/// How a stream is compressed, told by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Reads the magic number; refuses what we do not decompress.
    pub fn of(start: &[u8]) -> Result<Self, LayerError> {
        match start {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            // A skippable frame, as seekable zstd variants begin with.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Err(LayerError::Unsupported("xz")),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Err(LayerError::Unsupported("bzip2")),
            [b'L', b'Z', b'I', b'P', ..] => Err(LayerError::Unsupported("lzip")),
            [0x04, 0x22, 0x4d, 0x18, ..] => Err(LayerError::Unsupported("lz4")),
            _ => Ok(Self::None),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// The uncompressed stream.
    pub fn reader<'a>(self, inner: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::None => Box::new(inner),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(inner)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(inner)?;
                // 128 MiB, what the format asks every decoder to bear; a frame cannot ask for more.
                decoder.window_log_max(27)?;
                Box::new(decoder)
            }
        })
    }
}

/// What a layer must turn out to be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expected {
    /// Digest of the compressed bytes.
    pub blob: Option<Digest>,
    /// How many there are.
    pub blob_size: Option<u64>,
    /// Digest of the uncompressed bytes.
    pub diff_id: Option<Digest>,
    /// Whether it is kept as it came also if it came plain.
    pub verbatim: bool,
}

/// What it turned out to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ingested {
    pub diff_id: Digest,
    pub blob: Digest,
    pub blob_size: u64,
    pub compression: Compression,
    pub unpacked: Unpacked,
}

/// Reads the whole layer into `work`: `layer/fs/` is the tree, and `layer/outline` or `blob` what is kept of the archive. Nothing is
/// visible to others yet. `read` hears of the compressed bytes as they are taken.
pub(crate) fn ingest(
    stream: impl Read,
    expected: Expected,
    limits: &Limits,
    work: &WorkDir,
    read: impl FnMut(u64),
) -> Result<Ingested, LayerError> {
    let make = |name: &str| {
        let path = work.path().join(name);
        std::fs::create_dir(&path).map_err(LayerError::io("make the work directory"))?;
        Ok::<_, LayerError>(path)
    };
    make("layer")?;
    let (root, trash) = (make("layer/fs")?, make("trash")?);
    make_plain(&root)?;
    let mut source = Source {
        stream,
        keep: None,
        count: 0,
        expected,
        read,
        error: None,
    };
    let (start, failed) = first_bytes(&mut source);
    let compression = Compression::of(&start)?;
    let outlined = compression == Compression::None && !expected.verbatim;
    if !outlined {
        let keep = Hashed::create(&work.path().join("blob"), &start);
        source.keep = Some(keep.map_err(LayerError::io(KEEP))?);
    }
    let outline = outlined.then(|| work.path().join("layer/outline"));
    let (full_tx, full_rx) = sync_channel(BUFFERS);
    let (empty_tx, empty_rx) = sync_channel(BUFFERS);
    std::thread::scope(|scope| {
        let unpacker = scope.spawn(|| {
            let mut pipe = Pipe::new(full_rx, empty_tx);
            let unpacked = unpack::unpack(&mut pipe, &root, &trash, outline.as_deref(), limits);
            (unpacked, pipe.finish())
        });
        // The stream stays on this thread: not all may be moved.
        let rest = io::Cursor::new(start);
        let source = decompress(
            source,
            (rest, failed),
            compression,
            &full_tx,
            &empty_rx,
            limits,
        );
        drop((full_tx, empty_rx));
        let (unpacked, hasher) = match unpacker.join() {
            Ok((unpacked, hasher)) => (unpacked, hasher),
            Err(_) => (Err(LayerError::Interrupted), Sha256::new()),
        };
        match (unpacked, source) {
            (Ok(unpacked), Ok(kept)) => {
                let diff_id = Digest::finish(hasher);
                check("uncompressed (diff id)", expected.diff_id, diff_id)?;
                if kept.blob.is_none() {
                    check("uncompressed", expected.blob, diff_id)?;
                }
                Ok(Ingested {
                    diff_id,
                    blob: kept.blob.unwrap_or(diff_id),
                    blob_size: kept.length,
                    compression,
                    unpacked,
                })
            }
            // When the stream failed, the archive's end is only its consequence, and the other way round.
            (Err(LayerError::Interrupted | LayerError::Truncated), Err(e)) => Err(e),
            (Err(e), _) | (Ok(_), Err(e)) => Err(e),
        }
    })
}

/// The root directory's mode when the archive has no entry for it.
fn make_plain(root: &Path) -> Result<(), LayerError> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o755))
        .map_err(LayerError::io("set the root's mode"))
}

fn check(what: &'static str, expected: Option<Digest>, actual: Digest) -> Result<(), LayerError> {
    match expected {
        Some(expected) if expected != actual => Err(LayerError::WrongDigest {
            what,
            expected,
            actual,
        }),
        _ => Ok(()),
    }
}

/// A file whose content is hashed as it is written.
struct Hashed {
    file: File,
    hasher: Sha256,
}

impl Hashed {
    /// A new file that begins with these bytes.
    fn create(path: &Path, start: &[u8]) -> io::Result<Self> {
        let mut hashed = Self {
            file: File::create_new(path)?,
            hasher: Sha256::new(),
        };
        hashed.write(start)?;
        Ok(hashed)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }
}

/// What was kept of a stream.
struct Kept {
    /// Digest of the blob that is kept; none of an archive that only has an outline.
    blob: Option<Digest>,
    /// Bytes of the stream.
    length: u64,
}

/// What is tried when a blob cannot be written.
const KEEP: &str = "keep the layer";

/// The compressed stream, hashed, counted and kept on its way.
struct Source<S, P> {
    stream: S,
    /// Where it is kept, if it is.
    keep: Option<Hashed>,
    count: u64,
    expected: Expected,
    read: P,
    /// The error proper; the decoder only hears that reading failed.
    error: Option<LayerError>,
}

impl<S: Read, P: FnMut(u64)> Source<S, P> {
    fn pull(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let length = loop {
            match self.stream.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                    return Err(LayerError::Interrupted);
                }
                other => break other.map_err(LayerError::io("read the layer"))?,
            }
        };
        self.count += length as u64;
        match self.expected.blob_size {
            Some(declared) if self.count > declared => {
                return Err(LayerError::WrongSize {
                    declared,
                    actual: self.count,
                });
            }
            _ => {}
        }
        if let Some(keep) = &mut self.keep {
            keep.write(&buffer[..length])
                .map_err(LayerError::io(KEEP))?;
        }
        (self.read)(self.count);
        Ok(length)
    }
}

impl<S: Read, P: FnMut(u64)> Read for Source<S, P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.pull(buffer).map_err(|e| {
            self.error = Some(e);
            io::ErrorKind::Other.into()
        })
    }
}

/// Reads the stream, of which the first bytes have been read already.
fn decompress<S: Read, P: FnMut(u64)>(
    mut source: Source<S, P>,
    (start, mut failed): (io::Cursor<Vec<u8>>, Option<io::Error>),
    compression: Compression,
    full: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
    limits: &Limits,
) -> Result<Kept, LayerError> {
    let rest = start.chain(&mut source);
    let mut buffered = BufReader::with_capacity(128 * 1024, rest);
    if failed.is_none() {
        failed = pump(compression, &mut buffered, full, empty, limits)?;
    }
    // Bytes after the compressed stream's end belong to the blob all the same.
    if failed.is_none() {
        failed = io::copy(&mut buffered, &mut io::sink()).err();
    }
    drop(buffered);
    if let Some(error) = source.error.take() {
        return Err(error);
    }
    if let Some(error) = failed {
        return Err(match error.kind() {
            io::ErrorKind::UnexpectedEof => LayerError::Truncated,
            _ => LayerError::Compression {
                compression: compression.name(),
                source: error,
            },
        });
    }
    if let Some(declared) = source
        .expected
        .blob_size
        .filter(|size| *size != source.count)
    {
        return Err(LayerError::WrongSize {
            declared,
            actual: source.count,
        });
    }
    let blob = source.keep.map(|k| Digest::finish(k.hasher));
    if let Some(blob) = blob {
        check("compressed", source.expected.blob, blob)?;
    }
    // An empty buffer is the end mark: it is only sent when everything before it was right.
    let _ = full.send(Vec::new());
    Ok(Kept {
        blob,
        length: source.count,
    })
}

/// What is in a stream, plain or compressed with gzip, zstd, xz or bzip2.
pub(crate) fn plain<'a>(mut stream: impl Read + 'a) -> Result<Box<dyn Read + 'a>, LayerError> {
    let (start, failed) = first_bytes(&mut stream);
    if let Some(error) = failed {
        return Err(LayerError::io("read the archive")(error));
    }
    if let Some(old) = Old::of(&start) {
        return Ok(Box::new(old.reader(io::Cursor::new(start).chain(stream))));
    }
    let compression = Compression::of(&start)?;
    let whole = BufReader::with_capacity(128 * 1024, io::Cursor::new(start).chain(stream));
    let failed = |source| LayerError::Compression {
        compression: compression.name(),
        source,
    };
    compression.reader(whole).map_err(failed)
}

/// The magic number: up to six bytes, however small the pieces in which they come.
pub(crate) fn first_bytes(source: impl Read) -> (Vec<u8>, Option<io::Error>) {
    let mut start = Vec::new();
    let failed = source.take(6).read_to_end(&mut start).err();
    (start, failed)
}

/// Sends decompressed buffers until the stream ends or fails, or nobody takes them any more.
fn pump(
    compression: Compression,
    source: &mut impl BufRead,
    full: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
    limits: &Limits,
) -> Result<Option<io::Error>, LayerError> {
    let mut decoder = match compression.reader(source) {
        Ok(decoder) => decoder,
        Err(e) => return Ok(Some(e)),
    };
    let (mut total, mut made) = (0u64, 0);
    loop {
        let mut buffer = if made < BUFFERS {
            made += 1;
            vec![0; BUFFER]
        } else {
            let Ok(buffer) = empty.recv() else {
                return Err(LayerError::Interrupted);
            };
            buffer
        };
        buffer.resize(BUFFER, 0);
        let mut filled = 0;
        let mut failed = None;
        while filled < BUFFER {
            match decoder.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    failed = Some(e);
                    break;
                }
            }
        }
        total += filled as u64;
        if total > limits.bytes {
            return Err(LayerError::TooLarge {
                limit: limits.bytes,
            });
        }
        let ended = filled < BUFFER;
        buffer.truncate(filled);
        if filled > 0 && full.send(buffer).is_err() {
            return Err(LayerError::Interrupted);
        }
        if ended {
            return Ok(failed);
        }
    }
}

/// The uncompressed stream on the unpacking side.
struct Pipe {
    full: Receiver<Vec<u8>>,
    empty: SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
    hasher: Sha256,
}

impl Pipe {
    fn new(full: Receiver<Vec<u8>>, empty: SyncSender<Vec<u8>>) -> Self {
        Self {
            full,
            empty,
            buffer: Vec::new(),
            at: 0,
            ended: false,
            hasher: Sha256::new(),
        }
    }

    /// The hash of all that was read; the sender notices that nobody listens any more.
    fn finish(self) -> Sha256 {
        self.hasher
    }
}

impl BufRead for Pipe {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() && !self.ended {
            let used = std::mem::take(&mut self.buffer);
            if used.capacity() > 0 {
                // There are never more buffers than places for them.
                let _ = self.empty.try_send(used);
            }
            self.at = 0;
            match self.full.recv() {
                Ok(buffer) if buffer.is_empty() => self.ended = true,
                Ok(buffer) => {
                    self.hasher.update(&buffer);
                    self.buffer = buffer;
                }
                Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.buffer.len());
    }
}

impl Read for Pipe {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let piece = self.fill_buf()?;
        let length = piece.len().min(out.len());
        out[..length].copy_from_slice(&piece[..length]);
        self.consume(length);
        Ok(length)
    }
}
