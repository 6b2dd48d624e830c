//! Rules between units: MachineOf, Conflicts, Replaces.
mod common;
use common::*;

#[test]
fn followers() {
    let mut world = World::new(&["m1", "m2", "m3"]);
    let follow = |world: &mut World, name: &str, peers: &str| {
        world.unit(name, |u| u.needs.fleet.machine_of = words(peers));
    };
    follow(&mut world, "a.service", "b.service");
    follow(&mut world, "b.service", "root.service");
    let decided = world.plan();
    assert_eq!(
        decided,
        [
            "a.service waits: no machine fits: a unit of MachineOf is on no machine",
            "b.service waits: no machine fits: a unit of MachineOf is on no machine"
        ]
    );
    world.plain(&["root.service"]);
    world.settle();
    for name in ["root.service", "a.service", "b.service"] {
        assert_eq!(world.on(name), ["m1"], "{name}");
    }
    // The chain moves with its head when the machine is lost,
    world.lose("m1");
    world.settle();
    for name in ["root.service", "a.service", "b.service"] {
        assert_eq!(world.on(name), ["m2"], "{name}");
    }
    // and stops with it.
    world.stop("root.service");
    world.settle();
    assert!(world.on("a.service").is_empty() && world.on("b.service").is_empty());
    // Two peers on different machines cannot be followed.
    world.unit("x.service", |u| {
        u.needs.fleet.machine_id = Some("m2".into())
    });
    world.unit("y.service", |u| {
        u.needs.fleet.machine_id = Some("m3".into())
    });
    follow(&mut world, "both.service", "x.service y.service");
    world.settle();
    assert_eq!(
        world.wait("both.service"),
        "it follows y.service, which is on m3"
    );
    world.unit("y.service", |u| {
        u.needs.fleet.machine_id = Some("m2".into())
    });
    world.settle();
    assert_eq!(world.on("both.service"), ["m2"]);
    // A circle is nowhere.
    follow(&mut world, "c1.service", "c2.service");
    follow(&mut world, "c2.service", "c1.service");
    world.settle();
    assert!(world.on("c1.service").is_empty() && world.on("c2.service").is_empty());
}

/// A unit goes where those that follow it fit, too.
#[test]
fn a_head_goes_where_its_followers_fit() {
    let mut world = World::new(&["m1", "m2"]);
    world.machine("m1", |m| m.memory = 1 << 30);
    world.unit("side.service", |u| {
        u.needs.fleet.machine_of = words("main.service");
        u.needs.memory = 2 << 30;
    });
    world.plain(&["main.service"]);
    world.settle();
    assert_eq!(
        (world.on("main.service"), world.on("side.service")),
        (words("m2"), words("m2"))
    );
}

#[test]
fn conflicts() {
    // Name and globs of two units, and whether they may share a machine.
    let table = [
        ("a.service", "", "b.service", "", true),
        ("a.service", "b.service", "b.service", "", false),
        ("a.service", "", "b.service", "a.*", false),
        ("a.service", "c.service b.*", "b.service", "", false),
        (
            "web@1.service",
            "web@*.service",
            "web@2.service",
            "web@*.service",
            false,
        ),
        ("web@1.service", "web@*.service", "webx.service", "", true),
        ("a.service", "[b-d].service", "c.service", "", false),
        ("a.service", "*", "c.service", "", false),
    ];
    for (a, of_a, b, of_b, shared) in table {
        for turned in [false, true] {
            let mut world = World::new(&["m1"]);
            let both = [(a, of_a), (b, of_b)];
            for at in [usize::from(turned), usize::from(!turned)] {
                world.unit(both[at].0, |u| u.needs.fleet.conflicts = words(both[at].1));
                world.settle();
            }
            let (first, second) = (both[usize::from(turned)].0, both[usize::from(!turned)].0);
            assert_eq!(world.on(first), ["m1"], "{a} {b}");
            assert_eq!(world.on(second).len(), usize::from(shared), "{a} {b}");
            if !shared {
                world.machine("m2", |_| {});
                world.settle();
                assert_eq!(world.on(second), ["m2"]);
            }
        }
    }
}

/// Units that were together before a rule parted them: one goes, the other stays.
#[test]
fn a_new_conflict_moves_one_of_two() {
    let mut world = World::new(&["m1"]);
    world.plain(&["a.service", "b.service"]);
    world.settle();
    world.machine("m2", |_| {});
    world.unit("b.service", |u| u.needs.fleet.conflicts = words("a.*"));
    world.settle();
    assert_eq!(
        (world.on("a.service"), world.on("b.service")),
        (words("m1"), words("m2"))
    );
}

#[test]
fn replaces() {
    let mut world = World::new(&["m1", "m2"]);
    world.plain(&["old.service"]);
    world.settle();
    assert_eq!(world.on("old.service"), ["m1"]);
    world.unit("new.service", |u| u.needs.fleet.replaces = words("old.*"));
    let decided = world.settle();
    assert_eq!(
        decided,
        [
            "place old.service#2 on m2: it makes room on m1 for new.service (Replaces); this is the least loaded machine that fits",
            "new.service waits: old.service moves away from m1 first (Replaces)",
            "withdraw old.service#1 on m1: it runs elsewhere now: it makes room on m1 for new.service (Replaces)",
            "place new.service#1 on m1: it is to be on a machine; it takes the place of old.*(Replaces)",
            "new.service is settled",
        ]
        .map(|s| s.replace("*(", "* ("))
    );
    // It does not come back while the other is there.
    world.lose("m2");
    world.settle();
    assert_eq!(
        world.wait("old.service"),
        "its machine m2 is lost; no machine fits: a unit there has taken its place (Replaces)"
    );
}

#[test]
fn who_cannot_go_is_not_replaced() {
    let mut world = World::new(&["m1"]);
    world.plain(&["old.service"]);
    world.settle();
    world.unit("new.service", |u| {
        u.needs.fleet.replaces = words("old.service")
    });
    world.settle();
    assert_eq!(world.on("old.service"), ["m1"]);
    assert_eq!(
        world.wait("new.service"),
        "no machine fits: a unit there cannot make room (Replaces)"
    );
    world.machine("m2", |_| {});
    world.settle();
    assert_eq!(
        (world.on("old.service").len(), world.on("new.service").len()),
        (1, 1)
    );
    assert_ne!(world.on("old.service"), world.on("new.service"));
    // Circular pairs are ignored.
    let mut world = World::new(&["m1"]);
    world.unit("a.service", |u| u.needs.fleet.replaces = words("b.service"));
    world.unit("b.service", |u| u.needs.fleet.replaces = words("a.service"));
    world.settle();
    assert_eq!(
        (world.on("a.service"), world.on("b.service")),
        (words("m1"), words("m1"))
    );
}
