//! COPY and ADD, and where the files come from.

use super::common::{Daemon, errors, text, until};
use super::{built, context, id, nothing_is_left, refused, shell};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What COPY and ADD make of their arguments: instruction, then what a shell says of it.
const COPIES: &[(&str, &str, &str)] = &[
    ("COPY f /a/b", "cat /a/b", "f"),
    ("COPY f /a/b/", "cat /a/b/f", "f"),
    ("COPY f /tmp2", "cat /tmp2", "f"),
    ("COPY f /data", "cat /data/f", "f"),
    ("COPY dir /d", "ls -A /d", ".hid\nsub\nx"),
    (
        "COPY dir/ /data/",
        "ls -A /data",
        ".hid\nfrom-image\nsub\nx",
    ),
    ("COPY dir f /d/", "ls /d", "f\nsub\nx"),
    ("COPY dir/* /d/", "ls -A /d", ".hid\nback\ndeep\nx"),
    ("COPY d?r/[wxy] ./", "ls /x", "/x"),
    ("COPY [\"with blank\", \"/a b\"]", "cat '/a b'", "blank"),
    ("COPY link /l", "stat -c %F /l; cat /l", "regular file\nf"),
    ("COPY dir/sub /s", "readlink /s/back", "../x"),
    ("COPY --chown=web f /o", "stat -c %u:%g /o", "33:33"),
    (
        "COPY --chown=5:6 dir /o/p",
        "stat -c %u:%g /o /o/p /o/p/x",
        "5:6\n5:6\n5:6",
    ),
    ("COPY --chown=9 f /o", "stat -c %u:%g /o", "9:9"),
    (
        "COPY --chmod=0711 f dir /o/",
        "stat -c %a /o/f /o/x",
        "711\n711",
    ),
    (
        "COPY --chmod=u=rwX,go=rX --chown=1 dir /o",
        "stat -c %a /o/x /o/sub",
        "644\n755",
    ),
    ("COPY --exclude=x --exclude=sub dir /o", "ls -A /o", ".hid"),
    (
        "COPY --parents dir/sub/deep f /o/",
        "ls /o /o/dir/sub",
        "/o:\ndir\nf\n\n/o/dir/sub:\ndeep",
    ),
    ("COPY --link f /q", "cat /q", "f"),
    ("COPY f /lnk/g", "cat /bin/g", "f"),
    ("COPY script /s", "stat -c %a /s", "4755"),
    ("ADD a.tar.gz /t/", "cat /t/in/tar", "tar"),
    ("ADD plain.tar /t/", "cat /t/in/tar", "tar"),
    ("ADD --unpack=false plain.tar /t/", "ls /t", "plain.tar"),
    ("COPY plain.tar /t/", "ls /t", "plain.tar"),
    ("ADD f dir /t/", "ls /t", "f\nsub\nx"),
    (
        "COPY <<A <<\"B\" /h/\n$HOME-x\nA\n$HOME\nB",
        "cat /h/A /h/B",
        "-x\n$HOME",
    ),
    (
        "WORKDIR deep/er\nCOPY f .",
        "ls /deep/er; pwd",
        "f\n/deep/er",
    ),
    (
        "WORKDIR /one\nWORKDIR two\nRUN pwd > p",
        "cat /one/two/p",
        "/one/two",
    ),
];

fn copies(d: &Daemon) -> PathBuf {
    let dir = context(
        d,
        "copies",
        &[
            ("f", "f\n"),
            ("dir/x", "x\n"),
            ("dir/.hid", "h\n"),
            ("dir/sub/deep", "deep\n"),
            ("with blank", "blank\n"),
            ("script", "#!/bin/sh\n"),
            ("in/tar", "tar\n"),
        ],
    );
    symlink("f", dir.join("link")).unwrap();
    symlink("../x", dir.join("dir/sub/back")).unwrap();
    fs::set_permissions(dir.join("script"), fs::Permissions::from_mode(0o4755)).unwrap();
    for (flag, name) in [("-czf", "a.tar.gz"), ("-cf", "plain.tar")] {
        let tar = Command::new("tar")
            .current_dir(&dir)
            .args([flag, name, "in"])
            .status()
            .unwrap();
        assert!(tar.success());
    }
    dir
}

#[test]
fn what_is_copied_where() {
    let d = Daemon::start();
    let dir = copies(&d);
    for (n, (instruction, script, wanted)) in COPIES.iter().enumerate() {
        let text = format!("FROM bb\nRUN ln -s bin /lnk\n{instruction}\n");
        fs::write(dir.join("Dockerfile"), text).unwrap();
        let image = format!("c:{n}");
        built(&d, &dir, &["-q", "-t", &image]);
        assert_eq!(shell(&d, &image, script), *wanted, "{instruction}");
    }
    // Directories that were there keep their times, so the same build gives the same layers.
    fs::write(
        dir.join("Dockerfile"),
        "FROM bb\nCOPY f /data/sub/f\nCOPY f /data/g\n",
    )
    .unwrap();
    let layers = |image: &str| {
        d.ok([
            "image",
            "inspect",
            "--format",
            "{{json .RootFS.Layers}}",
            image,
        ])
    };
    built(&d, &dir, &["-q", "-t", "once"]);
    built(&d, &dir, &["-q", "-t", "twice", "--no-cache"]);
    assert_eq!(layers("once"), layers("twice"));
    nothing_is_left(&d);
}

