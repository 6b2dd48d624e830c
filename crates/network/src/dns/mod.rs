//! Names: what a container sees depends on who asks. See [`Records`] for the rules.

mod records;
mod server;

pub use records::{Answer, Container, NetworkView, Records};
pub use server::{Zone, bind_dns, serve};
