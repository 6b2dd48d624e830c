//! What lists are narrowed by, and what prunes are.

use crate::common::{Daemon, until};
use crate::http::{ask, get};
use crate::{create, ok, quoted, script, start, unframed};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Asks a list with a filter; names or ids of what it has.
fn filtered(
    d: &Daemon,
    path: &str,
    list: &str,
    key: &str,
    filter: &str,
    value: &str,
) -> BTreeSet<String> {
    let filters = json!({ filter: [value] }).to_string();
    let mark = if path.contains('?') { '&' } else { '?' };
    let answer = ok(
        d,
        "GET",
        &format!("{path}{mark}filters={}", quoted(&filters)),
        &Value::Null,
    )
    .json();
    let rows = if list.is_empty() {
        answer
    } else {
        answer[list].clone()
    };
    let name = |row: &Value| match &row[key] {
        Value::Array(names) => names
            .first()
            .and_then(Value::as_str)
            .unwrap_or("<none>")
            .to_owned(),
        name => name.as_str().unwrap().to_owned(),
    };
    rows.as_array()
        .into_iter()
        .flatten()
        .map(|r| name(r).trim_start_matches('/').to_owned())
        .collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

/// `web` runs with everything, `done` has ended with 3, `idle` was never started.
fn three(d: &Daemon) -> String {
    ok(d, "POST", "/networks/create", &json!({ "Name": "back" }));
    let named = |name: &str, body: &Value| {
        let path = format!("/containers/create?name={name}");
        ok(d, "POST", &path, body).json()["Id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let done = named("done", &script("exit 3", &json!({})));
    start(d, &done);
    ok(d, "POST", "/containers/done/wait", &Value::Null);
    let web = script(
        "sleep 1000",
        &json!({
            "Labels": { "a": "b" }, "ExposedPorts": { "81/tcp": {} },
            "Healthcheck": { "Test": ["CMD", "true"], "Interval": 100_000_000 },
            "HostConfig": { "NetworkMode": "back", "Binds": ["data:/data"], "PortBindings": { "80/tcp": [{ "HostPort": "8080" }] } },
        }),
    );
    let web = named("web", &web);
    start(d, &web);
    named("idle", &script("true", &json!({})));
    until("it is healthy", || {
        d.field("web", ".State.Health.Status") == "healthy"
    });
    web
}

#[test]
fn containers() {
    let d = Daemon::start();
    let web = three(&d);
    let image = d.ok(["images", "-q", "--no-trunc", "bb"]);
    let everything: &[&str] = &["web", "done", "idle"];
    for (filter, value, names) in [
        ("ancestor", "bb", everything),
        ("ancestor", &image, everything),
        ("before", "web", &["done"]),
        ("since", "done", &["web", "idle"]),
        ("expose", "81", &["web"]),
        ("publish", "8080", &["web"]),
        ("exited", "3", &["done"]),
        ("health", "healthy", &["web"]),
        ("id", &web[..12], &["web"]),
        ("isolation", "hyperv", &[]),
        ("is-task", "true", &[]),
        ("is-task", "false", everything),
        ("label", "a", &["web"]),
        ("label", "a=b", &["web"]),
        ("label", "a=c", &[]),
        ("label!", "a", &["done", "idle"]),
        ("name", "^/we", &["web"]),
        ("network", "back", &["web"]),
        ("status", "created", &["idle"]),
        ("volume", "data", &["web"]),
    ] {
        let found = filtered(&d, "/containers/json?all=1", "", "Names", filter, value);
        assert_eq!(found, set(names), "{filter}={value}");
    }
    let list = |query: &str| get(&d, &format!("/containers/json{query}")).json();
    assert_eq!(list("").as_array().unwrap().len(), 1);
    assert_eq!(list("?all=1").as_array().unwrap().len(), 3);
    assert_eq!(list("?limit=2").as_array().unwrap().len(), 2);
    assert!(
        list("?size=1")[0]["SizeRootFs"].as_i64().unwrap() > 0
            && list("")[0].get("SizeRw").is_none()
    );
    let one = |query: &str| get(&d, &format!("/containers/web/json{query}")).json();
    assert!(one("?size=1")["SizeRw"].is_i64() && one("").get("SizeRw").is_none());
    let top = get(&d, "/containers/web/top?ps_args=-o%20pid,comm").json();
    assert_eq!(top["Titles"], json!(["PID", "COMMAND"]));
    let refused = get(
        &d,
        "/containers/json?filters=%7B%22nope%22:%5B%22x%22%5D%7D",
    );
    assert!(refused.status == 400 && refused.message().contains("nope"));
}

#[test]
fn networks_volumes_and_images() {
    let d = Daemon::start();
    three(&d);
    ok(
        &d,
        "POST",
        "/networks/create",
        &json!({ "Name": "free", "Labels": { "a": "b" } }),
    );
    ok(
        &d,
        "POST",
        "/volumes/create",
        &json!({ "Name": "loose", "Labels": { "a": "b" } }),
    );
    let id = get(&d, "/networks/free").json()["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    for (filter, value, names) in [
        ("dangling", "true", &["free"][..]),
        ("driver", "host", &["host"]),
        ("id", &id[..12], &["free"]),
        ("label", "a=b", &["free"]),
        ("name", "fre", &["free"]),
        (
            "scope",
            "local",
            &["back", "bridge", "free", "host", "none"],
        ),
        ("scope", "swarm", &[]),
        ("type", "custom", &["back", "free"]),
        ("type", "builtin", &["bridge", "host", "none"]),
    ] {
        let found = filtered(&d, "/networks", "", "Name", filter, value);
        assert_eq!(found, set(names), "{filter}={value}");
    }
    assert_eq!(get(&d, "/networks/free?scope=swarm").status, 404);
    assert_eq!(get(&d, "/networks/free?scope=local").status, 200);
    for (filter, value, names) in [
        ("dangling", "true", &["loose"][..]),
        ("dangling", "false", &["data"]),
        ("driver", "local", &["data", "loose"]),
        ("driver", "other", &[]),
        ("label", "a", &["loose"]),
        ("name", "loo", &["loose"]),
    ] {
        let found = filtered(&d, "/volumes", "Volumes", "Name", filter, value);
        assert_eq!(found, set(names), "{filter}={value}");
    }
    // One that is newer, and one without a name.
    ok(
        &d,
        "POST",
        "/commit?container=done&repo=newer&tag=1",
        &json!({ "Labels": { "a": "b" } }),
    );
    ok(
        &d,
        "POST",
        "/commit?container=idle",
        &json!({ "Labels": { "c": "d" } }),
    );
    for (filter, value, names) in [
        ("before", "newer:1", &["bb:latest"][..]),
        ("since", "newer:1", &["<none>"]),
        ("dangling", "true", &["<none>"]),
        ("label", "a=b", &["newer:1"]),
        ("reference", "new*", &["newer:1"]),
        ("until", "0", &[]),
        ("until", "1000h", &[]),
    ] {
        let found = filtered(&d, "/images/json", "", "RepoTags", filter, value);
        assert_eq!(found, set(names), "{filter}={value}");
    }
    let list = |query: &str| get(&d, &format!("/images/json{query}")).json();
    assert_eq!(list("")[0]["SharedSize"], -1);
    let shared = list("?shared-size=1");
    let shares = |i: &Value| i["SharedSize"].as_i64().unwrap() > 0;
    assert!(shared.as_array().unwrap().iter().all(shares), "{shared}");
    for (kind, key) in [
        ("container", "Containers"),
        ("image", "Images"),
        ("volume", "Volumes"),
        ("build-cache", "BuildCache"),
    ] {
        let all = get(&d, &format!("/system/df?type={kind}")).json();
        let keys: Vec<&String> = all
            .as_object()
            .unwrap()
            .keys()
            .filter(|k| *k != "LayersSize")
            .collect();
        assert_eq!(keys, [key]);
    }
}

#[test]
fn events() {
    let d = Daemon::start();
    let web = three(&d);
    let now = chrono::Utc::now().timestamp() + 1;
    let ask = |query: &str| get(&d, &format!("/events?until={now}&{query}")).lines();
    let filter = |key: &str, value: &str| {
        let filters = json!({ key: [value] }).to_string();
        ask(&format!("since=1&filters={}", quoted(&filters)))
    };
    assert!(filter("nope", "x").iter().all(|e| e["message"].is_string()));
    for (key, value, path, wanted) in [
        ("container", "web", "/Actor/ID", web.as_str()),
        ("event", "die", "/Action", "die"),
        ("image", "bb", "/Type", ""),
        ("label", "a=b", "/Actor/ID", &web),
        ("network", "back", "/Type", "network"),
        ("scope", "local", "/scope", "local"),
        ("type", "volume", "/Type", "volume"),
        ("volume", "data", "/Actor/ID", "data"),
    ] {
        let found = filter(key, value);
        assert!(!found.is_empty(), "{key}={value}");
        for event in found {
            let said = event.pointer(path).unwrap();
            assert!(
                wanted.is_empty() || said == wanted,
                "{key}={value}: {event}"
            );
        }
    }
    for key in ["config", "daemon", "node", "plugin", "secret", "service"] {
        assert!(filter(key, "x").is_empty(), "{key}");
    }
    assert!(!ask("since=1").is_empty() && get(&d, "/events?since=1&until=1").body.is_empty());
}

#[test]
fn logs() {
    let d = Daemon::start();
    let text = "echo one; echo err >&2; busybox usleep 1100000; echo two";
    let id = create(&d, &script(text, &json!({})));
    start(&d, &id);
    ok(&d, "POST", &format!("/containers/{id}/wait"), &Value::Null);
    let logs = |query: &str| {
        unframed(
            &ok(
                &d,
                "GET",
                &format!("/containers/{id}/logs?{query}"),
                &Value::Null,
            )
            .body,
        )
    };
    assert_eq!(logs("stdout=1"), "one\ntwo\n");
    assert_eq!(logs("stderr=1"), "err\n");
    assert_eq!(logs("stdout=1&tail=1"), "two\n");
    assert_eq!(logs("stdout=1&follow=1"), "one\ntwo\n");
    let stamped = logs("stdout=1&timestamps=1");
    let times: Vec<&str> = stamped
        .lines()
        .map(|l| l.split(' ').next().unwrap())
        .collect();
    let second = chrono::DateTime::parse_from_rfc3339(times[1])
        .unwrap()
        .timestamp();
    assert_eq!(logs(&format!("stdout=1&since={second}")), "two\n");
    assert_eq!(logs(&format!("stdout=1&until={second}")), "one\n");
    assert_eq!(get(&d, &format!("/containers/{id}/logs")).status, 400);
}

#[test]
fn prunes() {
    let d = Daemon::start();
    three(&d);
    let prune = |what: &str, filters: Value| {
        let path = format!("/{what}/prune?filters={}", quoted(&filters.to_string()));
        ok(&d, "POST", &path, &Value::Null).json()
    };
    let labelled = json!({ "a": "b" });
    create(&d, &script("true", &json!({ "Labels": labelled })));
    let gone = prune("containers", json!({ "until": ["1000h"] }));
    assert_eq!(gone["ContainersDeleted"], json!([]));
    let gone = prune("containers", json!({ "label": ["a=b"] }));
    assert_eq!(gone["ContainersDeleted"].as_array().unwrap().len(), 1);
    let gone = prune("containers", json!({ "label!": ["none"] }));
    assert_eq!(gone["ContainersDeleted"].as_array().unwrap().len(), 2);
    for name in ["n1", "n2"] {
        ok(
            &d,
            "POST",
            "/networks/create",
            &json!({ "Name": name, "Labels": { name: "" } }),
        );
    }
    assert_eq!(
        prune("networks", json!({ "until": ["1000h"] }))["NetworksDeleted"],
        json!([])
    );
    assert_eq!(
        prune("networks", json!({ "label": ["n1"] }))["NetworksDeleted"],
        json!(["n1"])
    );
    assert_eq!(
        prune("networks", json!({ "label!": ["n2"] }))["NetworksDeleted"],
        json!([])
    );
    for name in ["v1", "v2"] {
        ok(
            &d,
            "POST",
            "/volumes/create",
            &json!({ "Name": name, "Labels": { name: "" } }),
        );
    }
    assert_eq!(prune("volumes", json!({}))["VolumesDeleted"], json!([]));
    assert_eq!(
        prune("volumes", json!({ "all": ["1"], "label": ["v1"] }))["VolumesDeleted"],
        json!(["v1"])
    );
    assert_eq!(
        prune("volumes", json!({ "all": ["1"], "label!": ["v2"] }))["VolumesDeleted"],
        json!([])
    );
    for label in ["i1", "i2"] {
        ok(
            &d,
            "POST",
            "/commit?container=web",
            &json!({ "Labels": { label: "" } }),
        );
    }
    ok(
        &d,
        "POST",
        "/commit?container=web&repo=named",
        &json!({ "Labels": { "i3": "" } }),
    );
    let count = |gone: Value| gone["ImagesDeleted"].as_array().map_or(0, Vec::len);
    assert_eq!(count(prune("images", json!({ "until": ["1000h"] }))), 0);
    assert_eq!(count(prune("images", json!({ "label": ["i1"] }))), 1);
    assert_eq!(count(prune("images", json!({ "label!": ["i2"] }))), 0);
    assert_eq!(count(prune("images", json!({ "dangling": ["true"] }))), 1);
    assert!(get(&d, "/images/named/json").status == 200);
    assert!(count(prune("images", json!({ "dangling": ["false"] }))) > 0);
    assert!(get(&d, "/images/named/json").status == 404);
    let refused = ask(
        &d,
        "POST",
        "/build/prune?filters=%7B%22id%22:%5B%22x%22%5D%7D",
        &Value::Null,
    );
    assert_eq!(refused.status, 400);
}