#[test]
fn what_cannot_be_copied() {
    let d = Daemon::start();
    let dir = copies(&d);
    for (instruction, words) in [
        ("COPY nope /x", "file not found in build context"),
        ("COPY no*pe /x", "file not found in build context"),
        ("COPY ../f /x", "outside the build context"),
        ("COPY f dir /x", "must be a directory and end with a /"),
        ("COPY --from=bb /nope /x", "does not exist in bb"),
        ("COPY --from=no-such-image:1 /x /x", "no-such-image"),
        ("COPY --chown=nobody-here f /x", "nobody-here"),
        ("COPY --chmod=rwx f /x", "invalid --chmod"),
        ("COPY f /bin/busybox/x", "no directory"),
        ("ADD https://example.invalid/x.git /x", "git repositories"),
        ("ADD --checksum=sha256:00 f /x", "checksum"),
        ("COPY dir /bin/busybox", "no directory"),
        ("WORKDIR /bin/busybox", "no directory"),
    ] {
        fs::write(
            dir.join("Dockerfile"),
            format!("FROM bb\n\n{instruction}\n"),
        )
        .unwrap();
        refused(&d, &dir, &["-t", "no"], &["Dockerfile:3: ", words]);
    }
    assert!(!d.coracle(["image", "inspect", "no"]).status.success());
}

#[test]
fn dockerignore_holds_for_both_clients() {
    let d = Daemon::start();
    let files = [
        ("Dockerfile", "FROM bb\nCOPY . /ctx\n"),
        (
            ".dockerignore",
            "# not these\nlogs\n**/*.o\n!keep.o\nDockerfile\n.dockerignore\nsecret/*\n!secret/public\n",
        ),
        ("a", ""),
        ("x.o", ""),
        ("keep.o", ""),
        ("src/y.o", ""),
        ("src/y.c", ""),
        ("logs/1", ""),
        ("secret/private", ""),
        ("secret/public", ""),
    ];
    let dir = context(&d, "ignored", &files);
    let wanted = "/ctx/a\n/ctx/keep.o\n/ctx/secret/public\n/ctx/src/y.c";
    let list = "ls -d $(ls -A /ctx | while read n; do [ -d /ctx/$n ] && echo /ctx/$n/* || echo /ctx/$n; done)";
    built(&d, &dir, &["-t", "ours"]);
    assert_eq!(shell(&d, "ours", list), wanted);
    d.docker_ok(["build", "-t", "theirs", &dir.display().to_string()]);
    assert_eq!(shell(&d, "theirs", list), wanted);
    // A Dockerfile from elsewhere, with patterns of its own.
    fs::write(
        d.dir.path().join("other"),
        "FROM bb\nCOPY . /ctx\nRUN ls -A /ctx\n",
    )
    .unwrap();
    let said = built(
        &d,
        &dir,
        &["-f", &d.dir.path().join("other").display().to_string()],
    );
    assert!(
        said.contains("keep.o") && !said.contains(".dockerfile."),
        "{said}"
    );
    fs::write(dir.join("second"), "FROM bb\nCOPY . /ctx\nRUN ls -A /ctx\n").unwrap();
    fs::write(dir.join("second.dockerignore"), "*\n!logs\n").unwrap();
    let said = built(&d, &dir, &["-f", &dir.join("second").display().to_string()]);
    assert!(
        said.contains("\nlogs\n") && !said.contains("keep.o"),
        "{said}"
    );
}

