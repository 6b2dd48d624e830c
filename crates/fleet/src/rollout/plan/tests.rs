#![allow(clippy::unwrap_used)]
use super::*;
use crate::rollout::record::Settings;
use std::collections::BTreeSet;

pub(in crate::rollout) fn deploy(before: &[(&str, u64)], after: &[&str]) -> DeployRecord {
    let now = crate::pace::utc();
    DeployRecord {
        version: 1,
        number: 1,
        unit: "web@.container".into(),
        to: 4,
        from: 3,
        settings: Settings {
            batch: 1,
            canary: 0,
            strategy: None,
            timeout: 300,
        },
        before: before.iter().map(|(n, r)| ((*n).to_owned(), *r)).collect(),
        after: after.iter().map(|n| (*n).to_owned()).collect(),
        stopped: BTreeSet::new(),
        made: BTreeSet::new(),
        proven: BTreeSet::new(),
        in_place: BTreeSet::new(),
        alone: None,
        fetched: false,
        known: false,
        stage: Stage::Forward,
        paused: None,
        approved: false,
        who: String::new(),
        message: String::new(),
        request: None,
        begun: now,
        moved: now,
        ended: None,
        report: None,
        log: Vec::new(),
    }
}

fn place(revision: u64, state: State) -> Option<Place> {
    Some(Place {
        revision,
        wanted: true,
        serves: Serves::Yes,
        state,
    })
}

fn runs(revision: u64) -> Seen {
    Seen {
        unit: place(revision, State::Settled),
        ..Seen::default()
    }
}

fn with(revision: u64, next: u64, state: State) -> Seen {
    Seen {
        successor: place(next, state),
        ..runs(revision)
    }
}

fn failed() -> State {
    State::Failed {
        reason: "exited with code 3".into(),
        code: Some(3),
        last_lines: vec!["no such table".into()],
    }
}

fn all(seen: &[(&str, Seen)]) -> BTreeMap<String, Seen> {
    let own = |(name, seen): &(&str, Seen)| ((*name).to_owned(), seen.clone());
    seen.iter().map(own).collect()
}

/// Steps in short: the verb and the unit.
fn steps(deploy: &DeployRecord, seen: &[(&str, Seen)]) -> Vec<String> {
    short(&next(deploy, &all(seen), false))
}

fn short(steps: &[Step]) -> Vec<String> {
    let one = |step: &Step| match step {
        Step::Begin { unit, revision, .. } => format!("begin {unit} {revision}"),
        Step::Create { unit, revision, .. } => format!("create {unit} {revision}"),
        Step::Replace { unit, revision, .. } => format!("replace {unit} {revision}"),
        Step::Admit { unit, .. } => format!("admit {unit}"),
        Step::Promote { unit, .. } => format!("promote {unit}"),
        Step::Drop { unit, in_place, .. } => format!("drop {unit} {in_place}"),
        Step::Remove { unit, .. } => format!("remove {unit}"),
        Step::Stop { unit, .. } => format!("stop {unit}"),
        Step::Pause { .. } => "pause".to_owned(),
        Step::TurnBack(report) => format!("back {} {}", report.unit, report.reason),
        Step::Finish { stage, .. } => format!("finish {stage:?}"),
    };
    steps.iter().map(one).collect()
}

const TWO: [(&str, u64); 2] = [("web@1", 3), ("web@2", 3)];

