//! What is stored of units and machines, and what people see of them.

use crate::plan::Cause;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

mod fetch;
pub mod keys;
mod revision;

pub use fetch::{FetchRecord, HadRecord};
pub use revision::{Dropin, Pinned, RevisionRecord};

/// Format version of every value below.
pub const VERSION: u32 = 1;

/// One run of a unit's text somewhere: `<uid>/<slot>/<incarnation>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance {
    /// The unit's.
    pub uid: String,
    /// Which of the unit's instances, from 1.
    pub slot: u32,
    /// Counts how often that one was placed, from 1.
    pub incarnation: u64,
}

impl std::fmt::Display for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.uid, self.slot, self.incarnation)
    }
}

impl std::str::FromStr for Instance {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('/');
        let (uid, slot, incarnation) = (parts.next(), parts.next(), parts.next());
        let (Some(uid), Some(slot), Some(incarnation), None) =
            (uid, slot, incarnation, parts.next())
        else {
            return Err(());
        };
        Ok(Self {
            uid: uid.to_owned(),
            slot: slot.parse().map_err(drop)?,
            incarnation: incarnation.parse().map_err(drop)?,
        })
    }
}

/// What a machine must run of a unit: `desired/…`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredRecord {
    /// [`VERSION`].
    pub version: u32,
    /// The unit's name.
    pub unit: String,
    /// Its text.
    pub revision: u64,
    /// Counts requests to start it anew.
    pub generation: u64,
    /// Counts all requests, so that an answer is known to be one to the last.
    #[serde(default)]
    pub order: u64,
    /// Whether it is to run; what is not stays where it is, with its output.
    #[serde(default = "running")]
    pub desired: Desired,
    /// Units that say that they come before this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// Units that it cannot run beside, whichever of the two says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
    /// It is to go from this machine, which had not said anything of it: once it has, this goes too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// It is not to be found as an instance of its service yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
}

/// Records without the field are of a release that had them of running units only.
fn running() -> Desired {
    Desired::Active
}

/// What a unit was asked to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// Not to run.
    #[default]
    Inactive,
    /// Not to run, but to have its machine.
    Loaded,
    /// To run.
    Active,
}

/// A unit: `units/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitRecord {
    /// [`VERSION`].
    pub version: u32,
    /// Given at submit; a name that was destroyed and made again is a new thing.
    pub uid: String,
    /// Its present text: `revisions/<uid>/<revision>`.
    pub revision: u64,
    /// What it was asked to be.
    pub desired: Desired,
    /// Counts requests to start it anew.
    pub generation: u64,
    /// Counts all requests.
    #[serde(default)]
    pub order: u64,
    /// Counts how often it was placed.
    #[serde(default)]
    pub incarnation: u64,
    /// Of one that is not to run: it is to have no machine either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unloaded: bool,
    /// The generation of which an instance ended well on a machine that has been removed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// The client's own id of the last request to start it, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by: Option<String>,
    /// Machines on which it kept failing, and when it did last, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<String, u64>,
    /// When it was moved for that, in milliseconds since 1970, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<u64>,
    /// It is not to be found as an instance of its service yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// The revision of its service that its text is, where that has numbers of its own: see [`Self::service`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// The uid of its service, of a unit that has taken the place of another of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The highest number that was given to a revision of the service, if that is not its present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
}

impl UnitRecord {
    /// Of a unit that has just come, with its first text.
    pub fn new(uid: String) -> Self {
        Self {
            version: VERSION,
            uid,
            revision: 1,
            desired: Desired::Inactive,
            generation: 0,
            order: 0,
            incarnation: 0,
            unloaded: false,
            ended: None,
            started_by: None,
            failed: BTreeMap::new(),
            moved: Vec::new(),
            held: false,
            of: None,
            service: None,
            last: None,
        }
    }

    /// The uid under which the revisions and deploys of a service are, of its template or, without one, of the unit itself. Whoever takes a unit's
    /// place has a uid and texts of its own.
    pub fn service(&self) -> &str {
        self.service.as_deref().unwrap_or(&self.uid)
    }

    /// The service's revision that runs, or is to run.
    pub fn present(&self) -> u64 {
        self.of.unwrap_or(self.revision)
    }

    /// The number of the service's next revision.
    pub fn next(&self) -> u64 {
        self.last.unwrap_or(0).max(self.present()) + 1
    }
}

/// Where a unit stands, in systemd's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Active {
    /// Not running, and not because of a failure.
    #[default]
    Inactive,
    /// On its way up.
    Activating,
    /// Up.
    Active,
    /// On its way down.
    Deactivating,
    /// Down because of a failure.
    Failed,
}

impl Active {
    /// In systemd's words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Activating => "activating",
            Self::Active => "active",
            Self::Deactivating => "deactivating",
            Self::Failed => "failed",
        }
    }
}

