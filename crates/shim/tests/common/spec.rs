//! Specifications of containers and processes, as the engine writes them.

use oci_spec::runtime::Process;
use serde_json::{Value, json};

pub const CAPS: [&str; 14] = [
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

pub fn process_json(args: &[&str]) -> Value {
    json!({
        "user": { "uid": 0, "gid": 0 },
        "args": args,
        "env": ["PATH=/usr/bin:/bin"],
        "cwd": "/",
    })
}

pub fn process(args: &[&str]) -> Process {
    serde_json::from_value(process_json(args)).unwrap()
}

/// As the engine writes it.
pub fn oci(args: &[&str]) -> Value {
    let mut process = process_json(args);
    process["capabilities"] = json!({ "bounding": CAPS, "effective": CAPS, "permitted": CAPS, "inheritable": [], "ambient": [] });
    let rule = |major, minor| json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" });
    json!({
        "ociVersion": "1.2.0",
        "hostname": "testhost",
        "root": { "path": "rootfs", "readonly": false },
        "process": process,
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev", "relatime"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] }
        ],
        "linux": {
            "namespaces": [
                { "type": "mount" }, { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "network" }
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "sysctl": { "net.ipv4.ip_unprivileged_port_start": "0" },
            "rootfsPropagation": "private",
            "resources": { "devices": [
                { "allow": false, "access": "rwm" },
                { "allow": true, "type": "c", "access": "m" },
                { "allow": true, "type": "b", "access": "m" },
                rule(1, 3), rule(1, 5), rule(1, 7), rule(1, 8), rule(1, 9), rule(5, 0), rule(5, 1), rule(5, 2),
                { "allow": true, "type": "c", "major": 136, "access": "rwm" }
            ] }
        }
    })
}
