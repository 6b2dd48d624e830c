//! Machines whose addresses change, as by DHCP: they find their cluster, and it finds them.

use super::*;
use crate::cluster::{parts, wait_until};
use crate::common::text;
use std::collections::BTreeSet;

/// Where a machine's etcd says that the members' etcds are.
fn places(machine: &Machine) -> BTreeSet<String> {
    let mut command = machine.inside("etcdctl");
    command.env("ETCDCTL_API", "3");
    command.args(["--endpoints=127.0.0.1:7375", "member", "list"]);
    let said = text(&command.output().unwrap());
    let place = |line: &str| Some(line.split(", ").nth(3)?.to_owned());
    said.lines().filter_map(place).collect()
}

/// etcd has all members where their machines are.
fn right(cluster: &Cluster, asked: usize) {
    let machines = cluster.machines().iter();
    let wanted = machines.map(|m| format!("https://{}:7374", m.address()));
    let wanted: BTreeSet<String> = wanted.collect();
    wait_for(&format!("{wanted:?} by m{asked}'s etcd"), LONG, || {
        places(cluster.machine(asked)) == wanted
    });
}

/// The power is gone, and each comes back with another address.
fn come_back_at(cluster: &Cluster, places: &[(usize, usize)]) {
    for (n, _) in places {
        cluster.machine(*n).kill_all();
    }
    for (n, to) in places {
        cluster.machine(*n).move_to(*to);
    }
    for (n, _) in places {
        cluster.machine(*n).launch();
    }
    for (n, _) in places {
        cluster.machine(*n).ready();
    }
}

/// The daemon alone is begun anew, after the address has changed under it.
fn restart_at(machine: &Machine, to: usize) {
    machine.kill();
    machine.move_to(to);
    machine.start();
}

/// Instances on all machines are found by name from each, and answer.
fn reach_each_other(cluster: &Cluster) {
    let first = cluster.machine(1);
    let apart = format!("{}[X-Fleet]\nConflicts=web@*\n", parts::TELL_UNIT);
    let file = first.unit("web@.container", &apart);
    first.ok(&["unit", "start", &file, "web@{1..3}"]);
    cluster.each(|machine| {
        machine.ok(&["run", "-d", "--name", "asker", "bb", "sleep", "100000"]);
    });
    let homes: BTreeSet<String> = cluster.machines().iter().map(Machine::name).collect();
    cluster.each(|machine| {
        let mut seen = BTreeSet::new();
        let what = format!("{} has pages of all", machine.name());
        wait_until(&what, LONG, || {
            let said = machine.coracle(&["exec", "asker", "nslookup", "web"]);
            let said = text(&said);
            let answer = said.split_once("\n\n").map_or("", |(_, answer)| answer);
            let addresses = answer
                .lines()
                .filter_map(|line| line.split_once("Address")?.1.rsplit(' ').next());
            for address in addresses {
                let url = format!("http://{address}/");
                let page =
                    machine.coracle(&["exec", "asker", "timeout", "3", "wget", "-qO-", &url]);
                seen.extend(text(&page).split(' ').next().map(str::to_owned));
            }
            let all = homes.is_subset(&seen);
            all.then_some(()).ok_or_else(|| format!("{seen:?}: {said}"))
        });
    });
}

