//! The certificate by which a later voter's etcd is let in by the others' is renewed while that runs.

use super::*;
use coracle_cluster::MachineId;
use coracle_cluster::pki::{Authority, Directory, Identity, Kind, Lifetimes};
use std::time::SystemTime;

/// A certificate that counts for so long, a third of which is left soon.
const SHORT: Lifetimes = Lifetimes {
    machine: Duration::from_secs(30),
    skew: Duration::from_secs(45),
};

fn end_of(keys: &Directory, machine: &MachineId) -> SystemTime {
    let identity = Identity::open(keys, Kind::Peer, machine).unwrap().unwrap();
    identity.seen().not_after
}

fn etcd_pid(machine: &Machine) -> Value {
    status(machine)["etcd"]["pid"].clone()
}

#[test]
fn a_later_voters_certificate_is_renewed_while_its_etcd_runs() {
    let cluster = joined(Setup::new(3));
    let (a, b, c) = (cluster.machine(1), cluster.machine(2), cluster.machine(3));
    become_(&cluster, 1, "VVV");
    let etcd = etcd_pid(c);
    assert!(etcd.is_u64(), "{etcd}");
    // It is given one that is nearly over, while no daemon is there to renew it.
    c.kill();
    let keys = Directory::open(&c.path(&c.state_dir().join("cluster"))).unwrap();
    let id: MachineId = c.id().parse().unwrap();
    let authority = Authority::open(&keys).unwrap().unwrap();
    let authority = authority.with_lifetimes(SHORT);
    let asked = Identity::ask(&keys, Kind::Peer, &id).unwrap();
    let address = [c.address().parse().unwrap()];
    let certificate = authority.peer(&asked.pem, &id, &address).unwrap();
    let (pin, ca) = (authority.pin(), authority.certificate_pem());
    Identity::install(&keys, Kind::Peer, &id, &pin, ca, &certificate).unwrap();
    let short = end_of(&keys, &id);
    c.start();
    wait_for("it is renewed", LONG, || end_of(&keys, &id) > short);
    wait_for("the former one is over", LONG, || SystemTime::now() > short);
    // All connections are made anew, and without the second machine each of the two others is needed.
    c.cut();
    wait_for("its etcd has lost the others", LONG, || {
        status(c)["answers"] == false
    });
    b.kill_all();
    c.uncut();
    wait_for("the two go on", LONG, || {
        a.coracle(&["store", "put", "k", "1"]).status.success()
    });
    assert!(c.ok(&["store", "get", "k"]).contains('1'));
    assert_eq!(etcd_pid(c), etcd, "it was not begun anew for that");
    b.start();
    become_(&cluster, 3, "VVV");
}
