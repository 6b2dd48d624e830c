//! The log in front of the database: what was answered and is not in the database yet.
//!
//! It lies in a few files of fixed size that are used again and again, `log-0`, `log-1`, …, filled with zeros before their
//! first use: writing into blocks that are there takes the disk one step, where a file that grows takes it two.
//!
//! ```text
//! log-0   [ 7 ][ 8 ][  9 ]           the database holds all up to 9: free, as it is
//! log-1   [ 10 ][ 11 ][ 5 ][ 6 ]     being written; 5 and 6 are left from its former use
//! ```
//! One frame is on its way to the disk at a time. So at most the last one can be torn, which was not answered for, and reading
//! ends there. A frame that is damaged although a later one is whole was answered for: that is said, and nothing is guessed.
//! What no log can tell from a torn end is damage to the very last frame, or the loss of the last file.

mod frame;

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::dir::sync_dir;
use super::tables::corrupt;
use crate::error::StoreError;
pub(crate) use frame::{Building, Change, Former};
use frame::{Frame, SECTOR};

/// Bytes of one file, unless a single frame needs more.
pub(crate) const SEGMENT: u64 = 2 << 20;
/// Free files kept for later.
const SPARE: usize = 8;

struct Segment {
    number: u64,
    path: PathBuf,
    size: u64,
    /// The newest frame in it; 0: nothing of this log.
    last: u64,
}

/// The log of one directory; whoever holds it is its only writer.
pub(crate) struct Log {
    dir: PathBuf,
    id: u64,
    /// All but the one being written.
    others: Vec<Segment>,
    current: Option<(Segment, File)>,
    /// Where the next frame goes in it.
    offset: u64,
    /// The newest frame.
    sequence: u64,
}

impl Log {
    /// Reads the log of `dir` from the frame after `flushed` on, telling `each` of its frames in order.
    ///
    /// # Errors
    /// `Corrupt` where a frame is missing that was answered for, `Io`.
    pub(crate) fn open(
        dir: &Path,
        id: u64,
        flushed: u64,
        mut each: impl FnMut(u64, Vec<Change<'_>>) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        let mut log = Self {
            dir: dir.to_owned(),
            id,
            others: Vec::new(),
            current: None,
            offset: 0,
            sequence: flushed,
        };
        let mut found = Vec::new();
        for (number, path) in files(dir)? {
            let bytes = read(&path)?;
            let first = Frame::at(&bytes, id).map_or(0, |frame| frame.sequence);
            found.push((first, number, path));
        }
        found.sort();
        for (first, number, path) in found {
            let bytes = read(&path)?;
            let mut segment = Segment {
                number,
                path,
                size: bytes.len() as u64,
                last: 0,
            };
            let (mut at, mut expected) = (0, first);
            while let Some(frame) = bytes.get(at..).and_then(|rest| Frame::at(rest, id))
                && frame.sequence == expected
            {
                if frame.sequence > log.sequence + 1 {
                    return Err(corrupt(&segment.path, "the log lacks a part"));
                }
                if frame.sequence == log.sequence + 1 {
                    let changes = frame.changes().ok_or_else(|| {
                        corrupt(
                            &segment.path,
                            "the log says what this release does not know",
                        )
                    })?;
                    each(frame.sequence, changes)?;
                    log.sequence = frame.sequence;
                }
                segment.last = frame.sequence;
                at += frame.length;
                expected += 1;
            }
            if segment.last == log.sequence && segment.last > flushed {
                log.offset = at as u64;
                let file = open(&segment.path)?;
                if let Some((former, _)) = log.current.replace((segment, file)) {
                    log.others.push(former);
                }
            } else {
                log.others.push(segment);
            }
        }
        log.look_beyond()?;
        // Who was killed may have written without waiting for the disk; what is told from here on must be on it, and the files'
        // names too.
        log.confirm()?;
        sync_dir(dir)?;
        Ok(log)
    }

