//! What is answered to one message: pure, the server sends it.
//!
//! A container may expose every port there is, and a service has many of them, so records are made only as many as the
//! answer could hold, whoever asks. Which of them those are goes around with the question's id.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use super::records::{Answer, Records};
use super::services::{Service, dns_name, each};

/// Seconds.
const TTL: u32 = 5;
/// Bytes of the longest answer in one datagram, whatever a client says it takes: above, it asks by TCP.
const DATAGRAM: u16 = 4096;
/// Bytes of an answer's OPT record (RFC 6891).
const OPT: u16 = 11;
/// Bytes of the shortest record of an answer: where its name was said before, ten of head, an IPv4 address.
const LEAST: usize = 16;

/// What to do about a message.
pub(super) enum Said {
    /// Send this.
    Answer(Vec<u8>),
    /// Ask others; if nobody answers, send this.
    Forward(Vec<u8>),
}

/// What to do about a message that came from `asker`; nothing if it is no question.
pub(super) fn say(records: &Records, asker: Ipv4Addr, raw: &[u8], tcp: bool) -> Option<Said> {
    let id = u16::from_be_bytes(*raw.first_chunk()?);
    let flags = *raw.get(2)?;
    // Never answer what may itself be an answer.
    if flags & 0x80 != 0 {
        return None;
    }
    let op_code = OpCode::from_u8(flags >> 3 & 0xf);
    let Ok(query) = Message::from_vec(raw) else {
        let code = match op_code {
            OpCode::Query => ResponseCode::FormErr,
            _ => ResponseCode::NotImp,
        };
        let refusal = Message::error_msg(id, op_code, code).to_vec();
        return refusal.ok().map(Said::Answer);
    };
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let limit = match &query.edns {
        _ if tcp => u16::MAX,
        Some(edns) => edns.max_payload().clamp(512, DATAGRAM),
        None => 512,
    };
    let mut reply = Message::response(id, op_code);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    // Who asks so is answered so: some take an answer without it for one of a server that knows no EDNS.
    reply.edns = query.edns.as_ref().map(|theirs| {
        let mut ours = Edns::new();
        ours.set_max_payload(DATAGRAM);
        ours.set_dnssec_ok(theirs.flags().dnssec_ok);
        ours
    });
    let question = match allowed(&query) {
        Ok(question) => question,
        Err(code) => {
            reply.metadata.response_code = code;
            return reply.to_vec().ok().map(Said::Answer);
        }
    };
    reply.queries.push(question.clone());
    match found(records, asker, question) {
        Answer::Addresses(all) => {
            let of_family = |ip: &IpAddr| match question.query_type {
                RecordType::A => ip.is_ipv4(),
                RecordType::AAAA => ip.is_ipv6(),
                _ => false,
            };
            let all: Vec<IpAddr> = all.into_iter().filter(of_family).collect();
            let turned = all.iter().cycle().skip(turn(id, all.len())).take(all.len());
            let records =
                turned.map(|ip| Record::from_rdata(question.name.clone(), TTL, data(*ip)));
            reply.answers.extend(records.take(room(limit)));
        }
        Answer::Services(all) => list(&mut reply, &question.name, &all, limit),
        Answer::Pointer(name) => {
            let name = dns_name(&name).map(|name| RData::PTR(PTR(name)));
            let record = name.map(|data| Record::from_rdata(question.name.clone(), TTL, data));
            reply.answers.extend(record);
        }
        Answer::NoSuchName => reply.metadata.response_code = ResponseCode::NXDomain,
        Answer::Forward => {
            reply.metadata.response_code = ResponseCode::ServFail;
            return fit(reply, limit).map(Said::Forward);
        }
    }
    fit(reply, limit).map(Said::Answer)
}

/// The question, if it is one of those that are answered here.
fn allowed(query: &Message) -> Result<&Query, ResponseCode> {
    if query.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Err(ResponseCode::BADVERS);
    }
    let [question] = query.queries.as_slice() else {
        return Err(ResponseCode::FormErr);
    };
    match question.query_class {
        DNSClass::IN | DNSClass::ANY => Ok(question),
        _ => Err(ResponseCode::Refused),
    }
}

