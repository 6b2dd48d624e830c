//! The promises of [`super`] as a model of one machine, its store and a leader, with everything late that can be, for thousands of seeds.
//! Leaving out any one of them is found.
#![allow(clippy::unwrap_used)]
use super::*;
use coracle_unit::{SpecifierContext, UnitName, load};

/// What is kept to.
#[derive(Clone, Copy)]
struct Rules {
    /// What the leader waits after it saw the key gone, in milliseconds.
    fence: i64,
    /// The permit counts from the sending of the question.
    from_sending: bool,
    /// The successor is placed only while the key is not there.
    needs_absence: bool,
    /// A start asks whether the unit is the machine's.
    asks_for_place: bool,
}

const RULES: Rules = Rules {
    fence: FENCE.as_millis() as i64,
    from_sending: true,
    needs_absence: true,
    asks_for_place: true,
};

/// Step of true time, and how long a run is at most, in milliseconds.
const STEP: i64 = 50;
const LONGEST: i64 = 150_000;
/// The lease in the store; any will do.
const LEASE_MS: i64 = 4000;
/// How late killed processes go at worst.
const LATE: i64 = 1500;
const STOP: i64 = 2000;

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, below: i64) -> i64 {
        (self.next() % below.unsigned_abs()) as i64
    }

    /// Mostly short, now and then very long.
    fn delay(&mut self) -> i64 {
        match self.below(10) {
            0 => self.below(15_000),
            _ => self.below(300),
        }
    }
}

/// A clock that is not quite right, by up to a part in a thousand.
struct Clock(i64);

impl Clock {
    fn at(&self, true_ms: i64) -> i64 {
        true_ms + true_ms * self.0 / 1_000_000
    }
}

struct Question {
    sent: i64,
    to_start: bool,
    effect_at: i64,
    /// Set when it has taken effect.
    yes: Option<bool>,
    answer_at: i64,
}

/// When both ran at once, if they ever did.
fn both_at_once(seed: u64, rules: Rules) -> Option<i64> {
    let mut dice = Dice(seed);
    let mut clock = || Clock(dice.below(2001) - 1000);
    let (own, leader) = (clock(), clock());
    let (mut cut_until, mut stopped_until) = (0, 0);
    let (mut key, mut sign) = (true, 0);
    let mut questions: Vec<Question> = Vec::new();
    let mut next_question = 0;
    // What runs on the machine, until when it may, and when it is killed for sure.
    let mut runs: Option<i64> = None;
    let mut seen: Vec<(i64, bool)> = Vec::new();
    let mut away: Option<i64> = None;
    let (mut here, mut elsewhere) = (true, None);
    for now in (0..LONGEST).step_by(STEP as usize) {
        if dice.below(200) == 0 {
            cut_until = now + dice.below(25_000);
        }
        if dice.below(300) == 0 {
            stopped_until = now + dice.below(25_000);
        }
        let (cut, stopped) = (now < cut_until, now < stopped_until);
        let mut tell = |present: bool, dice: &mut Dice| {
            let last = seen.last().map_or(0, |(at, _)| *at);
            seen.push((last.max(now + dice.below(2000)), present));
        };
        if !cut && !stopped {
            sign = now;
            if !std::mem::replace(&mut key, true) {
                tell(true, &mut dice);
            }
        } else if key && now - sign >= LEASE_MS {
            key = false;
            tell(false, &mut dice);
        }
        // The machine asks.
        if !stopped && now >= next_question {
            next_question = now + 1000;
            if !cut {
                let effect_at = now + dice.delay();
                questions.push(Question {
                    sent: own.at(now),
                    to_start: runs.is_none(),
                    effect_at,
                    yes: None,
                    answer_at: effect_at + dice.delay(),
                });
            }
        }
        for question in questions.iter_mut().filter(|q| q.effect_at <= now) {
            let place = here || !question.to_start || !rules.asks_for_place;
            question.yes.get_or_insert(key && place);
        }
        if !stopped {
            let come = questions.extract_if(.., |q| q.yes.is_some() && q.answer_at <= now);
            for question in come.filter(|q| q.yes == Some(true)) {
                let from = match rules.from_sending {
                    true => question.sent,
                    false => own.at(now),
                };
                let until = from + HOLD.as_millis() as i64;
                runs = match runs {
                    Some(known) => Some(known.max(until)),
                    None if question.to_start && until - STOP > own.at(now) => Some(until),
                    None => None,
                };
            }
        }
        if runs.is_some_and(|until| own.at(now - LATE) >= until) {
            runs = None;
        }
        // The leader hears, waits, and places it elsewhere.
        let heard = seen.iter().filter(|(at, _)| *at <= now).count();
        for (_, present) in seen.drain(..heard) {
            away = match (present, away) {
                (true, _) => None,
                (false, since) => since.or(Some(leader.at(now))),
            };
        }
        let fenced = away.is_some_and(|since| leader.at(now) - since >= rules.fence);
        if fenced && here && dice.below(10) == 0 {
            if rules.needs_absence && key {
                away = None;
            } else {
                (here, elsewhere) = (false, Some(now));
            }
        }
        if elsewhere.is_some() && runs.is_some() {
            return Some(now);
        }
        if elsewhere.is_some_and(|since| now - since > 40_000) {
            return None;
        }
    }
    None
}

