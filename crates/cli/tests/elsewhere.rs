//! Commands that reach containers on another machine: two real daemons, and between them what a machine's socket does with requests.
#![allow(clippy::unwrap_used)]

mod common;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use axum::response::Response;
use axum::routing::get;
use common::{Daemon, errors, text, until};
use coracle_api::Machines;
use coracle_api::machines::{Elsewhere, Known, Near, Place, SendError, Where, over};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::json;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const GONE: &str = "cccccccccccccccccccccccccccccccc";

/// Asks a daemon.
async fn ask(socket: PathBuf, request: axum::http::Request<Body>) -> Result<Response, SendError> {
    Ok(over(UnixStream::connect(socket).await?, request).await?)
}

/// As `a` sees it: `b` is there, by its socket instead of its door.
struct ToB {
    socket: PathBuf,
    /// Containers of units, which run on `b`.
    units: Vec<(&'static str, String)>,
}

impl Elsewhere for ToB {
    fn own(&self) -> String {
        A.into()
    }

    fn known(&self) -> Vec<Known> {
        let machine = |id: &str, hostname: &str, alive| Known {
            id: id.into(),
            hostname: hostname.into(),
            alive,
            last_seen: None,
        };
        vec![
            machine(A, "a", true),
            machine(B, "b", true),
            machine(GONE, "gone", false),
        ]
    }

    fn send<'a>(
        &'a self,
        machine: &'a str,
        request: axum::http::Request<Body>,
    ) -> BoxFuture<'a, Result<Response, SendError>> {
        let socket = match machine {
            B => self.socket.clone(),
            _ => "/nowhere".into(),
        };
        ask(socket, request).boxed()
    }
}

impl Where for ToB {
    fn place_of<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Option<Place>> {
        let found = self.units.iter().find(|(unit, _)| *unit == name);
        let place = found.map(|(_, id)| Place {
            machine: B.into(),
            container: Some(id.clone()),
        });
        std::future::ready(place).boxed()
    }
}

/// Asks `a` itself.
struct At(PathBuf);

impl Near for At {
    fn has(&self, container: &str) -> bool {
        let socket = format!("unix://{}", self.0.display());
        let asked = Command::new(common::programs())
            .args([
                "--host",
                &socket,
                "inspect",
                "--type",
                "container",
                container,
            ])
            .output();
        asked.unwrap().status.success()
    }
}

/// Both machines, and the socket of `a`.
struct Two {
    a: Daemon,
    b: Daemon,
    socket: PathBuf,
    _runtime: tokio::runtime::Runtime,
    _stop: watch::Sender<bool>,
}

