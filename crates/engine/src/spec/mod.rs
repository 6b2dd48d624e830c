//! From a record to an OCI runtime configuration (runtime-spec 1.2).
//!
//! Pure apart from what it is given: [`Inputs`] holds everything that had to be looked up.

pub mod caps;
pub mod devices;
pub mod mounts;
pub mod resources;
mod seccomp;
pub mod user;

use crate::error::{EngineError, Result};
use crate::model::HostConfig;
use crate::record::Record;
use coracle_shim_protocol::shim::Seccomp;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use std::path::PathBuf;
pub use user::ResolvedUser;

/// What the specification needs beyond the record.
pub struct Inputs<'a> {
    /// The container.
    pub record: &'a Record,
    /// Its directory, with `hosts`, `hostname` and `resolv.conf`.
    pub dir: PathBuf,
    /// Numeric user.
    pub user: ResolvedUser,
    /// Capabilities that this machine can give at all.
    pub available_caps: &'a [String],
    /// Device nodes of the host, for privileged containers.
    pub host_devices: Vec<Value>,
    /// Whether the machine has cgroup v2 only.
    pub cgroup_v2: bool,
    /// Path below the cgroup hierarchies.
    pub cgroup: String,
    /// Whether the container has a network of its own.
    pub own_network: bool,
    /// Namespace of another container, for `container:<name>`.
    pub network_path: Option<PathBuf>,
    /// First process of the container whose processes are to be seen.
    pub pids_of: Option<u32>,
    /// First process of the container whose shared memory is to be used.
    pub ipc_of: Option<u32>,
    /// The program that is to be process 1 and start the container's, for `--init`.
    pub init: Option<PathBuf>,
    /// Where it finds the store, as a URL.
    pub store: Option<String>,
}

/// What the record's security options say.
#[derive(Debug, Default, PartialEq)]
pub struct SecurityOptions {
    /// `no-new-privileges`.
    pub no_new_privileges: bool,
    /// `seccomp=unconfined`, or a profile in OCI form.
    pub seccomp: Option<SeccompChoice>,
    /// `systempaths=unconfined`: nothing masked.
    pub system_paths_unconfined: bool,
}

/// A seccomp option.
#[derive(Debug, PartialEq)]
pub enum SeccompChoice {
    /// No filter.
    Unconfined,
    /// The profile's text, as the client read it from a file.
    Profile(String),
}

/// Reads `HostConfig.SecurityOpt`.
///
/// # Errors
/// [`EngineError::Invalid`] naming an option that is not supported.
pub fn security_options(options: &[String]) -> Result<SecurityOptions> {
    let mut found = SecurityOptions::default();
    for option in options {
        let (key, value) = option
            .split_once('=')
            .or_else(|| option.split_once(':'))
            .unwrap_or((option, ""));
        match (key, value) {
            ("no-new-privileges", "" | "true") => found.no_new_privileges = true,
            ("no-new-privileges", "false") => found.no_new_privileges = false,
            ("seccomp", "unconfined") => found.seccomp = Some(SeccompChoice::Unconfined),
            ("seccomp", "builtin" | "default") => found.seccomp = None,
            ("seccomp", profile) if profile.trim_start().starts_with('{') => {
                found.seccomp = Some(SeccompChoice::Profile(profile.to_owned()));
            }
            ("systempaths", "unconfined") => found.system_paths_unconfined = true,
            ("label", "disable") | ("apparmor", "unconfined") => {}
            _ => {
                return Err(EngineError::Invalid(format!(
                    "security option \"{option}\" is not supported by this release; supported are \
                     no-new-privileges, seccomp=unconfined|FILE, systempaths=unconfined, label=disable, \
                     apparmor=unconfined"
                )));
            }
        }
    }
    Ok(found)
}

/// Where the program of `--init` is in the container, as with Docker.
pub const INIT: &str = "/sbin/docker-init";

const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Paths of the kernel's file systems that a container does not see, and those that it cannot write.
pub fn hidden(host: &HostConfig) -> (Vec<String>, Vec<String>) {
    let options = security_options(&host.security_opt).unwrap_or_default();
    if host.privileged || options.system_paths_unconfined {
        return (Vec::new(), Vec::new());
    }
    let or = |asked: &Option<Vec<String>>, default: &[&str]| {
        let default = || default.iter().map(|p| (*p).to_owned()).collect();
        asked.clone().unwrap_or_else(default)
    };
    (
        or(&host.masked_paths, MASKED),
        or(&host.readonly_paths, READ_ONLY),
    )
}

