//! fleet's API below `/fleet/v1`, asked as fleet's clients ask.
#![allow(clippy::unwrap_used)]

mod common;
mod http;

use common::{Daemon, until};
use http::Answer;
use serde_json::{Value, json};

const JSON: &[&str] = &["Content-Type: application/json"];

fn ask(d: &Daemon, method: &str, path: &str, body: &Value) -> Answer {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let socket = d.run_dir().join("coracle.sock");
    let path = format!("/fleet/v1/{path}");
    http::send_to(&socket, method, &path, JSON, body.as_bytes())
}

fn get(d: &Daemon, path: &str) -> Value {
    let answer = ask(d, "GET", path, &Value::Null);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

/// Asks for something that is refused, in fleet's form; the message.
fn refused(d: &Daemon, method: &str, path: &str, body: &Value, status: u16) -> String {
    let answer = ask(d, method, path, body);
    assert_eq!(answer.status, status, "{path} {body}: {}", answer.text());
    said(&answer, status)
}

fn said(answer: &Answer, status: u16) -> String {
    let error = answer.json();
    assert_eq!(error["error"]["code"], status);
    let message = error["error"]["message"].as_str().unwrap().to_owned();
    assert!(!message.is_empty());
    message
}

fn put(d: &Daemon, unit: &str, body: &Value, status: u16) {
    let answer = ask(d, "PUT", &format!("units/{unit}"), body);
    assert_eq!(answer.status, status, "{unit} {body}: {}", answer.text());
    assert_eq!(answer.text(), "");
}

fn options(all: &[(&str, &str, &str)]) -> Value {
    let one = |(s, n, v): &(&str, &str, &str)| json!({ "section": s, "name": n, "value": v });
    all.iter().map(one).collect()
}

/// A unit that says a word and goes on.
fn saying(word: &str) -> Value {
    let run = format!("/bin/sh -c \"echo {word}; \\\n  exec sleep 1000\"");
    options(&[
        ("Unit", "Description", word),
        ("Service", "ExecStart", &run),
        ("Service", "Environment", "A=1"),
        ("Service", "Environment", "B=2"),
    ])
}

fn is(d: &Daemon, unit: &str, desired: &str, current: &str) -> bool {
    let found = get(d, &format!("units/{unit}"));
    found["desiredState"] == desired && found["currentState"] == current
}

fn active(d: &Daemon, unit: &str) -> String {
    let states = get(d, &format!("state?unitName={unit}"));
    let active = &states["states"][0]["systemdActiveState"];
    active.as_str().unwrap_or("none").to_owned()
}

#[test]
fn a_unit_from_submit_to_its_end() {
    let mut d = Daemon::bare();
    let machine = get(&d, "machines")["machines"][0]["id"].clone();
    let unit = "tide.service";

    // It is made, and stands nowhere.
    put(&d, unit, &json!({ "options": saying("high") }), 201);
    let expected = json!({
        "name": unit, "options": saying("high"), "desiredState": "inactive", "currentState": "inactive",
    });
    assert_eq!(get(&d, "units/tide.service"), expected);
    assert_eq!(get(&d, "units"), json!({ "units": [expected] }));
    assert_eq!(get(&d, "state"), json!({ "states": [] }));
    refused(&d, "GET", "state/tide.service", &Value::Null, 404);

    // It has a machine, and keeps it when the daemon comes anew.
    put(&d, unit, &json!({ "desiredState": "loaded" }), 204);
    assert!(is(&d, unit, "loaded", "loaded"));
    assert_eq!(get(&d, "units/tide.service")["machineID"], machine);
    d.terminate();
    d.up();
    assert!(is(&d, unit, "loaded", "loaded"));
    let state = get(&d, "state/tide.service");
    assert_eq!(state["systemdLoadState"], "loaded");
    assert_eq!(state["systemdActiveState"], "inactive");
    assert_eq!(state["systemdSubState"], "dead");

    // It runs.
    put(&d, unit, &json!({ "desiredState": "launched" }), 204);
    until("it runs", || active(&d, unit) == "active");
    assert!(is(&d, unit, "launched", "launched"));
    let state = get(&d, "state")["states"][0].clone();
    assert_eq!(state["name"], unit);
    assert_eq!(state["machineID"], machine);
    assert_eq!(state["systemdSubState"], "running");
    let hash = state["hash"].as_str().unwrap().to_owned();
    assert_eq!(hash.len(), 40);
    assert_eq!(get(&d, "state/tide.service"), state);
    let id = machine.as_str().unwrap();
    let of = |query: &str| {
        get(&d, &format!("state?{query}"))["states"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(of(&format!("machineID={id}&unitName={unit}")), 1);
    assert_eq!(of("machineID=0123"), 0);
    assert_eq!(of("unitName=other.service"), 0);

    // The same again is no other text; nothing asked is nothing to do.
    put(
        &d,
        unit,
        &json!({ "name": unit, "options": saying("high"), "desiredState": "launched" }),
        204,
    );
    let said = refused(
        &d,
        "PUT",
        "units/tide.service",
        &json!({ "options": saying("high") }),
        409,
    );
    assert!(said.contains("DesiredState"), "{said}");

    // Another text counts from the next start, unless it is asked to run.
    put(&d, unit, &json!({ "options": saying("low") }), 201);
    assert_eq!(get(&d, "units/tide.service")["options"], saying("low"));
    assert_eq!(get(&d, "state/tide.service")["hash"], hash.as_str());
    put(
        &d,
        unit,
        &json!({ "options": saying("neap"), "desiredState": "launched" }),
        201,
    );
    until("it runs the new text", || {
        get(&d, "state/tide.service")["hash"] != hash.as_str() && active(&d, unit) == "active"
    });
    until("it speaks", || d.ok(["unit", "logs", unit]) == "high\nneap");

    // It goes down, off its machine, and away.
    put(&d, unit, &json!({ "desiredState": "loaded" }), 204);
    until("it is down", || is(&d, unit, "loaded", "loaded"));
    assert_eq!(active(&d, unit), "inactive");
    put(&d, unit, &json!({ "desiredState": "inactive" }), 204);
    until("it is off its machine", || {
        is(&d, unit, "inactive", "inactive")
    });
    assert_eq!(get(&d, "state"), json!({ "states": [] }));
    put(&d, unit, &json!({ "desiredState": "launched" }), 204);
    let gone = ask(&d, "DELETE", "units/tide.service", &Value::Null);
    assert_eq!((gone.status, gone.text().as_str()), (204, ""));
    refused(&d, "DELETE", "units/tide.service", &Value::Null, 404);
    refused(&d, "GET", "units/tide.service", &Value::Null, 404);
}

#[test]
fn what_is_refused_says_so_in_fleets_form() {
    let d = Daemon::bare();
    let run = options(&[("Service", "ExecStart", "/bin/true")]);
    for (unit, body, status, words) in [
        (
            "a.service",
            json!({ "desiredState": "launched" }),
            409,
            "options",
        ),
        ("a.service", json!({ "options": [] }), 409, "options"),
        (
            "a.service",
            json!({ "name": "b.service", "options": run }),
            400,
            "differs",
        ),
        (
            "a.service",
            json!({ "options": run, "desiredState": "flying" }),
            400,
            "launched",
        ),
        (
            "a.service",
            json!({ "options": "none" }),
            400,
            "unable to decode body",
        ),
        ("a.nothing", json!({ "options": run }), 400, "suffix"),
        (
            "a%20b.service",
            json!({ "options": run }),
            400,
            "allowed are",
        ),
        (
            "a.socket",
            json!({ "options": options(&[("Socket", "ListenStream", "80")]) }),
            400,
            ".socket",
        ),
        (
            "a@.service",
            json!({ "options": run, "desiredState": "loaded" }),
            400,
            "template",
        ),
        (
            "a.service",
            json!({ "options": options(&[("Service", "ExecStart", "/bin/true\n[Unit]")]) }),
            400,
            "option 1",
        ),
        (
            "a.service",
            json!({ "options": options(&[("Service", "ExecStrat", "/bin/true")]) }),
            400,
            "ExecStrat",
        ),
        (
            "a.service",
            json!({ "options": options(&[
                ("Service", "ExecStart", "/bin/true"), ("X-Fleet", "MachineID", "a"), ("X-Fleet", "Global", "true"),
            ]) }),
            400,
            "MachineID and Global",
        ),
    ] {
        let said = refused(&d, "PUT", &format!("units/{unit}"), &body, status);
        assert!(said.contains(words), "{unit} {body}: {said}");
    }
    assert_eq!(get(&d, "units"), json!({ "units": [] }));

    let socket = d.run_dir().join("coracle.sock");
    let send = |method: &str, path: &str, headers: &[&str], body: &[u8]| {
        http::send_to(&socket, method, path, headers, body)
    };
    let path = "/fleet/v1/units/a.service";
    let body = json!({ "options": run }).to_string();
    for headers in [&[][..], &["Content-Type: text/plain"]] {
        let answer = send("PUT", path, headers, body.as_bytes());
        assert_eq!(answer.status, 415);
        assert!(said(&answer, 415).contains("application/json"));
    }
    let charset = ["Content-Type: application/json; charset=utf-8"];
    assert_eq!(send("PUT", path, &charset, body.as_bytes()).status, 201);
    assert_eq!(
        said(&send("PUT", path, JSON, b"{"), 400).find("unable to decode"),
        Some(0)
    );
    for (method, path, status) in [
        ("GET", "/fleet/v1/nothing", 404),
        ("GET", "/fleet/v1/units/a.service/more", 404),
        ("POST", "/fleet/v1/units", 405),
        ("POST", "/fleet/v1/units/a.service", 405),
        ("PUT", "/fleet/v1/state", 405),
        ("PATCH", "/fleet/v1/machines", 405),
        ("GET", "/fleet/v1/units?nextPageToken=never", 400),
        (
            "GET",
            "/fleet/v1/state?nextPageToken=a&nextPageToken=b",
            400,
        ),
        ("GET", "/fleet/v1/machines?nextPageToken=", 400),
        ("GET", "/fleet/v1/units/%ff.service", 400),
    ] {
        let answer = send(method, path, JSON, b"");
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        said(&answer, status);
    }
}

/// Whatever comes and goes between the pages, each unit that stays is told once.
#[test]
fn pages_of_units_that_come_and_go() {
    let d = Daemon::bare();
    let body = json!({ "options": options(&[("Service", "ExecStart", "/bin/true")]) });
    let names: Vec<String> = (0..205).map(|n| format!("u{n:03}.service")).collect();
    for name in &names {
        put(&d, name, &body, 201);
    }
    let mut told: Vec<String> = Vec::new();
    let mut page = get(&d, "units");
    loop {
        let units = page["units"].as_array().unwrap();
        assert!(units.len() <= 100);
        told.extend(units.iter().map(|u| u["name"].as_str().unwrap().to_owned()));
        let Some(token) = page["nextPageToken"].as_str() else {
            break;
        };
        // The one that the token names goes, another one comes before it.
        let last = told.last().unwrap();
        assert_eq!(
            ask(&d, "DELETE", &format!("units/{last}"), &Value::Null).status,
            204
        );
        put(&d, &format!("a{}.service", told.len()), &body, 201);
        page = get(&d, &format!("units?nextPageToken={token}"));
    }
    assert_eq!(told, names);
}

/// Templates, and what our own verbs make of what fleet's made.
#[test]
fn templates_and_our_own_units() {
    let d = Daemon::start();
    let echo = options(&[(
        "Service",
        "ExecStart",
        "/bin/sh -c \"echo I am %i; exec sleep 1000\"",
    )]);
    put(&d, "who@.service", &json!({ "options": echo }), 201);
    let body = json!({ "desiredState": "launched" });
    let said = refused(&d, "PUT", "units/who@.service", &body, 400);
    assert!(said.contains("who@1.service"), "{said}");
    put(
        &d,
        "who@7.service",
        &json!({ "options": echo, "desiredState": "launched" }),
        201,
    );
    until("it speaks", || d.ok(["unit", "logs", "who@7"]) == "I am 7");
    assert!(is(&d, "who@.service", "inactive", "inactive"));
    // One of ours is seen by fleet's clients, with its drop-ins, and goes their ways.
    let file = d.unit(
        "own.container",
        "# ours\n[Container]\nImage=bb\nExec=sleep 1000\n",
    );
    std::fs::create_dir(d.dir.path().join("own.container.d")).unwrap();
    d.unit("own.container.d/10.conf", "[Container]\nEnvironment=A=1\n");
    d.ok(["unit", "start", &file]);
    assert!(is(&d, "own.container", "launched", "launched"));
    let expected = options(&[
        ("Container", "Image", "bb"),
        ("Container", "Exec", "sleep 1000"),
        ("Container", "Environment", "A=1"),
    ]);
    assert_eq!(get(&d, "units/own.container")["options"], expected);
    let body = json!({ "options": expected, "desiredState": "loaded" });
    put(&d, "own.container", &body, 204);
    until("it is down", || is(&d, "own.container", "loaded", "loaded"));
    d.ok(["unit", "start", "own"]);
    assert!(is(&d, "own.container", "launched", "launched"));
    // A name must be whole here.
    refused(&d, "GET", "units/own", &Value::Null, 404);
}

#[test]
fn machines_and_the_description_for_programs() {
    let d = Daemon::bare();
    let id = std::fs::read_to_string(d.state_dir().join("machine-id")).unwrap();
    let expected = json!({ "machines": [{ "id": id.trim(), "metadata": {} }] });
    assert_eq!(get(&d, "machines"), expected);
    // With a way to the world there is an address.
    for words in [
        "link add out0 type veth peer name out1",
        "addr add 198.51.100.2/24 dev out0",
        "link set out1 up",
        "link set out0 up",
        "route add default via 198.51.100.1",
    ] {
        let added = d.inside("ip").args(words.split(' ')).status().unwrap();
        assert!(added.success(), "{words}");
    }
    assert_eq!(
        get(&d, "machines")["machines"][0]["primaryIP"],
        "198.51.100.2"
    );

    // Each method that the document has is there, with its parameters.
    let document = get(&d, "discovery");
    assert_eq!(document["servicePath"], "fleet/v1/");
    let run = options(&[("Service", "ExecStart", "/bin/true")]);
    let unit = json!({ "name": "a.service", "options": run, "desiredState": "loaded" });
    let method = |group: &str, name: &str| document["resources"][group]["methods"][name].clone();
    let mut called = 0;
    for (group, name) in [
        ("Units", "Set"),
        ("Units", "Get"),
        ("Units", "List"),
        ("UnitState", "Get"),
        ("UnitState", "List"),
        ("Machines", "List"),
        ("Units", "Delete"),
    ] {
        let of = method(group, name);
        let path = of["path"]
            .as_str()
            .unwrap()
            .replace("{unitName}", "a.service");
        let body = if of["request"].is_null() {
            Value::Null
        } else {
            unit.clone()
        };
        let answer = ask(&d, of["httpMethod"].as_str().unwrap(), &path, &body);
        let expected = match name {
            "Set" => 201,
            "Delete" => 204,
            _ => 200,
        };
        assert_eq!(answer.status, expected, "{group}.{name}: {}", answer.text());
        if let Some(schema) = of["response"]["$ref"].as_str() {
            let known = document["schemas"][schema]["properties"]
                .as_object()
                .unwrap();
            for key in answer.json().as_object().unwrap().keys() {
                assert!(known.contains_key(key), "{schema} has no {key}");
            }
        }
        called += 1;
    }
    let all = document["resources"].as_object().unwrap().values();
    let all: usize = all.map(|r| r["methods"].as_object().unwrap().len()).sum();
    assert_eq!(called, all);
}
