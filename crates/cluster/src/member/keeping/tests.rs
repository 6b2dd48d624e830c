#![allow(clippy::unwrap_used)]
use super::*;
use crate::member::config::MemberConfig;
use crate::member::record::{Act, act};

const PATIENCE: Duration = Duration::from_secs(600);

fn id(n: u64) -> MachineId {
    format!("{n:032x}").parse().unwrap()
}

fn url(n: u64) -> String {
    format!("https://192.0.2.{n}:7374")
}

/// Machines, an etcd, and a leader that may be killed after each step.
#[derive(Default)]
struct World {
    seen: Seen,
    /// What each machine has on its disk.
    configs: BTreeMap<MachineId, MemberConfig>,
    next: u64,
}

impl World {
    /// Machine 1 has the store.
    fn new() -> Self {
        let mut world = Self {
            next: 100,
            ..Self::default()
        };
        world.seen.cluster = "c".into();
        world.join(1, true);
        world.seen.list.insert(id(1), Standing::Voter);
        world.seen.leader = Some(MemberId(100));
        world.seen.etcd.push(MemberInfo {
            id: MemberId(100),
            name: id(1).to_string(),
            peer_urls: vec![url(1)],
            learner: false,
        });
        let config = MemberConfig::first("/s".as_ref(), id(1), [192, 0, 2, 1].into(), 7373, None);
        world.configs.insert(id(1), config);
        world
    }

    fn join(&mut self, n: u64, capable: bool) {
        let known = Known {
            peer_url: Some(url(n)),
            dead: None,
            up: true,
            door: true,
            failed: None,
            capable,
            leaving: false,
            in_step: false,
        };
        self.seen.known.insert(id(n), known);
        self.seen.list.insert(id(n), Standing::Machine);
    }

    fn known(&mut self, n: u64) -> &mut Known {
        self.seen.known.get_mut(&id(n)).unwrap()
    }

    /// Machines come up elsewhere than they were, each with the address of another one.
    fn move_to(&mut self, places: &[(u64, u64)]) {
        for (n, place) in places {
            self.known(*n).peer_url = Some(url(*place));
        }
    }

    fn place(&self, n: u64) -> &str {
        &self.seen.member(&id(n)).unwrap().peer_urls[0]
    }

