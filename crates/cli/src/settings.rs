//! What the daemon is told by its flags and its configuration file.

use crate::os::{Updates, UpdatesOf};
use crate::run_args::values;
use crate::server::{DaemonArgs, DaemonError, RUN_DIR, STATE_DIR, file};
use coracle_build::Marks;
use coracle_cluster::member::find::Program;
use coracle_cluster::member::snapshots::Schedule;
use coracle_engine::EngineOptions;
use coracle_image::RegistryConfig;
use coracle_network::DOOR_PORT;
use coracle_network::overlay::Ipv4Net;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

const CONFIG: &str = "/etc/coracle/coracle.toml";
/// Bytes.
const SMALLEST_STORE: u64 = 8 << 20;
/// Revisions.
const LEAST_HISTORY: i64 = 100;
const SHORTEST_HISTORY: Duration = Duration::from_secs(60);
const SHORTEST_SNAPSHOTS: Duration = Duration::from_secs(1);
const SHORTEST_ABSENCE: Duration = Duration::from_secs(5);

/// The configuration file: TOML with the names of the flags, underscores instead of dashes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) state_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    store_listen: Option<String>,
    registry_mirrors: Vec<String>,
    insecure_registries: Vec<String>,
    /// Networks that name no subnet take a /24 of this.
    default_pool: Option<String>,
    /// Registries that are reached in a way of their own.
    registry: Vec<RegistryOf>,
    /// When room is made on the disk.
    collect: Collect,
    /// The key-value store.
    store: StoreOf,
    /// Where other machines reach this one: an address, with a port or without.
    advertise: Option<String>,
    /// Where workstations reach the API, over TLS: an address, with a port or without.
    api_listen: Option<String>,
    /// Names and addresses that workstations reach this machine by, beside those that it has.
    api_names: Vec<String>,
    /// Clients that may come in besides those of the store: `sha256:…` of their keys, and what they are called.
    api_clients: Vec<String>,
    /// This machine.
    machine: MachineOf,
    /// What there are many machines for.
    cluster: ClusterOf,
    /// The network between machines.
    network: NetworkOf,
    /// Updates of a machine that runs our own image.
    updates: UpdatesOf,
}

/// `[network]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NetworkOf {
    /// Where the subnets of a cluster's machines are taken from, for a cluster that begins here.
    overlay_pool: Option<String>,
    /// Where services have their addresses from; the same on every machine of a cluster.
    services: Option<String>,
}

/// `[machine]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MachineOf {
    /// What `MachineMetadata=` of units asks for.
    labels: BTreeMap<String, String>,
}

/// `[cluster]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ClusterOf {
    /// How long a machine that has the store is away before another takes its place: `10m`.
    replace_after: Option<String>,
    /// Whether this machine may have the store if it has etcd; true if nothing is said.
    votes: Option<bool>,
    /// Time between two copies of the store: `1h`.
    snapshot_every: Option<String>,
    /// How many copies are kept.
    snapshot_keep: Option<usize>,
    /// The path of etcd's server, or `image:NAME`.
    etcd: Option<String>,
}

/// `[[registry]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RegistryOf {
    /// `host[:port]`.
    host: String,
    /// Without TLS, or with a certificate that nobody vouches for.
    #[serde(default)]
    plain_http: bool,
    /// The registry whose images are asked for here first.
    mirror_of: Option<String>,
}

/// `[collect]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Collect {
    /// Percent in use above which is collected; 100 for never.
    high: Option<u8>,
    /// Percent in use at which collecting ends.
    low: Option<u8>,
    /// What was used since is left: `24h`.
    min_age: Option<String>,
}

/// `[store]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StoreOf {
    /// Bytes of keys, values and history: `128m`.
    quota: Option<String>,
    /// Revisions of history kept at least; 0 for all.
    keep_revisions: Option<i64>,
    /// Time after which history is forgotten, however little there is: `1h`.
    keep_for: Option<String>,
}

pub(crate) fn read_config(args: &DaemonArgs) -> Result<Config, DaemonError> {
    let path = args.config.clone().unwrap_or_else(|| CONFIG.into());
    let bad = |why: String| DaemonError::Config {
        path: path.clone(),
        why,
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).map_err(|e| bad(e.to_string())),
        Err(e) if e.kind() == io::ErrorKind::NotFound && args.config.is_none() => {
            Ok(Config::default())
        }
        Err(e) => Err(bad(e.to_string())),
    }
}