#[test]
fn one_after_the_other_and_each_once_it_is_well() {
    let d = deploy(&TWO, &["web@1", "web@2"]);
    let two = |one: Seen| [("web@1", one), ("web@2", runs(3))];
    assert_eq!(steps(&d, &two(runs(3))), ["begin web@1 4"]);
    for state in [State::Coming, State::Up] {
        assert!(steps(&d, &two(with(3, 4, state))).is_empty());
    }
    let mut new = with(3, 4, State::Settled);
    new.successor.as_mut().unwrap().serves = Serves::Held;
    assert_eq!(steps(&d, &two(new.clone())), ["admit web@1"]);
    new.successor.as_mut().unwrap().serves = Serves::Asked;
    assert!(steps(&d, &two(new)).is_empty());
    let settled = with(3, 4, State::Settled);
    assert_eq!(steps(&d, &two(settled)), ["promote web@1"]);
    // What is known to be well proves nothing anew.
    let mut known = d.clone();
    known.known = true;
    assert_eq!(
        steps(&known, &two(with(3, 4, State::Up))),
        ["promote web@1"]
    );
    // The former one drains: the next waits.
    let leaving = Seen {
        leaving: true,
        ..runs(4)
    };
    assert!(steps(&d, &two(leaving)).is_empty());
    assert_eq!(steps(&d, &two(runs(4))), ["begin web@2 4"]);
    let both = [("web@1", runs(4)), ("web@2", runs(4))];
    assert_eq!(steps(&d, &both), ["finish Done"]);
}

#[test]
fn what_fails_turns_it_back_to_what_was() {
    let mut d = deploy(&TWO, &["web@1", "web@2", "web@3"]);
    let seen = [("web@1", runs(4)), ("web@2", with(3, 4, failed()))];
    assert_eq!(steps(&d, &seen), ["back web@2 exited with code 3"]);
    d.stage = Stage::Back;
    // The one that failed goes first, then what was replaced comes back.
    assert_eq!(steps(&d, &seen), ["drop web@2 false"]);
    let seen = [("web@1", runs(4)), ("web@2", runs(3))];
    assert_eq!(steps(&d, &seen), ["begin web@1 3"]);
    // What ran before need not prove itself anew.
    let seen = [("web@1", with(4, 3, State::Up)), ("web@2", runs(3))];
    assert_eq!(steps(&d, &seen), ["promote web@1"]);
    let seen = [("web@1", runs(3)), ("web@2", runs(3)), ("web@3", runs(4))];
    assert_eq!(steps(&d, &seen), ["remove web@3"]);
    let seen = [("web@1", runs(3)), ("web@2", runs(3))];
    assert_eq!(steps(&d, &seen), ["finish Restored"]);
}

#[test]
fn a_failure_on_the_way_back_does_not_turn_it_round() {
    let mut d = deploy(&TWO, &["web@1", "web@2"]);
    d.stage = Stage::Back;
    let seen = [("web@1", with(4, 3, failed())), ("web@2", runs(3))];
    assert_eq!(steps(&d, &seen), ["drop web@1 true"]);
    d.in_place.insert("web@1".into());
    let seen = [("web@1", runs(4)), ("web@2", runs(3))];
    assert_eq!(steps(&d, &seen), ["replace web@1 3"]);
    // It ran so before; whether it comes up is its own matter.
    let there = Seen {
        unit: place(3, failed()),
        ..Seen::default()
    };
    let seen = [("web@1", there), ("web@2", runs(3))];
    assert_eq!(steps(&d, &seen), ["finish Restored"]);
}

#[test]
fn time_and_room_that_are_not_there_turn_it_back() {
    let mut d = deploy(&TWO, &["web@1", "web@2"]);
    let coming = all(&[("web@1", with(3, 4, State::Coming)), ("web@2", runs(3))]);
    let late = short(&next(&d, &coming, true));
    assert_eq!(
        late,
        ["back web@1 it was not healthy for its time within 300 s"]
    );
    let nowhere = |in_place| State::Nowhere {
        reason: "no machine has 8 GiB".into(),
        in_place,
    };
    let seen = |in_place| [("web@1", with(3, 4, nowhere(in_place))), ("web@2", runs(3))];
    assert_eq!(steps(&d, &seen(false)), ["back web@1 no machine has 8 GiB"]);
    // Where the former one's room is enough it goes first.
    assert_eq!(steps(&d, &seen(true)), ["drop web@1 true"]);
    let mut stops = with(3, 4, State::Down);
    stops.successor.as_mut().unwrap().wanted = false;
    let stopped = [("web@1", stops), ("web@2", runs(3))];
    assert_eq!(steps(&d, &stopped), ["drop web@1 false"]);
    d.in_place.insert("web@1".into());
    let seen_both = [("web@1", runs(3)), ("web@2", runs(3))];
    assert_eq!(steps(&d, &seen_both), ["replace web@1 4"]);
    d.settings.strategy = Some(Strategy::StartFirst);
    assert_eq!(steps(&d, &seen(true)), ["back web@1 no machine has 8 GiB"]);
}

