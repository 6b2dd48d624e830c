//! The machine and the daemon as a whole.

use crate::error::{ApiError, Result};
use crate::inspect::{sizes, tree_size};
use crate::query::Query;
use crate::version::ApiVersion;
use crate::{API_VERSION, App, MIN_API_VERSION, VERSION};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use coracle_engine::record::Phase;
use serde_json::{Value, json};

const ARCHITECTURE: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    _ => std::env::consts::ARCH,
};

pub async fn ping() -> impl IntoResponse {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("builder-version", "1"),
        ("docker-experimental", "false"),
        ("swarm", "inactive"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, must-revalidate"),
    );
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    (headers, "OK")
}

fn kernel() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

pub async fn version() -> Json<Value> {
    let details = json!({
        "ApiVersion": API_VERSION, "MinAPIVersion": MIN_API_VERSION, "Os": "linux", "Arch": ARCHITECTURE,
        "KernelVersion": kernel(),
    });
    Json(json!({
        "Platform": { "Name": "Coracle" },
        "Components": [{ "Name": "Engine", "Version": VERSION, "Details": details }],
        "Version": VERSION,
        "ApiVersion": API_VERSION,
        "MinAPIVersion": MIN_API_VERSION,
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": ARCHITECTURE,
        "KernelVersion": kernel(),
        "BuildTime": "",
    }))
}

/// Pretty name and version of the host's system, from os-release(5).
fn operating_system() -> (String, String) {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |key: &str| {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        line.map_or_else(String::new, |v| v.trim_matches('"').to_owned())
    };
    (field("PRETTY_NAME"), field("VERSION_ID"))
}

/// Whether bridged frames pass the firewall's rules of packets.
fn bridge_passes(file: &str) -> bool {
    std::fs::read_to_string(format!("/proc/sys/net/bridge/{file}")).is_ok_and(|t| t.trim() == "1")
}

/// Descriptors that the daemon has open.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

pub async fn info(State(app): State<App>, version: ApiVersion) -> Json<Value> {
    let engine = &app.engine;
    let all = engine.list();
    let in_phase = |phase: Phase| all.iter().filter(|s| s.record.state.phase == phase).count();
    let paused = all.iter().filter(|s| s.record.state.paused).count();
    let running = in_phase(Phase::Running) + in_phase(Phase::Restarting);
    let (system, system_version) = operating_system();
    let v2 = engine.cgroups().is_v2();
    let id =
        std::fs::read_to_string(engine.options().state_dir.join("machine-id")).unwrap_or_default();
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Runtime, init and supervisor are parts of this program.
    let commit = if version.from(49) {
        json!({ "ID": VERSION })
    } else {
        json!({ "ID": VERSION, "Expected": VERSION })
    };
    let mirrors = engine.options().registry.mirrors_of("docker.io");
    let mut answer = json!({
        "ID": id.trim(),
        "Containers": all.len(),
        "ContainersRunning": running - paused,
        "ContainersPaused": paused,
        "ContainersStopped": all.len() - running,
        "Images": engine.images().list().len(),
        "Driver": "overlay2",
        "DriverStatus": [],
        "Plugins": {
            "Volume": ["local"], "Network": ["bridge", "host", "null"], "Authorization": null, "Log": ["json-file", "local", "none"],
        },
        "MemoryLimit": true,
        "SwapLimit": true,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": true,
        "PidsLimit": true,
        "IPv4Forwarding": true,
        "OomKillDisable": !v2,
        "KernelMemoryTCP": false,
        "Debug": false,
        "NFd": descriptors(),
        "NGoroutines": 0,
        "SystemTime": chrono::Utc::now().to_rfc3339(),
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": if v2 { "2" } else { "1" },
        "NEventsListener": 0,
        "KernelVersion": kernel(),
        "OperatingSystem": system,
        "OSVersion": system_version,
        "OSType": "linux",
        "Architecture": rustix::system::uname().machine().to_string_lossy(),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128"],
            "IndexConfigs": { "docker.io": { "Name": "docker.io", "Mirrors": mirrors, "Secure": true, "Official": true } },
            "Mirrors": mirrors,
        },
        "GenericResources": [],
        "ContainerdCommit": commit,
        "RuncCommit": commit,
        "InitCommit": commit,
        "DefaultAddressPools": [{ "Base": engine.options().network.default_pool, "Size": 24 }],
        "CDISpecDirs": [],
        "NCPU": cpus,
        "MemTotal": coracle_engine::stats::machine_memory(),
        "DockerRootDir": engine.options().state_dir,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": name,
        "Labels": [],
        "ExperimentalBuild": false,
        "ServerVersion": VERSION,
        "Runtimes": { "coracle": { "path": "coracle-holder" } },
        "DefaultRuntime": "coracle",
        "Swarm": { "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false,
            "Error": "", "RemoteManagers": null },
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "",
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "Warnings": engine.networks().diagnose(),
    });
    if version.from(49) {
        answer["FirewallBackend"] = json!({ "Driver": "nftables", "Info": [] });
    } else {
        answer["RegistryConfig"]["AllowNondistributableArtifactsCIDRs"] = json!([]);
        answer["RegistryConfig"]["AllowNondistributableArtifactsHostnames"] = json!([]);
    }
    if !version.from(50) {
        answer["BridgeNfIptables"] = json!(bridge_passes("bridge-nf-call-iptables"));
        answer["BridgeNfIp6tables"] = json!(bridge_passes("bridge-nf-call-ip6tables"));
    }
    Json(answer)
}

