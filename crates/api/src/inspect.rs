//! `GET /containers/{id}/json`.

use crate::App;
use crate::error::Result;
use crate::query::Query;
use crate::version::ApiVersion;
use axum::Json;
use axum::extract::{Path, State};
use chrono::{DateTime, SecondsFormat, Utc};
use coracle_engine::Engine;
use coracle_engine::record::{Phase, Record};
use serde_json::{Map, Value, json};

/// Go's zero time, which Docker writes for "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

/// A moment as Docker writes it.
pub fn moment(time: Option<DateTime<Utc>>) -> String {
    time.map_or_else(
        || NEVER.into(),
        |t| t.to_rfc3339_opts(SecondsFormat::Nanos, true),
    )
}

pub async fn inspect(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
    version: ApiVersion,
) -> Result<Json<Value>> {
    let snapshot = app.engine.get(&id)?;
    let record = &snapshot.record;
    let engine = &app.engine;
    let dir = engine
        .options()
        .state_dir
        .join("containers")
        .join(record.id.as_str());
    let args: Vec<&String> = [&record.config.entrypoint, &record.config.cmd]
        .into_iter()
        .flatten()
        .flat_map(|a| &a.0)
        .collect();
    let log = if record.host_config.log_config.kind == "none" {
        String::new()
    } else {
        dir.join(coracle_engine::logs::FILE).display().to_string()
    };
    let layers = layers(engine, record);
    let mut answer = json!({
        "Id": record.id,
        "Created": moment(Some(record.created)),
        "Path": args.first().copied().cloned().unwrap_or_default(),
        "Args": args.iter().skip(1).collect::<Vec<_>>(),
        "State": state(&snapshot),
        "Image": record.image_id,
        "ResolvConfPath": dir.join("resolv.conf"),
        "HostnamePath": dir.join("hostname"),
        "HostsPath": dir.join("hosts"),
        "LogPath": log,
        "Name": format!("/{}", record.name),
        "RestartCount": record.state.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": execs(engine, record),
        "HostConfig": host_config(engine, record),
        "GraphDriver": {
            "Name": "overlay2",
            "Data": {
                "LowerDir": layers.join(":"),
                "UpperDir": dir.join("upper"),
                "WorkDir": dir.join("work"),
                // It is mounted in the shim's own mount namespace only.
                "MergedDir": if record.state.phase == Phase::Running {
                    format!("/proc/{}/root", record.state.pid)
                } else {
                    String::new()
                },
            },
        },
        "Mounts": mounts(record),
        "Config": config(record),
        "NetworkSettings": network_settings(engine, record, version),
    });
    if query.flag("size") {
        let (writable, root) = sizes(engine, record);
        answer["SizeRw"] = json!(writable);
        answer["SizeRootFs"] = json!(root);
    }
    Ok(Json(answer))
}

fn config(record: &Record) -> Value {
    let mut config = json!(record.config);
    if record.config.on_build.is_empty() {
        config["OnBuild"] = Value::Null;
    }
    config
}

fn layers(engine: &Engine, record: &Record) -> Vec<String> {
    let id = record.image_id.parse();
    let dirs = id.ok().and_then(|id| engine.images().layer_dirs(&id).ok());
    dirs.unwrap_or_default()
        .iter()
        .map(|d| d.display().to_string())
        .collect()
}

fn execs(engine: &Engine, record: &Record) -> Value {
    let running = engine.execs_of(&record.id);
    if running.is_empty() {
        Value::Null
    } else {
        json!(running)
    }
}

fn state(snapshot: &coracle_engine::Snapshot) -> Value {
    let state = &snapshot.record.state;
    let mut value = json!({
        "Status": crate::list::status_word(&snapshot.record),
        // A restarting container counts as running, as Docker has it.
        "Running": matches!(state.phase, Phase::Running | Phase::Restarting),
        "Paused": state.paused,
        "Restarting": state.phase == Phase::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": state.phase == Phase::Dead,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": moment(state.started_at),
        "FinishedAt": moment(state.finished_at),
    });
    if let Some(health) = &snapshot.health {
        value["Health"] = json!(health);
    } else if state.started_at.is_some() && snapshot.record.is_tested() {
        // Nobody looks any more, which docker says so.
        value["Health"] = json!({ "Status": "unhealthy", "FailingStreak": 0, "Log": [] });
    }
    value
}

