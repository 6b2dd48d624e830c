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
/// Pause between two looks at whether all is well again after that.
const WAITS: Duration = Duration::from_secs(10);
/// How often a release may be tried again without an operator's word.
const MOST: u64 = 3;

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
        let last = self.last();
        let open = last.is_some_and(|last| last.missed.is_some() && !last.former_too);
        let said = async {
            loop {
                match self.said(before.as_ref(), open).await {
                    Ok(failed) => break failed,
                    Err(error) => self.note(&error),
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let end = Instant::now() + WELL;
        // Whether or not the store answers: that may be what is not well.
        let (failed, ()) = tokio::join!(said, self.compare(end));
        if let Some(failed) = failed {
            // For the sake of those that come next.
            self.say("waits until all is well again that was before the update");
            while !self.is_well(&failed.before).await && Instant::now() < end {
                tokio::time::sleep(LOOK).await;
            }
        }
        while let Err(error) = self.hand_back().await {
            self.note(&error);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Says it, also of one that failed earlier and is still `open`; the update, if it has failed.
    async fn said(&self, before: Option<&Update>, open: bool) -> Result<Option<Update>, OsError> {
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
        let is_new = |last: &Update| open || decided(last) || of_turn(last);
        // What was cut short says nothing of the release.
        let new = last.filter(|last| !last.cut_short && is_new(last));
        if let Some(new) = &new {
            let reason = new.reason.clone();
            match new.outcome {
                Outcome::Good => self.judged(&new.to, Proof::Good, None).await?,
                Outcome::Failed => self.judged(&new.to, Proof::Failed, reason).await?,
                _ => {}
            }
        }
        Ok(new.filter(|new| new.outcome == Outcome::Failed))
    }

    /// After a failure: finds out, until then, whether what was not well under the release is well under the former one.
    async fn compare(&self, end: Instant) {
        let failed = self.last().filter(|u| u.outcome == Outcome::Failed);
        let Some(failed) = failed.filter(|u| !u.cut_short && !u.former_too) else {
            return;
        };
        if let Some(missed) = &failed.missed {
            let over = || Instant::now() > end;
            let former_too = self.steadily_well(missed, over).await.is_err();
            self.decide(&failed, former_too);
        }
    }

    /// Notes whether what was not well under `failed` is not well under the release that runs either.
    fn decide(&self, failed: &Update, former_too: bool) {
        self.amend(failed, |last| {
            if !former_too {
                last.missed = None;
                return;
            }
            last.former_too = true;
            let reason = last.reason.take().unwrap_or_default();
            let now = &self.machine.about.version;
            last.reason = Some(format!(
                "{reason}; nor is that well under {now}, so that the cause may lie elsewhere"
            ));
        });
    }

    /// Changes what is known of an update that failed, unless there is another one since.
    fn amend(&self, failed: &Update, change: impl FnOnce(&mut Update)) {
        let noted = self.change(|history| {
            let last = history.undecided();
            if let Some(last) = last.filter(|last| (last.at, &last.to) == (failed.at, &failed.to)) {
                change(last);
            }
        });
        if let Err(error) = noted {
            let error = coracle_engine::full_error(&error);
            tracing::error!(
                error,
                "what is known of the release that failed is not written down"
            );
        }
    }

    /// While the cause of a failure may lie elsewhere: waits until that is well again which was not, and has the release tried again then. A release
    /// that left damage behind stays where it failed.
    pub(super) async fn absolve(&self) {
        let undecided = || {
            let mut history = self.history().ok()?;
            let last = history.undecided().cloned();
            last.filter(|last| last.former_too)
        };
        while let Some(update) = undecided() {
            let missed = update.missed.clone().unwrap_or_default();
            if self.steadily_well(&missed, || true).await.is_ok()
                && let Err(error) = self.absolved(&update).await
            {
                self.note(&error);
            }
            tokio::time::sleep(WAITS).await;
        }
    }

    async fn absolved(&self, update: &Update) -> Result<(), OsError> {
        let verdict = self.verdict(&update.to).await?;
        let own = verdict.filter(|v| v.standing == Proof::Failed && v.machine == self.name());
        if own.as_ref().is_some_and(|own| own.resumes >= MOST) {
            self.amend(update, |last| {
                last.missed = None;
                let reason = last.reason.take().unwrap_or_default();
                last.reason = Some(format!(
                    "{reason}; it has been tried again {MOST} times by now and is not any more by itself, `coracle os rollout resume {}` has it tried",
                    update.to
                ));
            });
            return Ok(());
        }
        if own.is_some() {
            let why = format!("on {} is well again what was not", self.name());
            self.judged(&update.to, Proof::Resumed, Some(why)).await?;
        }
        self.amend(update, |last| last.cut_short = true);
        tracing::info!(version = %update.to, "all is well again: the release may be tried again");
        self.rollout.wake.notify_one();
        Ok(())
    }
}
