//! What became of updates, on the machine's state: written before each step, so that whoever comes up next knows what was meant.

use semver::Version;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use crate::{Slot, files::replace};

/// Where a machine keeps it: the daemon, and process 1 where the daemon does not serve.
pub const PATH: &str = "/var/lib/coracle-os/updates.json";
/// The format that is written and read.
const FORMAT: u32 = 1;
/// How many updates are remembered.
const KEPT: usize = 50;

/// How an update stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its slot is being written.
    Writing,
    /// It is written; the machine starts from it next.
    Written,
    /// It runs, and is watched.
    Trying,
    /// It was good.
    Good,
    /// It was not; `reason` says why.
    Failed,
    /// Somebody went back from it.
    RolledBack,
}

/// What was well before an update, and has to be after it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Before {
    /// Whether the store was reached.
    pub store: bool,
    /// Containers that ran and, where that is tested, were healthy; by name.
    pub containers: BTreeSet<String>,
    /// The unit of each of them that is one's.
    pub units: BTreeMap<String, String>,
}

/// One update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// From which release.
    pub from: Version,
    /// To which.
    pub to: Version,
    /// Into which slot.
    pub slot: char,
    /// When, in seconds since 1970.
    pub at: u64,
    /// The boot that it was written in, as the kernel numbers them (`/proc/sys/kernel/random/boot_id`).
    #[serde(default)]
    pub boot: String,
    /// How it stands.
    pub outcome: Outcome,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It failed and says nothing of the release: it was never started (a power cut, a daemon that ended), or the cause lay elsewhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut_short: bool,
    /// What was not well under it, until it is known whether that is well under the former release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<Before>,
    /// What was not well under it was not well under the former release either: the cause may lie elsewhere, which shows once all is well again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub former_too: bool,
    /// Nobody asked for it but the channel.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_itself: bool,
    /// How often operators had said by then that the release is to be tried again.
    #[serde(default)]
    pub resumes: u64,
    /// What has to be well.
    #[serde(default)]
    pub before: Before,
}

/// All of them, and the lowest release that may be gone back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    format: u32,
    /// Nothing until a release was good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Version>,
    /// The oldest first.
    pub updates: Vec<Update>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            format: FORMAT,
            floor: None,
            updates: Vec::new(),
        }
    }
}

impl History {
    /// Reads the history; none is an empty one.
    ///
    /// # Errors
    /// Those of reading, and `InvalidData` for what is no history or of a later format.
    pub fn read(path: &Path) -> io::Result<Self> {
        let bytes = match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            read => read?,
        };
        let history: Self = serde_json::from_slice(&bytes).map_err(io::Error::from)?;
        if history.format != FORMAT {
            let text = format!("format {} is not {FORMAT}", history.format);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(history)
    }

