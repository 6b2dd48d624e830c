//! Lost machines, exclusive units, data, drains, failures.
mod common;
use common::*;
use coracle_planner::*;

fn none() -> Vec<String> {
    Vec::new()
}

#[test]
fn a_lost_machines_units_go_elsewhere_and_stay_there() {
    let mut world = World::new(&["m1", "m2"]);
    world.plain(&["a.service", "b.service"]);
    world.settle();
    world.lose("m1");
    let decided = world.plan();
    assert_eq!(
        decided,
        [
            "withdraw a.service#1 on m1: it runs elsewhere now: its machine m1 is lost",
            "place a.service#2 on m2: its machine m1 is lost; this is the least loaded machine that fits",
        ]
    );
    world.settle();
    world.machine("m1", |m| m.alive = true);
    assert_eq!(world.settle(), none());
    assert_eq!(world.on("a.service"), ["m2"]);
    // With nowhere to go, one stays assigned and goes on when its machine is back.
    world.machine("m1", |m| m.cordoned = true);
    world.lose("m2");
    world.settle();
    let nowhere = "its machine m2 is lost; there is no machine for it";
    assert_eq!(world.wait("a.service"), nowhere);
    world.machine("m2", |m| m.alive = true);
    let decided = world.settle();
    assert_eq!(decided, ["a.service is settled", "b.service is settled"]);
}

#[test]
fn what_has_ended_well_is_not_run_again() {
    let mut world = World::new(&["m1", "m2"]);
    world.plain(&["job.service"]);
    world.settle();
    let job = world.placement("job.service", "m1");
    world.say(&job, Condition::Done);
    world.lose("m1");
    assert_eq!(world.settle(), none());
    world.machine("m1", |m| (m.alive, m.draining) = (true, true));
    assert_eq!(world.settle(), none());
    let drain = world.planner.drain(&"m1".into());
    assert!(drain.finished() && drain.done == ["job.service".into()]);
}

#[test]
fn an_exclusive_unit_waits_for_the_fence() {
    let mut world = World::new(&["m1", "m2"]);
    world.unit("db.service", |u| u.needs.exclusive = true);
    world.settle();
    world.lose("m1");
    assert_eq!(
        world.plan(),
        [
            "db.service waits: its machine m1 is lost, and it must never run twice: it is placed again when m1 has stopped it for sure"
        ]
    );
    // Back before that: nothing has happened.
    world.machine("m1", |m| m.alive = true);
    assert_eq!(world.settle(), ["db.service is settled"]);
    world.lose("m1");
    world.plan();
    world.planner.fenced(&"m1".into());
    world.settle();
    assert_eq!(world.on("db.service"), ["m2"]);
    // A removed machine may still run it, too.
    world.machines.remove(&"m2".into());
    world.planner.set_machine(&"m2".into(), None);
    world.machine("m3", |_| {});
    world.settle();
    assert!(
        world.wait("db.service").contains("m2 is lost"),
        "{}",
        world.wait("db.service")
    );
    world.planner.fenced(&"m2".into());
    world.settle();
    assert_eq!(world.on("db.service"), ["m3"]);
}

#[test]
fn an_exclusive_unit_made_anew_waits_for_the_old_one() {
    let mut world = World::new(&["m1", "m2"]);
    world.unit("db.service", |u| u.needs.exclusive = true);
    world.settle();
    world.unit("db.service", |u| u.uid = "u2".into());
    assert_eq!(
        world.plan(),
        [
            "withdraw db.service#1 on m1: the unit was destroyed and submitted anew",
            "db.service waits: it must never run twice, and it has not gone from m1 yet",
        ]
    );
    world.settle();
    assert_eq!(world.placement("db.service", "m1").uid.as_str(), "u2");
}

