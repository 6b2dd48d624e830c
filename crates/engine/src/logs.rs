//! Reading what a shim wrote: Docker's json-file format, rotated files first, following what comes.

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::record::Phase;
use chrono::{DateTime, Utc};
use rustix::fs::inotify;
use serde::Deserialize;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Name of the current log in the container's directory; rotated ones have `.1`, `.2`, … appended.
pub const FILE: &str = "container.log";

/// What is wanted of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Lines of stdout.
    pub stdout: bool,
    /// Lines of stderr.
    pub stderr: bool,
    /// Wait for what comes, until the container ends.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<usize>,
    /// Only from then on.
    pub since: Option<DateTime<Utc>>,
    /// Only until then.
    pub until: Option<DateTime<Utc>>,
}

/// One line of a log, or one piece of a line longer than 16 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Whether it is error output.
    pub stderr: bool,
    /// When it was written.
    pub time: DateTime<Utc>,
    /// The bytes, with the newline if the line ends here.
    pub text: Vec<u8>,
}

#[derive(Deserialize)]
struct Raw {
    log: String,
    stream: String,
    time: DateTime<Utc>,
}

fn parse(line: &[u8]) -> Option<LogLine> {
    let raw: Raw = serde_json::from_slice(line).ok()?;
    Some(LogLine {
        stderr: raw.stream == "stderr",
        time: raw.time,
        text: raw.log.into_bytes(),
    })
}

impl LogQuery {
    fn wants(&self, line: &LogLine) -> bool {
        (if line.stderr {
            self.stderr
        } else {
            self.stdout
        }) && self.since.is_none_or(|t| line.time >= t)
            && self.until.is_none_or(|t| line.time <= t)
    }
}

/// Reads a size as Docker's log options write it: bytes, or with `k`, `m`, `g`.
///
/// # Errors
/// [`EngineError::Invalid`] naming it.
pub fn size(text: &str) -> Result<u64> {
    let bad = || {
        EngineError::Invalid(format!(
            "log option max-size=\"{text}\" is no size; write for example 10m"
        ))
    };
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1u64 << 30,
        _ => return Err(bad()),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number
        .checked_mul(factor)
        .filter(|n| *n > 0)
        .ok_or_else(bad)
}

impl Engine {
    /// Reads a container's log. The channel ends with the log or, when following, with the container.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] if it keeps no log.
    pub fn logs(&self, key: &str, query: LogQuery) -> Result<mpsc::Receiver<LogLine>> {
        let container = self.find(key)?;
        if container.read(|r| r.host_config.log_config.kind == "none") {
            return Err(EngineError::Conflict(
                "configured logging driver does not support reading: the container was started with log driver \
                 \"none\""
                    .into(),
            ));
        }
        let path = container.dir.join(FILE);
        Ok(follow(path, query, Some(container)))
    }
}

/// Reads a log file; following ends with the container, or without one when nobody reads any more.
pub(crate) fn follow(
    path: PathBuf,
    query: LogQuery,
    container: Option<Arc<Container>>,
) -> mpsc::Receiver<LogLine> {
    let (sender, receiver) = mpsc::channel(256);
    tokio::spawn(async move {
        if let Err(error) = send(&path, query, container, sender).await {
            tracing::warn!(path = %path.display(), %error, "the log could not be read");
        }
    });
    receiver
}

async fn send(
    path: &Path,
    query: LogQuery,
    container: Option<Arc<Container>>,
    sender: mpsc::Sender<LogLine>,
) -> io::Result<()> {
    // Before the first read, so that nothing falls in between.
    let watch = if query.follow {
        Some(Watch::new(path)?)
    } else {
        None
    };
    let (from, asked) = (path.to_owned(), query.clone());
    let (past, mut current) = tokio::task::spawn_blocking(move || past(&from, &asked)).await??;
    for line in past {
        if sender.send(line).await.is_err() {
            return Ok(());
        }
    }
    let Some(watch) = watch else {
        return Ok(());
    };
    let mut status = container.as_ref().map(|c| c.watch());
    loop {
        // Read after the end was seen, what is read now is all there is.
        let over = status
            .as_mut()
            .is_some_and(|s| s.borrow_and_update().phase != Phase::Running);
        for line in current.read_new(path)? {
            if query.until.is_some_and(|t| line.time > t) {
                return Ok(());
            }
            if query.wants(&line) && sender.send(line).await.is_err() {
                return Ok(());
            }
        }
        if over {
            return Ok(());
        }
        tokio::select! {
            changed = watch.changed() => changed?,
            () = async {
                match &mut status {
                    // The container's own end of the channel lives as long as we hold the container.
                    Some(status) => drop(status.changed().await),
                    None => std::future::pending().await,
                }
            } => {}
            () = sender.closed() => return Ok(()),
        }
    }
}

/// The file being written, and how far it was read.
struct Current {
    file: Option<File>,
    rest: Vec<u8>,
}

