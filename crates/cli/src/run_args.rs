//! The flags of `run` and `create`, and the request they become.

use crate::error::{CliError, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Flags that `run` and `create` share; names and meanings are docker's.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ContainerArgs {
    /// Name of the container
    #[arg(long)]
    pub name: Option<String>,
    /// Allocate a pseudo-terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Keep stdin open
    #[arg(short, long)]
    pub interactive: bool,
    /// Remove the container when it ends
    #[arg(long)]
    pub rm: bool,
    /// Set a variable: NAME=value, or NAME to take ours
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Read variables from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<String>,
    /// Mount a volume or directory: SOURCE:TARGET[:OPTIONS]
    #[arg(short, long, value_name = "SPEC")]
    pub volume: Vec<String>,
    /// Mount: type=bind|volume|tmpfs,source=…,target=…[,readonly]
    #[arg(long, value_name = "SPEC")]
    pub mount: Vec<String>,
    /// Mount memory: TARGET[:OPTIONS]
    #[arg(long, value_name = "SPEC")]
    pub tmpfs: Vec<String>,
    /// Publish a port: [[ADDRESS:]HOST:]CONTAINER[/udp]
    #[arg(short, long, value_name = "SPEC")]
    pub publish: Vec<String>,
    /// Publish every exposed port to a free one
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Expose a port
    #[arg(long, value_name = "PORT")]
    pub expose: Vec<String>,
    /// Network: a name, host, none or container:NAME
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub network: Vec<String>,
    /// Further name on the network
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    pub network_alias: Vec<String>,
    /// IPv4 address on the network
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// Host name inside
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Domain name inside
    #[arg(long, value_name = "NAME")]
    pub domainname: Option<String>,
    /// Name server
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<String>,
    /// Search domain
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Line of /etc/hosts: NAME:ADDRESS
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// User, by name or number: USER[:GROUP]
    #[arg(short, long)]
    pub user: Option<String>,
    /// Supplementary group
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Program instead of the image's; empty for none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Label: key=value
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<String>,
    /// Memory limit, such as 512m
    #[arg(short, long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// Memory and swap together; -1 is unlimited swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Soft memory limit
    #[arg(long, value_name = "BYTES")]
    pub memory_reservation: Option<String>,
    /// Processors, such as 1.5
    #[arg(long, value_name = "N")]
    pub cpus: Option<f64>,
    /// Relative weight of processor time
    #[arg(short, long, value_name = "WEIGHT")]
    pub cpu_shares: Option<i64>,
    /// Processors allowed: 0-2,4
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Processes at most
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Resource limit: name=soft[:hard]
    #[arg(long, value_name = "LIMIT")]
    pub ulimit: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,
    /// Root filesystem read-only
    #[arg(long)]
    pub read_only: bool,
    /// Add a capability
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// Every capability and device
    #[arg(long)]
    pub privileged: bool,
    /// no-new-privileges, seccomp=unconfined|FILE, systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Give a device of the host: HOST[:CONTAINER[:rwm]]
    #[arg(long, value_name = "DEVICE")]
    pub device: Vec<String>,
    /// Kernel parameter: name=value
    #[arg(long, value_name = "NAME=VALUE")]
    pub sysctl: Vec<String>,
    /// A small init as process 1
    #[arg(long)]
    pub init: bool,
    /// no, always, unless-stopped or on-failure[:MAX]
    #[arg(long, value_name = "POLICY")]
    pub restart: Option<String>,
    /// Signal that asks it to end
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Seconds until it is killed
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub stop_timeout: Option<i64>,
    /// Health test, run by a shell inside
    #[arg(long, value_name = "COMMAND")]
    pub health_cmd: Option<String>,
    /// Time between tests
    #[arg(long, value_name = "TIME")]
    pub health_interval: Option<String>,
    /// Time that one test may take
    #[arg(long, value_name = "TIME")]
    pub health_timeout: Option<String>,
    /// Failures in a row that make it unhealthy
    #[arg(long, value_name = "N")]
    pub health_retries: Option<i64>,
    /// Time after the start in which failures do not count
    #[arg(long, value_name = "TIME")]
    pub health_start_period: Option<String>,
    /// No health test, not even the image's
    #[arg(long)]
    pub no_healthcheck: bool,
    /// json-file or none
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// max-size=…, max-file=…
    #[arg(long, value_name = "NAME=VALUE")]
    pub log_opt: Vec<String>,
    /// host: processes of the machine
    #[arg(long, value_name = "MODE")]
    pub pid: Option<String>,
    /// private, host or none
    #[arg(long, value_name = "MODE")]
    pub ipc: Option<String>,
    /// host: host name of the machine
    #[arg(long, value_name = "MODE")]
    pub uts: Option<String>,
    /// private or host
    #[arg(long, value_name = "MODE")]
    pub cgroupns: Option<String>,
    /// host: users of the machine
    #[arg(long, value_name = "MODE")]
    pub userns: Option<String>,
    /// Parent of its control group
    #[arg(long, value_name = "PATH")]
    pub cgroup_parent: Option<String>,
    /// Switch the OOM killer off
    #[arg(long)]
    pub oom_kill_disable: bool,
    /// -1000 to 1000
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub oom_score_adj: Option<i64>,
    /// always, missing or never
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pub pull: String,
    /// Platform of the image, such as linux/amd64
    #[arg(long)]
    pub platform: Option<String>,
    /// Write the container's id to a file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<String>,
    /// Image, then the command and arguments instead of the image's
    // One list: after the image nothing is a flag of ours, even if it looks like one.
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "IMAGE [COMMAND] [ARG...]"
    )]
    pub rest: Vec<String>,
}

