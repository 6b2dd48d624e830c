//! All that a deploy would do, if all went well. Pure: the plan is asked again and again, and each of its steps taken for done.

use super::plan::{self, Place, Seen, Serves, State, Step};
use super::record::{DeployRecord, Stage};
use std::collections::BTreeMap;

/// More steps than any deploy has: three a unit, and some.
const MOST: usize = 10_000;

/// The steps in their order, up to its end.
pub(super) fn outline(deploy: &DeployRecord, seen: &BTreeMap<String, Seen>) -> Vec<Step> {
    let (mut deploy, mut seen) = (deploy.clone(), seen.clone());
    let mut all = Vec::new();
    while all.len() < MOST {
        let steps = plan::next(&deploy, &seen, false);
        if steps.is_empty() {
            break;
        }
        for step in steps {
            take(&mut deploy, &mut seen, &step);
            all.push(step);
        }
    }
    all
}

fn take(deploy: &mut DeployRecord, seen: &mut BTreeMap<String, Seen>, step: &Step) {
    let well = |revision: u64| Place {
        revision,
        wanted: true,
        serves: Serves::Held,
        state: State::Settled,
    };
    match step {
        Step::Begin { unit, revision, .. } => {
            seen.entry(unit.clone()).or_default().successor = Some(well(*revision));
        }
        Step::Create { unit, revision, .. } | Step::Replace { unit, revision, .. } => {
            seen.entry(unit.clone()).or_default().unit = Some(well(*revision));
        }
        Step::Admit { unit, .. } => {
            let one = seen.entry(unit.clone()).or_default();
            if let Some(next) = &mut one.successor {
                next.serves = Serves::Yes;
            }
        }
        Step::Promote { unit, .. } => {
            let one = seen.entry(unit.clone()).or_default();
            one.unit = one.successor.take();
        }
        Step::Drop { unit, .. } => seen.entry(unit.clone()).or_default().successor = None,
        Step::Remove { unit, .. } => drop(seen.remove(unit)),
        Step::Stop { unit, .. } => {
            if let Some(place) = seen.entry(unit.clone()).or_default().unit.as_mut() {
                place.wanted = false;
            }
        }
        Step::Pause { .. } => deploy.approved = true,
        Step::TurnBack(_) => deploy.stage = Stage::Back,
        Step::Finish { stage, .. } => deploy.stage = *stage,
    }
}
