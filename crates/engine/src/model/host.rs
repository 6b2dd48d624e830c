//! What concerns this host: Docker's `HostConfig`.

use super::nullable;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Docker's `HostConfig`. Sizes are in bytes, `NanoCpus` in 1e-9 processors, periods and quotas in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    /// `source:target[:options]`.
    #[serde(deserialize_with = "nullable")]
    pub binds: Vec<String>,
    /// The long form of `binds` and more.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// tmpfs mounts: path to options.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub tmpfs: BTreeMap<String, String>,
    /// Log driver and options.
    #[serde(deserialize_with = "nullable")]
    pub log_config: LogConfig,
    /// `bridge`, `host`, `none`, `container:<name>`, or a network's name.
    #[serde(deserialize_with = "nullable")]
    pub network_mode: String,
    /// `80/tcp` to where it is published.
    #[serde(deserialize_with = "nullable")]
    pub port_bindings: BTreeMap<String, Option<Vec<PortBinding>>>,
    /// Publish every exposed port to a port chosen.
    #[serde(deserialize_with = "nullable")]
    pub publish_all_ports: bool,
    /// What happens when it ends.
    #[serde(deserialize_with = "nullable")]
    pub restart_policy: RestartPolicy,
    /// Removed when it ends.
    #[serde(deserialize_with = "nullable")]
    pub auto_remove: bool,
    /// Capabilities added.
    #[serde(deserialize_with = "nullable")]
    pub cap_add: Vec<String>,
    /// Capabilities dropped.
    #[serde(deserialize_with = "nullable")]
    pub cap_drop: Vec<String>,
    /// `private` or `host`; empty chooses.
    #[serde(deserialize_with = "nullable")]
    pub cgroupns_mode: String,
    /// Name servers instead of the network's.
    #[serde(deserialize_with = "nullable")]
    pub dns: Vec<String>,
    /// Resolver options.
    #[serde(deserialize_with = "nullable")]
    pub dns_options: Vec<String>,
    /// Search domains.
    #[serde(deserialize_with = "nullable")]
    pub dns_search: Vec<String>,
    /// `name:address` lines of /etc/hosts.
    #[serde(deserialize_with = "nullable")]
    pub extra_hosts: Vec<String>,
    /// Supplementary groups.
    #[serde(deserialize_with = "nullable")]
    pub group_add: Vec<String>,
    /// `private`, `shareable`, `host`, `none`, `container:<name>`.
    #[serde(deserialize_with = "nullable")]
    pub ipc_mode: String,
    /// `host` or `container:<name>`; empty is private.
    #[serde(deserialize_with = "nullable")]
    pub pid_mode: String,
    /// `host`; empty is private.
    #[serde(rename = "UTSMode", deserialize_with = "nullable")]
    pub uts_mode: String,
    /// `host`; empty is the host's.
    #[serde(deserialize_with = "nullable")]
    pub userns_mode: String,
    /// Every capability and device, no filter.
    #[serde(deserialize_with = "nullable")]
    pub privileged: bool,
    /// Root filesystem mounted read-only.
    #[serde(deserialize_with = "nullable")]
    pub readonly_rootfs: bool,
    /// `seccomp=…`, `no-new-privileges`, `label=…`, `apparmor=…`.
    #[serde(deserialize_with = "nullable")]
    pub security_opt: Vec<String>,
    /// Kernel parameters of the container's namespaces.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub sysctls: BTreeMap<String, String>,
    /// Size of /dev/shm.
    #[serde(deserialize_with = "nullable")]
    pub shm_size: i64,
    /// Resource limits of processes.
    #[serde(deserialize_with = "nullable")]
    pub ulimits: Vec<Ulimit>,
    /// A small init as process 1.
    pub init: Option<bool>,
    /// Paths hidden; absent means Docker's default list.
    pub masked_paths: Option<Vec<String>>,
    /// Paths read-only; absent means Docker's default list.
    pub readonly_paths: Option<Vec<String>>,
    /// Devices given to it.
    #[serde(deserialize_with = "nullable")]
    pub devices: Vec<DeviceMapping>,
    /// Rules of the device cgroup, `c 13:* rwm`.
    #[serde(deserialize_with = "nullable")]
    pub device_cgroup_rules: Vec<String>,
    /// Rows and columns at start.
    #[serde(deserialize_with = "nullable")]
    pub console_size: [u16; 2],
    /// Labels and other remarks for the runtime.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,

    /// Memory limit; 0 is none.
    #[serde(deserialize_with = "nullable")]
    pub memory: i64,
    /// Memory and swap together; -1 is unlimited swap.
    #[serde(deserialize_with = "nullable")]
    pub memory_swap: i64,
    /// Soft limit.
    #[serde(deserialize_with = "nullable")]
    pub memory_reservation: i64,
    /// 0 to 100.
    pub memory_swappiness: Option<i64>,
    /// Whether the OOM killer is switched off (cgroup v1).
    pub oom_kill_disable: Option<bool>,
    /// -1000 to 1000.
    #[serde(deserialize_with = "nullable")]
    pub oom_score_adj: i64,
    /// Processors in 1e-9.
    #[serde(deserialize_with = "nullable")]
    pub nano_cpus: i64,
    /// Relative weight; 1024 is usual.
    #[serde(deserialize_with = "nullable")]
    pub cpu_shares: i64,
    /// Length of a scheduler period.
    #[serde(deserialize_with = "nullable")]
    pub cpu_period: i64,
    /// Time in a period.
    #[serde(deserialize_with = "nullable")]
    pub cpu_quota: i64,
    /// Processors allowed, `0-2,4`.
    #[serde(deserialize_with = "nullable")]
    pub cpuset_cpus: String,
    /// Memory nodes allowed.
    #[serde(deserialize_with = "nullable")]
    pub cpuset_mems: String,
    /// Processes at most; absent, 0 or -1 is no limit.
    pub pids_limit: Option<i64>,
    /// Relative weight of block I/O, 10 to 1000.
    #[serde(deserialize_with = "nullable")]
    pub blkio_weight: u16,
    /// Parent of the container's cgroup.
    #[serde(deserialize_with = "nullable")]
    pub cgroup_parent: String,
    /// Volumes of other containers.
    #[serde(deserialize_with = "nullable")]
    pub volumes_from: Vec<String>,
    /// Legacy links.
    #[serde(deserialize_with = "nullable")]
    pub links: Vec<String>,
    /// OCI runtime by name.
    #[serde(deserialize_with = "nullable")]
    pub runtime: String,
    /// Driver of anonymous volumes.
    #[serde(deserialize_with = "nullable")]
    pub volume_driver: String,
    /// File that the client writes the id to; kept for `inspect`.
    #[serde(rename = "ContainerIDFile", deserialize_with = "nullable")]
    pub container_id_file: String,
    /// Everything else a client sent, so that [`super::check`] can name it.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Docker's `Mount`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Mount {
    /// `bind`, `volume` or `tmpfs`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Host path or volume name.
    #[serde(deserialize_with = "nullable")]
    pub source: String,
    /// Path in the container.
    #[serde(deserialize_with = "nullable")]
    pub target: String,
    /// Read-only.
    #[serde(deserialize_with = "nullable")]
    pub read_only: bool,
    /// Ignored, as Docker does on Linux.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub consistency: String,
    /// Of a bind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_options: Option<BindOptions>,
    /// Of a volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_options: Option<VolumeOptions>,
    /// Of a tmpfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs_options: Option<TmpfsOptions>,
    /// Everything else a client sent, so that [`super::check`] can name it.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Options of a bind mount.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BindOptions {
    /// `private`, `rprivate`, `shared`, `rshared`, `slave`, `rslave`.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub propagation: String,
    /// Without submounts.
    #[serde(deserialize_with = "nullable")]
    pub non_recursive: bool,
    /// Make the source directory when it is missing.
    #[serde(deserialize_with = "nullable")]
    pub create_mountpoint: bool,
    /// Of a read-only mount: what is mounted below it stays as it is.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub read_only_non_recursive: bool,
    /// An error where read-only mounts cannot be so with all that is mounted below them. Every kernel that is supported can.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub read_only_force_recursive: bool,
}