#[test]
fn data_pins() {
    let mut world = World::new(&["m1", "m2"]);
    world.plain(&["z.service"]);
    world.unit("db.service", |u| u.needs.volumes = ["data".into()].into());
    world.settle();
    assert_eq!(world.on("db.service"), ["m1"]);
    assert_eq!(world.binds[&"data".into()].as_str(), "m1");
    // Stopped and started: it goes back to its data, however loaded that machine is.
    world.stop("db.service");
    world.unit("big.service", |u| {
        u.needs.fleet.machine_id = Some("m1".into());
        u.needs.cpu_millis = 3000;
    });
    world.settle();
    world.unit("db.service", |u| u.wanted = Wanted::Launched);
    world.settle();
    assert_eq!(world.on("db.service"), ["m1"]);
    // Another user of the volume comes to it.
    world.unit("reader.service", |u| {
        u.needs.volumes = ["data".into()].into()
    });
    world.settle();
    assert_eq!(world.on("reader.service"), ["m1"]);
    // Lost: it waits, fenced or not, and says the way out.
    world.lose("m1");
    world.planner.fenced(&"m1".into());
    world.settle();
    assert_eq!(
        world.wait("db.service"),
        "the data of volume data is on m1, which is lost; bring m1 back, or start with another copy: coracle volume rebind data"
    );
    world.planner.set_volume(&"data".into(), Some(&"m2".into()));
    world.settle();
    assert_eq!(
        (world.on("db.service"), world.wait("db.service")),
        (words("m2"), String::new())
    );
    // Volumes apart.
    world.machine("m1", |m| m.alive = true);
    world
        .planner
        .set_volume(&"other".into(), Some(&"m1".into()));
    world.unit("two.service", |u| {
        u.needs.volumes = ["data".into(), "other".into()].into()
    });
    world.settle();
    assert_eq!(
        world.wait("two.service"),
        "its volumes are on different machines (data on m2, other on m1); move one with coracle volume rebind"
    );
}

#[test]
fn a_drain_stops_at_what_fails_where_it_was_moved_to() {
    let mut world = World::new(&["m1", "m2"]);
    world.machine("m2", |m| m.cordoned = true);
    for name in ["a.service", "b.service", "c.service"] {
        world.unit(name, |u| u.needs.exclusive = name != "b.service");
    }
    world.settle();
    world.machine("m2", |m| m.cordoned = false);
    world.machine("m1", |m| m.draining = true);
    let stuck = |world: &World| -> Vec<String> {
        let stuck = world.planner.drain(&"m1".into()).stuck;
        stuck.iter().map(|(n, why)| format!("{n}: {why}")).collect()
    };
    // It leaves m1, is placed on m2, and fails there.
    world.plan();
    world.answer();
    world.plan();
    assert_eq!(stuck(&world), none());
    let moved = world.placement("a.service", "m2");
    world.say(&moved, Condition::Failed);
    assert_eq!(world.plan(), none());
    assert_eq!(
        stuck(&world),
        [
            "a.service: it was moved to m2 and has failed there; the drain goes on once it runs, or is stopped",
            "b.service: it moves once a.service, which went before it, is well",
            "c.service: it moves once a.service, which went before it, is well",
        ]
    );
    let drain = world.planner.drain(&"m1".into());
    assert!(drain.next.is_empty() && drain.moving.is_empty() && !drain.finished());
    // It was put right: the next one goes. Not exclusive, that is there twice until it is well.
    world.say(&moved, Condition::Healthy);
    world.plan();
    assert_eq!(world.on("b.service"), ["m1", "m2"]);
    let moved = world.placement("b.service", "m2");
    world.say(&moved, Condition::Failed);
    assert_eq!(world.plan(), none());
    assert!(
        stuck(&world)[0].starts_with("b.service: it was moved to m2"),
        "{:?}",
        stuck(&world)
    );
    // Who fails last holds nobody up.
    world.stop("b.service");
    world.settle();
    assert_eq!(world.on("c.service"), ["m2"]);
    let moved = world.placement("c.service", "m2");
    world.say(&moved, Condition::Failed);
    world.plan();
    assert!(world.planner.drain(&"m1".into()).finished());
}