#[test]
fn what_must_be_alone_stops_first() {
    let d = deploy(&TWO, &["web@1", "web@2"]);
    let alone = |revision, state| Seen {
        unit: place(revision, state),
        alone: Some("it has data".into()),
        ..Seen::default()
    };
    let seen = |one| [("web@1", one), ("web@2", alone(3, State::Settled))];
    let first = seen(alone(3, State::Settled));
    assert_eq!(steps(&d, &first), ["replace web@1 4"]);
    assert!(steps(&d, &seen(alone(4, State::Coming))).is_empty());
    assert_eq!(
        steps(&d, &seen(alone(4, failed()))),
        ["back web@1 exited with code 3"]
    );
    let mut back = d.clone();
    back.stage = Stage::Back;
    assert_eq!(steps(&back, &seen(alone(4, failed()))), ["replace web@1 3"]);
}

#[test]
fn batches_canaries_and_pauses() {
    let names = ["web@1", "web@2", "web@10", "web@3"];
    let before: Vec<(&str, u64)> = names.iter().map(|n| (*n, 3)).collect();
    let mut d = deploy(&before, &names);
    let seen: Vec<(&str, Seen)> = names.iter().map(|n| (*n, runs(3))).collect();
    d.settings.batch = 2;
    assert_eq!(steps(&d, &seen), ["begin web@1 4", "begin web@2 4"]);
    d.settings.canary = 1;
    assert_eq!(steps(&d, &seen), ["begin web@1 4"]);
    let one_done: Vec<(&str, Seen)> = names
        .iter()
        .map(|n| (*n, runs(if *n == "web@1" { 4 } else { 3 })))
        .collect();
    assert_eq!(steps(&d, &one_done), ["pause"]);
    d.paused = Some("canaries".into());
    assert!(steps(&d, &one_done).is_empty());
    (d.paused, d.approved) = (None, true);
    assert_eq!(steps(&d, &one_done), ["begin web@2 4", "begin web@3 4"]);
    // A pause ends nothing that is under way.
    d.paused = Some("by ann".into());
    let mut under_way = one_done.clone();
    under_way[1].1 = with(3, 4, State::Settled);
    assert_eq!(steps(&d, &under_way), ["promote web@2"]);
}

#[test]
fn more_and_fewer() {
    let d = deploy(&TWO, &["web@1", "web@2", "web@3"]);
    let seen = [("web@1", runs(4)), ("web@2", runs(4))];
    assert_eq!(steps(&d, &seen), ["create web@3 4"]);
    let d = deploy(&TWO, &["web@1"]);
    let seen = [("web@1", runs(3)), ("web@2", runs(3))];
    assert_eq!(steps(&d, &seen), ["begin web@1 4"]);
    let seen = [("web@1", runs(4)), ("web@2", runs(3))];
    assert_eq!(steps(&d, &seen), ["remove web@2"]);
    let gone = [("web@1", runs(4))];
    assert_eq!(steps(&d, &gone), ["finish Done"]);
}

