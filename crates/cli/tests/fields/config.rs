//! `ContainerConfig`.

use crate::common::{Daemon, until};
use crate::http::ask;
use crate::{create, exec, inspect, ok, output, remove, run, script, start};
use serde_json::{Value, json};

/// Field, its value, what is run with it, what that says.
type Case = (&'static str, Value, &'static str, &'static str);

fn cases() -> Vec<Case> {
    vec![
        (
            "Hostname",
            json!("here"),
            "hostname; cat /etc/hostname",
            "here\nhere\n",
        ),
        (
            "Domainname",
            json!("dom"),
            "cat /proc/sys/kernel/domainname",
            "dom\n",
        ),
        ("User", json!("web"), "id -u; id -g", "33\n33\n"),
        ("Env", json!(["A=b", "C=d e"]), "echo $A$C", "bd e\n"),
        ("Cmd", json!(["echo", "a", "b"]), "", "a b\n"),
        (
            "Entrypoint",
            json!(["echo", "first"]),
            "second",
            "first sh -c second\n",
        ),
        ("WorkingDir", json!("/w/x"), "busybox pwd", "/w/x\n"),
        (
            "Tty",
            json!(true),
            "test -t 0 && test -t 1 && echo yes",
            "yes\n",
        ),
        ("NetworkDisabled", json!(true), "ls /sys/class/net", "lo\n"),
        (
            "MacAddress",
            json!("02:42:ac:00:00:63"),
            "cat /sys/class/net/eth0/address",
            "02:42:ac:00:00:63\n",
        ),
        (
            "Volumes",
            json!({ "/v": {} }),
            "grep -c ' /v ' /proc/mounts",
            "1\n",
        ),
    ]
}

#[test]
fn what_is_portable_is_so_inside() {
    let d = Daemon::start();
    for (field, value, text, says) in cases() {
        let body = script(text, &json!({ field: value }));
        assert_eq!(run(&d, &body), says, "{field}");
        let id = create(&d, &body);
        assert_eq!(inspect(&d, &id)["Config"][field], value, "{field}");
        remove(&d, &id);
    }
    for (field, value) in [
        ("Labels", json!({ "a": "b" })),
        ("Image", json!("bb")),
        ("OnBuild", json!(["RUN true"])),
        ("AttachStdin", json!(true)),
        ("AttachStdout", json!(true)),
        ("AttachStderr", json!(true)),
        ("StopSignal", json!("INT")),
        ("StopTimeout", json!(7)),
        ("Shell", json!(["/bin/sh", "-ec"])),
    ] {
        let id = create(&d, &script("true", &json!({ field: value })));
        assert_eq!(inspect(&d, &id)["Config"][field], value, "{field}");
        remove(&d, &id);
    }
    let exposed = json!({ "ExposedPorts": { "80/tcp": {}, "81/udp": {} } });
    let id = create(&d, &script("sleep 1000", &exposed));
    start(&d, &id);
    let ports = &inspect(&d, &id)["NetworkSettings"]["Ports"];
    assert_eq!(*ports, json!({ "80/tcp": null, "81/udp": null }));
}

#[test]
fn input_stays_open_as_asked() {
    let d = Daemon::start();
    // Without OpenStdin there is nothing to read.
    assert_eq!(run(&d, &script("cat; echo end", &json!({}))), "end\n");
    let open = json!({ "OpenStdin": true, "AttachStdin": true });
    let id = create(&d, &script("cat; echo end", &open));
    start(&d, &id);
    assert_eq!(inspect(&d, &id)["State"]["Running"], true);
    remove(&d, &id);
    // With StdinOnce it ends with the first client's.
    for (once, ended) in [(true, true), (false, false)] {
        let body = script(
            "cat; echo end",
            &json!({ "OpenStdin": true, "AttachStdin": true, "StdinOnce": once }),
        );
        let id = create(&d, &body);
        let mut client = d.command();
        client
            .args(["start", "-a", "-i", &id])
            .stdin(std::process::Stdio::piped());
        client.stdout(std::process::Stdio::null());
        let mut client = client.spawn().unwrap();
        until("it runs", || inspect(&d, &id)["State"]["Running"] == true);
        drop(client.stdin.take());
        if ended {
            assert!(client.wait().unwrap().success());
            assert_eq!(output(&d, &id), "end\n");
        } else {
            let _ = client.kill();
            let _ = client.wait();
            assert_eq!(inspect(&d, &id)["State"]["Running"], true);
        }
        remove(&d, &id);
    }
}

#[test]
fn it_is_stopped_by_its_signal_and_in_its_time() {
    let d = Daemon::start();
    let text = "trap 'echo INT; exit 3' INT; trap 'echo TERM; exit 4' TERM; echo on; while :; do sleep 0.1; done";
    let body = script(text, &json!({ "StopSignal": "INT" }));
    let id = create(&d, &body);
    start(&d, &id);
    until("it listens", || d.ok(["logs", &id]).contains("on"));
    ok(&d, "POST", &format!("/containers/{id}/stop"), &Value::Null);
    assert_eq!(inspect(&d, &id)["State"]["ExitCode"], 3);
    // Where it does not listen, it is killed after its own time, which here is none.
    let deaf = script(
        "trap '' TERM; echo on; while :; do sleep 0.1; done",
        &json!({ "StopTimeout": 0 }),
    );
    let id = create(&d, &deaf);
    start(&d, &id);
    until("it listens", || d.ok(["logs", &id]).contains("on"));
    ok(&d, "POST", &format!("/containers/{id}/stop"), &Value::Null);
    assert_eq!(inspect(&d, &id)["State"]["ExitCode"], 137);
}

#[test]
fn health_is_tested_as_asked() {
    let d = Daemon::start();
    let second = 1_000_000_000_i64;
    let health = json!({
        "Test": ["CMD-SHELL", "echo seen; test -e /well"], "Interval": second / 10, "Timeout": second * 30,
        "Retries": 2, "StartPeriod": second / 10, "StartInterval": second / 20,
    });
    let body = script(
        "sleep 1000",
        &json!({ "Healthcheck": health, "Shell": ["/bin/sh", "-c"] }),
    );
    let id = create(&d, &body);
    assert_eq!(inspect(&d, &id)["Config"]["Healthcheck"], health);
    start(&d, &id);
    let state = || inspect(&d, &id)["State"]["Health"].clone();
    until("it is unhealthy", || state()["Status"] == "unhealthy");
    let now = state();
    assert!(now["FailingStreak"].as_i64().unwrap() >= 2, "{now}");
    assert_eq!(now["Log"][0]["Output"], "seen\n");
    assert_eq!(now["Log"][0]["ExitCode"], 1);
    exec(&d, &id, "touch /well");
    until("it is healthy", || state()["Status"] == "healthy");
    // A test that takes longer than it may has failed.
    let slow = json!({ "Test": ["CMD", "sleep", "1000"], "Interval": second / 10, "Timeout": second / 10, "Retries": 1 });
    let id = create(&d, &script("sleep 1000", &json!({ "Healthcheck": slow })));
    start(&d, &id);
    until("it is unhealthy", || {
        inspect(&d, &id)["State"]["Health"]["Status"] == "unhealthy"
    });
    // In its start period a failure does not count, and the tests of that period have their own interval.
    let slow = json!({ "Test": ["CMD", "false"], "Interval": second * 1000, "StartInterval": second / 20,
        "StartPeriod": second * 1000, "Retries": 1 });
    let id = create(&d, &script("sleep 1000", &json!({ "Healthcheck": slow })));
    start(&d, &id);
    until("it was tested", || {
        let health = inspect(&d, &id)["State"]["Health"].clone();
        assert_eq!(health["Status"], "starting");
        health["Log"].as_array().is_some_and(|l| l.len() > 2)
    });
    let none = json!({ "Healthcheck": { "Test": ["NONE"] } });
    let id = create(&d, &script("sleep 1000", &none));
    start(&d, &id);
    assert!(inspect(&d, &id)["State"].get("Health").is_none());
    let bad = script("true", &json!({ "Healthcheck": { "Test": 7 } }));
    assert_eq!(ask(&d, "POST", "/containers/create", &bad).status, 400);
}
