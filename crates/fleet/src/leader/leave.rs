//! Instances that are withdrawn before their machine has said anything of them.
//!
//! What a machine has said nothing of may run there all the same: its word is on its way, or the machine is cut off. So it is not
//! gone when it is asked for no more. Its `desired/…` stays, asks it not to run and says that it is *leaving*; once its machine has said
//! where it stands that key goes, and the instance with it as any other does.
//!
//! Worked example: `web` is placed on m2, whose daemon hangs, and destroyed or moved at once. `desired/m2/web` says from now on that it
//! leaves. m2 goes on, starts `web` or does not, and says `inactive`; the leader deletes the key, m2 forgets the instance and says that
//! too: now it is gone.

use super::{Group, Leader, Placed, Target, locked};
use crate::error::Result;
use crate::model::{Desired, DesiredRecord};
use std::collections::BTreeSet;

impl Leader {
    /// Whether an instance that is withdrawn has still to be heard of.
    pub(super) fn is_unheard(&self, machine: &str, placed: &Placed) -> bool {
        placed.desired.is_some()
            && placed.actual.is_none()
            && locked(&self.machines).contains_key(machine)
    }

    /// The machines that have not said anything of a unit yet.
    pub(super) fn unheard(&self, target: &Target) -> BTreeSet<String> {
        let placed = target.placed().into_iter();
        let unheard = placed.filter(|(machine, placed)| self.is_unheard(machine, placed));
        unheard.map(|(machine, _)| machine).collect()
    }

    /// Deletes what was kept for machines that have answered by now.
    pub(super) async fn let_go(&self) -> Result<()> {
        let answered = std::mem::take(&mut *locked(&self.answered));
        if answered.is_empty() {
            return Ok(());
        }
        let group = |key: &String| {
            let mut group = Group::default();
            group.delete(key.clone());
            group
        };
        let done = self.commit(answered.iter().map(group)).await;
        if done.is_err() {
            locked(&self.answered).extend(answered);
        }
        done
    }
}

/// What an instance is asked that is to leave.
pub(super) fn leaving(record: DesiredRecord) -> DesiredRecord {
    DesiredRecord {
        desired: Desired::Inactive,
        leaving: true,
        ..record
    }
}
