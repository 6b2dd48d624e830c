//! What docs/os.md promises of the running image's kernel, mounts and programs, looked at from inside.

use crate::machine::Machine;
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::Path};

fn file(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(name)).unwrap()
}

/// The first words of the lines of a list, as many as are asked for.
fn list(name: &str, words: usize) -> Vec<Vec<String>> {
    let text = file(name);
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    lines
        .map(|l| {
            l.split_whitespace()
                .take(words)
                .map(str::to_owned)
                .collect()
        })
        .collect()
}

/// Each mount and what it has to have.
const MOUNTS: [(&str, &str); 12] = [
    ("/", "erofs ro nosuid nodev"),
    ("/dev", "devtmpfs nosuid noexec"),
    ("/dev/mqueue", "mqueue nosuid nodev noexec"),
    ("/dev/pts", "devpts nosuid noexec"),
    ("/dev/shm", "tmpfs nosuid nodev noexec"),
    ("/etc", "tmpfs nosuid nodev noexec"),
    ("/proc", "proc nosuid nodev noexec"),
    ("/run", "tmpfs nosuid nodev noexec"),
    ("/sys", "sysfs nosuid nodev noexec"),
    ("/sys/fs/cgroup", "cgroup2 nosuid nodev noexec"),
    ("/tmp", "tmpfs nosuid nodev noexec"),
    ("/var", "ext4 nosuid nodev"),
];

/// Settings that this kernel is too old for.
const LATER: [&str; 1] = ["dev.tty.legacy_tiocsti"];

/// All of the root's programs.
const PROGRAMS: [&str; 13] = [
    "blockdev",
    "coracle",
    "docker",
    "e2fsck",
    "etcd",
    "etcdctl",
    "init",
    "mkfs.ext4",
    "mkfs.fat",
    "modprobe",
    "nft",
    "ps",
    "resize2fs",
];

/// Looks at all of it; `image` has the program `look`.
pub fn check(machine: &Machine, image: &str) {
    let sysctls = list("os/sysctls", 2);
    let keys = sysctls.iter().map(|s| s[0].as_str());
    let words: Vec<_> = ["/bin/look", "machine"].into_iter().chain(keys).collect();
    let (code, said) = machine.run_privileged(image, &words);
    assert_eq!(code, 0, "{said}");
    let seen: Value = serde_json::from_str(&said).unwrap();
    let documented = file("docs/os.md");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();

    for setting in &sysctls {
        let (key, wanted) = (setting[0].as_str(), setting[1].as_str());
        let is = &seen["sysctls"][key];
        let later = LATER.contains(&key) && is.is_null();
        assert!(later || *is == *wanted, "{key} is {is}, not {wanted}");
        assert!(
            documented.contains(&format!("`{key}={wanted}`")),
            "docs/os.md has no `{key}={wanted}`"
        );
    }
    let line = text(&seen["command_line"]);
    let line: BTreeSet<_> = line.split_whitespace().collect();
    for word in list("os/command-line", 1).concat() {
        assert!(line.contains(&*word), "{word} is not in {line:?}");
        assert!(documented.contains(&format!("`{word}`")), "{word}");
    }
    let lockdown = text(&seen["lockdown"]);
    assert!(lockdown.contains("[integrity]"), "{lockdown}");

    for (place, wanted) in MOUNTS {
        let is = text(&seen["mounts"][place]);
        let is: BTreeSet<_> = is.split(',').collect();
        for word in wanted.split(' ') {
            assert!(is.contains(word), "{place} has {is:?}, and not {word}");
        }
    }
    // Neither the EFI partition nor a debugger's file system stays around.
    let mounted = seen["mounts"].as_object().unwrap();
    let mut odd = mounted.iter().map(|(_, how)| text(how));
    let kinds = ["vfat", "debugfs", "tracefs"];
    assert!(
        !odd.any(|how| kinds.iter().any(|k| how.starts_with(k))),
        "{mounted:?}"
    );
    assert_eq!(seen["programs"], json!(PROGRAMS));
    assert_eq!(seen["raising"], json!([]));
    sockets(&seen["sockets"]);
    tried(&seen["tried"]);

    // Containers have what the machine does without.
    let user = json!({ "User": "1000:1000" });
    let (code, said) = machine.run(image, &["/bin/look-as-root", "user"], &user);
    assert_eq!((code, said.trim()), (0, "0"));
    let (code, said) = machine.run(image, &["/bin/look", "user"], &user);
    assert_eq!((code, said.trim()), (0, "1000"));
}

/// What waits for others: SSH, since this machine has a key, for containers at their bridge, which is guarded by the link that a packet comes in by,
/// and for answers of DHCP. Published ports are the firewall's and have no socket.
fn sockets(seen: &Value) {
    let expected = [
        "tcp 0.0.0.0 22",
        "tcp 10.210.0.1 2379",
        "tcp 10.210.0.1 53",
        "tcp :: 22",
        "udp 0.0.0.0 68",
        "udp 10.210.0.1 53",
    ];
    assert_eq!(*seen, json!(expected));
}

/// Whoever is root of the machine itself changes neither the root nor the kernel.
fn tried(seen: &Value) {
    for (what, wanted) in [
        ("create", "Read-only file system"),
        ("change", "Read-only file system"),
        ("verity", "Operation not permitted"),
        ("unsigned", "Key was rejected by service"),
        ("memory", "Operation not permitted"),
        ("bpf_again", "Operation not permitted"),
        ("kexec_again", "Invalid argument"),
    ] {
        let said = seen[what].as_str().unwrap();
        assert!(said.contains(wanted), "{what}: {said}");
    }
}