    fn alive(&self, machine: &MachineId) -> bool {
        self.seen
            .known
            .get(machine)
            .is_some_and(|known| known.dead.is_none())
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::List(machine, standing) => {
                self.seen.list.insert(machine, standing).unwrap();
            }
            Step::Tell(machine, record) => {
                self.seen.records.insert(machine, record);
            }
            Step::Add(url) => {
                self.next += 1;
                let mut known = self.seen.known.values_mut();
                let new = known.find(|known| known.peer_url.as_ref() == Some(&url));
                new.unwrap().in_step = false;
                self.seen.etcd.push(MemberInfo {
                    id: MemberId(self.next),
                    name: String::new(),
                    peer_urls: vec![url],
                    learner: true,
                });
            }
            Step::Promote(member) => {
                let mut etcd = self.seen.etcd.iter_mut();
                let found = etcd.find(|m| m.id == member).unwrap();
                assert!(found.learner && !found.name.is_empty());
                found.learner = false;
            }
            Step::Move(member, url) => {
                let taken = self.seen.etcd.iter().any(|m| m.peer_urls.contains(&url));
                assert!(!taken, "etcd refuses {url}");
                let mut etcd = self.seen.etcd.iter_mut();
                let found = etcd.find(|m| m.id == member).unwrap();
                assert!(!found.learner, "etcd would forget that it is one");
                found.peer_urls = vec![url];
            }
            Step::Remove(member) => {
                self.seen.etcd.retain(|m| m.id != member);
                let voters = self.seen.etcd.iter().filter(|m| !m.learner);
                assert!(voters.clone().count() > 0, "no voter is left");
                if self.seen.leader == Some(member) {
                    self.seen.leader = voters.clone().next().map(|m| m.id);
                }
            }
        }
    }

    /// A look of the leader, which is killed after so many steps. Whether there was anything to do.
    fn look(&mut self, killed_after: usize) -> bool {
        let mut voters = self.seen.etcd.iter().filter(|m| !m.learner);
        let leads = voters.find_map(|m| {
            let machine = m.name.parse().unwrap();
            self.alive(&machine).then_some(machine)
        });
        let Some(leads) = leads else { return false };
        let plan = self.seen.plan(&leads, PATIENCE);
        let some = !plan.steps.is_empty();
        for step in plan.steps.into_iter().take(killed_after) {
            self.step(step);
        }
        some
    }

    /// Machines do what they are told.
    fn machines(&mut self) -> bool {
        let mut some = false;
        let all: Vec<_> = self
            .seen
            .list
            .iter()
            .map(|(id, s)| (id.clone(), *s))
            .collect();
        for (machine, standing) in all {
            if !self.alive(&machine) {
                continue;
            }
            let record = self.seen.records.get(&machine).cloned();
            let begun = self.seen.etcd.iter().any(|m| m.name == machine.as_str());
            match act(record.as_ref(), self.configs.get(&machine), begun) {
                Act::Rest => continue,
                // The CA's key is for those of the list only.
                Act::Begin if standing < Standing::Learner => continue,
                Act::Begin | Act::BeginAnew => {
                    let record = record.unwrap();
                    let address = [192, 0, 2, 1].into();
                    let mut config =
                        MemberConfig::first("/s".as_ref(), machine.clone(), address, 7373, None);
                    config.member = Some(record.member);
                    config.initial_cluster = record.peers.clone();
                    self.configs.insert(machine.clone(), config);
                    let mut etcd = self.seen.etcd.iter_mut();
                    // etcd begins only where the others are those that it was told of.
                    let member = etcd.find(|m| m.id.0 == record.member);
                    if let Some(member) = member {
                        member.name = machine.to_string();
                        self.seen.known.get_mut(&machine).unwrap().in_step = true;
                    }
                }
                Act::Note => {
                    let config = self.configs.get_mut(&machine).unwrap();
                    config.member = record.map(|record| record.member);
                }
                Act::End => {
                    let member = self.configs.remove(&machine).unwrap().member;
                    let still = self.seen.etcd.iter().any(|m| Some(m.id.0) == member);
                    assert!(!still, "{machine} discards what etcd counts on");
                    self.seen.known.get_mut(&machine).unwrap().in_step = false;
                }
            }
            some = true;
        }
        some
    }

    /// Until nobody has anything to do.
    fn settle(&mut self, mut killed_after: impl FnMut() -> usize) {
        for _ in 0..200 {
            let looked = self.look(killed_after());
            let done = self.machines();
            if !looked && !done {
                return;
            }
        }
        panic!("it never ends: {:?}", self.seen);
    }

    fn check(&self, voters: usize, learners: usize) {
        let count = |learner| {
            self.seen
                .etcd
                .iter()
                .filter(|m| m.learner == learner)
                .count()
        };
        assert_eq!(
            (count(false), count(true)),
            (voters, learners),
            "{:?}",
            self.seen.etcd
        );
        for (machine, standing) in &self.seen.list {
            let member = self.seen.member(machine);
            if let Some(member) = member {
                let known = self.seen.known[machine].peer_url.clone();
                assert_eq!(member.peer_urls.first(), known.as_ref(), "{machine}");
            }
            let wanted = match member {
                None => Standing::Machine,
                Some(member) if member.learner => Standing::Learner,
                Some(_) => Standing::Voter,
            };
            assert_eq!(*standing, wanted, "{machine}");
            if self.alive(machine) {
                let has = self.configs.get(machine).and_then(|config| config.member);
                assert_eq!(has, member.map(|member| member.id.0), "{machine}");
            }
        }
    }
}

