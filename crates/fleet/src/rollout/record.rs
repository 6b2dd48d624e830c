//! What is stored of a deploy: what was, what is to be, and how far it is.

use chrono::{DateTime, Utc};
use coracle_unit::deploy::Strategy;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most lines that are kept of what a deploy did; the oldest go first.
const MOST_SAID: usize = 200;

/// A deploy of a service: `deploys/<service's uid>/<number>`. The one with the highest number is its last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployRecord {
    /// [`crate::model::VERSION`].
    pub version: u32,
    /// Counts the service's deploys, from 1.
    pub number: u64,
    /// The service: a template, or a unit that has none.
    pub unit: String,
    /// The revision of the service that is to run.
    pub to: u64,
    /// The revision that it went by before.
    pub from: u64,
    /// How.
    pub settings: Settings,
    /// The units that ran before, with the revision of the service that each did.
    pub before: BTreeMap<String, u64>,
    /// The units that are to run.
    pub after: BTreeSet<String>,
    /// Those of them that were there and did not run.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub stopped: BTreeSet<String>,
    /// Those that it has started itself: who stops one then means it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub made: BTreeSet<String>,

    /// Those of them that were healthy for their time.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub proven: BTreeSet<String>,
    /// Those for which there is room only once the unit has gone whose place they take.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub in_place: BTreeSet<String>,
    /// Why there must not be two of a unit at a time, as the new text has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<String>,
    /// The machines that had instances when it began have the image.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fetched: bool,
    /// The revision has run before and was well: it is not waited for longer than until it is healthy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub known: bool,
    /// How far it is.
    pub stage: Stage,
    /// Why nothing more is begun until somebody says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// Somebody has said after the canaries that it is to go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approved: bool,
    /// Who asked for it.
    #[serde(default)]
    pub who: String,
    /// Why, in their words.
    #[serde(default)]
    pub message: String,
    /// The client's own id of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// When it was asked for.
    pub begun: DateTime<Utc>,
    /// When the last step was taken that brought it on.
    pub moved: DateTime<Utc>,
    /// When it came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<DateTime<Utc>>,
    /// Why it goes back, or went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
    /// What was done, the oldest first.
    #[serde(default)]
    pub log: Vec<Said>,
}

/// How a deploy is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Units that are replaced at a time, at least 1.
    pub batch: u32,
    /// Units after which it waits to be told to go on; 0 is none.
    pub canary: u32,
    /// Which comes first; nothing leaves it to what the unit allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// Seconds that a batch may take.
    pub timeout: u64,
}

/// How far a deploy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The new revision takes the old one's place.
    Forward,
    /// The old one gets its place back.
    Back,
    /// The new revision runs.
    Done,
    /// The old one runs, as before.
    Restored,
}

impl Stage {
    /// Whether nothing more is to be done.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Restored)
    }
}

/// Why a deploy did not come to what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The step.
    pub step: String,
    /// The unit, if it was one's.
    pub unit: String,
    /// Why.
    pub reason: String,
    /// Its exit status, if it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Its last lines of output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
}

/// A line of what was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Counts the lines of a deploy, from 1.
    pub number: u64,
    /// When.
    pub at: DateTime<Utc>,
    /// What and why.
    pub text: String,
}

impl DeployRecord {
    /// Remembers what was done.
    pub fn say(&mut self, at: DateTime<Utc>, text: String) {
        if self.log.len() >= MOST_SAID {
            self.log.remove(0);
        }
        let number = self.log.last().map_or(0, |said| said.number) + 1;
        self.log.push(Said { number, at, text });
    }

    /// Every unit that it is about.
    pub fn units(&self) -> BTreeSet<String> {
        self.before.keys().chain(&self.after).cloned().collect()
    }

    /// The revision that a unit is to run as far as the deploy is; nothing if it is not to run.
    pub fn aim(&self, unit: &str) -> Option<u64> {
        match self.stage {
            Stage::Forward | Stage::Done => self.after.contains(unit).then_some(self.to),
            Stage::Back | Stage::Restored => self.before.get(unit).copied(),
        }
    }
}
