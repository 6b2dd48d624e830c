//! Mounts: the kernel's filesystems, the files we write, and what was asked.

use super::Inputs;
use crate::record::Record;
use serde_json::{Value, json};
use std::path::Path;

/// Every mount in the order in which they are made: parents before children.
pub fn all(inputs: &Inputs<'_>) -> Value {
    let record = inputs.record;
    let host = &record.host_config;
    let sys_access = if host.privileged { "rw" } else { "ro" };
    let mut list = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] }),
        json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] }),
        json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", sys_access] }),
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": [sys_access, "nosuid", "noexec", "nodev", "relatime"] }),
    ];
    // A mount of one's own shows the same queues where the host has none.
    if host.ipc_mode == "host" && Path::new("/dev/mqueue").exists() {
        list.push(bind("/dev/mqueue", "/dev/mqueue", &["rbind"]));
    } else {
        list.push(
            json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"] }),
        );
    }
    match host.ipc_mode.as_str() {
        "host" => list.push(bind("/dev/shm", "/dev/shm", &["rbind"])),
        "none" => {}
        _ => {
            let size = if host.shm_size > 0 {
                host.shm_size
            } else {
                64 << 20
            };
            list.push(
                json!({ "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", format!("size={size}")] }),
            );
        }
    }
    if let Some(pid) = inputs.ipc_of {
        // Over our own; only who is in the other's mount namespace can take it along, which the shim does.
        let source = format!("/proc/{pid}/root/dev/shm");
        list.push(bind(source, "/dev/shm", &["rbind", "of-process"]));
    }
    let asked = |target: &str| record.mounts.iter().any(|m| m.target == Path::new(target));
    for file in ["resolv.conf", "hostname", "hosts"] {
        let target = format!("/etc/{file}");
        if !asked(&target) {
            // They are part of a root that is not to be written.
            let mode = if host.readonly_rootfs { "ro" } else { "rw" };
            let options = ["rbind", "rprivate", mode];
            list.push(bind(inputs.dir.join(file), &target, &options));
        }
    }
    if let Some(init) = &inputs.init {
        list.push(bind(init, super::INIT, &["rbind", "ro", "rprivate"]));
    }
    let mut mounts: Vec<_> = record.mounts.iter().collect();
    mounts.sort_by_key(|m| m.target.components().count());
    // A mount of one of the kernel's filesystems by hand replaces ours.
    list.retain(|m| {
        !mounts.iter().any(|asked| {
            m["destination"]
                .as_str()
                .is_some_and(|d| asked.target == Path::new(d))
        })
    });
    for mount in mounts {
        list.push(if mount.kind == "tmpfs" {
            json!({ "destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": mount.options })
        } else {
            json!({ "destination": mount.target, "type": "bind", "source": mount.source,
                "options": mount.options })
        });
    }
    Value::Array(list)
}

fn bind(source: impl AsRef<Path>, target: &str, options: &[&str]) -> Value {
    json!({ "destination": target, "type": "bind", "source": source.as_ref(), "options": options })
}

/// Root propagation that the binds need: slave binds work only below a root that is no more private.
pub fn root_propagation(record: &Record) -> Value {
    let has = |names: &[&str]| {
        record
            .mounts
            .iter()
            .any(|m| names.contains(&m.propagation.as_str()))
    };
    if has(&["slave", "rslave"]) {
        json!("slave")
    } else {
        json!("private")
    }
}
