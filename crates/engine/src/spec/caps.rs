//! Capabilities: Docker's default list, what is added and dropped.

use crate::model::HostConfig;
use serde_json::{Value, json};

/// Docker's default capabilities.
pub const DEFAULT: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability of Linux 6, in the order of its numbers.
pub const ALL: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// `net_admin` and `CAP_NET_ADMIN` alike become the latter.
pub fn normalize(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" || upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    }
}

/// Names in the lists that are no capability.
pub fn unknown(host: &HostConfig) -> Option<String> {
    host.cap_add
        .iter()
        .chain(&host.cap_drop)
        .find(|name| {
            let name = normalize(name);
            name != "ALL" && !ALL.contains(&name.as_str())
        })
        .cloned()
}

/// The capabilities of a container, in numeric order.
pub fn resolve(host: &HostConfig, available: &[String]) -> Vec<&'static str> {
    let add: Vec<String> = host.cap_add.iter().map(|c| normalize(c)).collect();
    let drop: Vec<String> = host.cap_drop.iter().map(|c| normalize(c)).collect();
    let has = |list: &[String], name: &str| list.iter().any(|c| c == name);
    ALL.iter()
        .copied()
        .filter(|name| {
            if host.privileged {
                return true;
            }
            let by_default = DEFAULT.contains(name) && !has(&drop, "ALL") || has(&add, "ALL");
            (by_default && !has(&drop, name)) || has(&add, name)
        })
        .filter(|name| available.iter().any(|a| a == name))
        .collect()
}

/// The OCI sets: none is ambient or inheritable; a user other than root keeps only the bound, as with Docker.
pub fn sets(caps: &[&str], root: bool) -> Value {
    let held: &[&str] = if root { caps } else { &[] };
    json!({ "bounding": caps, "effective": held, "permitted": held, "inheritable": [], "ambient": [] })
}

/// The capabilities in this process's bounding set; others cannot be given to anybody.
pub fn available() -> Vec<String> {
    let bits = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|l| l.strip_prefix("CapBnd:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(u64::MAX);
    ALL.iter()
        .enumerate()
        .filter(|(bit, _)| bits & (1 << bit) != 0)
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<String> {
        ALL.iter().map(|c| (*c).to_owned()).collect()
    }

    #[test]
    fn defaults_make_dockers_mask() {
        let mask: u64 = resolve(&HostConfig::default(), &all())
            .iter()
            .filter_map(|c| ALL.iter().position(|a| a == c))
            .map(|bit| 1 << bit)
            .sum();
        assert_eq!(mask, 0xa804_25fb);
    }

    #[test]
    fn add_and_drop() {
        let host = HostConfig {
            cap_add: vec!["net_admin".into()],
            cap_drop: vec!["ALL".into()],
            ..HostConfig::default()
        };
        assert_eq!(resolve(&host, &all()), ["CAP_NET_ADMIN"]);
        let host = HostConfig {
            cap_add: vec!["ALL".into()],
            cap_drop: vec!["CAP_SYS_ADMIN".into()],
            ..HostConfig::default()
        };
        assert!(!resolve(&host, &all()).contains(&"CAP_SYS_ADMIN"));
        let host = HostConfig {
            cap_add: vec!["flying".into()],
            ..HostConfig::default()
        };
        assert_eq!(unknown(&host).as_deref(), Some("flying"));
    }
}
