//! Deploys on one machine: B takes A's place, and A comes back, by one command or by itself, while somebody asks all the time.
#![allow(clippy::unwrap_used)]

mod common;

use common::registry::Registry;
use common::{Daemon, errors, text, until};
use std::collections::BTreeMap;
use std::process::{Child, Output, Stdio};

/// A page that says its version, and ends at once when it is told to.
fn web(version: &str, more: &str) -> String {
    format!(
        "[Container]\nImage=bb\nExec=sh -c \"mkdir -p /w && echo {version} >/w/index.html && exec httpd -f -p 80 -h /w\"\n\
         StopTimeout=2\n{more}\n[X-Deploy]\nProbe=http://:80/\nProbeIntervalSec=1\nSettleSec=1\n"
    )
}

/// Somebody who asks the service for its page, again and again, one connection a question, by its name, and never asks twice.
struct Asker {
    child: Option<Child>,
    dir: tempfile::TempDir,
}

impl Asker {
    fn start(d: &Daemon) -> Self {
        let gateway = d.ok([
            "network",
            "inspect",
            "-f",
            "{{(index .IPAM.Config 0).Gateway}}",
            "bridge",
        ]);
        let dir = tempfile::tempdir().unwrap();
        let script = format!(
            "n=0; while test ! -e end; do n=$((n+1)); \
             ip=$(dig @{} +short +tries=1 +time=5 web A | head -n 1); \
             curl -sS -m 5 --noproxy '*' http://$ip/ >>pages 2>>errors || echo failed $n: $ip >>errors; done; echo asked $n",
            gateway.trim()
        );
        let mut command = d.inside("sh");
        let command = command.args(["-c", &script]).current_dir(dir.path());
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        until("the first page is there", || {
            std::fs::read_to_string(dir.path().join("pages")).is_ok_and(|p| !p.is_empty())
        });
        let child = Some(child);
        Self { child, dir }
    }

    /// Ends it; how many pages of each version it got. No question may have failed.
    fn end(mut self, d: &Daemon) -> BTreeMap<String, usize> {
        std::fs::write(self.dir.path().join("end"), "").unwrap();
        let said = text(&self.child.take().unwrap().wait_with_output().unwrap());
        assert!(said.starts_with("asked "), "{said}");
        let read = |name| std::fs::read_to_string(self.dir.path().join(name)).unwrap();
        let errors = read("errors");
        assert!(errors.is_empty(), "{errors}{}", d.log());
        let mut counts = BTreeMap::new();
        for page in read("pages").lines() {
            *counts.entry(page.to_owned()).or_insert(0) += 1;
        }
        counts
    }
}