/// As asked, with what Docker shows for what was left out.
fn host_config(engine: &Engine, record: &Record) -> Value {
    let mut value = json!(record.host_config);
    if let Some(map) = value.as_object_mut() {
        let mut default = |key: &str, empty: &[Value], shown: Value| {
            let slot = map.entry(key).or_insert(Value::Null);
            if slot.is_null() || empty.contains(slot) {
                *slot = shown;
            }
        };
        default("IpcMode", &[json!("")], json!("private"));
        default("CgroupnsMode", &[json!("")], json!("host"));
        default("ShmSize", &[json!(0)], json!(64 << 20));
        default("Runtime", &[json!("")], json!("coracle"));
        // What cannot be asked for is shown as not asked for.
        for key in [
            "BlkioWeightDevice",
            "BlkioDeviceReadBps",
            "BlkioDeviceWriteBps",
            "BlkioDeviceReadIOps",
            "BlkioDeviceWriteIOps",
            "DeviceRequests",
        ] {
            default(key, &[], json!([]));
        }
        for key in [
            "CpuRealtimePeriod",
            "CpuRealtimeRuntime",
            "CpuCount",
            "CpuPercent",
            "IOMaximumIOps",
            "IOMaximumBandwidth",
        ] {
            default(key, &[], json!(0));
        }
        for key in ["Cgroup", "Isolation"] {
            default(key, &[], json!(""));
        }
        if !engine.cgroups().is_v2() {
            default("OomKillDisable", &[], json!(false));
        }
        let (masked, read_only) = coracle_engine::spec::hidden(&record.host_config);
        default("MaskedPaths", &[], json!(masked));
        default("ReadonlyPaths", &[], json!(read_only));
        if record.host_config.restart_policy.name.is_empty() {
            map.insert(
                "RestartPolicy".into(),
                json!({ "Name": "no", "MaximumRetryCount": 0 }),
            );
        }
        if record.host_config.log_config.kind.is_empty() {
            let config = &record.host_config.log_config.config;
            map.insert(
                "LogConfig".into(),
                json!({ "Type": "json-file", "Config": config }),
            );
        }
    }
    value
}

/// Docker's `MountPoint`s.
pub fn mounts(record: &Record) -> Value {
    let one = |m: &coracle_engine::record::ResolvedMount| {
        let mode: Vec<&str> = m
            .options
            .iter()
            .map(String::as_str)
            .filter(|o| matches!(*o, "z" | "Z" | "ro"))
            .collect();
        let mut value = json!({
            "Type": m.kind,
            "Source": m.source,
            "Destination": m.target,
            "Mode": mode.join(","),
            "RW": m.writable,
            "Propagation": if m.kind == "bind" && m.propagation.is_empty() { "rprivate" } else { &m.propagation },
        });
        if let Some(name) = &m.name {
            value["Name"] = json!(name);
            value["Driver"] = json!("local");
        }
        value
    };
    record.mounts.iter().map(one).collect()
}

