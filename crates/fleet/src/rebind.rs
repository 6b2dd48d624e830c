//! A volume's data is on another machine than before: an operator says so, nobody guesses it.

use crate::error::{FleetError, Result};
use crate::fleet::Fleet;
use crate::leader::Placed;
use crate::model::Active;
use serde::Serialize;

/// Where a volume's data is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rebound {
    /// The volume's own name.
    pub volume: String,
    /// The machine's id.
    pub machine: String,
    /// As people call the machine.
    pub hostname: String,
    /// As people call the machine that had it before.
    pub before: Option<String>,
    /// Units that are there where the data is.
    pub units: Vec<String>,
}

impl Fleet {
    /// Says that a volume's data is on this machine: restored from a backup, or brought there otherwise. Nothing is copied. Units that
    /// have data in it move there. The volume is named by its own name or its unit's, the machine as in [`Self::machine_named`].
    ///
    /// # Errors
    /// [`FleetError::NoVolume`], [`FleetError::NoMachine`], [`FleetError::AmbiguousMachine`]; [`FleetError::Senseless`] while a unit
    /// that has data in it runs, and for a machine that is lost.
    pub async fn rebind(&self, volume: &str, machine: &str) -> Result<Rebound> {
        let leader = self.leading()?;
        let _one = self.change(&leader).await?;
        let seen = leader.machine(machine)?;
        let (to, hostname) = (seen.machine.id.clone(), leader.called(&seen.machine.id));
        let volume = leader.volume_named(volume);
        let users = leader.with_data_in(&volume);
        let before = leader.volume(&volume).await?;
        if before.is_none() && users.is_empty() {
            return Err(FleetError::NoVolume(volume));
        }
        let refuse = |why: String, way_out: String| {
            Err(FleetError::Senseless {
                what: format!("volume {volume} cannot be bound to {hostname}"),
                why,
                way_out,
            })
        };
        if !seen.alive {
            return refuse(
                format!("{hostname} is lost"),
                "bring it back, or name another machine".into(),
            );
        }
        let names: Vec<String> = users.iter().map(|u| u.unit().name.to_string()).collect();
        if before.as_deref() != Some(to.as_str()) {
            let at_work = users.iter().zip(&names).find_map(|(user, name)| {
                let placed = user.placed().into_iter();
                let mut up = placed.filter(|(_, placed)| is_up(placed));
                Some((name, up.next()?.0))
            });
            if let Some((unit, on)) = at_work {
                return refuse(
                    format!("{unit} runs on {} with its data", leader.called(&on)),
                    format!("stop it first (`coracle unit stop {unit}`), and bring the data along"),
                );
            }
        }
        leader.rebind(&volume, &to).await?;
        Ok(Rebound {
            before: before.map(|id| leader.called(&id)),
            machine: to,
            hostname,
            units: names,
            volume,
        })
    }
}

/// Whether an instance runs, or is about to. What ran on a lost machine has ended before anything else of it begins.
fn is_up(placed: &Placed) -> bool {
    let asked = placed.runs();
    let up = match &placed.actual {
        None => asked,
        Some(actual) => {
            let answers = placed
                .desired
                .as_ref()
                .is_none_or(|d| d.order == actual.order);
            !matches!(actual.active, Active::Inactive | Active::Failed) || (asked && !answers)
        }
    };
    placed.alive && up
}
