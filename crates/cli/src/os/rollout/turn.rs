//! A machine's turn: the store must bear it, the units move away, the update is written, the machine restarts.

use super::{LOOK, drained, now};
use crate::{
    error::CliError,
    os::{Os, error::OsError},
};
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
/// How long our own daemon may take to answer, which may ask others.
const ANSWER: Duration = Duration::from_secs(60);

impl Os {
    /// Asks this machine's own daemon, which asks the one that leads.
    async fn ask(&self, method: Method, path: &str) -> Result<Value, OsError> {
        let client = &self.rollout.client;
        let answer = tokio::time::timeout(ANSWER, client.json(method, path, None));
        Ok(answer.await.map_err(|_| OsError::Silent)??)
    }

    fn own(&self, verb: &str) -> String {
        format!("/v1/machines/{}{verb}", self.engine.machine_id())
    }

    /// Whether this machine belongs to a cluster of several.
    pub(super) async fn is_one_of_many(&self) -> Result<bool, OsError> {
        let machines = self.ask(Method::GET, "/v1/machines").await?;
        Ok(machines.as_array().is_some_and(|all| all.len() > 1))
    }

    /// Takes a turn and all that follows. Comes back with an error only, and without the turn: the machine restarts.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) async fn turn(
        self: &Arc<Self>,
        image: &str,
        release: &Release,
        resumes: u64,
    ) -> Result<Duration, OsError> {
        // What cannot be written is known before anything moves.
        if self.busy.available_permits() == 0 {
            return Err(OsError::Busy);
        }
        let (os, id) = (self.clone(), image.to_owned());
        let there = tokio::task::spawn_blocking(move || os.peek(&id));
        there.await.map_err(|_| OsError::Interrupted)??;
        let many = self.is_one_of_many().await?;
        self.take_turn(&Turn {
            name: self.name(),
            since: now(),
            to: release.version.clone(),
            boot: Machine::boot(),
        })
        .await?;
        let gone = async {
            // With the turn: whoever takes one at the same time sees this one.
            self.store_bears_it().await?;
            let well = self.before().await;
            let well = match many {
                true => self.drained(well).await?,
                false => well,
            };
            let bears = async || {
                self.still_has_turn(release).await?;
                self.store_bears_it().await
            };
            self.write_and_restart(image, release, resumes, well, bears)
                .await
        };
        let gone = gone.await;
        // Where that fails, the next look does it.
        if let Err(error) = self.hand_back().await {
            let error = coracle_engine::full_error(&error);
            tracing::warn!(error, "the turn is not given back yet");
        }
        gone
    }

    /// An operator may have taken it away, and another machine may have it since.
    async fn still_has_turn(&self, release: &Release) -> Result<(), OsError> {
        let turn = self.own_turn().await?;
        let same = |turn: &Turn| turn.to == release.version && turn.boot == Machine::boot();
        match turn.is_some_and(|turn| same(&turn)) {
            true => Ok(()),
            false => Err(OsError::TurnTaken),
        }
    }

    async fn store_bears_it(&self) -> Result<(), OsError> {
        let away = self.others_away().await?;
        let status = self.ask(Method::GET, "/v1/cluster/status").await?;
        match store_would_stop(&status, self.engine.machine_id(), &away) {
            Some(why) => Err(OsError::StoreWouldStop(why)),
            None => Ok(()),
        }
    }

    /// Has everything moved away that can be; what has to be well after the restart.
    async fn drained(&self, well: Before) -> Result<Before, OsError> {
        let machine = self.ask(Method::GET, &self.own("")).await?;
        if machine["draining"] == true {
            // An operator's, who knows what is still there and why.
            return Ok(well);
        }
        self.say("moves its units away");
        drained::note().map_err(|e| OsError::Write(drained::FILE.to_owned(), e))?;
        let cordoned = machine["cordoned"] == true;
        let mut machine = self.ask(Method::POST, &self.own("/drain")).await?;
        // Those that are on every machine come back with it, unless it is to get nothing.
        let global: BTreeSet<String> = match cordoned {
            true => BTreeSet::new(),
            false => names(&machine["drain"], "global", |_| true).collect(),
        };
        let end = Instant::now() + DRAIN;
        loop {
            let drain = &machine["drain"];
            if drain.is_null() {
                return Err(OsError::Undrained);
            }
            let moves = ["moving", "next", "global"];
            let moves = moves.iter().flat_map(|key| names(drain, key, |_| true));
            let held_up = names(drain, "stuck", |one| one["held_up"] == true);
            let left: Vec<String> = moves.chain(held_up).collect();
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
                Err(OsError::Ask(CliError::Daemon { status: 503, .. }) | OsError::Silent) => {
                    machine
                }
                machine => machine?,
            };
        }
        let here = self.before().await;
        let comes = |container: &String| {
            let unit = well.units.get(container);
            here.containers.contains(container) || unit.is_some_and(|unit| global.contains(unit))
        };
        let containers = well.containers.iter().filter(|c| comes(c)).cloned();
        Ok(Before {
            containers: containers.collect(),
            ..well.clone()
        })
    }

    /// Ends the drain if it is ours, and gives the turn back, if there is one: nothing comes of it any more, or everything has.
    pub(super) async fn hand_back(&self) -> Result<(), OsError> {
        let turn = self.own_turn().await?;
        if let Some(turn) = &turn {
            self.withdraw(&turn.to, "its turn was given back before the restart")?;
        }
        self.undrain().await?;
        match turn {
            Some(_) => self.give_turn(self.engine.machine_id()).await,
            None => Ok(()),
        }
    }

    /// Ends the drain, if it is ours.
    pub(super) async fn undrain(&self) -> Result<(), OsError> {
        if drained::is_ours() {
            self.ask(Method::POST, &self.own("/undrain")).await?;
            drained::forget().map_err(|e| OsError::Write(drained::FILE.to_owned(), e))?;
        }
        Ok(())
    }
}

