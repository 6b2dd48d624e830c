//! Bridges, addresses, firewall and names.
//!
//! [`Networks`] owns every link, address, published port and firewall rule of one daemon. A
//! container's life here: `reserve` decides address and MAC in memory, `connect` builds the links
//! in its namespace, `publish` claims host ports, `release` takes all of it back.
//! [`services`] are set as a whole.

mod addresses;
pub mod dns;
mod error;
mod firewall;
mod link;
mod model;
mod networks;
mod options;
pub mod overlay;
mod ports;
pub mod services;
mod spec;
mod stored;
mod subnets;
mod v6;
mod ways;

pub use error::NetworkError;
pub use firewall::DOOR_PORT;
pub use model::{
    Address6, Driver, Endpoint, EndpointRequest, Network, NetworkId, NetworkSpec, Options,
    PortMapping, PortRequest, Protocol, RestoredEndpoint,
};
pub use networks::Networks;
pub use services::{Backend, HostPort, Refusal, Service, ServicePort};