#[test]
fn a_drain_moves_one_after_another() {
    let mut world = World::new(&["m1", "m2"]);
    let names = [
        "a.service",
        "b.service",
        "db.service",
        "ex.service",
        "pin.service",
    ];
    world.machine("m2", |m| m.cordoned = true);
    world.plain(&["a.service", "b.service"]);
    world.unit("ex.service", |u| u.needs.exclusive = true);
    world.unit("db.service", |u| u.needs.volumes = ["data".into()].into());
    world.unit("pin.service", |u| {
        u.needs.fleet.machine_id = Some("m1".into())
    });
    world.unit("side.service", |u| {
        u.needs.fleet.machine_of = words("b.service")
    });
    world.unit("log.service", |u| u.needs.fleet.global = true);
    world.settle();
    assert!(names.iter().all(|n| world.on(n) == ["m1"]));
    world.machine("m2", |m| m.cordoned = false);
    world.settle();
    world.machine("m1", |m| m.draining = true);
    let mut most = 0;
    for _ in 0..100 {
        let decided = world.plan();
        let moving = world.planner.drain(&"m1".into()).moving;
        // The follower goes when its head does.
        let heads = moving
            .iter()
            .filter(|n| n.as_str() != "side.service")
            .count();
        most = most.max(heads);
        if decided.is_empty() && !world.planner.pending() {
            break;
        }
        world.answer();
    }
    assert_eq!(most, 1);
    for name in ["a.service", "b.service", "ex.service", "side.service"] {
        assert_eq!(world.on(name), ["m2"], "{name}");
    }
    let drain = world.planner.drain(&"m1".into());
    let stuck: Vec<String> = drain
        .stuck
        .iter()
        .map(|(n, why)| format!("{n}: {why}"))
        .collect();
    assert_eq!(
        stuck,
        [
            "db.service: it stays on m1, which is being drained: the data of volume data is on m1",
            "pin.service: it stays on m1, which is being drained: MachineID names m1",
        ]
    );
    // Global units have gone with the last that could.
    assert!(drain.global.is_empty() && drain.moving.is_empty() && !drain.finished());
    assert_eq!(world.on("log.service"), ["m2"]);
    world.machine("m1", |m| m.draining = false);
    let decided = world.settle();
    assert_eq!(world.on("log.service"), ["m1", "m2"], "{decided:?}");
    assert!(world.waits.is_empty());
}

#[test]
fn a_drain_waits_for_health_and_is_taken_over() {
    let mut world = World::new(&["m1"]);
    world.plain(&["a.service", "b.service"]);
    world.settle();
    world.machine("m2", |_| {});
    world.machine("m1", |m| m.draining = true);
    world.plan();
    let new = world.placement("a.service", "m2");
    world.say(&new, Condition::Present);
    assert_eq!(world.plan(), none());
    world.take_over();
    assert_eq!(world.plan(), none());
    // The newcomer's machine is lost: what runs stays, and tries again when there is somewhere to go.
    world.lose("m2");
    assert_eq!(
        world.plan(),
        [
            "withdraw a.service#2 on m2: it did not come up here, and still runs where it was",
            "a.service waits: it stays on m1, which is being drained: there is no machine for it",
            "b.service waits: it stays on m1, which is being drained: there is no machine for it",
        ]
    );
    world.machine("m3", |_| {});
    world.settle();
    assert_eq!(
        (world.on("a.service"), world.on("b.service")),
        (words("m3"), words("m3"))
    );
}

/// What an exclusive unit leaves for is kept for it.
#[test]
fn a_drained_exclusive_unit_keeps_its_next_place() {
    let mut world = World::new(&["m1"]);
    world.unit("ex.service", |u| {
        u.needs.exclusive = true;
        u.needs.memory = 6 << 30;
    });
    world.settle();
    world.machine("m2", |_| {});
    world.machine("m1", |m| m.draining = true);
    world.plan();
    world.unit("rival.service", |u| u.needs.memory = 6 << 30);
    world.settle();
    assert_eq!(world.on("ex.service"), ["m2"]);
    assert!(world.on("rival.service").is_empty());
}

#[test]
fn failing_units_are_tried_elsewhere_within_a_budget() {
    let mut world = World::new(&["m1", "m2", "m3", "m4", "m5", "m6"]);
    world.plain(&["bad.service"]);
    world.settle();
    for to in ["m2", "m3", "m4"] {
        let on = world.on("bad.service").remove(0);
        world.failed("bad.service", &on);
        world.now += 1000;
        world.settle();
        assert_eq!(world.on("bad.service"), [to]);
    }
    world.failed("bad.service", "m4");
    assert_eq!(
        world.plan(),
        [
            "bad.service waits: it keeps failing, and was moved 3 times within 600 s, which is the limit; it stays on m4"
        ]
    );
    assert_eq!(world.on("bad.service"), ["m4"]);
    // Later it may move again, to where it has not failed of late.
    world.now += 700_000;
    world.failed("bad.service", "m4");
    world.settle();
    assert_eq!(world.on("bad.service"), ["m1"]);
    // With one machine it stays.
    let mut world = World::new(&["m1"]);
    world.plain(&["bad.service"]);
    world.settle();
    world.failed("bad.service", "m1");
    world.settle();
    let (on, wait) = (world.on("bad.service"), world.wait("bad.service"));
    assert_eq!(
        (on, wait),
        (
            words("m1"),
            "it keeps failing on m1; there is no machine for it".into()
        )
    );
    world.machine("m2", |_| {});
    world.settle();
    assert_eq!(world.on("bad.service"), ["m2"]);
}

