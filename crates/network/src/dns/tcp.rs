//! Questions over TCP: each connection has as many as it likes, one after the other.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::server::{Zone, answer};

/// Longest wait for a whole question, and for a client to take its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at once on one network; more wait in the socket.
const CONNECTIONS: usize = 256;
/// Connections at once from one address; more are closed, so that one container does not take the others' door.
const OF_ONE: usize = 32;
/// Wait for what the machine is out of.
const SHORTAGE: Duration = Duration::from_millis(100);

/// Serves until dropped, and its connections with it.
pub(super) async fn serve(listener: TcpListener, zone: Arc<Zone>, upstream: Arc<[SocketAddr]>) {
    let mut open = JoinSet::new();
    let mut sources = HashMap::new();
    loop {
        tokio::select! {
            biased;
            Some(ended) = open.join_next_with_id() => {
                let id = ended.map_or_else(|panicked| panicked.id(), |(id, ())| id);
                sources.remove(&id);
            }
            got = listener.accept(), if open.len() < CONNECTIONS => {
                let Some((stream, from)) = accepted(got).await else { continue };
                let from = from.ip();
                if sources.values().filter(|source| **source == from).count() >= OF_ONE {
                    continue;
                }
                let (zone, upstream) = (zone.clone(), upstream.clone());
                let task = open.spawn(async move { let _ = converse(stream, from, &zone, &upstream).await; });
                sources.insert(task.id(), from);
            }
        }
    }
}

/// A connection, unless it is gone already. Where none can be had (EMFILE, ENFILE, ENOBUFS, ENOMEM), the next try would fail
/// at once: it waits, and those who knock wait in the socket.
async fn accepted(got: io::Result<(TcpStream, SocketAddr)>) -> Option<(TcpStream, SocketAddr)> {
    match got {
        Ok(connection) => return Some(connection),
        Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
        Err(error) => {
            tracing::warn!(%error, "questions over TCP wait");
            sleep(SHORTAGE).await;
        }
    }
    None
}

async fn converse(
    mut stream: TcpStream,
    from: IpAddr,
    zone: &Zone,
    upstream: &[SocketAddr],
) -> io::Result<()> {
    while let Ok(query) = timeout(PATIENCE, read(&mut stream)).await {
        match answer(zone, from, &query?, upstream, true).await {
            Some(answer) => timeout(PATIENCE, write(&mut stream, &answer)).await??,
            None => break,
        }
    }
    Ok(())
}

pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

pub(super) async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let mut whole = u16::try_from(message.len())
        .map_err(io::Error::other)?
        .to_be_bytes()
        .to_vec();
    whole.extend(message);
    stream.write_all(&whole).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Instant;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn without_descriptors_the_next_connection_is_not_tried_at_once() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let took = |error: Errno| {
            let start = Instant::now();
            let got = runtime.block_on(accepted(Err(error.into())));
            assert!(got.is_none());
            start.elapsed()
        };
        for shortage in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS] {
            assert!(took(shortage) >= SHORTAGE, "{shortage}");
        }
    }
}
