//! Something of everything: containers that run, have ended and were never started, with health, ports, mounts and several
//! networks; images that were made, built, pulled and pushed; what is asked of them.

use crate::checker::Checker;
use crate::common::registry::Registry;
use crate::common::{Daemon, until};
use crate::definition::Definition;
use crate::http::{Answer, ask, send};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

pub struct Scenario<'a> {
    d: &'a Daemon,
    _registry: Registry,
}

const DOCKERFILE: &str = "FROM bb\n\
    LABEL of=test\nENV A=b\nUSER web\nEXPOSE 80\nVOLUME /v\nWORKDIR /w\n\
    HEALTHCHECK --interval=1s --timeout=20s --retries=3 --start-period=1s --start-interval=1s CMD true\n\
    SHELL [\"/bin/sh\", \"-c\"]\nSTOPSIGNAL TERM\nONBUILD RUN true\n\
    RUN echo made > /tmp-made || true\nENTRYPOINT [\"sleep\"]\nCMD [\"1000\"]\n";

/// An archive with one file.
pub fn tar(d: &Daemon, name: &str, content: &str) -> Vec<u8> {
    let dir = d.dir.path().join("context");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(name), content).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&dir).args(["-c", name]);
    tar.output().unwrap().stdout
}

impl<'a> Scenario<'a> {
    pub fn begin(d: &'a Daemon) -> Self {
        let scenario = Self {
            d,
            _registry: Registry::start(d, 5000),
        };
        for (path, body) in [
            (
                "/networks/create",
                json!({ "Name": "back", "Labels": { "of": "test" }, "IPAM": { "Config": [
                    { "Subnet": "10.77.0.0/16", "IPRange": "10.77.1.0/24", "Gateway": "10.77.0.1" } ] } }),
            ),
            (
                "/volumes/create",
                json!({ "Name": "data", "Labels": { "of": "test" } }),
            ),
            (
                "/containers/create?name=web",
                json!({
                    "Image": "bb", "Cmd": ["sh", "-c", "mkdir -p /made; echo out; exec sleep 1000"], "Labels": { "of": "test" },
                    "ExposedPorts": { "80/tcp": {}, "81/udp": {} }, "StopTimeout": 1, "MacAddress": "02:42:0a:4d:00:63",
                    "Healthcheck": { "Test": ["CMD", "true"], "Interval": 1_000_000_000, "Retries": 2 },
                    "HostConfig": {
                        "NetworkMode": "back", "Memory": 256 << 20, "PidsLimit": 100, "CpuQuota": 50_000,
                        "PortBindings": { "80/tcp": [{ "HostPort": "8080" }] },
                        "Binds": [format!("{}:/host:ro", d.dir.path().join("root").display())],
                        "Mounts": [
                            { "Type": "volume", "Source": "data", "Target": "/data", "VolumeOptions": {
                                "NoCopy": true, "Subpath": ".", "DriverConfig": { "Name": "local", "Options": {} } } },
                            { "Type": "tmpfs", "Target": "/t", "TmpfsOptions": {
                                "SizeBytes": 1 << 20, "Mode": 448, "Options": [["uid", "33"]] } },
                            { "Type": "bind", "Source": "/tmp", "Target": "/b", "ReadOnly": true, "Consistency": "cached",
                                "BindOptions": { "Propagation": "rprivate", "ReadOnlyNonRecursive": true } },
                            { "Type": "bind", "Source": "/tmp", "Target": "/c", "ReadOnly": true,
                                "BindOptions": { "ReadOnlyForceRecursive": true } },
                        ],
                        "Tmpfs": { "/run": "size=1m" }, "Sysctls": { "net.ipv4.ip_forward": "1" },
                        "Ulimits": [{ "Name": "nofile", "Soft": 100, "Hard": 200 }],
                        "Devices": [{ "PathOnHost": "/dev/null", "PathInContainer": "/dev/nothing", "CgroupPermissions": "rwm" }],
                        "LogConfig": { "Type": "json-file", "Config": { "max-size": "1m" } },
                        "RestartPolicy": { "Name": "on-failure", "MaximumRetryCount": 3 },
                        "Annotations": { "a": "b" },
                    },
                    "NetworkingConfig": { "EndpointsConfig": { "back": {
                        "Aliases": ["db"], "IPAMConfig": { "IPv4Address": "10.77.1.9" } } } },
                }),
            ),
            ("/networks/bridge/connect", json!({ "Container": "web" })),
            (
                "/containers/create?name=done",
                json!({ "Image": "bb", "Cmd": ["sh", "-c", "exit 3"] }),
            ),
            (
                "/containers/create?name=idle",
                json!({ "Image": "bb", "Cmd": ["true"] }),
            ),
            (
                "/containers/create?name=still",
                json!({ "Image": "bb", "Cmd": ["sleep", "1000"] }),
            ),
            ("/containers/web/start", Value::Null),
            (
                "/containers/create?name=apart",
                json!({ "Image": "bb", "NetworkDisabled": true }),
            ),
            ("/containers/done/start", Value::Null),
            ("/containers/still/start", Value::Null),
            ("/containers/still/pause", Value::Null),
        ] {
            let answer = ask(d, "POST", path, &body);
            assert!(answer.status < 300, "{path}: {}", answer.text());
        }
        let head = ["Content-Type: application/x-tar"];
        let context = tar(d, "Dockerfile", DOCKERFILE);
        let built = send(d, "POST", "/build?t=full", &head, &context);
        assert!(
            built.text().contains("Successfully tagged"),
            "{}",
            built.text()
        );
        let filled = ask(
            d,
            "POST",
            "/containers/create?name=filled",
            &json!({ "Image": "full" }),
        );
        assert_eq!(filled.status, 201, "{}", filled.text());
        until("it is healthy", || {
            d.field("web", ".State.Health.Status") == "healthy"
        });
        until("it has ended", || {
            d.field("done", ".State.Status") == "exited"
        });
        scenario
    }

