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
}

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
        }
    }
}

impl DeploySection {
    pub(crate) fn read(r: &mut Reader<'_>) -> DeploySection {
        let d = DeploySection::default();
        // Read and checked already; anything but the default would be ignored, so it is refused.
        for (key, default, form) in [
            ("Strategy", "start-first", "start-first or stop-first"),
            ("Batch", "1", "a whole number"),
            ("Canary", "0", "a whole number"),
            ("Scale", "1", "a whole number"),
            ("DrainSec", "10s", "a time span"),
        ] {
            let Some((entry, value)) = r.last(key) else {
                continue;
            };
            let valid = match key {
                "Strategy" => matches!(value.as_str(), "start-first" | "stop-first"),
                "DrainSec" => parse_time_span(&value).is_ok(),
                _ => value.parse::<u32>().is_ok(),
            };
            let same = value == default
                || (key == "DrainSec" && parse_time_span(&value) == Ok(TimeSpan::secs(10)));
            if !valid {
                r.fail(entry, format!("{value:?} is not {form}"));
            } else if !same {
                r.fail(
                    entry,
                    format!("{value} is not honoured yet; remove it or write {default}"),
                );
            }
        }
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
