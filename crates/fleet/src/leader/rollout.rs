//! Deploys, as who leads drives them: where their units stand, and the steps that follow, written as every other change is.

use super::{Change, Group, Leader, locked};
use crate::error::{FleetError, Result};
use crate::fleet::Fleet;
use crate::model::{Desired, RevisionRecord, UnitRecord, keys};
use crate::pace;
use crate::rollout::fetch::Fetch;
use crate::rollout::plan::{self, Seen, State, Step};
use crate::rollout::record::{DeployRecord, Report, Stage};
use coracle_engine::full_error;
use coracle_store::StoreExt as _;
use coracle_unit::UnitName;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How soon a deploy is looked at again in which only time goes on.
const LOOK: Duration = Duration::from_secs(1);

/// What a leader knows of deploys.
#[derive(Default)]
pub(crate) struct Deploys {
    /// The last deploy of each service, by the service's name.
    last: BTreeMap<String, DeployRecord>,
    /// Since when units are well, by uid.
    pub(super) well: BTreeMap<String, Instant>,
    /// When to look again, if nothing happens.
    pub(super) due: Option<Instant>,
}

impl Leader {
    /// The last deploy of a service.
    pub fn deploy_of(&self, service: &str) -> Option<DeployRecord> {
        locked(&self.deploys).last.get(service).cloned()
    }

    /// Takes in what was read.
    pub(super) fn take_deploys(&self, all: BTreeMap<String, DeployRecord>) {
        for (key, record) in all {
            let uid = key.split('/').next().unwrap_or_default();
            let target = self.target(&record.unit);
            // Of one that was destroyed, or made anew, it is no matter any more.
            if target.is_none_or(|t| t.record().service() != uid) {
                continue;
            }
            let last = &mut locked(&self.deploys).last;
            if last
                .get(&record.unit)
                .is_none_or(|known| known.number < record.number)
            {
                last.insert(record.unit.clone(), record);
            }
        }
    }

    /// Writes a deploy, with what goes along with it.
    ///
    /// # Errors
    /// As [`Self::commit`]; nothing is changed then.
    pub async fn write_deploy(&self, record: DeployRecord, mut group: Group) -> Result<()> {
        let target = self.target(&record.unit);
        let target = target.ok_or_else(|| FleetError::NotFound(record.unit.clone()))?;
        let key = keys::deploy(target.record().service(), record.number);
        group.put(key, &record)?;
        self.commit([group]).await?;
        let mut deploys = locked(&self.deploys);
        deploys.last.insert(record.unit.clone(), record);
        deploys.due = Some(pace::now());
        drop(deploys);
        self.ticks.send_modify(|n| *n += 1);
        self.wake.notify_one();
        Ok(())
    }