/// What the daemon is made of.
pub(crate) struct Settings {
    pub(crate) engine: EngineOptions,
    pub(crate) marks: Marks,
    pub(crate) store_listen: Option<SocketAddr>,
    pub(crate) store: coracle_store::Options,
    /// Where other machines reach this one (an address of 0.0.0.0 where that is not known), and what it does with others.
    pub(crate) cluster: crate::cluster::Options,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) updates: Updates,
    /// Where the API is served to workstations, if it is.
    pub(crate) api: Option<crate::api_port::Options>,
    /// The configuration file, of which errors speak.
    pub(crate) config: PathBuf,
}

/// Loopback only: there is no other guard at that door yet.
fn store_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "none" {
        return Ok(None);
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(Some(address)),
        Ok(address) => Err(format!(
            "store_listen = \"{text}\": {} is no address of loopback, and whoever reaches this door may change everything in the store; containers have a door of their own at their network's address",
            address.ip()
        )),
        Err(_) => Err(format!(
            "store_listen = \"{text}\" is no address with a port; write for example 127.0.0.1:2379, or none"
        )),
    }
}

pub(crate) fn settings(args: &DaemonArgs) -> Result<Settings, DaemonError> {
    let config = read_config(args)?;
    let bad = |why: String| DaemonError::Config {
        path: args.config.clone().unwrap_or_else(|| CONFIG.into()),
        why,
    };
    let choose = |flag: &Option<PathBuf>, file: Option<PathBuf>, default: &str| {
        flag.clone().or(file).unwrap_or_else(|| default.into())
    };
    let state_dir = choose(&args.state_dir, config.state_dir, STATE_DIR);
    let run_dir = choose(&args.run_dir, config.run_dir, RUN_DIR);
    // What is mounted and what shims are told must not depend on where we were started.
    let absolute = |p: PathBuf| std::path::absolute(&p).map_err(file("finding", &p));
    let mut options = EngineOptions::new(absolute(state_dir)?, absolute(run_dir)?);
    let either = |flags: &[String], file: Vec<String>| {
        if flags.is_empty() {
            file
        } else {
            flags.to_vec()
        }
    };
    let hub = either(&args.registry_mirror, config.registry_mirrors);
    let mut insecure = either(&args.insecure_registry, config.insecure_registries);
    let mut mirrors = BTreeMap::from([("docker.io".to_owned(), hub)]);
    for registry in config.registry {
        let scheme = if registry.plain_http { "http" } else { "https" };
        if let Some(of) = registry.mirror_of {
            let url = format!("{scheme}://{}", registry.host);
            mirrors.entry(of).or_default().push(url);
        }
        if registry.plain_http {
            insecure.push(registry.host);
        }
    }
    options.registry = RegistryConfig {
        mirrors,
        insecure,
        ..RegistryConfig::default()
    };
    if let Some(pool) = config.default_pool {
        options.network.default_pool = pool.parse().map_err(|_| {
            bad(format!("default_pool = \"{pool}\" is no range of IPv4 addresses; write for example 10.210.0.0/16"))
        })?;
    }
    let mut marks = Marks::default();
    let collect = config.collect;
    marks.high = collect.high.unwrap_or(marks.high);
    marks.low = collect.low.unwrap_or(marks.low.min(marks.high));
    if marks.high > 100 || marks.low > marks.high {
        return Err(bad(format!(
            "collect: high = {} and low = {}: write percents, the low one not above the high one",
            marks.high, marks.low
        )));
    }
    if let Some(text) = collect.min_age {
        marks.min_age = duration("collect: min_age", &text).map_err(bad)?;
    }
    let listen = args.store_listen.clone().or(config.store_listen);
    let listen = listen.unwrap_or_else(|| format!("127.0.0.1:{DOOR_PORT}"));
    let advertise = advertise(args.advertise.clone().or(config.advertise)).map_err(bad)?;
    let overlay_pool = match config.network.overlay_pool {
        Some(text) => Some(
            overlay_pool(&text, options.network.default_pool, advertise)
                .map_err(|why| bad(format!("network: overlay_pool = \"{text}\": {why}")))?,
        ),
        None => None,
    };
    if let Some(text) = config.network.services {
        let machines = overlay_pool.unwrap_or(coracle_network::overlay::DEFAULT_POOL);
        options.network.services =
            services(&text, [options.network.default_pool, machines], advertise)
                .map_err(|why| bad(format!("network: services = \"{text}\": {why}")))?;
    }
    let api = crate::api_port::Options::read(
        args.api_listen.as_deref().or(config.api_listen.as_deref()),
        config.api_names,
        &config.api_clients,
    )
    .map_err(bad)?;
    let mut cluster = cluster(config.cluster, advertise, overlay_pool).map_err(bad)?;
    cluster.pinned = api.iter().flat_map(|api| api.pinned.clone()).collect();
    Ok(Settings {
        api,
        config: args.config.clone().unwrap_or_else(|| CONFIG.into()),
        engine: options,
        marks,
        store_listen: store_listen(&listen).map_err(bad)?,
        store: store(config.store).map_err(bad)?,
        labels: labels(config.machine).map_err(bad)?,
        updates: config.updates.read().map_err(bad)?,
        cluster,
    })
}

