#![allow(clippy::unwrap_used)]
use super::*;

fn id(name: char) -> MachineId {
    name.to_string().repeat(32).parse().unwrap()
}

/// `a*` leads, `b` votes, `c~` learns, `d~~` learns and is in step, `e.` is none of etcd's; `†` is dead for a moment, `††` is lost,
/// `‡` has a daemon that lives and an etcd that is lost, `x` and `xx` failed long ago and lately, `-` leaves, `!` cannot run etcd.
fn machines(text: &str) -> Vec<Machine> {
    let one = |word: &str| {
        let marks = &word[1..];
        let role = match () {
            () if marks.contains("~~") => Role::Learner { ready: true },
            () if marks.contains('~') => Role::Learner { ready: false },
            () if marks.contains('.') => Role::None,
            () => Role::Voter {
                leader: marks.contains('*'),
            },
        };
        let dead = match () {
            () if marks.contains("††") || marks.contains('‡') => Some(PATIENCE),
            () if marks.contains('†') => Some(PATIENCE - Duration::from_secs(1)),
            () => None,
        };
        Machine {
            id: id(word.chars().next().unwrap()),
            belongs: !marks.contains('-'),
            dead,
            capable: !marks.contains('!'),
            again: !marks.contains('†') && !marks.contains('!'),
            failed: match () {
                () if marks.contains("xx") => Some(PATIENCE),
                () if marks.contains('x') => Some(PATIENCE * 2),
                () => None,
            },
            role,
        }
    };
    text.split_whitespace().map(one).collect()
}

fn step(text: &str) -> String {
    let name = |id: MachineId| id.as_str()[..1].to_owned();
    match next(&machines(text), PATIENCE).step {
        Step::None => String::new(),
        Step::AddLearner(id) => format!("+{}", name(id)),
        Step::Promote(id) => format!("^{}", name(id)),
        Step::Remove(id) => format!("-{}", name(id)),
    }
}

#[test]
fn the_table() {
    let table = [
        // Alone; two; three.
        ("a*", ""),
        ("a* b.", "+b"),
        ("a* b~", ""),
        ("a* b~~", ""),
        ("a* b~~ c.", "^b"),
        ("a* b~ c.", ""),
        ("a* b c.", "+c"),
        ("a* b c~", ""),
        ("a* b c~~", "^c"),
        ("a* b c", ""),
        // No vote to make it even where nobody can make it odd again.
        ("a* b~~ c.†", ""),
        ("a* b~~ c.!", ""),
        ("a* b. c.!", "+b"),
        // More machines: five votes from seven on.
        ("a* b c d. e. f.", ""),
        ("a* b c d. e. f. 1.", "+1"),
        ("a* b c d~~ e. f. 1.", "^d"),
        ("a* b c d e~~ f. 1.", "^e"),
        ("a* b c d e f. 1.", ""),
        ("a* b c d~~ e. f.", "-d"),
        // A dead voter, for a moment and for good.
        ("a* b c† d.", ""),
        ("a* b c†† d.", "-c"),
        ("a* b d.", "+d"),
        ("a* b c† d. e. f. 1.", ""),
        ("a* b c d†† e†† f. 1.", "-d"),
        ("a* b c e†† f. 1.", "-e"),
        ("a* b c†- d.", "-c"),
        ("a* b c†† d~", ""),
        ("a* b c†† d~~", "-c"),
        ("a* b d~~ c.††", "^d"),
        ("a* b c††", ""),
        ("a* b c†† d~††", "-d"),
        ("a* b c†† d~†† e.", "-d"),
        ("a* b c†† d.!", ""),
        // Its etcd alone is dead: it begins anew, unless another machine learns already.
        ("a* b c‡", "-c"),
        ("a* b c‡ d.", "-c"),
        ("a* b c‡-", "-c"),
        ("a* b c‡ d~", ""),
        ("a* b c.x", "+c"),
        ("a* b‡", ""),
        ("a* b c d†† e‡ 1.! 2.! 3.!", "-e"),
        // Who has failed comes after all others, and who failed last at the very end.
        ("a* b c.x d.", "+d"),
        ("a* b c.xx d.x", "+d"),
        ("a* b c.x d.xx", "+c"),
        ("a* b c~†† d.xx", "-c"),
        ("a* b d~‡ c.x", "-d"),
        // No majority: nothing.
        ("a* b†† c†† d.", ""),
        ("a†† b~~", ""),
        ("a b†† c. d.", ""),
        // Leaving: the only voter goes when another votes.
        ("a*- b~~", "^b"),
        ("a*- b", "-a"),
        ("a*- b.", "+b"),
        ("a* b c-", "-c"),
        ("a* b- c", "-b"),
        ("a* b c†-", "-c"),
        ("a* b† c-", "-b"),
        ("a* b c- d.", "-c"),
        ("a* b~-", "-b"),
        // Two votes of two machines: one becomes a copy again.
        ("a b*", "-a"),
        ("a* b", "-b"),
        // Too many.
        ("a* b c d e", "-e"),
        ("a* b† c d e", "-b"),
        ("a b c d e*", "-d"),
    ];
    for (text, wanted) in table {
        assert_eq!(
            step(text),
            wanted,
            "{text}: {}",
            next(&machines(text), PATIENCE).reason
        );
    }
}

