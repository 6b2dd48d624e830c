//! Services: one address and name for all instances of a container unit, and its published ports on every machine.
//!
//! ```text
//! units' texts ─> leader: which services, which address ─> services/<name> ─> every machine: Engine::set_services
//! ```
//! A service is what stands before the `@` of its units' names: `web` of `web@1.container`. It has its address from the moment in which the first
//! text of it is there until the last one is destroyed. The address follows from the name where it is free, so a service that is made again has the
//! one that it had.
//!
//! Its published ports are those of its units that every instance has in common. They are no port of a container's: the machines hold them
//! and send what comes to whichever instance serves. A port that the text names with a specifier (`808%i:80`) leads to that instance alone and is
//! the container's, as is one without a number, or of an IPv6 address.
//!
//! No services: units with `Headless=true`, those on the machine's own network or on none, and those whose name is longer than 45 bytes. Instances of a
//! unit with `Global=true` have their ports themselves: who asks a machine means the one there.

mod follow;
mod record;

pub(crate) use record::{PortRecord, ServiceRecord, choose, name_of, published, record_of};
