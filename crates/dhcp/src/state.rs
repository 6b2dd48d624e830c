//! The client's states (RFC 2131, 4.4): what is sent, believed and given up, and when.
//!
//! ```text
//! Init ── Selecting ── Requesting ──┬── Bound ── Renewing ── Rebinding ──> lost, Init
//!   └──── Rebooting ────────────────┘     └─<──────┴────────────┘ prolonged
//! ```
//!
//! Pure: the time is passed in (any that goes on while the machine sleeps), as are random numbers and messages. Of several servers
//! the first to offer is taken. What carries another `xid`, MAC address or client identifier is ignored.

mod asks;
mod model;
mod phase;
mod times;

pub(crate) use asks::MESSAGE_MAX;

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::Lease;
use crate::lease::is_host;
use crate::message::{Kind, Message, Op, code};
pub use model::{Chance, Change, Identity, Outgoing, State, Step};
use phase::{Exchange, Held, Phase};

/// A request for an address that was offered is sent that often before the search begins anew.
const REQUESTS: u32 = 4;
/// A request for a remembered address is. Servers that do not know it are silent (RFC 2131, 4.3.2), and the machine waits.
const REBOOTS: u32 = 2;

/// One interface's client.
#[derive(Debug)]
pub struct Machine {
    identity: Identity,
    phase: Phase,
    due: Duration,
    begun: Duration,
    wanted: Option<Ipv4Addr>,
    refusals: u32,
}

impl Machine {
    /// A client that begins `now`: by asking for the `remembered` lease again, if there is one, else by a search.
    pub fn new(identity: Identity, remembered: Option<&Lease>, now: Duration) -> Machine {
        let wanted = remembered
            .map(|lease| lease.address)
            .filter(|address| is_host(*address));
        Machine {
            identity,
            phase: Phase::Init {
                reboot: wanted.is_some(),
            },
            due: now,
            begun: now,
            wanted,
            refusals: 0,
        }
    }

    /// When [`wake`](Machine::wake) is due next; [`Duration::MAX`] if never.
    pub fn deadline(&self) -> Duration {
        self.due
    }

    /// Where the client stands.
    pub fn state(&self) -> State {
        self.phase.state()
    }

