//! RUN, and what is left of it.

use super::common::{Daemon, alive, errors, text, until};
use super::{build, built, context, id, nothing_is_left, refused, shell};
use std::fs;
use std::process::{Command, Stdio};

#[test]
fn commands_run_as_they_are_told() {
    let d = Daemon::start();
    let dir = context(
        &d,
        "run",
        &[("in/file", "from the context\n"), ("token", "hush")],
    );
    for (text, args, wanted) in [
        ("RUN id -u > /o", &[][..], "0"),
        (
            "RUN mkdir -m 777 /w\nUSER web\nRUN id -u > /w/o\nUSER root\nRUN cat /w/o > /o",
            &[],
            "33",
        ),
        (
            "RUN [\"sh\", \"-c\", \"echo $0\", \"exec\"]\nRUN echo $0 > /o",
            &[],
            "/bin/sh",
        ),
        (
            "SHELL [\"sh\", \"-c\", \"eval \\\"$0\\\" > /o\"]\nRUN echo shell",
            &[],
            "shell",
        ),
        ("RUN <<E\necho one > /o\necho two >> /o\nE", &[], "one\ntwo"),
        ("RUN <<-E cat > /o\n\tindented\n\tE", &[], "indented"),
        (
            "RUN <<E\n#!/bin/cat\nscript\nE\nRUN echo cat > /o",
            &[],
            "cat",
        ),
        (
            "RUN --mount=type=bind,source=in,target=/m cat /m/file > /o; touch /m/x 2>/dev/null && echo bad >> /o; true",
            &[],
            "from the context",
        ),
        (
            "RUN --mount=type=bind,target=/m,rw echo more >> /m/in/file && cat /m/in/file > /o\nRUN --mount=type=bind,target=/m cat /m/in/file >> /o",
            &[],
            "from the context\nmore\nfrom the context",
        ),
        (
            "RUN --mount=type=bind,from=bb,source=/data,target=/m cat /m/from-image > /o",
            &[],
            "image",
        ),
        (
            "RUN --mount=type=tmpfs,target=/m,size=1m mount | grep -c ' /m type tmpfs' > /o",
            &[],
            "1",
        ),
        (
            "RUN --mount=type=cache,target=/c echo 1 >> /c/n\nRUN --mount=type=cache,target=/c,sharing=locked cat /c/n > /o",
            &[],
            "1",
        ),
        (
            "RUN --mount=type=secret,id=t cat /run/secrets/t > /o; ls /run >> /o",
            &["--secret", "id=t,src=TOKEN"],
            "hushsecrets",
        ),
        (
            "RUN --mount=type=secret,id=t,target=/x,mode=0444,uid=5 stat -c %u:%a /x > /o",
            &["--secret", "id=t,src=TOKEN"],
            "5:444",
        ),
        (
            "RUN --mount=type=secret,id=none cat /run/secrets/none 2>/dev/null || echo none > /o",
            &[],
            "none",
        ),
        ("RUN --network=none ls /sys/class/net > /o", &[], "lo"),
        (
            "ARG A=1\nENV B=2\nARG B=3\nRUN echo $A $B $C > /o",
            &["--build-arg", "A=4", "--build-arg", "C=5"],
            "4 2",
        ),
        (
            "RUN echo $http_proxy > /o",
            &["--build-arg", "http_proxy=p"],
            "p",
        ),
        (
            "ARG TARGETARCH\nARG TARGETPLATFORM\nRUN echo $TARGETPLATFORM | grep -c \"linux/$TARGETARCH\" > /o",
            &[],
            "1",
        ),
        (
            "RUN grep -c 'extra$' /etc/hosts > /o",
            &["--add-host", "extra:10.9.8.7"],
            "1",
        ),
    ] {
        let token = dir.join("token").display().to_string();
        let args: Vec<String> = args.iter().map(|a| a.replace("TOKEN", &token)).collect();
        let mut all = vec!["-t", "r"];
        all.extend(args.iter().map(String::as_str));
        fs::write(dir.join("Dockerfile"), format!("FROM bb\n{text}\n")).unwrap();
        built(&d, &dir, &all);
        assert_eq!(shell(&d, "r", "cat /o"), wanted, "{text}");
    }
    // What was only mounted is in no layer, and the places for it neither.
    fs::write(
        dir.join("Dockerfile"),
        "FROM bb\nRUN --mount=type=secret,id=t --mount=type=cache,target=/c/deep --mount=type=bind,target=/data/m true\n",
    )
    .unwrap();
    let secret = format!("id=t,src={}", dir.join("token").display());
    built(&d, &dir, &["-t", "r", "--secret", &secret]);
    let layers = d.ok([
        "image",
        "inspect",
        "--format",
        "{{len .RootFS.Layers}}",
        "r",
    ]);
    assert_eq!(layers.trim(), "1");
    for (text, args, words) in [
        (
            "RUN --mount=type=secret,id=t,required true",
            &[][..],
            "secret t: not found",
        ),
        (
            "RUN --mount=type=ssh true",
            &[],
            "type=ssh is not supported",
        ),
        ("RUN --security=insecure true", &[], "--security=insecure"),
        (
            "RUN --mount=type=bind,source=nope,target=/m true",
            &[],
            "nope is not there",
        ),
        (
            "RUN --mount=type=what,target=/m true",
            &[],
            "unsupported mount type",
        ),
        ("USER nobody-here\nRUN true", &[], "nobody-here"),
        ("RUN [\"/nope\"]", &[], "/nope"),
    ] {
        fs::write(dir.join("Dockerfile"), format!("FROM bb\n{text}\n")).unwrap();
        refused(&d, &dir, args, &[words]);
    }
}