#[test]
fn what_somebody_stops_meanwhile_stays_stopped() {
    let d = deploy(&TWO, &["web@1", "web@2"]);
    let stopped = Place {
        revision: 3,
        wanted: false,
        serves: Serves::Yes,
        state: State::Down,
    };
    let seen = |next| Seen {
        unit: Some(stopped.clone()),
        successor: next,
        ..Seen::default()
    };
    let one = [("web@1", seen(place(4, failed()))), ("web@2", runs(4))];
    assert_eq!(steps(&d, &one), ["drop web@1 false"]);
    let one = [("web@1", seen(None)), ("web@2", runs(4))];
    assert_eq!(steps(&d, &one), ["finish Done"]);
    let all_down = [("web@1", seen(None)), ("web@2", seen(None))];
    let said = steps(&d, &all_down);
    assert_eq!(
        said,
        ["back web@.container all of its units were stopped meanwhile"]
    );
}

#[test]
fn what_was_there_and_did_not_run_is_started_and_stopped_again() {
    let mut d = deploy(&[], &["web"]);
    d.stopped.insert("web".into());
    let down = |revision| Seen {
        unit: Some(Place {
            revision,
            wanted: false,
            serves: Serves::Yes,
            state: State::Down,
        }),
        ..Seen::default()
    };
    assert_eq!(steps(&d, &[("web", down(3))]), ["replace web 4"]);
    let fails = Seen {
        unit: place(4, failed()),
        ..Seen::default()
    };
    let seen = [("web", fails)];
    assert_eq!(steps(&d, &seen), ["back web exited with code 3"]);
    // Who stops it then means it: whether it is any good is not known, unless it was seen to be.
    d.made.insert("web".into());
    let said = steps(&d, &[("web", down(4))]);
    assert_eq!(
        said,
        ["back web it was stopped before it was known to be well"]
    );
    d.proven.insert("web".into());
    let said = steps(&d, &[("web", down(4))]);
    assert_eq!(
        said,
        ["back web@.container all of its units were stopped meanwhile"]
    );
    d.stage = Stage::Back;
    assert_eq!(steps(&d, &seen), ["stop web"]);
    assert_eq!(steps(&d, &[("web", down(4))]), ["finish Restored"]);
    // Its text is its own again, if it is a service of its own.
    d.unit = "web".into();
    assert_eq!(steps(&d, &[("web", down(4))]), ["stop web"]);
    assert_eq!(steps(&d, &[("web", down(3))]), ["finish Restored"]);
}

/// Whatever happens between two looks, a deploy comes to one of its two ends: units fail, are slow, find no room, at random.
#[test]
fn it_always_comes_to_one_of_its_ends() {
    for seed in 0..2_000_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % n
        };
        let names = ["web@1", "web@2", "web@3", "web@4"];
        let old = usize::try_from(below(4)).unwrap();
        let new = 1 + usize::try_from(below(4)).unwrap();
        let before: Vec<(&str, u64)> = names[..old].iter().map(|n| (*n, 3)).collect();
        let mut d = deploy(&before, &names[..new]);
        d.settings.batch = 1 + u32::try_from(below(3)).unwrap();
        d.settings.canary = u32::try_from(below(3)).unwrap();
        let alone = below(4) == 0;
        let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
        for name in &names[..old] {
            let alone = alone.then(|| "it has data".to_owned());
            let one = Seen { alone, ..runs(3) };
            seen.insert((*name).to_owned(), one);
        }
        let mut rounds = 0;
        while !d.stage.is_over() {
            rounds += 1;
            assert!(rounds < 500, "seed {seed}: {d:?} {seen:?}");
            for step in next(&d, &seen, below(40) == 0) {
                take(&mut d, &mut seen, &step, &mut below);
            }
            for one in seen.values_mut() {
                one.leaving &= below(2) == 0;
                for place in [&mut one.unit, &mut one.successor].into_iter().flatten() {
                    go_on(place, d.stage, &mut below);
                }
            }
            d.paused = d.paused.filter(|_| below(3) > 0);
            d.approved |= d.paused.is_none() && below(2) == 0;
        }
        let has = |revision| {
            let there = seen.iter().filter(|(_, s)| s.unit.is_some());
            let there: Vec<_> = there
                .map(|(n, s)| (n.as_str(), s.unit.as_ref().unwrap().revision))
                .collect();
            there.iter().all(|(_, r)| *r == revision).then_some(there)
        };
        let count = has(if d.stage == Stage::Done { 4 } else { 3 }).unwrap();
        let wanted = if d.stage == Stage::Done { new } else { old };
        assert_eq!(count.len(), wanted, "seed {seed}: {d:?}");
        assert!(seen.values().all(|s| s.successor.is_none()), "seed {seed}");
    }
}

