//! Keys of the store. See the table in ARCHITECTURE.md.

use super::Instance;

/// Facts about a machine.
pub fn machine(id: &str) -> String {
    format!("/coracle/v1/machines/{id}")
}
/// There as long as the machine's lease is.
pub fn alive(id: &str) -> String {
    format!("/coracle/v1/alive/{id}")
}
/// Machines that are there.
pub const ALIVE: &str = "/coracle/v1/alive/";
/// Facts about all machines.
pub const MACHINES: &str = "/coracle/v1/machines/";
/// What operators said of machines.
pub const MARKS: &str = "/coracle/v1/marks/";
/// What an operator said of a machine: labels, cordon, drain.
pub fn marks(id: &str) -> String {
    format!("{MARKS}{id}")
}
/// What is agreed on of the network between machines.
pub const NETWORK: &str = "/coracle/v1/network";
/// Machines' subnets.
pub const SUBNETS: &str = "/coracle/v1/subnets/";
/// The subnet of a machine's default network.
pub fn subnet(id: &str) -> String {
    format!("{SUBNETS}{id}")
}
/// Who leads.
pub const LEADER: &str = "/coracle/v1/leader";
/// Where local volumes have their data.
pub const VOLUMES: &str = "/coracle/v1/volumes/";
/// The machine that has a volume's data.
pub fn volume(name: &str) -> String {
    format!("{VOLUMES}{name}")
}
/// How units stand that units on other machines wait for.
pub const STATUS: &str = "/coracle/v1/status/";
/// How one of them stands.
pub fn status(name: &str) -> String {
    format!("{STATUS}{name}")
}
/// What apps see as the whole store.
pub const APPS: &str = "/coracle/v1/apps/";
/// Where apps find each other, among their keys: `/discovery/`.
pub const DISCOVERY: &str = "/coracle/v1/apps//discovery/";
/// One instance of a service.
pub fn instance(service: &str, instance: &str) -> String {
    format!("{DISCOVERY}{service}/{instance}")
}
/// Every unit.
pub const UNITS: &str = "/coracle/v1/units/";
/// One unit.
pub fn unit(name: &str) -> String {
    format!("{UNITS}{name}")
}
/// One text of a unit.
pub fn revision(uid: &str, number: u64) -> String {
    format!("/coracle/v1/revisions/{uid}/{number}")
}
/// Every text of a unit.
pub fn revisions(uid: &str) -> String {
    format!("/coracle/v1/revisions/{uid}/")
}
/// Every text of every unit.
pub const REVISIONS: &str = "/coracle/v1/revisions/";
/// What machines must run.
pub const DESIRED: &str = "/coracle/v1/desired/";
/// What they run.
pub const ACTUAL: &str = "/coracle/v1/actual/";
/// What a machine must run of a unit.
pub fn desired(machine: &str, instance: &Instance) -> String {
    format!("{DESIRED}{machine}/{instance}")
}
/// All that a machine must run.
pub fn desired_of(machine: &str) -> String {
    format!("{DESIRED}{machine}/")
}
/// What it runs.
pub fn actual(machine: &str, instance: &Instance) -> String {
    format!("{ACTUAL}{machine}/{instance}")
}
/// All that it runs.
pub fn actual_of(machine: &str) -> String {
    format!("{ACTUAL}{machine}/")
}
/// In a machine's own store: the cluster's revision at which an instance was placed, which fences what lies outside.
pub fn fence(instance: &Instance) -> String {
    format!("/coracle/v1/fence/{instance}")
}
/// Machine and instance of a key below [`DESIRED`] or [`ACTUAL`].
pub fn placed(key: &str, family: &str) -> Option<(String, Instance)> {
    let (machine, instance) = key.strip_prefix(family)?.split_once('/')?;
    Some((machine.to_owned(), instance.parse().ok()?))
}

/// Deploys of all services.
pub const DEPLOYS: &str = "/coracle/v1/deploys/";
/// One deploy of a service, by the uid of its service.
pub fn deploy(uid: &str, number: u64) -> String {
    format!("{DEPLOYS}{uid}/{number}")
}
/// All deploys of a service.
pub fn deploys(uid: &str) -> String {
    format!("{DEPLOYS}{uid}/")
}

/// Services as every machine knows them.
pub const SERVICES: &str = "/coracle/v1/services/";
/// One of them.
pub fn service(name: &str) -> String {
    format!("{SERVICES}{name}")
}

/// Images that machines are to have before a deploy begins.
pub const FETCH: &str = "/coracle/v1/fetch/";
/// Those of one machine.
pub fn fetch_of(machine: &str) -> String {
    format!("{FETCH}{machine}/")
}
/// The one for a service, by the service's uid.
pub fn fetch(machine: &str, service: &str) -> String {
    format!("{FETCH}{machine}/{service}")
}
/// What machines say of these.
pub const IMAGES: &str = "/coracle/v1/images/";
/// What one machine says of them.
pub fn images_of(machine: &str) -> String {
    format!("{IMAGES}{machine}/")
}
/// What it says of the one for a service.
pub fn image(machine: &str, service: &str) -> String {
    format!("{IMAGES}{machine}/{service}")
}