fn bad(flag: &str, value: &str, way_out: &str) -> CliError {
    CliError::Usage(format!("invalid value \"{value}\" for --{flag}: {way_out}"))
}

/// Bytes: a number with `b`, `k`, `m`, `g` or `t`.
pub fn bytes(flag: &str, text: &str) -> Result<i64> {
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match lower[digits.len()..]
        .trim_end_matches("ib")
        .trim_end_matches('b')
    {
        "" => 1.0,
        "k" => 1024.0,
        "m" => 1024.0 * 1024.0,
        "g" => 1024.0 * 1024.0 * 1024.0,
        "t" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(bad(flag, text, "write for example 512m")),
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| bad(flag, text, "write for example 512m"))?;
    // Beyond this it is no size of anything.
    if !(0.0..1e18).contains(&(number * factor)) {
        return Err(bad(flag, text, "it is out of range"));
    }
    Ok((number * factor) as i64)
}

/// Nanoseconds of a time as Go writes it: `1m30s`.
pub fn nanoseconds(flag: &str, text: &str) -> Result<i64> {
    let wrong = || bad(flag, text, "write for example 1m30s");
    let (mut sum, mut rest) = (0.0_f64, text);
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        sum += number
            * match &rest[..end] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return Err(wrong()),
            };
        rest = &rest[end..];
    }
    Ok(sum.min(9e18) as i64)
}

/// `key=value` lines into an object.
pub fn pairs(list: &[String]) -> Value {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), json!(value))
    };
    Value::Object(list.iter().map(pair).collect())
}

/// Variables as asked; a name alone takes ours, if there is one.
pub fn environment(list: &[String]) -> Vec<String> {
    let one = |entry: &String| {
        if entry.contains('=') {
            return Some(entry.clone());
        }
        std::env::var(entry)
            .ok()
            .map(|value| format!("{entry}={value}"))
    };
    list.iter().filter_map(one).collect()
}

