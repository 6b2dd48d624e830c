//! What to do next with a deploy. Pure: the deploy and where its units stand go in, steps come out; nothing means that it waits.
//!
//! A unit gets another revision by a *successor*, a unit of its own beside it (`web@1+` for `web@1`). Once that is healthy for its time it
//! takes the name, and the former unit goes. Where two at a time are not allowed the unit itself gets the new text, and is started anew.
//!
//! Worked example: `web@1` and `web@2` run revision 3, revision 4 is deployed, one at a time. `web@1+` is begun; it is healthy and takes the
//! place of `web@1`; once that has gone `web@2+` is begun. It fails. The deploy turns back: `web@2+` is removed, `web@1+` is begun with
//! revision 3, healthy, takes its place; all is as before.

use super::record::{DeployRecord, Report, Stage};
pub use super::step::Step;
use coracle_unit::deploy::Strategy;
use std::collections::BTreeMap;

/// Where a unit stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The revision of its service that it runs or is to run; 0 of one that runs an older text than was submitted last.
    pub revision: u64,
    /// Whether it is asked to run.
    pub wanted: bool,
    /// Whether it is found as an instance.
    pub serves: Serves,
    /// How it does.
    pub state: State,
}

/// Whether a unit is found as an instance of its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// Not yet.
    Held,
    /// It is to be, and its machine has not answered.
    Asked,
    /// It is, while it is well.
    Yes,
}

/// How a unit does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// On its way, or not asked.
    Coming,
    /// It is up, and not long enough yet.
    Up,
    /// It is up, and was for its settle time.
    Settled,
    /// It does not come up.
    Failed {
        /// Why.
        reason: String,
        /// Its exit status.
        code: Option<i32>,
        /// Its last lines.
        last_lines: Vec<String>,
    },
    /// No machine can have it.
    Nowhere {
        /// Why.
        reason: String,
        /// It could be where the unit is whose place it takes, once that has gone.
        in_place: bool,
    },
    /// It does not run, as it was asked.
    Down,
}

/// Where a unit and what is to take its place stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// The unit.
    pub unit: Option<Place>,
    /// What is to take its place.
    pub successor: Option<Place>,
    /// One that had its place before has not gone yet.
    pub leaving: bool,
    /// Why there must not be two of it at a time.
    pub alone: Option<String>,
}

/// Numbers in names count as numbers: `web@2` comes before `web@10`.
pub fn by_number(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let key = |name: &String| {
        let digits: String = name
            .split_once('@')
            .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect())
            .unwrap_or_default();
        (digits.parse::<u64>().unwrap_or(u64::MAX), name.clone())
    };
    let mut names: Vec<String> = names.into_iter().collect();
    names.sort_by_key(key);
    names
}

/// The next steps. `late` is whether a batch takes longer than it may.
pub fn next(deploy: &DeployRecord, seen: &BTreeMap<String, Seen>, late: bool) -> Vec<Step> {
    if deploy.stage.is_over() {
        return Vec::new();
    }
    let nothing = Seen::default();
    let look = |unit: &str| seen.get(unit).unwrap_or(&nothing);
    let units = by_number(deploy.units());
    if deploy.stage == Stage::Forward
        && let Some(report) = units.iter().find_map(|u| wrong(deploy, u, look(u), late))
    {
        return vec![Step::TurnBack(report)];
    }
    let mut steps: Vec<Step> = Vec::new();
    let (mut under_way, mut left) = (0, Vec::new());
    let runs = |unit: &&String| {
        let place = look(unit).unit.as_ref();
        place.is_some_and(|p| p.wanted && p.revision == deploy.to)
    };
    // What has the revision already proves nothing.
    let is_new = |unit: &&String| deploy.before.get(*unit) != Some(&deploy.to);
    let done = deploy.after.iter().filter(is_new).filter(runs).count();
    for unit in &units {
        let here = look(unit);
        match one(deploy, unit, here, late) {
            Course::Step(step) => {
                steps.push(step);
                under_way += 1;
            }
            Course::Wait => under_way += 1,
            Course::Done | Course::Gone => {}
            Course::Next(step) => left.push(step),
        }
    }
    if deploy.paused.is_some() {
        return steps;
    }
    let most = usize::try_from(deploy.settings.batch.max(1)).unwrap_or(usize::MAX);
    let canary = usize::try_from(deploy.settings.canary).unwrap_or(usize::MAX);
    // What only goes is no part of a batch: it goes once everything else is there.
    let (going, coming): (Vec<_>, Vec<_>) = left
        .into_iter()
        .partition(|s| matches!(s, Step::Remove { .. } | Step::Stop { .. }));
    let has_more = !coming.is_empty();
    let mut room = most.saturating_sub(under_way);
    if deploy.stage == Stage::Forward && canary > 0 && !deploy.approved {
        room = room.min(canary.saturating_sub(done + under_way));
        if has_more && under_way == 0 && done >= canary {
            let reason = format!(
                "{done} of {} run revision {} as canaries",
                deploy.after.len(),
                deploy.to
            );
            return vec![Step::Pause { reason }];
        }
    }
    steps.extend(coming.into_iter().take(room));
    if has_more || under_way > 0 {
        return steps;
    }
    if !going.is_empty() {
        return going;
    }
    let count = deploy.after.iter().filter(runs).count();
    if deploy.stage == Stage::Forward && count == 0 {
        return vec![Step::TurnBack(Report {
            step: format!("run revision {}", deploy.to),
            unit: deploy.unit.clone(),
            reason: "all of its units were stopped meanwhile".into(),
            code: None,
            last_lines: Vec::new(),
        })];
    }
    let (stage, reason) = match deploy.stage {
        Stage::Forward => (
            Stage::Done,
            format!(
                "revision {} runs, {count} of {} have it",
                deploy.to,
                deploy.after.len()
            ),
        ),
        _ => {
            let is_down = |unit: &&String| {
                let place = look(unit).unit.as_ref();
                let well = |p: &Place| matches!(p.state, State::Up | State::Settled);
                place.is_some_and(|p| p.wanted && !well(p))
            };
            let down: Vec<&str> = deploy.before.keys().filter(is_down).map(|u| &**u).collect();
            let reason = match down.as_slice() {
                [] => "all is as it was before".to_owned(),
                down => format!(
                    "the former text is back, and is not up: {}",
                    down.join(", ")
                ),
            };
            (Stage::Restored, reason)
        }
    };
    vec![Step::Finish { stage, reason }]
}

