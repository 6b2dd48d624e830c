//! Device nodes and the rules of the device cgroup.

use super::Inputs;
use crate::error::{EngineError, Result};
use rustix::fs::{FileType, Stat, major, minor, stat};
use serde_json::{Value, json};
use std::path::Path;

fn node(path_on_host: &Path, path_in_container: &str) -> Option<(Value, &'static str, Stat)> {
    let stat = stat(path_on_host).ok()?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => "c",
        FileType::BlockDevice => "b",
        _ => return None,
    };
    let value = json!({
        "path": path_in_container,
        "type": kind,
        "major": major(stat.st_rdev),
        "minor": minor(stat.st_rdev),
        "fileMode": stat.st_mode & 0o7777,
        "uid": stat.st_uid,
        "gid": stat.st_gid,
    });
    Some((value, kind, stat))
}

/// Nodes beyond the ones that every runtime makes.
///
/// # Errors
/// [`EngineError::Invalid`] for a device that is none.
pub fn nodes(inputs: &Inputs<'_>) -> Result<Value> {
    let host = &inputs.record.host_config;
    if host.privileged {
        return Ok(Value::Array(inputs.host_devices.clone()));
    }
    let mut list = Vec::new();
    for device in &host.devices {
        let found = behind(device);
        if found.is_empty() {
            return Err(EngineError::Invalid(format!(
                "error gathering device information while adding custom device \"{}\": not a device node, nor a directory of them",
                device.path_on_host
            )));
        }
        list.extend(found);
    }
    Ok(Value::Array(list))
}

/// The device that is asked for, or all those in a directory, as with docker.
fn behind(device: &crate::model::DeviceMapping) -> Vec<Value> {
    let (from, to) = (Path::new(&device.path_on_host), target(device));
    if let Some((value, _, _)) = node(from, to) {
        return vec![value];
    }
    let mut found = Vec::new();
    walk(from, Path::new(to), &mut found);
    found
}

fn target(device: &crate::model::DeviceMapping) -> &str {
    if device.path_in_container.is_empty() {
        &device.path_on_host
    } else {
        &device.path_in_container
    }
}

/// Rules of the device cgroup: Docker's, then as asked.
///
/// # Errors
/// [`EngineError::Invalid`] for a rule that cannot be read.
pub fn rules(inputs: &Inputs<'_>) -> Result<Value> {
    let host = &inputs.record.host_config;
    if host.privileged {
        return Ok(json!([{ "allow": true, "access": "rwm" }]));
    }
    let mut list = vec![
        json!({ "allow": false, "access": "rwm" }),
        json!({ "allow": true, "type": "c", "access": "m" }),
        json!({ "allow": true, "type": "b", "access": "m" }),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx; then every pty.
    for (major, minor) in [
        (1, 3),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (5, 0),
        (5, 1),
        (5, 2),
    ] {
        list.push(
            json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" }),
        );
    }
    list.push(json!({ "allow": true, "type": "c", "major": 136, "access": "rwm" }));
    for device in &host.devices {
        for node in behind(device) {
            let access = if device.cgroup_permissions.is_empty() {
                "rwm"
            } else {
                &device.cgroup_permissions
            };
            list.push(json!({
                "allow": true, "type": node["type"], "major": node["major"],
                "minor": node["minor"], "access": access,
            }));
        }
    }
    for rule in &host.device_cgroup_rules {
        list.push(parse_rule(rule).ok_or_else(|| {
            EngineError::Invalid(format!(
                "invalid device cgroup rule \"{rule}\"; write it as in \"c 13:* rwm\""
            ))
        })?);
    }
    Ok(Value::Array(list))
}

fn parse_rule(rule: &str) -> Option<Value> {
    let mut words = rule.split_whitespace();
    let (kind, numbers, access) = (words.next()?, words.next()?, words.next()?);
    if !matches!(kind, "a" | "b" | "c") || !access.bytes().all(|b| b"rwm".contains(&b)) {
        return None;
    }
    let number = |text: &str| -> Option<Value> {
        if text == "*" {
            Some(Value::Null)
        } else {
            text.parse::<i64>().ok().map(Value::from)
        }
    };
    let (major, minor) = numbers.split_once(':')?;
    Some(json!({
        "allow": true, "type": kind, "major": number(major)?, "minor": number(minor)?, "access": access
    }))
}

/// Every device node below the host's /dev but terminals, shared memory and queues.
pub fn host_devices() -> Vec<Value> {
    let mut found = Vec::new();
    walk(Path::new("/dev"), Path::new("/dev"), &mut found);
    found
}

/// Device nodes below `dir`, as they will stand below `to`.
fn walk(dir: &Path, to: &Path, found: &mut Vec<Value>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            let skip = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
            if !skip.iter().any(|s| entry.file_name() == *s) {
                walk(&path, &to, found);
            }
        } else if !kind.is_symlink() && entry.file_name() != "console" {
            let node = to.to_str().and_then(|to| node(&path, to));
            found.extend(node.map(|(value, _, _)| value));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rules_are_read() {
        assert_eq!(parse_rule("c 13:* rwm").unwrap()["major"], 13);
        assert!(parse_rule("c 13:* rwm").unwrap()["minor"].is_null());
        assert!(parse_rule("x 1:1 r").is_none());
        assert!(parse_rule("c 1 r").is_none());
    }

    #[test]
    fn the_null_device_is_found() {
        assert!(
            host_devices()
                .iter()
                .any(|d| d["path"] == "/dev/null" && d["major"] == 1)
        );
    }
}
