//! A machine is back from its restart: it gets units again, says how the release is, and gives its turn back.

use super::LOOK;
use crate::os::{Os, error::OsError};
use coracle_os::{
    history::{Outcome, Update},
    machine::Machine,
    turns::{Proof, Turn},
};
use std::time::{Duration, Instant};

/// How long what was well before may take to be well again under the release that the machine went back to, before others are let go on.
const WELL: Duration = Duration::from_secs(300);

impl Os {
    /// Has the machine get units again, while the release is tried by them: those that are on every machine count in its trial. Ends when that is done.
    pub(super) async fn lift(&self) {
        while let Err(error) = self.lifted().await {
            self.note(&error);
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn lifted(&self) -> Result<(), OsError> {
        match self.own_turn().await? {
            // In the same boot the daemon was restarted amid it, and it begins anew.
            Some(turn) if turn.boot == Machine::boot() => self.hand_back().await,
            // Also of a turn that was taken away meanwhile.
            _ => self.undrain().await,
        }
    }

    fn note(&self, error: &OsError) {
        self.say(format!(
            "the cluster cannot be asked yet: {}",
            coracle_engine::full_error(error)
        ));
    }

    /// Says what became of the update that was under way, `before`, and gives the turn back. Ends when that is done.
    pub(super) async fn come_back(&self, before: Option<Update>) {
        while let Err(error) = self.came_back(before.as_ref()).await {
            self.note(&error);
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn came_back(&self, before: Option<&Update>) -> Result<(), OsError> {
        let turn = self.own_turn().await?;
        let last = self.last();
        let under_way = [Outcome::Writing, Outcome::Written, Outcome::Trying];
        let decided = |last: &Update| {
            before.is_some_and(|update| {
                (update.at, &update.to) == (last.at, &last.to)
                    && under_way.contains(&update.outcome)
            })
        };
        let of_turn = |last: &Update| {
            let of = |turn: &Turn| turn.to == last.to && turn.boot == last.boot;
            turn.as_ref().is_some_and(of)
        };
        // What was cut short says nothing of the release.
        let tried = last.filter(|last| !last.cut_short && (decided(last) || of_turn(last)));
        if let Some(last) = &tried {
            let reason = last.reason.clone();
            match last.outcome {
                Outcome::Good => self.judged(&last.to, Proof::Good, None).await?,
                Outcome::Failed => self.judged(&last.to, Proof::Failed, reason).await?,
                _ => {}
            }
        }
        if let Some(failed) = tried.filter(|t| turn.is_some() && t.outcome == Outcome::Failed) {
            let end = Instant::now() + WELL;
            self.say("waits until all is well again that was before the update");
            while !self.is_well(&failed.before).await && Instant::now() < end {
                tokio::time::sleep(LOOK).await;
            }
        }
        self.hand_back().await
    }
}
