//! From a `.container` unit to what the engine is asked. Pure, apart from the files that the unit names.

use crate::environment::{environment, read};
use crate::order::{Units, resource_name};
use coracle_engine::SERVICE_LABEL;
use coracle_engine::exclusive::EXCLUSIVE_LABEL;
use coracle_engine::model::config::{Args, Empty};
use coracle_engine::model::{
    ContainerConfig, CreateRequest, DeviceMapping, EndpointConfig, HealthConfig, HostConfig,
    IpamConfig, LogConfig, NetworkingConfig, PortBinding, RestartPolicy, Ulimit,
};
use coracle_unit::container::{ContainerUnit, Mount, MountSource, Network};
use coracle_unit::deploy::{DeploySection, Probe};
use coracle_unit::value::TimeSpan;
use coracle_unit::{Kind, Unit, UnitName};
use std::collections::BTreeMap;

/// Labels by which a container is known to belong to a unit.
pub const UNIT_LABEL: &str = "coracle.unit";
/// The unit's uid.
pub const UID_LABEL: &str = "coracle.uid";

/// Why a unit cannot become a container.
#[derive(Debug, thiserror::Error)]
pub enum TranslateError {
    /// A key with a value that this release does not honour.
    #[error("{unit}: {key}={value} is not honoured by this release; {way_out}")]
    Unsupported {
        /// The unit.
        unit: String,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What to do instead.
        way_out: &'static str,
    },
    /// A volume or network unit that it names.
    #[error("{unit}: {key}={missing} was not submitted; submit that unit first")]
    NotSubmitted {
        /// The unit.
        unit: String,
        /// The key.
        key: &'static str,
        /// The unit that is missing.
        missing: String,
    },
    /// A file that the unit names.
    #[error("{unit}: {key}={path} cannot be read")]
    File {
        /// The unit.
        unit: String,
        /// The key.
        key: &'static str,
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

type Result<T> = std::result::Result<T, TranslateError>;

/// The name of a unit's container: `guestbook@1.container` runs as `guestbook-1`. One that is about to take another's place has that
/// name too, once it is free.
pub fn container_name(unit: &Unit) -> String {
    if let Kind::Container { container, .. } = &unit.kind
        && let Some(name) = container.texts.get("ContainerName")
    {
        return name.clone();
    }
    plain(unit.name.stem())
}

/// A name with only what containers' names may have.
pub fn plain(text: &str) -> String {
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') {
            c
        } else {
            '-'
        }
    };
    let name: String = text.chars().map(allowed).collect();
    let name = name.trim_start_matches(['-', '.', '_']);
    if name.len() < 2 {
        format!("unit-{name}")
    } else {
        name.to_owned()
    }
}

struct Translator<'a> {
    unit: &'a Unit,
    container: &'a ContainerUnit,
    units: &'a Units,
}

/// Builds the request; `uid` marks the container as the unit's.
///
/// # Errors
/// [`TranslateError`] naming key and way out.
pub fn request(unit: &Unit, uid: &str, units: &Units) -> Result<CreateRequest> {
    let Kind::Container { container, .. } = &unit.kind else {
        return Err(TranslateError::Unsupported {
            unit: unit.name.to_string(),
            key: "Image",
            value: String::new(),
            way_out: "only .container units become containers",
        });
    };
    Translator {
        unit,
        container,
        units,
    }
    .request(uid)
}

