//! Files of containers from outside: `cp`, `export`, `diff`, by Debian's docker and by our own command.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "files/prune.rs"]
mod prune;

use common::registry::Registry;
use common::{Daemon, errors, text, until};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Whoever is asked to copy.
#[derive(Clone, Copy, Debug)]
enum Client {
    Docker,
    Ours,
}

fn run(d: &Daemon, client: Client, args: &[&str]) -> Output {
    let mut command = match client {
        Client::Ours => d.command(),
        Client::Docker => {
            let mut docker = Command::new("docker");
            let socket = d.run_dir().join("docker.sock");
            docker.env("DOCKER_HOST", format!("unix://{}", socket.display()));
            docker.env("DOCKER_CONFIG", d.dir.path());
            docker
        }
    };
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

fn ok(d: &Daemon, client: Client, args: &[&str]) -> String {
    let output = run(d, client, args);
    assert!(
        output.status.success(),
        "{client:?} {args:?}: {}\n{}",
        errors(&output),
        d.log()
    );
    text(&output)
}

fn refused(d: &Daemon, client: Client, args: &[&str], words: &str) {
    let output = run(d, client, args);
    let said = errors(&output);
    assert!(
        !output.status.success() && said.contains(words),
        "{client:?} {args:?}: {said}"
    );
}

fn at(path: &Path) -> String {
    path.display().to_string()
}

/// A directory tree of the host to copy.
fn tree(d: &Daemon, name: &str) -> PathBuf {
    let dir = d.dir.path().join(name);
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("file"), "text\n").unwrap();
    fs::write(dir.join("sub/deep"), vec![b'x'; 700_000]).unwrap();
    fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(dir.join("file"), dir.join("same")).unwrap();
    symlink("file", dir.join("link")).unwrap();
    dir
}

fn is_like(dir: &Path) {
    let file = fs::symlink_metadata(dir.join("file")).unwrap();
    assert_eq!(file.mode() & 0o7777, 0o4751);
    assert_eq!(fs::metadata(dir.join("same")).unwrap().ino(), file.ino());
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "text\n");
    assert_eq!(fs::read(dir.join("sub/deep")).unwrap().len(), 700_000);
    assert_eq!(fs::read_link(dir.join("link")).unwrap(), Path::new("file"));
}

#[test]
fn files_go_in_and_come_out_by_both_clients() {
    let d = Daemon::start();
    d.ok(["volume", "create", "data"]);
    d.ok([
        "run",
        "-d",
        "--name",
        "web",
        "-v",
        "data:/data",
        "bb",
        "sleep",
        "1000",
    ]);
    d.ok([
        "create",
        "--name",
        "idle",
        "-v",
        "data:/data",
        "bb",
        "cat",
        "/in/file",
    ]);
    let from = tree(&d, "tree");
    for client in [Client::Docker, Client::Ours] {
        for name in ["web", "idle"] {
            let tag = format!("{client:?}-{name}").to_lowercase();
            let inside = |path: &str| format!("{name}:{path}");
            // A directory to a new name, into an existing one, and its content alone.
            ok(
                &d,
                client,
                &["cp", &at(&from), &inside(&format!("/new-{tag}"))],
            );
            ok(&d, client, &["cp", &at(&from), &inside("/data")]);
            ok(
                &d,
                client,
                &["cp", &format!("{}/.", at(&from)), &inside("/tmp")],
            );
            // A file to a new name, and over a file.
            ok(
                &d,
                client,
                &["cp", &at(&from.join("file")), &inside("/etc/renamed")],
            );
            ok(
                &d,
                client,
                &["cp", &at(&from.join("sub/deep")), &inside("/etc/renamed")],
            );
            for (path, out) in [
                (format!("/new-{tag}"), "out"),
                ("/data/tree".into(), "from-volume"),
                ("/tmp/.".into(), "content"),
            ] {
                let to = d.dir.path().join(format!("{out}-{tag}"));
                ok(&d, client, &["cp", &inside(&path), &at(&to)]);
                is_like(&to);
            }
            let to = d.dir.path().join(format!("dir-{tag}"));
            fs::create_dir(&to).unwrap();
            ok(&d, client, &["cp", &inside("/data/tree"), &at(&to)]);
            is_like(&to.join("tree"));
            ok(
                &d,
                client,
                &["cp", &inside("/etc/renamed"), &at(&to.join("f"))],
            );
            assert_eq!(fs::metadata(to.join("f")).unwrap().len(), 700_000);
            // A link is copied as one, unless it is to be followed.
            ok(&d, client, &["cp", &inside("/tmp/link"), &at(&to)]);
            assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("file"));
            ok(
                &d,
                client,
                &["cp", "-L", &inside("/tmp/link"), &at(&to.join("followed"))],
            );
            assert_eq!(fs::read_to_string(to.join("followed")).unwrap(), "text\n");
            refused(
                &d,
                client,
                &["cp", &inside("/nope"), &at(&to)],
                "Could not find the file /nope",
            );
            refused(&d, client, &["cp", &at(&from), &inside("/nope/x")], "/nope");
            refused(
                &d,
                client,
                &["cp", &at(&from), &inside("/etc/renamed")],
                "cannot copy directory",
            );
        }
        refused(
            &d,
            client,
            &["cp", "nobody:/x", "/tmp/x"],
            "No such container: nobody",
        );
    }
    // What was copied in is there for the program, with the archive's owner.
    d.ok(["cp", &at(&from), "idle:/in"]);
    assert_eq!(d.ok(["start", "-a", "idle"]), "text");
    let owner = "stat -c %u:%g:%a /data/tree/file";
    assert_eq!(d.ok(["exec", "web", "sh", "-c", owner]), "0:0:4751");
}

