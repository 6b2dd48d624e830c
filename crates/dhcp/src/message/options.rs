//! Options: values by code (RFC 2132), put together from all places and parts of a message (RFC 3396).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::DecodeError;

/// Codes of options that are asked for, sent or read here.
#[allow(missing_docs, reason = "each is named as in the RFC")]
pub mod code {
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const MTU: u8 = 26;
    pub const BROADCAST_ADDRESS: u8 = 28;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const MESSAGE_SIZE: u8 = 57;
    pub const T1: u8 = 58;
    pub const T2: u8 = 59;
    pub const CLIENT_ID: u8 = 61;
    /// RFC 3397.
    pub const DOMAIN_SEARCH: u8 = 119;
    /// RFC 3442.
    pub const CLASSLESS_ROUTES: u8 = 121;
}

const PAD: u8 = 0;
const END: u8 = 255;

/// What a message says (RFC 2132, 9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named as in the RFC")]
pub enum Kind {
    Discover = 1,
    Offer,
    Request,
    Decline,
    Ack,
    Nak,
    Release,
    Inform,
}

impl Kind {
    pub(super) fn of(value: u8) -> Option<Kind> {
        use Kind::*;
        [Discover, Offer, Request, Decline, Ack, Nak, Release, Inform]
            .into_iter()
            .find(|kind| *kind as u8 == value)
    }
}

/// The options of a message. `PAD` (0), `END` (255) and option 52, which only say how they are packed, are none.
///
/// Values are read leniently: what is longer than its type says counts with its first bytes, as some servers send an option twice,
/// which by RFC 3396 makes one long one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    /// Sets option `code`; codes that are no option are left out.
    pub fn set(&mut self, code: u8, value: impl Into<Vec<u8>>) {
        if ![PAD, END, code::OVERLOAD].contains(&code) {
            self.0.insert(code, value.into());
        }
    }

    /// The bytes of option `code`.
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        self.0.get(&code).map(Vec::as_slice)
    }

    /// An option of one byte.
    pub fn byte(&self, code: u8) -> Option<u8> {
        self.get(code)?.first().copied()
    }

    /// An option of two bytes.
    pub fn short(&self, code: u8) -> Option<u16> {
        Some(u16::from_be_bytes(*self.get(code)?.first_chunk()?))
    }

    /// An option of four bytes.
    pub fn long(&self, code: u8) -> Option<u32> {
        Some(u32::from_be_bytes(*self.get(code)?.first_chunk()?))
    }

    /// An option that is one address.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.long(code).map(Ipv4Addr::from)
    }

    /// An option that is a list of addresses; empty if it is not there.
    pub fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let (whole, _) = self.get(code).unwrap_or_default().as_chunks::<4>();
        whole.iter().copied().map(Ipv4Addr::from).collect()
    }

    /// Reads the options' own field and then, as option 52 in it says, `file` and `sname`, in the order of RFC 3396, section 5.
    pub(super) fn decode(own: &[u8], file: &[u8], sname: &[u8]) -> Result<Options, DecodeError> {
        let mut options = Options::default();
        let overload = options.read(own)?.unwrap_or(0);
        if overload & 1 != 0 {
            options.read(file)?;
        }
        if overload & 2 != 0 {
            options.read(sname)?;
        }
        Ok(options)
    }

    /// Reads one field; what option 52 in it says.
    fn read(&mut self, mut field: &[u8]) -> Result<Option<u8>, DecodeError> {
        let mut overload = None;
        while let Some((&code, rest)) = field.split_first() {
            field = match code {
                PAD => rest,
                END => break,
                code => {
                    let (&length, rest) = rest.split_first().ok_or(DecodeError::Short)?;
                    let (value, rest) = rest
                        .split_at_checked(usize::from(length))
                        .ok_or(DecodeError::Short)?;
                    if code == code::OVERLOAD {
                        overload = value.first().copied();
                    } else {
                        self.0.entry(code).or_default().extend_from_slice(value);
                    }
                    rest
                }
            };
        }
        Ok(overload)
    }

    /// Appends the options and `END`. The type comes first, where old servers look for it.
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        let kind = self.0.get_key_value(&code::MESSAGE_TYPE);
        let others = self
            .0
            .iter()
            .filter(|(code, _)| **code != code::MESSAGE_TYPE);
        for (&code, value) in kind.into_iter().chain(others) {
            if value.is_empty() {
                bytes.extend([code, 0]);
            }
            for part in value.chunks(255) {
                bytes.push(code);
                bytes.push(u8::try_from(part.len()).unwrap_or(255));
                bytes.extend_from_slice(part);
            }
        }
        bytes.push(END);
    }
}