    /// Asks everything of a version.
    pub fn ask(&self, version: &str, definition: &Definition, checker: &mut Checker<'_>) {
        let mut asked = Asked {
            d: self.d,
            version,
            definition,
            checker,
        };
        asked.lists();
        asked.life();
        asked.images();
        asked.networks_and_volumes();
        asked.refused();
        asked.prunes();
    }
}

pub struct Asked<'a, 'b> {
    pub d: &'a Daemon,
    pub version: &'a str,
    definition: &'a Definition,
    pub checker: &'a mut Checker<'b>,
}

impl Asked<'_, '_> {
    fn wrong(&mut self, text: String) {
        self.checker.wrong.insert(text);
    }

    /// Asks, and holds the answer against the one of that status.
    pub fn ask(&mut self, status: u16, endpoint: &str, path: &str, body: &Value) -> Answer {
        let (method, _) = endpoint.split_once(' ').unwrap();
        let answer = ask(self.d, method, &format!("/v{}{path}", self.version), body);
        self.hold(status, endpoint, path, &answer);
        answer
    }

    fn hold(&mut self, status: u16, endpoint: &str, path: &str, answer: &Answer) {
        let what = format!("{endpoint} ({path})");
        if answer.status != status {
            self.wrong(format!(
                "{what}: {} instead of {status}: {}",
                answer.status,
                answer.text()
            ));
            return;
        }
        let of = self.definition.endpoint(endpoint);
        if !of.answers(status) {
            self.wrong(format!("{what}: {status} is not in the definition"));
        }
        let json = answer
            .header("content-type")
            .is_some_and(|t| t.starts_with("application/json"));
        if let (Some(schema), true) = (of.answer(status), json) {
            for value in answer.lines() {
                self.checker.check(endpoint, schema, &value);
            }
        } else if of.answer(status).is_some_and(|s| s["type"] != "string") {
            self.wrong(format!("{what}: no JSON: {}", answer.text()));
        }
    }

