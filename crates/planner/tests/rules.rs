//! Each rule of placement, as tables.
mod common;
use common::*;
use coracle_planner::*;

/// fleet's decisions: none without machines, then the machine with the fewest units, then the smallest id.
#[test]
fn the_least_loaded_machine_is_taken() {
    let mut world = World::new(&[]);
    world.plain(&["foo.service"]);
    world.settle();
    assert_eq!(world.wait("foo.service"), "there is no machine for it");
    world.machine("YYY", |_| {});
    world.machine("XXX", |_| {});
    world.settle();
    assert_eq!(world.on("foo.service"), ["XXX"]);
    assert_eq!(world.wait("foo.service"), "");
    world.plain(&["a.service", "b.service"]);
    world.settle();
    assert_eq!(
        (world.on("a.service"), world.on("b.service")),
        (words("YYY"), words("XXX"))
    );
    // A unit that asks for more counts for more.
    world.unit("c.service", |u| u.needs.cpu_millis = 3000);
    world.settle();
    assert_eq!(world.on("c.service"), ["YYY"]);
    world.plain(&["d.service", "e.service", "f.service"]);
    world.settle();
    assert!(
        ["d", "e", "f"]
            .iter()
            .all(|n| world.on(&format!("{n}.service")) == ["XXX"])
    );
}

#[test]
fn metadata() {
    // Labels of the machine, MachineMetadata, whether it fits: fleet's table.
    let table = [
        ("region=us-east-1", "region=us-east-1", true),
        ("groups=ping", "groups=ping groups=pong", true),
        ("groups=ping", "groups=pong", false),
        (
            "region=us-east-1 groups=ping",
            "region=us-east-1 groups=pong",
            false,
        ),
        (
            "region=us-east-1 groups=ping",
            "region=us-east-1 groups=ping",
            true,
        ),
        ("", "groups=pong", false),
        ("a=b", "", true),
    ];
    for (labels, wants, fits) in table {
        let mut world = World::new(&["m"]);
        for (key, value) in words(labels).iter().filter_map(|l| l.split_once('=')) {
            world.label("m", key, value);
        }
        world.unit("u.service", |u| {
            for (key, value) in words(wants).iter().filter_map(|l| l.split_once('=')) {
                let values = u
                    .needs
                    .fleet
                    .machine_metadata
                    .entry(key.into())
                    .or_default();
                values.insert(value.into());
            }
        });
        world.settle();
        assert_eq!(
            world.on("u.service").len(),
            usize::from(fits),
            "{labels}; {wants}"
        );
        let explained = world
            .planner
            .explain(&"u.service".into())
            .expect("it is known");
        assert_eq!(explained.counts().contains_key(&Kind::Label), !fits);
    }
}

#[test]
fn a_label_that_goes_takes_the_unit_with_it() {
    let mut world = World::new(&["m1", "m2"]);
    world.label("m1", "disk", "ssd");
    world.unit("db.service", |u| {
        u.needs
            .fleet
            .machine_metadata
            .insert("disk".into(), set("ssd"));
    });
    world.settle();
    assert_eq!(world.on("db.service"), ["m1"]);
    world.label("m2", "disk", "ssd");
    assert_eq!(world.settle(), Vec::<String>::new());
    world.machine("m1", |m| m.labels.clear());
    // It runs there until the other is healthy.
    let decided = world.plan();
    assert_eq!(
        decided,
        [
            "place db.service#2 on m2: it may not stay on m1 (MachineMetadata asks for disk=ssd, and it has no disk); this is the least loaded machine that fits"
        ]
    );
    world.settle();
    assert_eq!(world.on("db.service"), ["m2"]);
    // With nowhere to go it stops, as with fleet.
    world.machine("m2", |m| m.labels.clear());
    world.settle();
    assert!(world.on("db.service").is_empty());
    assert_eq!(
        world.wait("db.service"),
        "no machine fits: labels do not match (MachineMetadata)"
    );
}

