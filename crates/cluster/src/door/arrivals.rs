//! Who knocks and is not known yet, by address: nobody takes the door from the others, by many connections that say nothing.
//!
//! Worked example, with 32 turns and 512 places for each address: somebody at 192.0.2.9 opens 1000 connections and is silent. 488 of them
//! are closed at once, 480 wait, and 32 are waited for until their time is over. A machine at 192.0.2.2 has its turn as ever.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// See the module.
pub(crate) struct Arrivals {
    turns: usize,
    places: usize,
    sources: Mutex<HashMap<IpAddr, Source>>,
}

struct Source {
    here: usize,
    turns: Arc<Semaphore>,
}

/// One that knocks. Its place is free again when this is dropped.
pub(crate) struct Arrival {
    all: Arc<Arrivals>,
    from: IpAddr,
    turns: Arc<Semaphore>,
}

/// Whose places an address takes: of IPv6 a whole /64, of which anybody has all.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip => ip,
    }
}

impl Arrivals {
    pub(crate) fn new(turns: usize, places: usize) -> Arc<Self> {
        Arc::new(Self {
            turns,
            places,
            sources: Mutex::default(),
        })
    }

    /// A place for who comes from there, if one is left.
    pub(crate) fn come(self: &Arc<Self>, address: IpAddr) -> Option<Arrival> {
        let from = source(address);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let source = sources.entry(from).or_insert_with(|| Source {
            here: 0,
            turns: Arc::new(Semaphore::new(self.turns)),
        });
        if source.here >= self.places {
            return None;
        }
        source.here += 1;
        Some(Arrival {
            all: self.clone(),
            from,
            turns: source.turns.clone(),
        })
    }
}

impl Arrival {
    /// Waits until it is this one's turn among those of its address.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        self.turns.clone().acquire_owned().await.ok()
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let sources = &self.all.sources;
        let mut sources = sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = sources.get_mut(&self.from) {
            source.here -= 1;
            if source.here == 0 {
                sources.remove(&self.from);
            }
        }
    }
}
