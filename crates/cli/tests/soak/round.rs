//! One round: what befalls whom for how long, and what is asked meanwhile. Pure: a seed makes the same rounds everywhere.

use crate::asked::{Ask, Asked};
use crate::cluster::chaos::{Fault, Random};
use std::collections::BTreeSet;
use std::time::Duration;

/// For how long faults stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    For(Duration),
    /// Until what was lost runs elsewhere.
    UntilMoved,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    pub faults: Vec<Fault>,
    pub hold: Hold,
    /// Commands, each with the machine that is asked.
    pub asks: Vec<(usize, Ask)>,
    /// A machine that is drained before, and until all is mended.
    pub drained: Option<usize>,
}

fn fault(random: &mut Random, n: usize, other: usize) -> Fault {
    match random.below(10) {
        0 => Fault::Kill(n),
        1 => Fault::Die(n),
        2 => Fault::Pause(n),
        3 => Fault::Cut(n),
        4 => Fault::CutIn(n),
        5 => Fault::CutOut(n),
        6 => Fault::Apart(n, other),
        7 => Fault::Delay(n, 5 + u32::try_from(random.below(200)).unwrap()),
        8 => Fault::Lose(n, 5 + u8::try_from(random.below(50)).unwrap()),
        _ => Fault::FillDisk(n),
    }
}

/// Whether all others are lost to the machine, or it to them.
pub fn isolates(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::Kill(_)
            | Fault::Die(_)
            | Fault::Pause(_)
            | Fault::Cut(_)
            | Fault::CutIn(_)
            | Fault::CutOut(_)
    )
}

/// Machines that have to do with a fault.
pub fn touched(fault: Fault) -> Vec<usize> {
    match fault {
        Fault::Apart(a, b) => vec![a, b],
        other => vec![other.machine()],
    }
}

impl Round {
    /// The next one. `asked` learns what is asked in it.
    pub fn next(random: &mut Random, machines: usize, asked: &mut Asked) -> Self {
        let n = 1 + random.below(machines);
        let other = 1 + (n + random.below(machines - 1)) % machines;
        let mut faults = vec![fault(random, n, other)];
        let long = isolates(faults[0]) && random.below(3) == 0;
        if !long && random.below(3) == 0 {
            let third = 1 + (other + random.below(machines - 1)) % machines;
            if third != n {
                faults.push(fault(random, third, n));
            }
        }
        let hold = match long {
            true => Hold::UntilMoved,
            false => Hold::For(Duration::from_millis(random.next() % 3000)),
        };
        let hit: BTreeSet<usize> = faults.iter().flat_map(|f| touched(*f)).collect();
        let well: Vec<usize> = (1..=machines).filter(|n| !hit.contains(n)).collect();
        let drained = (random.below(6) == 0)
            .then(|| well.get(random.below(well.len().max(1))).copied())
            .flatten();
        let mut asks = Vec::new();
        let mut but = BTreeSet::new();
        // One that is hit may answer nothing for all of the round.
        if !well.is_empty() {
            for _ in 0..random.below(4) {
                let ask = asked.next(random, &but);
                but.insert(ask.unit);
                asked.learn(&ask);
                asks.push((well[random.below(well.len())], ask));
            }
        }
        Self {
            faults,
            hold,
            asks,
            drained,
        }
    }

    /// Machines that have to do with its faults.
    pub fn hit(&self) -> BTreeSet<usize> {
        self.faults.iter().flat_map(|f| touched(*f)).collect()
    }
}