#[test]
fn two_have_a_copy_three_have_three_votes_and_seven_five() {
    let mut world = World::new();
    for (machines, voters, learners) in [
        (1, 1, 0),
        (2, 1, 1),
        (3, 3, 0),
        (4, 3, 0),
        (6, 3, 0),
        (7, 5, 0),
    ] {
        for n in 2..=machines {
            if !world.seen.list.contains_key(&id(n)) {
                world.join(n, true);
            }
        }
        world.settle(|| usize::MAX);
        world.check(voters, learners);
    }
}

#[test]
fn machines_without_etcd_are_not_asked() {
    let mut world = World::new();
    world.join(2, false);
    world.join(3, true);
    world.settle(|| usize::MAX);
    world.check(1, 1);
    assert_eq!(world.seen.list[&id(2)], Standing::Machine);
}

fn three() -> World {
    let mut world = World::new();
    world.join(2, true);
    world.join(3, true);
    world.settle(|| usize::MAX);
    world.check(3, 0);
    world
}

#[test]
fn a_member_that_comes_up_elsewhere_is_there_in_etcds_list() {
    for places in [
        &[(2, 20)][..],
        &[(2, 20), (3, 30)],
        &[(1, 10)],
        // One has the place that another one left; two have exchanged theirs; three.
        &[(2, 3), (3, 30)],
        &[(2, 3), (3, 2)],
        &[(1, 2), (2, 3), (3, 1)],
    ] {
        for killed_after in [1, usize::MAX] {
            let mut world = three();
            world.move_to(places);
            world.settle(|| killed_after);
            world.check(3, 0);
        }
    }
}

#[test]
fn whose_place_is_somebody_elses_now_makes_room_until_it_is_back() {
    let mut world = three();
    world.known(3).dead = Some(Duration::ZERO);
    world.known(3).up = false;
    world.move_to(&[(2, 3)]);
    world.settle(|| usize::MAX);
    assert_eq!(world.place(2), url(3));
    assert_eq!(world.place(3), nowhere(&id(3)));
    world.known(3).dead = None;
    world.known(3).up = true;
    world.move_to(&[(3, 30)]);
    world.settle(|| usize::MAX);
    world.check(3, 0);
}

#[test]
fn a_learner_that_moves_begins_anew_there() {
    for has_begun in [false, true] {
        let mut world = World::new();
        world.join(2, true);
        while !world.seen.records.contains_key(&id(2)) {
            world.look(usize::MAX);
        }
        if has_begun {
            world.settle(|| usize::MAX);
        }
        let member = world.seen.etcd[1].id;
        world.move_to(&[(2, 20)]);
        world.settle(|| usize::MAX);
        world.check(1, 1);
        assert_eq!(world.place(2), url(20));
        assert_ne!(world.seen.etcd[1].id, member);
        let peers = &world.seen.records[&id(2)].peers;
        assert!(peers.contains(&(id(2).to_string(), url(20))), "{peers:?}");
    }
}

#[test]
fn a_newcomer_may_have_the_address_of_a_voter_that_is_away() {
    let mut world = three();
    world.known(3).dead = Some(PATIENCE);
    world.known(3).up = false;
    world.join(4, true);
    world.move_to(&[(4, 3)]);
    world.settle(|| usize::MAX);
    assert_eq!(world.place(4), url(3));
    assert!(world.seen.member(&id(3)).is_none());
}

#[test]
fn where_a_machine_does_not_know_its_address_its_member_stays() {
    let mut world = three();
    world.known(2).peer_url = None;
    world.settle(|| usize::MAX);
    assert_eq!(world.place(2), url(2));
}

