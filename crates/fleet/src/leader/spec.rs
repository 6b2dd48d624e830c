//! What of a unit's text bears on its place, in the planner's words. Pure.

use crate::model::{Active, Actual, Desired, UnitRecord};
use crate::presence::Seen;
use coracle_planner::{Condition, MachineState, Needs, Protocol, UnitSpec, VolumeName, Wanted};
use coracle_unit::container::{ContainerUnit, MountSource};
use coracle_unit::{Kind, Unit, UnitKind, UnitName};
use std::collections::BTreeSet;

/// Volumes and networks are wherever a unit is that needs them, and templates nowhere: they are not placed.
pub(crate) fn is_placed(unit: &Unit) -> bool {
    !is_resource(unit) && !unit.name.is_template()
}

/// Whether it stands for a volume or network.
pub(crate) fn is_resource(unit: &Unit) -> bool {
    matches!(unit.name.kind(), UnitKind::Volume | UnitKind::Network)
}

/// The name of the volume that a unit stands for, if it was submitted.
pub(crate) type Named<'a> = &'a dyn Fn(&UnitName) -> Option<String>;

/// `placed` is whether it has a machine: what was stopped keeps it.
pub(crate) fn spec(record: &UnitRecord, unit: &Unit, named: Named<'_>, placed: bool) -> UnitSpec {
    let has_ended = record.ended == Some(record.generation);
    let wanted = match record.desired {
        // Its machine has gone since; it is not run again until that is asked for.
        Desired::Active if has_ended && !placed => Wanted::Inactive,
        Desired::Active => Wanted::Launched,
        Desired::Loaded => Wanted::Loaded,
        Desired::Inactive if placed && !record.unloaded => Wanted::Loaded,
        Desired::Inactive => Wanted::Inactive,
    };
    UnitSpec {
        uid: record.uid.as_str().into(),
        wanted,
        incarnation: record.incarnation,
        needs: needs(unit, named),
    }
}

/// Whether there must never be two of it, as the planner has it.
pub(crate) fn is_exclusive(unit: &Unit, named: Named<'_>) -> bool {
    let has_data = || match &unit.kind {
        Kind::Container { container, .. } => !volumes(container, named).is_empty(),
        _ => false,
    };
    !unit.fleet.global && (unit.deploy.exclusive == Some(true) || has_data())
}

fn needs(unit: &Unit, named: Named<'_>) -> Needs {
    let deploy = &unit.deploy;
    let template = unit.name.template().filter(|_| deploy.spread);
    let mut needs = Needs {
        fleet: unit.fleet.clone(),
        cpu_millis: deploy.reserve_cpu.unwrap_or(0),
        memory: deploy.reserve_memory.unwrap_or(0),
        ports: BTreeSet::new(),
        spread: template.map(|t| t.to_string()),
        volumes: BTreeSet::new(),
        exclusive: deploy.exclusive == Some(true),
    };
    if let Kind::Container { container, .. } = &unit.kind {
        needs.ports = ports(unit, container);
        needs.volumes = volumes(container, named);
    }
    needs
}

/// Of a machine; those that a service has are every machine's.
fn ports(unit: &Unit, container: &ContainerUnit) -> BTreeSet<(u16, Protocol)> {
    let of_service = crate::services::published(unit);
    let own = container
        .ports
        .iter()
        .filter(|port| !of_service.iter().any(|p| p.is(port)));
    let ports = own.filter_map(|port| {
        let protocol = match port.protocol.as_str() {
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => Protocol::Tcp,
        };
        Some((port.host_port?, protocol))
    });
    ports.collect()
}

/// Those with a name: their data outlives the container and stays on its machine.
fn volumes(container: &ContainerUnit, named: Named<'_>) -> BTreeSet<VolumeName> {
    let volumes = container
        .mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Named(name) => Some(name.clone()),
            MountSource::Unit(unit) => named(unit),
            _ => None,
        });
    volumes.map(VolumeName::from).collect()
}

/// Whether its data in a volume is what keeps a unit where it is; a global one has its own everywhere.
pub(crate) fn keeps_data_in(unit: &Unit, volume: &str, named: Named<'_>) -> bool {
    match &unit.kind {
        Kind::Container { container, .. } if !unit.fleet.global && is_placed(unit) => {
            volumes(container, named)
                .iter()
                .any(|v| v.as_str() == volume)
        }
        _ => false,
    }
}

/// A machine in the planner's words; `lost` is whether it counts as gone.
pub(crate) fn machine(seen: &Seen, lost: bool) -> MachineState {
    MachineState {
        alive: !lost,
        cordoned: seen.marks.cordoned,
        draining: seen.marks.draining,
        labels: seen.machine.labels.clone(),
        cpu_millis: u64::from(seen.machine.cpus) * 1000,
        memory: seen.machine.memory,
    }
}

/// How an instance is, in the planner's words.
pub(crate) fn condition(
    record: &UnitRecord,
    actual: Option<&Actual>,
    waits_for_health: bool,
) -> Condition {
    // One that is not to run may never have run where it is: only that it was asked counts.
    let answers = |a: &&Actual| match record.desired {
        Desired::Active => a.generation == record.generation,
        _ => a.order >= record.order,
    };
    let Some(actual) = actual.filter(answers) else {
        return Condition::Assigned;
    };
    match actual.active {
        _ if record.desired != Desired::Active => Condition::Present,
        Active::Active if actual.settled => Condition::Done,
        Active::Active if waits_for_health && actual.health.as_deref() == Some("unhealthy") => {
            Condition::Present
        }
        Active::Active => Condition::Healthy,
        Active::Inactive if actual.settled => Condition::Done,
        Active::Failed if actual.settled => Condition::Failed,
        _ => Condition::Present,
    }
}