/// Lines of a file without remarks.
fn lines(path: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|source| CliError::File {
        action: "reading",
        path: path.into(),
        source,
    })?;
    let lines = text
        .lines()
        .map(str::trim_start)
        .filter(|l| !l.is_empty() && !l.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

fn env_file(path: &str) -> Result<Vec<String>> {
    Ok(environment(&lines(path)?))
}

type Bindings = BTreeMap<String, Vec<Value>>;

/// Reads `-p`: `[[address:]host:]container[/protocol]`, ranges too.
fn publish(text: &str, bindings: &mut Bindings) -> Result<()> {
    let wrong = || bad("publish", text, "write [[ADDRESS:]HOST-PORT:]PORT[/udp]");
    let (rest, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let (rest, inside) = rest
        .rsplit_once(':')
        .map_or((None, rest), |(r, i)| (Some(r), i));
    let (address, host) = match rest {
        None => ("", ""),
        Some(r) => match r.rsplit_once(':') {
            Some((address, host)) => (address.trim_start_matches('[').trim_end_matches(']'), host),
            // An address alone: the host's port is chosen.
            None if r.contains('.') => (r, ""),
            None => ("", r),
        },
    };
    let span = |t: &str| -> Option<(u16, u16)> {
        let (a, b) = t.split_once('-').unwrap_or((t, t));
        let (a, b) = (a.parse().ok()?, b.parse().ok()?);
        (a > 0 && a <= b).then_some((a, b))
    };
    let inside = span(inside).ok_or_else(wrong)?;
    let host = match host {
        "" | "0" => None,
        text => Some(span(text).ok_or_else(wrong)?),
    };
    // One port inside and several of the host: any of these.
    if let Some((first, last)) = host.filter(|h| h.0 < h.1 && inside.0 == inside.1) {
        bindings
            .entry(format!("{}/{protocol}", inside.0))
            .or_default()
            .push(json!({ "HostIp": address, "HostPort": format!("{first}-{last}") }));
        return Ok(());
    }
    if host.is_some_and(|h| h.1 - h.0 != inside.1 - inside.0) {
        return Err(bad(
            "publish",
            text,
            "both ranges must have the same length",
        ));
    }
    for n in 0..=(inside.1 - inside.0) {
        let key = format!("{}/{protocol}", inside.0 + n);
        let port = host.map_or_else(String::new, |h| (h.0 + n).to_string());
        bindings
            .entry(key)
            .or_default()
            .push(json!({ "HostIp": address, "HostPort": port }));
    }
    Ok(())
}

fn mount(text: &str) -> Result<Value> {
    let mut mount = Map::from_iter([("Type".to_owned(), json!("volume"))]);
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, "true"));
        match key {
            "type" => mount.insert("Type".into(), json!(value)),
            "source" | "src" => mount.insert("Source".into(), json!(value)),
            "target" | "destination" | "dst" => mount.insert("Target".into(), json!(value)),
            "readonly" | "ro" => {
                mount.insert("ReadOnly".into(), json!(value != "false" && value != "0"))
            }
            "bind-propagation" => {
                mount.insert("BindOptions".into(), json!({ "Propagation": value }))
            }
            "volume-nocopy" => mount.insert(
                "VolumeOptions".into(),
                json!({ "NoCopy": value != "false" }),
            ),
            "volume-subpath" => mount.insert("VolumeOptions".into(), json!({ "Subpath": value })),
            "tmpfs-size" => mount.insert(
                "TmpfsOptions".into(),
                json!({ "SizeBytes": bytes("mount", value)? }),
            ),
            _ => return Err(bad("mount", text, &format!("\"{key}\" is not understood"))),
        };
    }
    Ok(Value::Object(mount))
}

fn ulimit(text: &str) -> Result<Value> {
    let wrong = || bad("ulimit", text, "write name=soft[:hard]");
    let (name, values) = text.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |t: &str| {
        if t == "unlimited" {
            Ok(-1)
        } else {
            t.parse::<i64>().map_err(|_| wrong())
        }
    };
    Ok(json!({ "Name": name, "Soft": number(soft)?, "Hard": number(hard)? }))
}

