//! What is portable about a container: Docker's `ContainerConfig`.

use super::host::HostConfig;
use super::network::NetworkingConfig;
use super::nullable;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An empty JSON object, as Go writes sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// Docker's `ContainerConfig`. Durations are in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// Host name inside the container.
    #[serde(deserialize_with = "nullable")]
    pub hostname: String,
    /// NIS domain name.
    #[serde(deserialize_with = "nullable")]
    pub domainname: String,
    /// User (name or number), optionally `:group`.
    #[serde(deserialize_with = "nullable")]
    pub user: String,
    /// Whether the client wants stdin.
    #[serde(deserialize_with = "nullable")]
    pub attach_stdin: bool,
    /// Whether the client wants stdout.
    #[serde(deserialize_with = "nullable")]
    pub attach_stdout: bool,
    /// Whether the client wants stderr.
    #[serde(deserialize_with = "nullable")]
    pub attach_stderr: bool,
    /// Ports the image listens on, `80/tcp`.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// Whether the process gets a pseudo-terminal.
    #[serde(deserialize_with = "nullable")]
    pub tty: bool,
    /// Whether stdin stays open.
    #[serde(deserialize_with = "nullable")]
    pub open_stdin: bool,
    /// Whether stdin closes when the first attached client leaves.
    #[serde(deserialize_with = "nullable")]
    pub stdin_once: bool,
    /// Environment, `NAME=value`.
    #[serde(deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// Arguments to the entry point.
    pub cmd: Option<Args>,
    /// Health test.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// Image, as it was named.
    #[serde(deserialize_with = "nullable")]
    pub image: String,
    /// Anonymous volumes, by path.
    #[serde(deserialize_with = "nullable")]
    pub volumes: BTreeMap<String, Empty>,
    /// Working directory.
    #[serde(deserialize_with = "nullable")]
    pub working_dir: String,
    /// Program and first arguments.
    pub entrypoint: Option<Args>,
    /// Whether the network is switched off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_disabled: Option<bool>,
    /// Deprecated place of the address; see the endpoint's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks it to stop, by name or number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Seconds between that signal and SIGKILL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Instructions for images built from what is committed of it.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// Shell for `CMD-SHELL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

/// A list of arguments; Docker's API also accepts a single string.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Args(pub Vec<String>);

impl<'de> Deserialize<'de> for Args {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            One(String),
            Many(Vec<String>),
        }
        Ok(Self(match Either::deserialize(deserializer)? {
            Either::One(one) => vec![one],
            Either::Many(many) => many,
        }))
    }
}

/// Docker's `HealthConfig`. `Test` is `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`; of our own are
/// `["HTTP", "http://:8080/path"]` and `["TCP", ":6379"]`, made from the host for images that are empty inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthConfig {
    /// The test.
    #[serde(deserialize_with = "nullable")]
    pub test: Vec<String>,
    /// Nanoseconds between tests; 0 inherits (30 s).
    #[serde(deserialize_with = "nullable")]
    pub interval: i64,
    /// Nanoseconds that one test may take; 0 inherits (30 s).
    #[serde(deserialize_with = "nullable")]
    pub timeout: i64,
    /// Failures in a row that make it unhealthy; 0 inherits (3).
    #[serde(deserialize_with = "nullable")]
    pub retries: i64,
    /// Nanoseconds after start in which failures do not count.
    #[serde(deserialize_with = "nullable")]
    pub start_period: i64,
    /// Nanoseconds between tests in the start period; 0 inherits (5 s).
    #[serde(deserialize_with = "nullable")]
    pub start_interval: i64,
}

/// The body of `POST /containers/create`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateRequest {
    /// What is portable.
    #[serde(flatten)]
    pub config: ContainerConfig,
    /// What concerns this host.
    #[serde(deserialize_with = "nullable")]
    pub host_config: HostConfig,
    /// Networks.
    #[serde(deserialize_with = "nullable")]
    pub networking_config: NetworkingConfig,
}
