//! What is there already: rotated files and the one being written.
//!
//! # A worked example
//!
//! `--tail 10` of a log of five files: the newest is read from 64 KiB before its end; if that holds ten lines that are wanted, that was
//! all. Otherwise it is read from 128 KiB before its end, and so on up to its beginning, then the file before it for what is missing.

use super::{LogLine, LogQuery, parse};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes before a file's end that are looked at first for its last lines.
const STEP: u64 = 64 << 10;

/// The file being written, and how far it was read.
#[derive(Default)]
pub struct Current {
    file: Option<File>,
    rest: Vec<u8>,
}

impl Current {
    /// What was written since, also if the file was rotated meanwhile.
    ///
    /// # Errors
    /// I/O errors.
    pub fn read_new(&mut self, path: &Path) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        loop {
            if let Some(file) = &mut self.file {
                file.read_to_end(&mut self.rest)?;
                let mut from = 0;
                while let Some(end) = self.rest[from..].iter().position(|b| *b == b'\n') {
                    lines.extend(parse(&self.rest[from..from + end]));
                    from += end + 1;
                }
                self.rest.drain(..from);
            }
            let on_disk = match File::open(path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(lines),
                Err(e) => return Err(e),
            };
            let same = match &self.file {
                Some(file) => file.metadata()?.ino() == on_disk.metadata()?.ino(),
                None => false,
            };
            if same {
                return Ok(lines);
            }
            // It was rotated: the old one is read to its end, the new one from its beginning.
            self.file = Some(on_disk);
            self.rest.clear();
        }
    }
}

/// The log's files, the newest first, and whether the first is the one being written. They stay what they are, even if they are
/// rotated while they are read; one that was rotated while they were opened is met twice and counts once.
fn files(path: &Path) -> io::Result<(bool, Vec<File>)> {
    let mut all: Vec<(u64, File)> = Vec::new();
    if let Ok(file) = File::open(path) {
        all.push((file.metadata()?.ino(), file));
    }
    let current = !all.is_empty();
    for n in 1.. {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        let Ok(file) = File::open(PathBuf::from(name)) else {
            break;
        };
        let ino = file.metadata()?.ino();
        if all.iter().all(|(known, _)| *known != ino) {
            all.push((ino, file));
        }
    }
    Ok((current, all.into_iter().map(|(_, file)| file).collect()))
}

/// Gives every wanted line that is there now to `take`, the oldest first, until it says that it wants no more; then the current file
/// at its end.
///
/// # Errors
/// I/O errors.
pub fn past(
    path: &Path,
    query: &LogQuery,
    mut take: impl FnMut(LogLine) -> bool,
) -> io::Result<Current> {
    let mut at = Current::default();
    let (mut current, mut files) = files(path)?;
    let Some(most) = query.tail else {
        files.reverse();
        let last = files.len().saturating_sub(1);
        for (n, file) in files.into_iter().enumerate() {
            let (file, rest) = each(file, 0, query, &mut take)?;
            if current && n == last {
                let file = Some(file);
                at = Current { file, rest };
            }
        }
        return Ok(at);
    };
    let mut found: VecDeque<LogLine> = VecDeque::new();
    for file in files {
        if found.len() >= most && !current {
            break;
        }
        let (lines, file, rest) = last(file, most - found.len(), query)?;
        for line in lines.into_iter().rev() {
            found.push_front(line);
        }
        // The others are older.
        if std::mem::take(&mut current) {
            let file = Some(file);
            at = Current { file, rest };
        }
    }
    for line in found {
        if !take(line) {
            break;
        }
    }
    Ok(at)
}

/// The last `most` wanted lines of a file, the file at its end, and the beginning of a line that is just being written.
fn last(
    file: File,
    most: usize,
    query: &LogQuery,
) -> io::Result<(VecDeque<LogLine>, File, Vec<u8>)> {
    let length = file.metadata()?.len();
    let (mut file, mut back) = (file, STEP);
    loop {
        let from = length.saturating_sub(back);
        let mut found = VecDeque::new();
        let (read, rest) = each(file, from, query, |line| {
            if found.len() == most {
                found.pop_front();
            }
            if most > 0 {
                found.push_back(line);
            }
            true
        })?;
        if from == 0 || found.len() >= most {
            return Ok((found, read, rest));
        }
        (file, back) = (read, back.saturating_mul(2));
    }
}

/// Gives every wanted line from an offset on to `take`, as long as it wants them; the file at its end and the beginning of a line.
fn each(
    mut file: File,
    from: u64,
    query: &LogQuery,
    mut take: impl FnMut(LogLine) -> bool,
) -> io::Result<(File, Vec<u8>)> {
    file.seek(SeekFrom::Start(from))?;
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let mut line = Vec::new();
    if from > 0 {
        // Into the middle of a line.
        reader.read_until(b'\n', &mut line)?;
    }
    let mut rest = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.last() != Some(&b'\n') {
            // Being written right now.
            rest.clone_from(&line);
            break;
        }
        let parsed = parse(&line[..line.len() - 1]).filter(|l| query.wants(l));
        if parsed.is_some_and(|l| !take(l)) {
            break;
        }
    }
    let at = reader.stream_position()?;
    let mut file = reader.into_inner();
    file.seek(SeekFrom::Start(at))?;
    Ok((file, rest))
}
