//! Port 68 of one interface.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use rustix::event::{PollFd, PollFlags};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Error;
use crate::message::{CLIENT_PORT, SERVER_PORT};
use crate::state::{MESSAGE_MAX, Outgoing};

/// Up to two sockets: one for what is broadcast, one at the leased address, so that messages to the server come from that address
/// even where the interface has others. The kernel gives the server's answer to the latter.
#[derive(Debug)]
pub(crate) struct Sockets {
    interface: String,
    any: Option<UdpSocket>,
    own: Option<UdpSocket>,
}

impl Sockets {
    pub(crate) fn open(interface: &str) -> Result<Sockets, Error> {
        let mut sockets = Sockets {
            interface: interface.to_owned(),
            any: None,
            own: None,
        };
        sockets.any = Some(sockets.socket(Ipv4Addr::UNSPECIFIED)?);
        Ok(sockets)
    }

    /// Sends, with a new socket where the one at hand may be of an interface that went and came back.
    pub(crate) fn send(&mut self, outgoing: &Outgoing) -> Result<(), Error> {
        let bytes = outgoing.message.encode();
        let to = SocketAddrV4::new(outgoing.to, SERVER_PORT);
        self.own = None;
        if outgoing.from.is_unspecified()
            && let Some(socket) = &self.any
            && socket.send_to(&bytes, to).is_ok()
        {
            return Ok(());
        }
        self.any = None;
        let any = self.socket(Ipv4Addr::UNSPECIFIED)?;
        let sent = if outgoing.from.is_unspecified() {
            any.send_to(&bytes, to)
        } else {
            let own = self.socket(outgoing.from)?;
            let sent = own.send_to(&bytes, to);
            self.own = Some(own);
            sent
        };
        self.any = Some(any);
        sent.map(drop).map_err(|source| Error::Send {
            interface: self.interface.clone(),
            to: outgoing.to,
            source,
        })
    }

    /// A datagram that is there already, its length in `buffer`.
    pub(crate) fn receive(&mut self, buffer: &mut Buffer) -> Result<Option<usize>, Error> {
        for place in [&mut self.own, &mut self.any] {
            let Some(socket) = place else { continue };
            match socket.recv(buffer) {
                Ok(length) => return Ok(Some(length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    *place = None;
                    return Err(Error::Receive {
                        interface: self.interface.clone(),
                        source,
                    });
                }
            }
        }
        Ok(None)
    }

    /// What to wait for.
    pub(crate) fn readable(&self) -> impl Iterator<Item = PollFd<'_>> {
        [&self.own, &self.any]
            .into_iter()
            .flatten()
            .map(|socket| PollFd::new(socket, PollFlags::IN))
    }

    fn socket(&self, address: Ipv4Addr) -> Result<UdpSocket, Error> {
        let open = || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
            // Other interfaces have clients of their own.
            socket.bind_device(Some(self.interface.as_bytes()))?;
            socket.set_reuse_address(true)?;
            socket.set_broadcast(true)?;
            socket.bind(&SocketAddrV4::new(address, CLIENT_PORT).into())?;
            Ok(socket.into())
        };
        open().map_err(|source| Error::Open {
            interface: self.interface.clone(),
            address,
            source,
        })
    }
}

/// Room for one datagram; one that fills it is larger than servers were told to send.
pub(crate) type Buffer = [u8; MESSAGE_MAX as usize];