impl Translator<'_> {
    fn unsupported(
        &self,
        key: &'static str,
        value: impl Into<String>,
        way_out: &'static str,
    ) -> TranslateError {
        TranslateError::Unsupported {
            unit: self.unit.name.to_string(),
            key,
            value: value.into(),
            way_out,
        }
    }

    fn text(&self, key: &str) -> String {
        self.container.texts.get(key).cloned().unwrap_or_default()
    }

    fn list(&self, key: &str) -> Vec<String> {
        self.container.lists.get(key).cloned().unwrap_or_default()
    }

    fn flag(&self, key: &str) -> bool {
        self.container.flags.get(key).copied().unwrap_or(false)
    }

    fn request(&self, uid: &str) -> Result<CreateRequest> {
        Ok(CreateRequest {
            config: self.config(uid)?,
            host_config: self.host()?,
            networking_config: self.networking()?,
        })
    }

    fn config(&self, uid: &str) -> Result<ContainerConfig> {
        let c = self.container;
        let mut labels = c.labels.clone();
        labels.insert(UNIT_LABEL.into(), self.unit.name.base().to_string());
        labels.insert(UID_LABEL.into(), uid.to_owned());
        if crate::hold::is_exclusive(self.unit) {
            labels.insert(EXCLUSIVE_LABEL.into(), "yes".into());
        }
        if !self.unit.deploy.headless {
            let service = self.unit.name.base().prefix().to_owned();
            labels.insert(SERVICE_LABEL.into(), service);
        }
        let mut env = environment(self.unit, &c.environment_files, &c.environment)?;
        match self.text("Timezone").as_str() {
            "" | "local" => {}
            zone => env.push(format!("TZ={zone}")),
        }
        let (user, group) = (self.text("User"), self.text("Group"));
        let user = match (user.is_empty(), group.is_empty()) {
            (_, true) => user,
            (true, false) => return Err(self.unsupported("Group", group, "give User= too")),
            (false, false) => format!("{user}:{group}"),
        };
        let args = |list: &[String]| (!list.is_empty()).then(|| Args(list.to_vec()));
        let ports = c
            .ports
            .iter()
            .map(|p| format!("{}/{}", p.container_port, p.protocol));
        let exposed = c.exposed_ports.iter().map(|p| {
            if p.contains('/') {
                p.clone()
            } else {
                format!("{p}/tcp")
            }
        });
        Ok(ContainerConfig {
            hostname: self.text("HostName"),
            user,
            env,
            cmd: args(&c.exec),
            entrypoint: args(&c.entrypoint),
            image: c.image.clone(),
            working_dir: self.text("WorkingDir"),
            labels,
            stop_signal: c.stop_signal.clone(),
            stop_timeout: self.stop_timeout(),
            exposed_ports: ports.chain(exposed).map(|p| (p, Empty {})).collect(),
            healthcheck: self.health(),
            ..ContainerConfig::default()
        })
    }

    /// `StopTimeout=`, or `TimeoutStopSec=` if that is not systemd's default.
    fn stop_timeout(&self) -> Option<i64> {
        let time = coracle_unit::unit::stop_time(&self.unit.kind)?;
        Some(time.duration().map_or(-1, seconds))
    }

    fn health(&self) -> Option<HealthConfig> {
        let c = self.container;
        let nanos = |key: &str| {
            let time = c.times.get(key).and_then(|t| t.duration());
            time.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
        };
        let mut health = HealthConfig {
            interval: nanos("HealthInterval"),
            timeout: nanos("HealthTimeout"),
            start_period: nanos("HealthStartPeriod"),
            retries: c.health_retries.map_or(0, i64::from),
            ..HealthConfig::default()
        };
        match self.text("HealthCmd").as_str() {
            "" => {
                if let Some(probe) = probe(&self.unit.deploy) {
                    return Some(probe);
                }
                // Only an image's own test can mean these.
                return (health != HealthConfig::default()).then_some(health);
            }
            "none" => health.test = vec!["NONE".into()],
            command => {
                health.test = match serde_json::from_str::<Vec<String>>(command) {
                    Ok(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
                    Err(_) => vec!["CMD-SHELL".into(), command.into()],
                };
            }
        }
        Some(health)
    }

    fn host(&self) -> Result<HostConfig> {
        let c = self.container;
        let mut host = HostConfig {
            restart_policy: RestartPolicy {
                name: "no".into(),
                ..RestartPolicy::default()
            },
            cap_add: self.list("AddCapability"),
            cap_drop: self.list("DropCapability"),
            dns: self.list("DNS"),
            dns_options: self.list("DNSOption"),
            dns_search: self.list("DNSSearch"),
            extra_hosts: self.list("AddHost"),
            readonly_rootfs: self.flag("ReadOnly"),
            sysctls: c.sysctls.clone(),
            annotations: c.annotations.clone(),
            shm_size: c
                .shm_size
                .map_or(0, |b| i64::try_from(b).unwrap_or(i64::MAX)),
            memory: c.memory.map_or(0, |b| i64::try_from(b).unwrap_or(i64::MAX)),
            pids_limit: c.pids_limit,
            init: self.flag("RunInit").then_some(true),
            log_config: LogConfig {
                kind: c.log_driver.clone().unwrap_or_default(),
                config: c.log_options.clone(),
            },
            ..HostConfig::default()
        };
        if self.flag("NoNewPrivileges") {
            host.security_opt.push("no-new-privileges".into());
        }
        match self.text("SeccompProfile").as_str() {
            "" => {}
            "unconfined" => host.security_opt.push("seccomp=unconfined".into()),
            path => {
                let text = self.read("SeccompProfile", path)?;
                host.security_opt.push(format!("seccomp={text}"));
            }
        }
        if let Some(mask) = self.list("Mask").into_iter().next() {
            return Err(self.unsupported("Mask", mask, "mount something empty there with Tmpfs="));
        }
        for path in self.list("Unmask") {
            if path != "ALL" {
                return Err(self.unsupported("Unmask", path, "only ALL is"));
            }
            host.security_opt.push("systempaths=unconfined".into());
        }
        for ulimit in self.list("Ulimit") {
            host.ulimits.push(self.ulimit(&ulimit)?);
        }
        for device in self.list("AddDevice") {
            let mut parts = device.split(':');
            let from = parts.next().unwrap_or_default().to_owned();
            let to = parts.next().map_or_else(|| from.clone(), str::to_owned);
            let permissions = parts.next().unwrap_or("rwm").to_owned();
            host.devices.push(DeviceMapping {
                path_on_host: from,
                path_in_container: to,
                cgroup_permissions: permissions,
            });
        }
        let of_service = crate::services::published(self.unit);
        for port in &c.ports {
            if of_service.iter().any(|p| p.is(port)) {
                continue;
            }
            let binding = PortBinding {
                host_ip: port.host_ip.map_or_else(String::new, |ip| ip.to_string()),
                host_port: port.host_port.map_or_else(String::new, |p| p.to_string()),
            };
            let key = format!("{}/{}", port.container_port, port.protocol);
            host.port_bindings
                .entry(key)
                .or_default()
                .get_or_insert_with(Vec::new)
                .push(binding);
        }
        if self.text("Timezone") == "local" {
            host.binds.push("/etc/localtime:/etc/localtime:ro".into());
        }
        for mount in &c.mounts {
            self.mount(mount, &mut host)?;
        }
        if self.flag("ReadOnly") && c.flags.get("ReadOnlyTmpfs").copied().unwrap_or(true) {
            // As Podman does: a read-only root still has places for what does not last.
            for place in ["/tmp", "/run", "/var/tmp"] {
                let taken = c.mounts.iter().any(|m| m.target == place);
                if !taken {
                    host.tmpfs.insert(place.into(), String::new());
                }
            }
        }
        host.network_mode = match c.networks.first() {
            None | Some(Network::Bridge) => "bridge".into(),
            Some(Network::Host) => "host".into(),
            Some(Network::None) => "none".into(),
            Some(other) => self.network(other)?,
        };
        Ok(host)
    }

    fn ulimit(&self, text: &str) -> Result<Ulimit> {
        let bad = || self.unsupported("Ulimit", text, "write name=soft:hard");
        let (name, values) = text.split_once('=').ok_or_else(bad)?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let number = |t: &str| {
            if t == "unlimited" {
                Ok(-1)
            } else {
                t.parse().map_err(|_| bad())
            }
        };
        Ok(Ulimit {
            name: name.into(),
            soft: number(soft)?,
            hard: number(hard)?,
        })
    }

    fn mount(&self, mount: &Mount, host: &mut HostConfig) -> Result<()> {
        let mut options: Vec<&str> = mount.options.iter().map(String::as_str).collect();
        if mount.read_only {
            options.push("ro");
        }
        let with = |source: &str| {
            let end = if options.is_empty() {
                String::new()
            } else {
                format!(":{}", options.join(","))
            };
            format!("{source}:{}{end}", mount.target)
        };
        match &mount.source {
            MountSource::Tmpfs => {
                host.tmpfs.insert(mount.target.clone(), options.join(","));
            }
            MountSource::Unit(name) => host.binds.push(with(&self.resource("Volume", name)?)),
            MountSource::Named(name) => host.binds.push(with(name)),
            MountSource::Bind(path) => host.binds.push(with(path)),
            MountSource::Anonymous => host.mounts.push(coracle_engine::model::Mount {
                kind: "volume".into(),
                target: mount.target.clone(),
                read_only: mount.read_only,
                ..Default::default()
            }),
        }
        Ok(())
    }

    fn resource(&self, key: &'static str, name: &UnitName) -> Result<String> {
        resource_name(name, self.units).ok_or_else(|| TranslateError::NotSubmitted {
            unit: self.unit.name.to_string(),
            key,
            missing: name.to_string(),
        })
    }

    fn network(&self, network: &Network) -> Result<String> {
        Ok(match network {
            Network::Unit(name) => self.resource("Network", name)?,
            Network::Named(name) => name.clone(),
            Network::Bridge => "bridge".into(),
            Network::Host => "host".into(),
            Network::None => "none".into(),
        })
    }

    fn networking(&self) -> Result<NetworkingConfig> {
        let c = self.container;
        let text = |ip: Option<std::net::IpAddr>| ip.map_or_else(String::new, |ip| ip.to_string());
        let fixed = c.ip.or(c.ip6).map(|_| IpamConfig {
            ipv4_address: text(c.ip),
            ipv6_address: text(c.ip6),
            ..IpamConfig::default()
        });
        let mut all = BTreeMap::new();
        for (number, network) in c.networks.iter().enumerate() {
            if c.networks.len() > 1 && matches!(network, Network::Host | Network::None) {
                return Err(self.unsupported(
                    "Network",
                    "host or none",
                    "it must be the only Network=",
                ));
            }
            let endpoint = EndpointConfig {
                aliases: self.list("NetworkAlias"),
                ipam_config: fixed.clone().filter(|_| number == 0),
                ..EndpointConfig::default()
            };
            all.insert(self.network(network)?, Some(endpoint));
        }
        Ok(NetworkingConfig {
            endpoints_config: all,
        })
    }

    fn read(&self, key: &'static str, path: &str) -> Result<String> {
        read(self.unit, key, path)
    }
}

