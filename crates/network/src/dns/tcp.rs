//! Questions over TCP: each connection has as many as it likes, one after the other.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::server::{Zone, answer};

/// Longest wait for a whole question.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until dropped.
pub(super) async fn serve(listener: TcpListener, zone: Arc<Zone>, upstream: Arc<[SocketAddr]>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            continue;
        };
        let (zone, upstream) = (zone.clone(), upstream.clone());
        tokio::spawn(async move {
            let _ = converse(stream, from.ip(), &zone, &upstream).await;
        });
    }
}

async fn converse(
    mut stream: TcpStream,
    from: IpAddr,
    zone: &Zone,
    upstream: &[SocketAddr],
) -> io::Result<()> {
    while let Ok(query) = timeout(PATIENCE, read(&mut stream)).await {
        match answer(zone, from, &query?, upstream, true).await {
            Some(answer) => write(&mut stream, &answer).await?,
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
