//! Every verb of the docker command, against our socket.
//!
//! The verbs are read out of `docker --help`, so that one that is neither tried here nor left out by name fails the test. Debian's
//! docker is asked, and any other that comes first in the path.
#![allow(clippy::unwrap_used)]

mod common;

use common::registry::{Index, Registry};
use common::{Daemon, errors, text, until};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Verbs that are not tried, each with its reason.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "buildx",
        "a plugin of the command, for another daemon's builder",
    ),
    ("compose", "a plugin of the command"),
    ("checkpoint", "experimental in docker"),
    ("context", "concerns the command alone"),
    ("completion", "likewise"),
    ("manifest", "concerns the command and registries alone"),
    ("trust", "concerns the command and registries alone"),
    ("plugin", "no plugins"),
    ("volume update", "of swarm's volumes"),
    ("config", "of swarms"),
    ("node", "of swarms"),
    ("secret", "of swarms"),
    ("service", "of swarms"),
    ("stack", "of swarms"),
    ("swarm", "of swarms"),
];
const GROUPS: &[&str] = &[
    "container",
    "image",
    "network",
    "volume",
    "system",
    "builder",
];

struct Docker<'a> {
    program: PathBuf,
    daemon: &'a Daemon,
    tried: BTreeSet<String>,
}

impl Docker<'_> {
    fn command(&self) -> Command {
        let mut docker = Command::new(&self.program);
        let socket = self.daemon.run_dir().join("docker.sock");
        docker
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .env("DOCKER_CONFIG", self.daemon.dir.path())
            // Where the plugin buildx is, a build would ask for BuildKit.
            .env("DOCKER_BUILDKIT", "0")
            .stdin(Stdio::null());
        docker
    }

    fn ask(&mut self, line: &str) -> Output {
        let words: Vec<&str> = line.split(' ').collect();
        let verb = if GROUPS.contains(&words[0]) {
            words[..2].join(" ")
        } else {
            words[0].to_owned()
        };
        self.tried.insert(verb);
        self.command().args(words).output().unwrap()
    }

    /// Must succeed; its output.
    fn ok(&mut self, line: &str) -> String {
        let output = self.ask(line);
        assert!(
            output.status.success(),
            "{} {line}: {}{}\n{}",
            self.program.display(),
            text(&output),
            errors(&output),
            self.daemon.log()
        );
        text(&output)
    }

    /// Verbs that a help text lists.
    fn listed(&self, group: &str) -> Vec<String> {
        let help = self.command().args([group, "--help"]).output().unwrap();
        let text = text(&help);
        let mut found = Vec::new();
        let mut inside = false;
        for line in text.lines() {
            if !line.starts_with(' ') {
                inside = line.ends_with("Commands:");
            }
            let name = line.strip_prefix("  ").filter(|l| !l.starts_with(' '));
            if let (true, Some(name)) = (inside, name) {
                let name = name.split(' ').next().unwrap().trim_end_matches('*');
                found.push(format!("{group} {name}").trim().to_owned());
            }
        }
        found
    }
}

#[test]
fn every_verb_of_docker() {
    let mut programs: BTreeSet<PathBuf> = BTreeSet::new();
    for dir in std::env::split_paths(&std::env::var_os("PATH").unwrap()) {
        programs.extend(fs::canonicalize(dir.join("docker")));
    }
    assert!(!programs.is_empty(), "Debian package docker.io");
    for program in programs {
        let daemon = Daemon::start();
        let mut docker = Docker {
            program,
            daemon: &daemon,
            tried: BTreeSet::new(),
        };
        images(&mut docker);
        containers(&mut docker);
        networks_and_volumes(&mut docker);
        builds(&mut docker);
        system(&mut docker);
        registries(&mut docker);
        let mut known: Vec<String> = docker
            .listed("")
            .into_iter()
            .filter(|v| !GROUPS.contains(&v.as_str()))
            .collect();
        assert!(known.len() > 35, "{known:?}");
        for group in GROUPS {
            known.extend(docker.listed(group));
        }
        let left_out = |v: &String| LEFT_OUT.iter().any(|(name, _)| name == v);
        let missing: Vec<&String> = known
            .iter()
            .filter(|v| !left_out(v) && !docker.tried.contains(*v))
            .collect();
        assert!(
            missing.is_empty(),
            "{}: {missing:?}",
            docker.program.display()
        );
    }
}