/// Machines' subnets must not be in the way of their networks, nor of their own addresses.
fn overlay_pool(text: &str, networks: Ipv4Net, advertise: SocketAddr) -> Result<Ipv4Net, String> {
    let pool = coracle_fleet::overlay::read_pool(text)?;
    if pool.contains(&networks) || networks.contains(&pool) {
        return Err(format!(
            "networks that are made on a machine take their subnets from default_pool, {networks}; write a range beside that"
        ));
    }
    without(pool, advertise)
}

/// A range in which this machine's own address must not be.
fn without(range: Ipv4Net, advertise: SocketAddr) -> Result<Ipv4Net, String> {
    match advertise.ip() {
        IpAddr::V4(own) if range.contains(&own) => Err(format!(
            "it contains {own}, this machine's own address; write another range"
        )),
        _ => Ok(range),
    }
}

/// Services' addresses must not be anything else.
fn services(text: &str, others: [Ipv4Net; 2], advertise: SocketAddr) -> Result<Ipv4Net, String> {
    let range: Ipv4Net = text.parse().map_err(|_| {
        "it is no range of IPv4 addresses; write for example 10.216.0.0/16".to_owned()
    })?;
    if range.trunc() != range {
        return Err(format!("that is within a range; write {}", range.trunc()));
    }
    if range.prefix_len() > 28 {
        return Err(
            "it has room for too few services; write /28 or a larger range, such as /16".into(),
        );
    }
    let overlap = |other: &Ipv4Net| other.contains(&range) || range.contains(other);
    if let Some(other) = others.iter().find(|o| overlap(o)) {
        return Err(format!(
            "networks and machines take their subnets from {other}; write a range beside that"
        ));
    }
    without(range, advertise)
}

fn advertise(given: Option<String>) -> Result<SocketAddr, String> {
    let port = crate::cluster::DOOR_PORT;
    let Some(text) = given else {
        let own = crate::cluster::own_address();
        let nowhere = std::net::Ipv4Addr::UNSPECIFIED.into();
        return Ok(SocketAddr::new(own.unwrap_or(nowhere), port));
    };
    let parsed = text.parse::<SocketAddr>().ok();
    let alone = || text.parse().ok().map(|ip| SocketAddr::new(ip, port));
    let found = parsed
        .or_else(alone)
        .filter(|a| !a.ip().is_unspecified() && a.port() != 0);
    found.ok_or_else(|| {
        format!("advertise = \"{text}\" is no address of this machine; write for example 192.0.2.7, or 192.0.2.7:{port}")
    })
}

fn replace_after(given: Option<&str>) -> Result<Duration, String> {
    let Some(text) = given else {
        return Ok(coracle_cluster::member::voters::PATIENCE);
    };
    let found = duration("cluster: replace_after", text)?;
    match found >= SHORTEST_ABSENCE {
        true => Ok(found),
        false => Err(format!(
            "cluster: replace_after = \"{text}\" is too short, a machine that restarts is away as long; write 5s or more, for example 10m"
        )),
    }
}

