//! Further processes in a container.

use crate::App;
use crate::containers::{body, rows_and_columns};
use crate::error::{ApiError, Result};
use crate::query::Query;
use crate::serve::{Peer, left};
use crate::streams::{Carrier, STDERR, finish, frame, hijack};
use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use coracle_engine::client::Connection;
use coracle_engine::exec::{Exec, ExecConfig};
use coracle_engine::stdio::{RelayOptions, Relayed, detach_keys, relay};
use coracle_engine::{EngineError, full_error};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io;
use tokio::io::AsyncWriteExt;

/// Header with the id of a process that was made and started at once.
pub const EXEC: &str = "coracle-exec";
/// Longest request body read, in bytes.
const MOST: usize = 1 << 20;

pub async fn create(State(app): State<App>, Path(id): Path<String>, bytes: bytes::Bytes) -> Result {
    let config: ExecConfig = body(&bytes)?;
    let exec = app.engine.exec_create(&id, config)?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": exec }))).into_response())
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Start {
    detach: bool,
    console_size: Option<[u16; 2]>,
}

/// Takes the body out of a request, which itself is needed for its connection.
async fn take_body<T: serde::de::DeserializeOwned + Default>(request: &mut Request) -> Result<T> {
    let whole = std::mem::take(request.body_mut());
    let bytes = to_bytes(whole, MOST)
        .await
        .map_err(|e| ApiError::invalid(format!("the request's body cannot be read: {e}")))?;
    body(&bytes)
}

/// `POST /v1/containers/{id}/exec`: makes a process of an `ExecConfig` and starts it, attached, with one request. The answer
/// has its id in the header [`EXEC`].
pub async fn run(State(app): State<App>, Path(id): Path<String>, mut request: Request) -> Result {
    let config: ExecConfig = take_body(&mut request).await?;
    let size = config.console_size;
    let exec = app.engine.exec_create(&id, config)?;
    let mut answer = attached(app, &exec, size, request).await?;
    if let Ok(exec) = exec.parse() {
        answer.headers_mut().insert(EXEC, exec);
    }
    Ok(answer)
}

pub async fn start(State(app): State<App>, Path(id): Path<String>, mut request: Request) -> Result {
    let asked: Start = take_body(&mut request).await?;
    if asked.detach {
        let mut connection = app
            .engine
            .exec_start(&id, asked.console_size, false)
            .await?;
        tokio::spawn(async move {
            let mut status = None;
            while let Ok(Some((_, payload))) = connection.receive().await {
                if let Ok(coracle_engine::client::Reply::Exited { status: s }) =
                    serde_json::from_slice(&payload)
                {
                    status = Some(s);
                    break;
                }
            }
            app.engine.exec_ended(&id, status.as_ref());
        });
        return Ok(StatusCode::OK.into_response());
    }
    answered_first(app, &id, asked.console_size, request).await
}

/// Starts a process and gives its stdio to the connection that asked; what hinders the start is the answer.
async fn attached(app: App, id: &str, size: Option<[u16; 2]>, mut request: Request) -> Result {
    let exec = app.engine.exec_get(id)?;
    let keys = keys(&exec)?;
    let taken = hijack(&mut request, exec.config.tty, exec.config.attach_stdin)?;
    let started = match app.engine.exec_start(id, size, true).await {
        // Clients look for the exit code of a program that cannot be run, and for the reason in its output.
        Err(error) if !matches!(error, EngineError::Start { .. }) => return Err(error.into()),
        started => started,
    };
    let answer = taken.answer;
    let peer = request.extensions().get::<Peer>().cloned();
    let (client, exit) = (taken.client, taken.exit);
    tokio::spawn(carry(app, exec, keys, started, client, exit, peer));
    Ok(answer)
}

/// As [`attached`], but the connection is taken over before the start, as Docker does it: clients that read the answer's head
/// through a buffer lose what comes together with it (docker-py). What hinders the start is told in the stream.
async fn answered_first(
    app: App,
    id: &str,
    size: Option<[u16; 2]>,
    mut request: Request,
) -> Result {
    let exec = app.engine.exec_startable(id)?;
    let keys = keys(&exec)?;
    let taken = hijack(&mut request, exec.config.tty, exec.config.attach_stdin)?;
    let answer = taken.answer;
    let peer = request.extensions().get::<Peer>().cloned();
    drop(request);
    tokio::spawn(async move {
        // A client that left before has nothing started for it.
        let Some(client) = taken.client.await else {
            return;
        };
        if let Some(peer) = &peer {
            peer.has_read().await;
        }
        let started = app.engine.exec_start(&exec.id, size, true).await;
        let client = std::future::ready(Some(client));
        carry(app, exec, keys, started, client, taken.exit, peer).await;
    });
    Ok(answer)
}

fn keys(exec: &Exec) -> Result<Vec<u8>> {
    let keys = detach_keys(&exec.config.detach_keys)?;
    Ok(if exec.config.tty { keys } else { Vec::new() })
}

/// Carries a process's stdio, or says in its stead why it does not run.
async fn carry(
    app: App,
    exec: Exec,
    detach_keys: Vec<u8>,
    started: std::result::Result<Connection, EngineError>,
    client: impl Future<Output = Option<Box<dyn Carrier>>>,
    exit: Option<String>,
    peer: Option<Peer>,
) {
    let (id, terminal) = (exec.id.as_str(), exec.config.tty);
    let connection = match started {
        Ok(connection) => connection,
        Err(error) => {
            let code = match &error {
                EngineError::Start { code, .. } => *code,
                _ => 126,
            };
            if let Some(mut client) = client.await {
                let text = match &error {
                    EngineError::Start { message, .. } => message.clone(),
                    error => full_error(error),
                };
                let text = format!("{text}\r\n").into_bytes();
                let text = if terminal { text } else { frame(STDERR, &text) };
                let _ = client.write_all(&text).await;
                finish(client, exit.map(|_| code)).await;
            }
            return;
        }
    };
    let options = RelayOptions {
        raw: terminal,
        stdout: exec.config.attach_stdout,
        stderr: exec.config.attach_stderr,
        stdin: exec.config.attach_stdin,
        close_stdin: true,
        detach_keys,
        to_the_end: true,
    };
    // The end is written down before the client sees it: the next thing it asks is how it ended.
    let ended = |relayed: &io::Result<Relayed>| match relayed {
        Ok(Relayed::Ended(status)) => app.engine.exec_ended(id, status.as_ref()),
        Ok(Relayed::Detached) => None,
        Err(_) => app.engine.exec_ended(id, None),
    };
    // A client that left at once: the process runs on, and its end is to be known.
    let Some(client) = client.await else {
        let options = RelayOptions {
            stdin: false,
            ..options
        };
        let nobody = std::future::pending();
        ended(
            &relay(connection, tokio::io::empty(), options, nobody)
                .await
                .0,
        );
        return;
    };
    let (relayed, client) = relay(connection, client, options, left(peer)).await;
    let code = ended(&relayed).filter(|_| exit.is_some());
    finish(client, code).await;
}

pub async fn resize(State(app): State<App>, Path(id): Path<String>, query: Query) -> Result {
    let (rows, columns) = rows_and_columns(&query)?;
    let exec = app.engine.exec_get(&id)?;
    app.engine
        .resize(exec.container.as_str(), Some(&id), rows, columns)
        .await?;
    Ok(StatusCode::OK.into_response())
}

pub async fn inspect(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>> {
    let exec = app.engine.exec_get(&id)?;
    let (entrypoint, arguments) = exec
        .config
        .cmd
        .split_first()
        .map_or((String::new(), Vec::new()), |(e, a)| {
            (e.clone(), a.to_vec())
        });
    Ok(Json(json!({
        "ID": exec.id,
        "Running": exec.running,
        "ExitCode": exec.code,
        "ProcessConfig": {
            "tty": exec.config.tty,
            "entrypoint": entrypoint,
            "arguments": arguments,
            "privileged": exec.config.privileged,
            "user": exec.config.user,
        },
        "OpenStdin": exec.config.attach_stdin,
        "OpenStdout": exec.config.attach_stdout,
        "OpenStderr": exec.config.attach_stderr,
        "CanRemove": !exec.running,
        "ContainerID": exec.container,
        "DetachKeys": exec.config.detach_keys,
        "Pid": exec.pid,
    })))
}
