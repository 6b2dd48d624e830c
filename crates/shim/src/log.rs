//! The container's log: Docker's json-file format, rotated, and never in the container's way.
//!
//! A line longer than 16 KiB is written in pieces, of which only the last ends with a newline. When the disk is full
//! nothing blocks and nothing fails: lines are counted instead of written, and once there is space again one line says
//! how many are missing.
//!
//! # A worked example
//!
//! `max_size` 1000, `max_files` 2, a line of 60 bytes when the file has 980: `web.log.1` is replaced by `web.log`, a
//! new `web.log` starts with the line. Had the disk been full, the line would be counted as lost, and the next that
//! fits would come after `coracle: 1 line was lost because the log could not be written`.

use chrono::{SecondsFormat, Utc};
use coracle_shim_protocol::shim::LogConfig;
use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

/// Longest piece of a line in bytes.
pub const PIECE: usize = 16 << 10;

/// Which output a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Output; everything with a terminal.
    Stdout,
    /// Error output.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A log that is being written.
#[derive(Debug)]
pub struct Log {
    config: LogConfig,
    /// The end of every line.
    tail: String,
    file: Option<File>,
    size: u64,
    lost: u64,
    open_lines: [Vec<u8>; 2],
}

impl Log {
    /// Opens the log, or tries again with the first line if that fails.
    pub fn open(config: LogConfig) -> Self {
        let mut tail = String::new();
        if !config.attrs.is_empty() {
            // A map of texts always has a JSON form.
            let attrs = serde_json::to_string(&config.attrs).unwrap_or_default();
            tail = format!(",\"attrs\":{attrs}");
        }
        tail.push_str("}\n");
        let mut log = Self {
            config,
            tail,
            file: None,
            size: 0,
            lost: 0,
            open_lines: [Vec::new(), Vec::new()],
        };
        let _ = log.reopen();
        log
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = File::options()
            .append(true)
            .create(true)
            .mode(0o640)
            .open(&self.config.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Takes output as it came.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8]) {
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true);
        let mut batch = Vec::new();
        let mut open = std::mem::take(&mut self.open_lines[stream as usize]);
        while !bytes.is_empty() {
            let room = PIECE - open.len();
            let (part, whole) = match bytes.iter().take(room).position(|b| *b == b'\n') {
                Some(at) => (at + 1, true),
                None if bytes.len() >= room => (room, true),
                None => (bytes.len(), false),
            };
            open.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            if whole {
                // A piece does not cut a character in two.
                let rest = open.split_off(boundary(&open));
                self.line(&mut batch, stream, &time, &open);
                open = rest;
            }
        }
        self.open_lines[stream as usize] = open;
        self.append(&mut batch);
    }

    /// The output has ended: what came without a newline is written.
    pub fn finish(&mut self, stream: Stream) {
        let open = std::mem::take(&mut self.open_lines[stream as usize]);
        if !open.is_empty() {
            let time = Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true);
            let mut batch = Vec::new();
            self.line(&mut batch, stream, &time, &open);
            self.append(&mut batch);
        }
    }

    fn line(&mut self, batch: &mut Vec<u8>, stream: Stream, time: &str, text: &[u8]) {
        let encoded = self.encode(&String::from_utf8_lossy(text), stream, time);
        let max = self.config.max_size;
        let full = self.size + (batch.len() + encoded.len()) as u64 > max;
        if max > 0 && full && self.size + batch.len() as u64 > 0 {
            self.append(batch);
            if self.size > 0 {
                self.rotate();
            }
        }
        batch.extend_from_slice(&encoded);
        if batch.len() > 4 * PIECE {
            self.append(batch);
        }
    }

    fn encode(&self, text: &str, stream: Stream, time: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len() + 80);
        out.extend_from_slice(b"{\"log\":");
        // A string always has a JSON form.
        let _ = serde_json::to_writer(&mut out, text);
        out.extend_from_slice(b",\"stream\":\"");
        out.extend_from_slice(stream.name().as_bytes());
        out.extend_from_slice(b"\",\"time\":\"");
        out.extend_from_slice(time.as_bytes());
        out.push(b'"');
        out.extend_from_slice(self.tail.as_bytes());
        out
    }

    fn append(&mut self, batch: &mut Vec<u8>) {
        let bytes = std::mem::take(batch);
        if bytes.is_empty() {
            return;
        }
        if self.lost > 0 {
            let (many, were) = if self.lost == 1 {
                ("line", "was")
            } else {
                ("lines", "were")
            };
            let text = format!(
                "coracle: {} {many} {were} lost because the log could not be written\n",
                self.lost
            );
            let time = Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true);
            let notice = self.encode(&text, Stream::Stderr, &time);
            if self.put(&notice) == notice.len() {
                self.lost = 0;
            }
        }
        let kept = if self.lost > 0 { 0 } else { self.put(&bytes) };
        // Newlines of the text are escaped, so each that is there ends a line.
        self.lost += bytes[kept..].iter().filter(|b| **b == b'\n').count() as u64;
    }

    /// Writes as many whole lines as there is room for and returns their length in bytes.
    fn put(&mut self, bytes: &[u8]) -> usize {
        if self.file.is_none() && self.reopen().is_err() {
            return 0;
        }
        let Some(file) = &mut self.file else {
            return 0;
        };
        let mut written = 0;
        while written < bytes.len() {
            match file.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let whole = bytes[..written]
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        if whole < written {
            // Half a line would make the rest of the file unreadable.
            let length = file.metadata().map_or(0, |m| m.len());
            let _ = file.set_len(length.saturating_sub((written - whole) as u64));
        }
        self.size += whole as u64;
        whole
    }

    fn rotated(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.config.path);
        name.push(format!(".{number}"));
        name.into()
    }

    fn rotate(&mut self) {
        self.file = None;
        let keep = self.config.max_files.max(1);
        // Only as many as there are: far more may be allowed.
        let last = keep.saturating_sub(1);
        let free = (1..last).find(|n| !self.rotated(*n).exists());
        for number in (1..free.unwrap_or(last)).rev() {
            let _ = fs::rename(self.rotated(number), self.rotated(number + 1));
        }
        let moved = if keep == 1 {
            fs::remove_file(&self.config.path)
        } else {
            fs::rename(&self.config.path, self.rotated(1))
        };
        if moved.is_err() {
            // Somebody else's doing; the file at least does not grow without end.
            let _ = File::options()
                .write(true)
                .truncate(true)
                .open(&self.config.path);
        }
        self.size = 0;
        let _ = self.reopen();
    }
}

