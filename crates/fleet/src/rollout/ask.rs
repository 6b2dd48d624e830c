//! What people ask of deploys.

use super::begin::has_one_image;
use crate::error::{FleetError, Result};
use crate::fleet::Fleet;
use crate::leader::{Leader, Target};
use crate::model::{Dropin, RevisionRecord, UnitRecord};
use crate::pace;
use coracle_unit::deploy::Strategy;
use coracle_unit::{Kind, Unit, UnitName};
use serde::{Deserialize, Serialize};

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
    pub(super) fn of(revision: u64, record: &RevisionRecord) -> Self {
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

/// As [`service_named`], with its record.
pub(super) fn service_of(leader: &Leader, text: &str) -> Result<(UnitName, UnitRecord)> {
    let name = service_named(leader, text)?;
    let target = leader.target(name.as_str());
    let target = target.ok_or_else(|| FleetError::NotFound(name.to_string()))?;
    Ok((name, target.record()))
}

pub(super) fn senseless(what: String, why: String, way_out: &str) -> FleetError {
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
        leader.write_services().await?;
        has_its_ports(&leader, &unit)?;
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
                let text = leader.service_text(name.as_str(), &record, number).await?;
                (text, true)
            }
            (None, Some(text)) => (RevisionRecord::new(text, asked.dropins.clone()), false),
            (None, None) => {
                let record = known.ok_or_else(missing)?.record();
                let present = leader
                    .service_text(name.as_str(), &record, record.present())
                    .await?;
                (RevisionRecord::new(&present.text, present.dropins), false)
            }
        };
        if !asked.set.is_empty() {
            let lines = asked.set.iter();
            let lines = lines.map(|(section, key, value)| format!("[{section}]\n{key}={value}\n"));
            // What was set before stays; of what is set twice the last counts.
            let mut all = String::new();
            if let Some(at) = text.0.dropins.iter().position(|d| d.file == SET) {
                all = text.0.dropins.remove(at).text;
            }
            for line in lines {
                // Said once more it is the same.
                all = all.replace(&line, "") + &line;
            }
            text.0.dropins.push(Dropin {
                file: SET.to_owned(),
                text: all,
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
        if !has_one_image(unit) {
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
}

/// Refuses a port of every machine that another service has.
pub(crate) fn has_its_ports(leader: &Leader, unit: &Unit) -> Result<()> {
    let Some((other, port)) = leader.port_taken(unit) else {
        return Ok(());
    };
    Err(senseless(
        format!(
            "{} cannot publish port {}/{}",
            unit.name, port.port, port.protocol
        ),
        format!("service {other} has it, on every machine"),
        &format!(
            "publish another port; or let that go: submit {other} without it, or destroy its units (`coracle unit list` names them)"
        ),
    ))
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
