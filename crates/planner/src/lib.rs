//! Where units run. Pure: no I/O, no clock, no chance; the same told in the same order gives the same decisions.
//!
//! The caller tells a [`Planner`] what the store holds ([`Planner::set_machine`], [`Planner::set_unit`],
//! [`Planner::set_volume`], [`Planner::set_placed`]) and what happens, and carries out what [`Planner::plan`] decides. The
//! planner takes its decisions as carried out; what could not be is told with [`Planner::take_back`].
//!
//! A unit's *home* is its newest placement that is not leaving. What is to be done follows from home and what else is
//! placed of the unit, so that a new leader, told the placements, goes on in the midst of a move.
//!
//! Worked example: `web` runs on m1 (incarnation 1), and m1 is to be drained. It is placed on m2 (2), which is home from
//! now on, while 1 runs on. m2 says that 2 is healthy: 1 is withdrawn, leaves and goes. Had m2 been lost before, 2 would
//! have been given up and 1 been home again. Were `web` exclusive, 1 would have been withdrawn first, a place on m2 kept,
//! and 2 placed once 1 has gone.
//!
//! ```
//! use coracle_planner::{Decision, MachineId, MachineState, Needs, Planner, Settings, Timestamp};
//! use coracle_planner::{UnitName, UnitSpec, Wanted};
//! let mut planner = Planner::new(Settings::default());
//! let alive = MachineState { alive: true, ..MachineState::default() };
//! planner.set_machine(&MachineId::from("m1"), Some(alive));
//! planner.set_unit(&UnitName::from("web.container"), Some(UnitSpec {
//!     uid: "u1".into(), wanted: Wanted::Launched, incarnation: 0, needs: Needs::default(),
//! }));
//! let decisions = planner.plan(Timestamp(0));
//! assert_eq!(
//!     decisions[0].to_string(),
//!     "place web.container#1 on m1: it is to be on a machine; this is the least loaded machine that fits"
//! );
//! ```
//!
//! | module | job |
//! | --- | --- |
//! | [`model`], [`reason`], [`ids`] | what goes in and comes out |
//! | `core`, `shapes`, `machines`, `globs`, `slab` | tables and their indexes |
//! | `rules` | what stands against a unit on a machine |
//! | `pick` | the best machine |
//! | `planner`, `work`, `plan` | what is told, what follows, who waits |
//! | `decide`, `replace`, `spots`, `drain` | one unit; room for another; global units; drains |
//! | `explain` | why |
//!
//! What it costs: a placement looks at the least loaded machines until one fits; what a change sets off is found by index.
//! Units that wait are tried again one of each kind, and only on what has changed.

mod core;
mod decide;
mod drain;
mod explain;
mod globs;
pub mod ids;
mod machines;
pub mod model;
mod pick;
mod plan;
mod planner;
pub mod reason;
mod replace;
mod rules;
mod shapes;
mod slab;
mod spots;
mod work;

pub use drain::Drain;
pub use explain::{Explanation, Verdict};
pub use ids::{MachineId, Timestamp, Uid, UnitName, VolumeName};
pub use model::{
    Condition, Decision, Failures, MachineState, Needs, Placed, Placement, Protocol, Settings,
    UnitSpec, Wanted,
};
pub use planner::Planner;
pub use reason::{Cause, Choice, Kind, Nowhere, PlaceReason, WaitReason, WhyNot, WithdrawReason};
