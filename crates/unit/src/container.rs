//! `[Container]`: Podman's Quadlet keys (podman-systemd.unit(5)).
use crate::name::{UnitKind, UnitName};
use crate::reader::Reader;
use crate::service::{EnvironmentFile, choice, parse_signal};
use crate::value::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortMapping {
    /// Host address; nothing means all.
    pub host_ip: Option<IpAddr>,
    /// Host port; nothing means any free one.
    pub host_port: Option<u16>,
    /// Port inside.
    pub container_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Whether the text names it with specifiers: each instance has another, that leads to it alone.
    #[serde(skip)]
    pub own: bool,
}

/// Where mounted data comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// A `.volume` unit.
    Unit(UnitName),
    /// A named volume.
    Named(String),
    /// A host path.
    Bind(String),
    /// A volume without a name.
    Anonymous,
    /// Memory.
    Tmpfs,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Source.
    pub source: MountSource,
    /// Absolute path inside.
    pub target: String,
    /// No writing.
    pub read_only: bool,
    /// Further options as written.
    pub options: Vec<String>,
}

/// One network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A `.network` unit.
    Unit(UnitName),
    /// A network by name.
    Named(String),
    /// The default bridge.
    Bridge,
    /// The host's.
    Host,
    /// Loopback only.
    None,
}

/// Everything of [Container].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "each field is the key of its name, see podman-systemd.unit(5)"
)]
pub struct ContainerUnit {
    pub image: String,
    pub exec: Vec<String>,
    pub entrypoint: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub environment_files: Vec<EnvironmentFile>,
    pub ports: Vec<PortMapping>,
    pub exposed_ports: Vec<String>,
    pub mounts: Vec<Mount>,
    pub networks: Vec<Network>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub sysctls: BTreeMap<String, String>,
    pub log_options: BTreeMap<String, String>,
    /// Keys that hold lists of words, by key: AddCapability, DNS, AddHost and so on.
    pub lists: BTreeMap<String, Vec<String>>,
    /// Keys that hold one text, by key: HostName, User, HealthCmd and so on.
    pub texts: BTreeMap<String, String>,
    /// Booleans, by key: ReadOnly, RunInit, NoNewPrivileges, ReadOnlyTmpfs.
    pub flags: BTreeMap<String, bool>,
    /// HealthInterval, HealthTimeout, HealthStartPeriod, StopTimeout, by key.
    pub times: BTreeMap<String, TimeSpan>,
    pub health_retries: Option<u32>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes.
    pub shm_size: Option<u64>,
    pub pids_limit: Option<i64>,
    pub ip: Option<IpAddr>,
    pub ip6: Option<IpAddr>,
    pub stop_signal: Option<String>,
    /// `always`, `missing` or `never`.
    pub pull: String,
    pub log_driver: Option<String>,
}