fn device(text: &str) -> Value {
    let mut parts = text.split(':');
    let host = parts.next().unwrap_or_default();
    json!({
        "PathOnHost": host,
        "PathInContainer": parts.next().unwrap_or(host),
        "CgroupPermissions": parts.next().unwrap_or("rwm"),
    })
}

impl ContainerArgs {
    /// The image, as it was named.
    pub fn image(&self) -> &str {
        self.rest.first().map_or("", String::as_str)
    }

    /// Command and arguments; empty for the image's.
    pub fn command(&self) -> &[String] {
        self.rest.get(1..).unwrap_or_default()
    }

    /// The body of `POST /containers/create`. `attached` says whether our own streams are joined.
    pub fn request(&self, attached: bool) -> Result<Value> {
        let mut env = Vec::new();
        for file in &self.env_file {
            env.extend(env_file(file)?);
        }
        // A name alone that we do not have goes as it is: it takes the image's variable away.
        env.extend(self.env.iter().map(|e| match std::env::var(e) {
            Ok(value) if !e.contains('=') => format!("{e}={value}"),
            _ => e.clone(),
        }));
        let mut labels = Vec::new();
        for file in &self.label_file {
            // A line without a value is no label, as docker has it.
            labels.extend(lines(file)?.into_iter().filter(|l| l.contains("=")));
        }
        labels.extend(self.label.iter().cloned());
        let mut bindings = Bindings::new();
        for text in &self.publish {
            publish(text, &mut bindings)?;
        }
        let mut exposed: Map<String, Value> =
            bindings.keys().map(|p| (p.clone(), json!({}))).collect();
        for port in &self.expose {
            let port = if port.contains('/') {
                port.clone()
            } else {
                format!("{port}/tcp")
            };
            exposed.insert(port, json!({}));
        }
        // A volume without a source is one without a name.
        let (binds, anonymous): (Vec<&String>, Vec<&String>) =
            self.volume.iter().partition(|v| v.contains(':'));
        let volumes: Map<String, Value> = anonymous
            .into_iter()
            .map(|v| (v.clone(), json!({})))
            .collect();
        let binds: Vec<String> = binds.into_iter().map(|b| absolute(b)).collect();
        Ok(json!({
            "Hostname": self.hostname.clone().unwrap_or_default(),
            "Domainname": self.domainname.clone().unwrap_or_default(),
            "User": self.user.clone().unwrap_or_default(),
            "AttachStdin": attached && self.interactive,
            "AttachStdout": attached,
            "AttachStderr": attached,
            "Tty": self.tty,
            "OpenStdin": self.interactive,
            "StdinOnce": attached && self.interactive,
            "Env": env,
            "Cmd": if self.command().is_empty() { Value::Null } else { json!(self.command()) },
            "Entrypoint": self.entrypoint.as_ref().map(|e| [e]),
            "Image": self.image(),
            "Volumes": volumes,
            "WorkingDir": self.workdir.clone().unwrap_or_default(),
            "Labels": pairs(&labels),
            "ExposedPorts": exposed,
            "StopSignal": self.stop_signal,
            "StopTimeout": self.stop_timeout,
            "Healthcheck": self.health()?,
            "HostConfig": self.host(binds, &bindings)?,
            "NetworkingConfig": self.networking(),
        }))
    }

    fn health(&self) -> Result<Value> {
        if self.no_healthcheck {
            return Ok(json!({ "Test": ["NONE"] }));
        }
        let time = |flag: &str, text: &Option<String>| {
            text.as_ref().map_or(Ok(0), |t| nanoseconds(flag, t))
        };
        let health = json!({
            "Test": self.health_cmd.as_ref().map(|c| ["CMD-SHELL", c]),
            "Interval": time("health-interval", &self.health_interval)?,
            "Timeout": time("health-timeout", &self.health_timeout)?,
            "StartPeriod": time("health-start-period", &self.health_start_period)?,
            "Retries": self.health_retries.unwrap_or(0),
        });
        let given = self.health_cmd.is_some()
            || self.health_interval.is_some()
            || self.health_timeout.is_some()
            || self.health_start_period.is_some()
            || self.health_retries.is_some();
        Ok(if given { health } else { Value::Null })
    }