#[test]
fn a_voter_that_moves_votes_again_and_then_another_one() {
    let cluster = joined(Setup::new(3));
    let (a, c) = (cluster.machine(1), cluster.machine(3));
    become_(&cluster, 1, "VVV");
    right(&cluster, 1);
    a.ok(&["store", "put", "k", "1"]);
    come_back_at(&cluster, &[(3, 23)]);
    become_(&cluster, 1, "VVV");
    right(&cluster, 1);
    works(&cluster, 3, "third");
    assert!(c.ok(&["store", "get", "k"]).contains('1'));
    // Who began the cluster, while its etcd runs where the machine was.
    restart_at(a, 21);
    become_(&cluster, 2, "VVV");
    right(&cluster, 3);
    works(&cluster, 1, "first");
    // Both count: with the one that stayed away they are a majority.
    cluster.machine(2).kill_all();
    wait_for("the two go on", LONG, || {
        a.coracle(&["store", "put", "k", "2"]).status.success()
    });
    assert!(c.ok(&["store", "get", "k"]).contains('2'));
    cluster.machine(2).start();
    become_(&cluster, 3, "VVV");
    reach_each_other(&cluster);
    let said = a.ok(&["cluster", "status"]);
    assert!(said.contains("192.0.2.21:7373"), "{said}");
    assert!(!said.contains("was at"), "{said}");
}

#[test]
fn two_voters_move_at_once_and_may_exchange_their_addresses() {
    let cluster = joined(Setup::new(3));
    become_(&cluster, 1, "VVV");
    come_back_at(&cluster, &[(2, 22), (3, 23)]);
    become_(&cluster, 1, "VVV");
    right(&cluster, 1);
    works(&cluster, 2, "moved");
    come_back_at(&cluster, &[(2, 23), (3, 22)]);
    become_(&cluster, 1, "VVV");
    right(&cluster, 1);
    works(&cluster, 3, "exchanged");
}

#[test]
fn when_all_voters_moved_at_once_it_is_said_and_former_addresses_help() {
    let cluster = joined(Setup::new(3));
    let all = [1, 2, 3];
    become_(&cluster, 1, "VVV");
    come_back_at(&cluster, &[(1, 21), (2, 22), (3, 23)]);
    for n in all {
        wait_for("it is said", LONG, || {
            let said = text(&cluster.machine(n).coracle(&["cluster", "status"]));
            said.contains("cannot find each other") && said.contains("--advertise")
        });
    }
    restart_at(cluster.machine(2), 2);
    become_(&cluster, 2, "VVV");
    right(&cluster, 2);
    works(&cluster, 1, "again");
}

#[test]
fn the_only_voter_moves_and_the_learner_follows_and_moves() {
    let cluster = joined(Setup::new(2));
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    become_(&cluster, 1, "VL");
    a.ok(&["store", "put", "k", "1"]);
    // Nobody that the other one knows is where it was.
    come_back_at(&cluster, &[(1, 21)]);
    become_(&cluster, 1, "VL");
    become_(&cluster, 2, "VL");
    right(&cluster, 1);
    assert!(b.ok(&["store", "get", "k"]).contains('1'));
    works(&cluster, 2, "followed");
    restart_at(b, 22);
    become_(&cluster, 1, "VL");
    right(&cluster, 1);
    works(&cluster, 2, "moved");
    // It has all that there is, and takes over.
    a.ok(&["leave"]);
    become_(&cluster, 2, "?V");
    assert!(b.ok(&["store", "get", "k"]).contains('1'));
}

#[test]
fn a_machine_without_the_store_moves_and_finds_a_voter_that_moved() {
    let mut setup = Setup::new(2);
    setup.config = "[cluster]\nvotes = false\n".into();
    let cluster = joined(setup);
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    works(&cluster, 2, "before");
    restart_at(b, 22);
    works(&cluster, 2, "moved");
    wait_for("its place is known", LONG, || {
        a.ok(&["cluster", "status"]).contains("192.0.2.22:7373")
    });
    // It is away itself while the only one that it knows moves.
    b.kill_all();
    come_back_at(&cluster, &[(1, 21)]);
    b.start();
    works(&cluster, 2, "found");
    assert_eq!(roles(&cluster, 2), "V-");
    right_of_one(a);
}

/// The only member of an etcd is where its machine is.
fn right_of_one(machine: &Machine) {
    let wanted = BTreeSet::from([format!("https://{}:7374", machine.address())]);
    wait_for("etcd has its only member right", LONG, || {
        places(machine) == wanted
    });
}