/// The seccomp setting for the shim.
///
/// # Errors
/// [`EngineError::Invalid`] for a profile that cannot be read.
pub fn seccomp(record: &Record, available_caps: &[String]) -> Result<Seccomp> {
    let options = security_options(&record.host_config.security_opt)?;
    Ok(match options.seccomp {
        _ if record.host_config.privileged => Seccomp::Unconfined,
        None => Seccomp::Default,
        Some(SeccompChoice::Unconfined) => Seccomp::Unconfined,
        Some(SeccompChoice::Profile(text)) => Seccomp::Profile {
            profile: Box::new(seccomp::read(
                &text,
                &caps::resolve(&record.host_config, available_caps),
            )?),
        },
    })
}

/// Builds the specification.
///
/// # Errors
/// [`EngineError::Invalid`] for a setting that has no meaning here, naming it.
pub fn build(inputs: &Inputs<'_>) -> Result<Spec> {
    let record = inputs.record;
    let host = &record.host_config;
    let config = &record.config;
    let security = security_options(&host.security_opt)?;
    let (masked, read_only) = hidden(host);
    let spec = json!({
        "ociVersion": "1.2.0",
        "hostname": if host.uts_mode == "host" { Value::Null } else { json!(config.hostname) },
        "domainname": if config.domainname.is_empty() { Value::Null } else { json!(config.domainname) },
        "root": { "path": "rootfs", "readonly": host.readonly_rootfs },
        "process": process(inputs, &security),
        "mounts": mounts::all(inputs),
        "annotations": host.annotations,
        "linux": {
            "cgroupsPath": inputs.cgroup,
            "namespaces": namespaces(inputs),
            "maskedPaths": masked,
            "readonlyPaths": read_only,
            "sysctl": sysctls(inputs)?,
            "devices": devices::nodes(inputs)?,
            "resources": resources::all(inputs)?,
            "rootfsPropagation": mounts::root_propagation(record),
        },
    });
    serde_json::from_value(without_nulls(spec)).map_err(|e| {
        EngineError::Invalid(format!(
            "container {} has no valid runtime form: {e}",
            record.name
        ))
    })
}

fn process(inputs: &Inputs<'_>, security: &SecurityOptions) -> Value {
    let record = inputs.record;
    let (config, host) = (&record.config, &record.host_config);
    let mut args: Vec<String> = Vec::new();
    if inputs.init.is_some() {
        args.extend([INIT.to_owned(), "--".to_owned()]);
    }
    args.extend(config.entrypoint.clone().unwrap_or_default().0);
    args.extend(config.cmd.clone().unwrap_or_default().0);
    let caps = caps::resolve(host, inputs.available_caps);
    json!({
        "terminal": config.tty,
        "user": user(&inputs.user),
        "args": args,
        "env": environment(record, inputs.store.as_deref()),
        "cwd": if config.working_dir.is_empty() { "/" } else { &config.working_dir },
        "capabilities": caps::sets(&caps, inputs.user.uid == 0),
        "rlimits": resources::rlimits(&host.ulimits),
        // `false` must be given as absent: the runtime takes it for `true`.
        "noNewPrivileges": if security.no_new_privileges { json!(true) } else { Value::Null },
        "oomScoreAdj": if host.oom_score_adj == 0 { Value::Null } else { json!(host.oom_score_adj) },
    })
}

/// The runtime form of a numeric user.
pub fn user(user: &ResolvedUser) -> Value {
    json!({ "uid": user.uid, "gid": user.gid, "additionalGids": user.groups })
}

