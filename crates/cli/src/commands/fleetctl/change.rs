//! Verbs that change something: they say what units are to be, and wait until they are.

use super::api::{self, Legend, Unit, while_doing};
use super::args::{Files, FilesAndWait, NamesAndWait, Wait};
use super::files::{Made, Replacing, ensure, present};
use super::names::names;
use crate::client::{Client, escape};
use crate::error::{CliError, Result};
use crate::format::out;
use std::time::Duration;
use tokio::time::Instant;

/// What `--block-attempts` counts.
const ATTEMPT: Duration = Duration::from_millis(500);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(100);

const INACTIVE: &str = "inactive";
const LOADED: &str = "loaded";
const LAUNCHED: &str = "launched";

/// Has units made of files, or of templates, unless they are there. Their names, with what became of them.
async fn ensured(
    client: &Client,
    files: &Files,
    states: &'static [&'static str],
) -> Result<Vec<(String, Made)>> {
    let replacing = Replacing { states };
    let mut made = Vec::new();
    for word in &files.units {
        let is_glob = word.contains(['*', '?', '[']) && !std::path::Path::new(word).exists();
        if is_glob {
            let known = names(client, std::slice::from_ref(word)).await?;
            made.extend(known.into_iter().map(|name| (name, Made::Present)));
            continue;
        }
        let replacing = files.replace.then_some(&replacing);
        let became = ensure(client, word, replacing)
            .await
            .map_err(|e| while_doing("Error creating units", e))?;
        made.push((super::names::mangle(word), became));
    }
    Ok(made)
}

pub async fn submit(client: &Client, files: &Files) -> Result<()> {
    ensured(client, files, &[INACTIVE]).await.map(drop)
}

pub async fn load(client: &Client, args: &FilesAndWait) -> Result<()> {
    let made = ensured(client, &args.files, &[INACTIVE, LOADED]).await?;
    let mut asked = Vec::new();
    for (name, _) in made {
        let unit = known(client, &name).await?;
        if unit.desired == LOADED {
            continue;
        }
        api::bring(client, &name, LOADED)
            .await
            .map_err(|e| while_doing("Error loading units", e))?;
        asked.push(unit);
    }
    wait(client, &asked, "load", LOADED, args.wait).await
}

pub async fn start(client: &Client, args: &FilesAndWait) -> Result<()> {
    let made = ensured(client, &args.files, &[INACTIVE, LOADED, LAUNCHED]).await?;
    let mut asked = Vec::new();
    for (name, became) in made {
        let unit = known(client, &name).await?;
        let up = unit.desired == LAUNCHED && is_up(client, &name).await?;
        let started = match (up, became) {
            (true, Made::Replaced) => again(client, &name).await,
            (true, _) => continue,
            (false, _) => api::bring(client, &name, LAUNCHED).await,
        };
        started.map_err(|e| while_doing("Error starting units", e))?;
        asked.push(unit);
    }
    wait(client, &asked, "start", LAUNCHED, args.wait).await
}

/// A unit runs, or is on its way.
async fn is_up(client: &Client, name: &str) -> Result<bool> {
    let state = api::state(client, name).await?;
    Ok(state.is_some_and(|s| matches!(s.active.as_str(), "active" | "activating")))
}

/// Has a unit that runs run its present text.
async fn again(client: &Client, name: &str) -> Result<()> {
    let path = format!("/v1/units/{}/restart?block=false", escape(name));
    client.post(&path, None).await
}

async fn known(client: &Client, name: &str) -> Result<Unit> {
    let unit = api::unit(client, name).await?;
    unit.ok_or_else(|| CliError::Usage(format!("unable to find unit {name}")))
}

pub async fn stop(client: &Client, args: &NamesAndWait) -> Result<()> {
    let asked = names(client, &args.units).await?;
    let (units, all) = present(client, &asked).await?;
    let mut stopping = Vec::new();
    for unit in units {
        if !unit.is_global() && unit.current == INACTIVE {
            return Err(CliError::Usage(format!(
                "Unable to stop unit {} in state inactive",
                unit.name
            )));
        }
        // One that failed is loaded then, too.
        if unit.is_global() || unit.desired != LOADED || unit.current != LOADED {
            api::bring(client, &unit.name, LOADED)
                .await
                .map_err(|e| while_doing("Error stopping units", e))?;
            stopping.push(unit);
        }
    }
    wait(client, &stopping, "stop", LOADED, args.wait).await?;
    said("stopped", &stopping);
    complete(all)
}

pub async fn unload(client: &Client, args: &NamesAndWait) -> Result<()> {
    let asked = names(client, &args.units).await?;
    let (units, all) = present(client, &asked).await?;
    let mut leaving = Vec::new();
    for unit in units {
        if unit.desired == INACTIVE && unit.current == INACTIVE {
            continue;
        }
        api::bring(client, &unit.name, INACTIVE)
            .await
            .map_err(|e| while_doing("Error unloading units", e))?;
        leaving.push(unit);
    }
    wait(client, &leaving, "unload", INACTIVE, args.wait).await?;
    said("unloaded", &leaving);
    complete(all)
}

