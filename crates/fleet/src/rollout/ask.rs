//! What people ask of deploys.

use super::outline::outline;
use super::plan::Step;
use super::record::{DeployRecord, Report, Settings, Stage};
use crate::error::{FleetError, Result};
use crate::fleet::{Fleet, UnitText};
use crate::leader::{Change, Group, Leader, Target};
use crate::model::{Desired, Dropin, RevisionRecord, UnitRecord, VERSION, keys};
use crate::pace;
use coracle_unit::deploy::{MOST_INSTANCES, Strategy};
use coracle_unit::{Kind, Unit, UnitName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Seconds that a batch may take, if nobody says anything else.
const TIMEOUT: u64 = 300;
/// The drop-in that has what was set beside the text.
const SET: &str = "90-set.conf";

/// A deploy as it is asked for. What is not said is as the unit's `[X-Deploy]` has it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asked {
    /// The unit's text; without one its present text.
    pub text: Option<String>,
    /// Its drop-ins.
    pub dropins: Vec<Dropin>,
    /// Sections, keys and values that are set over the text.
    pub set: Vec<(String, String, String)>,
    /// The revision to go to, in place of a text.
    pub revision: Option<u64>,
    /// Instances of a template.
    pub scale: Option<u32>,
    /// Units that are replaced at a time.
    pub batch: Option<u32>,
    /// Units after which it waits to be told to go on.
    pub canary: Option<u32>,
    /// Which comes first.
    pub strategy: Option<Strategy>,
    /// Seconds that a batch may take.
    pub timeout: Option<u64>,
    /// Who asks.
    pub who: String,
    /// Why.
    pub message: String,
    /// Nothing is done, and told what would be.
    pub dry_run: bool,
    /// The client's own id of the request: asked once more it does nothing more.
    #[serde(skip)]
    pub request: Option<String>,
}

/// What a deploy is to do.
#[derive(Debug, Clone, Serialize)]
pub struct Planned {
    /// The service.
    pub unit: String,
    /// The deploy's number; none of one that was only planned, or that has nothing to do.
    pub deploy: Option<u64>,
    /// The revision that is to run.
    pub revision: u64,
    /// The text that the service goes by now; none of one that is new.
    pub before: Option<UnitTextView>,
    /// The text that is to run.
    pub after: UnitTextView,
    /// The image that it stands for, if that is known.
    pub image: Option<String>,
    /// What is to be done, in its order.
    pub steps: Vec<String>,
}

/// A text with its drop-ins.
#[derive(Debug, Clone, Serialize)]
pub struct UnitTextView {
    /// The revision.
    pub revision: u64,
    /// The file.
    pub text: String,
    /// The drop-ins.
    pub dropins: Vec<Dropin>,
}

impl UnitTextView {
    fn of(revision: u64, record: &RevisionRecord) -> Self {
        Self {
            revision,
            text: record.text.clone(),
            dropins: record.dropins.clone(),
        }
    }
}

/// The service that a person names: a template by one of its instances, too.
pub(super) fn service_named(leader: &Leader, text: &str) -> Result<UnitName> {
    let mut names = Vec::new();
    match UnitName::new(text) {
        Ok(name) => names.push(name.base()),
        Err(_) => {
            for (stem, kind) in [
                ("", "container"),
                ("@", "container"),
                ("", "service"),
                ("@", "service"),
            ] {
                names.extend(UnitName::new(&format!("{text}{stem}.{kind}")));
            }
        }
    }
    let whole = names.into_iter().map(|n| match n.template() {
        Some(template) if leader.target(template.as_str()).is_some() => template,
        _ => n,
    });
    let there = |name: &UnitName| leader.target(name.as_str()).is_some();
    let mut whole = whole.filter(there);
    whole
        .next()
        .ok_or_else(|| FleetError::NotFound(text.to_owned()))
}

fn senseless(what: String, why: String, way_out: &str) -> FleetError {
    FleetError::Senseless {
        what,
        why,
        way_out: way_out.to_owned(),
    }
}