/// Options of a volume mount.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeOptions {
    /// Without filling an empty volume from the image.
    #[serde(deserialize_with = "nullable")]
    pub no_copy: bool,
    /// Labels of a volume made for this mount.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// Directory inside the volume.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub subpath: String,
    /// Driver and its options, of a volume made for this mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_config: Option<DriverConfig>,
}

/// Driver of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DriverConfig {
    /// Only `local`, which empty is too.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// `type`, `device` and `o`, as mount(8) has them.
    #[serde(deserialize_with = "nullable")]
    pub options: BTreeMap<String, String>,
}

/// Options of a tmpfs mount.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TmpfsOptions {
    /// Bytes; 0 is unlimited.
    #[serde(deserialize_with = "nullable")]
    pub size_bytes: i64,
    /// Mode bits.
    #[serde(deserialize_with = "nullable")]
    pub mode: u32,
    /// More options of tmpfs, each a name or a name and a value.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<Vec<String>>,
}

/// Docker's log settings. Drivers: `json-file` (options `max-size`, `max-file`), `none`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    /// Driver; empty is `json-file`.
    #[serde(rename = "Type", deserialize_with = "nullable")]
    pub kind: String,
    /// Options.
    #[serde(deserialize_with = "nullable")]
    pub config: BTreeMap<String, String>,
}

/// Where a port is published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    /// Host address; empty is every one.
    #[serde(deserialize_with = "nullable")]
    pub host_ip: String,
    /// Host port; empty or 0 chooses one, `8000-8010` one of these.
    #[serde(deserialize_with = "nullable")]
    pub host_port: String,
}

/// What happens when a container ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    /// ``, `no`, `always`, `unless-stopped` or `on-failure`.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// For `on-failure`; 0 is no bound.
    #[serde(deserialize_with = "nullable")]
    pub maximum_retry_count: i64,
}

/// A resource limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ulimit {
    /// `nofile`, `nproc`, …
    pub name: String,
    /// Soft; -1 is unlimited.
    pub soft: i64,
    /// Hard; -1 is unlimited.
    pub hard: i64,
}

/// A device of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceMapping {
    /// On the host.
    pub path_on_host: String,
    /// In the container.
    pub path_in_container: String,
    /// Any of `rwm`.
    pub cgroup_permissions: String,
}