#[test]
fn nothing_is_written_outside_or_where_the_container_cannot() {
    let d = Daemon::start();
    let from = tree(&d, "tree");
    let host = d.dir.path().join("host");
    fs::create_dir(&host).unwrap();
    let mount = format!("{}:/ro:ro", at(&host));
    d.ok([
        "run", "-d", "--name", "web", "-v", &mount, "bb", "sleep", "1000",
    ]);
    d.ok(["create", "--name", "idle", "-v", &mount, "bb", "true"]);
    d.ok(["create", "--name", "solid", "--read-only", "bb", "true"]);
    // Links that lead out are followed within the container.
    let link = format!(
        "mkdir -p /x; ln -s {}/../../../../../../{} /out; ln -s / /x/root",
        at(&host),
        at(&host)
    );
    d.ok(["exec", "web", "sh", "-c", &link]);
    d.ok(["exec", "web", "mkdir", "-p", &at(&host)]);
    d.ok(["cp", &at(&from.join("file")), "web:/out/file"]);
    assert_eq!(
        d.ok(["exec", "web", "cat", &at(&host.join("file"))]),
        "text"
    );
    d.ok(["cp", &at(&from.join("file")), "web:/x/root/there"]);
    assert_eq!(d.ok(["exec", "web", "cat", "/there"]), "text");
    assert_eq!(fs::read_dir(&host).unwrap().count(), 0);
    for client in [Client::Docker, Client::Ours] {
        for name in ["web", "idle"] {
            let to = format!("{name}:/ro/file");
            refused(
                &d,
                client,
                &["cp", &at(&from.join("file")), &to],
                "read-only",
            );
        }
        let file = at(&from.join("file"));
        refused(
            &d,
            client,
            &["cp", &file, "solid:/file"],
            "marked read-only",
        );
    }
    assert_eq!(fs::read_dir(&host).unwrap().count(), 0);
}

#[test]
fn exports_and_changes() {
    let d = Daemon::start();
    let script = "echo new > /etc/new; rm /bin/cat; mkdir -p /a/b; echo x >> /etc/passwd; touch /data/in-volume; sleep 1000";
    d.ok([
        "run",
        "-d",
        "--name",
        "web",
        "-v",
        "data:/data",
        "bb",
        "sh",
        "-c",
        script,
    ]);
    until("the last file is written", || {
        d.coracle(["exec", "web", "test", "-e", "/data/in-volume"])
            .status
            .success()
    });
    let expected = "C /bin\nD /bin/cat\nA /a\nA /a/b\nC /etc\nC /etc/passwd\nA /etc/new";
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    for running in [true, false] {
        if !running {
            d.ok(["stop", "-t", "0", "web"]);
        }
        for client in [Client::Docker, Client::Ours] {
            let changes = ok(&d, client, &["diff", "web"]);
            assert_eq!(
                sorted(&changes),
                sorted(expected),
                "{client:?}, running: {running}"
            );
            let out = d.dir.path().join("web.tar");
            ok(&d, client, &["export", "-o", &at(&out), "web"]);
            let listed = Command::new("tar")
                .args(["-tf"])
                .arg(&out)
                .output()
                .unwrap();
            let names = text(&listed);
            assert!(listed.status.success(), "{}", errors(&listed));
            let has = |name: &str| names.lines().any(|l| l == name);
            assert!(
                has("bin/busybox") && has("etc/new") && has("proc/") && has("data/"),
                "{names}"
            );
            let under = |dir: &str| names.lines().any(|l| l.starts_with(dir) && l != dir);
            // Of a volume there is only what the image has at its place.
            assert!(has("data/from-image") && !has("data/in-volume"), "{names}");
            assert!(!under("proc/") && !has("bin/cat"), "{names}");
            // It is a root filesystem again.
            d.ok(["import", &at(&out), "again"]);
            assert_eq!(
                d.ok([
                    "run",
                    "--rm",
                    "again",
                    "busybox",
                    "tail",
                    "-n1",
                    "/etc/passwd"
                ]),
                "x"
            );
        }
    }
}

