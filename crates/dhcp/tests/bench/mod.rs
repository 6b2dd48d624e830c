//! A machine without network or clock, and a server's answers.
#![allow(clippy::unwrap_used, dead_code)]

use std::net::Ipv4Addr;
use std::time::Duration;

use coracle_dhcp::Lease;
use coracle_dhcp::message::{Kind, Message, Op, code};
use coracle_dhcp::state::{Chance, Change, Identity, Machine, Outgoing, State, Step};

pub const MAC: [u8; 6] = [2, 0, 0, 1, 2, 3];
pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
pub const LEASE: u32 = 3600;

/// A machine and the time it is told.
pub struct Bench {
    pub machine: Machine,
    pub now: Duration,
    pub xid: u32,
    pub jitter: i16,
}

impl Bench {
    pub fn new(remembered: Option<&Lease>) -> Bench {
        let identity = Identity {
            mac: MAC,
            hostname: Some("node".into()),
        };
        let now = Duration::from_secs(1000);
        Bench {
            machine: Machine::new(identity, remembered, now),
            now,
            xid: 0,
            jitter: 0,
        }
    }

    /// A machine that holds a lease asked for at second 1000.
    pub fn bound() -> Bench {
        let mut bench = Bench::new(None);
        let discover = bench.wakes();
        let request = bench.hears(&reply(&discover, Kind::Offer)).send.unwrap();
        let step = bench.hears(&reply(&request, Kind::Ack));
        assert!(matches!(step.change, Some(Change::Bound(_))));
        bench
    }

    pub fn chance(&mut self) -> Chance {
        self.xid += 1;
        Chance {
            xid: self.xid,
            jitter: self.jitter,
        }
    }

    /// Goes on to the deadline; what is done there.
    pub fn step(&mut self) -> Step {
        let due = self.machine.deadline();
        assert_ne!(due, Duration::MAX);
        let chance = self.chance();
        if let Some(early) = due.checked_sub(Duration::from_millis(1))
            && early >= self.now
        {
            assert_eq!(self.machine.wake(early, chance), Step::default());
        }
        self.now = self.now.max(due);
        self.machine.wake(self.now, chance)
    }

    /// What is sent at the deadline.
    pub fn wakes(&mut self) -> Outgoing {
        let step = self.step();
        assert_eq!((step.change, step.refused), (None, None));
        step.send.unwrap()
    }

    pub fn hears(&mut self, message: &Message) -> Step {
        let chance = self.chance();
        self.machine.receive(message, self.now, chance)
    }

    pub fn at(&mut self, second: u64) {
        self.now = Duration::from_secs(second);
    }

    /// Seconds to the deadline.
    pub fn wait(&self) -> f64 {
        (self.machine.deadline() - self.now).as_secs_f64()
    }

    pub fn state(&self) -> State {
        self.machine.state()
    }
}

/// A good answer of `kind`.
pub fn reply(to: &Outgoing, kind: Kind) -> Message {
    let mut message = Message::request(to.message.xid, MAC);
    message.op = Op::Reply;
    let options = &mut message.options;
    options.set(code::MESSAGE_TYPE, [kind as u8]);
    options.set(code::SERVER, SERVER.octets());
    if kind != Kind::Nak {
        message.yiaddr = ADDRESS;
        options.set(code::SUBNET_MASK, [255, 255, 255, 0]);
        options.set(code::LEASE_TIME, LEASE.to_be_bytes());
    }
    message
}

pub fn with(mut message: Message, code: u8, value: &[u8]) -> Message {
    message.options.set(code, value);
    message
}

pub fn kind(outgoing: &Outgoing) -> Kind {
    outgoing.message.kind().unwrap()
}

pub fn lease() -> Lease {
    Bench::bound().machine.lease().unwrap().clone()
}
