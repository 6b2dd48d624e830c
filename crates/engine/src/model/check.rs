//! Refuses what cannot be honoured, by name, before anything is made.

use super::{CreateRequest, EndpointConfig, HostConfig};
use crate::error::{EngineError, Result};
use crate::ports::{fixed_address, fixed_address6, link_local};
use serde_json::Value;

/// Fields that clients send with their zero value and that have no effect then.
const UNHONOURED: &[(&str, &str)] = &[
    ("BlkioWeightDevice", "block I/O weights by device"),
    ("BlkioDeviceReadBps", "block I/O limits by device"),
    ("BlkioDeviceWriteBps", "block I/O limits by device"),
    ("BlkioDeviceReadIOps", "block I/O limits by device"),
    ("BlkioDeviceWriteIOps", "block I/O limits by device"),
    ("CpuRealtimePeriod", "real-time scheduling"),
    ("CpuRealtimeRuntime", "real-time scheduling"),
    ("DeviceRequests", "device requests (--gpus)"),
    ("StorageOpt", "storage options"),
    ("Cgroup", "a cgroup of another container"),
    ("CpuCount", "Windows settings"),
    ("CpuPercent", "Windows settings"),
    ("IOMaximumIOps", "Windows settings"),
    ("IOMaximumBandwidth", "Windows settings"),
    ("Isolation", "Windows settings"),
    ("KernelMemory", "kernel memory limits"),
    ("KernelMemoryTCP", "kernel memory limits"),
];

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty() || s == "default",
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

fn refuse(what: &str, way_out: &str) -> EngineError {
    EngineError::Invalid(format!(
        "{what} is not supported by this release; {way_out}"
    ))
}

/// Checks a request.
///
/// # Errors
/// [`EngineError::Invalid`] naming the field.
pub fn check(request: &CreateRequest) -> Result<()> {
    let host = &request.host_config;
    honoured(host)?;
    for config in request
        .networking_config
        .endpoints_config
        .values()
        .flatten()
    {
        endpoint(config)?;
    }
    check_modes(host)?;
    limits(host)?;
    match host.log_config.kind.as_str() {
        "" | "json-file" | "none" => {}
        other => {
            return Err(refuse(
                &format!("log driver \"{other}\""),
                "use json-file (with max-size and max-file) or none",
            ));
        }
    }
    for key in host.log_config.config.keys() {
        if !matches!(key.as_str(), "max-size" | "max-file") {
            return Err(refuse(
                &format!("log option \"{key}\""),
                "use max-size and max-file",
            ));
        }
    }
    if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no") {
        return Err(EngineError::Invalid(
            "can't create 'AutoRemove' container with restart policy; leave one of them out".into(),
        ));
    }
    Ok(())
}

/// Refuses settings of a host configuration that nothing here knows.
///
/// # Errors
/// [`EngineError::Invalid`] naming the field.
pub fn honoured(host: &HostConfig) -> Result<()> {
    for (key, value) in &host.other {
        if is_zero(value) {
            continue;
        }
        let what = UNHONOURED
            .iter()
            .find(|(name, _)| name == key)
            .map_or("this setting", |(_, w)| w);
        return Err(refuse(
            &format!("HostConfig.{key} ({what})"),
            "leave it out",
        ));
    }
    Ok(())
}

/// Refuses settings of an endpoint that nothing here knows. What the daemon itself says of an endpoint may come back.
///
/// # Errors
/// [`EngineError::Invalid`] naming the field.
pub fn endpoint(config: &EndpointConfig) -> Result<()> {
    for (key, what) in [
        ("Links", "legacy links"),
        ("DriverOpts", "options of network drivers"),
    ] {
        if config.other.get(key).is_some_and(|v| !is_zero(v)) {
            return Err(refuse(
                &format!("EndpointSettings.{key} ({what})"),
                "leave it out",
            ));
        }
    }
    fixed_address(config)?;
    fixed_address6(config)?;
    link_local(config).map(drop)
}

/// Checks limits and the restart policy.
///
/// # Errors
/// [`EngineError::Invalid`] naming the field.
pub fn limits(host: &HostConfig) -> Result<()> {
    check_numbers(host)?;
    let restart = &host.restart_policy;
    match restart.name.as_str() {
        "" | "no" | "always" | "unless-stopped" | "on-failure" => {}
        other => {
            return Err(EngineError::Invalid(format!(
                "invalid restart policy \"{other}\"; use no, always, unless-stopped or on-failure[:N]"
            )));
        }
    }
    if restart.maximum_retry_count != 0 && restart.name != "on-failure" {
        return Err(EngineError::Invalid(
            "a maximum retry count goes with the restart policy on-failure only".into(),
        ));
    }
    Ok(())
}

