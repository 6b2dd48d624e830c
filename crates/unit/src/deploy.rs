//! `[X-Deploy]`: health from outside, names, how a new version takes over, and what a unit needs of its machine.
use crate::reader::Reader;
use crate::value::{TimeSpan, parse_bool, parse_bytes, parse_cpus, parse_time_span};
use serde::Serialize;
use std::time::Duration;

/// How long what is exclusive may run on its machine after that was there for sure the last time.
pub const LEASE: Duration = Duration::from_secs(10);
/// Longest time that something exclusive may take to stop. The rest of [`LEASE`] is for asking anew, several times.
pub const LONGEST_STOP: Duration = Duration::from_secs(6);
/// `LostAfterSec=` in seconds: the least, and what is so without it.
pub const LOST_AFTER: (u32, u32) = (5, 20);

/// A probe run from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// GET; 200 to 399 is healthy.
    Http {
        /// Host part of the URL; nothing means the container's address.
        host: Option<String>,
        /// TCP port.
        port: u16,
        /// Path with query, starting with `/`.
        path: String,
    },
    /// A connection that is accepted is healthy.
    Tcp {
        /// Host part of the URL; nothing means the container's address.
        host: Option<String>,
        /// TCP port.
        port: u16,
    },
}

/// Deploy settings; times not given have the defaults named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeploySection {
    /// How health is probed; nothing leaves it to HealthCmd= or the settle time.
    pub probe: Option<Probe>,
    /// Between probes; 10 s.
    pub probe_interval: TimeSpan,
    /// For one probe; 3 s.
    pub probe_timeout: TimeSpan,
    /// Failures in a row that mean unhealthy; 3.
    pub probe_retries: u32,
    /// Running this long means healthy where nothing probes; 5 s.
    pub settle: TimeSpan,
    /// No service address, only instances.
    pub headless: bool,
    /// Processor time that a machine must have left for it, in thousandths of a processor.
    pub reserve_cpu: Option<u64>,
    /// Memory that a machine must have left for it, in bytes. What it may take is [Container] Memory=.
    pub reserve_memory: Option<u64>,
    /// Instances of its template go to different machines where they can; yes.
    pub spread: bool,
    /// Never two at a time, not even while it moves, nor on a machine that is cut off. Nothing leaves it to whether it has data.
    pub exclusive: Option<bool>,
    /// Seconds within which it runs elsewhere when its machine is lost; 20.
    pub lost_after: Option<u32>,
    /// Which comes first when a new version takes over; nothing leaves it to what the unit allows.
    pub strategy: Option<Strategy>,
    /// Instances that are replaced at a time; 1.
    pub batch: u32,
    /// Instances after which a deploy waits to be told to go on; 0 is none.
    pub canary: u32,
    /// Instances of a template that a deploy makes; nothing leaves as many as there are.
    pub scale: Option<u32>,
    /// How long one that is replaced may go on with what it has begun, once nothing new comes to it; 10 s.
    pub drain: TimeSpan,
}

/// Which comes first when a new version takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The new instance is up and healthy before the old one goes.
    StartFirst,
    /// The old instance goes before the new one is started.
    StopFirst,
}

impl std::str::FromStr for Strategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "start-first" => Ok(Self::StartFirst),
            "stop-first" => Ok(Self::StopFirst),
            _ => Err(format!("{text:?} is not start-first or stop-first")),
        }
    }
}

impl std::fmt::Display for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::StartFirst => "start-first",
            Self::StopFirst => "stop-first",
        })
    }
}

/// Most instances of one template that a deploy makes.
pub const MOST_INSTANCES: u32 = 1000;

impl Default for DeploySection {
    fn default() -> Self {
        DeploySection {
            probe: None,
            probe_interval: TimeSpan::secs(10),
            probe_timeout: TimeSpan::secs(3),
            probe_retries: 3,
            settle: TimeSpan::secs(5),
            headless: false,
            reserve_cpu: None,
            reserve_memory: None,
            spread: true,
            exclusive: None,
            lost_after: None,
            strategy: None,
            batch: 1,
            canary: 0,
            scale: None,
            drain: TimeSpan::secs(10),
        }
    }
}