impl Two {
    fn start(units: &[&'static str]) -> Self {
        let (a, b) = (Daemon::start(), Daemon::start());
        let units = units.iter().map(|unit| {
            let id = b.ok([
                "run",
                "-d",
                "--name",
                unit,
                "bb",
                "sh",
                "-c",
                "echo started; exec sleep 1000",
            ]);
            (*unit, id)
        });
        let units = units.collect();
        let to_b = Arc::new(ToB {
            socket: b.run_dir().join("coracle.sock"),
            units,
        });
        let near = a.run_dir().join("coracle.sock");
        let ours = near.clone();
        let machines = json!([
            { "id": A, "hostname": "a", "state": "alive" },
            { "id": B, "hostname": "b", "state": "alive" },
            { "id": GONE, "hostname": "gone", "state": "gone" },
        ]);
        let local = Router::new()
            .route("/v1/machines", get(move || async { axum::Json(machines) }))
            .fallback(move |request: Request| {
                let mut request = request;
                request
                    .headers_mut()
                    .insert(header::HOST, "x".parse().unwrap());
                let asking = ask(ours.clone(), request);
                async move { asking.await.unwrap() }
            });
        let router = Machines::new(to_b.clone(), to_b).before(local, Arc::new(At(near)));
        let socket = a.dir.path().join("through.sock");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let stop = watch::Sender::new(false);
        let entered = runtime.enter();
        let listener = UnixListener::bind(&socket).unwrap();
        runtime.spawn(coracle_api::serve(listener, router, stop.subscribe()));
        drop(entered);
        Self {
            a,
            b,
            socket,
            _runtime: runtime,
            _stop: stop,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(common::programs());
        command
            .args(["--host", &format!("unix://{}", self.socket.display())])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn ask(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.ask(args);
        assert!(
            output.status.success(),
            "{args:?}: {}{}",
            text(&output),
            errors(&output)
        );
        text(&output)
    }
}

#[test]
fn containers_of_another_machine() {
    let two = Two::start(&["web"]);
    two.a
        .ok(["run", "-d", "--name", "near", "bb", "sleep", "1000"]);
    // By the name of a unit, and by the machine.
    for machine in [&[][..], &["--machine", "b"]] {
        let with = |args: &[&'static str]| [machine, args].concat();
        assert_eq!(two.ok(&with(&["logs", "web"])), "started");
        assert_eq!(
            two.ok(&with(&["inspect", "--format", "{{.Name}}", "web"])),
            "/web"
        );
        assert!(two.ok(&with(&["top", "web"])).contains("sleep 1000"));
        assert!(
            two.ok(&with(&["stats", "--no-stream", "web"]))
                .contains("web")
        );
        // Input with its end, output, both streams, the exit code.
        let mut exec = two.command(&with(&[
            "exec",
            "-i",
            "web",
            "sh",
            "-c",
            "cat; echo problem >&2; exit 7",
        ]));
        let mut exec = exec.stdin(Stdio::piped()).spawn().unwrap();
        exec.stdin.take().unwrap().write_all(b"some input").unwrap();
        let output = exec.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(7), "{}", errors(&output));
        assert_eq!(
            (text(&output), errors(&output)),
            ("some input".into(), "problem\n".into())
        );
        assert_eq!(
            two.ask(&with(&["exec", "web", "/nothing"])).status.code(),
            Some(127)
        );
        // Files both ways.
        two.ok(&with(&["exec", "web", "sh", "-c", "echo content > /file"]));
        assert_eq!(two.ok(&with(&["exec", "web", "cat", "/file"])), "content");
        let there = two.a.dir.path().join("file");
        let there = there.to_str().unwrap();
        let args: Vec<&str> = machine
            .iter()
            .copied()
            .chain(["cp", "web:/file", there])
            .collect();
        two.ok(&args);
        assert_eq!(std::fs::read_to_string(there).unwrap(), "content\n");
    }
    // Lists are of one machine, or of all.
    let names = |args: &[&str]| two.ok(&[args, &["--format", "{{.Names}}"]].concat());
    assert_eq!(names(&["ps"]), "near");
    assert_eq!(names(&["--machine", "b", "ps"]), "web");
    assert_eq!(names(&["ps", "--machine", &B[..4]]), "web");
    let all = two.ask(&["ps", "--all-machines"]);
    assert!(all.status.success(), "{}", errors(&all));
    let rows = text(&all);
    let rows: Vec<Vec<&str>> = rows
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let ends: Vec<&[&str]> = rows.iter().map(|r| &r[r.len() - 2..]).collect();
    assert_eq!(ends, [["NAMES", "MACHINE"], ["near", "a"], ["web", "b"]]);
    assert!(errors(&all).contains("gone"), "{}", errors(&all));
    assert!(two.ok(&["--machine", "b", "images"]).contains("bb"));
    // docker makes a process with one request and starts it with another.
    let docker = |args: &[&str]| {
        let output = Command::new("docker")
            .env("DOCKER_HOST", format!("unix://{}", two.socket.display()))
            .args(args)
            .stdin(Stdio::null())
            .output();
        output.expect("docker runs (Debian package docker.io)")
    };
    let said = docker(&["exec", "web", "sh", "-c", "echo by docker; exit 3"]);
    assert_eq!(
        (said.status.code(), text(&said)),
        (Some(3), "by docker".into()),
        "{}",
        errors(&said)
    );
    // What stops it is passed on, too; what removes it is asked of its machine.
    two.ok(&["stop", "-t", "0", "web"]);
    assert_eq!(two.b.field("web", ".State.Running"), "false");
    two.ok(&["start", "web"]);
    assert_eq!(two.b.field("web", ".State.Running"), "true");
    let refused = two.ask(&["rm", "-f", "web"]);
    assert!(
        errors(&refused).contains("No such container"),
        "{}",
        errors(&refused)
    );
    two.ok(&["--machine", "b", "rm", "-f", "web"]);
    assert_eq!(two.b.ok(["ps", "-aq"]), "");
    for (machine, words) in [
        ("nobody", "there are a (aaaaaaaaaaaa)"),
        ("gone", "machine gone (cccccccccccc) cannot be asked"),
    ] {
        let refused = two.ask(&["--machine", machine, "ps"]);
        assert!(
            !refused.status.success() && errors(&refused).contains(words),
            "{}",
            errors(&refused)
        );
    }
}

#[test]
fn streams_of_another_machine() {
    let two = Two::start(&["talker"]);
    two.b.ok(["rm", "-f", "talker"]);
    two.b.ok([
        "run",
        "-d",
        "--name",
        "chatty",
        "-v",
        "said:/v",
        "bb",
        "sh",
        "-c",
        "echo first; until test -e /v/go; do sleep 0.05; done; echo second; exec sleep 1000",
    ]);
    let mut logs = two
        .command(&["--machine", "b", "logs", "-f", "chatty"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(logs.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "first");
    two.b.ok(["exec", "chatty", "touch", "/v/go"]);
    assert_eq!(lines.next().unwrap().unwrap(), "second");
    logs.kill().unwrap();
    logs.wait().unwrap();
    // Events come while they happen.
    let mut events = two
        .command(&["--machine", "b", "events", "--format", "{{.Action}}"])
        .spawn()
        .unwrap();
    let mut seen = BufReader::new(events.stdout.take().unwrap()).lines();
    let (send, received) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        let found = seen.by_ref().map_while(Result::ok).any(|l| l == "kill");
        let _ = send.send(found);
    });
    until("an event comes", || {
        two.b.ok(["kill", "-s", "WINCH", "chatty"]);
        received.try_recv().is_ok()
    });
    events.kill().unwrap();
    events.wait().unwrap();
    reading.join().unwrap();
    // A terminal.
    let mut run = Command::new("script");
    let line = format!(
        "{} --host unix://{} --machine b exec -it chatty sh -c 'test -t 0 && echo a terminal; exit 5'",
        common::programs().display(),
        two.socket.display()
    );
    let mut run = run
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Not at its end: script would pass that on, and may then leave before the last of the output.
    let open = run.stdin.take();
    let run = run.wait_with_output().unwrap();
    drop(open);
    assert_eq!(run.status.code(), Some(5), "{}", text(&run));
    assert!(text(&run).contains("a terminal"), "{}", text(&run));
    // A container is run there, in front.
    let mut run = two.command(&[
        "--machine",
        "b",
        "run",
        "--rm",
        "-i",
        "bb",
        "sh",
        "-c",
        "cat; exit 4",
    ]);
    let mut run = run.stdin(Stdio::piped()).spawn().unwrap();
    run.stdin.take().unwrap().write_all(b"over there").unwrap();
    let mut said = String::new();
    run.stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(
        (said.as_str(), run.wait().unwrap().code()),
        ("over there", Some(4))
    );
    until("it is removed there", || {
        two.b.ok(["ps", "-aq"]).lines().count() == 1
    });
    assert_eq!(two.a.ok(["ps", "-aq"]), "");
}