fn names<'v>(
    drain: &'v Value,
    key: &str,
    wanted: impl Fn(&Value) -> bool + 'v,
) -> impl Iterator<Item = String> + 'v {
    let list = drain[key].as_array().into_iter().flatten();
    list.filter(move |one| wanted(one))
        .filter_map(|one| one.as_str().or_else(|| one["unit"].as_str()))
        .map(str::to_owned)
}

/// Why the store would lose its majority without this machine, which `/v1/cluster/status` tells, where the machines `away` have a turn; nothing if
/// it would not, or cannot be helped: of one vote or two every one is needed.
fn store_would_stop(status: &Value, own: &str, away: &BTreeSet<String>) -> Option<String> {
    let machines = status["machines"].as_array().into_iter().flatten();
    let voters: Vec<&Value> = machines.filter(|m| m["store"] == "voter").collect();
    if voters.len() < 3 || !voters.iter().any(|m| m["id"] == own) {
        return None;
    }
    let is_away = |m: &Value| m["id"].as_str().is_some_and(|id| away.contains(id));
    let (well, away): (Vec<&&Value>, Vec<&&Value>) = voters
        .iter()
        .filter(|m| m["id"] != own)
        .partition(|m| m["inStep"] == true && !is_away(m));
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
        let nobody = BTreeSet::new();
        let stops = |steps: &[bool], own: &str| store_would_stop(&status(steps), own, &nobody);
        assert_eq!(stops(&[true; 3], "0"), None);
        assert_eq!(stops(&[true, false, true], "0").as_deref(), Some("m1"));
        // One that is away needs not wait for itself, and one without a vote for nobody.
        assert_eq!(stops(&[true, false, true], "1"), None);
        assert_eq!(stops(&[true, false, true], "9"), None);
        assert_eq!(stops(&[true, false], "0"), None);
        assert_eq!(stops(&[true, false, true, true, true], "0"), None);
        let two = stops(&[true, false, false, true, true], "0");
        assert_eq!(two.as_deref(), Some("m1, m2"));
        // One that has a turn is as good as away.
        let turn = BTreeSet::from(["2".to_owned()]);
        let stops = store_would_stop(&status(&[true; 3]), "0", &turn);
        assert_eq!(stops.as_deref(), Some("m2"));
    }
}
