//! A deploy is written down: its revision, what runs before it, what is to run after it.

use super::ask::{Asked, Planned, UnitTextView, senseless};
use super::outline::outline;
use super::plan::Step;
use super::record::{DeployRecord, Settings, Stage};
use crate::error::Result;
use crate::fleet::Fleet;
use crate::leader::{Change, Group, Leader, Target};
use crate::model::{Desired, Pinned, RevisionRecord, UnitRecord, VERSION, keys};
use crate::pace;
use coracle_unit::deploy::{MOST_INSTANCES, Strategy};
use coracle_unit::{Kind, Unit, UnitName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Seconds that a batch may take besides its settle time, if nobody says anything else.
const TIMEOUT: u64 = 300;

/// Deploys of a service that are remembered with all that they did; their revisions stay.
const KEPT: u64 = 50;

impl Fleet {
    pub(super) async fn write_down(
        &self,
        leader: &Arc<Leader>,
        name: &UnitName,
        unit: &Unit,
        text: RevisionRecord,
        asked: &Asked,
    ) -> Result<Planned> {
        let known = leader.target(name.as_str());
        let record = known.as_ref().map(|t| t.record());
        let present = match &record {
            Some(record) => Some(
                leader
                    .service_text(name.as_str(), record, record.present())
                    .await?,
            ),
            None => None,
        };
        // The same once more needs no other number.
        let same = present
            .as_ref()
            .is_some_and(|p| p.is_same(&text) && p.image == text.image);
        let to = match &record {
            Some(record) if same => record.present(),
            Some(record) => record.next(),
            None => 1,
        };
        let mut more = Vec::new();
        let mut last = to.max(record.as_ref().map_or(0, |r| r.next() - 1));
        let before = self
            .before(leader, name, &mut last, &mut more, asked.dry_run)
            .await?;
        let after = Self::after(name, unit, &before, asked)?;
        let stopped = after.iter().filter(|n| !before.contains_key(*n));
        let stopped = stopped.filter(|n| leader.target(n).is_some()).cloned();
        let settle = unit.deploy.settle.duration().unwrap_or_default().as_secs();
        let settings = Settings {
            batch: asked.batch.unwrap_or(unit.deploy.batch),
            canary: asked.canary.unwrap_or(unit.deploy.canary),
            strategy: asked.strategy.or(unit.deploy.strategy),
            timeout: asked.timeout.unwrap_or(TIMEOUT + settle),
        };
        if settings.timeout <= settle {
            return Err(senseless(
                format!("{name} cannot be deployed within {} s", settings.timeout),
                format!("its SettleSec= alone takes {settle} s"),
                "give --timeout more seconds, or lower SettleSec=",
            ));
        }
        if let (Some(Strategy::StartFirst), Some(why)) =
            (settings.strategy, leader.must_be_alone(unit))
        {
            return Err(senseless(
                format!("{name} cannot be deployed start-first"),
                why,
                "leave Strategy= out, or write stop-first",
            ));
        }
        let known_well = match (&record, asked.revision) {
            (Some(record), Some(revision)) => self.has_run(record, revision).await?,
            _ => false,
        };
        let now = pace::utc();
        let number = leader.deploy_of(name.as_str()).map_or(0, |d| d.number) + 1;
        let mut deploy = DeployRecord {
            version: VERSION,
            number,
            unit: name.to_string(),
            to,
            from: record.as_ref().map_or(0, UnitRecord::present),
            settings,
            stopped: stopped.collect(),
            before,
            after,
            made: BTreeSet::new(),
            proven: BTreeSet::new(),
            in_place: BTreeSet::new(),
            alone: leader.must_be_alone(unit),
            fetched: false,
            known: known_well,
            stage: Stage::Forward,
            paused: None,
            approved: false,
            who: asked.who.clone(),
            message: asked.message.clone(),
            request: asked.request.clone(),
            begun: now,
            moved: now,
            ended: None,
            report: None,
            log: Vec::new(),
        };
        let mut seen = leader.observe(&deploy, false);
        if record.is_none() {
            seen.values_mut().for_each(|s| s.unit = None);
        }
        let steps = outline(&deploy, &seen);
        let image = text
            .image
            .as_ref()
            .map(|i| i.digest.clone().unwrap_or_else(|| i.id.clone()));
        let ends = |s: &Step| matches!(s, Step::Finish { .. });
        let idle = !steps.is_empty() && steps.iter().all(ends);
        let mut planned = Planned {
            unit: name.to_string(),
            deploy: None,
            revision: to,
            before: present
                .as_ref()
                .zip(record.as_ref())
                .map(|(p, r)| UnitTextView::of(r.present(), p)),
            after: UnitTextView::of(to, &text),
            image,
            steps: steps.iter().map(told).collect(),
        };
        if let Some(fetch) = leader
            .fetches(&deploy, text.image.as_ref())
            .filter(|_| !idle)
        {
            planned.steps.insert(0, fetch);
        }
        if asked.dry_run || idle && same {
            return Ok(planned);
        }
        planned.deploy = Some(number);
        let mut group = Group::default();
        match (&known, record) {
            (Some(target), Some(record)) => {
                let service = record.service().to_owned();
                if let Some(oldest) = number.checked_sub(KEPT) {
                    group.delete(keys::deploy(&service, oldest));
                }
                for (number, text) in more {
                    group.put(keys::revision(&service, number), &text)?;
                }
                if !same {
                    group.put(keys::revision(&service, to), &text)?;
                }
                let record = UnitRecord {
                    last: Some(last),
                    ..record
                };
                group.put(keys::unit(name.as_str()), &record)?;
                deploy.say(now, format!("revision {to} is deployed"));
                leader.write_deploy(deploy, group).await?;
                target.set(record, None);
            }
            _ => {
                // Of one that is new there is nothing to go back to but its absence.
                let record = UnitRecord::new(pace::new_uid()?);
                let target = Target::new(record.clone(), unit.clone());
                let change = Change {
                    text: Some((text, unit.clone())),
                    ..Change::new(&target, record)
                };
                leader.write_units(vec![change]).await?;
                leader.insert(name.as_str(), target);
                if !name.is_template() {
                    deploy.stopped.insert(name.to_string());
                }
                deploy.say(now, format!("revision {to} is deployed, the first one"));
                leader.write_deploy(deploy, group).await?;
            }
        }
        Ok(planned)
    }

    /// What runs now, with the service's revision that each is. A text that is none of the service's becomes one.
    async fn before(
        &self,
        leader: &Leader,
        name: &UnitName,
        last: &mut u64,
        more: &mut Vec<(u64, RevisionRecord)>,
        dry: bool,
    ) -> Result<BTreeMap<String, u64>> {
        let mut before = BTreeMap::new();
        for target in leader.all() {
            let (unit, record) = (target.unit(), target.record());
            let is_one = unit.name == *name
                || (name.is_template() && unit.name.template().as_ref() == Some(name));
            let runs = record.desired == Desired::Active;
            if !is_one || !runs || unit.name.is_template() || unit.name.is_successor() {
                continue;
            }
            // An instance whose template comes only now has no service yet.
            let Some(of) = leader.target(name.as_str()) else {
                return Err(senseless(
                    name.to_string(),
                    format!("{} runs, and its template is not there", unit.name),
                    &format!("submit the template first: `coracle unit submit {name}`"),
                ));
            };
            let (service, whole) = (of.record(), of.unit());
            // What runs may be older than what was submitted last.
            let actual = target.actual();
            let runs = match actual.generation == record.generation && actual.revision > 0 {
                true => actual.revision,
                false => record.revision,
            };
            let own = UnitRecord {
                revision: runs,
                ..record.clone()
            };
            let mut own = leader.revision(&own).await?;
            if let (None, Some(id), Kind::Container { container, .. }) =
                (&own.image, actual.image, &unit.kind)
                && has_one_image(&whole)
            {
                // What its name stood for when it was started, which is not what it stands for now.
                own.image = Some(Pinned {
                    name: container.image.clone(),
                    id,
                    digest: None,
                });
            }
            let likely = record.of.filter(|_| runs == record.revision);
            let own_number =
                (record.uid == service.uid && record.service.is_none()).then_some(runs);
            let mut found = None;
            for number in [own_number, likely, Some(service.present())]
                .into_iter()
                .flatten()
            {
                let text = leader.service_text(name.as_str(), &service, number).await;
                if found.is_none()
                    && text.is_ok_and(|text| text.is_same(&own) && text.image == own.image)
                {
                    found = Some(number);
                }
            }
            let same = more
                .iter()
                .find(|(_, text)| text.is_same(&own) && text.image == own.image);
            let number = match found.or(same.map(|(number, _)| *number)) {
                Some(number) => number,
                None => {
                    *last += 1;
                    more.push((*last, own));
                    *last
                }
            };
            // Of one whose template was another before.
            if !dry && name.is_template() && runs == record.revision && record.of != Some(number) {
                let record = UnitRecord {
                    of: Some(number),
                    ..record
                };
                leader
                    .write_units(vec![Change::new(&target, record)])
                    .await?;
            }
            before.insert(unit.name.to_string(), number);
        }
        Ok(before)
    }

    /// What is to run.
    fn after(
        name: &UnitName,
        unit: &Unit,
        before: &BTreeMap<String, u64>,
        asked: &Asked,
    ) -> Result<BTreeSet<String>> {
        let scale = asked.scale.or(unit.deploy.scale);
        if !name.is_template() {
            return match scale {
                None | Some(1) => Ok([name.to_string()].into()),
                Some(scale) => Err(senseless(
                    format!("{name} cannot be scaled to {scale}"),
                    "it is no template".into(),
                    &format!("call it {}@.{}", name.stem(), name.kind().suffix()),
                )),
            };
        }
        if scale.is_some_and(|s| s == 0 || s > MOST_INSTANCES) {
            return Err(senseless(
                format!("{name} cannot be scaled so"),
                format!("there may be 1 to {MOST_INSTANCES} instances"),
                "`coracle unit destroy` removes a service",
            ));
        }
        let number = |name: &str| {
            let name = UnitName::new(name).ok()?;
            name.instance()?.parse::<u32>().ok().filter(|n| *n > 0)
        };
        let mut after: BTreeSet<String> = match scale {
            // Those with names are nobody's number.
            Some(_) => before
                .keys()
                .filter(|n| number(n).is_none())
                .cloned()
                .collect(),
            None => before.keys().cloned().collect(),
        };
        let scale = scale.unwrap_or(u32::from(after.is_empty()));
        for n in 1..=scale {
            after.insert(name.instantiate(&n.to_string())?.to_string());
        }
        Ok(after)
    }
}

/// Whether all instances have one image.
pub(super) fn has_one_image(unit: &Unit) -> bool {
    match &unit.kind {
        Kind::Container { container, .. } => {
            !unit.name.is_template() || !container.image.contains('%')
        }
        _ => false,
    }
}

/// A step for people.
fn told(step: &Step) -> String {
    match step {
        Step::Begin {
            unit,
            revision,
            reason,
        } => format!("{unit}: start revision {revision} beside it ({reason})"),
        Step::Create {
            unit,
            revision,
            reason,
        } => format!("{unit}: make it with revision {revision} ({reason})"),
        Step::Replace {
            unit,
            revision,
            reason,
        } => format!("{unit}: stop it and start revision {revision} ({reason})"),
        Step::Admit { unit, .. } => {
            format!("{unit}: once it is healthy for its time, the new one serves beside it")
        }
        Step::Promote { unit, reason } => {
            format!("{unit}: the new one takes its place, the former one stops ({reason})")
        }
        Step::Drop { unit, reason, .. } => format!("{unit}: take the new one away ({reason})"),
        Step::Remove { unit, reason } => format!("{unit}: stop and remove it ({reason})"),
        Step::Stop { unit, reason } => format!("{unit}: stop it ({reason})"),
        Step::Pause { reason } => format!("wait for `coracle resume` ({reason})"),
        Step::TurnBack(report) => format!("go back ({}: {})", report.unit, report.reason),
        Step::Finish { reason, .. } => format!("done: {reason}"),
    }
}