pub async fn restart(client: &Client, args: &NamesAndWait) -> Result<()> {
    let asked = names(client, &args.units).await?;
    let (units, all) = present(client, &asked).await?;
    let failed = |e| while_doing("Error restarting units", e);
    for unit in &units {
        if !unit.is_global() && unit.current == INACTIVE {
            return Err(CliError::Usage(format!(
                "Unable to restart unit {} in state inactive; start it",
                unit.name
            )));
        }
        let one = std::slice::from_ref(unit);
        if args.wait.no_block {
            again(client, &unit.name).await.map_err(failed)?;
            wait(client, one, "restart", LAUNCHED, args.wait).await?;
            continue;
        }
        api::bring(client, &unit.name, LOADED)
            .await
            .map_err(failed)?;
        wait(client, one, "stop", LOADED, args.wait).await?;
        api::bring(client, &unit.name, LAUNCHED)
            .await
            .map_err(failed)?;
        wait(client, one, "start", LAUNCHED, args.wait).await?;
    }
    complete(all)
}

/// One that is not there is as it was asked to be; that is said, and no failure.
pub async fn destroy(client: &Client, words: &[String], no_block: bool) -> Result<()> {
    for name in names(client, words).await? {
        let gone = api::destroy(client, &name, !no_block)
            .await
            .map_err(|e| while_doing("Error destroying units", e))?;
        if gone {
            out(&format!("Destroyed {name}\n"))?;
        } else {
            eprintln!("Unit {name} does not exist.");
        }
    }
    Ok(())
}

fn said(what: &str, units: &[Unit]) {
    if !units.is_empty() {
        let names: Vec<&str> = units.iter().map(|u| u.name.as_str()).collect();
        eprintln!("Successfully {what} units [{}].", names.join(" "));
    }
}

/// Some were not there, which was told.
fn complete(all: bool) -> Result<()> {
    if all { Ok(()) } else { Err(CliError::Exit(1)) }
}

/// Waits until units are what they were asked to be, and tells of each.
async fn wait(client: &Client, units: &[Unit], verb: &str, state: &str, how: Wait) -> Result<()> {
    let legend = Legend::read(client).await?;
    let until = (how.block_attempts > 0).then(|| Instant::now() + ATTEMPT * how.block_attempts);
    let mut failed = false;
    for unit in units {
        if unit.is_global() {
            out(&format!("Triggered global unit {} {verb}\n", unit.name))?;
        } else if how.no_block {
            out(&format!("Triggered unit {} {verb}\n", unit.name))?;
        } else if let Some(there) = reached(client, &unit.name, state, until).await? {
            let on = match there.machine.as_str() {
                "" => String::new(),
                id => format!(" on {}", legend.of(id, false)),
            };
            out(&format!("Unit {} {}{on}\n", there.name, there.current))?;
            failed |= state == LAUNCHED && !is_well(client, &unit.name, until).await?;
        } else {
            eprintln!(
                "Error waiting for units: timed out waiting for unit {} to report state {state}",
                unit.name
            );
            failed = true;
        }
    }
    complete(!failed)
}

/// The unit once it is in that state; nothing when the time is over.
async fn reached(
    client: &Client,
    name: &str,
    state: &str,
    until: Option<Instant>,
) -> Result<Option<Unit>> {
    loop {
        match api::unit(client, name).await? {
            Some(unit) if unit.current == state => return Ok(Some(unit)),
            Some(_) => {}
            None => {
                return Err(CliError::Usage(format!(
                    "Error waiting for units: somebody destroyed unit {name}"
                )));
            }
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Ok(None);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until a unit that was launched is up, or has done its work. One that is not is told of, with the reason.
async fn is_well(client: &Client, name: &str, until: Option<Instant>) -> Result<bool> {
    loop {
        let Some(state) = api::state(client, name).await? else {
            // Somebody has unloaded it.
            return Ok(true);
        };
        match (state.active.as_str(), state.sub.as_str()) {
            ("failed", _) | (_, "auto-restart") => break,
            ("activating" | "deactivating", _) => {}
            _ => return Ok(true),
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            eprintln!("Error waiting for units: timed out waiting for unit {name} to be up");
            return Ok(false);
        }
        tokio::time::sleep(LOOK).await;
    }
    let found = api::own(client, name).await?.unwrap_or_default();
    let reason = found["reason"].as_str().unwrap_or("it does not say why");
    eprintln!("Unit {name} is not up: {reason}; `fleetctl status {name}` shows its last output");
    Ok(false)
}
