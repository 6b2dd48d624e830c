//! What goes in and comes out.

use std::net::Ipv4Addr;

use crate::message::Message;
use crate::{Lease, LeaseError};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The interface's MAC address, which is the client identifier too (type 1).
    pub mac: [u8; 6],
    /// The name told to servers.
    pub hostname: Option<String>,
}

/// Random numbers for one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chance {
    /// The next exchange's.
    pub xid: u32,
    /// Added to waits, in milliseconds from -1000 to 1000, so that machines that started together do not go on together.
    pub jitter: i16,
}

/// Where the client stands, named as in RFC 2131, figure 5; `Rebooting` is with a remembered address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named as in the RFC")]
pub enum State {
    Init,
    Selecting,
    Requesting,
    Rebooting,
    Bound,
    Renewing,
    Rebinding,
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// What is said.
    pub message: Message,
    /// To this address's port 67: a server, or `255.255.255.255`.
    pub to: Ipv4Addr,
    /// From this address's port 68: the leased one, or `0.0.0.0` where there is none.
    pub from: Ipv4Addr,
}

/// What became of the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// There is one, with an address that was not there before.
    Bound(Lease),
    /// It is prolonged; all but the address may have changed.
    Renewed(Lease),
    /// It is over, or was taken back: the address must no longer be used. The search begins at once.
    Lost,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// Send this.
    pub send: Option<Outgoing>,
    /// Tell this.
    pub change: Option<Change>,
    /// A message that was meant for us, and why it was ignored all the same.
    pub refused: Option<LeaseError>,
}

impl Step {
    pub(super) fn send(outgoing: Outgoing) -> Step {
        Step {
            send: Some(outgoing),
            ..Step::default()
        }
    }
    pub(super) fn change(change: Change) -> Step {
        Step {
            change: Some(change),
            ..Step::default()
        }
    }
    pub(super) fn refuse(refused: LeaseError) -> Step {
        Step {
            refused: Some(refused),
            ..Step::default()
        }
    }
}