impl Fleet {
    /// Deploys a unit, or only says what that would do. Returns once it is written down; [`Self::deploy_of`] tells how far it is.
    ///
    /// # Errors
    /// [`FleetError::Refused`] and [`FleetError::Unsupported`] for its text, [`FleetError::NotFound`], [`FleetError::Senseless`] for
    /// what cannot be deployed or while another deploy of it is under way, [`FleetError::Failed`] if its image cannot be had.
    pub async fn deploy(&self, name: &str, asked: Asked) -> Result<Planned> {
        let leader = self.leading()?;
        let name = match (&asked.text, UnitName::new(name)) {
            (Some(_), name) => name?,
            (None, _) => service_named(&leader, name)?,
        };
        check_name(&name)?;
        let known = leader.target(name.as_str());
        let (text, pinned) = self
            .wanted_text(&leader, &name, known.as_deref(), &asked)
            .await?;
        let unit = leader.parse(name.as_str(), &text.text, &text.dropins)?;
        self.honour(&unit, &leader)?;
        check_kind(&unit)?;
        let text = match pinned {
            true => text,
            false => RevisionRecord {
                image: self.image_of(&unit).await?,
                ..text
            },
        };
        let _one = self.change(&leader).await?;
        let last = leader.deploy_of(name.as_str());
        if let Some(last) = last.filter(|d| asked.request.is_some() && d.request == asked.request) {
            return Ok(Planned {
                unit: last.unit,
                deploy: Some(last.number),
                revision: last.to,
                before: None,
                after: UnitTextView::of(last.to, &text),
                image: None,
                steps: Vec::new(),
            });
        }
        self.not_under_way(&leader, &name)?;
        self.write_down(&leader, &name, &unit, text, &asked).await
    }

    /// The text that is asked for, and whether its image is fixed already.
    async fn wanted_text(
        &self,
        leader: &Leader,
        name: &UnitName,
        known: Option<&Target>,
        asked: &Asked,
    ) -> Result<(RevisionRecord, bool)> {
        let missing = || FleetError::NotFound(name.to_string());
        let mut text = match (asked.revision, &asked.text) {
            (Some(number), _) => {
                let record = known.ok_or_else(missing)?.record();
                let found = leader.service_text(&record, number).await;
                match found {
                    Err(FleetError::NotFound(_)) => {
                        return Err(senseless(
                            format!("revision {number} of {name}"),
                            "there is none".to_owned(),
                            &format!("`coracle history {name}` lists those that there are"),
                        ));
                    }
                    found => (found?, true),
                }
            }
            (None, Some(text)) => (RevisionRecord::new(text, asked.dropins.clone()), false),
            (None, None) => {
                let record = known.ok_or_else(missing)?.record();
                let present = leader.service_text(&record, record.present()).await?;
                (RevisionRecord::new(&present.text, present.dropins), false)
            }
        };
        if !asked.set.is_empty() {
            let mut lines = String::new();
            for (section, key, value) in &asked.set {
                lines.push_str(&format!("[{section}]\n{key}={value}\n"));
            }
            text.0.dropins.retain(|d| d.file != SET);
            text.0.dropins.push(Dropin {
                file: SET.to_owned(),
                text: lines,
            });
            text.1 = false;
        }
        text.0.created = pace::utc();
        text.0.who.clone_from(&asked.who);
        text.0.message.clone_from(&asked.message);
        Ok(text)
    }

    /// The image that a unit's stands for now, had here.
    async fn image_of(&self, unit: &Unit) -> Result<Option<crate::model::Pinned>> {
        let Kind::Container { container, .. } = &unit.kind else {
            return Ok(None);
        };
        // Each instance may have another.
        if unit.name.is_template() && container.image.contains('%') {
            return Ok(None);
        }
        let had = self
            .containers()
            .have_image(&container.image, &container.pull);
        had.await.map_err(|not| FleetError::Failed {
            unit: unit.name.to_string(),
            reason: format!("its image cannot be had, and nothing was changed: {not}"),
            log: String::new(),
        })?;
        Ok(self.containers().pinned(&container.image))
    }

