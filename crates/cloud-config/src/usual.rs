//! Units that CoreOS had of its own, of which documents written for it speak without content.

/// Names without suffix, and what takes their place.
const USUAL: &[(&str, &str)] = &[
    (
        "etcd etcd2 etcd3 etcd-member",
        "Coracle runs the store itself; remove the unit, and name the cluster with coracle.join",
    ),
    (
        "fleet",
        "Coracle does fleet's work itself; remove the unit, and write labels with coracle.labels or coreos.fleet.metadata",
    ),
    (
        "flanneld flannel-docker-opts",
        "Coracle makes the network of containers itself; remove the unit, and set up interfaces with coracle.network",
    ),
    (
        "docker docker-tcp early-docker containerd",
        "Coracle runs containers itself; remove the unit, and write registries with coracle.registries",
    ),
    (
        "rkt-api rkt-metadata rkt-gc",
        "Coracle runs containers itself; remove the unit",
    ),
    (
        "locksmithd",
        "Coracle reboots the machine itself; remove the unit, and write coreos.update.reboot_strategy (off for never) and coreos.locksmith.window_start",
    ),
    (
        "update-engine update-engine-stub",
        "Coracle updates the machine itself; remove the unit, and write coreos.update.server (disabled for no updates)",
    ),
    (
        "sshd",
        "ssh is there already; remove the unit, and write keys with ssh_authorized_keys",
    ),
    (
        "systemd-networkd systemd-networkd-wait-online systemd-resolved",
        "Coracle sets up the network itself; remove the unit, and write coracle.network",
    ),
];

/// Why a unit without content is not to be had, if it is one of those.
pub(crate) fn why(name: &str) -> Option<&'static str> {
    let (stem, suffix) = name.rsplit_once('.')?;
    if !matches!(suffix, "service" | "socket" | "timer") {
        return None;
    }
    // An instance of a template such as sshd@22.service is one of them too.
    let stem = stem.split('@').next().unwrap_or(stem);
    let found = USUAL
        .iter()
        .find(|(names, _)| names.split(' ').any(|n| n == stem));
    match found {
        Some((_, why)) => Some(why),
        None => stem
            .starts_with("systemd-")
            .then_some("there is no systemd here; remove the unit"),
    }
}
