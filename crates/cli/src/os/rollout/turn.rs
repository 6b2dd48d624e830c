//! A machine's turn: the store must bear it, the units move away, the update is written, the machine restarts.

use super::{LOOK, now};
use crate::{
    error::CliError,
    os::{Os, error::OsError},
};
use coracle_fleet::UNIT_LABEL;
use coracle_os::{history::Before, machine::Machine, release::Release, turns::Turn};
use hyper::Method;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a drain may take before the turn is given up.
const DRAIN: Duration = Duration::from_secs(15 * 60);

impl Os {
    /// Asks this machine's own daemon, which asks the one that leads.
    async fn ask(&self, method: Method, path: &str) -> Result<Value, OsError> {
        let client = &self.rollout.client;
        Ok(client.json(method, path, None).await?)
    }

    fn own(&self, verb: &str) -> String {
        format!("/v1/machines/{}{verb}", self.engine.machine_id())
    }

    /// Whether this machine belongs to a cluster of several.
    pub(super) async fn is_one_of_many(&self) -> Result<bool, OsError> {
        let machines = self.ask(Method::GET, "/v1/machines").await?;
        Ok(machines.as_array().is_some_and(|all| all.len() > 1))
    }

    /// Waits for nothing: the turn is had, or it is told why not. Does not come back with a machine that restarts.
    pub(super) async fn turn(
        self: &Arc<Self>,
        image: &str,
        release: &Release,
    ) -> Result<(), OsError> {
        let status = self.ask(Method::GET, "/v1/cluster/status").await?;
        if let Some(why) = store_would_stop(&status, self.engine.machine_id()) {
            return Err(OsError::StoreWouldStop(why));
        }
        let many = self.is_one_of_many().await?;
        let before = self.ask(Method::GET, &self.own("")).await;
        let before = match (before, many) {
            (Ok(machine), _) => machine,
            (Err(_), false) => Value::Null,
            (Err(error), true) => return Err(error),
        };
        let turn = Turn {
            name: self.name(),
            since: now(),
            to: release.version.clone(),
            boot: Machine::boot(),
            cordoned: before["cordoned"] == true || before["draining"] == true,
        };
        self.take_turn(&turn).await?;
        let gone = async {
            let well = self.before().await;
            let well = match many {
                true => self.drained(well).await?,
                false => well,
            };
            self.write_and_restart(image, release, well).await
        };
        let gone = gone.await;
        if gone.is_err() {
            // Where that fails, the next start of the daemon does it.
            if let Err(error) = self.give_back(&turn).await {
                let error = coracle_engine::full_error(&error);
                tracing::warn!(error, "the turn is not given back yet");
            }
        }
        gone
    }

    /// Has everything moved away that can be; what has to be well after the restart.
    async fn drained(&self, well: Before) -> Result<Before, OsError> {
        self.say("moves its units away");
        let mut machine = self.ask(Method::POST, &self.own("/drain")).await?;
        let global: BTreeSet<String> = names(&machine["drain"], "global").collect();
        let end = Instant::now() + DRAIN;
        loop {
            let drain = &machine["drain"];
            if drain.is_null() {
                return Err(OsError::Undrained);
            }
            let moves = ["moving", "next", "global"];
            let left: Vec<String> = moves.iter().flat_map(|key| names(drain, key)).collect();
            // What cannot move waits here for the machine.
            if left.is_empty() {
                break;
            }
            if Instant::now() > end {
                return Err(OsError::Drain(left));
            }
            tokio::time::sleep(LOOK).await;
            machine = match self.ask(Method::GET, &self.own("")).await {
                // Another one takes the lead.
                Err(OsError::Ask(CliError::Daemon { status: 503, .. })) => machine,
                machine => machine?,
            };
        }
        let here = self.before().await;
        let comes = self.of_units(&global);
        let containers = well.containers.into_iter();
        Ok(Before {
            containers: containers
                .filter(|c| here.containers.contains(c) || comes.contains(c))
                .collect(),
            ..well
        })
    }

    /// Names of the containers that these units have here.
    fn of_units(&self, units: &BTreeSet<String>) -> BTreeSet<String> {
        let containers = self.engine.snapshots().filter(|container| {
            let unit = container.record.config.labels.get(UNIT_LABEL);
            unit.is_some_and(|unit| units.contains(unit))
        });
        containers.map(|c| c.record.name).collect()
    }

    /// Ends the drain, if it is ours, and gives the turn back.
    pub(super) async fn give_back(&self, turn: &Turn) -> Result<(), OsError> {
        self.undrain(turn).await?;
        self.give_turn(self.engine.machine_id()).await
    }

    /// Ends the drain, if it is ours.
    pub(super) async fn undrain(&self, turn: &Turn) -> Result<(), OsError> {
        if turn.cordoned {
            return Ok(());
        }
        let machine = self.ask(Method::GET, &self.own("")).await?;
        if machine["draining"] == true {
            self.ask(Method::POST, &self.own("/uncordon")).await?;
        }
        Ok(())
    }
}

fn names<'v>(drain: &'v Value, key: &str) -> impl Iterator<Item = String> + use<'v> {
    let list = drain[key].as_array().into_iter().flatten();
    list.filter_map(|one| one.as_str().or_else(|| one["unit"].as_str()))
        .map(str::to_owned)
}

/// Why the store would lose its majority without this machine, which `/v1/cluster/status` tells; nothing if it would not, or cannot be helped: of one
/// vote or two every one is needed.
fn store_would_stop(status: &Value, own: &str) -> Option<String> {
    let machines = status["machines"].as_array().into_iter().flatten();
    let voters: Vec<&Value> = machines.filter(|m| m["store"] == "voter").collect();
    if voters.len() < 3 || !voters.iter().any(|m| m["id"] == own) {
        return None;
    }
    let (well, away): (Vec<&&Value>, Vec<&&Value>) = voters
        .iter()
        .filter(|m| m["id"] != own)
        .partition(|m| m["inStep"] == true);
    let names = away.iter().filter_map(|m| m["hostname"].as_str());
    (well.len() <= voters.len() / 2).then(|| names.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_store_keeps_its_majority() {
        let status = |steps: &[bool]| {
            let machine = |(n, step): (usize, &bool)| json!({"id": n.to_string(), "hostname": format!("m{n}"), "store": "voter", "inStep": step});
            json!({ "machines": steps.iter().enumerate().map(machine).collect::<Vec<_>>() })
        };
        assert_eq!(store_would_stop(&status(&[true; 3]), "0"), None);
        let why = store_would_stop(&status(&[true, false, true]), "0");
        assert_eq!(why.as_deref(), Some("m1"));
        // One that is away needs not wait for itself, and one without a vote for nobody.
        assert_eq!(store_would_stop(&status(&[true, false, true]), "1"), None);
        assert_eq!(store_would_stop(&status(&[true, false, true]), "9"), None);
        assert_eq!(store_would_stop(&status(&[true, false]), "0"), None);
        let five = status(&[true, false, true, true, true]);
        assert_eq!(store_would_stop(&five, "0"), None);
        let five = status(&[true, false, false, true, true]);
        assert_eq!(store_would_stop(&five, "0").as_deref(), Some("m1, m2"));
    }
}
