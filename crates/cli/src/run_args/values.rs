//! What flags of `run` and `create` take.

use crate::error::{CliError, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

pub(super) fn bad(flag: &str, value: &str, way_out: &str) -> CliError {
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
    coracle_image::duration::nanoseconds(text)
        .ok_or_else(|| bad(flag, text, "write for example 1m30s"))
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
pub(super) fn lines(path: &str) -> Result<Vec<String>> {
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

pub fn env_file(path: &str) -> Result<Vec<String>> {
    Ok(environment(&lines(path)?))
}

pub(super) type Bindings = BTreeMap<String, Vec<Value>>;

/// Reads `-p`: `[[address:]host:]container[/protocol]`, ranges too.
pub(super) fn publish(text: &str, bindings: &mut Bindings) -> Result<()> {
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

/// Reads `--network`: a name, or docker's long form `name=NETWORK,ip6=ADDRESS,…`. Gives the name and its settings.
pub(super) fn network(text: &str) -> Result<(String, Value)> {
    let mut endpoint = json!({});
    if !text.contains('=') {
        return Ok((text.to_owned(), endpoint));
    }
    let mut name = None;
    let push = |slot: &mut Value, value: &str| match slot {
        Value::Array(list) => list.push(json!(value)),
        other => *other = json!([value]),
    };
    for part in fields(text) {
        let (key, value) = part.split_once('=').unwrap_or((&part, ""));
        match key {
            "name" => name = Some(value.to_owned()),
            "alias" => push(&mut endpoint["Aliases"], value),
            "ip" => endpoint["IPAMConfig"]["IPv4Address"] = json!(value),
            "ip6" => endpoint["IPAMConfig"]["IPv6Address"] = json!(value),
            "link-local-ip" => push(&mut endpoint["IPAMConfig"]["LinkLocalIPs"], value),
            "mac-address" => endpoint["MacAddress"] = json!(value),
            "gw-priority" => {
                let number: i64 = value
                    .parse()
                    .map_err(|_| bad("network", text, "gw-priority is a whole number"))?;
                endpoint["GwPriority"] = json!(number);
            }
            _ => {
                let way_out = format!(
                    "{key} is not known; name, alias, ip, ip6, link-local-ip, mac-address and gw-priority are"
                );
                return Err(bad("network", text, &way_out));
            }
        }
    }
    let name = name.ok_or_else(|| bad("network", text, "write name=NETWORK,…"))?;
    Ok((name, endpoint))
}

pub(super) fn mount(text: &str) -> Result<Value> {
    let mut mount = Map::from_iter([("Type".to_owned(), json!("volume"))]);
    for part in fields(text) {
        let (key, value) = part.split_once('=').unwrap_or((&part, "true"));
        match key {
            // Of macOS, and without effect on Linux, as with docker.
            "consistency" => None,
            "bind-recursive" => recursive(&mut mount, value).ok_or_else(|| {
                bad(
                    "mount",
                    text,
                    "bind-recursive takes enabled, disabled, writable or readonly",
                )
            })?,
            "type" => mount.insert("Type".into(), json!(value)),
            "source" | "src" => mount.insert("Source".into(), json!(value)),
            "target" | "destination" | "dst" => mount.insert("Target".into(), json!(value)),
            "readonly" | "ro" => mount.insert("ReadOnly".into(), json!(is_on(value))),
            "bind-propagation" => inner(&mut mount, "BindOptions", "Propagation", json!(value)),
            "bind-nonrecursive" => inner(
                &mut mount,
                "BindOptions",
                "NonRecursive",
                json!(is_on(value)),
            ),
            "bind-create-src" => inner(
                &mut mount,
                "BindOptions",
                "CreateMountpoint",
                json!(is_on(value)),
            ),
            "volume-nocopy" => inner(&mut mount, "VolumeOptions", "NoCopy", json!(is_on(value))),
            "volume-subpath" => inner(&mut mount, "VolumeOptions", "Subpath", json!(value)),
            "volume-label" => {
                let (key, value) = value.split_once('=').unwrap_or((value, ""));
                named(&mut mount, "VolumeOptions", "Labels", key, value)
            }
            "volume-driver" => {
                let driver = &mut mount.entry("VolumeOptions").or_insert(json!({}))["DriverConfig"];
                driver["Name"] = json!(value);
                None
            }
            "volume-opt" => {
                let (key, value) = value.split_once('=').unwrap_or((value, ""));
                let driver = &mut mount.entry("VolumeOptions").or_insert(json!({}))["DriverConfig"];
                driver["Options"][key] = json!(value);
                None
            }
            "tmpfs-size" => {
                let size = json!(bytes("mount", value)?);
                inner(&mut mount, "TmpfsOptions", "SizeBytes", size)
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8)
                    .map_err(|_| bad("mount", text, "write a mode such as 1770"))?;
                inner(&mut mount, "TmpfsOptions", "Mode", json!(mode))
            }
            _ => return Err(bad("mount", text, &format!("\"{key}\" is not understood"))),
        };
    }
    Ok(Value::Object(mount))
}

/// Parts between commas; a part in double quotes may have commas itself, and two quotes are one (RFC 4180).
fn fields(text: &str) -> Vec<String> {
    let (mut all, mut part, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => part.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => all.push(std::mem::take(&mut part)),
            c => part.push(c),
        }
    }
    all.push(part);
    all
}

/// What of a bind's submounts shows, and how: docker's newer word for three switches.
fn recursive(mount: &mut Map<String, Value>, value: &str) -> Option<Option<Value>> {
    let field = match value {
        "enabled" => return Some(None),
        "disabled" => "NonRecursive",
        "writable" => "ReadOnlyNonRecursive",
        "readonly" => "ReadOnlyForceRecursive",
        _ => return None,
    };
    Some(inner(mount, "BindOptions", field, json!(true)))
}

/// Docker's words for a switch without a value, or with one.
fn is_on(value: &str) -> bool {
    !matches!(value, "false" | "0")
}

/// Sets a field of one of a mount's objects.
fn inner(mount: &mut Map<String, Value>, object: &str, field: &str, value: Value) -> Option<Value> {
    mount.entry(object).or_insert(json!({}))[field] = value;
    None
}

/// Sets an entry of a map in one of a mount's objects.
fn named(
    mount: &mut Map<String, Value>,
    object: &str,
    field: &str,
    key: &str,
    value: &str,
) -> Option<Value> {
    mount.entry(object).or_insert(json!({}))[field][key] = json!(value);
    None
}

pub fn ulimit(text: &str) -> Result<Value> {
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

pub(super) fn device(text: &str) -> Value {
    let mut parts = text.split(':');
    let host = parts.next().unwrap_or_default();
    json!({
        "PathOnHost": host,
        "PathInContainer": parts.next().unwrap_or(host),
        "CgroupPermissions": parts.next().unwrap_or("rwm"),
    })
}

/// A relative directory is one of ours, not the daemon's.
pub(super) fn absolute(bind: &str) -> String {
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