/// Docker's `EndpointSettings` by network name; of a container that does not run, the networks it will join.
pub fn networks(engine: &Engine, record: &Record, version: ApiVersion) -> Value {
    let mut all = Map::new();
    for (name, config) in &record.networking.endpoints_config {
        let network = engine.networks().get(name).ok();
        let config = config.clone().unwrap_or_default();
        let name = network.as_ref().map_or(name, |n| &n.name);
        let here = record
            .state
            .endpoints
            .iter()
            .find(|e| e.network_name == *name);
        let v6 = here.and_then(|e| e.v6);
        let running = record.state.phase == Phase::Running;
        let mut names = config.aliases.clone();
        names.insert(0, record.name.clone());
        names.push(record.id.short().to_owned());
        names.dedup();
        let mut aliases = config.aliases.clone();
        if !version.from(45) && !matches!(name.as_str(), "bridge" | "host" | "none") {
            aliases.push(record.id.short().to_owned());
        }
        let mac = here.map(|e| e.mac.map(|b| format!("{b:02x}")).join(":"));
        let mut settings = json!({
                "IPAMConfig": config.ipam_config,
                "Links": null,
                "Aliases": if aliases.is_empty() { Value::Null } else { json!(aliases) },
                "NetworkID": network.as_ref().map_or("", |n| n.id.as_str()),
                "EndpointID": if running { record.id.as_str() } else { "" },
                "Gateway": here.map_or_else(String::new, |e| e.gateway.to_string()),
                "IPAddress": here.map_or_else(String::new, |e| e.ip.to_string()),
                "IPPrefixLen": here.map_or(0, |e| e.prefix),
                "IPv6Gateway": v6.map_or_else(String::new, |v6| v6.gateway.to_string()),
                "GlobalIPv6Address": v6.map_or_else(String::new, |v6| v6.ip.to_string()),
                "GlobalIPv6PrefixLen": v6.map_or(0, |v6| v6.prefix),
                "MacAddress": mac.unwrap_or_else(|| config.mac_address.clone()),
                "DriverOpts": null,
        });
        if version.from(44) {
            settings["DNSNames"] = json!(names);
        }
        if version.from(48) {
            settings["GwPriority"] = json!(config.gw_priority);
        }
        all.insert(name.clone(), settings);
    }
    Value::Object(all)
}

fn network_settings(engine: &Engine, record: &Record, version: ApiVersion) -> Value {
    let networks = networks(engine, record, version);
    let bridge = networks.get("bridge").cloned().unwrap_or_default();
    let field = |key: &str, empty: Value| bridge.get(key).cloned().unwrap_or(empty);
    let pid = record.state.pid;
    json!({
        "Bridge": "",
        "SandboxID": if record.state.endpoints.is_empty() { "" } else { record.id.as_str() },
        "SandboxKey": if pid == 0 { String::new() } else { format!("/proc/{pid}/ns/net") },
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": field("EndpointID", json!("")),
        "Gateway": field("Gateway", json!("")),
        "GlobalIPv6Address": field("GlobalIPv6Address", json!("")),
        "GlobalIPv6PrefixLen": field("GlobalIPv6PrefixLen", json!(0)),
        "IPAddress": field("IPAddress", json!("")),
        "IPPrefixLen": field("IPPrefixLen", json!(0)),
        "IPv6Gateway": field("IPv6Gateway", json!("")),
        "MacAddress": field("MacAddress", json!("")),
        "Ports": ports(record),
        "Networks": networks,
    })
}

fn ports(record: &Record) -> Value {
    let mut all: Map<String, Value> = Map::new();
    if record.state.phase == Phase::Running {
        for port in record.config.exposed_ports.keys() {
            all.insert(port.clone(), Value::Null);
        }
    }
    for port in record.state.published() {
        let key = format!("{}/{}", port.container_port, port.protocol);
        let binding = json!({ "HostIp": port.host_ip, "HostPort": port.host_port.to_string() });
        match all.entry(key).or_insert(Value::Null) {
            Value::Array(list) => list.push(binding),
            other => *other = json!([binding]),
        }
    }
    Value::Object(all)
}

/// Bytes that the container wrote, and these together with its image's.
pub fn sizes(engine: &Engine, record: &Record) -> (u64, u64) {
    let upper = engine
        .options()
        .state_dir
        .join("containers")
        .join(record.id.as_str())
        .join("upper");
    let writable = tree_size(&upper);
    let image = record.image().ok();
    let image = image.and_then(|id| engine.images().image(id).ok());
    let image = image.map_or(0, |i| i.size);
    (writable, writable + image)
}

/// Bytes in the regular files below a directory.
pub fn tree_size(dir: &std::path::Path) -> u64 {
    let mut sum = 0;
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(m) if m.is_dir() => todo.push(entry.path()),
                Ok(m) if m.is_file() => sum += m.len(),
                _ => {}
            }
        }
    }
    sum
}