fn found(records: &Records, asker: Ipv4Addr, question: &Query) -> Answer {
    let reverse = (question.query_type == RecordType::PTR)
        .then(|| question.name.parse_arpa_name().ok())
        .flatten();
    match reverse {
        Some(net) if net.prefix_len() == net.max_prefix_len() => records.reverse(asker, net.addr()),
        _ => {
            let name = question.name.to_ascii();
            let name = name.trim_end_matches('.');
            match question.query_type {
                RecordType::SRV => records.services(asker, name),
                _ => records.lookup(asker, name),
            }
        }
    }
}

/// Where among `total` records the answer begins. The query's random id spreads clients over the instances, and over all of
/// what has no room in one answer: where there are more than ids, its steps are wider.
fn turn(id: u16, total: usize) -> usize {
    let step = total.div_ceil(1 << 16);
    usize::from(id) * step % total.max(1)
}

/// How many records to make for an answer of `limit` bytes: so many that it is seen if those do not have room.
fn room(limit: u16) -> usize {
    usize::from(limit) / LEAST + 1
}

fn data(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

/// Adds what is asked for, and the targets' addresses, so that nobody has to ask for those.
fn list(reply: &mut Message, name: &Name, services: &[Service], limit: u16) {
    let total = services.iter().map(|s| s.ports.count()).sum();
    let start = turn(reply.metadata.id, total);
    let mut told = BTreeSet::new();
    for (service, port) in each(services, start).take(room(limit)) {
        let Some(target) = dns_name(&service.target) else {
            continue;
        };
        // Equal ones, among which clients choose at random.
        let srv = RData::SRV(SRV::new(0, 1, port, target.clone()));
        let record = Record::from_rdata(name.clone(), TTL, srv);
        reply.answers.push(record);
        if !told.insert(&service.target) {
            continue;
        }
        let addresses = service.addresses.iter().map(|ip| data(*ip));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::ports::Ports;
    use super::super::records::{Container, Place};
    use super::*;

    fn services(count: usize, ports: &[&str]) -> Vec<Service> {
        let service = |n| Service {
            ports: Ports::read(ports),
            target: format!("web-{n:04}.coracle.internal"),
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
        };
        (0..count).map(service).collect()
    }

    fn listed(id: u16, services: &[Service], limit: u16) -> Message {
        let name: Name = "web.coracle.internal.".parse().unwrap();
        let mut reply = Message::response(id, OpCode::Query);
        reply.edns = Some(Edns::new());
        list(&mut reply, &name, services, limit);
        reply
    }

    #[test]
    fn more_than_any_message_holds_is_cut_at_a_record() {
        let reply = listed(7, &services(2000, &["80"]), u16::MAX);
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

    #[test]
    fn of_wide_ranges_no_more_records_are_made_than_have_room_and_every_port_has_its_turn() {
        let services = services(5, &["1-65535/tcp", "1-65535/udp"]);
        let total = 5 * 2 * 65_535;
        for limit in [512, DATAGRAM, u16::MAX] {
            let reply = listed(1, &services, limit);
            assert_eq!(reply.answers.len(), usize::from(limit) / LEAST + 1);
            assert!(reply.additionals.len() <= 5);
            let read = Message::from_vec(&fit(reply, limit).unwrap()).unwrap();
            assert!(read.metadata.truncation && !read.answers.is_empty());
        }
        // By TCP, the answers to all ids together leave none out: the next begins before one ends.
        let held = Message::from_vec(&fit(listed(0, &services, u16::MAX), u16::MAX).unwrap());
        let held = held.unwrap().answers.len();
        assert!(turn(1, total) <= held && turn(u16::MAX, total) < total);
        let starts: BTreeSet<usize> = (0..=u16::MAX).map(|id| turn(id, total)).collect();
        let next = starts.iter().skip(1).chain([&total]);
        assert!(
            starts
                .iter()
                .zip(next)
                .all(|(one, next)| next - one <= held)
        );
        // Where there are fewer than ids, each is the first.
        let few: BTreeSet<usize> = (0..=u16::MAX).map(|id| turn(id, 7)).collect();
        assert_eq!(few, (0..7).collect());
        assert_eq!(turn(9, 0), 0);
    }

    /// What is said to `query` of a zone with `web`, whose id is 10.0.0.2.
    fn said(query: &Message) -> Message {
        let place = Place {
            network: "A".into(),
            ip: Ipv4Addr::new(10, 0, 0, 2),
            ip6: None,
            aliases: Vec::new(),
        };
        let web = Container {
            id: "ab".repeat(32),
            name: "web".into(),
            healthy: true,
            places: vec![place],
            ..Container::default()
        };
        let records = Records::new(vec![web], vec![]);
        let asker = Ipv4Addr::new(10, 0, 0, 2);
        match say(&records, asker, &query.to_vec().unwrap(), false).unwrap() {
            Said::Answer(bytes) => Message::from_vec(&bytes).unwrap(),
            Said::Forward(_) => unreachable!("nothing of others' is asked for"),
        }
    }

    fn query(op_code: OpCode, class: DNSClass) -> Message {
        let mut message = Message::new(7, MessageType::Query, op_code);
        let mut question = Query::query("web.".parse().unwrap(), RecordType::A);
        question.query_class = class;
        message.queries.push(question);
        message
    }

    #[test]
    fn what_is_not_spoken_here_is_refused() {
        let code = |op_code, class| {
            let reply = said(&query(op_code, class));
            assert_eq!(reply.metadata.op_code, op_code);
            (reply.metadata.response_code, reply.answers.len())
        };
        let (class, no_error) = (DNSClass::IN, ResponseCode::NoError);
        assert_eq!(code(OpCode::Query, class), (no_error, 1));
        assert_eq!(code(OpCode::Query, DNSClass::ANY), (no_error, 1));
        for class in [DNSClass::CH, DNSClass::HS, DNSClass::NONE] {
            let refused = (ResponseCode::Refused, 0);
            assert_eq!(code(OpCode::Query, class), refused, "{class}");
        }
        for op_code in [
            OpCode::Status,
            OpCode::Notify,
            OpCode::Update,
            OpCode::Unknown(6),
        ] {
            assert_eq!(code(op_code, class), (ResponseCode::NotImp, 0), "{op_code}");
        }
        // Also where the rest cannot be read.
        let broken = |op_code: u8| {
            let raw = [0, 7, op_code << 3, 0, 0, 9];
            match say(&Records::default(), Ipv4Addr::LOCALHOST, &raw, false) {
                Some(Said::Answer(bytes)) => Message::from_vec(&bytes).unwrap().metadata,
                _ => unreachable!("it is answered"),
            }
        };
        assert_eq!(broken(0).response_code, ResponseCode::FormErr);
        assert_eq!(broken(5).response_code, ResponseCode::NotImp);
        assert_eq!(broken(5).op_code, OpCode::Update);
        let answer = [0, 7, 0x80, 0, 0, 9];
        assert!(say(&Records::default(), Ipv4Addr::LOCALHOST, &answer, false).is_none());
    }

    #[test]
    fn edns_is_answered_in_version_0_with_the_flag_that_was_sent() {
        for (version, dnssec_ok) in [(0, false), (0, true), (1, true)] {
            let mut query = query(OpCode::Query, DNSClass::IN);
            let mut edns = Edns::new();
            edns.set_version(version).set_dnssec_ok(dnssec_ok);
            query.edns = Some(edns);
            let reply = said(&query);
            let expected = match version {
                0 => (ResponseCode::NoError, 1),
                _ => (ResponseCode::BADVERS, 0),
            };
            // Of one number in two names, hickory reads the other.
            let found = (reply.metadata.response_code, reply.answers.len());
            assert_eq!(
                (u16::from(found.0), found.1),
                (u16::from(expected.0), expected.1)
            );
            let edns = reply.edns.unwrap();
            assert_eq!((edns.version(), edns.flags().dnssec_ok), (0, dnssec_ok));
        }
    }
}