#[test]
fn a_voter_whose_etcd_is_lost_begins_anew_on_its_own_machine() {
    let mut world = three();
    let before = world.seen.member(&id(3)).unwrap().id;
    world.known(3).dead = Some(PATIENCE);
    let plan = world.seen.plan(&id(1), PATIENCE);
    let out = Step::Remove(before);
    assert_eq!(plan.steps, std::slice::from_ref(&out), "{}", plan.reason);
    assert_eq!(world.seen.fails(&out, PATIENCE), Some(id(3)));
    world.step(out);
    // Of a machine that is no member the daemon alone counts.
    world.known(3).dead = None;
    world.settle(|| usize::MAX);
    world.check(3, 0);
    assert_ne!(world.seen.member(&id(3)).unwrap().id, before);
    // Its daemon is away as well: it is waited for.
    world.known(3).dead = Some(PATIENCE);
    world.known(3).up = false;
    assert_eq!(world.seen.plan(&id(1), PATIENCE).steps, []);
}

#[test]
fn who_failed_is_asked_after_all_others() {
    let mut world = World::new();
    world.join(2, true);
    world.join(3, true);
    world.known(2).failed = Some(Duration::ZERO);
    let plan = world.seen.plan(&id(1), PATIENCE);
    let add = Step::Add(url(3));
    assert_eq!(plan.steps.last(), Some(&add), "{}", plan.reason);
    assert_eq!(world.seen.fails(&add, PATIENCE), None);
}

#[test]
fn who_waits_for_nothing_looks_seldom() {
    let mut world = World::new();
    world.join(2, true);
    world.join(3, false);
    world.look(usize::MAX);
    assert!(world.seen.learns(), "it takes its copy");
    world.settle(|| usize::MAX);
    // In step, and no vote to be had for it.
    assert!(world.seen.etcd.iter().any(|member| member.learner));
    assert!(!world.seen.learns());
    world.known(2).in_step = false;
    world.known(2).dead = Some(Duration::ZERO);
    assert!(!world.seen.learns());
}

#[test]
fn one_that_is_added_and_never_begins_is_taken_out_with_its_machine() {
    let mut world = World::new();
    world.join(2, true);
    world.look(usize::MAX);
    assert_eq!(world.seen.etcd.len(), 2);
    world.seen.list.remove(&id(2));
    world.seen.known.remove(&id(2));
    world.settle(|| usize::MAX);
    world.check(1, 0);
}

/// Machines come, leave, die and return; the leader is killed after any number of steps, each time. In the end all is as it should be.
#[test]
fn killed_at_any_step_it_goes_on() {
    for seed in 1..300_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = move |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut world = World::new();
        for n in 2..=(2 + draw(7)) {
            world.join(n, true);
        }
        let all = world.seen.list.len() as u64;
        for _ in 0..60 {
            world.look(draw(4) as usize);
            if draw(2) == 0 {
                world.machines();
            }
            let n = 1 + draw(all);
            let dead = world
                .seen
                .known
                .values()
                .filter(|k| k.dead.is_some())
                .count();
            match draw(8) {
                0 if dead == 0 => world.known(n).dead = Some(Duration::ZERO),
                1 => {
                    let known = world.known(n);
                    known.dead = known.dead.map(|_| PATIENCE);
                }
                2 | 3 => world.known(n).dead = None,
                4 => world.known(n).leaving = true,
                5 => world.known(n).leaving = false,
                6 => {
                    let (here, there) = (n, 1 + draw(all));
                    let place = world.known(here).peer_url.clone();
                    let other = std::mem::replace(&mut world.known(there).peer_url, place);
                    world.known(here).peer_url = match draw(2) {
                        0 => other,
                        _ if here != there => other,
                        _ => Some(url(1000 + draw(1000))),
                    };
                }
                _ => {}
            }
        }
        for known in world.seen.known.values_mut() {
            (known.dead, known.leaving) = (None, false);
        }
        world.settle(|| draw(3) as usize + 1);
        world.settle(|| usize::MAX);
        let votes = voters::wanted(all as usize);
        world.check(votes, usize::from(all == 2));
    }
}
