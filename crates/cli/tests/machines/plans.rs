//! What is decided without any machine.

use crate::cluster::chaos::{Chaos, Fault, Random, Step};
use crate::cluster::network::Faults;
use std::collections::BTreeMap;

#[test]
fn the_same_seed_gives_the_same_faults() {
    let steps = |seed: u64| {
        let mut chaos = Chaos::new(Random::new(seed), 5, 2);
        (0..500).map(|_| chaos.next()).collect::<Vec<_>>()
    };
    assert_eq!(steps(7), steps(7));
    assert_ne!(steps(7), steps(8));
}

#[test]
fn faults_keep_to_what_they_may_disturb() {
    let mut kinds = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let mut chaos = Chaos::new(Random::new(seed), 3, 1 + usize::try_from(seed % 3).unwrap());
        let mut now = BTreeMap::<usize, Fault>::new();
        let mut settled = 0;
        for _ in 0..300 {
            match chaos.next().0 {
                Step::Inflict(fault) => {
                    kinds.insert(format!("{fault:?}").split('(').next().unwrap().to_owned());
                    assert!((1..=3).contains(&fault.machine()), "{fault:?}");
                    assert!(!matches!(fault, Fault::Apart(a, b) if a == b));
                    assert_eq!(
                        now.insert(fault.machine(), fault),
                        None,
                        "one at a time each"
                    );
                }
                Step::Mend(fault) => assert_eq!(now.remove(&fault.machine()), Some(fault)),
                Step::Settle => {
                    settled += 1;
                    assert!(now.is_empty());
                }
            }
            assert!(now.len() <= 1 + usize::try_from(seed % 3).unwrap());
            assert!(chaos.now().eq(now.values().copied()));
        }
        assert!(settled > 10, "seed {seed}: {settled}");
    }
    assert_eq!(kinds.len(), 10, "{kinds:?}");
}

#[test]
fn rules_say_what_befalls_whom() {
    let mut faults = Faults::default();
    faults.deaf.insert(1);
    faults.mute.insert(2);
    faults.apart.insert((1, 3));
    faults.loss.insert(3, 40);
    let rules = faults.rules();
    let drops: Vec<_> = rules
        .lines()
        .filter(|l| l.ends_with("drop"))
        .map(str::trim)
        .collect();
    let expected = [
        r#"oifname { "p1", "u1" } drop"#,
        r#"iifname { "p2", "u2" } drop"#,
        r#"iifname { "p1", "u1" } oifname { "p3", "u3" } drop"#,
        r#"iifname { "p3", "u3" } numgen random mod 100 < 40 drop"#,
        r#"oifname { "p3", "u3" } numgen random mod 100 < 40 drop"#,
    ];
    assert_eq!(drops, expected);
    for n in 1..=3 {
        faults.heal(n);
    }
    assert_eq!(faults, Faults::default());
    assert!(!faults.rules().contains("drop"));
}
