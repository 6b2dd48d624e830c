//! Deploys: a service's next revision takes the place of the one that runs, and comes back if it is no good.
//!
//! ```text
//! deploy ─> revisions/<service>/<n>, deploys/<service>/<k>
//!                         │
//!   leader: observe ─> plan::next (pure) ─> steps ─> units, as everybody else writes them
//!              ^                                        │
//!              └───────────── actual/… <────────────────┘
//! ```
//! A deploy's record has what was before and what is to be; how far it is, is seen of the units. So whoever leads next goes on with it, and
//! there is nothing between the steps that could be lost.
//!
//! | module | job |
//! | --- | --- |
//! | [`record`] | what is stored |
//! | [`plan`], `step` | what to do next; pure |
//! | `fetch` | who is to have the image first; pure |
//! | `outline` | all that would be done, if all went well; pure |
//! | `ask`, `begin` | a deploy is asked for, and written down |
//! | `tell` | rollback, pause, resume, abort |
//! | `history` | what was deployed |

mod ask;
mod begin;
pub(crate) mod fetch;
mod history;
mod outline;
pub mod plan;
pub mod record;
mod step;
mod tell;

pub(crate) use ask::has_its_ports;
pub use ask::{Asked, Planned};
pub use history::{History, Past};
pub use record::{DeployRecord, Report, Settings, Stage};
