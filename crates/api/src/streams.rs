//! Attaching and logs: connections that carry stdio.
//!
//! Without a terminal, output comes in Docker's frames (`[stream, 0, 0, 0, length as big-endian u32]` and the bytes),
//! with one as it is.

use crate::App;
use crate::containers::until;
use crate::error::{ApiError, Result};
use crate::query::Query;
use crate::serve::{Peer, left};
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::SecondsFormat;
use coracle_engine::logs::{LogLine, LogQuery};
use coracle_engine::record::Record;
use coracle_engine::stdio::{RelayOptions, Relayed, Streams, detach_keys, relay};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::unfold;
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::convert::Infallible;
use std::future::ready;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

const RAW: &str = "application/vnd.docker.raw-stream";
const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

pub fn content_type(terminal: bool) -> &'static str {
    if terminal { RAW } else { MULTIPLEXED }
}

/// With this header a client without a terminal asks to be told how it ended in the stream's last frame, which spares it a
/// request: `[4, 0, 0, 0, length]` and `{"StatusCode": 0}`. The answer has the header if that frame will come.
pub const EXIT: &str = "coracle-exit";

const STDOUT: u8 = 1;
/// Docker's number of error output.
pub const STDERR: u8 = 2;
const EXITED: u8 = 4;

/// Docker's frame. No piece is as long as four gigabytes.
pub fn frame(stream: u8, bytes: &[u8]) -> Vec<u8> {
    let [a, b, c, d] = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut out = vec![stream, 0, 0, 0, a, b, c, d];
    out.extend(bytes);
    out
}

/// Carries stdio to a client, and from it.
pub trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Carrier for T {}

/// A connection that is taken over.
pub struct Taken {
    /// `101` for clients that asked for an upgrade, as most do; `200` and output only for others.
    pub answer: Response,
    /// Gives the connection; none if the client has left.
    pub client: BoxFuture<'static, Option<Box<dyn Carrier>>>,
    /// What the client asked by [`EXIT`].
    pub exit: Option<String>,
}

/// Takes over the connection that a request came on. Output can also be the body of an ordinary answer, if the client did not ask for
/// an upgrade.
pub fn hijack(request: &mut Request, terminal: bool, stdin: bool) -> Result<Taken> {
    let asked = |headers: &HeaderMap| {
        headers
            .get(header::UPGRADE)
            .is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"tcp"))
    };
    let failed =
        |e: axum::http::Error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string());
    if !asked(request.headers()) {
        if stdin {
            return Err(ApiError::invalid(
                "this request carries input: send the headers \"Connection: Upgrade\" and \"Upgrade: tcp\"",
            ));
        }
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let answer = Response::builder().header(header::CONTENT_TYPE, RAW);
        let body = Body::from_stream(ReaderStream::new(theirs));
        let client: Box<dyn Carrier> = Box::new(ours);
        return Ok(Taken {
            answer: answer.body(body).map_err(failed)?,
            client: ready(Some(client)).boxed(),
            exit: None,
        });
    }
    let exit = request.headers().get(EXIT).filter(|_| !terminal);
    let exit = exit.and_then(|v| v.to_str().ok()).map(str::to_owned);
    let upgrade = hyper::upgrade::on(request);
    let mut answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "tcp")
        .header(header::CONTENT_TYPE, content_type(terminal));
    if let Some(exit) = &exit {
        answer = answer.header(EXIT, exit);
    }
    let client = async move {
        let upgraded = upgrade.await.ok()?;
        Some(Box::new(TokioIo::new(upgraded)) as Box<dyn Carrier>)
    };
    Ok(Taken {
        answer: answer.body(Body::empty()).map_err(failed)?,
        client: client.boxed(),
        exit,
    })
}

/// The last frame of a stream whose client asked for it, and its end. A client that has gone has no use for either.
pub async fn finish(mut client: impl AsyncWrite + Unpin, exit: Option<i32>) {
    if let Some(code) = exit {
        let text = json!({ "StatusCode": code }).to_string();
        let _ = client.write_all(&frame(EXITED, text.as_bytes())).await;
    }
    let _ = client.shutdown().await;
}

/// What a request to attach asks.
pub struct Attach {
    pub record: Record,
    pub streams: Streams,
    /// Whether what comes from now on is wanted.
    pub stream: bool,
    /// What the container has said so far, if that is wanted.
    pub past: Option<mpsc::Receiver<LogLine>>,
    keys: Vec<u8>,
}

impl Attach {
    pub fn read(app: &App, id: &str, query: &Query, record: Record) -> Result<Self> {
        let streams = Streams {
            stdin: query.flag("stdin") && record.config.open_stdin,
            stdout: query.flag("stdout"),
            stderr: query.flag("stderr"),
        };
        let keys = detach_keys(query.text("detachKeys").unwrap_or_default())?;
        let past = LogQuery {
            stdout: streams.stdout,
            stderr: streams.stderr,
            ..LogQuery::default()
        };
        let past = query.flag("logs").then(|| app.engine.logs(id, past));
        Ok(Self {
            streams,
            stream: query.flag("stream"),
            past: past.transpose()?,
            keys: if record.config.tty { keys } else { Vec::new() },
            record,
        })
    }

    /// How the streams are carried; `raw` is without frames.
    pub fn options(&self, raw: bool) -> RelayOptions {
        RelayOptions {
            // The shim was told which are wanted.
            stdout: true,
            stderr: true,
            raw,
            stdin: self.streams.stdin,
            close_stdin: self.record.config.stdin_once && !self.record.config.tty,
            detach_keys: self.keys.clone(),
            to_the_end: false,
        }
    }
}

