//! Netlink, request and answer: synchronous, several requests in flight at once.
//!
//! A socket belongs to the network namespace of the thread that opened it and may then be used from
//! any thread. [`Netlink::batch`] sends many requests in one datagram; the kernel handles them in
//! order and goes on after a failure, so a batch reports the first failure and which request it was.

mod conntrack;

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

pub use conntrack::{Flow, forget_flows, forget_udp_flows, tcp_flows, udp_flows};

const HEADER: usize = 16;
const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
const FLAG_ACK_TLVS: u16 = 0x200;
const FLAG_DUMP_INTERRUPTED: u16 = 0x10;
const EXT_ACK_MESSAGE: u16 = 1;

/// Why a netlink request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket cannot be opened, written or read.
    #[error("netlink socket")]
    Socket(#[source] io::Error),
    /// The kernel refused request number `index` of the batch.
    #[error("the kernel refused netlink request {index}{}", text(.detail))]
    Refused {
        /// Position in the batch, from 0.
        index: usize,
        /// The kernel's own words (extended acknowledgement), if it gave any.
        detail: Option<String>,
        /// The error number.
        #[source]
        source: io::Error,
    },
    /// The answer does not follow the protocol.
    #[error("malformed netlink answer: {0}")]
    Malformed(String),
    /// What is dumped kept changing while it was read.
    #[error("the netlink dump was interrupted by changes again and again")]
    Interrupted,
}

fn text(detail: &Option<String>) -> String {
    detail
        .as_ref()
        .map(|d| format!(" ({d})"))
        .unwrap_or_default()
}

impl NetlinkError {
    /// The kernel's error number, if it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::Socket(source) => source.raw_os_error(),
            _ => None,
        }
    }

    /// True when the thing asked for exists already.
    pub fn exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// True when the link, address or entry is not there.
    pub fn missing(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENODEV | libc::ENOENT | libc::EADDRNOTAVAIL | libc::ESRCH)
        )
    }
}

/// One request of a batch: message type, extra flags and payload (without the netlink header).
#[derive(Debug)]
pub struct Request {
    kind: u16,
    flags: u16,
    payload: Vec<u8>,
}

impl Request {
    /// A route netlink request with extra flags such as `NLM_F_CREATE | NLM_F_EXCL`.
    pub fn route(message: RouteNetlinkMessage, flags: u16) -> Self {
        let mut whole = NetlinkMessage::from(message);
        whole.finalize();
        let mut bytes = vec![0; whole.buffer_len()];
        whole.serialize(&mut bytes);
        Self {
            kind: whole.header.message_type,
            flags,
            payload: bytes.split_off(HEADER),
        }
    }

    fn write(&self, out: &mut Vec<u8>, flags: u16, sequence: u32) {
        let length = HEADER + self.payload.len();
        out.extend((length as u32).to_ne_bytes());
        out.extend(self.kind.to_ne_bytes());
        out.extend((self.flags | flags).to_ne_bytes());
        out.extend(sequence.to_ne_bytes());
        out.extend(0u32.to_ne_bytes());
        out.extend(&self.payload);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

struct Frame {
    kind: u16,
    flags: u16,
    sequence: u32,
    bytes: Vec<u8>,
}

impl Frame {
    fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }
}

fn frames(mut data: &[u8]) -> Result<Vec<Frame>, NetlinkError> {
    let mut out = Vec::new();
    while data.len() >= HEADER {
        let length = u32::from_ne_bytes([data[0], data[1], data[2], data[3]]) as usize;
        if length < HEADER || length > data.len() {
            return Err(NetlinkError::Malformed(format!(
                "length {length} of {}",
                data.len()
            )));
        }
        out.push(Frame {
            kind: u16::from_ne_bytes([data[4], data[5]]),
            flags: u16::from_ne_bytes([data[6], data[7]]),
            sequence: u32::from_ne_bytes([data[8], data[9], data[10], data[11]]),
            bytes: data[..length].to_vec(),
        });
        data = &data[length.next_multiple_of(4).min(data.len())..];
    }
    Ok(out)
}

/// The attributes in `data`: type (without the nested and byte-order bits), value, whole bytes.
fn attributes(mut data: &[u8]) -> Vec<(u16, &[u8], &[u8])> {
    let mut out = Vec::new();
    while data.len() >= 4 {
        let length = u16::from_ne_bytes([data[0], data[1]]) as usize;
        if length < 4 || length > data.len() {
            break;
        }
        let padded = length.next_multiple_of(4).min(data.len());
        out.push((
            u16::from_ne_bytes([data[2], data[3]]) & 0x3fff,
            &data[4..length],
            &data[..padded],
        ));
        data = &data[padded..];
    }
    out
}

fn refusal(frame: &Frame, index: usize) -> Result<(), NetlinkError> {
    let payload = frame.payload();
    let Some(code) = payload.first_chunk::<4>().map(|c| i32::from_ne_bytes(*c)) else {
        return Err(NetlinkError::Malformed("short acknowledgement".into()));
    };
    if code == 0 {
        return Ok(());
    }
    // The request's payload is not echoed (NETLINK_CAP_ACK), only its header.
    let tail = payload.get(4 + HEADER..).unwrap_or_default();
    let detail = (frame.flags & FLAG_ACK_TLVS != 0)
        .then(|| {
            attributes(tail)
                .into_iter()
                .find(|a| a.0 == EXT_ACK_MESSAGE)
        })
        .flatten()
        .map(|a| {
            String::from_utf8_lossy(a.1)
                .trim_end_matches('\0')
                .to_owned()
        });
    Err(NetlinkError::Refused {
        index,
        detail,
        source: io::Error::from_raw_os_error(-code),
    })
}

/// One netlink socket.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a route netlink socket in the calling thread's network namespace.
    pub fn route() -> Result<Self, NetlinkError> {
        Self::open(NETLINK_ROUTE)
    }

    fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        open()
            .map(|socket| Self {
                socket,
                sequence: 0,
            })
            .map_err(NetlinkError::Socket)
    }

    fn receive(&self) -> Result<Vec<Frame>, NetlinkError> {
        let (data, _) = self.socket.recv_from_full().map_err(NetlinkError::Socket)?;
        frames(&data)
    }

    /// Sends all requests at once and waits for every acknowledgement; the result of each, in order.
    pub fn each(
        &mut self,
        requests: &[Request],
    ) -> Result<Vec<Result<(), NetlinkError>>, NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut data = Vec::new();
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            request.write(&mut data, NLM_F_REQUEST | NLM_F_ACK, self.sequence);
        }
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        self.socket.send(&data, 0).map_err(NetlinkError::Socket)?;
        let mut results = Vec::with_capacity(requests.len());
        while results.len() < requests.len() {
            for frame in self.receive()? {
                let index = frame.sequence.wrapping_sub(first) as usize;
                if frame.kind == TYPE_ERROR && index == results.len() {
                    results.push(refusal(&frame, index));
                }
            }
        }
        Ok(results)
    }

    /// As [`Netlink::each`], but the first refusal is the error.
    pub fn batch(&mut self, requests: &[Request]) -> Result<(), NetlinkError> {
        self.each(requests)?.into_iter().collect()
    }

    fn dump_frames(&mut self, request: &Request) -> Result<Vec<Frame>, NetlinkError> {
        for _ in 0..10 {
            self.sequence = self.sequence.wrapping_add(1);
            let mut data = Vec::new();
            request.write(&mut data, NLM_F_REQUEST | NLM_F_DUMP, self.sequence);
            self.socket.send(&data, 0).map_err(NetlinkError::Socket)?;
            let (mut found, mut interrupted, mut done) = (Vec::new(), false, false);
            while !done {
                for frame in self
                    .receive()?
                    .into_iter()
                    .filter(|f| f.sequence == self.sequence)
                {
                    interrupted |= frame.flags & FLAG_DUMP_INTERRUPTED != 0;
                    match frame.kind {
                        TYPE_DONE => done = true,
                        TYPE_ERROR => {
                            refusal(&frame, 0)?;
                            done = true;
                        }
                        _ => found.push(frame),
                    }
                }
            }
            if !interrupted {
                return Ok(found);
            }
        }
        Err(NetlinkError::Interrupted)
    }

    /// Everything of the kind asked for (`GetLink`, `GetAddress`, `GetRoute`).
    pub fn dump(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut out = Vec::new();
        for frame in self.dump_frames(&Request::route(message, 0))? {
            let parsed = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&frame.bytes)
                .map_err(|e| NetlinkError::Malformed(e.to_string()))?;
            if let NetlinkPayload::InnerMessage(inner) = parsed.payload {
                out.push(inner);
            }
        }
        Ok(out)
    }
}
