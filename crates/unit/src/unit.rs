//! A whole unit: [`load`] takes text and drop-ins and gives a typed [`Unit`] or every problem.
use crate::container::{ContainerUnit, MountSource, Network};
use crate::deploy::{self, DeploySection};
use crate::diag::{Diagnostic, Diagnostics, nearest};
use crate::fleet::FleetSection;
use crate::keys::{self, Table};
use crate::name::{UnitKind, UnitName};
use crate::reader::Reader;
use crate::service::{ServiceSection, choice, start_limit_interval};
use crate::specifier::SpecifierContext;
use crate::syntax::{UnitFile, merge};
use crate::value::{TimeSpan, parse_bool};
use serde::Serialize;
use std::collections::BTreeMap;

/// `[Unit]`: order and need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "each field is the key of its name, see systemd.unit(5)"
)]
pub struct UnitSection {
    pub documentation: Vec<String>,
    pub requires: Vec<String>,
    pub wants: Vec<String>,
    pub after: Vec<String>,
    pub before: Vec<String>,
    pub binds_to: Vec<String>,
    pub part_of: Vec<String>,
    pub conflicts: Vec<String>,
}

/// `[Install]`: whether the unit starts with the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "each field is the key of its name, see systemd.unit(5)"
)]
pub struct InstallSection {
    pub wanted_by: Vec<String>,
    pub required_by: Vec<String>,
}

/// `[Volume]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeUnit {
    /// Name; the unit's stem by default.
    pub volume_name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `Type=`: what is mounted.
    pub file_system: Option<String>,
    /// `Device=`: from where.
    pub device: Option<String>,
    /// `Options=`: as mount(8) has them.
    pub mount_options: Option<String>,
}

impl VolumeUnit {
    /// Options of the driver, as docker names them.
    pub fn options(&self) -> BTreeMap<String, String> {
        let named = [
            ("type", &self.file_system),
            ("device", &self.device),
            ("o", &self.mount_options),
        ];
        let given = named
            .into_iter()
            .filter_map(|(k, v)| Some((k.to_owned(), v.clone()?)));
        given.collect()
    }
}

/// `[Network]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "each field is the key of its name, see podman-systemd.unit(5)"
)]
pub struct NetworkUnit {
    /// Name; the unit's stem by default.
    pub network_name: String,
    pub subnets: Vec<String>,
    pub gateways: Vec<String>,
    pub ip_ranges: Vec<String>,
    pub internal: bool,
    pub disable_dns: bool,
    pub ipv6: bool,
    pub labels: BTreeMap<String, String>,
}

/// What the unit is. `.container` also carries [Service].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(
    missing_docs,
    reason = "variants and fields are named for their sections"
)]
pub enum Kind {
    Container {
        container: Box<ContainerUnit>,
        service: Box<ServiceSection>,
    },
    Volume(VolumeUnit),
    Network(NetworkUnit),
    Service(Box<ServiceSection>),
}

/// A checked unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "fields are named for their sections")]
pub struct Unit {
    pub name: UnitName,
    pub description: String,
    pub unit: UnitSection,
    pub kind: Kind,
    pub fleet: FleetSection,
    pub deploy: DeploySection,
    pub install: InstallSection,
    /// The text as submitted, without drop-ins.
    pub text: String,
}

/// What a unit is given to stop, if it says so: `StopTimeout=`, or `TimeoutStopSec=` where that is not systemd's default.
pub fn stop_time(kind: &Kind) -> Option<TimeSpan> {
    let of_service =
        |service: &ServiceSection| Some(service.timeout_stop).filter(|t| *t != TimeSpan::secs(90));
    match kind {
        Kind::Container { container, service } => {
            let own = container.times.get("StopTimeout").copied();
            own.or_else(|| of_service(service))
        }
        Kind::Service(service) => of_service(service),
        Kind::Volume(_) | Kind::Network(_) => None,
    }
}

