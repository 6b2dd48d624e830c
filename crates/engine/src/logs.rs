//! Reading what a shim wrote: Docker's json-file format, rotated files first, following what comes.

mod options;
mod past;
mod watch;

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::record::Phase;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

pub use options::{attributes, check};
use past::past;
use watch::Watch;

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
    /// What the log options `labels`, `env` and `tag` add to each line.
    pub attrs: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Raw {
    log: String,
    stream: String,
    time: DateTime<Utc>,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

fn parse(line: &[u8]) -> Option<LogLine> {
    let raw: Raw = serde_json::from_slice(line).ok()?;
    Some(LogLine {
        stderr: raw.stream == "stderr",
        time: raw.time,
        text: raw.log.into_bytes(),
        attrs: raw.attrs,
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

/// Reads the size of a log option as Docker writes it: bytes, or with `k`, `m`, `g`.
///
/// # Errors
/// [`EngineError::Invalid`] naming option and size.
pub fn size(option: &str, text: &str) -> Result<u64> {
    let bad = || {
        EngineError::Invalid(format!(
            "invalid log option {option}=\"{text}\": write a size of 1 byte or more, for example 10m"
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
    let to = sender.clone();
    // On a thread of its own: who reads slowly may hold it for long, and the threads that others wait for are few.
    let (tell, read) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().spawn(move || {
        let at = past(&from, &asked, |line| to.blocking_send(line).is_ok());
        // Whoever asked may have gone.
        let _ = tell.send(at);
    })?;
    let mut current = read.await.map_err(io::Error::other)??;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs::File;
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

    #[tokio::test]
    async fn the_tail_is_what_is_wanted_of_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        // Error output is rare, and most of it is in the older file.
        let text = |from: usize, to: usize| -> String {
            let stream = |n: usize| {
                if n.is_multiple_of(4000) {
                    "stderr"
                } else {
                    "stdout"
                }
            };
            (from..to).map(|n| line(n, stream(n))).collect()
        };
        std::fs::write(dir.path().join("container.log.1"), text(0, 20_000)).unwrap();
        std::fs::write(&path, text(20_000, 30_000)).unwrap();
        let tail = |n| LogQuery {
            tail: Some(n),
            ..all()
        };
        assert_eq!(read(&path, tail(2)).await, ["line 29998", "line 29999"]);
        let errors = LogQuery {
            stdout: false,
            ..tail(5)
        };
        assert_eq!(
            read(&path, errors).await,
            [
                "line 12000",
                "line 16000",
                "line 20000",
                "line 24000",
                "line 28000"
            ]
        );
        assert_eq!(read(&path, tail(29_000)).await.len(), 29_000);
        assert_eq!(read(&path, all()).await.len(), 30_000);
    }

    #[test]
    fn sizes() {
        assert_eq!(size("x", "10m").unwrap(), 10 << 20);
        assert_eq!(size("x", "512").unwrap(), 512);
        for bad in ["", "m", "1x", "-1", "0"] {
            assert!(size("x", bad).is_err(), "{bad}");
        }
    }
}