    fn host(&self, binds: Vec<String>, bindings: &Bindings) -> Result<Value> {
        let size =
            |flag: &str, text: &Option<String>| text.as_ref().map_or(Ok(0), |t| bytes(flag, t));
        let tmpfs: Map<String, Value> = self
            .tmpfs
            .iter()
            .map(|t| t.split_once(':').unwrap_or((t, "")))
            .map(|(target, options)| (target.to_owned(), json!(options)))
            .collect();
        let mut security = Vec::new();
        for option in &self.security_opt {
            security.push(match option.strip_prefix("seccomp=") {
                Some(file) if !matches!(file, "unconfined" | "builtin" | "default") => {
                    let text = std::fs::read_to_string(file).map_err(|source| CliError::File {
                        action: "reading",
                        path: file.into(),
                        source,
                    })?;
                    format!("seccomp={text}")
                }
                _ => option.clone(),
            });
        }
        let (policy, count) = match self.restart.as_deref() {
            None => ("no", 0),
            Some(text) => match text.split_once(':') {
                Some((policy, count)) => (
                    policy,
                    count
                        .parse()
                        .map_err(|_| bad("restart", text, "write on-failure:MAX"))?,
                ),
                None => (text, 0),
            },
        };
        Ok(json!({
            "Binds": binds,
            "Mounts": self.mount.iter().map(|m| mount(m)).collect::<Result<Vec<_>>>()?,
            "Tmpfs": tmpfs,
            "NetworkMode": self.network.first().cloned().unwrap_or_else(|| "default".into()),
            "PortBindings": bindings,
            "PublishAllPorts": self.publish_all,
            "RestartPolicy": { "Name": policy, "MaximumRetryCount": count },
            "AutoRemove": self.rm,
            "CapAdd": self.cap_add,
            "CapDrop": self.cap_drop,
            "Dns": self.dns,
            "DnsSearch": self.dns_search,
            "ExtraHosts": self.add_host,
            "GroupAdd": self.group_add,
            "IpcMode": self.ipc.clone().unwrap_or_default(),
            "PidMode": self.pid.clone().unwrap_or_default(),
            "UTSMode": self.uts.clone().unwrap_or_default(),
            "UsernsMode": self.userns.clone().unwrap_or_default(),
            "CgroupParent": self.cgroup_parent.clone().unwrap_or_default(),
            "OomKillDisable": self.oom_kill_disable.then_some(true),
            "CgroupnsMode": self.cgroupns.clone().unwrap_or_default(),
            "Privileged": self.privileged,
            "ReadonlyRootfs": self.read_only,
            "SecurityOpt": security,
            "Sysctls": pairs(&self.sysctl),
            "ShmSize": size("shm-size", &self.shm_size)?,
            "Ulimits": self.ulimit.iter().map(|u| ulimit(u)).collect::<Result<Vec<_>>>()?,
            "Init": self.init.then_some(true),
            "Devices": self.device.iter().map(|d| device(d)).collect::<Vec<_>>(),
            "Memory": size("memory", &self.memory)?,
            "MemorySwap": size("memory-swap", &self.memory_swap)?,
            "MemoryReservation": size("memory-reservation", &self.memory_reservation)?,
            // A processor is counted in billionths.
            "NanoCpus": self.cpus.map_or(0, |c| (c * 1e9).round() as i64),
            "CpuShares": self.cpu_shares.unwrap_or(0),
            "CpusetCpus": self.cpuset_cpus.clone().unwrap_or_default(),
            "PidsLimit": self.pids_limit,
            "OomScoreAdj": self.oom_score_adj.unwrap_or(0),
            "LogConfig": { "Type": self.log_driver.clone().unwrap_or_default(), "Config": pairs(&self.log_opt) },
            "ConsoleSize": crate::terminal::size().filter(|_| self.tty).map_or([0, 0], |(r, c)| [r, c]),
        }))
    }