impl ContainerUnit {
    pub(crate) fn read(r: &mut Reader<'_>) -> ContainerUnit {
        let image = r.string("Image").unwrap_or_default();
        if image.is_empty() {
            r.fail_section("Image", "is missing; a container needs an image");
        } else if image.ends_with(".image") || image.ends_with(".build") {
            r.fail_section(
                "Image",
                "image and build units are not honoured yet; name the image itself",
            );
        }
        let mut mounts = r.parse_list("Volume", parse_volume);
        mounts.extend(r.parse_list("Mount", parse_mount));
        mounts.extend(r.parse_list("Tmpfs", parse_tmpfs));
        if let Some((entry, value)) = r.last("Notify")
            && parse_bool(&value) != Ok(false)
        {
            r.fail(
                entry,
                "is not honoured; use HealthCmd= or [X-Deploy] Probe=",
            );
        }
        let lists = "AddCapability DropCapability AddHost DNS DNSOption DNSSearch AddDevice Ulimit NetworkAlias Mask Unmask";
        let texts =
            "HostName ContainerName User Group WorkingDir SeccompProfile HealthCmd Timezone";
        let flags = "ReadOnly ReadOnlyTmpfs RunInit NoNewPrivileges";
        let times = "HealthInterval HealthTimeout HealthStartPeriod StopTimeout";
        let mut unit = ContainerUnit {
            image,
            exec: r.last("Exec").map(|(e, _)| r.split(e)).unwrap_or_default(),
            entrypoint: r
                .last("Entrypoint")
                .map(|(e, _)| r.split(e))
                .unwrap_or_default(),
            environment: r.pairs("Environment"),
            environment_files: EnvironmentFile::read(r),
            ports: published(r),
            exposed_ports: r
                .parse_words("ExposeHostPort", |v| parse_ports(v).map(|_| v.to_owned())),
            mounts,
            networks: r.parse_list("Network", parse_network),
            labels: r.pairs("Label"),
            annotations: r.pairs("Annotation"),
            sysctls: r.pairs("Sysctl"),
            log_options: r.pairs("LogOpt"),
            lists: lists
                .split(' ')
                .map(|k| (k.to_owned(), r.plain_words(k)))
                .filter(|(_, v)| !v.is_empty())
                .collect(),
            texts: texts
                .split(' ')
                .filter_map(|k| Some((k.to_owned(), r.string(k)?)))
                .collect(),
            flags: flags
                .split(' ')
                .filter_map(|k| Some((k.to_owned(), r.parse(k, parse_bool)?)))
                .collect(),
            times: times
                .split(' ')
                .filter_map(|k| Some((k.to_owned(), r.parse(k, parse_time_span)?)))
                .collect(),
            health_retries: r.parse("HealthRetries", str::parse),
            memory: r.parse("Memory", parse_bytes),
            shm_size: r.parse("ShmSize", parse_bytes),
            pids_limit: r.parse("PidsLimit", str::parse),
            ip: r.parse("IP", str::parse),
            ip6: r.parse("IP6", str::parse),
            stop_signal: r.parse("StopSignal", parse_signal),
            pull: choice(r, "Pull", &["always", "missing", "never"], "missing"),
            log_driver: None,
        };
        if r.last("LogDriver").is_some() {
            unit.log_driver = Some(choice(
                r,
                "LogDriver",
                &["json-file", "local", "none"],
                "json-file",
            ));
        }
        for (entry, address) in r.words("DNS") {
            if address.parse::<IpAddr>().is_err() {
                r.fail(entry, format!("{address:?} is not an IP address"));
            }
        }
        for (entry, host) in r.words("AddHost") {
            let valid = |ip: &str| ip == "host-gateway" || ip.parse::<IpAddr>().is_ok();
            if !host
                .split_once(':')
                .is_some_and(|(name, ip)| !name.is_empty() && valid(ip))
            {
                r.fail(entry, format!("{host:?} is not name:address"));
            }
        }
        let action = choice(
            r,
            "HealthOnFailure",
            &["none", "kill", "restart", "stop"],
            "none",
        );
        unit.texts.insert("HealthOnFailure".to_owned(), action);
        unit
    }
}

fn parse_network(text: &str) -> Result<Network, String> {
    match text {
        "host" => return Ok(Network::Host),
        "none" => return Ok(Network::None),
        "bridge" => return Ok(Network::Bridge),
        _ => {}
    }
    if text.ends_with(".network") {
        return UnitName::new(text)
            .map(Network::Unit)
            .map_err(|e| e.to_string());
    }
    if text.contains([':', '/', ' ']) || text.ends_with(".container") {
        return Err(format!(
            "{text:?} is not honoured; name a network, a .network unit, bridge, host or none"
        ));
    }
    Ok(Network::Named(text.to_owned()))
}

fn target(path: &str) -> Result<String, String> {
    if !path.starts_with('/') || path.split('/').any(|p| p == "..") {
        return Err(format!("{path:?} is not an absolute path without '..'"));
    }
    Ok(path.to_owned())
}

fn source(text: &str) -> Result<MountSource, String> {
    if text.starts_with('/') {
        return Ok(MountSource::Bind(text.to_owned()));
    }
    if text.starts_with('.') || text.contains('/') {
        return Err(format!(
            "{text:?} is a relative path; write it from the root"
        ));
    }
    match UnitName::new(text) {
        Ok(name) if name.kind() == UnitKind::Volume => Ok(MountSource::Unit(name)),
        _ if text.is_empty() => Err("the source is empty".to_owned()),
        _ => Ok(MountSource::Named(text.to_owned())),
    }
}