fn images(d: &mut Docker<'_>) {
    let tar = d.daemon.dir.path().join("bb.tar").display().to_string();
    let root = d.daemon.dir.path().join("root.tar").display().to_string();
    for group in ["", "image "] {
        assert!(d.ok(&format!("{group}save -o {tar} bb")).is_empty());
        assert!(
            d.ok(&format!("{group}load -i {tar}"))
                .contains("Loaded image: bb:latest")
        );
        d.ok(&format!("{group}tag bb other:1"));
        assert!(d.ok(&format!("{group}history bb")).contains("imported"));
        d.ok("create --name flat bb true");
        d.ok(&format!("export -o {root} flat"));
        d.ok("rm flat");
        assert!(
            d.ok(&format!("{group}import {root} flat:1"))
                .starts_with("sha256:")
        );
    }
    assert!(d.ok("images").contains("other"));
    assert!(d.ok("image ls -q").len() >= 12);
    assert!(d.ok("image inspect bb").contains("RepoTags"));
    assert!(d.ok("inspect --type image bb").contains("RepoTags"));
    assert!(d.ok("rmi other:1").contains("Untagged: other:1"));
    assert!(d.ok("image rm flat:1").contains("Untagged: flat:1"));
    d.ok("tag bb dangling");
    assert!(d.ok("image prune -f").contains("Total reclaimed space"));
    d.ok("rmi dangling");
}

fn containers(d: &mut Docker<'_>) {
    for group in ["", "container "] {
        assert_eq!(d.ok(&format!("{group}run --rm bb echo hello")), "hello");
        d.ok(&format!("{group}create --name made bb true"));
        assert_eq!(d.ok(&format!("{group}start made")), "made");
        assert_eq!(d.ok(&format!("{group}wait made")), "0");
        d.ok(&format!("{group}rename made done"));
        assert_eq!(d.ok(&format!("{group}rm done")), "done");
        d.ok(&format!(
            "{group}run -d --name web -p 8080:80 bb sleep 1000"
        ));
        assert_eq!(d.ok(&format!("{group}exec web echo inside")), "inside");
        assert!(
            d.ok(&format!("{group}inspect web"))
                .contains("\"Running\": true")
        );
        assert!(d.ok(&format!("{group}top web")).contains("sleep 1000"));
        assert!(
            d.ok(&format!("{group}port web"))
                .contains("80/tcp -> 0.0.0.0:8080")
        );
        assert!(
            d.ok(&format!("{group}stats --no-stream web"))
                .contains("web")
        );
        assert_eq!(d.ok(&format!("{group}pause web")), "web");
        assert_eq!(d.ok(&format!("{group}unpause web")), "web");
        assert_eq!(
            d.ok(&format!("{group}update -m 64m --memory-swap 64m web")),
            "web"
        );
        let file = d.daemon.dir.path().join("passwd").display().to_string();
        d.ok(&format!("{group}cp web:/etc/passwd {file}"));
        d.ok(&format!("{group}cp {file} web:/tmp-passwd"));
        assert_eq!(d.ok(&format!("{group}diff web")), "A /tmp-passwd");
        assert!(
            d.ok(&format!("{group}commit web committed"))
                .starts_with("sha256:")
        );
        d.ok("rmi committed");
        let root = d.daemon.dir.path().join("web.tar").display().to_string();
        d.ok(&format!("{group}export -o {root} web"));
        d.ok(&format!("{group}logs web"));
        assert_eq!(d.ok(&format!("{group}restart -t 0 web")), "web");
        assert_eq!(d.ok(&format!("{group}kill web")), "web");
        d.ok("wait web");
        d.ok("start web");
        assert_eq!(d.ok(&format!("{group}stop -t 0 web")), "web");
        // Joined, it ends with the container.
        d.tried.insert(format!("{group}attach"));
        d.ok("run -d --name said bb sh -c read");
        let mut attach = d.command();
        attach
            .args(group.split_whitespace())
            .args(["attach", "said"]);
        let mut attach = attach
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("it has ended", || {
            let killed = d.command().args(["kill", "said"]).output().unwrap();
            killed.status.success() || attach.try_wait().unwrap().is_some()
        });
        attach.wait().unwrap();
        if group.is_empty() {
            d.ok("rm -f web said");
        } else {
            assert!(d.ok("container prune -f").contains("Deleted Containers"));
        }
        assert_eq!(d.ok("ps -aq"), "");
    }
    assert!(d.ok("container ls -a").starts_with("CONTAINER ID"));
}