    fn networking(&self) -> Value {
        let mut all = Map::new();
        for (number, network) in self.network.iter().enumerate() {
            if network.starts_with("container:") {
                continue;
            }
            let mut endpoint = json!({ "Aliases": self.network_alias });
            if let Some(ip) = self.ip.as_ref().filter(|_| number == 0) {
                endpoint["IPAMConfig"] = json!({ "IPv4Address": ip });
            }
            all.insert(network.clone(), endpoint);
        }
        json!({ "EndpointsConfig": all })
    }
}

/// A relative directory is one of ours, not the daemon's.
fn absolute(bind: &str) -> String {
    let Some((source, rest)) = bind.split_once(':') else {
        return bind.to_owned();
    };
    if !source.starts_with('.') {
        return bind.to_owned();
    }
    match std::path::absolute(source) {
        Ok(path) => format!("{}:{rest}", path.display()),
        Err(_) => bind.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ContainerArgs,
    }

    fn request(line: &[&str]) -> Result<Value> {
        let line = std::iter::once("run").chain(line.iter().copied());
        Line::try_parse_from(line)
            .map_err(|e| CliError::Usage(e.to_string()))?
            .args
            .request(true)
    }

    #[test]
    fn what_people_type() {
        let body = request(&[
            "-it",
            "--rm",
            "--name",
            "x",
            "-e",
            "A=b",
            "-v",
            "data:/d",
            "-v",
            "/anon",
            "-p",
            "8080:80",
            "-p",
            "127.0.0.1::53/udp",
            "-p",
            "90-91:90-91",
            "--cpus",
            "1.5",
            "-m",
            "64m",
            "--restart",
            "on-failure:3",
            "--network",
            "back",
            "--network-alias",
            "n",
            "--ip",
            "10.0.0.9",
            "--health-cmd",
            "true",
            "--health-interval",
            "1m30s",
            "--entrypoint",
            "sh",
            "img",
            "-c",
            "ls -l",
        ])
        .unwrap();
        assert_eq!(body["Cmd"], json!(["-c", "ls -l"]));
        assert_eq!(body["Entrypoint"], json!(["sh"]));
        assert_eq!(body["Volumes"], json!({ "/anon": {} }));
        let host = &body["HostConfig"];
        assert_eq!(host["Binds"], json!(["data:/d"]));
        assert_eq!(
            host["PortBindings"]["80/tcp"],
            json!([{ "HostIp": "", "HostPort": "8080" }])
        );
        assert_eq!(
            host["PortBindings"]["53/udp"],
            json!([{ "HostIp": "127.0.0.1", "HostPort": "" }])
        );
        assert_eq!(host["PortBindings"]["91/tcp"][0]["HostPort"], "91");
        assert_eq!(
            (host["NanoCpus"].as_i64(), host["Memory"].as_i64()),
            (Some(1_500_000_000), Some(64 << 20))
        );
        assert_eq!(
            host["RestartPolicy"],
            json!({ "Name": "on-failure", "MaximumRetryCount": 3 })
        );
        assert_eq!(
            body["NetworkingConfig"]["EndpointsConfig"]["back"]["IPAMConfig"]["IPv4Address"],
            "10.0.0.9"
        );
        assert_eq!(body["Healthcheck"]["Interval"], json!(90_000_000_000_i64));
        assert_eq!(body["StdinOnce"], true);
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (line, word) in [
            (["-p", "x", "i"], "\"x\""),
            (["-p", "80-81:90-92", "i"], "same length"),
            (["-m", "lots", "i"], "--memory"),
            (["--health-interval", "5", "i"], "--health-interval"),
            (["--ulimit", "nofile", "i"], "--ulimit"),
            (["--mount", "type=bind,what=x", "i"], "what"),
            (["--restart", "on-failure:x", "i"], "--restart"),
        ] {
            let error = request(&line).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
