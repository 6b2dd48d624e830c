//! Where the client stands, with what it needs to know there.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Chance, State, times};
use crate::Lease;

/// The message that went out last, and what it was part of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange {
    pub(super) xid: u32,
    /// When its address was asked for first: leases count from there (RFC 2131, 4.4.1).
    pub(super) asked: Duration,
    pub(super) secs: u16,
    /// Messages sent so far.
    pub(super) tries: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) lease: Lease,
    /// When it was asked for.
    pub(super) since: Duration,
}

#[derive(Debug, Clone)]
pub(super) enum Phase {
    Init {
        /// With the remembered address.
        reboot: bool,
    },
    Selecting(Exchange),
    /// With the address and the server that offered it.
    Requesting(Exchange, Ipv4Addr, Ipv4Addr),
    Rebooting(Exchange, Ipv4Addr),
    Bound(Held),
    Renewing(Held, Exchange),
    Rebinding(Held, Exchange),
}

impl Phase {
    pub(super) fn state(&self) -> State {
        match self {
            Phase::Init { .. } => State::Init,
            Phase::Selecting(..) => State::Selecting,
            Phase::Requesting(..) => State::Requesting,
            Phase::Rebooting(..) => State::Rebooting,
            Phase::Bound(..) => State::Bound,
            Phase::Renewing(..) => State::Renewing,
            Phase::Rebinding(..) => State::Rebinding,
        }
    }

    /// What an answer is awaited to.
    pub(super) fn exchange(&self) -> Option<&Exchange> {
        match self {
            Phase::Init { .. } | Phase::Bound(_) => None,
            Phase::Selecting(exchange)
            | Phase::Requesting(exchange, ..)
            | Phase::Rebooting(exchange, _)
            | Phase::Renewing(_, exchange)
            | Phase::Rebinding(_, exchange) => Some(exchange),
        }
    }
}

impl Exchange {
    pub(super) fn new(now: Duration, chance: Chance) -> Exchange {
        Exchange {
            xid: chance.xid,
            asked: now,
            secs: 0,
            tries: 0,
        }
    }

    /// Counts a message; when it is to be sent again.
    pub(super) fn sent(&mut self, now: Duration, chance: Chance) -> Duration {
        let wait = times::backoff(self.tries, chance.jitter);
        self.tries = self.tries.saturating_add(1);
        now + wait
    }
}

impl Held {
    /// When that much of the lease's time is over.
    pub(super) fn at(&self, after: Duration) -> Duration {
        self.since.saturating_add(after)
    }
}