#[test]
fn stages_run_at_the_same_time() {
    let d = Daemon::start();
    // Each waits for the other: one after the other they would never end.
    let wait = |mine: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,target=/c,id=meet touch /c/{mine}; until [ -e /c/{other} ]; do sleep 0.01; done; echo {mine} > /{mine}"
        )
    };
    let both = format!(
        "FROM bb AS a\n{}\nFROM bb AS b\n{}\nFROM bb\nCOPY --from=a /one /\nCOPY --from=b /two /\n",
        wait("one", "two"),
        wait("two", "one")
    );
    let dir = context(&d, "par", &[("Dockerfile", &both)]);
    built(&d, &dir, &["-t", "par"]);
    assert_eq!(shell(&d, "par", "cat /one /two"), "one\ntwo");
    // One that fails ends the other, and what it said is heard.
    let file = "FROM bb AS a\nRUN sleep 1000\nFROM bb AS b\nRUN echo the cause; exit 3\nFROM bb\nCOPY --from=a /x /\nCOPY --from=b /y /\n";
    fs::write(dir.join("Dockerfile"), file).unwrap();
    let output = build(&d, &dir, &[]);
    assert!(text(&output).contains("the cause"), "{}", text(&output));
    assert!(
        errors(&output).contains("Dockerfile:4: RUN echo the cause; exit 3: The command"),
        "{}",
        errors(&output)
    );
    assert!(errors(&output).contains("non-zero code: 3"));
    nothing_is_left(&d);
}

