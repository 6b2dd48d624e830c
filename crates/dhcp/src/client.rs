//! The blocking driver: a [`Machine`] with sockets, a clock and chance.
//!
//! The interface has to be up. It needs no address, which asks two things of the machine. Its `rp_filter` settings, the interface's and
//! that of `all`, have to be 0 until the lease is in place, else the kernel drops the answers ([`Error::Filtered`]). And as long as
//! it has none, the kernel takes another interface's address, if there is any but the loopback's, for the sender of what is
//! broadcast. Servers answer such a message by broadcast all the same, unless something between drops it: a switch or a hypervisor
//! that knows which addresses the machine may send from, or the server's own `rp_filter`.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::message::Message;
use crate::sockets::{Buffer, Sockets};
use crate::state::{Chance, Change, Identity, MESSAGE_MAX, Machine, State, Step};
use crate::{Error, Lease, clock, filter, names};

/// After that many searches without an answer (7 s), it is looked whether the kernel drops them.
const SUSPICIOUS: u32 = 4;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An address was granted: put it and its settings in place, of a former lease take away what differs.
    Bound(Lease),
    /// The lease goes on; settings beside the address may differ.
    Renewed(Lease),
    /// The lease is over: take the address away. The search for another one goes on with the next call.
    Lost,
    /// The time given to [`Client::next`] has come.
    Deadline,
}

/// A client for one interface.
#[derive(Debug)]
pub struct Client {
    interface: String,
    machine: Machine,
    sockets: Sockets,
    timer: OwnedFd,
}

impl Client {
    /// A client for `interface`, which has the Ethernet address `mac`; nothing is sent before [`next`](Client::next). `hostname` is told
    /// to servers, and the address of the `remembered` lease is asked for first.
    ///
    /// Where the interface's cable was out, make a new one with the [`lease`](Client::lease) of the former: that asks whether
    /// the address is still right.
    ///
    /// # Errors
    /// [`Error::Interface`], [`Error::HostName`], and [`Error::Open`] as long as the interface is not there.
    pub fn new(
        interface: &str,
        mac: [u8; 6],
        hostname: Option<String>,
        remembered: Option<Lease>,
    ) -> Result<Client, Error> {
        // The kernel would take a longer name for another, and an empty one for all interfaces.
        let odd = |c: char| c == '/' || c == '\0' || c.is_whitespace();
        if !(1..=15).contains(&interface.len()) || interface.contains(odd) {
            return Err(Error::Interface(interface.to_owned()));
        }
        if let Some(name) = hostname.as_deref().filter(|name| !names::is_name(name)) {
            return Err(Error::HostName(name.to_owned()));
        }
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Client {
            interface: interface.to_owned(),
            machine: Machine::new(
                Identity { mac, hostname },
                remembered.as_ref(),
                clock::now(),
            ),
            sockets: Sockets::open(interface)?,
            timer: timerfd_create(TimerfdClockId::Boottime, flags)
                .map_err(|error| Error::Wait(error.into()))?,
        })
    }

    /// Sends, receives and waits until something happened, at most until `until` on [`clock::now`]'s clock.
    ///
    /// # Errors
    /// See [`Error`]: none is final. What was due counts as sent, so that a caller that only calls again does so at the pace of
    /// retransmissions.
    pub fn next(&mut self, until: Option<Duration>) -> Result<Event, Error> {
        let mut buffer: Buffer = [0; _];
        loop {
            let now = clock::now();
            if now >= self.machine.deadline() {
                let step = self.machine.wake(now, chance()?);
                if let Some(event) = self.take(step)? {
                    return Ok(event);
                }
                self.suspect()?;
            } else if until.is_some_and(|until| now >= until) {
                return Ok(Event::Deadline);
            } else if let Some(length) = self.sockets.receive(&mut buffer)? {
                // What is not for us is no failure: port 68 is open to everyone on the network.
                if length < usize::from(MESSAGE_MAX)
                    && let Ok(message) = Message::decode(&buffer[..length])
                {
                    let step = self.machine.receive(&message, now, chance()?);
                    if let Some(event) = self.take(step)? {
                        return Ok(event);
                    }
                }
            } else {
                let first = until.unwrap_or(Duration::MAX);
                self.wait(first.min(self.machine.deadline()))?;
            }
        }
    }

    /// Where the client stands.
    pub fn state(&self) -> State {
        self.machine.state()
    }

    /// The lease that is held.
    pub fn lease(&self) -> Option<&Lease> {
        self.machine.lease()
    }

    fn take(&mut self, step: Step) -> Result<Option<Event>, Error> {
        if let Some(reason) = step.refused {
            tracing::warn!(
                interface = self.interface,
                "a server's message is ignored: {reason}"
            );
        }
        if let Some(outgoing) = step.send {
            self.sockets.send(&outgoing)?;
        }
        Ok(step.change.map(|change| match change {
            Change::Bound(lease) => Event::Bound(lease),
            Change::Renewed(lease) => Event::Renewed(lease),
            Change::Lost => Event::Lost,
        }))
    }

    /// Looks for a reason, once, when nobody answers a search.
    fn suspect(&self) -> Result<(), Error> {
        if self.machine.state() == State::Selecting
            && self.machine.unanswered() == SUSPICIOUS
            && let Some(path) = filter::in_the_way(&self.interface)
        {
            return Err(Error::Filtered {
                interface: self.interface.clone(),
                path,
            });
        }
        Ok(())
    }

    /// Waits for a datagram, until `until` at most. A timer of that clock wakes a machine's threads as it wakes itself, which `poll`'s own
    /// timeout would not.
    fn wait(&self, until: Duration) -> Result<(), Error> {
        let wait = |error: rustix::io::Errno| Error::Wait(error.into());
        let once = Itimerspec {
            it_interval: Timespec::default(),
            // One of zero stops the timer: what does not fit never comes.
            it_value: match i64::try_from(until.as_secs()) {
                Ok(tv_sec) => Timespec {
                    tv_sec,
                    tv_nsec: until.subsec_nanos().into(),
                },
                Err(_) => Timespec::default(),
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once).map_err(wait)?;
        let mut on: Vec<_> = self.sockets.readable().collect();
        on.push(PollFd::new(&self.timer, PollFlags::IN));
        match poll(&mut on, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(wait(error)),
        }
    }
}

fn chance() -> Result<Chance, Error> {
    let mut random = [0; 6];
    getrandom::fill(&mut random).map_err(Error::Random)?;
    let [a, b, c, d, e, f] = random;
    Ok(Chance {
        xid: u32::from_be_bytes([a, b, c, d]),
        jitter: i16::try_from(u16::from_be_bytes([e, f]) % 2001).unwrap_or(0) - 1000,
    })
}