    /// An instance is destroyed in the midst of a deploy, which makes it no more.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub(crate) async fn leave_out(&self, name: &UnitName) -> Result<()> {
        let template = name.template().filter(|_| !name.is_template());
        let deploy = template.and_then(|t| self.deploy_of(t.as_str()));
        let Some(mut deploy) = deploy.filter(|d| !d.stage.is_over()) else {
            return Ok(());
        };
        let name = name.as_str();
        let known = deploy.after.remove(name) | deploy.before.remove(name).is_some();
        if known {
            let said = format!("{name}: left out, since somebody destroys it");
            self.say(deploy, said).await?;
        }
        Ok(())
    }

    /// A service is no more.
    pub(crate) fn forget_deploys(&self, service: &str) {
        locked(&self.deploys).last.remove(service);
    }

    /// The services of which a deploy is under way.
    pub(super) fn open_deploys(&self) -> Vec<String> {
        let deploys = locked(&self.deploys);
        let open = deploys.last.values().filter(|d| !d.stage.is_over());
        open.map(|record| record.unit.clone()).collect()
    }

    /// How long until deploys are to be looked at, if nothing happens before.
    pub(super) fn deploys_due(&self) -> Option<Duration> {
        let due = locked(&self.deploys).due?;
        Some(due.saturating_duration_since(pace::now()))
    }

    /// Takes every deploy as far as it can be taken now.
    ///
    /// # Errors
    /// As [`Self::commit`]; it is tried again.
    pub(super) async fn roll(&self, fleet: &Fleet) -> Result<()> {
        let services = self.open_deploys();
        locked(&self.deploys).due = None;
        let mut failed = Ok(());
        for service in services {
            let _one = self.change_lock.lock().await;
            if fleet.is_leaving() {
                break;
            }
            // One that cannot go on keeps no other from doing so.
            let went = loop {
                match self.advance(fleet, &service).await {
                    Ok(true) => {}
                    Ok(false) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            failed = failed.and(went);
        }
        failed
    }

    /// One round of steps; whether one of them changed anything.
    async fn advance(&self, fleet: &Fleet, service: &str) -> Result<bool> {
        let Some(deploy) = self.deploy_of(service).filter(|d| !d.stage.is_over()) else {
            return Ok(false);
        };
        let seen = self.observe(&deploy, true);
        self.note_proven(&deploy, &seen);
        let begun = (pace::utc() - deploy.moved).num_seconds();
        let late = deploy.paused.is_none()
            && u64::try_from(begun).is_ok_and(|s| s >= deploy.settings.timeout);
        if deploy.stage == Stage::Forward && !deploy.fetched && deploy.paused.is_none() {
            let fetch = match self.fetch(&deploy, late).await {
                Err(error) if is_final(&error) => Fetch::Failed(Report {
                    step: format!("begin revision {}", deploy.to),
                    unit: deploy.unit.clone(),
                    reason: full_error(&error),
                    code: None,
                    last_lines: Vec::new(),
                }),
                fetch => fetch?,
            };
            match fetch {
                Fetch::Had => self.note_fetched(&deploy),
                Fetch::Ask(machines) => {
                    let machines: Vec<String> = machines.into_iter().collect();
                    let names = self.in_words(&machines.join(", "));
                    let said = format!("its image is fetched first, on {names}");
                    self.say(deploy, said).await?;
                    return Ok(true);
                }
                Fetch::Wait => {
                    self.look_later();
                    return Ok(false);
                }
                Fetch::Failed(report) => {
                    let step = Step::TurnBack(report);
                    return self.take_step(fleet, service, step).await;
                }
            }
        }
        let mut news = false;
        for step in plan::next(&deploy, &seen, late) {
            news |= match self.take_step(fleet, service, step).await {
                Err(error) if deploy.stage == Stage::Forward && is_final(&error) => {
                    let report = Report {
                        step: format!("begin revision {}", deploy.to),
                        unit: deploy.unit.clone(),
                        reason: full_error(&error),
                        code: None,
                        last_lines: Vec::new(),
                    };
                    self.take_step(fleet, service, Step::TurnBack(report))
                        .await?;
                    return Ok(true);
                }
                Err(error) if is_final(&error) => {
                    // There is nothing more that could be done.
                    let error = full_error(&error);
                    let reason = format!("it ends here, and not all is as it was before: {error}");
                    let stage = Stage::Restored;
                    self.take_step(fleet, service, Step::Finish { stage, reason })
                        .await?;
                    return Ok(true);
                }
                taken => taken?,
            };
        }
        if !news {
            self.look_later();
        }
        Ok(news)
    }

    /// What is waited for is told by machines, and time goes on by itself.
    fn look_later(&self) {
        let mut deploys = locked(&self.deploys);
        let look = pace::now() + LOOK;
        deploys.due = Some(deploys.due.map_or(look, |due| due.min(look)));
    }

    /// Remembers that machines have the image. It is written with the next step.
    fn note_fetched(&self, deploy: &DeployRecord) {
        if let Some(known) = locked(&self.deploys).last.get_mut(&deploy.unit) {
            known.fetched = true;
        }
    }

    /// Remembers which of the units that a deploy has started are well. It is written with the next step.
    fn note_proven(&self, deploy: &DeployRecord, seen: &BTreeMap<String, Seen>) {
        let well = |unit: &&String| {
            let place = seen.get(*unit).and_then(|s| s.unit.as_ref());
            place.is_some_and(|p| p.wanted && p.revision == deploy.to && p.state == State::Settled)
        };
        let proven: Vec<String> = deploy.made.iter().filter(well).cloned().collect();
        if let Some(known) = locked(&self.deploys).last.get_mut(&deploy.unit) {
            known.proven.extend(proven);
        }
    }

    async fn take_step(&self, fleet: &Fleet, service: &str, step: Step) -> Result<bool> {
        let Some(mut deploy) = self.deploy_of(service) else {
            return Ok(false);
        };
        let said = match step {
            Step::Begin {
                unit,
                revision,
                reason,
            } => {
                let name = UnitName::new(&unit)?.successor();
                self.make(fleet, &deploy, &name, revision).await?;
                format!("{unit}: revision {revision} begins beside it, since {reason}")
            }
            Step::Create {
                unit,
                revision,
                reason,
            } => {
                self.start_by(fleet, &mut deploy, &unit, revision).await?;
                format!("{unit}: made with revision {revision}, since {reason}")
            }
            Step::Replace {
                unit,
                revision,
                reason,
            } => {
                self.start_by(fleet, &mut deploy, &unit, revision).await?;
                format!("{unit}: gets revision {revision} in its place, since {reason}")
            }
            Step::Admit { unit, reason } => {
                self.admit(&UnitName::new(&unit)?.successor()).await?;
                format!("{unit}: the new one serves too, since {reason}")
            }
            Step::Promote { unit, reason } => {
                self.promote(&unit).await?;
                format!("{unit}: the new one takes its place, since {reason}")
            }
            Step::Drop {
                unit,
                in_place,
                reason,
            } => {
                let name = UnitName::new(&unit)?.successor();
                if in_place {
                    deploy.in_place.insert(unit.clone());
                }
                let said = format!("{unit}: the new one is taken away, since {reason}");
                return self.take_away(deploy, name.as_str(), &unit, said).await;
            }
            Step::Remove { unit, reason } => {
                // Its machine takes it out of its service first, and stops it then.
                if let Some(target) = self.target(&unit) {
                    self.forget(&target).await?;
                }
                format!("{unit}: removed, since {reason}")
            }
            Step::Stop { unit, reason } => {
                self.halt(&unit).await?;
                if unit == deploy.unit && deploy.from > 0 {
                    // Whoever starts it next starts what was there.
                    self.give_back(&deploy).await?;
                }
                format!("{unit}: stopped, since {reason}")
            }
            Step::Pause { reason } => {
                deploy.paused = Some(reason.clone());
                format!("paused: {reason}")
            }
            Step::TurnBack(report) => {
                let (unit, step, reason) = (&report.unit, &report.step, &report.reason);
                let said = format!("goes back: {unit}: {step}: {reason}");
                deploy.stage = Stage::Back;
                deploy.paused = None;
                deploy.report = Some(report);
                said
            }
            Step::Finish { stage, reason } => {
                self.finish(deploy, stage, reason).await?;
                return Ok(true);
            }
        };
        self.say(deploy, said).await?;
        Ok(true)
    }

    /// Remembers what was done.
    async fn say(&self, mut deploy: DeployRecord, said: String) -> Result<()> {
        let now = pace::utc();
        tracing::info!(unit = deploy.unit, deploy = deploy.number, "{said}");
        deploy.say(now, said);
        deploy.moved = now;
        self.write_deploy(deploy, Group::default()).await
    }

    /// The service's text is the one that was deployed from now on, or the former one still is.
    async fn finish(&self, mut deploy: DeployRecord, stage: Stage, reason: String) -> Result<()> {
        let now = pace::utc();
        tracing::info!(unit = deploy.unit, deploy = deploy.number, "{reason}");
        deploy.say(now, reason);
        deploy.stage = stage;
        deploy.ended = Some(now);
        locked(&self.deploys).well.clear();
        let service = self.target(&deploy.unit);
        let service = service.ok_or_else(|| FleetError::NotFound(deploy.unit.clone()))?;
        let record = service.record();
        let uid = record.service().to_owned();
        let over = self.fetched(&uid);
        let unit = service.unit();
        if stage == Stage::Done && unit.name.is_template() && record.revision != deploy.to {
            let text = self.service_text(&deploy.unit, &record, deploy.to).await?;
            let unit = self.parse(unit.name.as_str(), &text.text, &text.dropins)?;
            let record = UnitRecord {
                last: Some(record.next() - 1),
                revision: deploy.to,
                ..record
            };
            let change = Change {
                text: Some((text, unit)),
                ..Change::new(&service, record)
            };
            self.write_units(vec![change]).await?;
        }
        self.write_deploy(deploy, over).await?;
        self.fetches_over(&uid);
        Ok(())
    }

    /// A revision of a service.
    ///
    /// # Errors
    /// [`FleetError::NoRevision`], [`FleetError::Store`].
    pub async fn service_text(
        &self,
        service: &str,
        record: &UnitRecord,
        number: u64,
    ) -> Result<RevisionRecord> {
        let key = keys::revision(record.service(), number);
        let found = self.store.get_json::<RevisionRecord>(&key).await?;
        let missing = || FleetError::NoRevision {
            unit: service.to_owned(),
            number,
        };
        Ok(found.ok_or_else(missing)?.0)
    }

    /// It may be found as an instance from now on.
    async fn admit(&self, name: &UnitName) -> Result<()> {
        let Some(target) = self.target(name.as_str()) else {
            return Ok(());
        };
        let record = target.record();
        let record = UnitRecord {
            held: false,
            order: record.order + 1,
            ..record
        };
        self.write_units(vec![Change::new(&target, record)]).await
    }

    /// Stops a unit, then removes it. Whether something was done; `said` is remembered when it begins.
    async fn take_away(
        &self,
        mut deploy: DeployRecord,
        name: &str,
        of: &str,
        said: String,
    ) -> Result<bool> {
        let Some(target) = self.target(name) else {
            return Ok(false);
        };
        if target.record().desired == Desired::Active {
            self.halt(name).await?;
            self.say(deploy, said).await?;
            return Ok(true);
        }
        if !target.is_down(&target.record()) {
            return Ok(false);
        }
        // What it had to say in the end is what people look for first.
        let actual = target.actual();
        if let Some(report) = deploy.report.as_mut().filter(|r| r.unit == of) {
            if report.last_lines.is_empty() {
                report.last_lines.clone_from(&actual.last_lines);
            }
            report.code = report.code.or(actual.code);
        }
        self.forget(&target).await?;
        self.write_deploy(deploy, Group::default()).await?;
        Ok(true)
    }
}

/// Whether the same would be said if it were tried again.
fn is_final(error: &FleetError) -> bool {
    !matches!(
        error,
        FleetError::NotLeader
            | FleetError::Store(_)
            | FleetError::Back(_)
            | FleetError::Leaving
            | FleetError::Engine(_)
    )
}