impl Drop for Asker {
    /// Of a test that failed.
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What each instance's container answers, by container name.
fn versions(d: &Daemon) -> Vec<String> {
    let names = d.ok([
        "ps",
        "--format",
        "{{.Names}}",
        "--filter",
        "label=coracle.unit",
    ]);
    let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
    names.sort();
    let page = |name: &String| {
        // It may have gone meanwhile.
        let page = d.coracle(["exec", name, "cat", "/w/index.html"]);
        let page = text(&page);
        (!page.is_empty()).then(|| format!("{name} {}", page.trim()))
    };
    names.iter().filter_map(page).collect()
}

/// What is to be the same before and after: units, containers, and what they run.
fn picture(d: &Daemon) -> String {
    let units = d.ok([
        "unit",
        "list",
        "--format",
        "{{.Unit}} {{.Active}} {{.Desired}}",
    ]);
    format!("{units}{}", versions(d).join("\n"))
}

fn failed(output: &Output) -> String {
    assert!(!output.status.success(), "{}", text(output));
    format!("{}{}", text(output), errors(output))
}

#[test]
fn a_new_version_takes_the_old_ones_place_and_the_old_one_comes_back() {
    let d = Daemon::start();
    let unit = d.unit("web@.container", &web("A", ""));
    let said = d.ok(["deploy", &unit, "--scale", "2", "-m", "the first"]);
    assert!(said.contains("2 of 2 have it"), "{said}");
    assert_eq!(versions(&d), ["web-1 A", "web-2 A"]);
    let status = d.ok(["unit", "status", "web@"]);
    for words in [
        "Address:",
        "web@1.container active (running) healthy",
        "web@2.container",
    ] {
        assert!(status.contains(words), "{status}");
    }
    let asker = Asker::start(&d);
    d.unit("web@.container", &web("B", ""));
    let plan = d.ok(["plan", &unit]);
    assert!(
        plan.contains("-Exec=sh -c \"mkdir -p /w && echo A"),
        "{plan}"
    );
    assert!(
        plan.contains("+Exec=sh -c \"mkdir -p /w && echo B"),
        "{plan}"
    );
    assert!(
        plan.contains("web@1.container: start revision 2 beside it"),
        "{plan}"
    );
    assert_eq!(versions(&d), ["web-1 A", "web-2 A"]);
    d.ok(["deploy", &unit, "-m", "the second"]);
    until("the former ones are gone", || {
        versions(&d) == ["web-1 B", "web-2 B"]
    });
    d.ok(["rollback", "web"]);
    until("the first is back", || {
        versions(&d) == ["web-1 A", "web-2 A"]
    });
    d.ok(["rollback", "web", "2"]);
    until("the second once more", || {
        versions(&d) == ["web-1 B", "web-2 B"]
    });
    let pages = asker.end(&d);
    assert!(pages["A"] > 0 && pages["B"] > 0, "{pages:?}");
    let history = d.ok(["history", "web@.container"]);
    for words in ["the first", "the second", "back to revision 1", "runs"] {
        assert!(history.contains(words), "{history}");
    }
    let diff = d.ok(["diff", "web", "1", "2"]);
    assert!(diff.contains("+Exec") && diff.contains("echo B"), "{diff}");
    let again = d.ok(["deploy", &unit]);
    assert!(again.contains("nothing to do"), "{again}");
    // More and fewer.
    d.ok(["deploy", "web", "--scale", "3"]);
    assert_eq!(versions(&d), ["web-1 B", "web-2 B", "web-3 B"]);
    d.ok(["deploy", "web", "--scale", "1"]);
    until("two are gone", || versions(&d) == ["web-1 B"]);
    let left = d.coracle(["unit", "destroy", "web@"]);
    assert!(
        errors(&left).contains("web@1.container"),
        "{}",
        errors(&left)
    );
    assert_eq!(versions(&d), ["web-1 B"]);
}

/// An image as of another architecture: the programs of `bb`, with the header that says so.
fn foreign_image(d: &Daemon) {
    let root = tempfile::tempdir().unwrap();
    let mut program = std::fs::read("/bin/busybox").unwrap();
    // e_machine of an ELF header (elf(5)): EM_AARCH64.
    program[18..20].copy_from_slice(&183_u16.to_le_bytes());
    std::fs::create_dir(root.path().join("bin")).unwrap();
    let shell = root.path().join("bin/sh");
    std::fs::write(&shell, program).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&shell, mode).unwrap();
    let archive = root.path().join("root.tar");
    let mut tar = std::process::Command::new("tar");
    let tar = tar
        .arg("-C")
        .arg(root.path())
        .arg("-cf")
        .arg(&archive)
        .arg("bin");
    assert!(tar.status().unwrap().success());
    let archive = archive.to_str().unwrap();
    d.ok([
        "import",
        "--platform",
        "linux/arm64",
        archive,
        "localhost/foreign",
    ]);
}

