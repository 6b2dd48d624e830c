//! What builds once did wrong.

use super::common::{Daemon, errors, text, until};
use super::{build, built, config, context, id, nothing_is_left, refused, shell};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Ends with the test.
pub struct Server(pub Child);

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
    for n in 0..2000 {
        fs::write(dir.join(format!("tree/{n}")), vec![b'x'; 2000]).unwrap();
    }
    let tmp = d.state_dir().join("tmp");
    let adopts = || {
        let all = fs::read_dir(&tmp).unwrap().flatten();
        all.filter(|e| e.file_name().to_string_lossy().starts_with("adopt-"))
            .count()
    };
    for _ in 0..5 {
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
    assert_eq!(shell(&d, "large", "ls /tree | grep -c ."), "2001");
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