fn options(text: &str) -> (bool, Vec<String>) {
    let all = || text.split(',').filter(|o| !o.is_empty());
    (
        all().any(|o| o == "ro"),
        all()
            .filter(|o| *o != "ro" && *o != "rw")
            .map(str::to_owned)
            .collect(),
    )
}

fn parse_volume(text: &str) -> Result<Mount, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (from, to, opts) = match parts[..] {
        [to] => (MountSource::Anonymous, to, ""),
        [from, to] => (source(from)?, to, ""),
        [from, to, opts] => (source(from)?, to, opts),
        _ => {
            return Err(format!(
                "{text:?} is not source:/target or source:/target:options"
            ));
        }
    };
    let (read_only, options) = options(opts);
    Ok(Mount {
        source: from,
        target: target(to)?,
        read_only,
        options,
    })
}

fn parse_tmpfs(text: &str) -> Result<Mount, String> {
    let (to, opts) = text.split_once(':').unwrap_or((text, ""));
    let (read_only, options) = options(opts);
    Ok(Mount {
        source: MountSource::Tmpfs,
        target: target(to)?,
        read_only,
        options,
    })
}

fn parse_mount(text: &str) -> Result<Mount, String> {
    let (mut kind, mut from, mut to) = ("volume", None, None);
    let (mut read_only, mut options) = (false, Vec::new());
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, "true"));
        match key {
            "type" => kind = value,
            "source" | "src" => from = Some(value),
            "target" | "destination" | "dst" => to = Some(value),
            "ro" | "readonly" => read_only = parse_bool(value).map_err(|e| e.to_string())?,
            _ => options.push(part.to_owned()),
        }
    }
    let source = match (kind, from) {
        ("tmpfs", None) => MountSource::Tmpfs,
        ("volume", None) => MountSource::Anonymous,
        ("bind", Some(path)) if path.starts_with('/') => MountSource::Bind(path.to_owned()),
        ("volume", Some(name)) if !name.starts_with('/') => source(name)?,
        _ => {
            return Err(format!(
                "{text:?} is not type=bind|volume|tmpfs with a fitting source="
            ));
        }
    };
    let to = to.ok_or("target= is missing")?;
    Ok(Mount {
        source,
        target: target(to)?,
        read_only,
        options,
    })
}

fn published(r: &mut Reader<'_>) -> Vec<PortMapping> {
    let mut all = Vec::new();
    for (entry, value) in r.list("PublishPort") {
        let own = entry.value().contains('%');
        match parse_ports(&value) {
            Ok(ports) => all.extend(ports.into_iter().map(|p| PortMapping { own, ..p })),
            Err(error) => r.fail(entry, error),
        }
    }
    all
}

fn parse_ports(text: &str) -> Result<Vec<PortMapping>, String> {
    let bad = || format!("{text:?} is not [[address:]host-port:]port[/tcp|/udp]");
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !matches!(protocol, "tcp" | "udp") {
        return Err(bad());
    }
    let (rest, inside) = rest
        .rsplit_once(':')
        .map_or((None, rest), |(a, b)| (Some(a), b));
    let (ip, host) = match rest {
        None => (None, ""),
        Some(r) => r.rsplit_once(':').map_or((None, r), |(a, b)| (Some(a), b)),
    };
    let host_ip = match ip.map(|i| i.trim_start_matches('[').trim_end_matches(']')) {
        None | Some("") => None,
        Some(ip) => Some(ip.parse().map_err(|_| bad())?),
    };
    let span = |t: &str| -> Option<std::ops::RangeInclusive<u16>> {
        let (a, b) = t.split_once('-').unwrap_or((t, t));
        let (a, b): (u16, u16) = (a.parse().ok()?, b.parse().ok()?);
        (a > 0 && a <= b).then_some(a..=b)
    };
    let inside = span(inside).ok_or_else(bad)?;
    let hosts: Vec<Option<u16>> = if host.is_empty() {
        inside.clone().map(|_| None).collect()
    } else {
        span(host).ok_or_else(bad)?.map(Some).collect()
    };
    if hosts.len() != inside.len() {
        return Err(format!(
            "{text:?}: both port ranges must have the same length"
        ));
    }
    Ok(inside
        .zip(hosts)
        .map(|(container_port, host_port)| PortMapping {
            host_ip,
            host_port,
            container_port,
            protocol: protocol.to_owned(),
            own: false,
        })
        .collect())
}