    /// Writes it so that it is there as a whole or as it was.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        replace(path, &serde_json::to_vec_pretty(self)?, 0o644)
    }

    /// Begins an update.
    pub fn begin(&mut self, update: Update) {
        if let Some(former) = self.under_way() {
            former.outcome = Outcome::Failed;
            former.reason = Some("another one was written over it".to_owned());
            former.cut_short = true;
        }
        self.updates.push(update);
        let over = self.updates.len().saturating_sub(KEPT);
        self.updates.drain(..over);
    }

    /// The last try of a release that says something of it.
    pub fn tried(&self, release: &Version) -> Option<&Update> {
        let mut tries = self.updates.iter().rev();
        tries.find(|u| u.to == *release && !u.cut_short)
    }

    /// The last update, if it failed and it is not known yet whether the cause lies elsewhere.
    pub fn undecided(&mut self) -> Option<&mut Update> {
        let last = self.updates.last_mut();
        last.filter(|u| u.outcome == Outcome::Failed && u.missed.is_some() && !u.cut_short)
    }

    /// The update that is under way.
    pub fn under_way(&mut self) -> Option<&mut Update> {
        let last = self.updates.last_mut()?;
        let under_way = matches!(
            last.outcome,
            Outcome::Writing | Outcome::Written | Outcome::Trying
        );
        under_way.then_some(last)
    }

    /// What a start of the daemon from `slot` in this `boot` means for the update that is under way: whether it has to be watched. One that was
    /// written in this very boot still waits for the restart, or was cut short with the daemon that wrote it. One whose slot is not the one
    /// that runs has failed: the boot loader, the kernel or the first stage gave it up.
    pub fn started(&mut self, slot: Slot, boot: &str) -> bool {
        let Some(update) = self.under_way() else {
            return false;
        };
        let same_boot = update.boot == boot;
        let why = match update.outcome {
            Outcome::Writing if same_boot => "the daemon ended while it was written",
            _ if same_boot => return false,
            // Its entry was there, so it was whole, though nobody got to say so.
            _ if update.slot == slot.letter() => {
                update.outcome = Outcome::Trying;
                return true;
            }
            Outcome::Writing => "the machine restarted while it was written",
            Outcome::Trying => "it was started and did not get so far as to say why",
            _ => "it did not start",
        };
        update.cut_short = update.outcome == Outcome::Writing;
        update.outcome = Outcome::Failed;
        update.reason.get_or_insert_with(|| why.to_owned());
        false
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn update(outcome: Outcome) -> Update {
        Update {
            from: Version::new(0, 1, 0),
            to: Version::new(0, 2, 0),
            slot: 'b',
            at: 0,
            boot: "first".to_owned(),
            outcome,
            reason: None,
            cut_short: false,
            missed: None,
            former_too: false,
            by_itself: false,
            resumes: 0,
            before: Before::default(),
        }
    }

    fn started(outcome: Outcome, slot: Slot, boot: &str) -> (bool, Outcome, Option<String>) {
        let mut history = History::default();
        history.begin(update(outcome));
        let watched = history.started(slot, boot);
        let last = history.updates.pop().unwrap();
        (watched, last.outcome, last.reason)
    }

    #[test]
    fn a_start_from_the_new_slot_is_watched_and_from_the_old_one_a_failure() {
        for outcome in [Outcome::Writing, Outcome::Written, Outcome::Trying] {
            let is = started(outcome, Slot::B, "second");
            assert_eq!(is, (true, Outcome::Trying, None));
        }
        for outcome in [Outcome::Writing, Outcome::Written, Outcome::Trying] {
            let (watched, is, why) = started(outcome, Slot::A, "second");
            assert_eq!((watched, is), (false, Outcome::Failed));
            assert!(why.is_some());
        }
        for outcome in [Outcome::Good, Outcome::Failed, Outcome::RolledBack] {
            for slot in [Slot::A, Slot::B] {
                assert_eq!(started(outcome, slot, "second"), (false, outcome, None));
            }
        }
    }

    #[test]
    fn a_daemon_that_is_restarted_leaves_what_waits_for_the_machines_restart() {
        let waits = (false, Outcome::Written, None);
        assert_eq!(started(Outcome::Written, Slot::A, "first"), waits);
        let (watched, is, why) = started(Outcome::Writing, Slot::A, "first");
        assert_eq!((watched, is), (false, Outcome::Failed));
        assert!(why.unwrap().contains("daemon"));
    }

    #[test]
    fn what_was_cut_short_is_told_from_what_failed() {
        for (outcome, cut_short) in [(Outcome::Writing, true), (Outcome::Written, false)] {
            let mut history = History::default();
            history.begin(update(outcome));
            history.started(Slot::A, "second");
            assert_eq!(history.updates[0].cut_short, cut_short);
        }
        let mut history = History::default();
        history.begin(update(Outcome::Written));
        history.begin(update(Outcome::Writing));
        assert!(history.updates[0].cut_short && history.updates[0].outcome == Outcome::Failed);
    }

    #[test]
    fn a_history_is_read_as_it_was_written_and_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("updates.json");
        let mut history = History::read(&path).unwrap();
        assert_eq!(history, History::default());
        for n in 0..60 {
            history.begin(Update {
                at: n,
                ..update(Outcome::Good)
            });
        }
        history.write(&path).unwrap();
        let read = History::read(&path).unwrap();
        assert_eq!(read, history);
        assert_eq!((read.updates.len(), read.updates[0].at), (50, 10));
        fs::write(&path, r#"{"format":2,"updates":[]}"#).unwrap();
        let error = History::read(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