#[test]
fn whatever_is_wrong_with_a_new_version_the_old_one_serves_as_before() {
    let d = Daemon::start();
    let unit = d.unit("web@.container", &web("A", ""));
    d.ok(["deploy", &unit, "--scale", "2"]);
    let (asker, before) = (Asker::start(&d), picture(&d));
    let no_image = web("B", "").replace("Image=bb", "Image=localhost/none");
    let crashes = web("B", "").replace("exec httpd", "echo no such table; exit 3; httpd");
    let closed = web("B", "").replace("-p 80", "-p 81");
    let never = web(
        "B",
        "HealthCmd=false\nHealthStartPeriod=1h\nHealthInterval=1s",
    );
    let never = never.replace("Probe=http://:80/\nProbeIntervalSec=1\n", "");
    let turns = web("B", "").replace(
        "exec httpd -f -p 80 -h /w",
        "timeout 4 httpd -f -p 80 -h /w; sleep 1000",
    );
    let turns = turns.replace("SettleSec=1", "SettleSec=20\nProbeRetries=1");
    foreign_image(&d);
    let foreign = web("B", "").replace("Image=bb", "Image=localhost/foreign");
    let no_room = web("B", "").replace("[X-Deploy]", "[X-Deploy]\nReserveMemory=4000G");
    for (what, wrong, words) in [
        ("no image", no_image, vec!["localhost/none"]),
        ("crashes", crashes, vec!["code 3", "no such table"]),
        ("nobody listens", closed, vec!["health test fails"]),
        ("never healthy", never, vec!["within 5 s"]),
        ("turns unhealthy", turns, vec!["health test fails"]),
        ("no room", no_room, vec!["memory"]),
        (
            "wrong architecture",
            foreign,
            vec!["exec format error", "linux/arm64"],
        ),
    ] {
        d.unit("web@.container", &wrong);
        let timeout = if what == "never healthy" { "5" } else { "60" };
        let output = d.coracle(["deploy", &unit, "--timeout", timeout]);
        let said = failed(&output);
        for words in words {
            assert!(said.contains(words), "{what}: {said}");
        }
        until(what, || picture(&d) == before);
    }
    let pages = asker.end(&d);
    assert_eq!(pages.keys().collect::<Vec<_>>(), ["A"], "{pages:?}");
}

#[test]
fn a_deploy_waits_for_who_asked_and_goes_on_after_the_daemon_was_killed() {
    let mut d = Daemon::start();
    let unit = d.unit("web@.container", &web("A", ""));
    d.ok(["deploy", &unit, "--scale", "3"]);
    let before = picture(&d);
    d.unit("web@.container", &web("B", ""));
    let said = d.ok(["deploy", &unit, "--canary", "1"]);
    assert!(said.contains("coracle resume"), "{said}");
    until("one is a canary", || {
        versions(&d) == ["web-1 B", "web-2 A", "web-3 A"]
    });
    d.refused(&["deploy", &unit], "under way");
    d.refused(&["unit", "submit", &unit], "under way");
    let back = d.ok(["abort", "web"]);
    assert!(back.contains("aborted by"), "{back}");
    until("all is as before", || picture(&d) == before);
    d.refused(&["abort", "web"], "no deploy of it is under way");
    // Killed while it is under way, again and again.
    d.ok(["deploy", &unit, "--no-block"]);
    for _ in 0..6 {
        d.kill();
        d.up();
        let seen = versions(&d);
        until("something has changed", || {
            versions(&d) != seen || versions(&d) == ["web-1 B", "web-2 B", "web-3 B"]
        });
    }
    until("all run the new version", || {
        versions(&d) == ["web-1 B", "web-2 B", "web-3 B"]
    });
    until("it is over", || progress(&d).1 == "done");
    // Who is destroyed in the midst of one is not made again.
    d.unit("web@.container", &web("C", ""));
    d.ok(["deploy", &unit, "--canary", "1"]);
    d.ok(["unit", "destroy", "web@3"]);
    d.ok(["resume", "web"]);
    until("the others run it", || {
        versions(&d) == ["web-1 C", "web-2 C"]
    });
    until("it is over", || progress(&d).1 == "done");
    assert_eq!(versions(&d), ["web-1 C", "web-2 C"]);
}

