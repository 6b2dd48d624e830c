//! Images from Dockerfiles, by Debian's docker, its newer release if that is the one here, and our own command.
#![allow(clippy::unwrap_used)]

mod common;

#[path = "build/commands.rs"]
mod commands;
#[path = "build/copies.rs"]
mod copies;
#[path = "build/debian.rs"]
mod debian;
#[path = "build/images.rs"]
mod images;
#[path = "build/mended.rs"]
mod mended;
#[path = "build/room.rs"]
mod room;

use common::{Daemon, errors, text, until};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Writes a context: paths and contents.
fn context(d: &Daemon, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let dir = d.dir.path().join(name);
    for (path, content) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

/// Builds with our command.
fn build(d: &Daemon, context: &Path, args: &[&str]) -> Output {
    let mut command = d.command();
    command.arg("build").args(args).arg(context);
    command.stdin(Stdio::null()).output().unwrap()
}

fn built(d: &Daemon, context: &Path, args: &[&str]) -> String {
    let output = build(d, context, args);
    assert!(
        output.status.success(),
        "{args:?}: {}{}\n{}",
        text(&output),
        errors(&output),
        d.log()
    );
    text(&output)
}

fn refused(d: &Daemon, context: &Path, args: &[&str], words: &[&str]) {
    let output = build(d, context, args);
    let said = errors(&output);
    assert!(!output.status.success(), "{args:?} was built");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    nothing_is_left(d);
}

fn id(d: &Daemon, image: &str) -> String {
    d.ok(["image", "inspect", "--format", "{{.Id}}", image])
        .trim()
        .to_owned()
}

fn config(d: &Daemon, image: &str) -> serde_json::Value {
    let text = d.ok(["image", "inspect", "--format", "{{json .Config}}", image]);
    serde_json::from_str(&text).unwrap()
}

/// What a container of an image prints.
fn shell(d: &Daemon, image: &str, script: &str) -> String {
    d.ok([
        "run",
        "--rm",
        "--network",
        "none",
        image,
        "sh",
        "-c",
        script,
    ])
    .trim()
    .to_owned()
}

/// No container, mount or directory of a build.
fn nothing_is_left(d: &Daemon) {
    let work = d.state_dir().join("build/work");
    until("the build's directory is gone", || {
        fs::read_dir(&work).unwrap().next().is_none()
    });
    assert_eq!(d.ok(["ps", "-aq"]), "");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let state = d.state_dir().display().to_string();
    assert!(!mounts.contains(&state), "{mounts}");
    let secrets = d.run_dir().join("build-secrets");
    assert_eq!(fs::read_dir(secrets).unwrap().count(), 0, "a secret");
}

const APP: &str = r#"# syntax=docker/dockerfile:1
ARG BASE=bb
FROM ${BASE} AS build
WORKDIR /src
ARG WHO=you
ENV GREETING="hello  $WHO"
COPY main.txt lib/*.txt ./
RUN cat main.txt a.txt b.txt > /out && echo "$GREETING" >> /out
FROM ${BASE} AS never
RUN false
FROM ${BASE}
LABEL one=1 two="2 $BASE"
COPY --from=build /out /app/out
USER web
EXPOSE 80 53/udp 8000-8002
VOLUME /data
STOPSIGNAL SIGINT
SHELL ["sh", "-ec"]
HEALTHCHECK --interval=5s --retries=2 CMD test -e /app/out
ENTRYPOINT ["cat"]
CMD ["/app/out"]
"#;

fn app(d: &Daemon) -> PathBuf {
    context(
        d,
        "app",
        &[
            ("Dockerfile", APP),
            ("main.txt", "main\n"),
            ("lib/a.txt", "a\n"),
            ("lib/b.txt", "b\n"),
        ],
    )
}

#[test]
fn an_app_by_both_clients() {
    let d = Daemon::start();
    let dir = app(&d);
    let said = built(&d, &dir, &["-t", "app:1", "--label", "three=3"]);
    assert!(said.contains("Step 1/17 : FROM ${BASE} AS build"), "{said}");
    assert!(
        !said.contains("AS never"),
        "a stage that nobody needs: {said}"
    );
    assert!(said.contains("Successfully tagged app:1"), "{said}");
    let run = d.ok(["run", "--rm", "app:1"]);
    assert_eq!(run, "main\na\nb\nhello  you");
    let config = config(&d, "app:1");
    assert_eq!(config["User"], "web");
    assert_eq!(config["StopSignal"], "SIGINT");
    assert_eq!(config["Labels"]["two"], "2 ");
    assert_eq!(config["Labels"]["three"], "3");
    assert_eq!(config["ExposedPorts"].as_object().unwrap().len(), 5);
    assert_eq!(config["Healthcheck"]["Test"][0], "CMD-SHELL");
    assert_eq!(config["Healthcheck"]["Interval"], 5_000_000_000_i64);
    assert_eq!(config["Volumes"]["/data"], serde_json::json!({}));
    assert_eq!(config["Shell"][1], "-ec");
    // The same by docker's command is the same image, out of the cache.
    let context = dir.display().to_string();
    let label = ["--label", "three=3"];
    let docker = d.docker_ok(["build", "-t", "app:2", label[0], label[1], &context]);
    assert!(docker.contains("Using cache"), "{docker}");
    assert_eq!(id(&d, "app:1"), id(&d, "app:2"));
    let quiet = d.docker_ok([
        "build",
        "-q",
        "--build-arg",
        "WHO=me",
        "-t",
        "app:3",
        &context,
    ]);
    assert_eq!(quiet.trim(), id(&d, "app:3"));
    assert_eq!(
        d.docker_ok(["run", "--rm", "app:3"]),
        "main\na\nb\nhello  me"
    );
    let history = d.ok(["history", "--no-trunc", "app:3"]);
    assert!(
        history.contains("CMD [\"/app/out\"]") && history.contains("COPY --from=build"),
        "{history}"
    );
    nothing_is_left(&d);
}

#[test]
fn the_cache_is_keyed_by_content() {
    let d = Daemon::start();
    let dir = app(&d);
    built(&d, &dir, &["-t", "app"]);
    let first = id(&d, "app");
    // Other times, the same content.
    for file in ["main.txt", "lib/a.txt"] {
        let path = dir.join(file);
        let content = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, content).unwrap();
    }
    let said = built(&d, &dir, &["-t", "app"]);
    assert_eq!(said.matches("Using cache").count(), 4, "{said}");
    assert_eq!(id(&d, "app"), first);
    fs::write(dir.join("lib/a.txt"), "other\n").unwrap();
    let said = built(&d, &dir, &["-t", "app"]);
    assert!(
        !said.contains("Running in") || said.contains("Using cache"),
        "{said}"
    );
    assert_ne!(id(&d, "app"), first);
    // Modes are content.
    fs::write(dir.join("lib/a.txt"), "a\n").unwrap();
    fs::set_permissions(dir.join("lib/a.txt"), fs::Permissions::from_mode(0o755)).unwrap();
    let said = built(&d, &dir, &["-t", "app"]);
    assert!(said.contains("Running in"), "{said}");
    let said = built(&d, &dir, &["-t", "app", "--no-cache"]);
    assert!(!said.contains("Using cache"), "{said}");
    // Arguments that a step does not see change nothing.
    let said = built(&d, &dir, &["-t", "app", "--build-arg", "NOBODY=1"]);
    assert!(
        !said.contains("Running in") && said.contains("[NOBODY] were not consumed"),
        "{said}"
    );
}

#[test]
fn the_same_bytes_on_two_machines() {
    let (one, two) = (Daemon::start(), Daemon::start());
    let args = [
        "-t",
        "app",
        "--no-cache",
        "--build-arg",
        "SOURCE_DATE_EPOCH=1700000000",
    ];
    let mut base = None;
    let mut ids = Vec::new();
    for d in [&one, &two] {
        // Importing gives an image the time of now: one base for both.
        match &base {
            None => base = Some(d.coracle(["save", "bb"]).stdout),
            Some(saved) => {
                d.ok(["rmi", "bb"]);
                let mut load = d
                    .command()
                    .arg("load")
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .spawn()
                    .unwrap();
                load.stdin.take().unwrap().write_all(saved).unwrap();
                assert!(load.wait().unwrap().success());
            }
        }
        let dir = app(d);
        built(d, &dir, &args);
        ids.push(id(d, "app"));
    }
    assert_eq!(ids[0], ids[1]);
    let created = one.ok(["image", "inspect", "--format", "{{.Created}}", "app"]);
    assert!(created.starts_with("2023-11-14T22:13:20"), "{created}");
}

#[test]
fn triggers_of_a_base() {
    let d = Daemon::start();
    let dir = context(
        &d,
        "base",
        &[
            (
                "Dockerfile",
                "FROM bb\nONBUILD COPY own /got\nONBUILD RUN cat /got > /ran\nONBUILD ENV T=1\n",
            ),
            ("own", "mine\n"),
        ],
    );
    built(&d, &dir, &["-t", "onbuild"]);
    assert_eq!(
        config(&d, "onbuild")["OnBuild"].as_array().unwrap().len(),
        3
    );
    fs::write(
        dir.join("Dockerfile"),
        "FROM onbuild\nRUN echo $T >> /ran\n",
    )
    .unwrap();
    built(&d, &dir, &["-t", "child"]);
    assert_eq!(shell(&d, "child", "cat /ran"), "mine\n1");
    assert!(config(&d, "child")["OnBuild"].is_null());
    // An entry point takes the base's command away; a later one keeps its own.
    fs::write(
        dir.join("Dockerfile"),
        "FROM bb\nENTRYPOINT [\"echo\", \"e\"]\n",
    )
    .unwrap();
    built(&d, &dir, &["-t", "entry"]);
    assert_eq!(d.ok(["run", "--rm", "entry"]), "e");
}

#[test]
fn mistakes_are_told_with_their_line() {
    let d = Daemon::start();
    let dir = context(&d, "bad", &[("x", "x")]);
    for (text, words) in [
        (
            "FROM bb\nRNU x",
            "Dockerfile: line 2: unknown instruction: RNU (did you mean RUN?)",
        ),
        ("", "file with no instructions"),
        ("RUN x", "RUN before FROM"),
        ("FROM bb\nCOPY --form=x a b", "unknown flag: --form"),
        ("FROM ${NOPE}", "should not be blank"),
        (
            "FROM no-such-image-here:1",
            "Dockerfile:1: FROM no-such-image-here:1",
        ),
        (
            "FROM bb\nEXPOSE x",
            "Dockerfile:2: EXPOSE x: invalid containerPort",
        ),
        ("FROM bb\nSTOPSIGNAL NOPE", "NOPE"),
        ("FROM bb\nENV A=\"${B:?is missing}\"", "is missing"),
        (
            "FROM bb\nHEALTHCHECK --interval=x CMD true",
            "invalid duration",
        ),
        ("FROM --platform=a/b/c/d bb", "invalid platform"),
    ] {
        fs::write(dir.join("Dockerfile"), text).unwrap();
        refused(&d, &dir, &["-t", "no"], &[words]);
    }
    fs::remove_file(dir.join("Dockerfile")).unwrap();
    refused(&d, &dir, &[], &["cannot be read"]);
    fs::write(dir.join("Dockerfile"), "FROM bb AS one\n").unwrap();
    refused(
        &d,
        &dir,
        &["--target", "two"],
        &["failed to reach build target two", "one"],
    );
    let docker = d.docker(["build", "-f", "/nope", &dir.display().to_string()]);
    assert!(!docker.status.success());
    // BuildKit is another protocol.
    let said = Command::new("curl")
        .args(["-s", "-X", "POST", "--unix-socket"])
        .arg(d.run_dir().join("docker.sock"))
        .arg("http://d/build?version=2")
        .output()
        .unwrap();
    assert!(text(&said).contains("DOCKER_BUILDKIT=0"), "{}", text(&said));
}
