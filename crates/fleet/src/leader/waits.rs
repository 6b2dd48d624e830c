//! What a unit waits for, as people and requests see it.

use coracle_planner::WaitReason;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waits {
    /// In words.
    pub reason: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It goes on by itself, within about a lease's time.
    Briefly,
    /// It keeps failing, and is not tried elsewhere.
    Failing,
    Other,
}

impl Waits {
    /// `reason` is what `why` is in words.
    pub fn new(why: &WaitReason, reason: String) -> Self {
        let kind = match why {
            WaitReason::Fence(_) | WaitReason::Gone(_) | WaitReason::Room { .. } => Kind::Briefly,
            WaitReason::Failing(..) | WaitReason::Budget { .. } => Kind::Failing,
            _ => Kind::Other,
        };
        Self { reason, kind }
    }

    /// Whether a request waits with it.
    pub fn briefly(&self) -> bool {
        self.kind == Kind::Briefly
    }

    /// Whether it has failed where it is, and stays there.
    pub fn failing(&self) -> bool {
        self.kind == Kind::Failing
    }
}
