//! A container as it was asked for, in the Docker Engine API's own names and units, so that what a client sends
//! is what is stored and shown again.
//!
//! Fields that this release does not act upon are listed in [`check`], which refuses them by name.

pub mod check;
pub mod config;
pub mod host;
pub mod network;

pub use config::{ContainerConfig, CreateRequest, HealthConfig};
pub use host::{
    DeviceMapping, HostConfig, LogConfig, Mount, PortBinding, RestartPolicy, TmpfsOptions, Ulimit,
};
pub use network::{EndpointConfig, IpamConfig, NetworkingConfig};

use serde::{Deserialize, Deserializer};

/// Reads `null` as the type's default, as Go clients send it.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