#[test]
fn who_may_go() {
    for (text, who, wanted) in [
        ("a* b~~", 'a', true),
        ("a* b.", 'a', true),
        ("a* b.!", 'a', false),
        ("a* b.†", 'a', false),
        ("a*", 'a', false),
        ("a* b c", 'a', true),
        ("a* b c†", 'c', true),
        ("a* b c†", 'b', false),
        ("a* b c† d.", 'b', true),
        ("a* b† c†", 'b', false),
        ("a* b~", 'b', true),
    ] {
        let may = may_go(&machines(text), &id(who));
        assert_eq!(may.is_ok(), wanted, "{text}: {who}: {may:?}");
    }
}

/// Machines come, die, return and leave at random, and the steps are done as they are decided: none of them ends a majority,
/// and when all is quiet they end, with the votes that are wanted.
#[test]
fn it_never_loses_a_majority_and_comes_to_rest() {
    for seed in 0..400_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = move |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut all = machines("a*");
        for _ in 0..300 {
            happen(&mut all, &mut draw);
            act(&mut all);
        }
        // Everybody that is here is well.
        for machine in &mut all {
            machine.dead = None;
        }
        let mut steps = 0;
        loop {
            for machine in &mut all {
                if machine.learns() {
                    machine.role = Role::Learner { ready: true };
                }
            }
            if !act(&mut all) {
                break;
            }
            steps += 1;
            assert!(steps < 100, "seed {seed}: it never ends: {all:?}");
        }
        let count = Count::new(&all, PATIENCE);
        let here = all.iter().filter(|m| m.belongs && m.capable).count();
        assert!(
            all.iter().all(|m| m.belongs || m.role == Role::None),
            "seed {seed}: {all:?}"
        );
        assert_eq!(count.votes, wanted(here), "seed {seed}: {all:?}");
        let copy = here == 2;
        assert_eq!(count.learner().is_some(), copy, "seed {seed}: {all:?}");
    }
}

fn happen(all: &mut Vec<Machine>, draw: &mut impl FnMut(u64) -> u64) {
    let at = draw(all.len() as u64) as usize;
    let count = Count::new(all, PATIENCE);
    let spare = count.alive > majority(count.votes);
    let stays = all.iter().filter(|m| m.belongs && m.capable).count();
    let machine = &mut all[at];
    match draw(8) {
        // A fault that ends the majority is not the steps' doing, and stops all; so there is none here.
        0 if machine.alive() && (spare || !machine.votes()) => machine.dead = Some(Duration::ZERO),
        1 => machine.dead = machine.dead.map(|_| PATIENCE),
        2 | 3 => machine.dead = None,
        4 if machine.learns() && machine.alive() => machine.role = Role::Learner { ready: true },
        5 if machine.belongs && stays > 1 => machine.belongs = false,
        6 | 7 if all.len() < 16 => {
            let name = char::from_digit(draw(16) as u32, 16).unwrap();
            if all.iter().all(|m| m.id != id(name)) {
                let mut new = machines(&format!("{name}.")).remove(0);
                new.capable = draw(5) > 0;
                all.push(new);
            }
        }
        _ => {}
    }
}

/// Does what is decided; whether there was something.
fn act(all: &mut Vec<Machine>) -> bool {
    let decision = next(all, PATIENCE);
    let find =
        |all: &mut Vec<Machine>, id: &MachineId| all.iter().position(|m| m.id == *id).unwrap();
    match &decision.step {
        Step::None => return false,
        Step::AddLearner(id) => {
            let at = find(all, id);
            assert!(all[at].stands_ready(), "{decision:?}");
            assert!(
                !all.iter().any(Machine::learns),
                "one at a time: {decision:?}"
            );
            all[at].role = Role::Learner { ready: false };
        }
        Step::Promote(id) => {
            let at = find(all, id);
            assert_eq!(all[at].role, Role::Learner { ready: true });
            all[at].role = Role::Voter { leader: false };
        }
        Step::Remove(id) => {
            let at = find(all, id);
            all[at].role = Role::None;
        }
    }
    let count = Count::new(all, PATIENCE);
    assert!(
        count.alive >= majority(count.votes),
        "{decision:?} ends the majority: {all:?}"
    );
    all.retain(|m| m.belongs || m.role != Role::None);
    // Somebody leads.
    if !all.iter().any(|m| m.role == (Role::Voter { leader: true }))
        && let Some(voter) = all.iter_mut().find(|m| m.votes() && m.alive())
    {
        voter.role = Role::Voter { leader: true };
    }
    true
}
