//! Refuses what cannot be honoured, by name, before anything is made.

use super::{CreateRequest, EndpointConfig, HostConfig, Mount};
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
    host.mounts.iter().try_for_each(mount)?;
    check_modes(host)?;
    joined(request)?;
    words(request)?;
    limits(host)?;
    crate::logs::check(&host.log_config)?;
    if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no") {
        return Err(EngineError::Invalid(
            "can't create 'AutoRemove' container with restart policy; leave one of them out".into(),
        ));
    }
    Ok(())
}

/// Refuses what another's network, or the host's names, would not let come true.
fn joined(request: &CreateRequest) -> Result<()> {
    let (config, host) = (&request.config, &request.host_config);
    let conflict = |what: &str, with: &str| {
        Err(EngineError::Invalid(format!(
            "conflicting options: {what} and {with}; leave one of them out"
        )))
    };
    if host.uts_mode == "host" && !config.hostname.is_empty() {
        return conflict("hostname", "the UTS mode");
    }
    if !host.network_mode.starts_with("container:") {
        return Ok(());
    }
    let mac = config.mac_address.as_ref().is_some_and(|m| !m.is_empty());
    for (asked, what, with) in [
        (!config.hostname.is_empty(), "hostname", "the network mode"),
        (!host.dns.is_empty(), "dns", "the network mode"),
        (
            !host.extra_hosts.is_empty(),
            "custom host-to-IP mapping",
            "the network mode",
        ),
        (mac, "mac-address", "the network mode"),
        (
            !host.port_bindings.is_empty() || host.publish_all_ports,
            "port publishing",
            "the container type network mode",
        ),
    ] {
        if asked {
            return conflict(what, with);
        }
    }
    Ok(())
}

/// Refuses words and times that mean nothing.
fn words(request: &CreateRequest) -> Result<()> {
    let (config, host) = (&request.config, &request.host_config);
    if let Some(name) = crate::spec::caps::unknown(host) {
        return Err(EngineError::Invalid(format!(
            "invalid capability: \"{name}\"; names are listed in capabilities(7)"
        )));
    }
    if let Some(signal) = config.stop_signal.as_deref().filter(|s| !s.is_empty()) {
        crate::stop::signal_number(signal)?;
    }
    for entry in &host.extra_hosts {
        crate::files::extra_host(entry)?;
    }
    crate::spec::security_options(&host.security_opt)?;
    crate::ports::ports(config, host)?;
    processors(&host.cpuset_cpus, "/sys/devices/system/cpu/online", "CPUs")?;
    processors(
        &host.cpuset_mems,
        "/sys/devices/system/node/online",
        "memory nodes",
    )?;
    if host.shm_size < 0 {
        return Err(EngineError::Invalid(
            "SHM size can not be less than 0".into(),
        ));
    }
    let Some(health) = &config.healthcheck else {
        return Ok(());
    };
    // Docker's own bounds; 0 inherits.
    for (value, what) in [
        (health.interval, "Interval"),
        (health.timeout, "Timeout"),
        (health.start_period, "StartPeriod"),
        (health.start_interval, "StartInterval"),
    ] {
        if value != 0 && value < 1_000_000 {
            return Err(EngineError::Invalid(format!(
                "{what} in Healthcheck cannot be less than 1ms"
            )));
        }
    }
    if health.retries < 0 {
        return Err(EngineError::Invalid(
            "Retries in Healthcheck cannot be negative".into(),
        ));
    }
    Ok(())
}

/// Refuses processors or memory nodes that this machine does not have.
fn processors(asked: &str, list: &str, what: &str) -> Result<()> {
    if asked.is_empty() {
        return Ok(());
    }
    let read = |text: &str| -> Option<Vec<u32>> {
        let mut found = Vec::new();
        for part in text.trim().split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            // No machine has as many.
            if first > last || last > 65_535 {
                return None;
            }
            found.extend(first..=last);
        }
        Some(found)
    };
    let wanted = read(asked).ok_or_else(|| {
        EngineError::Invalid(format!(
            "Invalid value {asked} for cpuset {what}; write for example 0-2,4"
        ))
    })?;
    // Without the list the kernel says what it thinks of it.
    let Ok(text) = std::fs::read_to_string(list) else {
        return Ok(());
    };
    let there = read(&text).unwrap_or_default();
    if there.is_empty() || wanted.iter().all(|n| there.contains(n)) {
        return Ok(());
    }
    Err(EngineError::Invalid(format!(
        "Requested {what} are not available - requested {asked}, available: {}",
        text.trim()
    )))
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

