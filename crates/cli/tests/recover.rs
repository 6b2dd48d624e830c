//! What is left when those who have the cluster's store are lost: copies, a new store made of one, and machines that find it.
#![allow(clippy::unwrap_used)]

mod cluster;
mod common;

use cluster::recovery::{
    ETCD, SOON, answers, carry, file, hide_etcd, join, joined, lists, pid, show_etcd, stand,
    standing, status, stay, stay_for,
};
use cluster::{Machine, Setup, parts, wait_for};
use std::path::Path;

/// Begins a recovery and kills the daemon as soon as a file is there.
fn cut_short(machine: &Machine, is: impl Fn() -> bool) {
    let mut recovering = machine.spawn(&["cluster", "recover", "--yes"]);
    wait_for("it is on its way", SOON, &is);
    machine.kill();
    let _ = recovering.kill();
    let _ = recovering.wait();
    machine.start();
}

#[test]
fn a_store_that_is_lost_is_made_anew_of_a_copy() {
    let cluster = joined(2, "[cluster]\nsnapshot_keep = 2\n");
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    // One is taken by itself, as soon as there is something to copy.
    wait_for("the first copy", SOON, || {
        status(a).contains("Newest copy of the store here")
    });
    stay(a, "stays", b);
    let before = pid(b, "stays");
    stay_for(a, "texts", b, 1001);
    a.ok(&["store", "put", "kept", "1"]);
    let taken = a.ok(&["cluster", "snapshot"]);
    let listed = a.ok(&["cluster", "snapshots"]);
    assert!(listed.contains(taken.trim()), "{listed}");
    b.refused(&["cluster", "snapshot"], "ask one that does: m1");
    a.ok(&["store", "put", "given-up", "1"]);
    again(a, "texts", b, 1002);
    let revision = revision(a);
    a.refused(&["cluster", "recover", "--yes"], "answers");

    // etcd's data is gone for good.
    a.kill_all();
    std::fs::remove_dir_all(file(a, "etcd/data")).unwrap();
    a.start();
    wait_for("it says so", SOON, || {
        let said = status(a);
        said.contains("is gone") && said.contains("coracle cluster recover")
    });
    let asked = a.coracle(&["cluster", "recover"]);
    let told = String::from_utf8_lossy(&asked.stdout);
    assert!(
        !asked.status.success() && told.contains(taken.trim()),
        "{told}"
    );
    assert!(!answers(a));
    a.refused(
        &["cluster", "recover", "--yes", "--from", "/nowhere"],
        "/nowhere",
    );

    // Cut short twice, then done.
    cut_short(a, || file(a, "recovering.json").exists());
    cut_short(a, || {
        file(a, "etcd/data.new").exists() || file(a, "etcd/data").exists()
    });
    let done = a.coracle(&["cluster", "recover", "--yes"]);
    let said = String::from_utf8_lossy(&done.stderr);
    // A daemon that was killed late enough finished it by itself.
    assert!(
        done.status.success() || said.contains("answers") || said.contains("on its way"),
        "{said}"
    );
    wait_for("the store is there", SOON, || answers(a));
    assert!(a.ok(&["store", "get", "kept"]).contains('1'));
    assert_eq!(a.ok(&["store", "get", "given-up"]), "");
    // What was there at a revision of before is compacted, and not another's.
    let late = ["store", "get", "kept", "--rev", &revision];
    a.refused(&late, "compacted");

    // The other machine is there as before, and nothing of it was touched.
    wait_for("m2 has the store", SOON, || lists(b, "stays.container"));
    assert_eq!(pid(b, "stays"), before);
    stay(b, "more", b);
    assert!(b.ok(&["ps"]).contains("more"));
    b.ok(&["unit", "stop", "stays"]);
    b.ok(&["unit", "start", "stays"]);
    // The second text of a unit is another one now, though that machine had seen one.
    again(a, "texts", b, 1003);
}

/// Another text of a unit, which it runs then.
fn again(asked: &Machine, name: &str, on: &Machine, seconds: u32) {
    asked.ok(&["unit", "stop", name]);
    stay_for(asked, name, on, seconds);
    let command = on.field(name, ".Config.Cmd");
    assert!(command.contains(&seconds.to_string()), "{command}");
}

