//! `GET /containers/{id}/attach/ws`: a container's stdio over a websocket, for browsers.
//!
//! Output goes out as it is, in binary messages, both streams as one; what comes in, binary or text, is input. The connection
//! closes when the container ends, as docker's does.

use crate::App;
use crate::error::{ApiError, Result};
use crate::query::Query;
use crate::serve::{Peer, left};
use crate::streams::Attach;
use axum::Extension;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code, rejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use bytes::Bytes;
use coracle_engine::full_error;
use coracle_engine::logs::LogLine;
use coracle_engine::stdio::relay;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;

/// Bytes that wait between the container and the websocket, each way.
const WAITING: usize = 64 << 10;

type Upgrade = std::result::Result<WebSocketUpgrade, rejection::WebSocketUpgradeRejection>;

pub async fn attach(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
    peer: Option<Extension<Peer>>,
    upgrade: Upgrade,
) -> Result {
    let record = app.engine.get(&id)?.record;
    let asked = Attach::read(&app, &id, &query, record)?;
    let upgrade = upgrade.map_err(|e| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            format!("this address speaks websocket only (RFC 6455): {e}"),
        )
    })?;
    let joined = if asked.stream {
        Some(app.engine.attach(&id, asked.streams).await?)
    } else {
        None
    };
    let options = asked.options(true);
    let (past, stdin) = (asked.past, asked.streams.stdin);
    Ok(upgrade.on_upgrade(move |mut socket| async move {
        if let Some(past) = past
            && tell(&mut socket, past).await.is_err()
        {
            return;
        }
        let Some(joined) = joined else {
            let _ = socket.send(closing(String::new())).await;
            return;
        };
        let connection = tokio::select! {
            joined = joined => joined,
            () = left(peer.clone().map(|p| p.0)) => return,
        };
        let connection = match connection {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                let _ = socket.send(closing(full_error(&error))).await;
                return;
            }
            Err(_) => return,
        };
        let (near, far) = duplex(WAITING);
        let carried = async {
            let left = left(peer.map(|p| p.0));
            let (relayed, client) = relay(connection, near, options, left).await;
            if let Err(error) = relayed {
                tracing::debug!(%error, "an attached connection broke");
            }
            // The other end reads what is left, and then its end.
            drop(client);
        };
        tokio::join!(carried, carry(socket, far, stdin));
    }))
}

async fn tell(
    socket: &mut WebSocket,
    mut past: mpsc::Receiver<LogLine>,
) -> std::result::Result<(), axum::Error> {
    while let Some(line) = past.recv().await {
        socket.send(Message::Binary(Bytes::from(line.text))).await?;
    }
    Ok(())
}

/// Messages to bytes and back, until the container's side ends or the client closes.
async fn carry(socket: WebSocket, stdio: DuplexStream, stdin: bool) {
    let (mut to_client, mut from_client) = socket.split();
    let (mut output, mut input) = tokio::io::split(stdio);
    let sending = async {
        let mut buffer = vec![0; WAITING];
        loop {
            match output.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    let bytes = Bytes::copy_from_slice(&buffer[..n]);
                    if to_client.send(Message::Binary(bytes)).await.is_err() {
                        break;
                    }
                }
            }
        }
        let _ = to_client.send(closing(String::new())).await;
    };
    let receiving = async {
        while let Some(Ok(message)) = from_client.next().await {
            let bytes: Bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                // The answer to it goes out with the next look, which finds the end.
                Message::Close(_) => continue,
                Message::Ping(_) | Message::Pong(_) => continue,
            };
            // What nobody reads is not kept.
            if stdin && input.write_all(&bytes).await.is_err() {
                break;
            }
        }
        // One that is closed has neither input nor output.
    };
    tokio::select! {
        () = sending => {}
        () = receiving => {}
    }
}

fn closing(reason: String) -> Message {
    let code = if reason.is_empty() {
        close_code::NORMAL
    } else {
        close_code::ERROR
    };
    // A control frame holds 125 bytes, two of them the code.
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    Message::Close(Some(CloseFrame {
        code,
        reason: reason[..end].into(),
    }))
}
