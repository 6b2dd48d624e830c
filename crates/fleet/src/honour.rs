//! What a unit's file may say and this release does not do yet is refused at submit, by name, instead of being ignored.

use crate::error::{FleetError, Result};
use crate::fleet::Fleet;
use crate::hold;
use crate::leader::Leader;
use crate::service;
use crate::translate::{self, TranslateError};
use coracle_unit::deploy::takes_too_long;
use coracle_unit::service::ServiceSection;
use coracle_unit::{Kind, Unit};
use std::sync::Arc;

/// A section and key, and what to do instead.
type Refused = Option<(String, &'static str)>;

impl Fleet {
    /// Refuses what is read and not honoured yet.
    pub(crate) fn honour(&self, unit: &Unit, leader: &Leader) -> Result<()> {
        let refused = service::section(unit)
            .and_then(any_service)
            .or_else(|| of_kind(unit))
            .or_else(|| of_exclusive(unit));
        if let Some((what, way_out)) = refused {
            return Err(FleetError::Unsupported {
                unit: unit.name.to_string(),
                what,
                way_out,
            });
        }
        // Where it is alone a machine lets what has data take the time it needs.
        let stop = coracle_unit::unit::stop_time(&unit.kind).filter(|_| !self.0.alone());
        if hold::is_exclusive(unit)
            && let Some(why) = stop.and_then(takes_too_long)
        {
            return Err(FleetError::Senseless {
                what: format!("{} keeps data in a volume, which makes it exclusive", unit.name),
                why,
                way_out: "or write Exclusive=no into [X-Deploy], with which its container runs on where its machine is cut off".into(),
            });
        }
        if let Kind::Container { .. } = &unit.kind {
            let mut units = leader.resources_of(unit);
            units.insert(unit.name.to_string(), Arc::new(unit.clone()));
            match translate::request(unit, "", &units) {
                Ok(request) => coracle_engine::model::check::check(&request)?,
                // Volumes and networks may be submitted later, files may be written later; starting needs them.
                Err(TranslateError::File { .. } | TranslateError::NotSubmitted { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// All of it has to be gone in time.
fn of_exclusive(unit: &Unit) -> Refused {
    let service = service::section(unit).filter(|_| hold::is_exclusive(unit))?;
    let left = ["process", "none"].contains(&service.kill_mode.as_str());
    left.then(|| {
        (
            format!(
                "[Service] KillMode={} of an exclusive unit",
                service.kill_mode
            ),
            "its processes must not outlive it: use control-group or mixed",
        )
    })
}

fn first(section: &str, keys: &[(&str, bool)], way_out: &'static str) -> Refused {
    let (key, _) = keys.iter().find(|(_, given)| *given)?;
    Some((format!("[{section}] {key}="), way_out))
}

fn any_service(service: &ServiceSection) -> Refused {
    let commands = [
        &service.exec_condition,
        &service.exec_start_pre,
        &service.exec_start,
        &service.exec_start_post,
        &service.exec_reload,
        &service.exec_stop,
        &service.exec_stop_post,
    ];
    if commands.into_iter().flatten().any(|c| c.argv0.is_some()) {
        return Some((
            "[Service] a command with @".into(),
            "its program is called by its own name: leave the @ out",
        ));
    }
    first(
        "Service",
        &[
            ("MemoryMax", service.memory_max.is_some()),
            ("CPUQuota", service.cpu_quota.is_some()),
            ("TasksMax", service.tasks_max.is_some()),
        ],
        "limits are set on containers: use Memory= and PidsLimit= of a [Container]",
    )
}

fn of_kind(unit: &Unit) -> Refused {
    match &unit.kind {
        Kind::Network(network) => first(
            "Network",
            &[("DisableDNS", network.disable_dns)],
            "names are served on every network: leave it out",
        ),
        // What is set for a host process and has another key for a container.
        Kind::Container { service, .. } => first(
            "Service",
            &[
                ("Type=oneshot, Type", service.service_type == "oneshot"),
                ("KillMode", service.kill_mode != "control-group"),
                ("KillSignal", service.kill_signal != "SIGTERM"),
                ("UMask", service.umask.is_some()),
                (
                    "LimitNOFILE, LimitNPROC, LimitCORE or LimitMEMLOCK",
                    !service.limits.is_empty(),
                ),
            ],
            "it has no meaning for a container: use StopSignal=, StopTimeout= and Ulimit= of [Container]",
        ),
        Kind::Service(_) | Kind::Volume(_) => None,
    }
}
