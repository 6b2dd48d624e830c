//! Messages of DHCP as they go over the wire (RFC 2131, section 2), for Ethernet.

mod options;

use std::net::Ipv4Addr;

pub use options::{Kind, Options, code};

/// UDP port of servers.
pub const SERVER_PORT: u16 = 67;
/// UDP port of clients.
pub const CLIENT_PORT: u16 = 68;

/// Bytes before the options: the header of BOOTP (RFC 951) and the cookie.
const HEADER: usize = 240;
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
/// Begins the options (RFC 2132, section 2).
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Relays of BOOTP may drop what is shorter (RFC 1542, section 2.1).
const LENGTH_MIN: usize = 300;
const BROADCAST: u8 = 0x80;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `BOOTREQUEST`, a client.
    Request,
    /// `BOOTREPLY`, a server.
    Reply,
}

/// Why bytes are no message for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends within the header or within an option.
    #[error("the message ends too early")]
    Short,
    /// `op` is neither 1 nor 2.
    #[error("neither a request nor a reply: op is {0}")]
    Op(u8),
    /// `htype` and `hlen` are not those of Ethernet, 1 and 6.
    #[error("not for Ethernet: htype is {0}, hlen {1}")]
    Hardware(u8, u8),
    /// The cookie is another one: BOOTP without options, or something else.
    #[error("no options of DHCP follow the header")]
    Cookie,
}

/// One message. Of the header, `hops`, `sname` and `file` are not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub op: Op,
    /// Chosen by the client, repeated in the answers to it.
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    /// Answers are to be broadcast, as the client has no address yet.
    pub broadcast: bool,
    /// The client's address, if it has one that it answers for.
    pub ciaddr: Ipv4Addr,
    /// The address for the client.
    pub yiaddr: Ipv4Addr,
    /// The server for the next step of a boot.
    pub siaddr: Ipv4Addr,
    /// The relay.
    pub giaddr: Ipv4Addr,
    /// The client's MAC address.
    pub chaddr: [u8; 6],
    /// What is said beyond.
    pub options: Options,
}

impl Message {
    /// A request of the client with MAC address `chaddr`, without addresses or options.
    pub fn request(xid: u32, chaddr: [u8; 6]) -> Message {
        Message {
            op: Op::Request,
            xid,
            secs: 0,
            broadcast: false,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            chaddr,
            options: Options::default(),
        }
    }

    /// Reads a UDP datagram. The options of `file` and `sname` are read where option 52 says so, and parts of an option are put
    /// together (RFC 3396).
    ///
    /// # Errors
    /// Bytes that are no whole message for an Ethernet interface. An `END` that is missing is none: some servers forget it.
    pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
        if bytes.len() < HEADER {
            return Err(DecodeError::Short);
        }
        let op = match bytes[0] {
            1 => Op::Request,
            2 => Op::Reply,
            other => return Err(DecodeError::Op(other)),
        };
        if (bytes[1], bytes[2]) != (1, 6) {
            return Err(DecodeError::Hardware(bytes[1], bytes[2]));
        }
        if bytes[236..HEADER] != COOKIE {
            return Err(DecodeError::Cookie);
        }
        let four = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let mut chaddr = [0; 6];
        chaddr.copy_from_slice(&bytes[28..34]);
        Ok(Message {
            op,
            xid: u32::from_be_bytes(four(4)),
            secs: u16::from_be_bytes([bytes[8], bytes[9]]),
            broadcast: bytes[10] & BROADCAST != 0,
            ciaddr: four(12).into(),
            yiaddr: four(16).into(),
            siaddr: four(20).into(),
            giaddr: four(24).into(),
            chaddr,
            options: Options::decode(&bytes[HEADER..], &bytes[FILE], &bytes[SNAME])?,
        })
    }

    /// The bytes of a UDP datagram, at least 300. Values of more than 255 bytes go in parts (RFC 3396); option 52 is never used.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[0] = match self.op {
            Op::Request => 1,
            Op::Reply => 2,
        };
        bytes[1] = 1;
        bytes[2] = 6;
        bytes[4..8].copy_from_slice(&self.xid.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.secs.to_be_bytes());
        bytes[10] = if self.broadcast { BROADCAST } else { 0 };
        let addresses = [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr];
        for (at, address) in (12..).step_by(4).zip(addresses) {
            bytes[at..at + 4].copy_from_slice(&address.octets());
        }
        bytes[28..34].copy_from_slice(&self.chaddr);
        bytes[236..].copy_from_slice(&COOKIE);
        self.options.encode(&mut bytes);
        if bytes.len() < LENGTH_MIN {
            bytes.resize(LENGTH_MIN, 0);
        }
        bytes
    }

    /// What is said; nothing for BOOTP without option 53, or for a type that no RFC known here has.
    pub fn kind(&self) -> Option<Kind> {
        self.options.byte(code::MESSAGE_TYPE).and_then(Kind::of)
    }
}