fn networks_and_volumes(d: &mut Docker<'_>) {
    d.ok("network create back");
    d.ok("run -d --name web bb sleep 1000");
    d.ok("network connect --alias shop back web");
    assert!(d.ok("network inspect back").contains("\"Name\": \"web\""));
    assert!(d.ok("network ls").contains("back"));
    d.ok("network disconnect back web");
    d.ok("network rm back");
    d.ok("network create idle");
    assert!(d.ok("network prune -f").contains("idle"));
    assert_eq!(d.ok("volume create data"), "data");
    assert!(d.ok("volume ls").contains("data"));
    assert!(d.ok("volume inspect data").contains("Mountpoint"));
    assert_eq!(d.ok("volume rm data"), "data");
    d.ok("run --rm -v /anonymous bb true");
    assert!(d.ok("volume prune -f").contains("Total reclaimed space"));
    d.ok("rm -f web");
}

fn builds(d: &mut Docker<'_>) {
    let dir = d.daemon.dir.path().join("context");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("Dockerfile"), "FROM bb\nRUN echo made > /made\n").unwrap();
    for group in ["", "image ", "builder "] {
        let said = d.ok(&format!("{group}build -t made {}", dir.display()));
        assert!(said.contains("Successfully tagged made:latest"), "{said}");
        assert_eq!(d.ok("run --rm made cat /made"), "made");
    }
    d.ok("rmi made");
    assert!(d.ok("builder prune -af").contains("Total"));
}

fn system(d: &mut Docker<'_>) {
    assert!(d.ok("version").contains("Coracle"));
    assert!(d.ok("info").contains("Kernel Version"));
    assert!(d.ok("system info").contains("Kernel Version"));
    assert!(d.ok("system df").contains("Local Volumes"));
    assert!(d.ok("system df -v").contains("bb"));
    let events = d.ok("events --since 10m --until=-1s --filter event=start");
    assert!(events.contains("container start"), "{events}");
    let events = d.ok("system events --since 10m --until=-1s --filter type=network");
    assert!(events.contains("network create"), "{events}");
    d.ok("create --name old bb true");
    let pruned = d.ok("system prune -f");
    assert!(pruned.contains("Deleted Containers"), "{pruned}");
}

/// A registry with a password.
fn registries(d: &mut Docker<'_>) {
    let _registry = Registry::start_with_password(d.daemon, 5000, "me", "secret");
    d.ok("tag bb 127.0.0.1:5000/bb:1");
    let refused = d.ask("push 127.0.0.1:5000/bb:1");
    assert!(!refused.status.success(), "{}", text(&refused));
    let wrong = d.ask("login -u me -p wrong 127.0.0.1:5000");
    assert!(
        errors(&wrong).contains("refuses access"),
        "{}",
        errors(&wrong)
    );
    assert!(
        d.ok("login -u me -p secret 127.0.0.1:5000")
            .contains("Login Succeeded")
    );
    for group in ["", "image "] {
        assert!(
            d.ok(&format!("{group}push 127.0.0.1:5000/bb:1"))
                .contains("digest: sha256:")
        );
        d.ok("rmi 127.0.0.1:5000/bb:1");
        assert!(
            d.ok(&format!("{group}pull 127.0.0.1:5000/bb:1"))
                .contains("127.0.0.1:5000/bb:1")
        );
    }
    assert!(d.ok("logout 127.0.0.1:5000").contains("Removing login"));
    let found = r#"{"results":[{"name":"redis","star_count":3}]}"#;
    let _index = Index::start(d.daemon, found);
    let said = d.ok(&format!("search {}/redis", Index::ADDRESS));
    assert!(said.contains("redis"), "{said}");
}

