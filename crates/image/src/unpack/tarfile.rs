//! Reads tar archives: old V7, ustar, GNU (long names, sparse) and pax, with every length bounded.
//!
//! The `tar` crate reads long names and pax headers into memory at whatever size they claim, and splits
//! pax records at newlines, which binary attributes contain; layers come from strangers, so we read
//! the 512-byte blocks ourselves.

use std::cell::RefCell;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

use super::error::{EntryError, LayerError};
use super::fields::{ascii, c_string, checksum_holds, header_path, number, pax_time};
use crate::outline::Outline;

const BLOCK: usize = 512;
/// Go's archive/tar allows as much for long names and pax headers.
const SPECIAL_MAX: u64 = 1 << 20;
const SPARSE_MAX: usize = 1 << 16;

/// One entry's metadata.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// The name as written.
    pub path: Vec<u8>,
    /// The target of a link as written.
    pub link: Vec<u8>,
    /// The type flag; `0` for files, whatever the archive's age.
    pub kind: u8,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: i64,
    pub gid: i64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Bytes of data in the archive.
    pub size: u64,
    /// The file's length; differs from `size` for sparse files.
    pub real_size: u64,
    /// Where the data goes: offset and length. Empty unless sparse.
    pub sparse: Vec<(u64, u64)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub device: (u32, u32),
    /// Something that only this entry suffers from.
    pub refused: Option<EntryError>,
}

/// Reads entries one after the other; each entry's data lies between two calls of `next`.
pub(crate) struct TarReader<R> {
    inner: R,
    offset: u64,
    /// Bytes of data and of padding left of the present entry.
    data: u64,
    padding: u64,
    /// Hears of all that is read.
    outline: Option<Rc<RefCell<Outline>>>,
}

#[derive(Default)]
struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<i64>,
    gid: Option<i64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: bool,
}

impl<R: BufRead> TarReader<R> {
    pub fn new(inner: R, outline: Option<Rc<RefCell<Outline>>>) -> Self {
        Self {
            inner,
            offset: 0,
            data: 0,
            padding: 0,
            outline,
        }
    }

    /// The next entry; `None` at the archive's end.
    pub fn next(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut over = Overrides::default();
        loop {
            self.skip(self.data + self.padding)?;
            (self.data, self.padding) = (0, 0);
            let mut block = [0; BLOCK];
            if !self.block(&mut block)? {
                return Ok(None);
            }
            if block.iter().all(|b| *b == 0) {
                if self.block(&mut block)? && block.iter().any(|b| *b != 0) {
                    return Err(self.damaged("data follows the end mark"));
                }
                return Ok(None);
            }
            if !checksum_holds(&block) {
                return Err(self.damaged("a header's checksum is wrong"));
            }
            let size = self.number(&block[124..136])?;
            let size =
                u64::try_from(size).map_err(|_| self.damaged("a header has a negative size"))?;
            match block[156] {
                b'L' => over.path = Some(c_string(&self.special(size)?).to_vec()),
                b'K' => over.link = Some(c_string(&self.special(size)?).to_vec()),
                b'x' => {
                    let records = self.special(size)?;
                    self.pax(&records, &mut over)?;
                }
                b'g' => self.set_data(size),
                _ => return self.entry(&block, size, over).map(Some),
            }
        }
    }

    fn entry(&mut self, block: &[u8], size: u64, over: Overrides) -> Result<Entry, LayerError> {
        let kind = match block[156] {
            0 | b'7' => b'0',
            kind => kind,
        };
        let mut entry = Entry {
            path: over.path.unwrap_or_else(|| header_path(block)),
            link: over
                .link
                .unwrap_or_else(|| c_string(&block[157..257]).to_vec()),
            kind,
            mode: (self.number(&block[100..108])? & 0o7777) as u32,
            uid: over.uid.map_or_else(|| self.number(&block[108..116]), Ok)?,
            gid: over.gid.map_or_else(|| self.number(&block[116..124]), Ok)?,
            mtime: over
                .mtime
                .map_or_else(|| Ok((self.number(&block[136..148])?, 0)), Ok)?,
            size: over.size.unwrap_or(size),
            xattrs: over.xattrs,
            refused: over.sparse.then_some(EntryError::PaxSparse),
            ..Entry::default()
        };
        if kind == b'0' && entry.path.ends_with(b"/") {
            entry.kind = b'5';
        }
        if matches!(kind, b'3' | b'4') {
            let number = |field| {
                self.number(field).and_then(|n| {
                    u32::try_from(n).map_err(|_| self.damaged("a device number is out of range"))
                })
            };
            entry.device = (number(&block[329..337])?, number(&block[337..345])?);
        }
        entry.real_size = entry.size;
        if kind == b'S' {
            self.sparse(block, &mut entry)?;
        }
        // Only files and unknown kinds carry data; Go ignores the size of the others, and so do we.
        if matches!(entry.kind, b'1'..=b'6') {
            (entry.size, entry.real_size) = (0, 0);
        }
        self.set_data(entry.size);
        Ok(entry)
    }

