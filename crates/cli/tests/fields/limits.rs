//! `Resources`: in the control groups, or for the processes.

use crate::common::{Daemon, cgroups};
use crate::http::ask;
use crate::{create, inspect, ok, remove, run, script, start};
use serde_json::{Value, json};
use std::fs;

/// Fields, and files of the control groups with what they say then.
type Case = (Value, &'static [(&'static str, &'static str)]);

fn limits() -> Vec<Case> {
    vec![
        (
            json!({ "Memory": 64 << 20 }),
            &[
                ("memory.limit_in_bytes", "67108864"),
                ("memory.memsw.limit_in_bytes", "134217728"),
            ],
        ),
        (
            json!({ "Memory": 64 << 20, "MemorySwap": 100 << 20 }),
            &[("memory.memsw.limit_in_bytes", "104857600")],
        ),
        (
            json!({ "MemoryReservation": 32 << 20 }),
            &[("memory.soft_limit_in_bytes", "33554432")],
        ),
        (
            json!({ "NanoCpus": 500_000_000 }),
            &[
                ("cpu.cfs_quota_us", "50000"),
                ("cpu.cfs_period_us", "100000"),
            ],
        ),
        (json!({ "CpuShares": 512 }), &[("cpu.shares", "512")]),
        (
            json!({ "CpuPeriod": 50_000, "CpuQuota": 20_000 }),
            &[
                ("cpu.cfs_period_us", "50000"),
                ("cpu.cfs_quota_us", "20000"),
            ],
        ),
        (json!({ "CpusetCpus": "0" }), &[("cpuset.cpus", "0")]),
        (json!({ "CpusetMems": "0" }), &[("cpuset.mems", "0")]),
        (json!({ "PidsLimit": 50 }), &[("pids.max", "50")]),
        (
            json!({ "BlkioWeight": 300 }),
            &[("blkio.bfq.weight", "300")],
        ),
    ]
}

fn holds(id: &str, file: &str, wanted: &str) {
    let found = cgroups(id)
        .iter()
        .find_map(|p| fs::read_to_string(p.join(file)).ok());
    let found = found.unwrap_or_else(|| panic!("{id} has no {file}"));
    assert!(found.lines().any(|l| l.trim() == wanted), "{file}: {found}");
}

#[test]
fn limits_are_in_the_control_groups() {
    let d = Daemon::start();
    let mut all = limits();
    // These cannot be changed later.
    all.push((
        json!({ "MemorySwappiness": 7 }),
        &[("memory.swappiness", "7")],
    ));
    all.push((
        json!({ "OomKillDisable": true, "Memory": 64 << 20 }),
        &[("memory.oom_control", "oom_kill_disable 1")],
    ));
    all.push((
        json!({ "DeviceCgroupRules": ["c 42:7 rwm"] }),
        &[("devices.list", "c 42:7 rwm")],
    ));
    for (fields, files) in all {
        let id = create(&d, &script("sleep 1000", &json!({ "HostConfig": fields })));
        start(&d, &id);
        let said = inspect(&d, &id);
        for (key, value) in fields.as_object().unwrap() {
            assert_eq!(said["HostConfig"][key], *value);
        }
        for (file, wanted) in files {
            holds(&id, file, wanted);
        }
        remove(&d, &id);
    }
}

#[test]
fn limits_are_changed_of_what_runs() {
    let d = Daemon::start();
    for (fields, files) in limits() {
        let id = create(&d, &script("sleep 1000", &json!({})));
        start(&d, &id);
        let path = format!("/containers/{id}/update");
        ok(&d, "POST", &path, &fields);
        let said = inspect(&d, &id);
        for (key, value) in fields.as_object().unwrap() {
            assert_eq!(said["HostConfig"][key], *value);
        }
        for (file, wanted) in files {
            holds(&id, file, wanted);
        }
        let policy = json!({ "RestartPolicy": { "Name": "on-failure", "MaximumRetryCount": 3 } });
        ok(&d, "POST", &path, &policy);
        assert_eq!(
            inspect(&d, &id)["HostConfig"]["RestartPolicy"],
            policy["RestartPolicy"]
        );
        remove(&d, &id);
    }
}

#[test]
fn what_no_limit_can_be_is_told() {
    let d = Daemon::start();
    for (fields, words) in [
        (
            json!({ "Memory": 1 }),
            "Minimum memory limit allowed is 6MB",
        ),
        (
            json!({ "Memory": 64 << 20, "MemoryReservation": 65 << 20 }),
            "memory reservation",
        ),
        (json!({ "MemorySwappiness": 101 }), "swappiness"),
        (
            json!({ "BlkioWeight": 7 }),
            "Range of blkio weight is from 10 to 1000",
        ),
        (json!({ "CpuPeriod": 7 }), "CPU cfs period"),
        (json!({ "CpuQuota": 7 }), "CPU cfs quota"),
        (json!({ "OomScoreAdj": 1001 }), "oom score adj"),
        (
            json!({ "NanoCpus": 1_000_000_000_000_i64 }),
            "Range of CPUs",
        ),
    ] {
        let answer = ask(
            &d,
            "POST",
            "/containers/create",
            &script("true", &json!({ "HostConfig": fields })),
        );
        assert_eq!(answer.status, 400, "{fields}");
        assert!(
            answer.message().contains(words),
            "{fields}: {}",
            answer.message()
        );
    }
}

#[test]
fn limits_of_processes_hold_inside() {
    let d = Daemon::start();
    let ulimits = json!([{ "Name": "nofile", "Soft": 100, "Hard": 200 }]);
    for (fields, text, says) in [
        (
            json!({ "Ulimits": ulimits }),
            "ulimit -Sn; ulimit -Hn",
            "100\n200\n",
        ),
        (
            json!({ "OomScoreAdj": 77 }),
            "cat /proc/self/oom_score_adj",
            "77\n",
        ),
        (json!({ "Init": true }), "cat /proc/1/comm", "docker-init\n"),
        (
            json!({ "ShmSize": 1 << 20 }),
            "busybox df -k /dev/shm | tail -n 1 | busybox awk '{print $2}'",
            "1024\n",
        ),
    ] {
        let body = script(text, &json!({ "HostConfig": fields }));
        assert_eq!(run(&d, &body), says, "{fields}");
        let id = create(&d, &body);
        let said = inspect(&d, &id);
        for (key, value) in fields.as_object().unwrap() {
            assert_eq!(said["HostConfig"][key], *value);
        }
        remove(&d, &id);
    }
    // A device, by another name and for reading only.
    let device = |permissions: &str| {
        json!({ "HostConfig": { "Devices": [
        { "PathOnHost": "/dev/tty0", "PathInContainer": "/dev/other", "CgroupPermissions": permissions }] } })
    };
    let text = "test -c /dev/other && (: < /dev/other) && echo read; (: > /dev/other) 2>/data/y && echo written";
    assert_eq!(run(&d, &script(text, &device("r"))), "read\n");
    assert_eq!(run(&d, &script(text, &device("rw"))), "read\nwritten\n");
}