/// Loads a unit. `dropins` are (file name, text) in the order in which they apply. A template is
/// checked as its instance `1`, since it cannot run itself.
pub fn load(
    name: &UnitName,
    text: &str,
    dropins: &[(String, String)],
    ctx: &SpecifierContext,
) -> Result<Unit, Diagnostics> {
    let mut problems = Vec::new();
    let base = read_file(name.as_str(), text, &mut problems);
    let extra: Vec<UnitFile> = dropins
        .iter()
        .map(|(file, text)| read_file(file, text, &mut problems))
        .collect();
    let file = merge(&base, &extra);
    let problem = |line, section: &str, message: String, suggestion| Diagnostic {
        file: name.to_string(),
        line,
        section: section.to_owned(),
        key: String::new(),
        message,
        suggestion,
    };
    let own: &[&'static Table] = match name.kind() {
        UnitKind::Container => &[&keys::CONTAINER, &keys::SERVICE],
        UnitKind::Service => &[&keys::SERVICE],
        UnitKind::Volume => &[&keys::VOLUME],
        UnitKind::Network => &[&keys::NETWORK],
        other => {
            let message = format!(
                ".{} units are not honoured yet; write a .container, .volume, .network or .service",
                other.suffix()
            );
            problems.push(problem(0, "", message, None));
            return Err(Diagnostics(problems));
        }
    };
    let common = [&keys::UNIT, &keys::INSTALL, &keys::FLEET, &keys::DEPLOY];
    let tables: Vec<&'static Table> = own.iter().copied().chain(common).collect();
    for section in &file.sections {
        if !tables.iter().any(|t| t.section == section.name) {
            let near = nearest(&section.name, tables.iter().map(|t| t.section));
            let mut p = problem(
                section.line(),
                &section.name,
                "unknown section for this kind of unit".to_owned(),
                near.map(|n| format!("[{n}]")),
            );
            if let Some(entry) = section.entries.first() {
                p.file = entry.file.to_string();
            }
            problems.push(p);
        }
    }
    let instance = if name.is_template() {
        name.instantiate("1").ok()
    } else {
        None
    };
    let acting = instance.as_ref().unwrap_or(name);
    for table in &tables {
        Reader {
            unit: &file,
            name: acting,
            ctx,
            table,
            problems: &mut problems,
        }
        .check_keys();
    }
    macro_rules! r {
        ($table:expr) => {
            &mut Reader {
                unit: &file,
                name: acting,
                ctx,
                table: $table,
                problems: &mut problems,
            }
        };
    }
    let description = r!(&keys::UNIT).string("Description").unwrap_or_default();
    let unit = UnitSection::read(r!(&keys::UNIT));
    let interval = start_limit_interval(r!(&keys::UNIT));
    let burst: Option<u32> = r!(&keys::UNIT).parse("StartLimitBurst", str::parse);
    let install = InstallSection {
        wanted_by: r!(&keys::INSTALL).plain_words("WantedBy"),
        required_by: r!(&keys::INSTALL).plain_words("RequiredBy"),
    };
    let fleet = FleetSection::read(r!(&keys::FLEET), acting);
    if matches!(name.kind(), UnitKind::Volume | UnitKind::Network) {
        for entry in file.entries("X-Deploy") {
            r!(&keys::DEPLOY).fail(entry, "has no meaning for a volume or network; remove it");
        }
    }
    let deploy = DeploySection::read(r!(&keys::DEPLOY));
    let kind = match name.kind() {
        UnitKind::Volume => Kind::Volume(read_volume(r!(&keys::VOLUME))),
        UnitKind::Network => Kind::Network(read_network(r!(&keys::NETWORK))),
        kind => {
            let container = kind == UnitKind::Container;
            let mut service = Box::new(ServiceSection::read(r!(&keys::SERVICE), container));
            limits(&mut service, interval, burst);
            if container {
                Kind::Container {
                    container: Box::new(ContainerUnit::read(r!(&keys::CONTAINER))),
                    service,
                }
            } else {
                Kind::Service(service)
            }
        }
    };
    let limit = match &kind {
        Kind::Container { container, .. } => container.memory,
        _ => None,
    };
    let stop = stop_time(&kind);
    deploy::check(r!(&keys::DEPLOY), &deploy, fleet.global, limit, stop);
    if !problems.is_empty() {
        problems.sort_by(|a, b| {
            (a.file != name.as_str(), &a.file, a.line).cmp(&(
                b.file != name.as_str(),
                &b.file,
                b.line,
            ))
        });
        problems.dedup();
        return Err(Diagnostics(problems));
    }
    Ok(Unit {
        name: name.clone(),
        description,
        unit,
        kind,
        fleet,
        deploy,
        install,
        text: text.to_owned(),
    })
}

