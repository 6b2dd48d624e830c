//! Scalar values: booleans, time spans (systemd.time(7)), byte sizes, percentages.
use serde::{Serialize, Serializer};
use std::fmt;
use std::time::Duration;

/// Why a scalar cannot be read; the message names the text and the form expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ValueError {
    /// The text found.
    pub text: String,
    /// The form expected.
    pub expected: &'static str,
}

pub(crate) fn not(text: &str, expected: &'static str) -> ValueError {
    ValueError {
        text: text.to_owned(),
        expected,
    }
}

/// A span of time, or no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimeSpan {
    /// That long, to the microsecond.
    Finite(Duration),
    /// `infinity`.
    Infinity,
}

impl TimeSpan {
    /// A whole number of seconds.
    pub const fn secs(secs: u64) -> TimeSpan {
        TimeSpan::Finite(Duration::from_secs(secs))
    }
    /// The duration; nothing when infinite.
    pub fn duration(self) -> Option<Duration> {
        match self {
            TimeSpan::Finite(duration) => Some(duration),
            TimeSpan::Infinity => None,
        }
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TimeSpan::Infinity => f.write_str("infinity"),
            TimeSpan::Finite(d) if d.subsec_micros() == 0 => write!(f, "{}s", d.as_secs()),
            TimeSpan::Finite(d) => write!(f, "{}us", d.as_micros()),
        }
    }
}
impl Serialize for TimeSpan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `1 yes y true t on` and `0 no n false f off`, in any case.
pub fn parse_bool(text: &str) -> Result<bool, ValueError> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Ok(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Ok(false),
        _ => Err(not(text, "a boolean: write true or false")),
    }
}

const UNITS: [(&str, u64); 31] = [
    ("us", 1),
    ("usec", 1),
    ("µs", 1),
    ("μs", 1),
    ("ms", 1_000),
    ("msec", 1_000),
    ("s", 1_000_000),
    ("sec", 1_000_000),
    ("second", 1_000_000),
    ("seconds", 1_000_000),
    ("m", 60_000_000),
    ("min", 60_000_000),
    ("minute", 60_000_000),
    ("minutes", 60_000_000),
    ("h", 3_600_000_000),
    ("hr", 3_600_000_000),
    ("hour", 3_600_000_000),
    ("hours", 3_600_000_000),
    ("d", 86_400_000_000),
    ("day", 86_400_000_000),
    ("days", 86_400_000_000),
    ("w", 604_800_000_000),
    ("week", 604_800_000_000),
    ("weeks", 604_800_000_000),
    ("M", 2_629_800_000_000),
    ("month", 2_629_800_000_000),
    ("months", 2_629_800_000_000),
    ("y", 31_557_600_000_000),
    ("year", 31_557_600_000_000),
    ("years", 31_557_600_000_000),
    ("", 1_000_000),
];

/// `5min 20s`, `1.5h`, `infinity`; a bare number is seconds.
pub fn parse_time_span(text: &str) -> Result<TimeSpan, ValueError> {
    let bad = || {
        not(
            text,
            "a time span: write for example 30s, 5min 20s or infinity",
        )
    };
    let mut rest = text.trim();
    if rest == "infinity" {
        return Ok(TimeSpan::Infinity);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let after = after.trim_start();
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.' || c.is_whitespace())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let scale = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, s)| *s)
            .ok_or_else(bad)?;
        total = scaled(number, scale)
            .and_then(|n| total.checked_add(n))
            .ok_or_else(bad)?;
        rest = after.trim_start();
    }
    Ok(TimeSpan::Finite(Duration::from_micros(total)))
}

/// A decimal number times a scale, rounded down.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let mut total = if whole.is_empty() {
        0
    } else {
        whole.parse::<u64>().ok()?.checked_mul(scale)?
    };
    // Digits beyond these are less than one of any scale in use.
    let fraction = &fraction[..fraction.len().min(18)];
    if !fraction.is_empty() {
        let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(scale);
        let part = part / 10u128.pow(u32::try_from(fraction.len()).ok()?);
        total = total.checked_add(u64::try_from(part).ok()?)?;
    }
    Some(total)
}

/// A limit that may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Bytes or a count, as the key says.
    Value(u64),
    /// `infinity`.
    Infinity,
}

/// `512M`, `1.5G`, a bare number of bytes; base 1024; a final `B` or `b` is allowed.
pub fn parse_bytes(text: &str) -> Result<u64, ValueError> {
    let bad = || not(text, "a size: write for example 512M or 1G (base 1024)");
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_uppercase();
    let power = match unit
        .strip_suffix("IB")
        .or(unit.strip_suffix('B'))
        .unwrap_or(&unit)
    {
        "" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        "P" => 5,
        "E" => 6,
        _ => return Err(bad()),
    };
    scaled(number, 1 << (10 * power)).ok_or_else(bad)
}

/// As [`parse_bytes`], or `infinity`.
pub fn parse_bytes_limit(text: &str) -> Result<Limit, ValueError> {
    if text == "infinity" {
        Ok(Limit::Infinity)
    } else {
        parse_bytes(text).map(Limit::Value)
    }
}

/// A whole number, or `infinity`.
pub fn parse_count_limit(text: &str) -> Result<Limit, ValueError> {
    if text == "infinity" {
        return Ok(Limit::Infinity);
    }
    text.parse()
        .map(Limit::Value)
        .map_err(|_| not(text, "a whole number or infinity"))
}

/// `150%` as thousandths of one processor: 1500.
pub fn parse_cpu_quota(text: &str) -> Result<u64, ValueError> {
    let bad = || {
        not(
            text,
            "a share of processor time: write for example 50% or 200%",
        )
    };
    let quota = text
        .strip_suffix('%')
        .and_then(|n| scaled(n.trim(), 10))
        .ok_or_else(bad)?;
    if quota == 0 { Err(bad()) } else { Ok(quota) }
}

/// Processors, `0.5` or `2`, in thousandths of one: 500, 2000.
pub fn parse_cpus(text: &str) -> Result<u64, ValueError> {
    let bad = || not(text, "a number of processors: write for example 0.5 or 2");
    let fine = text.split_once('.').is_none_or(|(_, f)| f.len() <= 3);
    match scaled(text, 1000) {
        Some(millis) if millis > 0 && fine => Ok(millis),
        _ => Err(bad()),
    }
}