    pub fn get(&mut self, endpoint: &str, path: &str) -> Value {
        let answer = self.ask(200, endpoint, path, &Value::Null);
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    fn lists(&mut self) {
        self.get("GET /containers/json", "/containers/json?all=1&size=1");
        for name in ["web", "done", "idle", "still", "apart", "filled"] {
            let path = format!("/containers/{name}/json?size=1");
            self.get("GET /containers/{id}/json", &path);
        }
        self.get("GET /containers/{id}/top", "/containers/web/top");
        self.get("GET /containers/{id}/changes", "/containers/web/changes");
        for name in ["web", "done"] {
            self.get(
                "GET /containers/{id}/stats",
                &format!("/containers/{name}/stats?stream=0"),
            );
        }
        self.get("GET /images/json", "/images/json?all=1");
        for name in ["bb", "full"] {
            self.get("GET /images/{name}/json", &format!("/images/{name}/json"));
            self.get(
                "GET /images/{name}/history",
                &format!("/images/{name}/history"),
            );
        }
        self.get("GET /networks", "/networks");
        for name in ["bridge", "back", "host", "none"] {
            self.get("GET /networks/{id}", &format!("/networks/{name}"));
        }
        self.get("GET /volumes", "/volumes");
        self.get("GET /volumes/{name}", "/volumes/data");
        self.get("GET /info", "/info");
        self.get("GET /version", "/version");
        self.get("GET /system/df", "/system/df");
        self.get("GET /plugins", "/plugins");
        self.get("GET /events", "/events?since=1&until=1");
        let now = chrono::Utc::now().timestamp();
        let events = self.ask(
            200,
            "GET /events",
            &format!("/events?since=1&until={now}"),
            &Value::Null,
        );
        if events.lines().is_empty() {
            self.wrong("no events".into());
        }
    }

    fn life(&mut self) {
        let name = format!("v{}", self.version);
        let post = |rest: &str| format!("/containers/{name}{rest}");
        let create = "POST /containers/create";
        let body = json!({ "Image": "bb", "Cmd": ["sleep", "1000"], "StopTimeout": 0 });
        self.ask(
            201,
            create,
            &format!("/containers/create?name={name}"),
            &body,
        );
        let start = "POST /containers/{id}/start";
        self.ask(204, start, &post("/start"), &Value::Null);
        self.ask(304, start, &post("/start"), &Value::Null);
        let update = json!({ "Memory": 128 << 20, "MemorySwap": -1 });
        self.ask(
            200,
            "POST /containers/{id}/update",
            &post("/update"),
            &update,
        );
        self.ask(
            204,
            "POST /containers/{id}/pause",
            &post("/pause"),
            &Value::Null,
        );
        self.ask(
            204,
            "POST /containers/{id}/unpause",
            &post("/unpause"),
            &Value::Null,
        );
        let exec = json!({ "Cmd": ["sh", "-c", "exit 4"], "AttachStdout": true, "Env": ["A=b"], "User": "web" });
        let made = self.ask(201, "POST /containers/{id}/exec", &post("/exec"), &exec);
        let id = made.json()["Id"].as_str().unwrap().to_owned();
        let inspect = format!("/exec/{id}/json");
        self.get("GET /exec/{id}/json", &inspect);
        let start_exec = format!("/exec/{id}/start");
        self.ask(
            200,
            "POST /exec/{id}/start",
            &start_exec,
            &json!({ "Detach": true }),
        );
        let mut left = Value::Null;
        until("the exec has ended", || {
            left = ask(self.d, "GET", &inspect, &Value::Null).json();
            left["Running"] == false && left["ExitCode"] == 4
        });
        self.get("GET /exec/{id}/json", &inspect);
        self.ask(
            204,
            "POST /containers/{id}/rename",
            &post(&format!("/rename?name={name}x")),
            &Value::Null,
        );
        self.ask(
            204,
            "POST /containers/{id}/rename",
            &format!("/containers/{name}x/rename?name={name}"),
            &Value::Null,
        );
        self.ask(
            204,
            "POST /containers/{id}/restart",
            &post("/restart?t=0"),
            &Value::Null,
        );
        self.ask(
            204,
            "POST /containers/{id}/stop",
            &post("/stop?t=0"),
            &Value::Null,
        );
        self.ask(
            304,
            "POST /containers/{id}/stop",
            &post("/stop"),
            &Value::Null,
        );
        self.ask(
            200,
            "POST /containers/{id}/wait",
            &post("/wait"),
            &Value::Null,
        );
        let commit = format!("/commit?container={name}&repo=made&tag={name}");
        self.ask(
            201,
            "POST /commit",
            &commit,
            &json!({ "Labels": { "of": "test" } }),
        );
    }
}
