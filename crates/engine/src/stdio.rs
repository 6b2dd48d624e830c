//! Carrying stdin, stdout and stderr between a shim and a client.

use crate::client::Connection;
use crate::container::PendingAttach;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::record::Phase;
use coracle_shim_protocol::frame::{self, HEADER, Kind};
use coracle_shim_protocol::shim::{ExitStatus, Reply, Request};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    /// It sends input.
    pub stdin: bool,
    /// It wants output.
    pub stdout: bool,
    /// It wants error output.
    pub stderr: bool,
}

/// How [`relay`] treats the client.
#[derive(Debug, Clone, Default)]
pub struct RelayOptions {
    /// Output without headers, for a terminal.
    pub raw: bool,
    /// Whether the client wants output.
    pub stdout: bool,
    /// Whether the client wants error output.
    pub stderr: bool,
    /// Whether the client sends input.
    pub stdin: bool,
    /// Whether the client's end of input is the process's.
    pub close_stdin: bool,
    /// Bytes that make the client leave, such as ctrl-p ctrl-q; looked for in input of a terminal only.
    pub detach_keys: Vec<u8>,
    /// Whether to read on until the process ended when the client has left.
    pub to_the_end: bool,
}

/// How a relay ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Relayed {
    /// The process ended; with its status, if the shim told it here.
    Ended(Option<ExitStatus>),
    /// The client left with the detach keys or by closing its connection.
    Detached,
}

impl Engine {
    /// Joins a container's stdio. The receiver gets the connection at once if it runs, or when it starts, before its
    /// first byte.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] if it is paused or on its way out.
    pub async fn attach(
        &self,
        key: &str,
        streams: Streams,
    ) -> Result<oneshot::Receiver<Result<Connection>>> {
        let container = self.find(key)?;
        let (reply, receiver) = oneshot::channel();
        self.tell(&container, "attach", &[]);
        match container.read(|r| (r.state.phase, r.state.paused)) {
            (Phase::Running, true) => {
                return Err(EngineError::Conflict(format!(
                    "container {key} is paused, unpause the container before attach"
                )));
            }
            (Phase::Running, false) => {
                let request = Request::Attach {
                    stdin: streams.stdin,
                    stdout: streams.stdout,
                    stderr: streams.stderr,
                };
                let joined =
                    crate::client::Shim::stdio(&container.run_dir, &container.name(), &request)
                        .await;
                let _ = reply.send(joined.map(|(connection, _)| connection));
            }
            (Phase::Removing | Phase::Dead, _) => {
                return Err(EngineError::Conflict(format!(
                    "container {key} is being removed"
                )));
            }
            _ => container.push_pending(PendingAttach { streams, reply }),
        }
        Ok(receiver)
    }
}

/// Carries bytes both ways until the process has ended or the client has left, which `left` tells: one that only ends its input
/// has not, and one that is not written to cannot be told from it by reading. The client comes back for a last word, and to be shut
/// down once what it may ask next is known.
///
/// # Errors
/// The shim's connection's; a client that has gone is no error.
pub async fn relay<C: AsyncRead + AsyncWrite + Unpin>(
    shim: Connection,
    client: C,
    options: RelayOptions,
    left: impl Future<Output = ()>,
) -> (io::Result<Relayed>, C) {
    let (mut from_shim, mut to_shim) = shim.into_stream().into_split();
    let (mut from_client, to_client) = tokio::io::split(client);
    let to_client = tokio::sync::Mutex::new(to_client);
    let RelayOptions {
        raw,
        stdout,
        stderr,
        stdin,
        close_stdin,
        detach_keys,
        to_the_end,
    } = options;
    let (gone, is_gone) = tokio::sync::watch::channel(false);
    let from = &mut from_client;
    let input = async {
        if stdin {
            if input(from, &mut to_shim, &detach_keys).await {
                let _ = gone.send(true);
                let _ = to_client.lock().await.shutdown().await;
                return;
            }
            if close_stdin {
                let _ = to_shim.write_all(&frame::header(Kind::Stdin, 0)).await;
            }
        }
        // Input is over, output is not.
        std::future::pending::<()>().await;
    };
    let output = async {
        loop {
            let Some((kind, payload)) = receive(&mut from_shim).await? else {
                return Ok(Relayed::Ended(None));
            };
            if kind == Kind::Control {
                if let Ok(Reply::Exited { status }) = frame::parse::<Reply>(&payload) {
                    return Ok(Relayed::Ended(Some(status)));
                }
                continue;
            }
            let unwanted = (kind == Kind::Stdout && !stdout) || (kind == Kind::Stderr && !stderr);
            if unwanted || *is_gone.borrow() {
                continue;
            }
            let mut to_client = to_client.lock().await;
            let written = async {
                if !raw {
                    to_client
                        .write_all(&frame::header(kind, payload.len()))
                        .await?;
                }
                to_client.write_all(&payload).await?;
                to_client.flush().await
            };
            if written.await.is_err() {
                if !to_the_end {
                    return Ok(Relayed::Detached);
                }
                let _ = gone.send(true);
            }
        }
    };
    let ended = {
        tokio::pin!(output);
        let ended = tokio::select! {
            () = input => None,
            ended = &mut output => Some(ended),
            () = left => {
                let _ = gone.send(true);
                None
            }
        };
        match ended {
            Some(ended) => ended,
            // The client has left; the process is read to its end, so that its status is known.
            None if to_the_end => output.await,
            None => Ok(Relayed::Detached),
        }
    };
    (ended, from_client.unsplit(to_client.into_inner()))
}

