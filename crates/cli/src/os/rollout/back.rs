//! A machine is back from its restart: it gets units again, says how the release is, and gives its turn back.

use super::{LOOK, now};
use crate::os::{Os, error::OsError};
use coracle_os::{
    history::{Outcome, Update},
    machine::Machine,
    turns::{Proof, Turn},
};
use std::time::Duration;

/// How long what was well before may take to be well again under the release that the machine went back to, before others are let go on.
const WELL: Duration = Duration::from_secs(300);

impl Os {
    /// Has the machine get units again, while the release is tried by them: those that are on every machine count in its trial. Ends when that is done.
    pub(super) async fn lift(&self) {
        loop {
            match self.lifted().await {
                Ok(()) => return,
                Err(error) => self.note(&error),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn lifted(&self) -> Result<(), OsError> {
        match self.own_turn().await? {
            // In the same boot the daemon was restarted amid it, and it begins anew.
            Some(turn) if turn.boot == Machine::boot() => self.give_back(&turn).await,
            Some(turn) => self.undrain(&turn).await,
            None => Ok(()),
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
        loop {
            match self.came_back(before.as_ref()).await {
                Ok(()) => return,
                Err(error) => self.note(&error),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn came_back(&self, before: Option<&Update>) -> Result<(), OsError> {
        let turn = self.own_turn().await?;
        let Some(last) = self.history()?.updates.pop() else {
            return self.over(turn).await;
        };
        let under_way = |update: &Update| {
            let under_way = [Outcome::Writing, Outcome::Written, Outcome::Trying];
            update.at == last.at && under_way.contains(&update.outcome)
        };
        let decided = before.is_some_and(under_way);
        let of_turn = turn.as_ref().is_some_and(|turn| turn.to == last.to);
        // What was cut short says nothing of the release.
        if (decided || of_turn) && !last.cut_short {
            match last.outcome {
                Outcome::Good => self.judged(&last.to, Proof::Good, None).await?,
                Outcome::Failed => {
                    let reason = last.reason.clone();
                    self.judged(&last.to, Proof::Failed, reason).await?;
                }
                _ => {}
            }
        }
        if turn.is_some() && last.outcome == Outcome::Failed {
            let end = now() + WELL.as_secs();
            self.say("waits until all is well again that was before the update");
            while !self.is_well(&last.before).await && now() < end {
                tokio::time::sleep(LOOK).await;
            }
        }
        self.over(turn).await
    }

    async fn over(&self, turn: Option<Turn>) -> Result<(), OsError> {
        match turn {
            Some(turn) => self.give_back(&turn).await,
            None => Ok(()),
        }
    }
}
