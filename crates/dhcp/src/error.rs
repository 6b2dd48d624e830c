//! Why the driver could not go on.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// What went wrong between the client and its interface.
///
/// After any of these [`Client::next`](crate::Client::next) may be called again: sockets are opened anew, and what was not sent is
/// sent again when its time comes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No interface can have this name: it is empty, longer than 15 bytes, or has `/`, blanks or NUL in it.
    #[error(
        "{0:?} is no name of an interface; give one of 1 to 15 characters, as `ip link` lists them"
    )]
    Interface(String),
    /// The host name cannot be told to a server.
    #[error(
        "{0:?} is no host name; give labels of letters, digits, '-' and '_', with dots between"
    )]
    HostName(String),
    /// The interface is not there, or another program holds port 68 of it for itself.
    #[error("cannot open UDP port 68 of {interface} at {address}")]
    Open {
        /// The interface asked for.
        interface: String,
        /// The address that was to be bound: `0.0.0.0`, or the leased one, which the caller has to have put on the interface.
        address: Ipv4Addr,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The interface is down, or there is no way to the server.
    #[error("cannot send to {to} through {interface}; is it up, with a way there?")]
    Send {
        /// The interface.
        interface: String,
        /// The server, or `255.255.255.255`.
        to: Ipv4Addr,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A socket failed while it was read.
    #[error("cannot receive through {interface}")]
    Receive {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Nobody answers, and the kernel would drop an answer: told once for each search. The client goes on.
    #[error(
        "no DHCP server answers through {interface}, and {path} has the kernel drop answers to an interface without an address: \
         write 0 there"
    )]
    Filtered {
        /// The interface.
        interface: String,
        /// The setting of the kernel that is not 0.
        path: PathBuf,
    },
    /// The kernel gives no timer, or no wait for it.
    #[error("cannot wait for messages and time")]
    Wait(#[source] io::Error),
    /// The kernel gives no random numbers, without which messages could be forged.
    #[error("no random numbers")]
    Random(#[source] getrandom::Error),
}