#[test]
fn a_client_that_leaves_holds_nothing_up() {
    let d = Daemon::start();
    d.ok(["create", "--name", "idle", "bb", "true"]);
    let big = d.dir.path().join("big");
    fs::File::create(&big).unwrap().set_len(64 << 20).unwrap();
    d.ok(["cp", &at(&big), "idle:/big"]);
    // It reads some of the answer and goes.
    let mut reader = d
        .command()
        .args(["cp", "idle:/big", "-"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut some = [0; 4096];
    std::io::Read::read_exact(reader.stdout.as_mut().unwrap(), &mut some).unwrap();
    reader.kill().unwrap();
    reader.wait().unwrap();
    // It says that an archive comes, and goes.
    let socket = d.run_dir().join("docker.sock");
    let mut writer = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let head =
        "PUT /containers/idle/archive?path=/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n";
    std::io::Write::write_all(&mut writer, head.as_bytes()).unwrap();
    std::io::Write::write_all(&mut writer, &[b'x'; 600]).unwrap();
    drop(writer);
    // Neither keeps the container from starting, and its layers are not mounted any more.
    d.ok(["start", "-a", "idle"]);
    d.ok(["rm", "idle"]);
    // What is no archive is refused, with the reason.
    d.ok(["create", "--name", "other", "bb", "true"]);
    let mut put = d.command();
    put.args(["cp", "-", "other:/"])
        .stdin(fs::File::open("/proc/self/exe").unwrap());
    let output = put.output().unwrap();
    assert!(!output.status.success());
    assert!(
        errors(&output).contains("the archive"),
        "{}",
        errors(&output)
    );
}

#[test]
fn a_container_becomes_an_image() {
    let d = Daemon::start();
    let script =
        "echo new > /etc/new; rm /bin/cat; mkdir /data/sub; echo x > /vol/in-volume; sleep 1000";
    d.ok([
        "run", "-d", "--name", "web", "-v", "/vol", "-e", "A=b", "--label", "l=m", "bb", "sh",
        "-c", script,
    ]);
    until("the last file is written", || {
        d.coracle(["exec", "web", "test", "-e", "/vol/in-volume"])
            .status
            .success()
    });
    for client in [Client::Docker, Client::Ours] {
        let name = format!("made-{client:?}:2").to_lowercase();
        let change = "CMD [\"sh\", \"-c\", \"ls /bin/cat /etc/new /vol; echo $A $C\"]";
        let id = ok(
            &d,
            client,
            &[
                "commit", "-a", "me", "-m", "why", "-c", change, "-c", "ENV C=d", "web", &name,
            ],
        );
        assert!(id.starts_with("sha256:"), "{id}");
        // It went on.
        assert_eq!(d.field("web", ".State.Status"), "running");
        let run = d.coracle(["run", "--rm", &name]);
        assert_eq!(text(&run), "/etc/new\n\n/vol:\nb d", "{}", errors(&run));
        assert!(errors(&run).contains("/bin/cat"), "{}", errors(&run));
        let label = "{{.Config.Labels.l}} {{.Author}} {{.Comment}} {{len .RootFS.Layers}}";
        assert_eq!(
            d.ok(["image", "inspect", "--format", label, &name]),
            "m me why 2"
        );
        // Both other clients and a registry's tools can have it.
        let tar = d.dir.path().join("made.tar");
        d.ok(["save", "-o", &at(&tar), &name]);
        d.ok(["rmi", &name]);
        d.ok(["load", "-i", &at(&tar)]);
        assert_eq!(d.ok(["images", "-q", "--no-trunc", &name]), id);
        refused(
            &d,
            client,
            &["commit", "nobody"],
            "No such container: nobody",
        );
        refused(&d, client, &["commit", "-c", "NOPE x", "web"], "NOPE");
    }
    // Of a container that changed nothing there is no layer.
    d.ok(["create", "--name", "idle", "bb", "true"]);
    d.ok(["commit", "idle", "same"]);
    assert_eq!(
        d.ok([
            "image",
            "inspect",
            "--format",
            "{{len .RootFS.Layers}}",
            "same"
        ]),
        "1"
    );
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back() {
    let d = Daemon::start();
    let _registry = Registry::start(&d, 5000);
    for client in [Client::Docker, Client::Ours] {
        let tag = format!("127.0.0.1:5000/team/{client:?}:1").to_lowercase();
        d.ok(["tag", "bb", &tag]);
        let said = ok(&d, client, &["push", &tag]);
        assert!(said.contains("1: digest: sha256:"), "{said}");
        let id = d.ok(["images", "-q", "--no-trunc", "bb"]);
        d.ok(["rmi", &tag]);
        ok(&d, client, &["pull", &tag]);
        assert_eq!(d.ok(["images", "-q", "--no-trunc", &tag]), id);
        refused(
            &d,
            client,
            &["push", "127.0.0.1:5000/nope"],
            "does not exist locally",
        );
    }
    let all = "127.0.0.1:5000/all";
    for tag in ["a", "b"] {
        d.ok(["tag", "bb", &format!("{all}:{tag}")]);
    }
    let said = d.ok(["push", "-a", all]);
    assert!(
        said.contains("a: digest") && said.contains("b: digest"),
        "{said}"
    );
}