async fn receive(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut head = [0; HEADER];
    match from.read_exact(&mut head).await {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let (kind, len) = frame::parse_header(&head)?;
    let mut payload = vec![0; len];
    from.read_exact(&mut payload).await?;
    Ok(Some((kind, payload)))
}

/// Forwards input; true if the detach keys came.
async fn input(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    keys: &[u8],
) -> bool {
    let mut buffer = vec![0; 32 << 10];
    let mut scanner = Scanner::new(keys);
    loop {
        let got = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return false,
            Ok(n) => n,
        };
        let (bytes, detach) = scanner.feed(&buffer[..got]);
        if !bytes.is_empty() {
            let sent = async {
                to.write_all(&frame::header(Kind::Stdin, bytes.len()))
                    .await?;
                to.write_all(&bytes).await
            };
            if sent.await.is_err() {
                return false;
            }
        }
        if detach {
            return true;
        }
    }
}

/// Looks for the detach keys. Bytes that may be their beginning are held back until it is known.
struct Scanner<'a> {
    keys: &'a [u8],
    seen: usize,
}

impl<'a> Scanner<'a> {
    fn new(keys: &'a [u8]) -> Self {
        Self { keys, seen: 0 }
    }

    fn feed(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if self.keys.is_empty() {
                out.push(*byte);
                continue;
            }
            if *byte == self.keys[self.seen] {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend(&self.keys[..self.seen]);
            self.seen = usize::from(*byte == self.keys[0]);
            if self.seen == 0 {
                out.push(*byte);
            } else if self.keys.len() == 1 {
                return (out, true);
            }
        }
        (out, false)
    }
}

/// Reads detach keys as Docker writes them: `ctrl-p,ctrl-q`, `a`, `ctrl-[`.
///
/// # Errors
/// [`EngineError::Invalid`] naming the key that is none.
pub fn detach_keys(text: &str) -> Result<Vec<u8>> {
    if text.is_empty() {
        return Ok(vec![16, 17]);
    }
    text.split(',')
        .map(|key| match key.as_bytes() {
            [c] => Ok(*c),
            [b'c', b't', b'r', b'l', b'-', c] => match c.to_ascii_lowercase() {
                c @ b'a'..=b'z' => Ok(c - b'a' + 1),
                b'@' => Ok(0),
                c @ b'['..=b'_' => Ok(c - b'[' + 27),
                _ => Err(bad_key(key)),
            },
            _ => Err(bad_key(key)),
        })
        .collect()
}

fn bad_key(key: &str) -> EngineError {
    EngineError::Invalid(format!(
        "invalid detach key \"{key}\"; write one character or ctrl-<a-z@[\\]^_>"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_are_found_across_reads() {
        let keys = detach_keys("").unwrap();
        let mut scanner = Scanner::new(&keys);
        assert_eq!(scanner.feed(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(scanner.feed(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(scanner.feed(b"\x10\x10\x11x"), (b"\x10".to_vec(), true));
        assert_eq!(
            Scanner::new(&[]).feed(b"\x10\x11"),
            (b"\x10\x11".to_vec(), false)
        );
    }

    #[test]
    fn keys_as_docker_writes_them() {
        assert_eq!(detach_keys("ctrl-a,b,ctrl-[").unwrap(), [1, b'b', 27]);
        assert!(
            detach_keys("ctrl-a,nope")
                .unwrap_err()
                .to_string()
                .contains("nope")
        );
    }
}
