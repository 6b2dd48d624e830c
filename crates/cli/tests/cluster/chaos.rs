//! Faults at random, the same ones for the same seed.
//!
//! [`Chaos`] is pure: it says what comes next, and keeps no more than so many machines disturbed at once. [`Cluster::disturb`]
//! does what it says. What a run of it is like:
//!
//! ```text
//! Inflict(Cut(2)) for 1.2 s, Inflict(Pause(3)) for 0.4 s, Mend(Cut(2)), Inflict(Die(1)) …, Settle: all mended, checked
//! ```
//!
//! `CORACLE_SEED` gives the seed, `CORACLE_ROUNDS` how many faults, `CORACLE_MINUTES` how long instead.

use super::Cluster;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What can befall machines, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The daemon is killed and started again when it is mended.
    Kill(usize),
    /// The power goes, and comes back when it is mended.
    Die(usize),
    Pause(usize),
    Cut(usize),
    CutIn(usize),
    CutOut(usize),
    /// Two do not reach each other.
    Apart(usize, usize),
    /// Milliseconds each way.
    Delay(usize, u32),
    /// Percent each way.
    Lose(usize, u8),
    FillDisk(usize),
}

impl Fault {
    /// Whom it disturbs.
    pub fn machine(self) -> usize {
        match self {
            Self::Kill(n)
            | Self::Die(n)
            | Self::Pause(n)
            | Self::Cut(n)
            | Self::CutIn(n)
            | Self::CutOut(n)
            | Self::Apart(n, _)
            | Self::Delay(n, _)
            | Self::Lose(n, _)
            | Self::FillDisk(n) => n,
        }
    }
}

/// One step of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Inflict(Fault),
    Mend(Fault),
    /// Nothing is wrong any more: what was asked for has to come about.
    Settle,
}

/// A small generator (splitmix64), which a seed makes say the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `below` - 1.
    pub fn below(&mut self, below: usize) -> usize {
        usize::try_from(self.next() % below as u64).unwrap()
    }

    /// `CORACLE_SEED`, or one of now; it is printed, since a failure is told with it.
    pub fn from_environment() -> Self {
        let given = std::env::var("CORACLE_SEED").ok();
        let now = || {
            let now = std::time::SystemTime::now();
            let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
            u64::from(since.subsec_nanos()) ^ since.as_secs()
        };
        let seed = given.map_or_else(now, |seed| seed.parse().expect("CORACLE_SEED is a number"));
        eprintln!("CORACLE_SEED={seed}");
        Self(seed)
    }
}

/// How long faults go on.
#[derive(Debug, Clone, Copy)]
pub enum Length {
    Rounds(usize),
    Time(Duration),
}

impl Length {
    /// `CORACLE_MINUTES` if it is set, else `CORACLE_ROUNDS`, else `rounds`.
    pub fn from_environment(rounds: usize) -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(
                text.parse::<f64>()
                    .unwrap_or_else(|_| panic!("{name} is a number")),
            )
        };
        match (number("CORACLE_MINUTES"), number("CORACLE_ROUNDS")) {
            (Some(minutes), _) => Self::Time(Duration::from_secs_f64(minutes * 60.0)),
            (None, Some(rounds)) => Self::Rounds(rounds as usize),
            (None, None) => Self::Rounds(rounds),
        }
    }
}

/// Says what befalls whom next.
#[derive(Debug, Clone)]
pub struct Chaos {
    random: Random,
    machines: usize,
    at_once: usize,
    kinds: Vec<fn(&mut Random, usize, usize) -> Fault>,
    /// By the machine that it disturbs.
    now: BTreeMap<usize, Fault>,
    since_settled: usize,
}

/// Faults until everything is mended and looked at.
const UNTIL_SETTLED: usize = 4;

impl Chaos {
    /// All kinds of faults, on no more than `at_once` of `machines` machines at a time. Whoever is [`Fault::Apart`] from another
    /// counts once, and the other not.
    pub fn new(random: Random, machines: usize, at_once: usize) -> Self {
        let kinds: Vec<fn(&mut Random, usize, usize) -> Fault> = vec![
            |_, n, _| Fault::Kill(n),
            |_, n, _| Fault::Die(n),
            |_, n, _| Fault::Pause(n),
            |_, n, _| Fault::Cut(n),
            |_, n, _| Fault::CutIn(n),
            |_, n, _| Fault::CutOut(n),
            |_, n, other| Fault::Apart(n, other),
            |random, n, _| Fault::Delay(n, 5 + u32::try_from(random.below(200)).unwrap()),
            |random, n, _| Fault::Lose(n, 5 + u8::try_from(random.below(50)).unwrap()),
            |_, n, _| Fault::FillDisk(n),
        ];
        Self {
            random,
            machines,
            at_once: at_once.min(machines),
            kinds,
            now: BTreeMap::new(),
            since_settled: 0,
        }
    }

