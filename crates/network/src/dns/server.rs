//! The server: answers what [`Records`] knows and forwards the rest.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::records::{Answer, Records};
use super::services::Service;

/// Seconds.
const TTL: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of the longest answer in one datagram, whatever a client says it takes: above, it asks by TCP.
const DATAGRAM: u16 = 4096;
/// Bytes of an answer's OPT record (RFC 6891).
const OPT: u16 = 11;

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
    let limit = match &query.edns {
        _ if tcp => u16::MAX,
        Some(edns) => edns.max_payload().clamp(512, DATAGRAM),
        None => 512,
    };
    let mut reply = Message::response(id, query.metadata.op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    // Who asks so is answered so: some take an answer without it for one of a server that knows no EDNS.
    reply.edns = query.edns.as_ref().map(|_| {
        let mut ours = Edns::new();
        ours.set_max_payload(DATAGRAM);
        ours
    });
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
        _ => {
            let name = question.name.to_ascii();
            let name = name.trim_end_matches('.');
            match question.query_type {
                RecordType::SRV => records.services(asker, name),
                _ => records.lookup(asker, name),
            }
        }
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
            turn(&mut all, id);
            all.into_iter().for_each(add);
        }
        Answer::Services(mut all) => {
            turn(&mut all, id);
            list(&mut reply, &question.name, &all);
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
    fit(reply, limit)
}

/// The query's random id spreads clients over the instances.
fn turn<T>(all: &mut [T], id: u16) {
    let turn = usize::from(id) % all.len().max(1);
    all.rotate_left(turn);
}

/// Adds what is asked for, and the targets' addresses, so that nobody has to ask for those.
fn list(reply: &mut Message, name: &Name, services: &[Service]) {
    let mut told = BTreeSet::new();
    for service in services {
        let Ok(target) = Name::from_ascii(format!("{}.", service.target)) else {
            continue;
        };
        // Equal ones, among which clients choose at random.
        let data = RData::SRV(SRV::new(0, 1, service.port, target.clone()));
        let record = Record::from_rdata(name.clone(), TTL, data);
        reply.answers.push(record);
        if !told.insert(&service.target) {
            continue;
        }
        let address = |ip: &IpAddr| match *ip {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        };
        let addresses = service.addresses.iter().map(address);
        let records = addresses.map(|data| Record::from_rdata(target.clone(), TTL, data));
        reply.additionals.extend(records);
    }
}

/// The answer in `limit` bytes. One that does not fit does without its additional section, for want of which nobody has to
/// ask again (RFC 2181, 9); then it is marked as cut, with as many records as there is room for: some clients never ask
/// by TCP.
fn fit(mut reply: Message, limit: u16) -> Option<Vec<u8>> {
    let whole = encode(&reply, limit)?;
    if !is_cut(&whole) {
        return Some(whole);
    }
    reply.additionals.clear();
    let answers = encode(&reply, limit)?;
    if !is_cut(&answers) {
        return Some(answers);
    }
    let edns = reply.edns.take();
    let part = encode(&reply, limit - if edns.is_some() { OPT } else { 0 })?;
    // ANCOUNT (RFC 1035, 4.1.1).
    let room = u16::from_be_bytes(*part.get(6..)?.first_chunk()?);
    reply.answers.truncate(room.into());
    reply.metadata.truncation = true;
    reply.edns = edns;
    encode(&reply, limit)
}

/// Whole records only, as many as fit; marked as cut if those are not all.
fn encode(reply: &Message, limit: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    reply.emit(&mut encoder).ok()?;
    Some(bytes)
}

/// The bit TC (RFC 1035, 4.1.1).
fn is_cut(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & 2 != 0)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn more_than_any_message_holds_is_cut_at_a_record() {
        let name: Name = "web.coracle.internal.".parse().unwrap();
        let services = (0..2000).map(|n| Service {
            port: 80,
            target: format!("web-{n:04}.coracle.internal"),
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
        });
        let mut reply = Message::response(7, OpCode::Query);
        reply.edns = Some(Edns::new());
        list(&mut reply, &name, &services.collect::<Vec<_>>());
        let bytes = fit(reply, u16::MAX).unwrap();
        let read = Message::from_vec(&bytes).unwrap();
        assert!(read.metadata.truncation && read.edns.is_some());
        let answers = read.answers.len();
        // One more would not have had room.
        let each = (bytes.len() - 12 - usize::from(OPT)) / answers;
        assert!(
            bytes.len() + each > u16::MAX.into(),
            "{answers} answers, {} bytes",
            bytes.len()
        );
        assert!(answers > 1000 && read.additionals.is_empty());
    }
}
