//! A DHCPv4 client (RFC 2131, RFC 2132) for one Ethernet interface, for programs without a runtime.
//!
//! [`message`] is what goes over the wire, [`state`] decides (pure: time, chance and messages are passed in), and [`Client`] is the
//! blocking driver with sockets and a clock. What a server grants is a [`Lease`]; the caller puts addresses, routes and names in
//! place and takes them away again. Nothing here touches them.
//!
//! Left out: DHCPDECLINE (no ARP probe is made, so nothing is found to be in use), DHCPRELEASE, DHCPINFORM, the random delay before
//! the first message (a machine that starts wants its address now), and going on with a remembered lease when no server answers (its
//! time is not known across a restart of the machine).
//!
//! No packet sockets are used, only UDP; [`client`] says what the machine has to grant for that.
pub mod client;
pub mod clock;
mod error;
mod filter;
mod lease;
pub mod message;
mod names;
mod sockets;
pub mod state;

pub use client::{Client, Event};
pub use error::Error;
pub use lease::{Lease, LeaseError, Route};