    /// Nothing whole may come after the last frame: that would mean that those between are damaged.
    fn look_beyond(&self) -> Result<(), StoreError> {
        let current = self.current.iter().map(|(segment, _)| segment);
        for segment in self.others.iter().chain(current) {
            let bytes = read(&segment.path)?;
            for at in (0..bytes.len()).step_by(SECTOR) {
                if Frame::at(&bytes[at..], self.id).is_some_and(|f| f.sequence > self.sequence) {
                    return Err(corrupt(
                        &segment.path,
                        "a part of the log that was answered for cannot be read",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Bytes left in the file being written.
    pub(crate) fn room(&self) -> u64 {
        let current = self.current.as_ref();
        current.map_or(0, |(segment, _)| segment.size.saturating_sub(self.offset))
    }

    /// Bytes of the files that hold frames after `flushed`.
    pub(crate) fn waiting(&self, flushed: u64) -> u64 {
        let current = self.current.iter().map(|(segment, _)| segment);
        let all = self.others.iter().chain(current);
        all.filter(|segment| segment.last > flushed)
            .map(|segment| segment.size)
            .sum()
    }

    /// Bytes of all its files.
    pub(crate) fn bytes(&self) -> u64 {
        let current = self.current.iter().map(|(segment, _)| segment.size);
        self.others.iter().map(|s| s.size).chain(current).sum()
    }

    /// Goes on in another file with room for `need` bytes; those up to frame `flushed` may be used again.
    ///
    /// # Errors
    /// `Io`, where the disk is full among others; then all is as it was.
    pub(crate) fn rotate(&mut self, need: u64, flushed: u64) -> Result<(), StoreError> {
        let fitting = |segment: &Segment| segment.last <= flushed && segment.size >= need;
        if self
            .current
            .as_ref()
            .is_some_and(|(segment, _)| fitting(segment))
        {
            self.offset = 0;
            return Ok(());
        }
        let (segment, file) = match self.others.iter().position(fitting) {
            Some(at) => {
                let file = open(&self.others[at].path)?;
                (self.others.swap_remove(at), file)
            }
            None => {
                let current = self.current.iter().map(|(segment, _)| segment);
                let taken = self.others.iter().chain(current).map(|s| s.number);
                let number = taken.max().map_or(0, |newest| newest + 1);
                make(
                    &self.dir,
                    number,
                    need.max(SEGMENT).next_multiple_of(SECTOR as u64),
                )?
            }
        };
        if let Some((former, _)) = self.current.replace((segment, file)) {
            self.others.push(former);
        }
        self.offset = 0;
        // What only one large frame needed, and more than is soon used again, goes back to the disk.
        self.trim(flushed, SPARE);
        Ok(())
    }

    /// Gives files back that are free: all but `spare` of the usual size.
    pub(crate) fn trim(&mut self, flushed: u64, spare: usize) {
        let mut kept = 0;
        self.others.retain(|segment| {
            if segment.last > flushed {
                return true;
            }
            kept += usize::from(segment.size == SEGMENT);
            // One that cannot go is looked at again at the next opening.
            segment.size == SEGMENT && kept <= spare || std::fs::remove_file(&segment.path).is_err()
        });
    }

    /// Writes a frame and waits for the disk. There must be room for it.
    ///
    /// # Errors
    /// `Io`; whether the frame is kept is unknown then.
    pub(crate) fn append(&mut self, building: &mut Building) -> Result<u64, StoreError> {
        let sequence = self.sequence + 1;
        let Some((segment, file)) = &mut self.current else {
            return Err(corrupt(&self.dir, "the log has no file to write to"));
        };
        let frame = building.finish(self.id, sequence).ok_or_else(|| {
            StoreError::io(
                "writing a group of more than 4 GiB to",
                &segment.path,
                std::io::ErrorKind::FileTooLarge.into(),
            )
        })?;
        file.write_all_at(frame, self.offset)
            .and_then(|()| file.sync_data())
            .map_err(|e| StoreError::io("writing", &segment.path, e))?;
        self.offset += frame.len() as u64;
        self.sequence = sequence;
        segment.last = sequence;
        Ok(sequence)
    }

    /// Writes again what is there, so that what a failed writing left is on the disk as it is read.
    fn confirm(&self) -> Result<(), StoreError> {
        let Some((segment, file)) = &self.current else {
            return Ok(());
        };
        let bytes = read(&segment.path)?;
        file.write_all_at(&bytes, 0)
            .and_then(|()| file.sync_data())
            .map_err(|e| StoreError::io("writing", &segment.path, e))
    }
}

/// The files of the log in a directory, with their numbers.
pub(crate) fn files(dir: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let error = |e| StoreError::io("listing", dir, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("log-"));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push((number, entry.path()));
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .map_err(|e| StoreError::io("reading", path, e))?;
    Ok(bytes)
}

fn open(path: &Path) -> Result<File, StoreError> {
    let file = File::options().write(true).open(path);
    file.map_err(|e| StoreError::io("opening", path, e))
}

/// A file of zeros that are on the disk.
fn make(dir: &Path, number: u64, size: u64) -> Result<(Segment, File), StoreError> {
    let path = dir.join(format!("log-{number}"));
    let made = || -> std::io::Result<File> {
        let file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        let zeros = vec![0; 256 << 10];
        let mut at = 0;
        while at < size {
            let length = zeros.len().min((size - at) as usize);
            file.write_all_at(&zeros[..length], at)?;
            at += length as u64;
        }
        file.sync_all()?;
        Ok(file)
    };
    let file = made().map_err(|e| {
        // Half of one would take the room that others need.
        let _ = std::fs::remove_file(&path);
        StoreError::io("making", &path, e)
    })?;
    sync_dir(dir)?;
    let segment = Segment {
        number,
        path,
        size,
        last: 0,
    };
    Ok((segment, file))
}
