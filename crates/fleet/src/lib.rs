//! Units on machines: what should run, what runs, and the steps between.
//!
//! | module | job |
//! | --- | --- |
//! | [`model`] | what the store holds and people see |
//! | [`translate`] | a `.container` unit to the engine's request; pure |
//! | [`order`] | which units go together, in which order; pure |
//! | [`plan`] | what to do next with one unit; pure |
//! | `supervise` | one driver a unit: observe, plan, do |
//! | `observe`, `up`, `down`, `service`, `environment` | what a driver looks at and does |
//! | `containers` | what of the engine a driver of containers needs |
//! | `pace` | time, waits and tasks, as everything here has them |
//! | `honour` | what is read and not done yet is refused |
//! | `requests` | submit, start, stop, asked of the machine that leads |
//! | [`rollout`] | a service's next revision takes the present one's place, and comes back |
//! | `answers` | until when a request waits |
//! | `destroy` | a unit is forgotten everywhere |
//! | `leader` | one machine leads: what runs where, written down for each machine |
//! | `agent` | what this machine must run, learnt from the store |
//! | [`presence`] | the machine is there |
//! | [`machines`] | what operators say of machines: labels, cordon, drain |
//! | [`rebind`] | a volume's data is elsewhere now |
//! | [`explain`] | why a unit is where it is |
//! | `elsewhere` | units on other machines that a unit waits for |
//! | `show` | what people see |
//! | `load` | units that are placed and do not run |
//! | `shutdown` | everything goes down, to come back |
//! | `discovery` | healthy instances, told to apps |
//! | [`overlay`] | the network and the names between machines |
//! | [`fleet`] | open, list, show |

mod agent;
mod answers;
mod containers;
mod destroy;
mod discovery;
mod down;
mod elsewhere;
mod environment;
pub mod error;
pub mod explain;
pub mod fleet;
mod hold;
mod honour;
mod leader;
mod load;
pub mod machine;
pub mod machines;
pub mod model;
mod observe;
pub mod order;
pub mod overlay;
mod pace;
pub mod plan;
pub mod presence;
pub mod rebind;
mod requests;
pub mod rollout;
mod service;
mod services;
mod show;
mod shutdown;
#[cfg(test)]
mod simulation;
mod supervise;
pub mod translate;
mod up;

pub use discovery::Announced;
pub use error::{FleetError, Result};
pub use explain::Explained;
pub use fleet::{Fleet, Stores, UnitText};
pub use leader::Tally;
pub use machines::{DrainView, MachineView, Mark};
pub use model::{Active, Desired, Dropin, Machine, UnitView};
pub use overlay::ConnectOptions;
pub use rebind::Rebound;
pub use translate::UNIT_LABEL;