#[test]
fn a_unit_that_is_no_template_and_one_with_data() {
    let d = Daemon::start();
    let unit = d.unit("web.container", &web("A", ""));
    d.ok(["deploy", &unit]);
    let asker = Asker::start(&d);
    let number = |d: &Daemon| {
        let history = d.ok([
            "history",
            "web.container",
            "--format",
            "{{.Revision}} {{.Outcome}}",
        ]);
        let line = history
            .lines()
            .find(|l| l.ends_with("runs"))
            .map(str::to_owned);
        line.unwrap_or(history)
    };
    assert_eq!(number(&d), "1 runs");
    d.unit("web.container", &web("B", ""));
    d.ok(["deploy", &unit]);
    until("the former one is gone", || versions(&d) == ["web B"]);
    d.ok(["deploy", "web", "--set", "Environment=X=1"]);
    until("its successor too", || versions(&d) == ["web B"]);
    assert_eq!(number(&d), "3 runs");
    d.ok(["rollback", "web", "1"]);
    until("the first is back", || versions(&d) == ["web A"]);
    let cat = d.ok(["unit", "cat", "web"]);
    assert!(cat.contains("echo A"), "{cat}");
    asker.end(&d);
    // There are never two that write to one volume.
    let data = |v: &str| {
        web(v, "Volume=data:/data")
            .replace(
                "mkdir",
                "test ! -e /data/lock && touch /data/lock; trap 'rm /data/lock; exit' TERM; mkdir",
            )
            .replace("exec httpd -f -p 80 -h /w", "httpd -f -p 80 -h /w & wait")
    };
    let db = d.unit("db.container", &data("1"));
    d.ok(["deploy", &db]);
    d.unit("db.container", &data("2"));
    let said = d.ok(["deploy", &db]);
    assert!(said.contains("data in a volume"), "{said}");
    let refused = failed(&d.coracle(["deploy", &db, "--strategy", "start-first"]));
    assert!(refused.contains("stop-first"), "{refused}");
    d.unit(
        "db.container",
        &data("3").replace("httpd -f", "exit 4; httpd -f"),
    );
    let said = failed(&d.coracle(["deploy", &db]));
    assert!(said.contains("code 4"), "{said}");
    until("the second serves again", || {
        versions(&d).contains(&"db 2".to_owned())
    });
}

#[test]
fn a_rollback_needs_neither_the_registry_nor_the_names_of_images() {
    let d = Daemon::start();
    let registry = Registry::start(&d, 5000);
    let name = "127.0.0.1:5000/web:1";
    let push = |version: &str| {
        let make = format!("mkdir -p /w && echo {version} >/w/index.html");
        d.ok(["run", "--name", "maker", "bb", "sh", "-c", &make]);
        d.ok(["commit", "maker", name]);
        d.ok(["rm", "maker"]);
        d.ok(["push", name]);
        d.ok(["rmi", name]);
    };
    push("A");
    let text = format!(
        "[Container]\nImage={name}\nPull=always\nExec=httpd -f -p 80 -h /w\nStopTimeout=1\n\
         [X-Deploy]\nScale=3\nBatch=3\nProbe=http://:80/\nSettleSec=1\n"
    );
    let unit = d.unit("web@.container", &text);
    d.ok(["deploy", &unit]);
    let three = |version: &str| {
        let one = |n| format!("web-{n} {version}");
        (1..=3).map(one).collect::<Vec<_>>()
    };
    assert_eq!(versions(&d), three("A"));
    // The same text, and the name stands for something else.
    push("B");
    d.ok(["deploy", &unit]);
    until("all run the second", || versions(&d) == three("B"));
    let history = d.ok(["history", "web@.container", "--format", "{{.Image}}"]);
    let images: Vec<&str> = history.lines().collect();
    assert!(images.len() == 2 && images[0] != images[1], "{history}");
    assert!(
        images[0].starts_with("127.0.0.1:5000/web@sha256:"),
        "{history}"
    );
    drop(registry);
    // What a prune takes is nobody's, and this is the former revision's.
    d.ok(["image", "prune", "-f"]);
    d.docker_ok(["image", "prune", "-a", "-f"]);
    d.ok(["rollback", "web"]);
    until("the first is back", || versions(&d) == three("A"));
    let refused = failed(&d.coracle(["deploy", &unit]));
    assert!(refused.contains("nothing was changed"), "{refused}");
    assert_eq!(versions(&d), three("A"));
}