fn revision(machine: &Machine) -> String {
    let found = machine.ok(&["store", "get", "kept", "-w", "json"]);
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    let revision = &found["header"]["revision"];
    revision
        .as_str()
        .map_or_else(|| revision.to_string(), str::to_owned)
}

#[test]
fn machines_go_over_to_the_new_store_and_lost_voters_too() {
    let cluster = joined(3, "");
    let (a, b, c) = (cluster.machine(1), cluster.machine(2), cluster.machine(3));
    stay(a, "on-c", c);
    let before = pid(c, "on-c");
    let text = "[Container]\nImage=bb\nExec=sleep 1000\n[X-Fleet]\nMachineMetadata=kind=worker\n";
    a.ok(&["machine", "label", a.id(), "kind=worker"]);
    let moves = a.unit("moves.container", text);
    a.ok(&["unit", "start", &moves]);
    assert!(a.ok(&["ps"]).contains("moves"));
    a.ok(&["machine", "label", b.id(), "kind=worker"]);
    let taken = a.ok(&["cluster", "snapshot"]);
    a.kill_all();
    let copy = b.state_dir().join("copy.db");
    std::fs::copy(a.path(Path::new(taken.trim())), b.path(&copy)).unwrap();
    std::fs::copy(file(a, "ca.key"), file(b, "ca.key")).unwrap();
    show_etcd(b);
    b.kill();
    b.start();
    b.ok(&[
        "cluster",
        "recover",
        "--yes",
        "--from",
        copy.to_str().unwrap(),
    ]);
    let said = status(b);
    let line = |of: &Machine| {
        let all = said.lines();
        let mut found = all.filter(|line| line.starts_with(of.id()));
        found.next().unwrap().to_owned()
    };
    assert!(
        line(b).contains("voter") && !line(a).contains("voter"),
        "{said}"
    );
    // m3 never asked m2 for the store; now it does.
    wait_for("m3 has the store", SOON, || lists(c, "on-c.container"));
    assert_eq!(pid(c, "on-c"), before);
    wait_for("what m1 had runs elsewhere", SOON, || {
        b.ok(&["ps"]).contains("moves")
    });

    // m1 is back, and finds that its store counts no more.
    a.start();
    wait_for("m1 is one of them", SOON, || lists(a, "on-c.container"));
    assert!(file(a, "etcd/data.before-1").exists());
    let said = status(a);
    let own = said.lines().find(|line| line.starts_with(a.id())).unwrap();
    assert!(!own.contains("voter"), "{said}");
    wait_for("nothing is doubled", SOON, || {
        !a.ok(&["ps"]).contains("moves") && b.ok(&["ps"]).contains("moves")
    });
    // Who comes from now on is told where it is.
    a.refused(&["cluster", "recover", "--yes"], "answers");
    b.ok(&["cluster", "token"]);
}

/// The voter runs on by itself, and does not know that it was given up.
#[test]
fn a_voter_that_was_only_cut_off_goes_over_too() {
    let cluster = joined(2, "");
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    a.ok(&["store", "put", "kept", "1"]);
    let taken = a.ok(&["cluster", "snapshot"]);
    a.cut();
    let copy = carry(a, &taken, b, true);
    show_etcd(b);
    b.kill();
    b.start();
    b.ok(&["cluster", "recover", "--yes", "--from", &copy]);
    a.ok(&["store", "put", "lost", "1"]);
    a.uncut();
    wait_for("m1 goes over", SOON, || {
        file(a, "etcd/data.before-1").exists()
    });
    wait_for("it has m2's store", SOON, || {
        let got = a.coracle(&["store", "get", "kept"]);
        String::from_utf8_lossy(&got.stdout).contains('1')
    });
    assert_eq!(a.ok(&["store", "get", "lost"]), "");
}