impl DeploySection {
    pub(crate) fn read(r: &mut Reader<'_>) -> DeploySection {
        let d = DeploySection::default();
        DeploySection {
            probe: r.parse("Probe", parse_probe),
            probe_interval: r
                .parse("ProbeIntervalSec", finite)
                .unwrap_or(d.probe_interval),
            probe_timeout: r
                .parse("ProbeTimeoutSec", finite)
                .unwrap_or(d.probe_timeout),
            probe_retries: r
                .parse("ProbeRetries", |v| {
                    v.parse().ok().filter(|n| *n > 0).ok_or("must be 1 or more")
                })
                .unwrap_or(d.probe_retries),
            settle: r
                .parse("SettleSec", |v| match parse_time_span(v) {
                    Ok(TimeSpan::Infinity) => Err("must have an end".to_owned()),
                    other => other.map_err(|e| e.to_string()),
                })
                .unwrap_or(d.settle),
            headless: r.parse("Headless", parse_bool).unwrap_or(d.headless),
            reserve_cpu: r.parse("ReserveCPU", parse_cpus),
            reserve_memory: r.parse("ReserveMemory", |v| match parse_bytes(v) {
                Ok(0) => Err("must be more than 0".to_owned()),
                other => other.map_err(|e| e.to_string()),
            }),
            spread: r.parse("Spread", parse_bool).unwrap_or(d.spread),
            exclusive: r.parse("Exclusive", parse_bool),
            lost_after: r.parse("LostAfterSec", lost_after),
            strategy: r.parse("Strategy", |v| v.parse::<Strategy>()),
            batch: r.parse("Batch", count).unwrap_or(d.batch),
            canary: r
                .parse("Canary", |v| match v {
                    "0" => Ok(0),
                    other => count(other),
                })
                .unwrap_or(d.canary),
            scale: r.parse("Scale", count),
            drain: r
                .parse("DrainSec", |v| match parse_time_span(v) {
                    Ok(TimeSpan::Infinity) => Err("must have an end".to_owned()),
                    other => other.map_err(|e| e.to_string()),
                })
                .unwrap_or(d.drain),
        }
    }
}

/// What contradicts other sections.
pub(crate) fn check(
    r: &mut Reader<'_>,
    deploy: &DeploySection,
    global: bool,
    limit: Option<u64>,
    stop: Option<TimeSpan>,
) {
    let exclusive = deploy.exclusive == Some(true);
    if exclusive && deploy.lost_after.is_some_and(|s| s < LOST_AFTER.1) {
        r.fail_section(
            "LostAfterSec",
            "an exclusive unit starts elsewhere only when it has stopped for sure, which takes up to 20s; remove one of the two",
        );
    }
    if exclusive && let Some(why) = stop.and_then(takes_too_long) {
        r.fail_section("Exclusive", why);
    }
    if exclusive && deploy.strategy == Some(Strategy::StartFirst) {
        r.fail_section(
            "Strategy",
            "start-first has two at a time, which Exclusive= forbids; remove one of the two",
        );
    }
    if exclusive && global {
        r.fail_section(
            "Exclusive",
            "a Global unit runs on many machines at once; remove one of the two",
        );
    }
    if let (Some(asked), Some(limit)) = (deploy.reserve_memory, limit)
        && asked > limit
    {
        r.fail_section(
            "ReserveMemory",
            "is more than the unit may take; raise Memory= of [Container] or lower it",
        );
    }
}

/// Why something exclusive cannot be given so long to stop.
pub fn takes_too_long(stop: TimeSpan) -> Option<String> {
    let time = match stop.duration() {
        Some(time) if time <= LONGEST_STOP => return None,
        Some(time) => format!("StopTimeout= of {} s", time.as_secs()),
        None => "StopTimeout= without an end".to_owned(),
    };
    Some(format!(
        "{time} is too long: where its machine is cut off, an exclusive unit has to have stopped before the machine's lease of {} s is over; make it {} s at most",
        LEASE.as_secs(),
        LONGEST_STOP.as_secs()
    ))
}

fn lost_after(text: &str) -> Result<u32, String> {
    let (least, most) = LOST_AFTER;
    let whole = |d: Duration| (d.subsec_nanos() == 0).then_some(d.as_secs());
    let time = parse_time_span(text).map_err(|e| e.to_string())?;
    let seconds = time
        .duration()
        .and_then(whole)
        .and_then(|s| u32::try_from(s).ok());
    let fits = seconds.filter(|s| (least..=most).contains(s));
    fits.ok_or_else(|| format!("{text:?} is not from {least}s to {most}s, in whole seconds"))
}

fn count(text: &str) -> Result<u32, String> {
    let number = text.parse::<u32>().ok();
    let fits = number.filter(|n| (1..=MOST_INSTANCES).contains(n));
    fits.ok_or_else(|| format!("{text:?} is not a whole number from 1 to {MOST_INSTANCES}"))
}

fn finite(text: &str) -> Result<TimeSpan, String> {
    match parse_time_span(text).map_err(|e| e.to_string())? {
        TimeSpan::Infinity => Err("must have an end".to_owned()),
        TimeSpan::Finite(d) if d.is_zero() => Err("must be more than 0".to_owned()),
        span => Ok(span),
    }
}

fn parse_probe(text: &str) -> Result<Probe, String> {
    let bad = || format!("{text:?} is not a probe: write http://:8080/healthz or tcp://:6379");
    let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse::<u16>().map_err(|_| bad())?)),
        None => (authority, None),
    };
    let foreign = |c: char| c.is_whitespace() || c.is_control();
    if port == Some(0) || text.contains(foreign) || host.contains('@') {
        return Err(bad());
    }
    let host = (!host.is_empty()).then(|| host.to_owned());
    match (scheme, port) {
        ("http", _) => Ok(Probe::Http {
            host,
            port: port.unwrap_or(80),
            path: if path.is_empty() {
                "/".to_owned()
            } else {
                path.to_owned()
            },
        }),
        ("tcp", Some(port)) if path.is_empty() => Ok(Probe::Tcp { host, port }),
        ("https", _) => Err("https probes are not honoured yet; use http:// or tcp://".to_owned()),
        _ => Err(bad()),
    }
}