    /// GNU's old sparse format: four areas in the header, 21 in each block that follows.
    fn sparse(&mut self, block: &[u8], entry: &mut Entry) -> Result<(), LayerError> {
        let unsigned = |reader: &Self, field: &[u8]| {
            let number = reader.number(field)?;
            u64::try_from(number).map_err(|_| reader.damaged("a sparse area is negative"))
        };
        entry.real_size = unsigned(self, &block[483..495])?;
        let (mut areas, mut more) = (block[386..482].to_vec(), block[482] != 0);
        let (mut stored, mut end) = (0u64, 0u64);
        loop {
            for area in areas.chunks_exact(24).filter(|a| a[0] != 0) {
                let (at, len) = (unsigned(self, &area[..12])?, unsigned(self, &area[12..])?);
                let next = at
                    .checked_add(len)
                    .filter(|next| at >= end && *next <= entry.real_size);
                end = next.ok_or_else(|| self.damaged("sparse areas overlap or overrun"))?;
                stored = stored.saturating_add(len);
                if len > 0 {
                    entry.sparse.push((at, len));
                }
            }
            if entry.sparse.len() > SPARSE_MAX {
                return Err(self.damaged("a file has too many sparse areas"));
            }
            if !more {
                break;
            }
            let mut extension = [0; BLOCK];
            if !self.block(&mut extension)? {
                return Err(LayerError::Truncated);
            }
            (areas, more) = (extension[..504].to_vec(), extension[504] != 0);
        }
        if stored != entry.size {
            return Err(self.damaged("sparse areas do not add up to the stored size"));
        }
        Ok(())
    }

