//! What people say of deploys: back, pause, go on, give up.

use super::ask::{Asked, Planned, senseless, service_named, service_of};
use super::record::{DeployRecord, Report, Stage};
use crate::error::Result;
use crate::fleet::{Fleet, UnitText};
use crate::leader::Group;
use crate::pace;
use coracle_unit::UnitName;
use std::collections::BTreeMap;

impl Fleet {
    /// Goes to the revision that ran before the present one, or to a certain one.
    ///
    /// # Errors
    /// As [`Self::deploy`]; [`FleetError::Senseless`] if there was none before.
    pub async fn rollback(&self, name: &str, asked: Asked) -> Result<Planned> {
        let leader = self.leading()?;
        let (name, record) = service_of(&leader, name)?;
        let deploys = self.deploys(&record).await?;
        let known = self.revisions(&record).await?;
        let present = record.present();
        // What ran when the present one came: as many units had it as no other.
        let others = |d: &DeployRecord| {
            let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
            for revision in d.before.values().filter(|r| **r != present) {
                *counts.entry(*revision).or_default() += 1;
            }
            counts
                .into_iter()
                .max_by_key(|(_, count)| *count)
                .map(|(r, _)| r)
        };
        let here = |d: &&DeployRecord| d.stage == Stage::Done && d.to == present;
        let former = deploys.iter().rev().filter(here).find_map(others);
        let failed = |number: u64| {
            let last = deploys.iter().rev().find(|d| d.to == number);
            last.is_some_and(|d| d.stage == Stage::Restored)
        };
        let numbers = known.into_iter().map(|(n, _)| n);
        let mut numbers: Vec<u64> = numbers.filter(|n| *n < present && !failed(*n)).collect();
        let before = numbers.pop();
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
            // Whoever goes back does not try it out.
            canary: asked.canary.or(Some(0)),
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
            // Who paused it by hand has not seen the canaries.
            let by_hand = deploy
                .paused
                .take()
                .is_some_and(|why| why.starts_with("by "));
            deploy.approved |= !by_hand;
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
            if deploy.stage == Stage::Back {
                // Who says it twice does not want to wait for what does not come back.
                deploy.stage = Stage::Restored;
                deploy.ended = Some(pace::utc());
            } else if deploy.stage == Stage::Forward {
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
        if deploy.stage == Stage::Restored {
            // Nobody looks after them from here on.
            for unit in deploy.units() {
                let next = UnitName::new(&unit)?.successor();
                if let Some(next) = leader.target(next.as_str()) {
                    leader.forget(&next).await?;
                }
            }
        }
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
        let (name, record) = service_of(&leader, name)?;
        let found = leader.service_text(name.as_str(), &record, number).await?;
        Ok(UnitText {
            text: found.text,
            dropins: found.dropins,
        })
    }
}