fn check_modes(host: &HostConfig) -> Result<()> {
    match host.ipc_mode.as_str() {
        "" | "private" | "shareable" | "host" | "none" => {}
        other => {
            return Err(refuse(
                &format!("ipc mode \"{other}\""),
                "use private or host",
            ));
        }
    }
    match host.pid_mode.as_str() {
        "" | "private" | "host" => {}
        other => {
            return Err(refuse(
                &format!("pid mode \"{other}\""),
                "use host or leave it out",
            ));
        }
    }
    match host.uts_mode.as_str() {
        "" | "host" => {}
        other => {
            return Err(refuse(
                &format!("uts mode \"{other}\""),
                "use host or leave it out",
            ));
        }
    }
    match host.userns_mode.as_str() {
        "" | "host" => {}
        other => {
            return Err(refuse(
                &format!("user namespace mode \"{other}\""),
                "leave it out",
            ));
        }
    }
    match host.cgroupns_mode.as_str() {
        "" | "private" | "host" => {}
        other => {
            return Err(EngineError::Invalid(format!(
                "invalid cgroup namespace mode \"{other}\""
            )));
        }
    }
    match host.runtime.as_str() {
        "" | "runc" | "io.containerd.runc.v2" => {}
        other => return Err(refuse(&format!("runtime \"{other}\""), "leave it out")),
    }
    if !host.links.is_empty() {
        return Err(refuse(
            "--link",
            "containers on one network find each other by name",
        ));
    }
    if !host.cgroup_parent.is_empty() {
        return Err(refuse("--cgroup-parent", "leave it out"));
    }
    if !matches!(host.volume_driver.as_str(), "" | "local") {
        return Err(refuse(
            &format!("volume driver \"{}\"", host.volume_driver),
            "use local",
        ));
    }
    Ok(())
}

fn check_numbers(host: &HostConfig) -> Result<()> {
    let bad = |what: &str| Err(EngineError::Invalid(what.to_owned()));
    if host.memory < 0 || (host.memory > 0 && host.memory < 6 << 20) {
        return bad("Minimum memory limit allowed is 6MB");
    }
    if host.memory_swap > 0 && host.memory == 0 {
        return bad("You should always set the Memory limit when using Memoryswap limit");
    }
    if host.memory_swap > 0 && host.memory_swap < host.memory {
        return bad("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if host.nano_cpus < 0 {
        return bad("NanoCpus cannot be negative");
    }
    if host.nano_cpus > 0 && (host.cpu_quota > 0 || host.cpu_period > 0) {
        return bad("Conflicting options: Nano CPUs and CPU quota or period cannot both be set");
    }
    if host.nano_cpus > 0 {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        // Processor counts are far below 2^53.
        if host.nano_cpus > available as i64 * 1_000_000_000 {
            return Err(EngineError::Invalid(format!(
                "Range of CPUs is from 0.01 to {available}.00, as there are only {available} CPUs available"
            )));
        }
        if host.nano_cpus < 10_000_000 {
            return bad("Range of CPUs begins at 0.01");
        }
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return bad("Invalid value for oom score adj; the range is -1000 to 1000");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn request(host: Value) -> CreateRequest {
        serde_json::from_value(json!({ "Image": "x", "HostConfig": host })).unwrap()
    }

    #[test]
    fn zero_values_pass_and_others_are_named() {
        check(&request(
            json!({ "BlkioDeviceReadBps": [], "Isolation": "", "KernelMemory": 0 }),
        ))
        .unwrap();
        let error = check(&request(json!({ "DeviceRequests": [{ "Count": 1 }] }))).unwrap_err();
        assert!(error.to_string().contains("DeviceRequests"), "{error}");
        let error = check(&request(json!({ "SomethingNew": 7 }))).unwrap_err();
        assert!(error.to_string().contains("SomethingNew"), "{error}");
    }

    #[test]
    fn null_is_default() {
        let request: CreateRequest = serde_json::from_value(json!({
            "Image": "x", "Cmd": null, "Env": null, "Labels": null, "Entrypoint": "one",
            "HostConfig": null, "NetworkingConfig": null,
        }))
        .unwrap();
        assert_eq!(request.config.entrypoint.unwrap().0, ["one"]);
        assert!(request.config.cmd.is_none());
    }
}
