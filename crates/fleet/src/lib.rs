//! Units on machines: what should run, what runs, and the steps between.
//!
//! | module | job |
//! | --- | --- |
//! | [`model`] | what the store holds and people see |
//! | [`translate`] | a `.container` unit to the engine's request; pure |
//! | [`order`] | which units go together, in which order; pure |
//! | [`plan`] | what to do next with one unit; pure |
//! | `supervise`, `service` | observe, plan, do: one driver a unit |
//! | [`fleet`] | submit, start, stop, destroy, list |

pub mod error;
pub mod fleet;
pub mod machine;
pub mod model;
pub mod order;
pub mod plan;
mod service;
mod supervise;
pub mod translate;

pub use error::{FleetError, Result};
pub use fleet::{Fleet, UnitText};
pub use model::{Active, Desired, Dropin, Machine, UnitView};
