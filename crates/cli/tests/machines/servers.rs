//! What tests of clusters are made of: real servers, the witness, faults at random.

use super::*;
use crate::cluster::chaos::{Chaos, Length, Random};
use crate::cluster::parts;
use crate::cluster::witness::Witness;
use crate::common::text;

/// A container's address on the default network.
fn address(machine: &cluster::Machine, container: &str) -> String {
    machine.field(container, ".NetworkSettings.Networks.bridge.IPAddress")
}

fn page(machine: &cluster::Machine, url: &str) -> String {
    text(
        &machine
            .inside("curl")
            .args(["-fsS", "-m", "5", url])
            .output()
            .unwrap(),
    )
}

#[test]
fn real_servers() {
    let mut setup = Setup::new(2);
    setup.config = "default_pool = \"10.77.0.0/16\"\n".to_owned();
    let cluster = setup.flag("--registry-mirror=http://{address}:1").build();
    let [m1, m2] = [1, 2].map(|n| cluster.machine(n));
    assert!(
        m2.ok(&["info", "--format", "json"])
            .contains("http://192.0.2.2:1")
    );
    m1.load(&parts::redis(), "redis");
    m2.load(&parts::nginx(), "nginx");
    let volume = m1.unit("redis.volume", "[Volume]\n");
    let redis = m1.unit("redis.container", parts::REDIS_UNIT);
    m1.ok(&["unit", "start", &volume, &redis]);
    assert_eq!(
        m1.ok(&["exec", "redis", "redis-cli", "set", "key", "kept"]),
        "OK"
    );
    m1.reboot();
    wait_for("redis has its data after a boot", MINUTE, || {
        text(&m1.coracle(&["exec", "redis", "redis-cli", "get", "key"])) == "kept"
    });
    assert!(address(m1, "redis").starts_with("10.77."));
    let nginx = m2.unit("nginx.container", parts::NGINX_UNIT);
    m2.ok(&["unit", "start", &nginx]);
    assert_eq!(
        page(m2, &format!("http://{}/", address(m2, "nginx"))),
        "served by nginx"
    );
    let tell = m2.unit("tell@.container", parts::TELL_UNIT);
    m2.ok(&["unit", "start", &tell, "tell@{1..2}"]);
    for name in ["tell-1", "tell-2"] {
        let id = m2.field(name, ".Config.Hostname");
        let said = page(m2, &format!("http://{}/", address(m2, name)));
        assert_eq!(said, format!("m2 {id}"));
    }
}

#[test]
fn a_registry_beside_the_machines() {
    let cluster = Cluster::new(2);
    let registry = cluster.outside().registry();
    let image = format!("{registry}/shared:1");
    let [m1, m2] = [1, 2].map(|n| cluster.machine(n));
    m1.ok(&["tag", "bb", &image]);
    m1.ok(&["push", &image]);
    assert_eq!(m2.ok(&["run", "--rm", &image, "echo", "pulled"]), "pulled");
    m2.ok(&["rmi", "-f", &image]);
    m2.cut();
    assert!(!m2.pings(&cluster.outside().address()));
}

#[test]
fn the_witness_sees_two_at_once() {
    let cluster = Cluster::new(2);
    let witness = Witness::new(&cluster, "it");
    let volume = witness.volume();
    let run = |machine: &cluster::Machine, fence: &str| {
        let (name, fence) = (
            format!("MACHINE={}", machine.name()),
            format!("CORACLE_FENCE={fence}"),
        );
        machine.ok(&[
            "run", "-d", "--name", "it", "-v", &volume, "-e", &name, "-e", &fence, "bb", "witness",
        ]);
    };
    let beats = |machine: &str| witness.last().is_some_and(|seen| seen.machine == machine);
    let [m1, m2] = [1, 2].map(|n| cluster.machine(n));
    assert!(!witness.is_held());
    run(m1, "4");
    wait_for("the first runs", MINUTE, || beats("m1"));
    assert!(witness.is_held());
    m1.ok(&["rm", "-f", "it"]);
    assert!(!witness.is_held());
    run(m2, "6");
    wait_for("the second runs", MINUTE, || beats("m2"));
    witness.was_alone();
    assert_eq!(witness.stale(), []);
    // Their machines do not see each other, and the witness sees both.
    m1.cut();
    run(m1, "5");
    wait_for("both were seen", MINUTE, || witness.doubles().len() == 1);
    assert_eq!(witness.doubles()[0].machine, "m1");
    m2.kill_all();
    wait_for("the one that came late goes on", MINUTE, || beats("m1"));
    wait_for("its fence is an older one", MINUTE, || {
        !witness.stale().is_empty()
    });
    assert!(std::panic::catch_unwind(|| witness.was_alone()).is_err());
}