/// What is to be done about one unit.
enum Course {
    /// At once.
    Step(Step),
    /// Something is under way.
    Wait,
    /// When its turn has come.
    Next(Step),
    Done,
    /// It is not to be there, and is not.
    Gone,
}

/// `late` is whether what is waited for takes longer than a batch may.
fn one(deploy: &DeployRecord, unit: &str, seen: &Seen, late: bool) -> Course {
    let aim = deploy.aim(unit);
    let back = deploy.stage == Stage::Back;
    let name = || unit.to_owned();
    let known = back || deploy.known;
    let stopped = was_stopped(deploy, unit, seen);
    if let Some(successor) = &seen.successor {
        let drop = |reason: &str| {
            // On the way back what failed makes room for what ran.
            let comes_back = back && aim == Some(successor.revision) && successor.wanted;
            let in_place = match successor.state {
                State::Nowhere { in_place, .. } => in_place || comes_back,
                State::Failed { .. } => comes_back,
                _ => comes_back && late,
            };
            let (unit, reason) = (name(), reason.to_owned());
            Course::Step(Step::Drop {
                unit,
                in_place,
                reason,
            })
        };
        return match (&successor.state, aim) {
            _ if aim != Some(successor.revision) => drop(if back {
                "the deploy goes back"
            } else {
                "it is not what is deployed"
            }),
            _ if !successor.wanted => drop("it was stopped"),
            _ if stopped => drop("the unit was stopped meanwhile"),
            _ if seen
                .unit
                .as_ref()
                .is_some_and(|u| u.revision == successor.revision) =>
            {
                drop("the unit runs that revision itself")
            }
            (State::Settled, _) if successor.serves == Serves::Yes => Course::Step(Step::Promote {
                unit: name(),
                reason: "both serve".into(),
            }),
            (State::Settled, _) if successor.serves == Serves::Held => Course::Step(Step::Admit {
                unit: name(),
                reason: "it is healthy and was for its time".into(),
            }),
            // What ran before is known to be well.
            (State::Up, _) if known && successor.serves == Serves::Yes => {
                Course::Step(Step::Promote {
                    unit: name(),
                    reason: "both serve".into(),
                })
            }
            (State::Up, _) if known && successor.serves == Serves::Held => {
                Course::Step(Step::Admit {
                    unit: name(),
                    reason: "it is healthy, as it was before".into(),
                })
            }
            (State::Nowhere { in_place, .. }, _) if *in_place || back => {
                drop("there is room for it only once the former one has gone")
            }
            (State::Failed { .. }, _) if back => drop("it does not come up beside the other"),
            _ if back && late => drop("it takes too long beside the other"),
            _ => Course::Wait,
        };
    }
    // Whoever starts it next starts what was there.
    let is_service = unit == deploy.unit && deploy.from > 0;
    if let Some(place) = &seen.unit
        && back
        && is_service
        && !place.wanted
        && place.revision != deploy.from
    {
        return Course::Step(Step::Stop {
            unit: name(),
            reason: "its former text is its own again".into(),
        });
    }
    let Some(revision) = aim else {
        return match &seen.unit {
            None if seen.leaving && !late => Course::Wait,
            None => Course::Gone,
            Some(place) if deploy.stopped.contains(unit) && !place.wanted => Course::Gone,
            Some(_) if deploy.stopped.contains(unit) => Course::Next(Step::Stop {
                unit: name(),
                reason: "it did not run before".into(),
            }),
            Some(_) => Course::Next(Step::Remove {
                unit: name(),
                reason: if back {
                    "it was not there before".into()
                } else {
                    "it is one too many".into()
                },
            }),
        };
    };
    match &seen.unit {
        None => Course::Next(Step::Create {
            unit: name(),
            revision,
            reason: if back {
                "it was there before".into()
            } else {
                "it is to be there".into()
            },
        }),
        Some(_) if stopped => Course::Done,
        Some(_) if seen.leaving && !late => Course::Wait,
        Some(place) if !place.wanted => Course::Next(Step::Replace {
            unit: name(),
            revision,
            reason: "it does not run".into(),
        }),
        Some(place) if place.revision == revision => match place.state {
            State::Settled => Course::Done,
            State::Up if known => Course::Done,
            // It has been there before, so how it does is no matter of the deploy.
            _ if !back && deploy.before.get(unit) == Some(&revision) => Course::Done,
            State::Coming if back && !late => Course::Wait,
            _ if back => Course::Done,
            _ => Course::Wait,
        },
        Some(place) => {
            let has = match place.revision {
                0 => "it runs an older text than was submitted".to_owned(),
                has => format!("it runs revision {has}"),
            };
            let alone = seen.alone.clone().or_else(|| {
                let stop = deploy.settings.strategy == Some(Strategy::StopFirst);
                let room = "there is room for it only once the former one has gone";
                let room = deploy.in_place.contains(unit).then(|| room.to_owned());
                room.or_else(|| stop.then(|| "Strategy=stop-first".to_owned()))
            });
            match alone {
                Some(why) => Course::Next(Step::Replace {
                    unit: name(),
                    revision,
                    reason: format!("{has}; it stops first: {why}"),
                }),
                None => Course::Next(Step::Begin {
                    unit: name(),
                    revision,
                    reason: has,
                }),
            }
        }
    }
}

