//! `HostConfig`, apart from limits, mounts and networks.

use crate::common::{Daemon, until};
use crate::http::{ask, get};
use crate::{create, exec, inspect, ok, remove, run, script, start};
use serde_json::{Value, json};
use std::fs;

/// Fields, what is run with them, what that says.
type Case = (Value, &'static str, &'static str);

fn cases() -> Vec<Case> {
    let status = |line: &'static str| line;
    vec![
        (
            json!({ "CapAdd": ["SYS_TIME"], "CapDrop": ["ALL"] }),
            status("grep CapEff /proc/self/status"),
            "CapEff:\t0000000002000000\n",
        ),
        (
            json!({ "CapDrop": ["CHOWN"] }),
            "busybox chown 1 /data 2>/dev/null || echo no",
            "no\n",
        ),
        (
            json!({ "Privileged": true }),
            "grep Seccomp: /proc/self/status",
            "Seccomp:\t0\n",
        ),
        (
            json!({ "ReadonlyRootfs": true }),
            "touch /x 2>/dev/null || echo no",
            "no\n",
        ),
        (
            json!({ "SecurityOpt": ["no-new-privileges"] }),
            "grep NoNewPrivs /proc/self/status",
            "NoNewPrivs:\t1\n",
        ),
        (
            json!({ "SecurityOpt": ["seccomp=unconfined"] }),
            "grep Seccomp: /proc/self/status",
            "Seccomp:\t0\n",
        ),
        (json!({ "GroupAdd": ["7", "web"] }), "id -G", "0 7 33\n"),
        (
            json!({ "Sysctls": { "kernel.msgmax": "7777" } }),
            "cat /proc/sys/kernel/msgmax",
            "7777\n",
        ),
        (
            json!({ "MaskedPaths": ["/data"] }),
            "ls /data; head -c 1 /proc/interrupts | grep -q . && echo seen",
            "seen\n",
        ),
        (
            json!({ "ReadonlyPaths": ["/data"] }),
            "touch /data/x 2>/dev/null || echo no",
            "no\n",
        ),
        (
            json!({ "Dns": ["9.9.9.9"], "DnsOptions": ["ndots:3"], "DnsSearch": ["x.y"] }),
            "cat /etc/resolv.conf",
            "nameserver 9.9.9.9\nsearch x.y\noptions ndots:3\n",
        ),
        (
            json!({ "ExtraHosts": ["other:1.2.3.4"] }),
            "grep other /etc/hosts",
            "1.2.3.4\tother\n",
        ),
        (
            json!({ "NetworkMode": "none" }),
            "ls /sys/class/net",
            "lo\n",
        ),
        (
            json!({ "IpcMode": "none" }),
            "grep -c ' /dev/shm ' /proc/mounts",
            "0\n",
        ),
        (json!({ "Runtime": "runc" }), "echo on", "on\n"),
    ]
}

#[test]
fn what_concerns_the_host_is_so_inside() {
    let d = Daemon::start();
    for (fields, text, says) in cases() {
        let body = script(text, &json!({ "HostConfig": fields }));
        assert_eq!(run(&d, &body), says, "{fields}");
        let id = create(&d, &body);
        let said = inspect(&d, &id);
        for (key, value) in fields.as_object().unwrap() {
            assert_eq!(said["HostConfig"][key], *value);
        }
        remove(&d, &id);
    }
    // What is only kept, as docker keeps it.
    for fields in [
        json!({ "ContainerIDFile": "/tmp/id" }),
        json!({ "Annotations": { "a": "b" } }),
    ] {
        let id = create(&d, &script("true", &json!({ "HostConfig": fields })));
        let said = inspect(&d, &id);
        for (key, value) in fields.as_object().unwrap() {
            assert_eq!(said["HostConfig"][key], *value);
        }
    }
}

#[test]
fn namespaces_are_the_hosts_where_that_is_asked() {
    let d = Daemon::start();
    for (fields, kind, same) in [
        (json!({}), "pid", false),
        (json!({ "PidMode": "host" }), "pid", true),
        (json!({}), "ipc", false),
        (json!({ "IpcMode": "private" }), "ipc", false),
        (json!({ "IpcMode": "host" }), "ipc", true),
        (json!({}), "uts", false),
        (json!({ "UTSMode": "host" }), "uts", true),
        (json!({ "CgroupnsMode": "private" }), "cgroup", false),
        (json!({ "CgroupnsMode": "host" }), "cgroup", true),
        (json!({ "UsernsMode": "host" }), "user", true),
        (json!({}), "net", false),
        (json!({ "NetworkMode": "host" }), "net", true),
    ] {
        let id = create(&d, &script("sleep 1000", &json!({ "HostConfig": fields })));
        start(&d, &id);
        let pid = &inspect(&d, &id)["State"]["Pid"];
        let of =
            |pid: &dyn std::fmt::Display| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(of(pid) == of(&d.pid()), same, "{fields} {kind}");
        remove(&d, &id);
    }
    // Another container's network.
    let other = create(&d, &script("sleep 1000", &json!({})));
    start(&d, &other);
    let joined = json!({ "HostConfig": { "NetworkMode": format!("container:{other}") } });
    let address = exec(&d, &other, "cat /sys/class/net/eth0/address");
    assert_eq!(
        run(&d, &script("cat /sys/class/net/eth0/address", &joined)),
        address + "\n"
    );
}

#[test]
fn a_terminal_has_the_size_that_was_asked() {
    let d = Daemon::start();
    let body = script(
        "busybox stty size",
        &json!({ "Tty": true, "HostConfig": { "ConsoleSize": [40, 132] } }),
    );
    assert_eq!(run(&d, &body), "40 132\n");
}

#[test]
fn ends_and_logs_are_as_asked() {
    let d = Daemon::start();
    let policy = |name: &str, count: i64| json!({ "HostConfig": { "RestartPolicy": { "Name": name, "MaximumRetryCount": count } } });
    let id = create(&d, &script("exit 4", &policy("on-failure", 2)));
    start(&d, &id);
    until("it was given up", || {
        let said = inspect(&d, &id);
        said["RestartCount"] == 2 && said["State"]["Status"] == "exited"
    });
    let id = create(
        &d,
        &script("true", &json!({ "HostConfig": { "AutoRemove": true } })),
    );
    start(&d, &id);
    until("it is gone", || {
        get(&d, &format!("/containers/{id}/json")).status == 404
    });
    let kept = json!({ "HostConfig": { "LogConfig": { "Type": "json-file", "Config": { "max-size": "1k", "max-file": "2" } } } });
    let id = create(&d, &script("busybox seq 1 2000", &kept));
    start(&d, &id);
    ok(&d, "POST", &format!("/containers/{id}/wait"), &Value::Null);
    let logs = crate::unframed(&get(&d, &format!("/containers/{id}/logs?stdout=1")).body);
    assert!(
        logs.ends_with("2000\n") && !logs.starts_with("1\n"),
        "{logs}"
    );
    let none = json!({ "HostConfig": { "LogConfig": { "Type": "none" } } });
    let id = create(&d, &script("echo x", &none));
    start(&d, &id);
    ok(&d, "POST", &format!("/containers/{id}/wait"), &Value::Null);
    let refused = get(&d, &format!("/containers/{id}/logs?stdout=1"));
    assert!(
        refused.status >= 400 || refused.body.is_empty(),
        "{}",
        refused.text()
    );
    let both =
        json!({ "HostConfig": { "AutoRemove": true, "RestartPolicy": { "Name": "always" } } });
    assert_eq!(
        ask(&d, "POST", "/containers/create", &script("true", &both)).status,
        400
    );
}
