//! Names: what a container sees depends on who asks. See [`Records`] for the rules.

mod answer;
mod ports;
mod records;
mod remote;
mod server;
mod services;
mod tcp;

pub use ports::Ports;
pub use records::{Answer, Container, NetworkView, Place, Records};
pub use remote::Remote;
pub use server::{Zone, bind_dns, serve};
pub use services::Service;