fn go_on(place: &mut Place, stage: Stage, below: &mut impl FnMut(u64) -> u64) {
    if place.serves == Serves::Asked && below(2) == 0 {
        place.serves = Serves::Yes;
    }
    place.state = match (&place.state, below(12)) {
        (_, 0) if stage == Stage::Forward && place.revision == 4 => failed(),
        (State::Coming, 1..6) if place.wanted => State::Up,
        (State::Coming, _) if !place.wanted => State::Down,
        (State::Up, 1..6) => State::Settled,
        // An old revision comes up again in the end.
        (State::Failed { .. }, _) if place.revision == 3 => State::Coming,
        (other, _) => other.clone(),
    };
}

fn take(
    d: &mut DeployRecord,
    seen: &mut BTreeMap<String, Seen>,
    step: &Step,
    below: &mut impl FnMut(u64) -> u64,
) {
    let coming = |revision| {
        Some(Place {
            revision,
            wanted: true,
            serves: Serves::Held,
            state: State::Coming,
        })
    };
    match step {
        Step::Begin { unit, revision, .. } => {
            let one = seen.entry(unit.clone()).or_default();
            assert!(one.successor.is_none() && one.alone.is_none());
            one.successor = coming(*revision);
            if below(10) == 0 {
                one.successor.as_mut().unwrap().state = State::Nowhere {
                    reason: "no machine".into(),
                    in_place: below(2) == 0,
                };
            }
        }
        Step::Create { unit, revision, .. } => {
            let one = seen.entry(unit.clone()).or_default();
            assert!(one.unit.is_none());
            one.unit = coming(*revision);
        }
        Step::Replace { unit, revision, .. } => {
            let one = seen.get(unit).unwrap();
            // Nothing that serves stops first unless it must.
            assert!(one.alone.is_some() || d.in_place.contains(unit));
            seen.entry(unit.clone()).or_default().unit = coming(*revision);
        }
        Step::Admit { unit, .. } => {
            let one = seen.entry(unit.clone()).or_default();
            one.successor.as_mut().unwrap().serves = Serves::Asked;
        }
        Step::Promote { unit, .. } => {
            let one = seen.entry(unit.clone()).or_default();
            assert_eq!(one.successor.as_ref().unwrap().serves, Serves::Yes);
            let state = one.successor.as_ref().map(|s| s.state.clone()).unwrap();
            let is_back = d.stage == Stage::Back && state == State::Up;
            assert!(state == State::Settled || is_back, "{state:?}");
            one.unit = one.successor.take();
            one.leaving = true;
        }
        Step::Drop { unit, in_place, .. } => {
            seen.entry(unit.clone()).or_default().successor = None;
            if *in_place {
                d.in_place.insert(unit.clone());
            }
        }
        Step::Remove { unit, .. } => drop(seen.remove(unit)),
        Step::Stop { unit, .. } => {
            seen.entry(unit.clone())
                .or_default()
                .unit
                .as_mut()
                .unwrap()
                .wanted = false;
        }
        Step::Pause { reason } => d.paused = Some(reason.clone()),
        Step::TurnBack(report) => (d.stage, d.report) = (Stage::Back, Some(report.clone())),
        Step::Finish { stage, .. } => d.stage = *stage,
    }
}
