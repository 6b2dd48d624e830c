//! What of a service was deployed.

use super::ask::service_of;
use super::record::{DeployRecord, Stage};
use crate::error::Result;
use crate::fleet::Fleet;
use crate::leader::{Target, family};
use crate::model::{Desired, RevisionRecord, UnitRecord, keys};
use chrono::{DateTime, Utc};

use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Revisions of a service whose images are kept.
const KEPT: usize = 5;

/// A service's revisions and deploys.
#[derive(Debug, Clone, Serialize)]
pub struct History {
    /// The service.
    pub unit: String,
    /// The revision that it goes by.
    pub present: u64,
    /// Its revisions, the oldest first.
    pub revisions: Vec<Past>,
    /// Its deploys, the oldest first.
    pub deploys: Vec<DeployRecord>,
}

/// A revision.
#[derive(Debug, Clone, Serialize)]
pub struct Past {
    /// Its number.
    pub revision: u64,
    /// When it came.
    pub created: DateTime<Utc>,
    /// The image that it stood for.
    pub image: String,
    /// By whom it was deployed; nothing of one that was submitted.
    pub who: String,
    /// Why.
    pub message: String,
    /// What became of it: `runs`, `ran`, `failed: …`, `submitted`.
    pub outcome: String,
}

impl Fleet {
    /// What of a service was deployed.
    ///
    /// # Errors
    /// [`FleetError::NotFound`], [`FleetError::Store`].
    pub async fn history(&self, name: &str) -> Result<History> {
        let leader = self.leading()?;
        let (name, record) = service_of(&leader, name)?;
        let deploys = self.deploys(&record).await?;
        let revisions = self.revisions(&record).await?;
        let present = record.present();
        let of = |t: &Target| {
            let (unit, record) = (t.unit(), t.record());
            let is_one = unit.name == name || unit.name.template().as_ref() == Some(&name);
            is_one
                && !unit.name.is_template()
                && record.desired == Desired::Active
                && record.present() == present
        };
        let runs = leader.all().iter().any(|t| of(t));
        let past = |(revision, text): (u64, RevisionRecord)| Past {
            revision,
            created: text.created,
            image: text
                .image
                .map(|i| i.digest.unwrap_or(i.id))
                .unwrap_or_default(),
            who: text.who,
            message: text.message,
            outcome: outcome(revision, present, runs, &deploys),
        };
        Ok(History {
            unit: name.to_string(),
            present,
            revisions: revisions.into_iter().map(past).collect(),
            deploys,
        })
    }

    /// Whether a revision of a service was deployed well.
    pub(super) async fn has_run(&self, record: &UnitRecord, revision: u64) -> Result<bool> {
        let deploys = self.deploys(record).await?;
        Ok(deploys.iter().any(|d| {
            let ran = d.before.values().any(|r| *r == revision);
            d.stage == Stage::Done && d.to == revision || ran
        }))
    }

    /// The deploys of a service, the oldest first.
    pub(super) async fn deploys(&self, record: &UnitRecord) -> Result<Vec<DeployRecord>> {
        let prefix = keys::deploys(record.service());
        let found = family::<DeployRecord>(&*self.0.cluster, &prefix, 0).await?;
        let mut deploys: Vec<DeployRecord> = found.into_values().collect();
        deploys.sort_by_key(|d| d.number);
        Ok(deploys)
    }

    /// Images, by the digests of their configs, that the last revisions of services need: what is rolled back runs without a registry.
    ///
    /// # Errors
    /// [`FleetError::Store`].
    pub async fn pinned_images(&self) -> Result<BTreeSet<String>> {
        let found = family::<RevisionRecord>(&*self.0.cluster, keys::REVISIONS, 0).await?;
        let mut last: BTreeMap<String, BTreeMap<u64, String>> = BTreeMap::new();
        for (key, text) in found {
            let number = key
                .rsplit_once('/')
                .and_then(|(of, n)| Some((of, n.parse().ok()?)));
            if let (Some((of, number)), Some(image)) = (number, text.image) {
                last.entry(of.to_owned())
                    .or_default()
                    .insert(number, image.id);
            }
        }
        let kept = last.into_values();
        Ok(kept
            .flat_map(|all| all.into_values().rev().take(KEPT))
            .collect())
    }

    /// The revisions of a service by number.
    pub(super) async fn revisions(
        &self,
        record: &UnitRecord,
    ) -> Result<Vec<(u64, RevisionRecord)>> {
        let prefix = keys::revisions(record.service());
        let found = family::<RevisionRecord>(&*self.0.cluster, &prefix, 0).await?;
        let numbered = found.into_iter();
        let numbered = numbered.filter_map(|(n, text)| Some((n.parse::<u64>().ok()?, text)));
        let mut all: Vec<_> = numbered.collect();
        all.sort_by_key(|(number, _)| *number);
        Ok(all)
    }
}

/// `runs` is whether anything of the service does.
fn outcome(revision: u64, present: u64, runs: bool, deploys: &[DeployRecord]) -> String {
    let last = deploys.iter().rev().find(|d| d.to == revision);
    match last {
        Some(deploy) if deploy.stage == Stage::Forward => match &deploy.paused {
            Some(why) => format!("paused: {why}"),
            None => "is being deployed".to_owned(),
        },
        Some(deploy) if deploy.stage == Stage::Back => "is taken back".to_owned(),
        Some(deploy)
            if deploy.stage == Stage::Restored
                && !deploy.before.values().any(|r| *r == revision) =>
        {
            let why = deploy.report.as_ref();
            why.map_or_else(|| "failed".to_owned(), |r| format!("failed: {}", r.reason))
        }
        _ if revision == present && runs => "runs".to_owned(),
        Some(_) => "ran".to_owned(),
        None => "submitted".to_owned(),
    }
}