#[test]
fn without_its_etcd_a_machine_comes_up_and_says_so() {
    let cluster = Setup::new(2).unstarted().build();
    let bin = cluster.dir().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let program = bin.join("etcd");
    std::os::unix::fs::symlink(ETCD, &program).unwrap();
    let config = format!("[cluster]\netcd = \"{}\"\n", program.display());
    std::fs::write(cluster.dir().join("coracle.toml"), config).unwrap();
    cluster.each(|machine| {
        machine.start();
        machine.load(&parts::busybox(), "bb");
    });
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    join(a, b);
    stay(a, "stays", a);
    a.kill_all();
    std::fs::remove_file(&program).unwrap();
    a.start();
    let said = status(a);
    assert!(
        said.contains("etcd does not run") && said.contains(program.to_str().unwrap()),
        "{said}"
    );
    // What was to run here does.
    wait_for("its unit runs again", SOON, || {
        a.ok(&["ps"]).contains("stays")
    });
    std::os::unix::fs::symlink(ETCD, &program).unwrap();
    wait_for("the store is there again", SOON, || {
        lists(b, "stays.container")
    });
    assert!(!status(a).contains("does not run"));
}

#[test]
fn etcd_out_of_an_image() {
    let config = "[cluster]\netcd = \"image:localhost/etcd\"\n";
    let cluster = Setup {
        config: config.to_owned(),
        ..Setup::new(2).unstarted()
    }
    .build();
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    cluster.each(|machine| {
        machine.boot();
        hide_etcd(machine);
        machine.start();
    });
    let token = a.ok(&["cluster", "token", "-q"]);
    let join = ["join", &a.address(), "--token", token.trim()];
    b.refused(&join, "localhost/etcd");
    a.load(&parts::etcd(), "localhost/etcd");
    b.ok(&join);
    a.ok(&["store", "put", "kept", "1"]);
    let runs = || {
        let all = a.processes();
        let lines = all.iter().map(|process| {
            let line = std::fs::read(format!("/proc/{}/cmdline", process.pid));
            String::from_utf8_lossy(&line.unwrap_or_default()).replace('\0', " ")
        });
        lines
            .filter(|line| line.contains("--data-dir"))
            .collect::<Vec<_>>()
    };
    let found = runs();
    assert!(
        found.len() == 1 && found[0].contains("/etcd/image-"),
        "{found:?}"
    );
    // After a boot it runs before there is a store, and without the image's containers or network.
    a.reboot();
    wait_for("the store is there", SOON, || {
        let got = b.coracle(&["store", "get", "kept"]);
        String::from_utf8_lossy(&got.stdout).contains('1')
    });
    assert_eq!(a.ok(&["ps", "-aq"]), "");
    let taken = a.ok(&["cluster", "snapshot"]);
    assert!(taken.contains("snapshots/"), "{taken}");
}

/// Two of three come back, which were a majority of what is past.
#[test]
fn of_three_voters_the_last_one_goes_on() {
    let cluster = standing(3, &["voter", "voter", "voter"]);
    let (a, b, c) = (cluster.machine(1), cluster.machine(2), cluster.machine(3));
    a.ok(&["store", "put", "kept", "1"]);
    stay(a, "stays", c);
    let before = pid(c, "stays");
    c.refused(&["cluster", "recover", "--yes"], "answers");
    a.kill_all();
    b.kill_all();
    // Who is lost is said, and where it goes on.
    wait_for("it is known", SOON, || {
        let said = status(c);
        said.contains("1 of 3 voters answer")
            && said.contains("one of m1, m2 is back")
            && said.contains("`coracle cluster recover` on m3 goes on")
    });
    c.ok(&["cluster", "recover", "--yes"]);
    c.ok(&["store", "put", "new", "1"]);
    for lost in [a, b] {
        lost.start();
        assert!(file(lost, "etcd/data.before-1").exists());
    }
    stand(&cluster, &["voter", "voter", "voter"]);
    for machine in cluster.machines() {
        assert!(machine.ok(&["store", "get", "kept"]).contains('1'));
        assert!(machine.ok(&["store", "get", "new"]).contains('1'));
    }
    assert!(lists(a, "stays.container"));
    assert_eq!(pid(c, "stays"), before);
}