    /// Refuses what would mix with a deploy.
    pub(crate) fn not_under_way(&self, leader: &Leader, name: &UnitName) -> Result<()> {
        let open = leader.deploy_of(name.as_str());
        match open.filter(|d| !d.stage.is_over()) {
            Some(open) => Err(senseless(
                format!("deploy {} of {name} is under way", open.number),
                format!("since {}", open.begun.format("%F %T UTC")),
                &format!(
                    "wait for it (`coracle history {name}`), or end it: `coracle abort {name}`"
                ),
            )),
            None => Ok(()),
        }
    }

    async fn write_down(
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
            Some(record) => Some(leader.service_text(record, record.present()).await?),
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
        let before = self.before(leader, name, &mut last, &mut more).await?;
        let after = Self::after(name, unit, &before, asked)?;
        let stopped = after.iter().filter(|n| !before.contains_key(*n));
        let stopped = stopped.filter(|n| leader.target(n).is_some()).cloned();
        let settings = Settings {
            batch: asked.batch.unwrap_or(unit.deploy.batch),
            canary: asked.canary.unwrap_or(unit.deploy.canary),
            strategy: asked.strategy.or(unit.deploy.strategy),
            timeout: asked.timeout.unwrap_or(TIMEOUT),
        };
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
        let idle = steps.iter().all(|s| matches!(s, Step::Finish { .. }));
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
        if asked.dry_run || idle && same {
            return Ok(planned);
        }
        planned.deploy = Some(number);
        let mut group = Group::default();
        match (&known, record) {
            (Some(target), Some(record)) => {
                let service = record.service().to_owned();
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
            let number = match record.of {
                Some(number) => number,
                None if !name.is_template() => record.revision,
                None => {
                    let own = leader.revision(&record).await?;
                    let service = leader.target(name.as_str()).map(|t| t.record());
                    let service = service.ok_or_else(|| FleetError::NotFound(name.to_string()))?;
                    let present = leader.service_text(&service, service.present()).await?;
                    match more.iter().find(|(_, text)| text.is_same(&own)) {
                        _ if present.is_same(&own) => service.present(),
                        Some((number, _)) => *number,
                        None => {
                            *last += 1;
                            more.push((*last, own));
                            *last
                        }
                    }
                }
            };
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

    /// Goes to the revision that ran before the present one, or to a certain one.
    ///
    /// # Errors
    /// As [`Self::deploy`]; [`FleetError::Senseless`] if there was none before.
    pub async fn rollback(&self, name: &str, asked: Asked) -> Result<Planned> {
        let leader = self.leading()?;
        let name = service_named(&leader, name)?;
        let record = leader.target(name.as_str()).map(|t| t.record());
        let record = record.ok_or_else(|| FleetError::NotFound(name.to_string()))?;
        let last = leader.deploy_of(name.as_str());
        let known = self.revisions(&record).await?;
        let former = last.as_ref().and_then(|d| match d.stage {
            Stage::Done if d.from > 0 && d.from != record.present() => Some(d.from),
            _ => None,
        });
        let before = known
            .into_iter()
            .map(|(n, _)| n)
            .rfind(|n| *n < record.present());
        let revision = asked.revision.or(former).or(before).ok_or_else(|| {
            senseless(
                format!("{name} cannot go back"),
                "it has run one revision only".into(),
                &format!("`coracle history {name}` lists what there is"),
            )
        })?;
        let message = match asked.message.is_empty() {
            true => format!("back to revision {revision}"),
            false => asked.message,
        };
        let asked = Asked {
            revision: Some(revision),
            text: None,
            set: Vec::new(),
            message,
            ..asked
        };
        self.deploy(name.as_str(), asked).await
    }

    /// A service's last deploy.
    ///
    /// # Errors
    /// [`FleetError::NotFound`] if there is no such service, or it was never deployed.
    pub fn deploy_of(&self, name: &str) -> Result<DeployRecord> {
        let leader = self.leading()?;
        let name = service_named(&leader, name)?;
        let none = || {
            senseless(
                name.to_string(),
                "it was never deployed".into(),
                "`coracle deploy FILE` does that",
            )
        };
        leader.deploy_of(name.as_str()).ok_or_else(none)
    }

    /// Nothing more is begun until it is resumed; what is under way goes on.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], [`FleetError::Senseless`] if none is under way.
    pub async fn pause(&self, name: &str, who: &str) -> Result<DeployRecord> {
        self.tell(name, |deploy| {
            deploy.paused = Some(format!("by {who}"));
            format!("paused by {who}")
        })
        .await
    }

    /// Goes on with a deploy that was paused, also by itself after its canaries.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn resume(&self, name: &str, who: &str) -> Result<DeployRecord> {
        self.tell(name, |deploy| {
            (deploy.paused, deploy.approved) = (None, true);
            format!("resumed by {who}")
        })
        .await
    }

    /// Takes a deploy back that is under way.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn abort(&self, name: &str, who: &str) -> Result<DeployRecord> {
        self.tell(name, |deploy| {
            deploy.paused = None;
            if deploy.stage == Stage::Forward {
                deploy.stage = Stage::Back;
                deploy.report = Some(Report {
                    step: "abort".into(),
                    unit: deploy.unit.clone(),
                    reason: format!("{who} said so"),
                    code: None,
                    last_lines: Vec::new(),
                });
            }
            format!("aborted by {who}")
        })
        .await
    }

    async fn tell(
        &self,
        name: &str,
        change: impl FnOnce(&mut DeployRecord) -> String,
    ) -> Result<DeployRecord> {
        let leader = self.leading()?;
        let _one = self.change(&leader).await?;
        let name = service_named(&leader, name)?;
        let open = leader.deploy_of(name.as_str());
        let Some(mut deploy) = open.filter(|d| !d.stage.is_over()) else {
            return Err(senseless(
                name.to_string(),
                "no deploy of it is under way".into(),
                &format!("`coracle history {name}` says what was"),
            ));
        };
        let now = pace::utc();
        let said = change(&mut deploy);
        deploy.say(now, said);
        deploy.moved = now;
        leader
            .write_deploy(deploy.clone(), Group::default())
            .await?;
        Ok(deploy)
    }

    /// The text of a service's revision.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], [`FleetError::Store`].
    pub async fn revision_text(&self, name: &str, number: u64) -> Result<UnitText> {
        let leader = self.leading()?;
        let name = service_named(&leader, name)?;
        let record = leader.target(name.as_str()).map(|t| t.record());
        let record = record.ok_or_else(|| FleetError::NotFound(name.to_string()))?;
        let found = leader.service_text(&record, number).await?;
        Ok(UnitText {
            text: found.text,
            dropins: found.dropins,
        })
    }
}

fn check_name(name: &UnitName) -> Result<()> {
    if name.is_successor() || name.instance().is_some() {
        let template = name.template().unwrap_or_else(|| name.base());
        return Err(senseless(
            format!("{name} cannot be deployed by itself"),
            "all instances of a template run one revision".into(),
            &format!("deploy {template}"),
        ));
    }
    Ok(())
}

fn check_kind(unit: &Unit) -> Result<()> {
    match &unit.kind {
        _ if unit.fleet.global => Err(senseless(
            format!("{} cannot be deployed", unit.name),
            "it is Global, and runs on every machine at once".into(),
            "submit and restart it: `coracle unit submit`, `coracle unit restart`",
        )),
        Kind::Container { .. } | Kind::Service(_) => Ok(()),
        Kind::Volume(_) | Kind::Network(_) => Err(senseless(
            format!("{} cannot be deployed", unit.name),
            "volumes and networks have no versions that run".into(),
            "submit it: `coracle unit submit`",
        )),
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