/// The environment of the container's process: Docker's `PATH`, `HOSTNAME`, `TERM`, where the store is, then as asked.
///
/// A step of a build is not told of the store: what it writes must not depend on the machine.
pub fn environment(record: &Record, store: Option<&str>) -> Vec<String> {
    let config = &record.config;
    let mut env = Vec::new();
    let has = |name: &str| {
        config
            .env
            .iter()
            .any(|e| e.strip_prefix(name).is_some_and(|r| r.starts_with('=')))
    };
    if !has("PATH") {
        env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    if !has("HOSTNAME") && !config.hostname.is_empty() {
        env.push(format!("HOSTNAME={}", config.hostname));
    }
    if config.tty && !has("TERM") {
        env.push("TERM=xterm".to_owned());
    }
    if let Some(url) = store.filter(|_| !record.step) {
        // etcdctl 3.4 sends an address with a scheme as the host's name in some commands, which HTTP/2 forbids.
        let bare = url.strip_prefix("http://").unwrap_or(url);
        for (name, value) in [("ETCD_ENDPOINTS", url), ("ETCDCTL_ENDPOINTS", bare)] {
            if !has(name) {
                env.push(format!("{name}={value}"));
            }
        }
    }
    // An entry without `=` unsets a variable of the image; what is left of it says nothing.
    env.extend(config.env.iter().filter(|e| e.contains('=')).cloned());
    env
}

fn namespaces(inputs: &Inputs<'_>) -> Value {
    let host = &inputs.record.host_config;
    let mut list = vec![json!({ "type": "mount" })];
    let other = |pid: u32, kind: &str| format!("/proc/{pid}/ns/{kind}");
    match inputs.pids_of {
        Some(pid) => list.push(json!({ "type": "pid", "path": other(pid, "pid") })),
        None if host.pid_mode == "host" => {}
        None => list.push(json!({ "type": "pid" })),
    }
    match inputs.ipc_of {
        Some(pid) => list.push(json!({ "type": "ipc", "path": other(pid, "ipc") })),
        None if host.ipc_mode == "host" => {}
        None => list.push(json!({ "type": "ipc" })),
    }
    if host.uts_mode != "host" {
        list.push(json!({ "type": "uts" }));
    }
    if let Some(path) = &inputs.network_path {
        list.push(json!({ "type": "network", "path": path }));
    } else if inputs.own_network {
        list.push(json!({ "type": "network" }));
    }
    let private = match host.cgroupns_mode.as_str() {
        "private" => true,
        "host" => false,
        _ => inputs.cgroup_v2 && !host.privileged,
    };
    if private {
        list.push(json!({ "type": "cgroup" }));
    }
    Value::Array(list)
}

fn sysctls(inputs: &Inputs<'_>) -> Result<Value> {
    let host = &inputs.record.host_config;
    let mut all = serde_json::Map::new();
    let own_network = inputs.own_network;
    if own_network {
        // As Docker does: unprivileged ports and pings need no capability inside.
        all.insert("net.ipv4.ip_unprivileged_port_start".into(), json!("0"));
        all.insert("net.ipv4.ping_group_range".into(), json!("0 2147483647"));
    }
    for (key, value) in &host.sysctls {
        if key.starts_with("net.") && !own_network {
            return Err(EngineError::Invalid(format!(
                "sysctl \"{key}\" not allowed with the host's or another container's network: it would \
                 change theirs"
            )));
        }
        let namespaced = key.starts_with("net.")
            || key.starts_with("fs.mqueue.")
            || matches!(
                key.as_str(),
                "kernel.msgmax"
                    | "kernel.msgmnb"
                    | "kernel.msgmni"
                    | "kernel.sem"
                    | "kernel.shmall"
                    | "kernel.shmmax"
                    | "kernel.shmmni"
                    | "kernel.shm_rmid_forced"
                    | "kernel.domainname"
            );
        if !namespaced {
            return Err(EngineError::Invalid(format!(
                "sysctl \"{key}\" is not in a separate kernel namespace; set it on the host"
            )));
        }
        all.insert(key.clone(), json!(value));
    }
    Ok(Value::Object(all))
}

/// Leaves out `null` members: the OCI types read absence, not null.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(_, v)| !v.is_null())
                .map(|(k, v)| (k, without_nulls(v)))
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn security_options_are_read_or_refused() {
        let read = |o: &str| security_options(&[o.to_owned()]);
        assert!(read("no-new-privileges").unwrap().no_new_privileges);
        assert!(read("no-new-privileges:true").unwrap().no_new_privileges);
        assert_eq!(
            read("seccomp=unconfined").unwrap().seccomp,
            Some(SeccompChoice::Unconfined)
        );
        let error = read("apparmor=my-profile").unwrap_err().to_string();
        assert!(error.contains("apparmor=my-profile"), "{error}");
    }
}