/// Refuses settings of a mount that nothing here knows.
fn mount(mount: &Mount) -> Result<()> {
    if let Some((key, _)) = mount.other.iter().find(|(_, v)| !is_zero(v)) {
        return Err(refuse(&format!("Mount.{key}"), "leave it out"));
    }
    if let Some(options) = &mount.bind_options
        && options.read_only_non_recursive
        && options.read_only_force_recursive
    {
        return Err(EngineError::Invalid(
            "BindOptions.ReadOnlyNonRecursive and ReadOnlyForceRecursive contradict each other; leave one of them out".into(),
        ));
    }
    Ok(())
}

/// Refuses what cannot be changed of a container that is there.
///
/// # Errors
/// [`EngineError::Invalid`] naming the field.
pub fn changeable(asked: &HostConfig) -> Result<()> {
    honoured(asked)?;
    for (key, given) in [
        ("CgroupParent", !asked.cgroup_parent.is_empty()),
        ("Devices", !asked.devices.is_empty()),
        ("DeviceCgroupRules", !asked.device_cgroup_rules.is_empty()),
        ("Init", asked.init == Some(true)),
        (
            "MemorySwappiness",
            asked.memory_swappiness.is_some_and(|s| s > 0),
        ),
        ("OomKillDisable", asked.oom_kill_disable == Some(true)),
        ("Ulimits", !asked.ulimits.is_empty()),
    ] {
        if given {
            return Err(EngineError::Invalid(format!(
                "{key} cannot be changed of a container that is there; make it anew"
            )));
        }
    }
    Ok(())
}

/// Refuses settings of an endpoint that nothing here knows. What the daemon itself says of an endpoint may come back.
///
/// # Errors
/// [`EngineError::Invalid`] naming the field.
pub fn endpoint(config: &EndpointConfig) -> Result<()> {
    if config.other.get("DriverOpts").is_some_and(|v| !is_zero(v)) {
        return Err(refuse(
            "EndpointSettings.DriverOpts (options of network drivers)",
            "leave it out",
        ));
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
    if restart.maximum_retry_count < 0 {
        return Err(EngineError::Invalid(
            "invalid restart policy: maximum retry count cannot be negative".into(),
        ));
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
        other if other.starts_with("container:") => {}
        other => {
            return Err(refuse(
                &format!("ipc mode \"{other}\""),
                "use private, shareable, host, none or container:NAME",
            ));
        }
    }
    match host.pid_mode.as_str() {
        "" | "private" | "host" => {}
        other if other.starts_with("container:") => {}
        other => {
            return Err(refuse(
                &format!("pid mode \"{other}\""),
                "use host, container:NAME or leave it out",
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
        // The first is what `inspect` says: whoever makes a container anew from that gets the same.
        "coracle" | "" | "runc" | "io.containerd.runc.v2" => {}
        other => return Err(refuse(&format!("runtime \"{other}\""), "leave it out")),
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
    if host.memory > 0 && host.memory_reservation > host.memory {
        return bad(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
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
    if host.blkio_weight != 0 && !(10..=1000).contains(&host.blkio_weight) {
        return bad("Range of blkio weight is from 10 to 1000");
    }
    if host
        .memory_swappiness
        .is_some_and(|s| !(-1..=100).contains(&s))
    {
        return bad("Invalid value for memory swappiness; the range is 0 to 100");
    }
    if host.cpu_period != 0 && !(1000..=1_000_000).contains(&host.cpu_period) {
        return bad(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1000 {
        return bad("CPU cfs quota can not be less than 1ms (i.e. 1000)");
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
