//! What images and registries once did wrong.

use super::common::registry::Registry;
use super::common::{Daemon, errors, until};
use super::mended::Server;
use super::{built, context, id, shell};
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

#[test]
fn what_a_container_needs_survives_rmi() {
    let mut d = Daemon::start();
    let dir = context(
        &d,
        "mine",
        &[("Dockerfile", "FROM bb\nCOPY f /f\n"), ("f", "image")],
    );
    built(&d, &dir, &["-t", "mine:1"]);
    let image = id(&d, "mine:1");
    d.ok([
        "run",
        "--name",
        "st",
        "--network",
        "none",
        "mine:1",
        "sh",
        "-c",
        "cat /f; echo data > /own",
    ]);
    d.ok([
        "create",
        "--name",
        "new",
        "--network",
        "none",
        "mine:1",
        "cat",
        "/f",
    ]);
    d.ok(["builder", "prune", "-af"]);
    let layers = || fs::read_dir(d.state_dir().join("layers")).unwrap().count();
    let before = layers();
    let said = d.ok(["rmi", "-f", "mine:1"]);
    assert!(said.contains("Deleted"), "{said}");
    assert_eq!(d.ok(["images", "-q", "mine"]), "");
    for gone in ["mine:1", &image, &image[..20]] {
        assert!(!d.coracle(["image", "inspect", gone]).status.success());
        assert!(
            !d.coracle(["create", "--pull", "never", gone])
                .status
                .success()
        );
        assert!(!d.coracle(["rmi", gone]).status.success());
    }
    // A daemon that comes up collects, too.
    d.kill();
    d.up();
    assert_eq!(d.ok(["start", "-a", "new"]), "image");
    assert_eq!(d.ok(["start", "-a", "st"]), "image");
    let copy = d.dir.path().join("copy").display().to_string();
    d.ok(["cp", "st:/own", &copy]);
    assert_eq!(fs::read_to_string(&copy).unwrap(), "data\n");
    assert!(d.ok(["diff", "st"]).contains("/own"));
    d.ok(["export", "-o", &copy, "st"]);
    d.ok(["commit", "st", "saved:1"]);
    assert_eq!(shell(&d, "saved:1", "cat /f /own"), "imagedata");
    d.ok(["rmi", "saved:1"]);
    d.ok(["rm", "st"]);
    assert_eq!(d.ok(["start", "-a", "new"]), "image");
    d.ok(["rm", "new"]);
    let layers = || fs::read_dir(d.state_dir().join("layers")).unwrap().count();
    until("its layer goes with the last container", || {
        layers() == before - 1
    });
}

#[test]
fn archives_that_break_off_are_errors() {
    let d = Daemon::start();
    let dir = context(
        &d,
        "whole",
        &[("Dockerfile", "FROM bb\nCOPY f /f\n"), ("f", "content")],
    );
    built(&d, &dir, &["-t", "whole"]);
    let layers = d.ok([
        "image",
        "inspect",
        "--format",
        "{{json .RootFS.Layers}}",
        "whole",
    ]);
    let layers: Vec<String> = serde_json::from_str(&layers).unwrap();
    let layer = layers[1].trim_start_matches("sha256:");
    fs::write(
        d.state_dir().join("layers").join(layer).join("fs/f"),
        "another",
    )
    .unwrap();
    let path = d.dir.path().join("broken.tar");
    let shown = path.display().to_string();
    let save = d.coracle(["save", "-o", &shown, "whole"]);
    assert!(
        !save.status.success() && !path.exists(),
        "{}",
        errors(&save)
    );
    assert!(!d.docker(["save", "-o", &shown, "whole"]).status.success());
    // A file that was there stays as it was.
    fs::write(&path, "older").unwrap();
    assert!(!d.coracle(["save", "-o", &shown, "whole"]).status.success());
    assert_eq!(fs::read_to_string(&path).unwrap(), "older");
    assert!(!d.coracle(["save", "whole"]).status.success());
}

#[test]
fn a_name_alone_is_saved_with_all_its_tags() {
    let d = Daemon::start();
    for tag in ["multi:1", "multi:2"] {
        d.ok(["tag", "bb", tag]);
    }
    let path = d.dir.path().join("multi.tar").display().to_string();
    d.ok(["save", "-o", &path, "multi"]);
    d.ok(["rmi", "multi:1", "multi:2"]);
    let said = d.ok(["load", "-i", &path]);
    assert!(
        said.contains("multi:1") && said.contains("multi:2"),
        "{said}"
    );
}