#[test]
fn machine_id() {
    let mut world = World::new(&["m1", "m2"]);
    let named = |world: &mut World, id: &str| {
        world.unit("u.service", |u| u.needs.fleet.machine_id = Some(id.into()));
        world.settle();
        (world.on("u.service"), world.wait("u.service"))
    };
    assert_eq!(named(&mut world, "m2"), (words("m2"), String::new()));
    assert_eq!(named(&mut world, "m1"), (words("m1"), String::new()));
    let nowhere = "no machine fits: no such machine is known".to_owned();
    assert_eq!(named(&mut world, "m9"), (vec![], nowhere));
    world.machine("m9", |_| {});
    world.settle();
    assert_eq!(world.on("u.service"), ["m9"]);
    world.lose("m9");
    world.settle();
    assert_eq!(
        world.wait("u.service"),
        "its machine m9 is lost; it can only be on m9: the machine is lost"
    );
}

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
fn global() {
    let mut world = World::new(&["m1", "m2", "m3"]);
    world.label("m1", "role", "web");
    world.label("m2", "role", "web");
    world.unit("log.service", |u| {
        u.needs.fleet.global = true;
        u.needs
            .fleet
            .machine_metadata
            .insert("role".into(), set("web"));
    });
    world.settle();
    assert_eq!(world.on("log.service"), ["m1", "m2"]);
    world.label("m3", "role", "web");
    world.machine("m4", |m| m.cordoned = true);
    world.label("m4", "role", "web");
    world.settle();
    // Nothing new on a cordoned machine, not even this.
    assert_eq!(world.on("log.service"), ["m1", "m2", "m3"]);
    world.machine("m4", |m| m.cordoned = false);
    world.machine("m1", |m| m.cordoned = true);
    world.label("m2", "role", "db");
    world.settle();
    assert_eq!(world.on("log.service"), ["m1", "m3", "m4"]);
    // A lost machine's waits for it, and nothing is done when it is back.
    world.lose("m3");
    assert_eq!(world.settle(), Vec::<String>::new());
    world.machine("m3", |m| m.alive = true);
    assert_eq!(world.settle(), Vec::<String>::new());
    // Two that conflict share the machines in the order of their names.
    for name in ["x.service", "y.service"] {
        world.unit(name, |u| {
            u.needs.fleet.global = true;
            u.needs.fleet.conflicts = words("[xy].service");
        });
    }
    world.settle();
    assert_eq!(
        (world.on("x.service"), world.on("y.service")),
        (words("m2 m3 m4"), vec![])
    );
    // Who follows a global unit may be on any of its machines.
    world.unit("f.service", |u| {
        u.needs.fleet.machine_of = words("x.service")
    });
    world.settle();
    assert_eq!(world.on("f.service"), ["m2"]);
    world.stop("log.service");
    world.settle();
    assert!(world.on("log.service").is_empty());
}

#[test]
fn requests_are_never_overcommitted() {
    let mut world = World::new(&["m1", "m2"]);
    for n in 1..=5 {
        world.unit(&format!("u{n}.service"), |u| u.needs.cpu_millis = 2000);
    }
    for n in 1..=3 {
        world.unit(&format!("v{n}.service"), |u| u.needs.memory = 7 << 30);
    }
    world.settle();
    let nowhere = "no machine fits: too little processor time is left";
    assert_eq!(world.wait("u5.service"), nowhere);
    assert_eq!(
        world.wait("v3.service"),
        "no machine fits: too little memory is left"
    );
    let explained = world
        .planner
        .explain(&"u5.service".into())
        .expect("it is known");
    let text = explained.to_string();
    assert!(
        text.contains("m1: it asks for 2 CPU, and 0 are left"),
        "{text}"
    );
    // One that goes makes room for one that waits.
    world.stop("u1.service");
    world.settle();
    assert_eq!(
        (world.on("u5.service").len(), world.wait("u5.service")),
        (1, String::new())
    );
    // A unit that asks for nothing always fits; without a known capacity one that asks for something never does.
    world.plain(&["w.service"]);
    let mut empty = World::new(&[]);
    empty.machine("m", |m| (m.cpu_millis, m.memory) = (0, 0));
    empty.plain(&["a.service"]);
    empty.unit("b.service", |u| u.needs.memory = 1);
    empty.settle();
    world.settle();
    assert_eq!(
        (world.on("w.service").len(), empty.on("a.service").len()),
        (1, 1)
    );
    assert!(empty.on("b.service").is_empty());
}

