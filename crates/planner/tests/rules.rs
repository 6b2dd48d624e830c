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
    world.machine("m2", |_| {});
    world.machine("m1", |_| {});
    world.settle();
    assert_eq!(world.on("foo.service"), ["m1"]);
    assert_eq!(world.wait("foo.service"), "");
    world.plain(&["a.service", "b.service"]);
    world.settle();
    assert_eq!(
        (world.on("a.service"), world.on("b.service")),
        (words("m2"), words("m1"))
    );
    // A unit that asks for more counts for more.
    world.unit("c.service", |u| u.needs.cpu_millis = 3000);
    world.settle();
    assert_eq!(world.on("c.service"), ["m2"]);
    world.plain(&["d.service", "e.service", "f.service"]);
    world.settle();
    assert!(
        ["d", "e", "f"]
            .iter()
            .all(|n| world.on(&format!("{n}.service")) == ["m1"])
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

/// What is told in another order, and does not depend on each other, is decided alike.
#[test]
fn order_of_telling_does_not_matter() {
    let tell = |turned: bool| {
        let mut world = World::new(&[]);
        type Step = Box<dyn Fn(&mut World)>;
        let mut steps: Vec<Step> = Vec::new();
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