/// Where a piece may end: before a character that is not whole yet.
fn boundary(text: &[u8]) -> usize {
    if text.last() == Some(&b'\n') {
        return text.len();
    }
    let start = text.len().saturating_sub(4);
    let lead = text[start..]
        .iter()
        .rposition(|b| b & 0xc0 != 0x80)
        .map(|at| start + at);
    let Some(lead) = lead else { return text.len() };
    let length = match text[lead] {
        b if b & 0xe0 == 0xc0 => 2,
        b if b & 0xf0 == 0xe0 => 3,
        b if b & 0xf8 == 0xf0 => 4,
        _ => 1,
    };
    if lead > 0 && lead + length > text.len() {
        lead
    } else {
        text.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::Value;

    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Self {
            use std::sync::atomic::{AtomicU32, Ordering};
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let dir = std::env::temp_dir().join(format!("coracle-log-{}-{n}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn log(&self, max_size: u64, max_files: u32) -> Log {
            Log::open(LogConfig {
                path: self.0.join("x.log"),
                max_size,
                max_files,
                attrs: Default::default(),
            })
        }

        fn lines(&self, name: &str) -> Vec<Value> {
            let text = fs::read_to_string(self.0.join(name)).unwrap();
            text.lines()
                .map(|l| serde_json::from_str(l).unwrap())
                .collect()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn lines_pieces_and_ends() {
        let dir = Dir::new();
        let mut log = dir.log(0, 1);
        log.write(Stream::Stdout, b"one\ntw");
        log.write(Stream::Stderr, b"err\n");
        log.write(Stream::Stdout, b"o\n\xffend");
        log.write(Stream::Stderr, &[b'x'; PIECE + 5]);
        log.finish(Stream::Stdout);
        log.finish(Stream::Stderr);
        let lines = dir.lines("x.log");
        let texts: Vec<&str> = lines.iter().map(|l| l["log"].as_str().unwrap()).collect();
        assert_eq!(texts[..3], ["one\n", "err\n", "two\n"]);
        assert_eq!(texts[3].len(), PIECE);
        assert_eq!(texts[4..], ["\u{fffd}end", "xxxxx"]);
        assert_eq!(lines[1]["stream"], "stderr");
        let time = lines[0]["time"].as_str().unwrap();
        assert_eq!(time.len(), "2026-01-01T00:00:00.000000000Z".len());
    }

    #[test]
    fn a_piece_does_not_cut_a_character() {
        let dir = Dir::new();
        let mut log = dir.log(0, 1);
        let mut text = vec![b'x'; PIECE - 1];
        text.extend("é!\n".bytes());
        log.write(Stream::Stdout, &text);
        let lines = dir.lines("x.log");
        assert_eq!(lines[0]["log"].as_str().unwrap().len(), PIECE - 1);
        assert_eq!(lines[1]["log"], "é!\n");
        assert_eq!(boundary(&[0x80; 8]), 8);
    }

    #[test]
    fn rotation_keeps_so_many_files() {
        let dir = Dir::new();
        let mut log = dir.log(300, 3);
        for n in 0..20 {
            log.write(Stream::Stdout, format!("line number {n:>3}\n").as_bytes());
        }
        let names = ["x.log", "x.log.1", "x.log.2"];
        for name in names {
            assert!(
                fs::metadata(dir.0.join(name)).unwrap().len() <= 300,
                "{name}"
            );
        }
        assert!(!dir.0.join("x.log.3").exists());
        assert_eq!(
            dir.lines("x.log").last().unwrap()["log"],
            "line number  19\n"
        );
        // One write that fills several files.
        let mut one = dir.log(300, 1);
        one.write(Stream::Stdout, "a line\n".repeat(50).as_bytes());
        assert!(fs::metadata(dir.0.join("x.log")).unwrap().len() <= 300);
    }

    #[test]
    fn rotation_looks_at_files_that_are_there_only() {
        let dir = Dir::new();
        // One by one these would take hours.
        let mut log = dir.log(60, u32::MAX);
        for n in 0..5 {
            log.write(Stream::Stdout, format!("{n}\n").as_bytes());
        }
        for (n, name) in ["x.log.4", "x.log.3", "x.log.2", "x.log.1", "x.log"]
            .iter()
            .enumerate()
        {
            assert_eq!(dir.lines(name)[0]["log"], format!("{n}\n"), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let dir = Dir::new();
        let mut log = dir.log(0, 1);
        // /dev/full refuses every write as a full disk does.
        log.file = Some(File::options().append(true).open("/dev/full").unwrap());
        log.write(Stream::Stdout, b"a\nb\n");
        log.write(Stream::Stdout, b"c\n");
        assert_eq!(log.lost, 3);
        log.file = None;
        log.write(Stream::Stdout, b"d\n");
        let lines = dir.lines("x.log");
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0]["log"]
                .as_str()
                .unwrap()
                .contains("3 lines were lost")
        );
        assert_eq!(lines[1]["log"], "d\n");
    }
}