/// Moves are counted whoever leads, and nothing goes back to where it has failed.
#[test]
fn a_new_leader_knows_what_has_failed() {
    let mut world = World::new(&["m1", "m2", "m3", "m4", "m5"]);
    world.plain(&["bad.service"]);
    world.settle();
    for to in ["m2", "m3", "m4"] {
        let on = world.on("bad.service").remove(0);
        world.failed("bad.service", &on);
        world.take_over();
        world.failed("bad.service", &on);
        world.now += 1000;
        world.settle();
        assert_eq!(world.on("bad.service"), [to]);
        world.take_over();
    }
    world.failed("bad.service", "m4");
    assert_eq!(
        world.plan(),
        [
            "bad.service waits: it keeps failing, and was moved 3 times within 600 s, which is the limit; it stays on m4"
        ]
    );
    // A move that could not be written down is none.
    world.now += 700_000;
    world.failed("bad.service", "m4");
    let decisions = world.planner.plan(Timestamp(world.now));
    for decision in decisions.iter().rev() {
        world.planner.take_back(decision);
    }
    assert!(
        world
            .planner
            .failures(&"bad.service".into())
            .moved
            .is_empty()
    );
}

#[test]
fn a_leader_takes_over_in_the_midst_of_a_move() {
    let mut world = World::new(&["m1"]);
    world.plain(&["a.service"]);
    world.unit("ex.service", |u| u.needs.exclusive = true);
    world.settle();
    world.machine("m2", |_| {});
    world.machine("m1", |m| m.draining = true);
    for _ in 0..20 {
        world.plan();
        world.take_over();
        world.plan();
        world.answer();
    }
    assert_eq!(
        (world.on("a.service"), world.on("ex.service")),
        (words("m2"), words("m2"))
    );
    assert!(world.placed.values().all(|p| !p.leaving));
}

#[test]
fn what_could_not_be_carried_out_is_decided_anew() {
    let mut world = World::new(&["m1", "m2"]);
    world.unit("db.service", |u| u.needs.volumes = ["data".into()].into());
    let decided = world.planner.plan(Timestamp(0));
    world.planner.take_back(&decided[0]);
    world.machine("m1", |m| m.cordoned = true);
    let decided = world.planner.plan(Timestamp(0));
    assert_eq!(
        decided[0].to_string(),
        "place db.service#2 on m2: it is to be on a machine; this is the least loaded machine that fits"
    );
    world.carry_out(&decided[0]);
    world.settle();
    world.stop("db.service");
    let decided = world.planner.plan(Timestamp(0));
    world.planner.take_back(&decided[0]);
    world.settle();
    assert!(world.placed.is_empty());
}

#[test]
fn incarnations_go_on_from_what_the_store_has_seen() {
    let mut world = World::new(&["m1"]);
    world.unit("a.service", |u| u.incarnation = 7);
    world.settle();
    assert_eq!(world.placement("a.service", "m1").incarnation, 8);
    world.destroy("a.service");
    world.settle();
    assert!(world.placed.is_empty());
    assert!(world.planner.explain(&"a.service".into()).is_none());
}

#[test]
fn a_batch_bounds_a_plan() {
    let mut world = World::new(&["m1", "m2"]);
    world.planner = Planner::new(Settings {
        batch: 10,
        ..Settings::default()
    });
    for id in ["m1", "m2"] {
        world.machine(id, |_| {});
    }
    for n in 0..95 {
        world.plain(&[&format!("u{n}.service")]);
    }
    let first = world.plan().len();
    assert!((10..=11).contains(&first) && world.planner.pending());
    world.settle();
    assert_eq!(world.placed.len(), 95);
}
