//! Names: what a container sees depends on who asks. See [`Records`] for the rules.

mod records;
mod server;

pub use records::{Answer, Container, NetworkView, Place, Records};
pub use server::{Zone, bind_dns, serve};