#[test]
fn whoever_leaves_leaves_nothing() {
    let mut d = Daemon::start();
    let dir = context(
        &d,
        "long",
        &[(
            "Dockerfile",
            "FROM bb\nRUN --mount=type=bind,from=bb,target=/m,rw echo begun; sleep 1000\n",
        )],
    );
    let images = d.ok(["images", "-aq"]);
    let begin = |d: &Daemon| {
        let child = d
            .command()
            .arg("build")
            .arg(&dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("the command runs", || !d.ok(["ps", "-q"]).is_empty());
        let pid = d.field(d.ok(["ps", "-q"]).trim(), ".State.Pid");
        (child, pid.trim().parse::<u32>().unwrap())
    };
    let (mut client, pid) = begin(&d);
    client.kill().unwrap();
    client.wait().unwrap();
    until("the build has ended", || {
        d.ok(["ps", "-aq"]).is_empty() && !alive(pid)
    });
    nothing_is_left(&d);
    // The daemon is killed: the next one ends what runs and takes away what lies about.
    let (mut client, pid) = begin(&d);
    d.kill();
    client.wait().unwrap();
    d.up();
    until("the next daemon has ended it", || {
        d.ok(["ps", "-aq"]).is_empty() && !alive(pid)
    });
    nothing_is_left(&d);
    assert_eq!(d.ok(["images", "-aq"]), images);
    // What the cache had is there all the same.
    fs::write(dir.join("Dockerfile"), "FROM bb\nRUN echo kept > /kept\n").unwrap();
    built(&d, &dir, &["-t", "kept"]);
    let kept = id(&d, "kept");
    d.kill();
    d.up();
    let said = built(&d, &dir, &["-t", "again"]);
    assert!(said.contains("Using cache"), "{said}");
    assert_eq!(id(&d, "again"), kept);
}

#[test]
fn whoever_leaves_while_stages_write_leaves_nothing() {
    let d = Daemon::start();
    // What they write lies in the build's own directory.
    let busy = "RUN --mount=type=bind,target=/m,rw --mount=type=secret,id=t --mount=type=cache,target=/c \
        n=0; while :; do mkdir /m/$n; echo x > /m/$n/x; n=$((n+1)); done\n";
    let text = format!(
        "FROM bb AS a\n{busy}FROM bb AS b\n{busy}FROM bb\nCOPY --from=a /x /\nCOPY --from=b /x /\n"
    );
    let dir = context(&d, "busy", &[("Dockerfile", &text), ("token", "hush")]);
    let secret = format!("id=t,src={}", dir.join("token").display());
    let before = d.ok(["images", "-aq"]);
    for _ in 0..5 {
        let mut client = d
            .command()
            .args(["build", "--secret", &secret])
            .arg(&dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("both commands run", || {
            d.ok(["ps", "-q"]).lines().count() == 2
        });
        client.kill().unwrap();
        client.wait().unwrap();
        // The directory stays as long as somebody writes there.
        let work = d.state_dir().join("build/work");
        until("the build's directory is gone", || {
            fs::read_dir(&work).unwrap().next().is_none()
        });
        let containers = fs::read_dir(d.state_dir().join("containers")).unwrap();
        let mut names = containers.flatten().map(|c| c.file_name());
        let left = names.find(|n| !n.to_string_lossy().starts_with('.'));
        assert_eq!(left, None, "a command outlived its directory");
        nothing_is_left(&d);
    }
    assert_eq!(d.ok(["images", "-aq"]), before);
    assert!(!d.log().contains("cannot be"), "{}", d.log());
}

#[test]
fn what_is_kept_can_be_taken_away() {
    let d = Daemon::start();
    let dir = context(
        &d,
        "kept",
        &[(
            "Dockerfile",
            "FROM bb AS one\nRUN --mount=type=cache,target=/c head -c 300000 /dev/zero > /big && cp /big /c/big || dd if=/dev/zero of=/c/big bs=1000 count=300 2>/dev/null\nFROM bb\nCOPY --from=one /bin/busybox /b2\n",
        )],
    );
    built(&d, &dir, &["-t", "kept"]);
    let usage = d.docker_ok(["system", "df"]);
    let cache = usage
        .lines()
        .find(|l| l.starts_with("Build Cache"))
        .unwrap()
        .to_owned();
    assert!(!cache.contains(" 0B "), "{usage}");
    let layers = |d: &Daemon| fs::read_dir(d.state_dir().join("layers")).unwrap().count();
    let before = layers(&d);
    let said = d.docker_ok(["builder", "prune", "-f"]);
    assert!(
        said.contains("Total reclaimed space: 3") || said.contains("Total:"),
        "{said}"
    );
    // The layer that the image has is still there; the other stage's is not.
    assert_eq!(layers(&d), before - 1);
    assert_eq!(shell(&d, "kept", "ls /b2"), "/b2");
    let said = built(&d, &dir, &[]);
    assert!(said.contains("Running in"), "{said}");
    let said = d.ok(["builder", "prune", "-af"]);
    assert!(said.contains("Deleted build cache objects"), "{said}");
    let usage: serde_json::Value = serde_json::from_str(&text(
        &Command::new("curl")
            .args(["-s", "--unix-socket"])
            .arg(d.run_dir().join("docker.sock"))
            .arg("http://d/system/df")
            .output()
            .unwrap(),
    ))
    .unwrap();
    assert_eq!(usage["BuildCache"], serde_json::json!([]));
    // Images that share a layer count it once.
    d.ok(["tag", "kept", "kept:2"]);
    fs::write(dir.join("Dockerfile"), "FROM kept\nLABEL a=b\n").unwrap();
    built(&d, &dir, &["-t", "labelled"]);
    let total = usage["LayersSize"].as_u64().unwrap();
    let now: serde_json::Value = serde_json::from_str(&text(
        &Command::new("curl")
            .args(["-s", "--unix-socket"])
            .arg(d.run_dir().join("docker.sock"))
            .arg("http://d/system/df")
            .output()
            .unwrap(),
    ))
    .unwrap();
    assert_eq!(now["LayersSize"].as_u64().unwrap(), total);
}