#[test]
fn host_ports() {
    let mut world = World::new(&["m1", "m2"]);
    for name in ["a.service", "b.service", "c.service"] {
        world.unit(name, |u| u.needs.ports = [(80, Protocol::Tcp)].into());
    }
    world.unit("d.service", |u| {
        u.needs.ports = [(80, Protocol::Udp)].into()
    });
    world.settle();
    assert_eq!(
        (world.on("a.service"), world.on("b.service")),
        (words("m1"), words("m2"))
    );
    assert_eq!(
        world.wait("c.service"),
        "no machine fits: a host port is taken"
    );
    assert_eq!(world.on("d.service").len(), 1);
    let explained = world
        .planner
        .explain(&"c.service".into())
        .expect("it is known");
    assert_eq!(
        explained.machines[&"m1".into()].to_string(),
        "port 80/tcp is taken by a.service"
    );
    // Freed only once the container has gone.
    world.stop("a.service");
    let decided = world.plan();
    assert!(
        decided.iter().all(|d| d.starts_with("withdraw a.service")),
        "{decided:?}"
    );
    world.settle();
    assert_eq!(world.on("c.service"), ["m1"]);
}

#[test]
fn spread() {
    let mut world = World::new(&["m1", "m2", "m3"]);
    // The others are loaded more, and get one each all the same.
    world.unit("big1.service", |u| u.needs.cpu_millis = 3000);
    world.unit("big2.service", |u| u.needs.cpu_millis = 3000);
    world.settle();
    for n in 1..=4 {
        world.unit(&format!("web@{n}.service"), |u| {
            u.needs.spread = Some("web@.service".into())
        });
    }
    world.settle();
    let mut on: Vec<String> = (1..=3)
        .flat_map(|n| world.on(&format!("web@{n}.service")))
        .collect();
    on.sort();
    assert_eq!(on, ["m1", "m2", "m3"]);
    assert_eq!(world.on("web@4.service"), ["m3"]);
    // A cordoned machine without any does not keep the others from being even.
    world.machine("m4", |m| m.cordoned = true);
    world.unit("web@5.service", |u| {
        u.needs.spread = Some("web@.service".into())
    });
    world.settle();
    assert_ne!(world.on("web@5.service"), ["m3"]);
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

/// What is told in another order, and does not depend on each other, is decided alike.
#[test]
fn order_of_telling_does_not_matter() {
    let tell = |turned: bool| {
        let mut world = World::new(&[]);
        let mut steps: Vec<Box<dyn Fn(&mut World)>> = Vec::new();
        for n in 0..7 {
            steps.push(Box::new(move |w| {
                w.machine(&format!("m{n}"), |m| m.cpu_millis = 1000 + 500 * n);
                w.label(&format!("m{n}"), "zone", ["a", "b"][n as usize % 2]);
            }));
        }
        for n in 0..60u64 {
            steps.push(Box::new(move |w| {
                w.unit(&format!("u@{n}.service"), |u| {
                    u.needs.cpu_millis = n * 37 % 400;
                    u.needs.spread = (n % 3 == 0).then(|| "u@.service".into());
                    if n % 5 == 0 {
                        u.needs.fleet.conflicts = vec![format!("u@{}?.service", n % 4)];
                    }
                    if n % 7 == 0 {
                        u.needs
                            .fleet
                            .machine_metadata
                            .insert("zone".into(), set("b"));
                    }
                });
            }));
        }
        if turned {
            steps.reverse();
        }
        steps.iter().for_each(|step| step(&mut world));
        world.settle()
    };
    assert_eq!(tell(false), tell(true));
}