#[test]
fn never_two_at_once() {
    for seed in 0..3000 {
        assert_eq!(both_at_once(seed, RULES), None, "seed {seed}");
    }
}

#[test]
fn each_rule_is_needed() {
    let broken = [
        (
            "fence",
            Rules {
                fence: RULES.fence - 6000,
                ..RULES
            },
        ),
        (
            "from sending",
            Rules {
                from_sending: false,
                ..RULES
            },
        ),
        (
            "absence",
            Rules {
                needs_absence: false,
                ..RULES
            },
        ),
        (
            "place",
            Rules {
                asks_for_place: false,
                ..RULES
            },
        ),
    ];
    for (what, rules) in broken {
        let found = (0..3000).find(|seed| both_at_once(*seed, rules).is_some());
        assert!(found.is_some(), "{what}: nothing was found without it");
    }
}

fn unit(name: &str, text: &str) -> Arc<Unit> {
    let name = UnitName::new(name).unwrap();
    Arc::new(load(&name, text, &[], &SpecifierContext::default()).unwrap())
}

fn container(text: &str) -> Arc<Unit> {
    unit("x.container", &format!("[Container]\nImage=bb\n{text}"))
}

#[test]
fn data_makes_exclusive_unless_it_is_said_not_to() {
    for (text, exclusive) in [
        ("", false),
        ("[X-Deploy]\nExclusive=yes\n", true),
        ("Volume=data:/data\n", true),
        ("Volume=data.volume:/data\n", true),
        ("Volume=/srv:/data\n", false),
        ("Volume=data:/data\n[X-Deploy]\nExclusive=no\n", false),
        ("Volume=data:/data\n[X-Fleet]\nGlobal=yes\n", false),
    ] {
        assert_eq!(is_exclusive(&container(text)), exclusive, "{text}");
    }
    let service = "[Service]\nExecStart=/bin/true\n[X-Deploy]\nExclusive=yes\n";
    assert!(is_exclusive(&unit("x.service", service)));
    assert_eq!(
        coracle_engine::exclusive::LONGEST_STOP,
        deploy::LONGEST_STOP
    );
}

#[test]
fn signs_are_as_the_most_impatient_unit_needs_them() {
    let signs = |texts: &[&str]| {
        let signs = Signs::of(texts.iter().map(|text| container(text)));
        (
            signs.lease,
            signs.patience.as_secs(),
            signs.beat().as_secs(),
        )
    };
    let (soon, exclusive) = (
        "[X-Deploy]\nLostAfterSec=5\n",
        "[X-Deploy]\nExclusive=yes\n",
    );
    assert_eq!(signs(&[]), (10, 0, 3));
    assert_eq!(signs(&["", "[X-Deploy]\nLostAfterSec=20\n"]), (10, 0, 3));
    assert_eq!(signs(&["", "[X-Deploy]\nLostAfterSec=8\n"]), (6, 0, 1));
    assert_eq!(signs(&["", soon]), (3, 0, 1));
    // Its key goes early, so that the fence begins early; the others are not moved sooner for it.
    assert_eq!(signs(&["", exclusive]), (4, 6, 1));
    assert_eq!(signs(&[soon, exclusive]), (3, 0, 1));
}