/// A server whose connections live on after it was asked to end, until their clients have gone.
const LASTING: &str = "[Container]\nImage=bb\nExec=sh -c \"trap : TERM; mkdir -p /w && echo A >/w/index.html; \
    nc -ll -p 80 -e cat & while true; do sleep 1000 & wait $!; done\"\nStopTimeout=1\n\
    [X-Deploy]\nSettleSec=1\nDrainSec=8s\n";

#[test]
fn who_is_connected_has_until_the_drain_is_over() {
    let d = Daemon::start();
    let unit = d.unit("web.container", LASTING);
    d.ok(["deploy", &unit]);
    let address = d.field("web", ".NetworkSettings.Networks.bridge.IPAddress");
    let container = d.field("web", ".Id");
    let runs = |d: &Daemon| text(&d.coracle(["inspect", "-f", "{{.State.Running}}", &container]));
    // Somebody who stays connected, and says something now and then.
    let talk = |file: &std::path::Path| {
        let script = format!(
            "(for n in 1 2 3 4 5; do echo $n; sleep 1; done) | busybox nc {address} 80 >{}",
            file.display()
        );
        let mut command = d.inside("sh");
        command.args(["-c", &script]).spawn().unwrap()
    };
    let heard = d.state_dir().join("heard");
    let mut client = talk(&heard);
    until("it is connected", || {
        std::fs::read_to_string(&heard).is_ok_and(|h| h.contains('1'))
    });
    d.ok(["deploy", "web", "--set", "Environment=V=2", "--no-block"]);
    // For a moment between the two nobody has it.
    let second = || {
        let has = text(&d.coracle(["inspect", "-f", "{{.Id}}", "web"]));
        !has.trim().is_empty() && has.trim() != container
    };
    until("the new one has the name", second);
    client.wait().unwrap();
    // All of what was said came back, though the former one was asked to end in between.
    assert_eq!(std::fs::read_to_string(&heard).unwrap(), "1\n2\n3\n4\n5\n");
    until("the former one is gone", || !runs(&d).contains("true"));
}

/// How many lines a deploy has said, and how far it is.
fn progress(d: &Daemon) -> (usize, String) {
    let told = d.ok(["history", "web@.container", "--format", "json"]);
    let history: serde_json::Value = serde_json::from_str(&told).unwrap();
    let last = history["deploys"].as_array().unwrap().last().unwrap();
    let lines = last["log"].as_array().unwrap().len();
    (lines, last["stage"].as_str().unwrap().to_owned())
}

#[test]
fn a_deploy_comes_to_its_end_whichever_step_the_daemon_is_killed_after() {
    let mut d = Daemon::start();
    let quick = |text: String| text.replace("SettleSec=1", "SettleSec=0");
    let unit = d.unit("web@.container", &quick(web("v0", "")));
    d.ok(["deploy", &unit, "--scale", "2"]);
    let mut runs = "v0".to_owned();
    let mut number = 0;
    // What is good goes on, what is not goes back; until no step is left after which it could be killed.
    for good in [true, false] {
        for after in 1.. {
            number += 1;
            let version = format!("v{number}");
            let mut text = quick(web(&version, ""));
            if !good {
                text = text.replace("exec httpd", "exit 3; httpd");
            }
            d.unit("web@.container", &text);
            d.ok(["deploy", &unit, "--no-block"]);
            until("so many steps are done", || {
                let (lines, stage) = progress(&d);
                lines >= after || ["done", "restored"].contains(&&*stage)
            });
            let is_over = ["done", "restored"].contains(&&*progress(&d).1);
            d.kill();
            d.up();
            let end = if good { "done" } else { "restored" };
            until("it is at its end", || progress(&d).1 == end);
            if good {
                runs = version;
            }
            let expected: Vec<String> = (1..=2).map(|n| format!("web-{n} {runs}")).collect();
            until("all is as it should be", || versions(&d) == expected);
            let units = d.ok(["unit", "list", "-q"]);
            assert!(!units.contains('+'), "{units}");
            if is_over {
                break;
            }
        }
    }
}
