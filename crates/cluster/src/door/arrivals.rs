//! Who knocks and is not known yet, by address: nobody takes the door from the others, by many connections that say nothing.
//!
//! Worked example, with 32 turns and 512 places for each address and 2048 places for all: somebody at 192.0.2.9 opens 1000 connections and is silent.
//! 488 of them are closed at once, 480 wait, and 32 are waited for until their time is over. A machine at 192.0.2.2 has its turn as ever. With five
//! such addresses all places are taken; the machine gets one of an address that has the most, whose longest waiting connection is closed.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// See the module.
pub(crate) struct Arrivals {
    turns: usize,
    places: usize,
    all: usize,
    sources: Mutex<Sources>,
}

#[derive(Default)]
struct Sources {
    by: HashMap<IpAddr, Source>,
    /// How many have come.
    come: u64,
    here: usize,
}

struct Source {
    /// In the order in which they came; each is told to go by its token.
    here: BTreeMap<u64, CancellationToken>,
    turns: Arc<Semaphore>,
}

/// One that knocks. Its place is free again when this is dropped.
pub(crate) struct Arrival {
    all: Arc<Arrivals>,
    from: IpAddr,
    number: u64,
    turns: Arc<Semaphore>,
    away: CancellationToken,
}

/// Whose places an address takes: of IPv6 a whole /64, of which anybody has all.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip => ip,
    }
}

impl Arrivals {
    /// `places` for each address, of which `turns` are served at once, and so many for `all` of them.
    pub(crate) fn new(turns: usize, places: usize, all: usize) -> Arc<Self> {
        Arc::new(Self {
            turns,
            places,
            all,
            sources: Mutex::default(),
        })
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for who comes from there, if one is left or an address has more than its share of them.
    pub(crate) fn come(self: &Arc<Self>, address: IpAddr) -> Option<Arrival> {
        let from = source(address);
        let mut sources = self.sources();
        let own = sources.by.get(&from).map_or(0, |s| s.here.len());
        if own >= self.places {
            return None;
        }
        if sources.here >= self.all {
            let most = sources.by.iter().max_by_key(|(_, s)| s.here.len());
            let (most, _) = most.filter(|(_, s)| s.here.len() > own + 1)?;
            let most = *most;
            sources.first_of(most)?.cancel();
        }
        sources.come += 1;
        sources.here += 1;
        let (number, away) = (sources.come, CancellationToken::new());
        let source = sources.by.entry(from).or_insert_with(|| Source {
            here: BTreeMap::new(),
            turns: Arc::new(Semaphore::new(self.turns)),
        });
        source.here.insert(number, away.clone());
        Some(Arrival {
            all: self.clone(),
            from,
            number,
            turns: source.turns.clone(),
            away,
        })
    }
}

impl Sources {
    /// Takes the place of who has been there longest from that address.
    fn first_of(&mut self, from: IpAddr) -> Option<CancellationToken> {
        let number = *self.by.get(&from)?.here.keys().next()?;
        self.leave(from, number)
    }

    fn leave(&mut self, from: IpAddr, number: u64) -> Option<CancellationToken> {
        let source = self.by.get_mut(&from)?;
        let away = source.here.remove(&number)?;
        self.here -= 1;
        if source.here.is_empty() {
            self.by.remove(&from);
        }
        Some(away)
    }
}

impl Arrival {
    /// Waits until it is this one's turn among those of its address.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        self.turns.clone().acquire_owned().await.ok()
    }

    /// Waits until its place is somebody else's.
    pub(crate) fn away(&self) -> impl Future<Output = ()> + use<> {
        self.away.clone().cancelled_owned()
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.all.sources().leave(self.from, self.number);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_has_the_most_makes_room() {
        let arrivals = Arrivals::new(1, 4, 6);
        let of = |n: u8| IpAddr::from([192, 0, 2, n]);
        let crowd: Vec<_> = (0..4).map(|_| arrivals.come(of(1)).unwrap()).collect();
        assert!(arrivals.come(of(1)).is_none());
        let pair: Vec<_> = (0..2).map(|_| arrivals.come(of(2)).unwrap()).collect();
        let one = arrivals.come(of(3)).unwrap();
        let gone = |arrival: &Arrival| arrival.away.is_cancelled();
        assert_eq!(
            crowd.iter().map(gone).collect::<Vec<_>>(),
            [true, false, false, false]
        );
        assert!(pair.iter().all(|a| !gone(a)) && !gone(&one));
        // Of those, nobody would have less than it.
        assert!(arrivals.come(of(2)).is_none());
        drop(crowd);
        assert_eq!(arrivals.sources().here, 3);
        drop((pair, one));
        let left = arrivals.sources();
        assert_eq!((left.here, left.by.len()), (0, 0));
    }
}