/// etcd's own meaning of a partition: who leads and is cut off is followed by another, and takes no write.
#[test]
fn a_real_etcd_over_the_bridge() {
    let cluster = Setup::new(3).unstarted().build();
    cluster.each(cluster::Machine::boot);
    let peer = |m: &cluster::Machine| format!("{}=http://{}:2380", m.name(), m.address());
    let all: Vec<_> = cluster.machines().iter().map(peer).collect();
    let serve = |m: &cluster::Machine| {
        let (peers, clients) = (
            format!("http://{}:2380", m.address()),
            "http://127.0.0.1:2379".to_owned(),
        );
        let mut etcd = m.inside("etcd");
        etcd.arg("--data-dir").arg(m.state_dir().join("etcd"));
        etcd.args(["--name", &m.name(), "--initial-cluster", &all.join(",")]);
        etcd.args([
            "--initial-advertise-peer-urls",
            &peers,
            "--listen-peer-urls",
            &peers,
        ]);
        etcd.args([
            "--advertise-client-urls",
            &clients,
            "--listen-client-urls",
            &clients,
        ]);
        m.serves(&mut etcd)
    };
    let ctl = |m: &cluster::Machine, args: &[&str]| {
        let mut ctl = m.inside("etcdctl");
        ctl.env("ETCDCTL_API", "3")
            .arg("--command-timeout=2s")
            .args(args);
        let output = ctl.output().unwrap();
        output.status.success().then(|| text(&output))
    };
    let leads = |m: &cluster::Machine| {
        let status = ctl(m, &["endpoint", "status", "-w", "json"]).unwrap_or_default();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
        let status = &status[0]["Status"];
        status["leader"].is_u64() && status["leader"] == status["header"]["member_id"]
    };
    let mut servers: Vec<_> = cluster.machines().iter().map(|m| Some(serve(m))).collect();
    wait_for("it takes a write", MINUTE, || {
        ctl(cluster.machine(1), &["put", "a", "1"]).is_some()
    });
    let leader = || cluster.machines().iter().find(|m| leads(m));
    wait_for("one leads", MINUTE, || leader().is_some());
    let first = leader().unwrap();
    let other = cluster.machine(first.n() % 3 + 1);
    first.cut();
    wait_for("the others go on", MINUTE, || {
        ctl(other, &["put", "a", "2"]).is_some()
    });
    assert_eq!(ctl(first, &["put", "a", "3"]), None);
    assert_eq!(ctl(first, &["get", "a"]), None);
    first.heal();
    wait_for("it has what was written", MINUTE, || {
        ctl(first, &["get", "a", "--print-value-only"]).as_deref() == Some("2")
    });
    // One that dies has on its disk what it knew.
    other.kill_all();
    wait_for("two of three take a write", MINUTE, || {
        ctl(first, &["put", "a", "4"]).is_some()
    });
    other.boot();
    servers[other.n() - 1] = Some(serve(other));
    wait_for("it has what was written without it", MINUTE, || {
        ctl(other, &["get", "a", "--print-value-only"]).as_deref() == Some("4")
    });
}

/// Faults at random on machines that have nothing to do with each other yet: what is asked of each comes about again.
#[test]
fn faults_at_random() {
    let cluster = Cluster::new(3);
    cluster.each(|machine| {
        machine.ok(&[
            "run",
            "-d",
            "--name",
            "one",
            "--restart",
            "always",
            "bb",
            "sleep",
            "100000",
        ]);
    });
    let mut chaos = Chaos::new(Random::from_environment(), 3, 2);
    cluster.disturb(
        &mut chaos,
        Length::from_environment(4),
        || {},
        || {
            for machine in cluster.machines() {
                wait_for(
                    &format!("{} has its container", machine.name()),
                    MINUTE,
                    || machine.field("one", ".State.Status") == "running",
                );
                for other in cluster.machines() {
                    let address = other.address();
                    wait_for("they reach each other", MINUTE, || machine.pings(&address));
                    assert_eq!(machine.many_pings(&other.address()).answered, 100);
                }
                machine.ok(&["run", "--rm", "bb", "true"]);
            }
        },
    );
    assert_eq!(chaos.now().count(), 0);
}
