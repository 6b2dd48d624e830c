//! The server: answers what [`Records`] knows and forwards the rest.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::records::{Answer, Records};

const TTL: u32 = 5;
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
    let udp = Arc::new(udp);
    let mut buffer = vec![0; 65_535];
    loop {
        tokio::select! {
            got = udp.recv_from(&mut buffer) => {
                // An ICMP error of an earlier answer is reported here; it says nothing about us.
                let Ok((length, from)) = got else { continue };
                let (query, udp, zone, upstream) = (buffer[..length].to_vec(), udp.clone(), zone.clone(), upstream.clone());
                tokio::spawn(async move {
                    if let Some(answer) = answer(&zone, from.ip(), &query, &upstream, false).await {
                        let _ = udp.send_to(&answer, from).await;
                    }
                });
            }
            got = tcp.accept() => {
                let Ok((stream, from)) = got else { continue };
                let (zone, upstream) = (zone.clone(), upstream.clone());
                tokio::spawn(async move { let _ = converse(stream, from.ip(), &zone, &upstream).await; });
            }
        }
    }
}

async fn converse(
    mut stream: TcpStream,
    from: IpAddr,
    zone: &Zone,
    upstream: &[SocketAddr],
) -> io::Result<()> {
    while let Ok(query) = timeout(5 * PATIENCE, read(&mut stream)).await {
        match answer(zone, from, &query?, upstream, true).await {
            Some(answer) => write(&mut stream, &answer).await?,
            None => break,
        }
    }
    Ok(())
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let mut whole = u16::try_from(message.len())
        .map_err(io::Error::other)?
        .to_be_bytes()
        .to_vec();
    whole.extend(message);
    stream.write_all(&whole).await
}

async fn answer(
    zone: &Zone,
    from: IpAddr,
    raw: &[u8],
    upstream: &[SocketAddr],
    tcp: bool,
) -> Option<Vec<u8>> {
    let id = u16::from_be_bytes(*raw.first_chunk()?);
    let Ok(query) = Message::from_vec(raw) else {
        // Never answer what may itself be an answer.
        let is_query = raw.get(2)? & 0x80 == 0;
        return is_query.then(|| {
            Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)
                .to_vec()
                .ok()
        })?;
    };
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let IpAddr::V4(asker) = from else { return None };
    let mut reply = Message::response(id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    let [question] = query.queries.as_slice() else {
        reply.metadata.response_code = ResponseCode::FormErr;
        return reply.to_vec().ok();
    };
    reply.queries.push(question.clone());
    let records = zone.now();
    let reverse = (question.query_type == RecordType::PTR)
        .then(|| question.name.parse_arpa_name().ok())
        .flatten();
    let found = match reverse {
        Some(net) if net.prefix_len() == net.max_prefix_len() => records.reverse(asker, net.addr()),
        _ => records.lookup(asker, question.name.to_ascii().trim_end_matches('.')),
    };
    let mut add = |data| {
        reply
            .answers
            .push(Record::from_rdata(question.name.clone(), TTL, data))
    };
    match found {
        Answer::Addresses(all) => {
            let of_family = |ip: IpAddr| match (question.query_type, ip) {
                (RecordType::A, IpAddr::V4(ip)) => Some(RData::A(A(ip))),
                (RecordType::AAAA, IpAddr::V6(ip)) => Some(RData::AAAA(AAAA(ip))),
                _ => None,
            };
            let mut all: Vec<RData> = all.into_iter().filter_map(of_family).collect();
            // The query's random id spreads clients over the instances.
            let turn = usize::from(id) % all.len().max(1);
            all.rotate_left(turn);
            all.into_iter().for_each(add);
        }
        Answer::Pointer(name) => {
            if let Ok(name) = format!("{name}.").parse() {
                add(RData::PTR(PTR(name)));
            }
        }
        Answer::NoSuchName => reply.metadata.response_code = ResponseCode::NXDomain,
        Answer::Forward => {
            match forward(raw, &own_or(records.upstream(asker), upstream), tcp).await {
                Some(answer) => return Some(answer),
                None => reply.metadata.response_code = ResponseCode::ServFail,
            }
        }
    }
    let limit = query
        .edns
        .as_ref()
        .map_or(512, |e| e.max_payload().max(512));
    let bytes = reply.to_vec().ok()?;
    if tcp || bytes.len() <= limit.into() {
        Some(bytes)
    } else {
        reply.truncate().to_vec().ok()
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
