//! docker-compose, unchanged, against our socket.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, errors, text};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Two services, the second of which waits for the first one's health.
const APP: &str = r#"
services:
  db:
    image: bb
    command: sh -c 'echo up > /data/ready; exec sleep 1000'
    volumes: [data:/data]
    healthcheck:
      test: ["CMD", "cat", "/data/ready"]
      interval: 1s
    networks: [back]
    stop_grace_period: 0s
  web:
    image: bb
    command: ["sh", "-c", "echo hello; exec httpd -f -p 80 -h /data"]
    depends_on:
      db:
        condition: service_healthy
    volumes: ["data:/data:ro"]
    ports: ["8080:80"]
    environment: {A: b}
    networks: [back]
    stop_grace_period: 0s
    deploy:
      resources:
        limits: {memory: 64M, cpus: "0.5"}
volumes:
  data:
networks:
  back:
"#;

fn compose(d: &Daemon, args: &str) -> Output {
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compose/docker-compose");
    assert!(
        program.exists(),
        "no {}: `make test` fetches it, or scripts/compose",
        program.display()
    );
    Command::new(program)
        .env(
            "DOCKER_HOST",
            format!("unix://{}", d.run_dir().join("docker.sock").display()),
        )
        .env("DOCKER_CONFIG", d.dir.path())
        .env("DOCKER_BUILDKIT", "0")
        .current_dir(d.dir.path().join("shop"))
        .args(args.split(' '))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Must succeed; what it says.
fn ok(d: &Daemon, args: &str) -> String {
    let output = compose(d, args);
    assert!(
        output.status.success(),
        "{args}: {}{}\n{}",
        text(&output),
        errors(&output),
        d.log()
    );
    text(&output)
}

#[test]
fn an_app_of_several_services() {
    let d = Daemon::start();
    fs::create_dir(d.dir.path().join("shop")).unwrap();
    fs::write(d.dir.path().join("shop/compose.yaml"), APP).unwrap();
    ok(&d, "up -d --wait");
    let started = |name: &str| d.field(name, ".State.StartedAt");
    assert!(started("shop-db-1") < started("shop-web-1"));
    assert_eq!(
        d.field("shop-web-1", ".HostConfig.Memory"),
        (64 << 20).to_string()
    );
    let list = ok(&d, "ps");
    assert!(
        list.contains("(healthy)") && list.contains("0.0.0.0:8080->80/tcp"),
        "{list}"
    );
    let page = d
        .inside("curl")
        .args(["-fs", "http://127.0.0.1:8080/ready"])
        .output();
    assert_eq!(text(&page.unwrap()), "up");
    assert!(ok(&d, "logs --no-color web").contains("hello"));
    assert_eq!(ok(&d, "exec -T db cat /data/ready"), "up");
    assert_eq!(ok(&d, "run --rm -T web echo one-off"), "one-off");
    assert!(ok(&d, "top").contains("httpd"));
    assert_eq!(ok(&d, "port web 80"), "0.0.0.0:8080");
    let images = ok(&d, "images");
    assert!(
        images.contains("linux/amd64") && !images.contains("years ago"),
        "{images}"
    );
    assert!(ok(&d, "ls").contains("running(2)"));
    let out = d.dir.path().join("ready");
    ok(&d, &format!("cp db:/data/ready {}", out.display()));
    assert_eq!(fs::read_to_string(&out).unwrap(), "up\n");
    // The same again changes nothing; more of one leaves the others.
    let web = started("shop-web-1");
    ok(&d, "up -d --wait");
    ok(&d, "up -d --wait --scale db=3");
    assert_eq!(started("shop-web-1"), web);
    assert_eq!(d.ok(["ps", "-q"]).lines().count(), 4);
    for args in [
        "pause",
        "unpause",
        "restart",
        "kill web",
        "start web",
        "stop",
        "up -d --wait",
    ] {
        ok(&d, args);
    }
    // It takes the stream's end for an error, with dockerd too.
    let events = text(&compose(&d, "events --json --since 10m --until=-1s"));
    assert!(events.contains("\"action\":\"pause\""), "{events}");
    ok(&d, "down -v");
    assert_eq!(d.ok(["ps", "-aq"]), "");
    assert_eq!(d.ok(["volume", "ls", "-q"]), "");
    assert!(!d.ok(["network", "ls"]).contains("shop"));
}

/// A service that is built, and one of the same image.
const BUILT: &str = r#"
services:
  app:
    build:
      context: .
      dockerfile: app.Dockerfile
      target: run
      args: {WORD: built}
      labels: {made: here}
    image: shop/app
  other:
    build: other
"#;

#[test]
fn services_that_are_built() {
    let d = Daemon::start();
    let dir = d.dir.path().join("shop");
    fs::create_dir_all(dir.join("other")).unwrap();
    fs::write(dir.join("compose.yaml"), BUILT).unwrap();
    let text_of = "FROM bb AS make\nARG WORD\nCOPY . /ctx\nRUN cat /ctx/own > /out; echo $WORD >> /out\n\
                   FROM bb AS run\nCOPY --from=make /out /out\nCMD [\"cat\", \"/out\"]\nFROM bb\nRUN false\n";
    fs::write(dir.join("app.Dockerfile"), text_of).unwrap();
    fs::write(dir.join("own"), "own\n").unwrap();
    fs::write(
        dir.join("other/Dockerfile"),
        "FROM bb\nCMD [\"echo\", \"other\"]\n",
    )
    .unwrap();
    ok(&d, "build");
    assert_eq!(ok(&d, "run --rm -T app"), "own\nbuilt");
    assert_eq!(ok(&d, "run --rm -T other"), "other");
    let label = d.ok([
        "image",
        "inspect",
        "--format",
        "{{.Config.Labels.made}}",
        "shop/app",
    ]);
    assert_eq!(label, "here");
    fs::write(dir.join("own"), "new\n").unwrap();
    ok(&d, "up -d --build");
    assert!(ok(&d, "logs --no-color app").contains("new"));
    fs::write(
        dir.join("other/Dockerfile"),
        "FROM bb\nRUN echo why; exit 7\n",
    )
    .unwrap();
    let failed = compose(&d, "build other");
    let said = format!("{}{}", text(&failed), errors(&failed));
    assert!(
        !failed.status.success() && said.contains("why") && said.contains("code: 7"),
        "{said}"
    );
    ok(&d, "down --rmi all");
    assert_eq!(d.ok(["ps", "-aq"]), "");
}