    fn pax(&self, mut rest: &[u8], over: &mut Overrides) -> Result<(), LayerError> {
        let damaged = || self.damaged("a pax header cannot be read");
        while !rest.is_empty() {
            let space = rest.iter().position(|b| *b == b' ').ok_or_else(damaged)?;
            let length: usize = ascii(&rest[..space])
                .and_then(|n| n.parse().ok())
                .ok_or_else(damaged)?;
            if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
                return Err(damaged());
            }
            let record = &rest[space + 1..length - 1];
            rest = &rest[length..];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(damaged)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let number = || {
                ascii(value)
                    .and_then(|n| n.parse().ok())
                    .ok_or_else(damaged)
            };
            match key {
                b"path" => over.path = Some(value.to_vec()),
                b"linkpath" => over.link = Some(value.to_vec()),
                b"size" => over.size = Some(u64::try_from(number()?).map_err(|_| damaged())?),
                b"uid" => over.uid = Some(number()?),
                b"gid" => over.gid = Some(number()?),
                b"mtime" => over.mtime = Some(pax_time(value).ok_or_else(damaged)?),
                key if key.starts_with(b"GNU.sparse.") => over.sparse = true,
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        over.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }

    /// The present entry's data, piece by piece, each passed to `take`.
    pub fn data<E>(
        &mut self,
        length: u64,
        take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, LayerError> {
        self.pieces(length, true, take)
    }

    /// As [`Self::data`], all of it the content of the file that lies at `path` from now on.
    pub fn content<E>(
        &mut self,
        path: &[u8],
        length: u64,
        take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, LayerError> {
        let referred = match &self.outline {
            Some(outline) if length > 0 => outline.borrow_mut().content(path, length),
            _ => Ok(false),
        };
        let referred = referred.map_err(LayerError::io(OUTLINE))?;
        self.pieces(length, !referred, take)
    }

    fn pieces<E>(
        &mut self,
        mut length: u64,
        noted: bool,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, LayerError> {
        debug_assert!(length <= self.data);
        while length > 0 {
            let piece = self.inner.fill_buf().map_err(read_error)?;
            if piece.is_empty() {
                return Err(LayerError::Truncated);
            }
            let take_now = usize::try_from(length).map_or(piece.len(), |l| l.min(piece.len()));
            let result = take(&piece[..take_now]);
            if noted {
                note(&self.outline, &piece[..take_now])?;
            }
            self.inner.consume(take_now);
            self.offset += take_now as u64;
            self.data -= take_now as u64;
            length -= take_now as u64;
            if let Err(e) = result {
                return Ok(Err(e));
            }
        }
        Ok(Ok(()))
    }

    /// What is left of the present entry's data, for whoever reads by himself. Nothing of it is noted in an outline.
    pub fn rest(&mut self) -> Rest<'_, R> {
        Rest(self)
    }

    /// Reads what follows the archive's end, which the digest covers.
    pub fn drain(mut self) -> Result<(), LayerError> {
        loop {
            let piece = self.inner.fill_buf().map_err(read_error)?;
            if piece.is_empty() {
                return Ok(());
            }
            note(&self.outline, piece)?;
            let length = piece.len();
            self.inner.consume(length);
        }
    }

    fn set_data(&mut self, size: u64) {
        self.data = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn special(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        if size > SPECIAL_MAX {
            return Err(self.damaged("a long name or pax header is larger than 1 MiB"));
        }
        self.set_data(size);
        let mut bytes = Vec::new();
        let taken: Result<(), std::convert::Infallible> = self.data(size, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        let Ok(()) = taken;
        Ok(bytes)
    }

    fn skip(&mut self, mut length: u64) -> Result<(), LayerError> {
        while length > 0 {
            let piece = self.inner.fill_buf().map_err(read_error)?;
            if piece.is_empty() {
                return Err(LayerError::Truncated);
            }
            let now = usize::try_from(length).map_or(piece.len(), |l| l.min(piece.len()));
            note(&self.outline, &piece[..now])?;
            self.inner.consume(now);
            self.offset += now as u64;
            length -= now as u64;
        }
        Ok(())
    }

    /// Fills a block; false when the stream ends before its first byte.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, LayerError> {
        let mut filled = 0;
        while filled < BLOCK {
            let piece = self.inner.fill_buf().map_err(read_error)?;
            if piece.is_empty() {
                return if filled == 0 {
                    Ok(false)
                } else {
                    Err(LayerError::Truncated)
                };
            }
            let now = piece.len().min(BLOCK - filled);
            block[filled..filled + now].copy_from_slice(&piece[..now]);
            note(&self.outline, &piece[..now])?;
            self.inner.consume(now);
            filled += now;
        }
        self.offset += BLOCK as u64;
        Ok(true)
    }

    fn number(&self, field: &[u8]) -> Result<i64, LayerError> {
        number(field).ok_or_else(|| self.damaged("a header's number cannot be read"))
    }

    /// What is wrong, with where.
    pub fn damaged(&self, reason: &'static str) -> LayerError {
        LayerError::Format {
            offset: self.offset,
            reason,
        }
    }
}

/// An entry's data.
pub(crate) struct Rest<'a, R>(&'a mut TarReader<R>);

impl<R: BufRead> Read for Rest<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let reader = &mut *self.0;
        if reader.data == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let piece = reader.inner.fill_buf()?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let most = usize::try_from(reader.data).unwrap_or(usize::MAX);
        let length = piece.len().min(buffer.len()).min(most);
        buffer[..length].copy_from_slice(&piece[..length]);
        reader.inner.consume(length);
        reader.offset += length as u64;
        reader.data -= length as u64;
        Ok(length)
    }
}

/// What is tried when an outline cannot be written.
pub(super) const OUTLINE: &str = "keep the outline";

fn note(outline: &Option<Rc<RefCell<Outline>>>, bytes: &[u8]) -> Result<(), LayerError> {
    match outline {
        Some(outline) => outline
            .borrow_mut()
            .bytes(bytes)
            .map_err(LayerError::io(OUTLINE)),
        None => Ok(()),
    }
}

/// A failing source has told its cause elsewhere; the reader only sees that it stopped.
fn read_error(error: io::Error) -> LayerError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => LayerError::Truncated,
        io::ErrorKind::BrokenPipe => LayerError::Interrupted,
        _ => LayerError::Io {
            action: "read the layer",
            source: error,
        },
    }
}
