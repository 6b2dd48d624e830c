//! The server: sends what [`say`] says, and forwards the rest.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::answer::{Said, say};
use super::records::Records;
use super::tcp::{self, read, write};

/// Longest wait for a resolver that a question is forwarded to.
const PATIENCE: Duration = Duration::from_secs(2);

/// The names served now; replaced as a whole when something changes.
#[derive(Debug, Default)]
pub struct Zone(RwLock<Arc<Records>>);

impl Zone {
    /// Serves `records` from now on.
    pub fn replace(&self, records: Records) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(records);
    }

    fn now(&self) -> Arc<Records> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Binds UDP and TCP port 53 on `gateway`.
pub async fn bind_dns(gateway: Ipv4Addr) -> io::Result<(UdpSocket, TcpListener)> {
    Ok((
        UdpSocket::bind((gateway, 53)).await?,
        TcpListener::bind((gateway, 53)).await?,
    ))
}

/// Serves until dropped. `upstream` are the resolvers to forward to, tried in order; the caller
/// must leave its own addresses out.
pub async fn serve(
    udp: UdpSocket,
    tcp: TcpListener,
    zone: Arc<Zone>,
    upstream: Arc<[SocketAddr]>,
) -> io::Result<()> {
    tokio::select! {
        () = datagrams(udp, zone.clone(), upstream.clone()) => {}
        () = tcp::serve(tcp, zone, upstream) => {}
    }
    Ok(())
}

async fn datagrams(udp: UdpSocket, zone: Arc<Zone>, upstream: Arc<[SocketAddr]>) {
    let udp = Arc::new(udp);
    let mut buffer = vec![0; 65_535];
    loop {
        // An ICMP error of an earlier answer is reported here; it says nothing about us.
        let Ok((length, from)) = udp.recv_from(&mut buffer).await else {
            continue;
        };
        let (query, udp) = (buffer[..length].to_vec(), udp.clone());
        let (zone, upstream) = (zone.clone(), upstream.clone());
        tokio::spawn(async move {
            if let Some(answer) = answer(&zone, from.ip(), &query, &upstream, false).await {
                let _ = udp.send_to(&answer, from).await;
            }
        });
    }
}

/// The answer to a message, of ours or of others.
pub(super) async fn answer(
    zone: &Zone,
    from: IpAddr,
    raw: &[u8],
    upstream: &[SocketAddr],
    tcp: bool,
) -> Option<Vec<u8>> {
    let IpAddr::V4(asker) = from else { return None };
    let records = zone.now();
    match say(&records, asker, raw, tcp)? {
        Said::Answer(answer) => Some(answer),
        Said::Forward(unanswered) => {
            let upstream = own_or(records.upstream(asker), upstream);
            forward(raw, &upstream, tcp).await.or(Some(unanswered))
        }
    }
}

/// A container's own resolvers, or the machine's.
fn own_or(own: &[IpAddr], machine: &[SocketAddr]) -> Vec<SocketAddr> {
    if own.is_empty() {
        machine.to_vec()
    } else {
        own.iter().map(|ip| SocketAddr::new(*ip, 53)).collect()
    }
}

async fn forward(raw: &[u8], upstream: &[SocketAddr], tcp: bool) -> Option<Vec<u8>> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).ok()?;
    let mut query = raw.to_vec();
    query.get_mut(..2)?.copy_from_slice(&id);
    for server in upstream {
        let asked = async {
            if tcp {
                let mut stream = TcpStream::connect(server).await?;
                write(&mut stream, &query).await?;
                return read(&mut stream).await;
            }
            let any: IpAddr = if server.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.connect(server).await?;
            socket.send(&query).await?;
            let mut buffer = vec![0; 65_535];
            loop {
                let length = socket.recv(&mut buffer).await?;
                if buffer[..length].starts_with(&id) {
                    return Ok(buffer[..length].to_vec());
                }
            }
        };
        if let Ok(Ok(mut answer)) = timeout(PATIENCE, asked).await
            && answer.len() >= 12
        {
            answer[..2].copy_from_slice(&raw[..2]);
            return Some(answer);
        }
    }
    None
}