/// Flags that our command does not have, each with its reason.
const NO_SUCH_FLAG: &[(&str, &str, &str)] = &[
    (
        "*",
        "platform",
        "images here are for one platform each; pull and run take it",
    ),
    ("images", "tree", "of docker's other image store"),
    ("image ls", "tree", "of docker's other image store"),
    ("volume ls", "cluster", "of swarms"),
    (
        "*",
        "disable-content-trust",
        "there is no content trust; run and build take it",
    ),
    (
        "*",
        "cpu-rt-period",
        "real-time scheduling; run refuses it by name",
    ),
    (
        "*",
        "cpu-rt-runtime",
        "real-time scheduling; run refuses it by name",
    ),
    ("*", "checkpoint", "experimental in docker"),
    ("*", "checkpoint-dir", "experimental in docker"),
    ("rmi", "no-prune", "images have no parents here"),
    ("image rm", "no-prune", "images have no parents here"),
    ("network inspect", "verbose", "of swarms"),
];

/// Of swarms' networks and volumes.
const OF_SWARMS: &[&str] = &[
    "availability",
    "group",
    "limit-bytes",
    "required-bytes",
    "secret",
    "sharing",
    "topology-preferred",
    "topology-required",
    "type",
    "scope",
    "config-from",
    "config-only",
    "ingress",
];
/// Of networks that are not ours: drivers, links of old.
const OF_NETWORKS: &[&str] = &["ipam-opt", "driver-opt", "link"];

fn flags(help: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in help.lines() {
        let line = line.trim_start();
        let long = line.split_once("--").filter(|(before, _)| {
            let short = before.strip_prefix('-').and_then(|b| b.strip_suffix(", "));
            before.is_empty() || short.is_some_and(|s| s.len() == 1)
        });
        if let Some((_, name)) = long {
            let end = name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
            found.insert(name[..end.unwrap_or(name.len())].to_owned());
        }
    }
    found
}

#[test]
fn every_flag_of_docker() {
    let help = |program: &PathBuf, words: &[&str]| {
        text(
            &Command::new(program)
                .args(words)
                .arg("--help")
                .output()
                .unwrap(),
        )
    };
    let daemon = Daemon::unstarted();
    let docker = Docker {
        program: "docker".into(),
        daemon: &daemon,
        tried: BTreeSet::new(),
    };
    let mut verbs = docker.listed("");
    for group in GROUPS {
        verbs.extend(docker.listed(group));
    }
    let mut wrong = Vec::new();
    let mut compared = 0;
    for verb in verbs {
        let words: Vec<&str> = verb.split(' ').collect();
        if GROUPS.contains(&verb.as_str()) || LEFT_OUT.iter().any(|(name, _)| *name == verb) {
            continue;
        }
        let theirs = flags(&help(&"docker".into(), &words));
        for flag in theirs.into_iter().filter(|f| f != "help") {
            compared += 1;
            let named =
                |(of, name, _): &(&str, &str, &str)| (*of == "*" || *of == verb) && *name == flag;
            let network = verb.starts_with("network ") && OF_NETWORKS.contains(&flag.as_str());
            let swarm = (verb.starts_with("network ") || verb.starts_with("volume "))
                && OF_SWARMS.contains(&flag.as_str());
            if NO_SUCH_FLAG.iter().any(named) || network || swarm {
                continue;
            }
            // A flag that is not shown is known all the same: a wrong one is an error that names it.
            let mut line = words.clone();
            let given = format!("--{flag}");
            line.extend([given.as_str(), "--no-such-flag-at-all"]);
            let said = errors(
                &Command::new(common::programs())
                    .args(&line)
                    .output()
                    .unwrap(),
            );
            if said.contains(&format!("'{given}' found")) {
                wrong.push(format!("{verb} {given}"));
            }
        }
    }
    assert!(compared > 300, "{compared}");
    assert!(wrong.is_empty(), "our command does not know: {wrong:#?}");
}