fn seconds(time: std::time::Duration) -> i64 {
    // Rounded up: half a second is not no time.
    i64::try_from(time.as_secs() + u64::from(time.subsec_nanos() > 0)).unwrap_or(i64::MAX)
}

/// A probe from the host as a health test.
/// Nanoseconds between two probes of what has just started.
const STARTING: i64 = 100_000_000;

fn probe(deploy: &DeploySection) -> Option<HealthConfig> {
    let place =
        |host: &Option<String>, port: u16| format!("{}:{port}", host.as_deref().unwrap_or(""));
    let test = match deploy.probe.as_ref()? {
        Probe::Http { host, port, path } => vec![
            "HTTP".into(),
            format!("http://{}{path}", place(host, *port)),
        ],
        Probe::Tcp { host, port } => vec!["TCP".into(), place(host, *port)],
    };
    let nanos = |t: TimeSpan| {
        t.duration()
            .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
    };
    Some(HealthConfig {
        test,
        interval: nanos(deploy.probe_interval),
        // Until it answers the first time it is asked often, and that it does not answer yet is no failure.
        start_period: nanos(deploy.probe_interval),
        start_interval: nanos(deploy.probe_interval).min(STARTING),
        timeout: nanos(deploy.probe_timeout),
        retries: i64::from(deploy.probe_retries),
    })
}

#[cfg(test)]
mod tests;