    /// What is wrong at present.
    pub fn now(&self) -> impl Iterator<Item = Fault> + '_ {
        self.now.values().copied()
    }

    /// What comes next, and for how long it is left so.
    pub fn next(&mut self) -> (Step, Duration) {
        let hold = Duration::from_millis(self.random.next() % 3000);
        let enough = self.since_settled >= UNTIL_SETTLED;
        if enough && self.now.is_empty() {
            self.since_settled = 0;
            return (Step::Settle, Duration::ZERO);
        }
        let full = self.now.len() == self.at_once;
        if !self.now.is_empty() && (enough || full || self.random.below(2) == 0) {
            let index = self.random.below(self.now.len());
            let machine = *self.now.keys().nth(index).unwrap();
            let fault = self.now.remove(&machine).unwrap();
            return (Step::Mend(fault), hold);
        }
        let free: Vec<_> = (1..=self.machines)
            .filter(|n| !self.now.contains_key(n))
            .collect();
        let machine = free[self.random.below(free.len())];
        let others: Vec<_> = (1..=self.machines).filter(|n| *n != machine).collect();
        let other = others.get(self.random.below(others.len().max(1)));
        let kind = self.kinds[self.random.below(self.kinds.len())];
        let fault = kind(&mut self.random, machine, other.copied().unwrap_or(machine));
        self.now.insert(machine, fault);
        self.since_settled += 1;
        (Step::Inflict(fault), hold)
    }
}

impl Cluster {
    pub fn inflict(&self, fault: Fault) {
        let machine = self.machine(fault.machine());
        match fault {
            Fault::Kill(_) => machine.kill(),
            Fault::Die(_) => machine.kill_all(),
            Fault::Pause(_) => machine.pause(),
            Fault::Cut(_) => machine.cut(),
            Fault::CutIn(_) => machine.cut_in(),
            Fault::CutOut(_) => machine.cut_out(),
            Fault::Apart(_, other) => machine.cut_from(other),
            Fault::Delay(_, milliseconds) => machine.delay(milliseconds),
            Fault::Lose(_, percent) => machine.lose(percent),
            Fault::FillDisk(_) => machine.fill_disk(),
        }
    }

    /// Ends it. Daemons are started but not waited for: they may need others that are still disturbed.
    pub fn mend(&self, fault: Fault) {
        let machine = self.machine(fault.machine());
        match fault {
            Fault::Kill(_) | Fault::Die(_) => machine.launch(),
            Fault::Pause(_) => machine.resume(),
            Fault::FillDisk(_) => machine.free_disk(),
            // Not all of the machine's: another's may still be with it.
            Fault::Apart(_, other) => machine.join_with(other),
            Fault::Cut(_) | Fault::CutIn(_) | Fault::CutOut(_) => machine.uncut(),
            Fault::Delay(_, _) => machine.delay(0),
            Fault::Lose(_, _) => machine.lose(0),
        }
    }

    /// Faults for this long. `always` is asked again and again, `settled` whenever nothing is wrong any more; both panic over
    /// what must not be.
    pub fn disturb(
        &self,
        chaos: &mut Chaos,
        length: Length,
        mut always: impl FnMut(),
        mut settled: impl FnMut(),
    ) {
        let begun = Instant::now();
        let mut rounds = 0;
        loop {
            let (step, hold) = chaos.next();
            match step {
                Step::Inflict(fault) => {
                    rounds += 1;
                    self.inflict(fault);
                }
                Step::Mend(fault) => self.mend(fault),
                Step::Settle => {
                    self.shared.note("all is mended".to_owned());
                    self.each(super::Machine::ready);
                    settled();
                    let over = match length {
                        Length::Rounds(wanted) => rounds >= wanted,
                        Length::Time(time) => begun.elapsed() >= time,
                    };
                    if over {
                        return;
                    }
                }
            }
            super::wait::stays(hold, || {
                always();
                true
            });
        }
    }
}