pub async fn attach(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
    mut request: Request,
) -> Result {
    let asked = match app.engine.get(&id) {
        Ok(found) => Attach::read(&app, &id, &query, found.record)?,
        Err(error) => return gone(&app, &id, request).ok_or(error)?,
    };
    let (terminal, stdin) = (asked.record.config.tty, asked.streams.stdin);
    let peer = request.extensions().get::<Peer>().cloned();
    let taken = hijack(&mut request, terminal, stdin)?;
    // A terminal's client is not told, and asks at the end: what it asks is to be known by then.
    let until = until(Some(taken.exit.as_deref().unwrap_or("next-exit")))?;
    let mut waiter = Box::pin(app.engine.waiter(&id, until)?);
    // Before the answer goes out: the client starts the container as soon as it has it.
    let joined = if asked.stream {
        Some(app.engine.attach(&id, asked.streams).await?)
    } else {
        None
    };
    let options = asked.options(terminal);
    let past = asked.past;
    tokio::spawn(async move {
        let Some(mut client) = taken.client.await else {
            return;
        };
        if let Some(mut past) = past {
            while let Some(line) = past.recv().await {
                if client
                    .write_all(&framed(&line, terminal, Shown::default()))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
        let Some(joined) = joined else { return };
        let joined = tokio::select! {
            biased;
            joined = joined => joined,
            // What the client waits for has come without a run to join, as when it asks anew after it was cut off.
            waited = &mut waiter, if taken.exit.is_some() => {
                finish(client, waited.ok().map(|w| w.code)).await;
                return;
            }
            // Nobody waits for a start any more.
            () = left(peer.clone()) => return,
        };
        let Ok(Ok(connection)) = joined else { return };
        let (relayed, client) = relay(connection, client, options, left(peer)).await;
        let code = match relayed {
            Ok(Relayed::Ended(_)) => waiter.await.ok().map(|w| w.code),
            Ok(Relayed::Detached) => None,
            Err(error) => {
                tracing::debug!(%error, "an attached connection broke");
                None
            }
        };
        finish(client, code.filter(|_| taken.exit.is_some())).await;
    });
    Ok(taken.answer)
}

/// The answer to a client that was cut off from a container which went with its end: only how it ended.
fn gone(app: &App, id: &str, mut request: Request) -> Option<Result> {
    let code = app.engine.gone(id)?;
    let taken = hijack(&mut request, false, false).ok()?;
    taken.exit.as_ref()?;
    tokio::spawn(async move {
        if let Some(client) = taken.client.await {
            finish(client, Some(code)).await;
        }
    });
    Some(Ok(taken.answer))
}

/// What a request asks of a log.
pub fn log_query(query: &Query) -> Result<LogQuery> {
    let tail = match query.text("tail") {
        None | Some("all" | "-1") => None,
        Some(text) => Some(text.parse().map_err(|_| {
            ApiError::invalid(format!("tail=\"{text}\" is neither a number nor \"all\""))
        })?),
    };
    Ok(LogQuery {
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        follow: query.flag("follow"),
        tail,
        since: query.moment("since")?,
        until: query.moment("until")?,
    })
}

pub async fn logs(State(app): State<App>, Path(id): Path<String>, query: Query) -> Result {
    let asked = log_query(&query)?;
    if !asked.stdout && !asked.stderr {
        return Err(ApiError::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let terminal = app.engine.get(&id)?.record.config.tty;
    let lines = app.engine.logs(&id, asked)?;
    Ok(log_answer(lines, terminal, shown(&query)))
}

/// What stands before each line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shown {
    timestamps: bool,
    details: bool,
}

/// What a request wants to stand before each line.
pub fn shown(query: &Query) -> Shown {
    Shown {
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
    }
}

/// Sends lines as they come.
pub fn log_answer(lines: mpsc::Receiver<LogLine>, terminal: bool, shown: Shown) -> Response {
    let stream = unfold(lines, move |mut lines| async move {
        let line = lines.recv().await?;
        let mut bytes = framed(&line, terminal, shown);
        // What is there already goes in one piece.
        while bytes.len() < 64 << 10 {
            match lines.try_recv() {
                Ok(line) => bytes.extend(framed(&line, terminal, shown)),
                Err(_) => break,
            }
        }
        Some((Ok::<_, Infallible>(Bytes::from(bytes)), lines))
    });
    (
        [(header::CONTENT_TYPE, content_type(terminal))],
        Body::from_stream(stream),
    )
        .into_response()
}

fn framed(line: &LogLine, terminal: bool, shown: Shown) -> Vec<u8> {
    let mut text = Vec::new();
    if shown.timestamps {
        text.extend(
            line.time
                .to_rfc3339_opts(SecondsFormat::Nanos, true)
                .as_bytes(),
        );
        text.push(b' ');
    }
    if shown.details {
        let pairs = line
            .attrs
            .iter()
            .map(|(k, v)| format!("{}={}", escaped(k), escaped(v)));
        text.extend(pairs.collect::<Vec<_>>().join(",").into_bytes());
        text.push(b' ');
    }
    text.extend(&line.text);
    if terminal {
        return text;
    }
    frame(if line.stderr { STDERR } else { STDOUT }, &text)
}

/// As Go's `url.QueryEscape` writes it, which docker uses here.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