/// Whether somebody has stopped it meanwhile, and means it.
fn was_stopped(deploy: &DeployRecord, unit: &str, seen: &Seen) -> bool {
    let meant = deploy.before.contains_key(unit) || deploy.made.contains(unit);
    seen.unit.as_ref().is_some_and(|u| !u.wanted) && meant
}

/// Why a deploy cannot go on with a unit.
fn wrong(deploy: &DeployRecord, unit: &str, seen: &Seen, late: bool) -> Option<Report> {
    if was_stopped(deploy, unit, seen) {
        let open = deploy.made.contains(unit) && !deploy.proven.contains(unit);
        return open.then(|| Report {
            step: format!("start revision {}", deploy.to),
            unit: unit.to_owned(),
            reason: "it was stopped before it was known to be well".into(),
            code: None,
            last_lines: Vec::new(),
        });
    }
    let new = |p: &&Place| p.revision == deploy.to && deploy.after.contains(unit);
    let (place, step) = match seen.successor.as_ref() {
        Some(place) => (
            place,
            format!("revision {} beside the present one", deploy.to),
        ),
        None => {
            let place = seen.unit.as_ref().filter(new)?;
            // What it came with is no failure of the deploy's.
            if deploy.before.get(unit) == Some(&deploy.to) {
                return None;
            }
            (place, format!("revision {}", deploy.to))
        }
    };
    let report = |reason: String, code, last_lines: &[String]| Report {
        step: format!("start {step}"),
        unit: unit.to_owned(),
        reason,
        code,
        last_lines: last_lines.to_vec(),
    };
    match &place.state {
        State::Failed {
            reason,
            code,
            last_lines,
        } => Some(report(reason.clone(), *code, last_lines)),
        State::Nowhere {
            reason,
            in_place: false,
        } => Some(report(reason.clone(), None, &[])),
        State::Nowhere { reason, .. } if deploy.settings.strategy == Some(Strategy::StartFirst) => {
            Some(report(reason.clone(), None, &[]))
        }
        State::Settled if late && seen.successor.is_some() => Some(report(
            "its machine does not say that it serves".to_owned(),
            None,
            &[],
        )),
        State::Settled => None,
        _ if late => {
            let seconds = deploy.settings.timeout;
            Some(report(
                format!("it was not healthy for its time within {seconds} s"),
                None,
                &[],
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests;
