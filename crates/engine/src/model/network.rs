//! Networks that a container joins: Docker's `NetworkingConfig`.

use super::nullable;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Docker's `NetworkingConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkingConfig {
    /// By network name or id.
    #[serde(deserialize_with = "nullable")]
    pub endpoints_config: BTreeMap<String, Option<EndpointConfig>>,
}

/// The part of Docker's `EndpointSettings` that a client may set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointConfig {
    /// Fixed addresses.
    #[serde(rename = "IPAMConfig", skip_serializing_if = "Option::is_none")]
    pub ipam_config: Option<IpamConfig>,
    /// More names on this network.
    #[serde(deserialize_with = "nullable")]
    pub aliases: Vec<String>,
    /// Names of its own for other containers, `container[:name]`.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// Fixed hardware address.
    #[serde(deserialize_with = "nullable")]
    pub mac_address: String,
    /// Of several networks that of the highest priority has the default route.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub gw_priority: i64,
    /// Everything else a client sent, so that [`super::check`] can name it.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // The form that serde asks for.
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Fixed addresses of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamConfig {
    /// IPv4 address.
    #[serde(rename = "IPv4Address", deserialize_with = "nullable")]
    pub ipv4_address: String,
    /// IPv6 address.
    #[serde(rename = "IPv6Address", deserialize_with = "nullable")]
    pub ipv6_address: String,
    /// Addresses of the link alone.
    #[serde(
        rename = "LinkLocalIPs",
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub link_local_ips: Vec<String>,
}