/// What `type=` may ask for.
const KINDS: &[&str] = &["container", "image", "volume", "build-cache"];

/// `GET /system/df`. Our own parameter `reclaimable` asks for what docker's answer has no place for: bytes of layers that no
/// image with a container has.
pub async fn disk_usage(
    State(app): State<App>,
    query: Query,
    version: ApiVersion,
) -> Result<Json<Value>> {
    let kinds = query.all("type");
    if let Some(kind) = kinds.iter().find(|k| !KINDS.contains(&k.as_str())) {
        return Err(ApiError::invalid(format!(
            "invalid type \"{kind}\" of object; use one of {}",
            KINDS.join(", ")
        )));
    }
    let wanted = move |kind: &str| kinds.is_empty() || kinds.iter().any(|k| k == kind);
    let reclaimable = query.flag("reclaimable");
    let mut answer = json!({});
    if wanted("build-cache") {
        answer["BuildCache"] = json!(crate::build::usage(&app).await?);
    }
    let engine = app.engine;
    // Walking trees takes long: not on the threads that answer others.
    let answer = tokio::task::spawn_blocking(move || {
        let all = engine.list();
        if wanted("image") || reclaimable {
            let used = all.iter().filter_map(|s| s.record.image_id.parse().ok());
            let usage = engine.images().usage(&used.collect());
            if wanted("image") {
                let users = crate::images::users(&all);
                let images = engine.images().list();
                let rows = images.iter().map(|i| {
                    let users = users.get(&i.id).copied().unwrap_or(0);
                    let shared = usage.shared.get(&i.id).copied().unwrap_or(0);
                    crate::images::row(i, Some(users), Some(shared), version)
                });
                answer["Images"] = rows.collect();
                answer["LayersSize"] = json!(usage.total);
            }
            if reclaimable {
                answer["ImagesReclaimable"] = json!(usage.free);
            }
        }
        if wanted("container") {
            let rows = all.iter().map(|s| {
                let (writable, root) = sizes(&engine, &s.record);
                json!({
                    "Id": s.record.id, "Names": [format!("/{}", s.record.name)], "Image": s.record.config.image,
                    "ImageID": s.record.image_id, "Created": s.record.created.timestamp(),
                    "State": crate::list::status_word(&s.record), "SizeRw": writable, "SizeRootFs": root,
                    "Command": crate::list::command(&s.record), "Labels": s.record.config.labels,
                    "Status": crate::list::status(s), "Mounts": crate::inspect::mounts(&s.record), "Ports": [],
                })
            });
            answer["Containers"] = rows.collect();
        }
        if wanted("volume") {
            let volumes = engine.volumes().list();
            let rows = volumes.iter().map(|v| {
                let mut row = crate::volumes::answer(&engine, v);
                row["UsageData"] = json!({
                    "Size": engine.volumes().counted(&v.name).map_or(0, |dir| tree_size(&dir)),
                    "RefCount": engine.volume_users(&v.name).len(),
                });
                row
            });
            answer["Volumes"] = rows.collect();
        }
        answer
    });
    let answer = answer.await.map_err(coracle_engine::EngineError::from)?;
    Ok(Json(answer))
}

pub async fn status(State(app): State<App>) -> Result<Json<Value>> {
    let all = app.engine.list();
    let running = all
        .iter()
        .filter(|s| s.record.state.phase == Phase::Running)
        .count();
    let options = app.engine.options();
    Ok(Json(json!({
        "version": VERSION,
        "machine": app.fleet.machine(),
        "units": app.fleet.list(),
        "containers": { "running": running, "total": all.len() },
        "state_dir": options.state_dir,
        "run_dir": options.run_dir,
    })))
}

/// Ends everything that runs and takes down what the daemon put up; images, volumes and units stay.
pub async fn down(State(app): State<App>, query: Query) -> Result<StatusCode> {
    let timeout = query.timeout("t")?;
    // To its end, also if nobody waits for that any more.
    let down = tokio::spawn(async move {
        app.fleet.shutdown(timeout).await;
        app.engine.down(timeout).await?;
        app.down.notify_one();
        Ok(StatusCode::NO_CONTENT)
    });
    down.await.map_err(coracle_engine::EngineError::from)?
}
