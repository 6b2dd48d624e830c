//! What builds, images and registries once did wrong.

use super::common::registry::Registry;
use super::common::{Daemon, errors, text, until};
use super::{build, built, config, context, id, nothing_is_left, refused, shell};
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything below a directory.
fn entries(dir: &Path) -> u64 {
    let all = fs::read_dir(dir).unwrap().flatten();
    all.map(|e| match e.file_type().unwrap().is_dir() {
        true => 1 + entries(&e.path()),
        false => 1,
    })
    .sum()
}

/// Every layer has as many files as its record says.
fn layers_are_whole(d: &Daemon) {
    for layer in fs::read_dir(d.state_dir().join("layers"))
        .unwrap()
        .flatten()
    {
        let file = fs::read(layer.path().join("layer.json")).unwrap();
        let file: serde_json::Value = serde_json::from_slice(&file).unwrap();
        // An archive may have an entry for the root itself.
        let (told, found) = (
            file["entries"].as_u64().unwrap(),
            entries(&layer.path().join("fs")),
        );
        assert!(told <= found + 1, "{layer:?}: {found} of {told} entries");
    }
}

#[test]
fn a_build_that_is_cut_short_leaves_no_half_layers() {
    let d = Daemon::start();
    let dir = context(
        &d,
        "large",
        &[("Dockerfile", "FROM bb\nCOPY tree /tree\n"), ("tree/a", "")],
    );
    for n in 0..4000 {
        fs::write(dir.join(format!("tree/{n}")), vec![b'x'; 2000]).unwrap();
    }
    let tmp = d.state_dir().join("tmp");
    let adopts = || {
        let all = fs::read_dir(&tmp).unwrap().flatten();
        all.filter(|e| e.file_name().to_string_lossy().starts_with("adopt-"))
            .count()
    };
    for _ in 0..8 {
        let mut client = d
            .command()
            .args(["build", "--no-cache", "-t", "large"])
            .arg(&dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        until("the layer is taken", || {
            adopts() > 0 || client.try_wait().unwrap().is_some()
        });
        let _ = client.kill();
        client.wait().unwrap();
        until("it is taken or let be", || adopts() == 0);
        nothing_is_left(&d);
        layers_are_whole(&d);
    }
    assert!(!d.log().contains("cannot be removed"), "{}", d.log());
    built(&d, &dir, &["-t", "large"]);
    assert_eq!(shell(&d, "large", "ls /tree | grep -c ."), "4001");
}

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
fn secrets_do_not_outlive_a_killed_daemon() {
    let mut d = Daemon::start();
    let dir = context(
        &d,
        "secret",
        &[
            (
                "Dockerfile",
                "FROM bb\nRUN --mount=type=secret,id=t,required echo begun; sleep 1000\n",
            ),
            ("token", "very-secret-token"),
        ],
    );
    let secret = format!("id=t,src={}", dir.join("token").display());
    let mut client = d
        .command()
        .args(["build", "--secret", &secret])
        .arg(&dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let holds = |d: &Daemon| {
        let found = Command::new("grep")
            .args(["-rls", "very-secret-token"])
            .arg(d.run_dir())
            .arg(d.state_dir())
            .output()
            .unwrap();
        // Of the context that was sent, nobody makes a secret.
        let found = text(&found);
        let mut lines = found.lines().filter(|l| !l.contains("/context/"));
        lines.next().is_some()
    };
    until("the command has its secret", || holds(&d));
    d.kill();
    client.kill().unwrap();
    client.wait().unwrap();
    d.up();
    assert!(!holds(&d));
}

/// An archive of one file, compressed by a program.
fn packed(d: &Daemon, program: &str, name: &str) -> Vec<u8> {
    let dir = d.dir.path().join(format!("in-{name}"));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(name), name).unwrap();
    let tar = Command::new("tar")
        .arg("-C")
        .arg(&dir)
        .args(["-c", name])
        .arg(format!("--use-compress-program={program}"))
        .output()
        .unwrap();
    assert!(tar.status.success(), "{}", errors(&tar));
    tar.stdout
}

#[test]
fn xz_and_bzip2() {
    let d = Daemon::start();
    let dir = context(
        &d,
        "packed",
        &[(
            "Dockerfile",
            "FROM bb\nADD x.tar.xz /x/\nADD b.tar.bz2 /b/\nADD torn.xz /torn.xz\n",
        )],
    );
    let x = packed(&d, "xz", "x");
    fs::write(dir.join("x.tar.xz"), &x).unwrap();
    fs::write(dir.join("b.tar.bz2"), packed(&d, "bzip2", "b")).unwrap();
    fs::write(dir.join("torn.xz"), &x[..20]).unwrap();
    built(&d, &dir, &["-t", "packed"]);
    assert_eq!(
        shell(&d, "packed", "cat /x/x /b/b; ls /torn.xz"),
        "xb/torn.xz"
    );
    // Contexts, roots and images, too.
    let pipe = |args: &[&str], input: &[u8]| {
        let mut child = d
            .command()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    };
    let tar = Command::new("tar")
        .arg("-C")
        .arg(&dir)
        .args(["-cJ", "."])
        .output()
        .unwrap();
    let said = pipe(&["build", "-t", "sent", "-"], &tar.stdout);
    assert!(said.status.success(), "{}", errors(&said));
    assert_eq!(id(&d, "sent"), id(&d, "packed"));
    let said = pipe(&["import", "-", "imported"], &x);
    assert!(said.status.success(), "{}", errors(&said));
    let saved = d.dir.path().join("saved.tar");
    d.ok(["save", "-o", &saved.display().to_string(), "imported"]);
    let wanted = id(&d, "imported");
    for program in ["xz", "bzip2"] {
        d.ok(["rmi", "imported"]);
        let packed = Command::new(program)
            .arg("-c")
            .arg(&saved)
            .output()
            .unwrap();
        let said = pipe(&["load"], &packed.stdout);
        assert!(said.status.success(), "{}", errors(&said));
        assert_eq!(id(&d, "imported"), wanted);
        let torn = pipe(&["load"], &packed.stdout[..packed.stdout.len() / 2]);
        assert!(!torn.status.success());
    }
}

#[test]
fn paths_arguments_and_authors_of_bases() {
    let d = Daemon::start();
    assert!(config(&d, "bb")["Env"].is_null(), "the base has no PATH");
    let dir = context(
        &d,
        "bases",
        &[(
            "Dockerfile",
            "FROM bb AS base\nMAINTAINER somebody else\nARG VERSION=1.2\nENV PATH=$PATH:/opt/bin\nFROM base\n\
             RUN echo \"$VERSION $PATH\" > /o\nFROM bb\nMAINTAINER me\nCOPY --from=1 /o /o\n",
        )],
    );
    built(&d, &dir, &["-t", "last"]);
    assert_eq!(
        shell(&d, "last", "cat /o"),
        "1.2 /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/bin"
    );
    let author = |image: &str| d.ok(["image", "inspect", "--format", "{{.Author}}", image]);
    assert_eq!(author("last").trim(), "me");
    built(&d, &dir, &["-t", "middle", "--target", "1"]);
    assert_eq!(author("middle").trim(), "somebody else");
    fs::write(
        dir.join("Dockerfile"),
        "FROM bb\nMAINTAINER one\nRUN touch /x\nFROM bb\nCOPY --from=0 /x /x\n",
    )
    .unwrap();
    built(&d, &dir, &["-t", "none"]);
    assert_eq!(author("none").trim(), "");
}

#[test]
fn onbuild_takes_from_a_stage_that_nothing_else_needs() {
    let d = Daemon::start();
    let dir = context(
        &d,
        "trigger",
        &[("Dockerfile", "FROM bb\nONBUILD COPY --from=source /s /s\n")],
    );
    built(&d, &dir, &["-t", "trigger"]);
    fs::write(
        dir.join("Dockerfile"),
        "FROM bb AS below\nRUN echo deep > /t\nFROM bb AS source\nCOPY --from=below /t /s\nFROM bb AS never\nRUN false\nFROM trigger\nRUN cat /s\n",
    )
    .unwrap();
    built(&d, &dir, &["-t", "triggered"]);
    assert_eq!(shell(&d, "triggered", "cat /s"), "deep");
    fs::write(
        dir.join("Dockerfile"),
        "FROM bb AS source\nRUN false\nFROM trigger\n",
    )
    .unwrap();
    refused(&d, &dir, &[], &["RUN false"]);
}

#[test]
fn patterns_and_downloads_into_directories_that_are_there() {
    let d = Daemon::start();
    let web = d.dir.path().join("web");
    fs::create_dir_all(&web).unwrap();
    fs::write(web.join("1 a.txt"), "one").unwrap();
    fs::write(web.join("x.tar.xz"), packed(&d, "xz", "x")).unwrap();
    let mut httpd = d.inside("busybox");
    httpd
        .args(["httpd", "-f", "-p", "127.0.0.1:8098", "-h"])
        .arg(&web);
    let _server = Server(httpd.spawn().unwrap());
    let url = "http://127.0.0.1:8098";
    until("the web answers", || {
        let asked = d
            .inside("curl")
            .args(["-fs", &format!("{url}/x.tar.xz")])
            .output();
        asked.unwrap().status.success()
    });
    let text = format!(
        "FROM bb\nRUN mkdir /app\nCOPY *.txt /app\nADD {url}/1%20a.txt /app\nADD {url}/x.tar.xz /app\n\
         ADD --unpack=true {url}/x.tar.xz /out/\nADD {url}/1%20a.txt /file\n"
    );
    let dir = context(
        &d,
        "into",
        &[("Dockerfile", &text), ("a.txt", "a"), ("b.txt", "b")],
    );
    built(&d, &dir, &["-t", "into"]);
    assert_eq!(
        shell(
            &d,
            "into",
            "cd /app; cat a.txt b.txt '1 a.txt' /out/x /file; ls /app/x.tar.xz"
        ),
        "abonexone/app/x.tar.xz"
    );
    fs::write(dir.join("Dockerfile"), "FROM bb\nCOPY *.txt /none\n").unwrap();
    refused(&d, &dir, &[], &["more than one source file"]);
}

#[test]
fn locked_caches_in_any_order() {
    let d = Daemon::start();
    let cache = |id: &str| format!("--mount=type=cache,sharing=locked,id={id},target=/{id}");
    let (a, b) = (cache("a"), cache("b"));
    let again = "--mount=type=cache,sharing=locked,id=a,target=/again";
    let mut text = String::new();
    for n in 0..4 {
        let (first, second) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        text += &format!(
            "FROM bb AS s{n}\nRUN {first} {second} {again} echo {n} >> /a/all && echo {n} >> /b/all && cat /again/all > /o\n"
        );
    }
    text += "FROM bb\n";
    for n in 0..4 {
        text += &format!("COPY --from=s{n} /o /o{n}\n");
    }
    let dir = context(&d, "locked", &[("Dockerfile", &text)]);
    built(&d, &dir, &["-t", "locked"]);
    // One saw all four lines.
    let seen = shell(
        &d,
        "locked",
        "for n in 0 1 2 3; do grep -c . /o$n; done | grep -c 4",
    );
    assert_eq!(seen, "1");
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
fn a_layer_of_the_cache_that_is_gone_is_made_anew() {
    let d = Daemon::start();
    let dir = context(&d, "lost", &[("Dockerfile", "FROM bb\nRUN echo x > /x\n")]);
    built(&d, &dir, &["-t", "lost"]);
    let layers = d.ok([
        "image",
        "inspect",
        "--format",
        "{{json .RootFS.Layers}}",
        "lost",
    ]);
    let layers: Vec<String> = serde_json::from_str(&layers).unwrap();
    d.ok(["rmi", "lost"]);
    let layer = layers[1].trim_start_matches("sha256:");
    fs::remove_dir_all(d.state_dir().join("layers").join(layer)).unwrap();
    let said = build(&d, &dir, &["-t", "lost"]);
    assert!(said.status.success(), "{}", errors(&said));
    assert_eq!(shell(&d, "lost", "cat /x"), "x");
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
