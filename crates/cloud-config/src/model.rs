//! What a document comes to.
use coracle_unit::UnitName;
use ipnet::Ipv4Net;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

/// A document's configuration, checked. Everything may be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CloudConfig {
    /// The machine's whole name (RFC 1123), at most 253 characters. Linux takes 64 bytes.
    pub hostname: Option<String>,
    /// Lines of OpenSSH's `authorized_keys` (sshd(8)), in order.
    pub ssh_authorized_keys: Vec<String>,
    /// Whether `/etc/hosts` leads the machine's name to loopback.
    pub manage_etc_hosts: bool,
    /// Files to write, each path once.
    pub write_files: Vec<WriteFile>,
    /// Units, each name once.
    pub units: Vec<CloudUnit>,
    /// How the machine keeps itself up to date.
    pub update: Update,
    /// The cluster that the machine becomes a member of.
    pub join: Option<Join>,
    /// The machine's labels: those of `coreos.fleet.metadata` and `coracle.labels`.
    pub labels: BTreeMap<String, String>,
    /// Where other machines reach this one: an IPv4 address, or one with a port.
    pub advertise: Option<String>,
    /// Where workstations reach the API over TLS, as address and port.
    pub api_listen: Option<String>,
    /// Names and IPv4 addresses that workstations reach the machine by, beside those that it has.
    pub api_names: Vec<String>,
    /// Clients that may use the API: `sha256:` and the hash of their keys, and what they are called.
    pub clients: Vec<String>,
    /// Registries that are reached in a way of their own.
    pub registries: Vec<Registry>,
    /// The machine's own network.
    pub network: Network,
    /// Public keys of minisign (base64) that updates may be signed with, beside those that the image has.
    pub update_keys: Vec<String>,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteFile {
    /// Below `/etc/` or `/var/`, absolute, without `.`, `..` or empty parts.
    pub path: String,
    /// Decoded, at most 10 MiB.
    pub content: Vec<u8>,
    /// Permissions, `0o644` where none were given.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudUnit {
    /// Its name.
    #[serde(deserialize_with = "unit_name")]
    pub name: UnitName,
    /// Its text, which [`coracle_unit::load`] takes together with the drop-ins; nothing only for a masked unit.
    pub content: Option<String>,
    /// In the order in which they apply, that of their names.
    pub drop_ins: Vec<DropIn>,
    /// Whether its `[Install]` section counts.
    pub enable: bool,
    /// Whether it is gone with the next boot.
    pub runtime: bool,
    /// What to do with it at boot.
    pub command: Option<Command>,
    /// Whether it must not run. Then it is neither enabled nor started.
    pub mask: bool,
}

/// A drop-in of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropIn {
    /// Name of the file, which ends with `.conf`.
    pub name: String,
    /// Its text.
    pub content: String,
}

/// What is done with a unit at boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// `start` or `restart`, which at boot are the same.
    Start,
    /// `stop`.
    Stop,
}

/// How the machine keeps itself up to date.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Update {
    /// The channel.
    pub group: Option<String>,
    /// Where updates come from, if the document says so.
    pub server: Option<UpdateServer>,
    /// When the machine boots into an update.
    pub reboot_strategy: RebootStrategy,
    /// When it may do so; always where nothing is given.
    pub window: Option<Window>,
}

/// Where updates come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpdateServer {
    /// Nowhere.
    Disabled,
    /// An OCI repository, with its registry and without a tag: `10.0.2.2:5000/coracle/os`.
    Repository(String),
}

/// When the machine boots into an update, as CoreOS called it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RebootStrategy {
    /// At once.
    Reboot,
    /// When the cluster's lock is had.
    #[default]
    EtcdLock,
    /// As [`Self::EtcdLock`] in a cluster, as [`Self::Reboot`] outside of one.
    BestEffort,
    /// When somebody does it.
    Off,
}

/// A time that comes each day or each week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Nothing for each day.
    pub weekday: Option<Weekday>,
    /// When it begins, in minutes from midnight.
    pub minute_of_day: u16,
    /// How long it is, in minutes; at most until it comes again.
    pub length_minutes: u32,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "each variant is the day of its name")]
pub enum Weekday {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

/// A cluster to become a member of.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// `HOST` or `HOST:PORT` of one of its machines.
    pub address: String,
    /// What it lets machines in with. A secret.
    pub token: String,
}

impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Join");
        shown
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// A registry that is reached in a way of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// `host` or `host:port`.
    pub host: String,
    /// Without TLS.
    pub plain_http: bool,
    /// The registry whose images are asked for here first.
    pub mirror_of: Option<String>,
}

/// The machine's own network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Name servers, before those of interfaces.
    pub dns: Vec<Ipv4Addr>,
    /// Interfaces that are set up in a way of their own, each once.
    pub interfaces: Vec<Interface>,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Which one.
    pub which: Selector,
    /// Whether it asks for an address.
    pub dhcp: bool,
    /// Its address and the length of its subnet's prefix.
    pub address: Option<Ipv4Net>,
    /// The way out; within the subnet of `address`.
    pub gateway: Option<Ipv4Addr>,
    /// Largest packet in bytes.
    pub mtu: Option<u16>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
}

/// Which interface is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selector {
    /// By its name, `eth0`.
    Name(String),
    /// By its hardware's address, `52:54:00:12:34:56`, in lower case.
    Mac(String),
}

fn unit_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UnitName, D::Error> {
    let text = String::deserialize(deserializer)?;
    UnitName::try_from(text).map_err(serde::de::Error::custom)
}