/// Where a unit stands on this machine: `actual/…`, written on change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actual {
    /// [`VERSION`].
    pub version: u32,
    /// The unit's name.
    pub unit: String,
    /// State.
    pub active: Active,
    /// Finer state: `running`, `exited`, `dead`, `auto-restart`, …
    pub sub: String,
    /// Why, for people.
    pub reason: String,
    /// Since when.
    pub since: DateTime<Utc>,
    /// The request that the present run belongs to.
    pub generation: u64,
    /// The last request that was looked at.
    #[serde(default)]
    pub order: u64,
    /// The text that it runs.
    pub revision: u64,
    /// Boot of the machine in which this was written.
    pub boot_id: String,
    /// The run has ended and is not to be repeated.
    pub settled: bool,
    /// Restarts since the request.
    pub restarts: u32,
    /// Id of its container.
    pub container: Option<String>,
    /// Id of its main process.
    pub process: Option<String>,
    /// Number of its last run, for ids of processes.
    pub run: u64,
    /// Last commands of this run that are still to run.
    #[serde(default)]
    pub due: Due,
    /// How it ended, if that is seen nowhere else.
    #[serde(default)]
    pub outcome: Option<Outcome>,
    /// `starting`, `healthy`, `unhealthy`, if it has a test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// Published ports, `0.0.0.0:8080->80/tcp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// Its last lines of output, if it failed or ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
    /// The digest of the config of the image that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The exit code of the run that failed or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
}

impl Actual {
    /// Of a unit that never ran.
    pub fn new(unit: &str, now: DateTime<Utc>) -> Self {
        Self {
            version: VERSION,
            unit: unit.to_owned(),
            active: Active::Inactive,
            sub: "dead".into(),
            reason: "not started".into(),
            since: now,
            generation: 0,
            order: 0,
            revision: 0,
            boot_id: String::new(),
            settled: false,
            restarts: 0,
            container: None,
            process: None,
            run: 0,
            due: Due::Nothing,
            outcome: None,
            health: None,
            ports: Vec::new(),
            last_lines: Vec::new(),
            code: None,
            image: None,
        }
    }
}

/// Which of a run's last commands are still to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Due {
    /// None: nothing of it was run, or they were.
    #[default]
    Nothing,
    /// `ExecStopPost=`: it did not come up, or `ExecStop=` was run.
    StopPost,
    /// `ExecStop=` and `ExecStopPost=`: it came up.
    Stop,
}

/// An end that leaves nothing to look at: of a start that failed, of a oneshot that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Exit code.
    pub code: i32,
    /// What ended it.
    pub cause: Cause,
    /// When.
    pub at: DateTime<Utc>,
}

/// What people see of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnitView {
    /// Full name.
    pub name: String,
    /// `container`, `service`, `volume`, `network`.
    pub kind: String,
    /// `Description=`.
    pub description: String,
    /// What it was asked to be.
    pub desired: Desired,
    /// Where it stands.
    pub active: Active,
    /// Finer.
    pub sub: String,
    /// Since when; absent if it never ran.
    pub since: Option<DateTime<Utc>>,
    /// Machine id; empty of a unit that is nowhere. Of one that is on several, the first.
    pub machine: String,
    /// Container id.
    pub container: Option<String>,
    /// Why it stands there.
    pub reason: String,
    /// `starting`, `healthy`, `unhealthy`, if it has a test.
    pub health: Option<String>,
    /// Published ports, `0.0.0.0:8080->80/tcp`.
    pub ports: Vec<String>,
    /// The service that its instances are found by, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The service's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<std::net::Ipv4Addr>,
    /// Whether a template: it runs only as instances.
    pub template: bool,
    /// Whether what runs is older than what was submitted last.
    pub outdated: bool,
    /// Restarts since it was asked to run.
    pub restarts: u32,
}

/// Facts about a machine: `machines/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// [`VERSION`].
    pub version: u32,
    /// 32 hexadecimal digits.
    pub id: String,
    /// Host name.
    pub hostname: String,
    /// Processors.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Kernel release.
    pub kernel: String,
    /// Release of Coracle.
    pub coracle: String,
    /// Since when this daemon runs.
    pub since: DateTime<Utc>,
    /// Labels of its own configuration.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Where its door is, as address and port; empty of a machine that is alone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub door: String,
    /// It can run etcd, and so become one of those that have the store.
    #[serde(default)]
    pub can_vote: bool,
    /// The certificate (PEM) of the CA that workstations know it by; empty where it does not serve its API to them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api_ca: String,
}

/// What an operator said of a machine: `marks/<id>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// [`VERSION`].
    pub version: u32,
    /// Labels; they win over the machine's own. An empty value takes one away.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Gets nothing new.
    #[serde(default)]
    pub cordoned: bool,
    /// What it has is moved away.
    #[serde(default)]
    pub draining: bool,
}

/// Who leads: `leader`, under the leader's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderRecord {
    /// [`VERSION`].
    pub version: u32,
    /// The machine.
    pub machine: String,
}

/// Where a local volume has its data: `volumes/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// [`VERSION`].
    pub version: u32,
    /// The machine.
    pub machine: String,
}

/// How a unit stands that units on other machines wait for: `status/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRecord {
    /// [`VERSION`].
    pub version: u32,
    /// What it was asked to be.
    pub desired: Desired,
    /// Where it stands, for the last request.
    pub active: Active,
    /// Nothing more is to be done for that request.
    pub settled: bool,
    /// Whether that is the answer to the last request.
    pub answered: bool,
    /// Whether it was asked not to run, and runs nowhere. Unknown of what a release before this one has written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<bool>,
}