#[test]
fn registries_get_credentials_wherever_images_are_named() {
    let d = Daemon::start();
    let _registry = Registry::start_with_password(&d, 5003, "me", "pass");
    let home = d.dir.path().join("docker");
    fs::create_dir_all(&home).unwrap();
    // me:pass, under an address as old clients write it.
    fs::write(
        home.join("config.json"),
        r#"{"auths": {"https://127.0.0.1:5003/v2/": {"auth": "bWU6cGFzcw=="}}}"#,
    )
    .unwrap();
    let own = |args: &[&str]| {
        let mut command = d.command();
        command.env("DOCKER_CONFIG", &home).args(args);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", errors(&output));
    };
    let name = "127.0.0.1:5003/private:1";
    d.ok(["tag", "bb", name]);
    own(&["push", "-q", name]);
    d.ok(["rmi", name]);
    let text = format!("FROM bb\nRUN --mount=from={name},target=/m cat /m/data/from-image > /o\n");
    let dir = context(&d, "private", &[("Dockerfile", &text)]);
    own(&["build", "-t", "got", &dir.display().to_string()]);
    assert_eq!(shell(&d, "got", "cat /o"), "image");
    d.ok(["rmi", name]);
    d.ok(["builder", "prune", "-af"]);
    let docker = Command::new("tar")
        .arg("-C")
        .arg(&dir)
        .args(["-c", "."])
        .output()
        .unwrap();
    let mut child = d
        .command()
        .env("DOCKER_CONFIG", &home)
        .args(["build", "--no-cache", "-t", "stdin", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&docker.stdout)
        .unwrap();
    let said = child.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", errors(&said));
}

#[test]
fn a_proxy_is_not_asked_for_loopback() {
    let d = Daemon::unstarted();
    let programs = super::common::programs();
    let mut command = d.inside(programs);
    command
        .args(["daemon", "--config", "/dev/null", "--state-dir"])
        .arg(d.state_dir())
        .arg("--run-dir")
        .arg(d.run_dir());
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        // Nobody listens there.
        command.env(name, "http://127.0.0.1:9");
    }
    let log = fs::File::create(d.dir.path().join("log")).unwrap();
    let _daemon = Server(command.stderr(log).spawn().unwrap());
    until("the daemon answers", || {
        d.coracle(["info"]).status.success()
    });
    d.image();
    let _registry = Registry::start(&d, 5004);
    d.ok(["tag", "bb", "127.0.0.1:5004/bb"]);
    d.ok(["push", "-q", "127.0.0.1:5004/bb"]);
    d.ok(["pull", "-q", "127.0.0.1:5004/bb"]);
}

#[test]
fn a_refused_archive_is_taken_to_its_end() {
    let d = Daemon::start();
    let length = 32 << 20;
    let mut client = UnixStream::connect(d.run_dir().join("docker.sock")).unwrap();
    let head = format!(
        "POST /v1.43/images/load HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    client.write_all(head.as_bytes()).unwrap();
    // No archive at all: refused at its first bytes.
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..length / piece.len() {
        client.write_all(&piece).unwrap();
    }
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut client, &mut answer).unwrap();
    assert!(answer.contains("\"error\""), "{answer}");
}

#[test]
fn what_is_pruned_is_what_went() {
    let d = Daemon::start();
    // All of its bytes are another image's.
    let dir = context(&d, "twin", &[("Dockerfile", "FROM bb\nLABEL a=b\n")]);
    built(&d, &dir, &["-t", "twin"]);
    d.ok(["tag", "bb", "twin"]);
    let said = d.ok(["image", "prune", "-f"]);
    assert!(said.contains("Total reclaimed space: 0B"), "{said}");
    // What only builds have kept goes with all else.
    fs::write(dir.join("Dockerfile"), "FROM bb\nRUN echo x > /x\n").unwrap();
    built(&d, &dir, &["-t", "x"]);
    let said = d.ok(["system", "prune", "-af"]);
    assert!(said.contains("Deleted build cache objects"), "{said}");
    assert!(!d.ok(["builder", "prune", "-af"]).contains("Deleted"));
}

#[test]
fn what_is_built_upon_is_used() {
    let mut d = Daemon::start();
    let dir = context(&d, "upon", &[("Dockerfile", "FROM bb\nLABEL a=b\n")]);
    let used = |d: &Daemon| {
        let index = fs::read(d.state_dir().join("images/index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        index["images"][id(d, "bb")]["last_used"].clone()
    };
    assert!(used(&d).is_null());
    built(&d, &dir, &["-t", "upon"]);
    let built_upon = used(&d);
    assert!(built_upon.is_string());
    // What is noted is written down in time, with a daemon that is killed and with one that goes.
    d.ok(["create", "bb"]);
    assert_eq!(used(&d), built_upon);
    d.ok(["system", "collect"]);
    let collected = used(&d);
    assert_ne!(collected, built_upon);
    d.ok(["create", "bb"]);
    d.terminate();
    d.up();
    assert_ne!(used(&d), collected);
}