fn store(given: StoreOf) -> Result<coracle_store::Options, String> {
    let mut options = coracle_store::Options::default();
    if let Some(text) = given.quota {
        let bytes = values::bytes("quota", &text)
            .ok()
            .and_then(|n| u64::try_from(n).ok());
        // Less does not hold the machine's own units.
        let bytes = bytes.filter(|bytes| *bytes >= SMALLEST_STORE);
        options.quota_bytes = bytes.ok_or_else(|| {
            format!("store: quota = \"{text}\" cannot be had; write a size of 8m or more, for example 128m")
        })?;
    }
    if let Some(revisions) = given.keep_revisions {
        if revisions != 0 && revisions < LEAST_HISTORY {
            return Err(format!(
                "store: keep_revisions = {revisions} is too little for watches to go on after a break; write {LEAST_HISTORY} or more, or 0 to keep all"
            ));
        }
        options.keep_revisions = revisions;
    }
    if let Some(text) = given.keep_for {
        let keep = duration("store: keep_for", &text)?;
        if keep < SHORTEST_HISTORY {
            return Err(format!(
                "store: keep_for = \"{text}\" is too short for watches to go on after a break; write 1m or more"
            ));
        }
        options.keep_for = Some(keep);
    }
    Ok(options)
}

fn cluster(
    given: ClusterOf,
    advertise: SocketAddr,
    overlay_pool: Option<Ipv4Net>,
) -> Result<crate::cluster::Options, String> {
    let mut options = crate::cluster::Options {
        advertise,
        replace_after: replace_after(given.replace_after.as_deref())?,
        votes: given.votes.unwrap_or(true),
        overlay_pool,
        snapshots: Schedule::default(),
        program: Program::Host { path: None },
        pinned: Vec::new(),
    };
    if let Some(text) = given.snapshot_every {
        let every = duration("cluster: snapshot_every", &text)?;
        if every < SHORTEST_SNAPSHOTS {
            return Err(format!(
                "cluster: snapshot_every = \"{text}\" is too short, since each copy is the whole store; write 1s or more"
            ));
        }
        options.snapshots.every = every;
    }
    if let Some(keep) = given.snapshot_keep {
        if keep == 0 {
            return Err("cluster: snapshot_keep = 0 would keep no copy; write 1 or more".into());
        }
        options.snapshots.keep = keep;
    }
    if let Some(text) = given.etcd {
        options.program = match text.strip_prefix("image:") {
            Some("") => {
                return Err("cluster: etcd = \"image:\" names no image; write for example image:localhost/etcd".into());
            }
            Some(image) => Program::Image(image.to_owned()),
            None if text.starts_with('/') => Program::Host {
                path: Some(text.into()),
            },
            None => {
                return Err(format!(
                    "cluster: etcd = \"{text}\" is neither the path of a program nor image:NAME; write for example /usr/local/bin/etcd"
                ));
            }
        };
    }
    Ok(options)
}

fn labels(given: MachineOf) -> Result<BTreeMap<String, String>, String> {
    for (key, value) in &given.labels {
        coracle_fleet::machine::check_label(key, value)
            .map_err(|why| format!("machine: labels: {key} = \"{value}\": {why}"))?;
    }
    Ok(given.labels)
}

pub(crate) fn duration(key: &str, text: &str) -> Result<Duration, String> {
    let found = coracle_image::duration::nanoseconds(text).and_then(|n| u64::try_from(n).ok());
    found
        .map(Duration::from_nanos)
        .ok_or_else(|| format!("{key} = \"{text}\" is no duration; write for example 24h"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_example_is_taken_as_it_stands() {
        let example = include_str!("../../../contrib/coracle.toml");
        let is_key = |word: &str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        let lines = example.lines().filter_map(|line| line.strip_prefix("# "));
        let settings: Vec<&str> = lines
            .filter(|l| l.starts_with('[') || l.split_once(" = ").is_some_and(|(k, _)| is_key(k)))
            .collect();
        assert!(settings.len() > 30, "{settings:?}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coracle.toml");
        std::fs::write(&path, settings.join("\n")).unwrap();
        let args = DaemonArgs {
            config: Some(path),
            ..DaemonArgs::default()
        };
        let read = super::settings(&args).map_err(|e| e.to_string());
        let read = read.map(|settings| settings.store_listen);
        assert_eq!(read, Ok(Some("127.0.0.1:2379".parse().unwrap())));
    }
}
