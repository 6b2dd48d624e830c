//! What runs, as each machine's own engine and the kernel say, held against what was asked for.

use crate::asked::{Asked, Kind, State, UNITS, kind};
use crate::cluster::{Cluster, Machine};
use crate::common::{errors, text};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

/// A look that takes longer than this failed.
const LOOK: Duration = Duration::from_secs(10);
/// How long the process of `job.service` sleeps, by which it is known.
pub const JOB: &str = "86399";

/// One container of a unit, or one process of a unit without containers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    pub unit: String,
    pub machine: usize,
    /// The container's id with its process, or the process alone.
    pub what: String,
    /// Whether it runs, or is only there.
    pub runs: bool,
}

fn asked(machine: &Machine, args: &[&str]) -> Result<String, String> {
    let output = machine.limited(LOOK).args(args).output().unwrap();
    match output.status.success() {
        true => Ok(text(&output)),
        false => Err(format!("m{} {args:?}: {}", machine.n(), errors(&output))),
    }
}

fn containers(machine: &Machine) -> Result<Vec<Run>, String> {
    let filter = "label=coracle.unit";
    let ids = asked(machine, &["ps", "-aq", "--no-trunc", "--filter", filter])?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let inspect: Vec<&str> = ["inspect"].into_iter().chain(ids.lines()).collect();
    let all: Value = serde_json::from_str(&asked(machine, &inspect)?).map_err(|e| e.to_string())?;
    let all = all.as_array().unwrap().iter();
    let run = |c: &Value| Run {
        unit: c["Config"]["Labels"]["coracle.unit"]
            .as_str()
            .unwrap()
            .to_owned(),
        machine: machine.n(),
        what: format!("{} as {}", c["Id"].as_str().unwrap(), c["State"]["Pid"]),
        runs: c["State"]["Running"] == true,
    };
    Ok(all.map(run).collect())
}

fn jobs(machine: &Machine) -> Vec<Run> {
    let is = |pid: u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line == format!("/bin/sleep\0{JOB}\0").into_bytes()
    };
    let all = machine.processes().into_iter();
    all.filter(|p| is(p.pid))
        .map(|p| Run {
            unit: "job.service".to_owned(),
            machine: machine.n(),
            what: p.pid.to_string(),
            runs: true,
        })
        .collect()
}

/// All that there is of units on these machines.
pub fn look(cluster: &Cluster, machines: &BTreeSet<usize>) -> Result<Vec<Run>, String> {
    let mut all = Vec::new();
    for n in machines {
        let machine = cluster.machine(*n);
        all.extend(containers(machine)?);
        all.extend(jobs(machine));
    }
    all.sort();
    Ok(all)
}

/// What is not as it was asked for, when nothing is wrong with any of so many machines.
pub fn differs(asked: &Asked, seen: &[Run], machines: usize) -> Result<(), String> {
    for (unit, kind) in UNITS {
        let here: Vec<&Run> = seen.iter().filter(|r| r.unit == *unit).collect();
        let mut on: Vec<usize> = here.iter().filter(|r| r.runs).map(|r| r.machine).collect();
        on.sort_unstable();
        let right = match (asked.get(unit), kind) {
            (State::Running, Kind::Global) => on == (1..=machines).collect::<Vec<_>>(),
            (State::Running, _) => on.len() == 1,
            _ => on.is_empty(),
        };
        let rest = here.len() - on.len();
        let more = match asked.get(unit) {
            State::Stopped => rest > machines,
            _ => rest > 0,
        };
        if !right || more {
            let state = asked.get(unit);
            return Err(format!("{unit} is to be {state:?}, and there is {here:?}"));
        }
    }
    let known = |r: &&Run| UNITS.iter().any(|(unit, _)| r.unit == *unit);
    match seen.iter().find(|r| !known(r)) {
        None => Ok(()),
        Some(orphan) => Err(format!("nobody asked for {orphan:?}")),
    }
}

/// Units that are to run and may move, but run on none of the machines looked at; `but` are not counted. One that is drained has no
/// unit from some moment on.
pub fn nowhere(
    asked: &Asked,
    seen: &[Run],
    well: &BTreeSet<usize>,
    drained: Option<usize>,
    but: &BTreeSet<&str>,
) -> Result<(), String> {
    for unit in asked.running().filter(|unit| !but.contains(unit)) {
        let here = seen.iter().filter(|r| r.unit == unit && r.runs);
        let on: BTreeSet<usize> = here.map(|r| r.machine).collect();
        let right = match kind(unit) {
            Kind::Global => well.iter().all(|n| on.contains(n) || drained == Some(*n)),
            Kind::Pinned => true,
            _ => !on.is_empty(),
        };
        if !right {
            return Err(format!("{unit} runs on {on:?} of {well:?}"));
        }
    }
    Ok(())
}

/// What a machine lists is what was asked for.
pub fn lists(asked: &Asked, machine: &Machine) -> Result<(), String> {
    let said = self::asked(
        machine,
        &["unit", "list", "--format", "{{.Unit}} {{.Active}}"],
    )?;
    let mut known = BTreeSet::new();
    for line in said.lines() {
        let (unit, active) = line.split_once(' ').unwrap_or((line, ""));
        if ["web@.container", "keep.volume"].contains(&unit) {
            continue;
        }
        known.insert(unit.to_owned());
        let runs = UNITS.iter().any(|(u, _)| *u == unit) && asked.get(unit) == State::Running;
        if runs != (active == "active") {
            return Err(format!("m{} lists {line}", machine.n()));
        }
    }
    let expected: BTreeSet<String> = asked.known().into_iter().map(str::to_owned).collect();
    match known == expected {
        true => Ok(()),
        false => Err(format!(
            "m{} knows {known:?}, and {expected:?} were asked for",
            machine.n()
        )),
    }
}

/// From this machine each instance of the service `web` is found by name, and each answers.
pub fn reaches(asked: &Asked, machine: &Machine) -> Result<(), String> {
    let gateway = self::asked(
        machine,
        &[
            "network",
            "inspect",
            "bridge",
            "-f",
            "{{(index .IPAM.Config 0).Gateway}}",
        ],
    )?;
    let mut question = machine.inside("busybox");
    let said = text(
        &question
            .args(["nslookup", "tasks.web", &gateway])
            .output()
            .unwrap(),
    );
    let answer = said.split_once("\n\n").map_or("", |(_, answer)| answer);
    let address = |line: &str| Some(line.split_once("Address")?.1.rsplit(' ').next()?.to_owned());
    let found: BTreeSet<String> = answer.lines().filter_map(address).collect();
    if found.len() != asked.webs() {
        return Err(format!(
            "m{} finds {found:?} for {} instances: {said}",
            machine.n(),
            asked.webs()
        ));
    }
    for address in found {
        let mut page = machine.inside("curl");
        page.args(["-fsS", "-m", "3", &format!("http://{address}/")]);
        let output = page.output().unwrap();
        if !text(&output).starts_with('m') {
            let why = errors(&output);
            return Err(format!("m{} asks {address}: {why}", machine.n()));
        }
    }
    Ok(())
}
