//! Room on the disk: what goes when it is short, and what never does; and registries that stand for others.

use super::common::registry::Registry;
use super::common::{Daemon, errors, text};
use super::{built, context, id, shell};
use std::fs;

#[test]
fn what_can_be_had_again_makes_room() {
    let d = Daemon::start();
    let _registry = Registry::start(&d, 5000);
    // Four images that a registry has: one of a container, one of a unit, one of nobody, and one that has a name of its own here.
    for name in ["held", "unit", "free", "named"] {
        let dir = context(
            &d,
            name,
            &[("Dockerfile", "FROM bb\nCOPY f /f\n"), ("f", name)],
        );
        let whole = format!("127.0.0.1:5000/{name}:1");
        built(&d, &dir, &["-t", &whole]);
        d.ok(["push", "-q", &whole]);
    }
    // One that was only made here, and a step that no image has.
    let dir = context(
        &d,
        "own",
        &[
            (
                "Dockerfile",
                "FROM bb AS one\nRUN echo step > /s; echo x > /t\nFROM bb\nCOPY f /f\nCOPY --from=one /s /s\n",
            ),
            ("f", "own"),
        ],
    );
    built(&d, &dir, &["-t", "own"]);
    d.ok(["create", "--name", "holds", "127.0.0.1:5000/held:1"]);
    let unit = d.unit(
        "needs.container",
        "[Container]\nImage=127.0.0.1:5000/unit:1\n",
    );
    d.ok(["unit", "submit", &unit]);
    d.ok(["tag", "127.0.0.1:5000/named:1", "only-here"]);
    let names = |d: &Daemon| d.ok(["images", "--format", "{{.Repository}}"]);
    // The disk is not that full, and all of it is young.
    assert!(
        !d.ok(["system", "collect", "--high", "100"])
            .contains("image ")
    );
    let young = d.ok([
        "system",
        "collect",
        "--high",
        "0",
        "--low",
        "0",
        "--min-age",
        "1h",
    ]);
    assert!(
        !young.contains("image ") && !young.contains("step"),
        "{young}"
    );
    let said = d.ok([
        "system",
        "collect",
        "--high",
        "0",
        "--low",
        "0",
        "--min-age",
        "0s",
    ]);
    assert!(
        said.contains("cached step: RUN /bin/sh -c echo step"),
        "{said}"
    );
    let left = names(&d);
    let kept = [
        "127.0.0.1:5000/held",
        "127.0.0.1:5000/unit",
        "127.0.0.1:5000/named",
        "only-here",
        "own",
        "bb",
    ];
    for kept in kept {
        assert!(left.lines().any(|l| l == kept), "{kept}: {left}");
    }
    assert!(!left.contains("/free"), "{left}");
    assert_eq!(shell(&d, "own", "cat /f"), "own");
    // What was removed is had again.
    assert_eq!(
        d.ok(["run", "--rm", "-q", "127.0.0.1:5000/free:1", "cat", "/f"]),
        "free"
    );
    let bad = d.coracle(["system", "collect", "--high", "5", "--low", "6"]);
    assert!(
        errors(&bad).contains("low is above high"),
        "{}",
        errors(&bad)
    );
}

