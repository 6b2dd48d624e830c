//! The terminal we sit at: raw mode, size, and carrying stdio.

use crate::client::{Client, Hijacked};
use crate::error::Result;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::Value;
use std::io;
use std::os::fd::AsFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};

/// Whether people see what we write.
pub fn is_terminal(fd: impl AsFd) -> bool {
    isatty(fd)
}

/// Raw mode as long as this lives.
pub struct Raw(Termios);

impl Raw {
    /// Switches stdin's terminal; nothing if it is none.
    pub fn on() -> Option<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Rows and columns of the terminal.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Tells the daemon the terminal's size, now and whenever it changes. `path` is the resize request's without query.
pub fn follow_size(client: Client, path: String) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let Ok(mut changed) = signal(SignalKind::window_change()) else {
            return;
        };
        loop {
            if let Some((rows, columns)) = size() {
                // A process that is not there yet, or no more, has no size.
                let _ = client
                    .post(&format!("{path}?h={rows}&w={columns}"), None)
                    .await;
            }
            if changed.recv().await.is_none() {
                return;
            }
        }
    })
}

/// Carries stdio as it is until the other side has said everything.
pub async fn pass_on(connection: UnixStream) -> Result<()> {
    let (mut from, mut to) = connection.into_split();
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut to).await;
        // The end of input; output goes on.
        let _ = to.shutdown().await;
    });
    output(&mut from, true).await.map(drop)
}

/// Carries stdio until the other side has said everything. Without a terminal its output comes in docker's frames, and with
/// them how it ended, if that was asked for.
pub async fn carry(connection: Hijacked, stdin: bool, terminal: bool) -> Result<Option<Value>> {
    let (mut from, mut to) = tokio::io::split(connection);
    if stdin {
        tokio::spawn(async move {
            let mut input = tokio::io::stdin();
            let mut buffer = vec![0; 32 << 10];
            loop {
                match input.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => {
                        if to.write_all(&buffer[..n]).await.is_err() {
                            return;
                        }
                    }
                }
            }
            // The end of input; output goes on.
            let _ = to.shutdown().await;
        });
    } else {
        // Kept open: closing our half would be the end of input.
        std::mem::forget(to);
    }
    output(&mut from, terminal).await
}

/// Writes what comes to stdout and stderr; gives what the last frame tells of the end.
pub async fn output(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
    terminal: bool,
) -> Result<Option<Value>> {
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    if terminal {
        let mut buffer = vec![0; 32 << 10];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) => return Ok(None),
                Ok(n) => {
                    out.write_all(&buffer[..n]).await?;
                    out.flush().await?;
                }
                Err(e) if is_end(&e) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }
    let mut head = [0; 8];
    loop {
        match from.read_exact(&mut head).await {
            Ok(_) => {}
            Err(e) if is_end(&e) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        let mut piece = (&mut *from).take(u64::from(length));
        if head[0] == 4 {
            let mut text = Vec::new();
            piece.read_to_end(&mut text).await?;
            return Ok(Some(serde_json::from_slice(&text)?));
        }
        let copied = match head[0] {
            2 => tokio::io::copy(&mut piece, &mut err).await,
            _ => tokio::io::copy(&mut piece, &mut out).await,
        };
        err.flush().await?;
        out.flush().await?;
        match copied {
            Err(e) if is_end(&e) => return Ok(None),
            copied => _ = copied?,
        }
    }
}

/// Whether the other side went away. By TLS that is an end without a farewell.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
    )
}

/// Sends signals that we get to the container, except those that are about us.
pub fn proxy_signals(client: Client, id: String) -> Vec<tokio::task::JoinHandle<()>> {
    let kinds = [
        (SignalKind::hangup(), "HUP"),
        (SignalKind::interrupt(), "INT"),
        (SignalKind::quit(), "QUIT"),
        (SignalKind::terminate(), "TERM"),
        (SignalKind::user_defined1(), "USR1"),
        (SignalKind::user_defined2(), "USR2"),
    ];
    kinds
        .into_iter()
        .map(|(kind, name)| {
            let (client, id) = (client.clone(), id.clone());
            tokio::spawn(async move {
                let Ok(mut got) = signal(kind) else { return };
                while got.recv().await.is_some() {
                    let _ = client
                        .post(&format!("/containers/{id}/kill?signal={name}"), None)
                        .await;
                }
            })
        })
        .collect()
}
