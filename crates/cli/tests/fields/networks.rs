//! Networks and endpoints.

use crate::common::Daemon;
use crate::http::ask;
use crate::{create, exec, inspect, ok, remove, run, script, start};
use serde_json::{Value, json};

#[test]
fn networks_are_made_as_asked() {
    let d = Daemon::start();
    let body = json!({
        "Name": "back", "Driver": "bridge", "Internal": true, "Labels": { "a": "b" }, "Options": { "c": "d" }, "Scope": "local",
        "CheckDuplicate": true, "EnableIPv4": true,
        "IPAM": { "Driver": "default", "Config": [{ "Subnet": "10.77.0.0/16", "Gateway": "10.77.0.9", "IPRange": "10.77.5.0/24" }] },
    });
    ok(&d, "POST", "/networks/create", &body);
    let said = ok(&d, "GET", "/networks/back", &Value::Null).json();
    for key in [
        "Name",
        "Driver",
        "Internal",
        "Labels",
        "Options",
        "Scope",
        "EnableIPv4",
    ] {
        assert_eq!(said[key], body[key], "{key}");
    }
    assert_eq!(said["IPAM"]["Config"], body["IPAM"]["Config"]);
    assert_eq!(said["IPAM"]["Driver"], "default");
    // Addresses come from the range; nothing leads out of it.
    let on = json!({ "HostConfig": { "NetworkMode": "back" } });
    let text = "busybox ip -4 addr show eth0 | grep -c 'inet 10.77.5.'; busybox ip route | grep -c default";
    assert_eq!(run(&d, &script(text, &on)), "1\n0\n");
    let open = json!({ "Name": "open", "IPAM": { "Config": [{ "Subnet": "10.78.0.0/24", "Gateway": "10.78.0.9" }] } });
    ok(&d, "POST", "/networks/create", &open);
    let on = json!({ "HostConfig": { "NetworkMode": "open" } });
    assert_eq!(
        run(&d, &script("busybox ip route | grep default", &on)),
        "default via 10.78.0.9 dev eth0 \n"
    );
    assert_eq!(ask(&d, "POST", "/networks/create", &body).status, 409);
    // What docker's driver can and ours cannot is refused by name.
    for (name, value, status) in [
        ("bridge.inhibit_ipv4", "true", 400),
        ("driver.mtu", "big", 400),
        ("driver.mtu", "1500", 201),
        ("bridge.enable_icc", "true", 201),
    ] {
        let name = format!("com.docker.network.{name}");
        let asked = json!({ "Name": format!("n{value}"), "Options": { &name: value } });
        let answer = ask(&d, "POST", "/networks/create", &asked);
        assert!(answer.status == status, "{asked}: {}", answer.text());
        assert!(
            status == 201 || answer.message().contains(&name),
            "{}",
            answer.text()
        );
    }
}

#[test]
fn endpoints_are_as_asked() {
    let d = Daemon::start();
    let subnet =
        |name: &str, net: &str| json!({ "Name": name, "IPAM": { "Config": [{ "Subnet": net }] } });
    ok(
        &d,
        "POST",
        "/networks/create",
        &subnet("back", "10.77.0.0/24"),
    );
    ok(
        &d,
        "POST",
        "/networks/create",
        &subnet("more", "10.78.0.0/24"),
    );
    let settings = |address: &str, mac: &str| {
        json!({
            "Aliases": ["db"], "MacAddress": mac, "IPAMConfig": { "IPv4Address": address },
        })
    };
    let body = script(
        "sleep 1000",
        &json!({
            "HostConfig": { "NetworkMode": "back" },
            "NetworkingConfig": { "EndpointsConfig": { "back": settings("10.77.0.77", "02:42:ac:00:00:07") } },
        }),
    );
    let id = create(&d, &body);
    start(&d, &id);
    let connect =
        json!({ "Container": id, "EndpointConfig": settings("10.78.0.78", "02:42:ac:00:00:08") });
    ok(&d, "POST", "/networks/more/connect", &connect);
    for (network, address, mac) in [
        ("back", "10.77.0.77", "02:42:ac:00:00:07"),
        ("more", "10.78.0.78", "02:42:ac:00:00:08"),
    ] {
        let said = inspect(&d, &id)["NetworkSettings"]["Networks"][network].clone();
        assert_eq!(
            (said["IPAddress"].as_str(), said["MacAddress"].as_str()),
            (Some(address), Some(mac)),
            "{said}"
        );
        let inside = exec(&d, &id, "busybox ip addr");
        assert!(inside.contains(address) && inside.contains(mac), "{inside}");
        // The alias is a name on that network.
        let on = json!({ "HostConfig": { "NetworkMode": network } });
        let found = run(&d, &script("nslookup db", &on));
        assert!(found.contains(address), "{found}");
    }
    ok(
        &d,
        "POST",
        "/networks/more/disconnect",
        &json!({ "Container": id }),
    );
    assert!(!exec(&d, &id, "busybox ip addr").contains("10.78.0.78"));
    // It comes back, again and again.
    for _ in 0..3 {
        ok(&d, "POST", "/networks/more/connect", &connect);
        assert!(exec(&d, &id, "busybox ip addr").contains("10.78.0.78"));
        ok(
            &d,
            "POST",
            "/networks/more/disconnect",
            &json!({ "Container": id }),
        );
    }
    // Forced, one that is not there is off it.
    let nobody = |force: bool| json!({ "Container": "nobody", "Force": force });
    assert_eq!(
        ask(&d, "POST", "/networks/more/disconnect", &nobody(false)).status,
        404
    );
    ok(&d, "POST", "/networks/more/disconnect", &nobody(true));
}

#[test]
fn ports_are_published_as_asked() {
    let d = Daemon::start();
    let serve = "mkdir /www; echo it works > /www/index.html; httpd -f -p 80 -h /www";
    let reaches = |address: &str| {
        let url = format!("http://{address}/");
        let mut curl = d.inside("curl");
        curl.args(["-fsS", "--max-time", "2", &url])
            .output()
            .unwrap()
            .status
            .success()
    };
    let with = json!({ "HostConfig": { "PortBindings": {
        "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "8080" }] } } });
    let id = create(&d, &script(serve, &with));
    start(&d, &id);
    crate::common::until("it answers", || reaches("127.0.0.1:8080"));
    assert!(!reaches("10.210.0.1:8080"), "only at the address asked");
    remove(&d, &id);
    let all =
        json!({ "ExposedPorts": { "80/tcp": {} }, "HostConfig": { "PublishAllPorts": true } });
    let id = create(&d, &script(serve, &all));
    start(&d, &id);
    let port = inspect(&d, &id)["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"].clone();
    let at = format!("127.0.0.1:{}", port.as_str().unwrap());
    crate::common::until("it answers", || reaches(&at));
}

#[test]
fn volumes_are_made_as_asked() {
    let d = Daemon::start();
    let body = json!({ "Name": "data", "Driver": "local", "Labels": { "a": "b" } });
    ok(&d, "POST", "/volumes/create", &body);
    let said = ok(&d, "GET", "/volumes/data", &Value::Null).json();
    for key in ["Name", "Driver", "Labels"] {
        assert_eq!(said[key], body[key], "{key}");
    }
    ok(&d, "DELETE", "/volumes/data?force=0", &Value::Null);
    assert_eq!(ask(&d, "DELETE", "/volumes/data", &Value::Null).status, 404);
    ok(&d, "DELETE", "/volumes/data?force=1", &Value::Null);
}