impl Current {
    fn read_new(&mut self, path: &Path) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        loop {
            if let Some(file) = &mut self.file {
                file.read_to_end(&mut self.rest)?;
                while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                    lines.extend(parse(&self.rest[..end]));
                    self.rest.drain(..=end);
                }
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

/// The log's files, the oldest first.
fn files(path: &Path) -> Vec<PathBuf> {
    let mut all = vec![path.to_owned()];
    for n in 1.. {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        let rotated = PathBuf::from(name);
        if !rotated.exists() {
            break;
        }
        all.push(rotated);
    }
    all.reverse();
    all
}

/// Every wanted line that is there now, and the current file at its end.
fn past(path: &Path, query: &LogQuery) -> io::Result<(Vec<LogLine>, Current)> {
    let mut found: VecDeque<LogLine> = VecDeque::new();
    let keep = query.tail.unwrap_or(usize::MAX);
    let mut current = Current {
        file: None,
        rest: Vec::new(),
    };
    // The open files stay what they are, even if they are rotated while they are read.
    let open: Vec<(bool, File)> = files(path)
        .into_iter()
        .filter_map(|p| Some((p == path, File::open(&p).ok()?)))
        .collect();
    for (is_current, file) in open {
        let mut reader = BufReader::new(file);
        if is_current && query.tail.is_some_and(|n| n < 10_000) {
            seek_back(&mut reader, keep)?;
        }
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if line.last() != Some(&b'\n') {
                // Being written right now.
                current.rest.clone_from(&line);
                break;
            }
            if let Some(parsed) = parse(&line[..line.len() - 1]).filter(|l| query.wants(l)) {
                if found.len() == keep {
                    found.pop_front();
                }
                if keep > 0 {
                    found.push_back(parsed);
                }
            }
        }
        if is_current {
            let at = reader.stream_position()?;
            let mut file = reader.into_inner();
            file.seek(SeekFrom::Start(at))?;
            current.file = Some(file);
        }
    }
    Ok((found.into(), current))
}

/// Skips to a place from which at least `lines` lines follow, so that the tail of a large file is quick. A filter may
/// need more than that: then the whole file is read.
fn seek_back(reader: &mut BufReader<File>, lines: usize) -> io::Result<()> {
    const STEP: u64 = 64 << 10;
    let end = reader.seek(SeekFrom::End(0))?;
    let mut from = end;
    let mut seen = 0;
    let mut buffer = Vec::new();
    while from > 0 && seen <= lines.saturating_mul(2) {
        let start = from.saturating_sub(STEP);
        reader.seek(SeekFrom::Start(start))?;
        buffer.resize(usize::try_from(from - start).unwrap_or(0), 0);
        reader.read_exact(&mut buffer)?;
        seen += buffer.iter().filter(|b| **b == b'\n').count();
        from = start;
    }
    reader.seek(SeekFrom::Start(from))?;
    if from > 0 {
        // Into the middle of a line.
        reader.read_until(b'\n', &mut buffer)?;
    }
    Ok(())
}

/// Tells of changes in a log's directory.
struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    fn new(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let dir = path.parent().unwrap_or(path);
        let events = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, dir, events)?;
        // Its successor is unsafe because a source may change its descriptor; an `OwnedFd` does not.
        #[allow(deprecated)]
        let watched = AsyncFd::new(fd)?;
        Ok(Self(watched))
    }

    async fn changed(&self) -> io::Result<()> {
        let mut buffer = [0u8; 4096];
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer)?)) {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(e)) => return Err(e),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    fn line(n: usize, stream: &str) -> String {
        format!(
            "{{\"log\":\"line {n}\\n\",\"stream\":\"{stream}\",\"time\":\"2026-01-01T00:00:{:02}.5Z\"}}\n",
            n % 60
        )
    }

    fn all() -> LogQuery {
        LogQuery {
            stdout: true,
            stderr: true,
            ..LogQuery::default()
        }
    }

    async fn read(path: &Path, query: LogQuery) -> Vec<String> {
        let mut lines = follow(path.to_owned(), query, None);
        let mut found = Vec::new();
        while let Some(line) = lines.recv().await {
            found.push(String::from_utf8(line.text).unwrap().trim_end().to_owned());
        }
        found
    }

    #[tokio::test]
    async fn rotated_files_tail_and_filters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut old = File::create(dir.path().join("container.log.1")).unwrap();
        let mut new = File::create(&path).unwrap();
        for n in 0..5 {
            write!(old, "{}", line(n, "stdout")).unwrap();
            write!(new, "{}", line(n + 5, "stderr")).unwrap();
        }
        write!(new, "{{\"log\":\"half").unwrap();
        assert_eq!(read(&path, all()).await.len(), 10);
        let tail = read(
            &path,
            LogQuery {
                tail: Some(6),
                ..all()
            },
        )
        .await;
        assert_eq!((tail.len(), tail[0].as_str()), (6, "line 4"));
        assert_eq!(
            read(
                &path,
                LogQuery {
                    stderr: false,
                    ..all()
                }
            )
            .await
            .len(),
            5
        );
        let since = Some("2026-01-01T00:00:08Z".parse().unwrap());
        assert_eq!(
            read(&path, LogQuery { since, ..all() }).await,
            ["line 8", "line 9"]
        );
        assert!(
            read(
                &path,
                LogQuery {
                    tail: Some(0),
                    ..all()
                }
            )
            .await
            .is_empty()
        );
        assert!(read(&dir.path().join("none"), all()).await.is_empty());
    }

    #[test]
    fn the_tail_of_a_large_file_is_not_all_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let text: String = (0..20_000).map(|n| line(n, "stdout")).collect();
        std::fs::write(&path, &text).unwrap();
        let mut reader = BufReader::new(File::open(&path).unwrap());
        seek_back(&mut reader, 3).unwrap();
        assert!(reader.stream_position().unwrap() > text.len() as u64 - (256 << 10));
        let (lines, _) = past(
            &path,
            &LogQuery {
                tail: Some(3),
                ..all()
            },
        )
        .unwrap();
        assert_eq!(lines[0].text, b"line 19997\n");
    }

    #[test]
    fn sizes() {
        assert_eq!(size("10m").unwrap(), 10 << 20);
        assert_eq!(size("512").unwrap(), 512);
        for bad in ["", "m", "1x", "-1", "0"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