    /// The lease that is held.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.phase {
            Phase::Bound(held) | Phase::Renewing(held, _) | Phase::Rebinding(held, _) => {
                Some(&held.lease)
            }
            _ => None,
        }
    }

    /// Messages sent since a server was last heard or the state was entered; 0 where no answer is awaited.
    pub fn unanswered(&self) -> u32 {
        self.phase.exchange().map_or(0, |exchange| exchange.tries)
    }

    /// Does what is due `now`: sends, sends again, or gives up. Too early a call does nothing.
    pub fn wake(&mut self, now: Duration, chance: Chance) -> Step {
        if now < self.due {
            return Step::default();
        }
        match self.phase.clone() {
            Phase::Init { reboot } => {
                self.begun = now;
                match self.wanted.filter(|_| reboot) {
                    Some(address) => self.reboot(Exchange::new(now, chance), address, now, chance),
                    None => self.discover(Exchange::new(now, chance), now, chance),
                }
            }
            Phase::Selecting(exchange) => self.discover(exchange, now, chance),
            Phase::Requesting(exchange, address, server) if exchange.tries < REQUESTS => {
                self.request(exchange, address, server, now, chance)
            }
            Phase::Rebooting(exchange, address) if exchange.tries < REBOOTS => {
                self.reboot(exchange, address, now, chance)
            }
            Phase::Requesting(..) | Phase::Rebooting(..) => {
                self.discover(Exchange::new(now, chance), now, chance)
            }
            Phase::Bound(held) => self.prolong(held, now, chance),
            Phase::Renewing(held, _) | Phase::Rebinding(held, _) => self.prolong(held, now, chance),
        }
    }

    /// Takes a message that came `now`.
    pub fn receive(&mut self, message: &Message, now: Duration, chance: Chance) -> Step {
        let Some(kind) = self.answer(message) else {
            return Step::default();
        };
        let server = message.options.address(code::SERVER);
        match (self.phase.clone(), kind) {
            (Phase::Selecting(exchange), Kind::Offer) => match Lease::granted(message, None) {
                Ok(offer) => {
                    let exchange = Exchange {
                        asked: now,
                        tries: 0,
                        ..exchange
                    };
                    self.request(exchange, offer.address, offer.server, now, chance)
                }
                Err(refused) => Step::refuse(refused),
            },
            // What the servers that were not chosen say is not about this request.
            (Phase::Requesting(_, _, chosen), _) if server.is_some_and(|s| s != chosen) => {
                Step::default()
            }
            (Phase::Requesting(exchange, _, chosen), Kind::Ack) => {
                self.bind(message, Some(chosen), exchange, None)
            }
            (Phase::Requesting(..), Kind::Nak) => {
                // A server that offers what it then refuses is not asked without a pause.
                let pause = times::backoff(self.refusals, chance.jitter);
                self.refusals = self.refusals.saturating_add(1);
                self.forget(now + pause);
                Step::default()
            }
            (Phase::Rebooting(exchange, _), Kind::Ack) => self.bind(message, None, exchange, None),
            (Phase::Rebooting(..), Kind::Nak) => {
                self.forget(now);
                Step::default()
            }
            (Phase::Renewing(held, exchange) | Phase::Rebinding(held, exchange), Kind::Ack) => {
                self.bind(message, Some(held.lease.server), exchange, Some(held))
            }
            (Phase::Renewing(..) | Phase::Rebinding(..), Kind::Nak) => {
                self.forget(now);
                Step::change(Change::Lost)
            }
            _ => Step::default(),
        }
    }

    /// What `message` is, if it answers what was sent last.
    fn answer(&self, message: &Message) -> Option<Kind> {
        let ours = message.op == Op::Reply
            && message.xid == self.phase.exchange()?.xid
            && message.chaddr == self.identity.mac
            // RFC 6842: servers that repeat it repeat the one they were told.
            && message
                .options
                .get(code::CLIENT_ID)
                .is_none_or(|id| id == asks::client_id(self.identity.mac));
        message.kind().filter(|_| ours)
    }

    fn discover(&mut self, mut exchange: Exchange, now: Duration, chance: Chance) -> Step {
        self.due = exchange.sent(now, chance);
        exchange.secs = times::secs(self.begun, now);
        self.phase = Phase::Selecting(exchange);
        Step::send(asks::discover(
            &self.identity,
            exchange.xid,
            exchange.secs,
            self.wanted,
        ))
    }

    fn request(
        &mut self,
        mut exchange: Exchange,
        address: Ipv4Addr,
        server: Ipv4Addr,
        now: Duration,
        chance: Chance,
    ) -> Step {
        self.due = exchange.sent(now, chance);
        self.phase = Phase::Requesting(exchange, address, server);
        // With the DHCPDISCOVER's secs (RFC 2131, 4.4.1): relays send both the same way.
        Step::send(asks::request(
            &self.identity,
            exchange.xid,
            exchange.secs,
            address,
            server,
        ))
    }

    fn reboot(
        &mut self,
        mut exchange: Exchange,
        address: Ipv4Addr,
        now: Duration,
        chance: Chance,
    ) -> Step {
        self.due = exchange.sent(now, chance);
        exchange.secs = times::secs(self.begun, now);
        self.phase = Phase::Rebooting(exchange, address);
        Step::send(asks::reboot(
            &self.identity,
            exchange.xid,
            exchange.secs,
            address,
        ))
    }

    /// The held lease's next stage, by the time alone: the machine may have slept through one. Each message is an exchange of its own, so
    /// that a lease counts from the one that was answered.
    fn prolong(&mut self, held: Held, now: Duration, chance: Chance) -> Step {
        if now >= held.at(held.lease.lease_time) {
            self.wanted = Some(held.lease.address);
            self.phase = Phase::Init { reboot: false };
            self.due = now;
            return Step::change(Change::Lost);
        }
        let rebinding = now >= held.at(held.lease.t2);
        // In a stage that is entered, nothing was sent yet.
        let tries = match self.state() {
            State::Renewing if rebinding => 0,
            _ => self.unanswered(),
        };
        let until = held.at(if rebinding {
            held.lease.lease_time
        } else {
            held.lease.t2
        });
        self.due = until.min(now + times::prolong(tries, until - now, chance.jitter));
        let exchange = Exchange {
            xid: chance.xid,
            asked: now,
            secs: times::secs(held.at(held.lease.t1), now),
            tries: tries + 1,
        };
        let to = if rebinding {
            Ipv4Addr::BROADCAST
        } else {
            held.lease.server
        };
        let send = asks::prolong(
            &self.identity,
            exchange.xid,
            exchange.secs,
            held.lease.address,
            to,
        );
        self.phase = if rebinding {
            Phase::Rebinding(held, exchange)
        } else {
            Phase::Renewing(held, exchange)
        };
        Step::send(send)
    }

    fn bind(
        &mut self,
        message: &Message,
        server: Option<Ipv4Addr>,
        exchange: Exchange,
        before: Option<Held>,
    ) -> Step {
        let lease = match Lease::granted(message, server) {
            Ok(lease) => lease,
            Err(refused) => return Step::refuse(refused),
        };
        let held = Held {
            lease: lease.clone(),
            since: exchange.asked,
        };
        self.due = held.at(lease.t1);
        self.phase = Phase::Bound(held);
        self.wanted = Some(lease.address);
        self.refusals = 0;
        Step::change(match before {
            Some(before) if before.lease.address == lease.address => Change::Renewed(lease),
            _ => Change::Bound(lease),
        })
    }

    /// Begins anew at `due`, without the address that was refused.
    fn forget(&mut self, due: Duration) {
        self.wanted = None;
        self.phase = Phase::Init { reboot: false };
        self.due = due;
    }
}