#[test]
fn layers_made_here_are_saved_pushed_and_loaded() {
    let d = Daemon::start();
    let _registry = Registry::start(&d, 5000);
    let dir = context(
        &d,
        "made",
        &[(
            "Dockerfile",
            "FROM bb\nRUN rm /data/from-image && mkdir /new && echo x > /new/f && chown 5:6 /new/f && ln /new/f /new/g\n",
        )],
    );
    built(&d, &dir, &["-t", "127.0.0.1:5000/made"]);
    let made = id(&d, "127.0.0.1:5000/made");
    let content = d.state_dir().join("content/sha256");
    let layers = d.ok([
        "image",
        "inspect",
        "--format",
        "{{json .RootFS.Layers}}",
        "127.0.0.1:5000/made",
    ]);
    let layers: Vec<String> = serde_json::from_str(&layers).unwrap();
    let kept = |digest: &str| content.join(digest.trim_start_matches("sha256:")).exists();
    assert!(
        !kept(&layers[1]),
        "an archive of the layer is kept beside it"
    );
    let archive = d.dir.path().join("made.tar").display().to_string();
    d.ok(["save", "-o", &archive, "127.0.0.1:5000/made"]);
    d.ok(["push", "-q", "127.0.0.1:5000/made"]);
    let check = "stat -c '%u:%g %h' /new/f; ls /data";
    for load in [true, false] {
        d.ok(["rmi", "-f", "127.0.0.1:5000/made"]);
        d.ok(["builder", "prune", "-af"]);
        if load {
            d.ok(["load", "-i", &archive]);
        } else {
            d.ok(["pull", "127.0.0.1:5000/made"]);
        }
        assert_eq!(id(&d, "127.0.0.1:5000/made"), made);
        assert_eq!(shell(&d, "127.0.0.1:5000/made", check), "5:6 2");
    }
    // A layer that somebody has changed on the disk is not passed on.
    d.ok(["rmi", "-f", "127.0.0.1:5000/made"]);
    d.ok(["builder", "prune", "-af"]);
    built(&d, &dir, &["-t", "spoilt"]);
    let layers = d.ok([
        "image",
        "inspect",
        "--format",
        "{{json .RootFS.Layers}}",
        "spoilt",
    ]);
    let layers: Vec<String> = serde_json::from_str(&layers).unwrap();
    let layer = d
        .state_dir()
        .join("layers")
        .join(layers[1].trim_start_matches("sha256:"));
    fs::write(layer.join("fs/new/f"), "spoilt").unwrap();
    let refused = d.coracle(["push", "-q", "spoilt"]);
    assert!(!refused.status.success(), "{}", text(&refused));
    d.ok(["tag", "spoilt", "127.0.0.1:5000/spoilt"]);
    let refused = d.coracle(["push", "127.0.0.1:5000/spoilt"]);
    assert!(
        errors(&refused).contains("was changed on the disk"),
        "{}",
        errors(&refused)
    );
}

#[test]
fn a_registry_stands_for_another() {
    let mut d = Daemon::unstarted();
    let config = d.dir.path().join("coracle.toml");
    let text_of = "[[registry]]\nhost = \"127.0.0.1:5001\"\nplain_http = true\nmirror_of = \"far.example\"\n\n[collect]\nhigh = 90\n";
    fs::write(&config, text_of).unwrap();
    d.up_with(&config);
    d.image();
    let _registry = Registry::start(&d, 5001);
    d.ok(["tag", "bb", "127.0.0.1:5001/team/app:1"]);
    d.ok(["push", "-q", "127.0.0.1:5001/team/app:1"]);
    d.ok(["rmi", "127.0.0.1:5001/team/app:1"]);
    d.ok(["pull", "far.example/team/app:1"]);
    assert_eq!(
        d.ok(["run", "--rm", "far.example/team/app:1", "echo", "here"]),
        "here"
    );
    d.terminate();
    for (text, words) in [
        ("[[registry]]\nhost = \"a\"\nmirror = \"b\"\n", "mirror"),
        ("[collect]\nhigh = 50\nlow = 60\n", "low = 60"),
        ("[collect]\nmin_age = \"x\"\n", "min_age"),
        ("[store]\nquota = \"1m\"\n", "quota = \"1m\""),
        ("[store]\nkeep_revisions = -1\n", "keep_revisions = -1"),
        ("[store]\nkeep_for = \"1s\"\n", "keep_for = \"1s\""),
        (
            "[cluster]\nsnapshot_every = \"1ms\"\n",
            "snapshot_every = \"1ms\"",
        ),
        ("[cluster]\nsnapshot_keep = 0\n", "snapshot_keep = 0"),
        ("[cluster]\netcd = \"etcd\"\n", "etcd = \"etcd\""),
    ] {
        fs::write(&config, text).unwrap();
        let refused = d
            .inside(super::common::programs())
            .arg("daemon")
            .arg("--config")
            .arg(&config)
            .output()
            .unwrap();
        assert!(
            !refused.status.success() && errors(&refused).contains(words),
            "{}",
            errors(&refused)
        );
    }
}