fn limits(service: &mut ServiceSection, interval: Option<TimeSpan>, burst: Option<u32>) {
    service.start_limit_interval = interval.unwrap_or(service.start_limit_interval);
    service.start_limit_burst = burst.unwrap_or(service.start_limit_burst);
}

fn read_file(file: &str, text: &str, problems: &mut Vec<Diagnostic>) -> UnitFile {
    let (unit, errors) = UnitFile::parse_all(file, text);
    let mut tell = |line, message| {
        let (section, key) = Default::default();
        problems.push(Diagnostic {
            file: file.to_owned(),
            line,
            section,
            key,
            message,
            suggestion: None,
        });
    };
    for error in errors {
        tell(error.line, error.kind.to_string());
    }
    for (line, _) in &unit.stray {
        tell(
            *line,
            "stands before the first [Section]; move it into one".to_owned(),
        );
    }
    unit
}

impl UnitSection {
    fn read(r: &mut Reader<'_>) -> UnitSection {
        let mut names = |key: &str| r.parse_words(key, |v| UnitName::new(v).map(|n| n.to_string()));
        UnitSection {
            requires: names("Requires"),
            wants: names("Wants"),
            after: names("After"),
            before: names("Before"),
            binds_to: names("BindsTo"),
            part_of: names("PartOf"),
            conflicts: names("Conflicts"),
            documentation: r.plain_words("Documentation"),
        }
    }
}

fn read_volume(r: &mut Reader<'_>) -> VolumeUnit {
    choice(r, "Driver", &["local"], "local");
    let stem = r.name.stem().to_owned();
    VolumeUnit {
        volume_name: r.string("VolumeName").unwrap_or(stem),
        labels: r.pairs("Label"),
        file_system: r.string("Type"),
        device: r.string("Device"),
        mount_options: r.string("Options"),
    }
}

fn read_network(r: &mut Reader<'_>) -> NetworkUnit {
    choice(r, "Driver", &["bridge"], "bridge");
    let stem = r.name.stem().to_owned();
    let address = |v: &str| v.parse::<std::net::IpAddr>().map(|_| v.to_owned());
    NetworkUnit {
        network_name: r.string("NetworkName").unwrap_or(stem),
        subnets: r.parse_list("Subnet", parse_subnet),
        gateways: r.parse_list("Gateway", address),
        ip_ranges: r.parse_list("IPRange", |v| {
            if v.contains('-') {
                range(v)
            } else {
                parse_subnet(v)
            }
        }),
        internal: r.parse("Internal", parse_bool).unwrap_or(false),
        disable_dns: r.parse("DisableDNS", parse_bool).unwrap_or(false),
        ipv6: r.parse("IPv6", parse_bool).unwrap_or(false),
        labels: r.pairs("Label"),
    }
}

fn range(v: &str) -> Result<String, String> {
    let ok = v
        .split('-')
        .filter(|a| a.trim().parse::<std::net::IpAddr>().is_ok())
        .count()
        == 2;
    if ok {
        Ok(v.to_owned())
    } else {
        Err(format!("{v:?} is not a range of addresses"))
    }
}

fn parse_subnet(v: &str) -> Result<String, String> {
    let good = v.split_once('/').is_some_and(|(ip, bits)| {
        let max = match ip.parse() {
            Ok(std::net::IpAddr::V4(_)) => 32,
            Ok(std::net::IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|b| b <= max)
    });
    if good {
        Ok(v.to_owned())
    } else {
        Err(format!("{v:?} is not a subnet such as 10.89.0.0/24"))
    }
}

/// Units that this one needs and starts after because its volumes and networks are units.
pub fn implied_dependencies(unit: &Unit) -> Vec<UnitName> {
    let Kind::Container { container, .. } = &unit.kind else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for mount in &container.mounts {
        if let MountSource::Unit(name) = &mount.source {
            out.push(name.clone());
        }
    }
    for network in &container.networks {
        if let Network::Unit(name) = network {
            out.push(name.clone());
        }
    }
    out.sort();
    out.dedup();
    out
}