#[test]
fn files_and_contexts_from_the_web() {
    let d = Daemon::start();
    let dir = context(
        &d,
        "web",
        &[
            ("file.txt", "from the web\n"),
            ("app/Dockerfile", "FROM bb\nCOPY f /f\n"),
            ("app/f", "in an archive\n"),
        ],
    );
    let tar = Command::new("tar")
        .arg("-C")
        .arg(dir.join("app"))
        .args(["-czf"])
        .arg(dir.join("app.tar.gz"))
        .arg(".")
        .status()
        .unwrap();
    assert!(tar.success());
    let mut server = d
        .inside("busybox")
        .args(["httpd", "-f", "-p", "127.0.0.1:8099", "-h"])
        .arg(&dir)
        .spawn()
        .unwrap();
    let url = "http://127.0.0.1:8099";
    until("the server answers", || {
        d.inside("busybox")
            .args(["wget", "-q", "-O", "/dev/null", &format!("{url}/file.txt")])
            .status()
            .unwrap()
            .success()
    });
    let sum = text(
        &Command::new("sha256sum")
            .arg(dir.join("file.txt"))
            .output()
            .unwrap(),
    );
    let sum = sum.split(' ').next().unwrap().to_owned();
    let text = format!(
        "FROM bb\nADD {url}/file.txt /got/\nADD --checksum=sha256:{sum} --chmod=644 {url}/file.txt /named\n"
    );
    let own = context(&d, "own", &[("Dockerfile", &text)]);
    built(&d, &own, &["-t", "web"]);
    assert_eq!(
        shell(
            &d,
            "web",
            "cat /got/file.txt /named; stat -c %a /got/file.txt /named"
        ),
        "from the web\nfrom the web\n600\n644"
    );
    let mtime = fs::metadata(dir.join("file.txt"))
        .unwrap()
        .mtime()
        .to_string();
    assert_eq!(shell(&d, "web", "stat -c %Y /got/file.txt"), mtime);
    let wrong = text.replace(&sum, &"0".repeat(64));
    fs::write(own.join("Dockerfile"), wrong).unwrap();
    refused(&d, &own, &[], &["Dockerfile:3: ", "its digest is sha256:"]);
    fs::write(
        own.join("Dockerfile"),
        format!("FROM bb\nADD {url}/nope /x\n"),
    )
    .unwrap();
    refused(
        &d,
        &own,
        &[],
        &["Dockerfile:2: ", "the server answered 404"],
    );
    // Contexts that are addresses.
    d.ok(["build", "-t", "remote", &format!("{url}/app.tar.gz")]);
    assert_eq!(shell(&d, "remote", "cat /f"), "in an archive");
    // docker's command fetches it by itself: from where it runs.
    let socket = format!("unix://{}", d.run_dir().join("docker.sock").display());
    let docker = d
        .inside("docker")
        .env("DOCKER_HOST", socket)
        .args(["build", "-q", "-t", "remote:2"])
        .arg(format!("{url}/app.tar.gz"))
        .output()
        .unwrap();
    assert!(docker.status.success(), "{}", errors(&docker));
    assert_eq!(id(&d, "remote:2"), id(&d, "remote"));
    server.kill().unwrap();
    server.wait().unwrap();
    // And what comes on stdin.
    for input in [
        b"FROM bb\nRUN echo stdin > /f\n".to_vec(),
        fs::read(dir.join("app.tar.gz")).unwrap(),
    ] {
        let mut child = d
            .command()
            .args(["build", "-t", "stdin", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&input).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(!shell(&d, "stdin", "cat /f").is_empty());
    }
}

#[test]
fn an_image_that_a_step_reads_may_be_removed_meanwhile() {
    let d = Daemon::start();
    let layers = || {
        let all = fs::read_dir(d.state_dir().join("layers")).unwrap();
        all.count()
    };
    let without = layers();
    let dir = context(
        &d,
        "reads",
        &[
            (
                "Dockerfile",
                "FROM bb\nRUN --mount=type=bind,from=read:1,target=/m sleep 1000\n",
            ),
            ("tree/only-there", "read"),
        ],
    );
    let archive = dir.join("read.tar");
    let packed = Command::new("tar")
        .arg("-C")
        .arg(dir.join("tree"))
        .arg("-cf")
        .arg(&archive)
        .arg("only-there")
        .status()
        .unwrap();
    assert!(packed.success());
    d.ok(["import", archive.to_str().unwrap(), "read:1"]);
    assert_eq!(layers(), without + 1);
    let mut client = d
        .command()
        .arg("build")
        .arg(&dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the command runs", || !d.ok(["ps", "-q"]).is_empty());
    d.ok(["rmi", "read:1"]);
    assert_eq!(layers(), without + 1, "what the step reads went away");
    client.kill().unwrap();
    client.wait().unwrap();
    until("the build has ended", || d.ok(["ps", "-aq"]).is_empty());
    // It goes with the next image that is removed.
    until("the layer has gone", || {
        d.ok(["tag", "bb", "other"]);
        d.ok(["rmi", "other"]);
        layers() == without
    });
}

#[test]
fn what_cannot_be_read_is_not_left_out() {
    let d = Daemon::start();
    let dir = context(&d, "unread", &[("Dockerfile", "FROM bb\nCOPY . /all\n")]);
    let dockerfile = dir.join("Dockerfile").display().to_string();
    d.ok(["create", "--name", "into", "bb"]);
    // Nobody can read what the kernel only lets write, root neither.
    let unread = "/sys/bus/platform";
    for (args, named) in [
        (&["build", "-f", &dockerfile, unread][..], "drivers"),
        (&["cp", unread, "into:/all"][..], "all/drivers"),
        (
            &["cp", "/sys/bus/platform/drivers_probe", "into:/one"][..],
            "one: Permission denied",
        ),
    ] {
        let output = d.command().args(args).output().unwrap();
        let said = errors(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains(named), "{args:?}: {said}");
        assert!(said.contains("Permission denied"), "{args:?}: {said}");
    }
    d.ok(["rm", "into"]);
    nothing_is_left(&d);
}
