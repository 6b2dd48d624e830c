//! Deploys over several machines: B takes A's place and A comes back, whoever is killed meanwhile.
#![allow(clippy::unwrap_used)]

mod cluster;
mod common;
mod scenarios;

use cluster::chaos::Random;
use cluster::{Cluster, Machine, wait_until};
use scenarios::{SOON, all, joined};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

fn web(version: &str) -> String {
    format!(
        "[Container]\nImage=bb\nExec=sh -c \"mkdir -p /w && echo {version} >/w/index.html && exec httpd -f -p 80 -h /w\"\n\
         StopTimeout=1\n[X-Deploy]\nProbe=http://:80/\nSettleSec=1\n"
    )
}

/// What each instance answers, by its container's name, on all machines.
fn versions(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for machine in cluster.machines().iter().filter(|m| m.is_on()) {
        let names = machine.ok(&[
            "ps",
            "--format",
            "{{.Names}}",
            "--filter",
            "label=coracle.unit",
        ]);
        for name in names.lines() {
            let page = machine.coracle(&["exec", name, "cat", "/w/index.html"]);
            found.insert(name.to_owned(), common::text(&page).trim().to_owned());
        }
    }
    found
}

fn three(version: &str) -> BTreeMap<String, String> {
    let one = |n| (format!("web-{n}"), version.to_owned());
    (1..=3).map(one).collect()
}

fn all_run(cluster: &Cluster, version: &str) {
    wait_until(&format!("all run {version}"), SOON, || {
        let seen = versions(cluster);
        (seen == three(version))
            .then_some(())
            .ok_or(format!("{seen:?}"))
    });
}

/// Asks by the service's name on one machine, one connection a question, and never twice.
struct Asker(Option<Child>, std::path::PathBuf);

impl Asker {
    fn start(machine: &Machine) -> Self {
        let gateway = machine.ok(&[
            "network",
            "inspect",
            "-f",
            "{{(index .IPAM.Config 0).Gateway}}",
            "bridge",
        ]);
        let dir = machine.state_dir().join("asker");
        let seen = machine.path(&dir);
        std::fs::create_dir_all(&seen).unwrap();
        let script = format!(
            "n=0; while test ! -e {0}/end; do n=$((n+1)); \
             ip=$(dig @{1} +short +tries=1 +time=5 web A | shuf -n 1); \
             curl -sS -m 5 --noproxy '*' http://$ip/ >>{0}/pages 2>>{0}/errors || echo failed $n: $ip >>{0}/errors; done",
            dir.display(),
            gateway.trim()
        );
        let mut command = machine.inside("sh");
        let child = command.args(["-c", &script]).stdin(Stdio::null()).spawn();
        let asker = Self(Some(child.unwrap()), seen);
        wait_until("the first page is there", SOON, || {
            asker
                .pages()
                .contains('\n')
                .then_some(())
                .ok_or_else(|| asker.read("errors"))
        });
        asker
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.1.join(name)).unwrap_or_default()
    }

    fn pages(&self) -> String {
        self.read("pages")
    }

    /// Ends it. No question may have failed.
    fn end(mut self) -> String {
        std::fs::write(self.1.join("end"), "").unwrap();
        self.0.take().unwrap().wait().unwrap();
        let errors = self.read("errors");
        assert!(errors.is_empty(), "{errors}");
        self.pages()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The last deploy, as a machine tells it.
fn deploy(machine: &Machine) -> Value {
    history(machine).unwrap()
}

/// As [`deploy`], or why it cannot be told now.
fn history(machine: &Machine) -> Result<Value, String> {
    let output = machine.coracle(&["history", "web@.container", "--format", "json"]);
    if !output.status.success() {
        return Err(common::errors(&output));
    }
    let history: Value = serde_json::from_str(&common::text(&output)).unwrap();
    Ok(history["deploys"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone())
}

fn is_over(deploy: &Value) -> bool {
    ["done", "restored"].contains(&deploy["stage"].as_str().unwrap())
}

/// The machine that leads.
fn leader(cluster: &Cluster) -> usize {
    wait_until("somebody leads", SOON, || {
        let status = cluster.machine(1).ok(&["cluster", "status"]);
        let line = status
            .lines()
            .find(|l| l.contains("leads"))
            .map(str::to_owned);
        let name = line.and_then(|l| (1..=3).find(|n| l.contains(&format!("m{n}"))));
        name.ok_or(status)
    })
}

#[test]
fn a_service_on_three_machines_changes_its_version_and_back_while_who_leads_is_killed() {
    let cluster = joined(3);
    let (a, b, c) = (cluster.machine(1), cluster.machine(2), cluster.machine(3));
    let said = b.ok(&[
        "deploy",
        &b.unit("web@.container", &web("A")),
        "--scale",
        "3",
    ]);
    assert!(said.contains("3 of 3 have it"), "{said}");
    all_run(&cluster, "A");
    let asker = Asker::start(c);
    // Asked of a machine that does not lead, then taken back on another.
    let second = b.unit("web@.container", &web("B"));
    b.ok(&["deploy", &second, "--batch", "2"]);
    all_run(&cluster, "B");
    c.ok(&["rollback", "web"]);
    all_run(&cluster, "A");
    let pages = asker.end();
    assert!(pages.contains('A') && pages.contains('B'), "{pages}");
    // Killed after the first instance has changed, in the midst of the others.
    a.ok(&["deploy", &a.unit("web@.container", &web("C")), "--no-block"]);
    wait_until("one has changed", SOON, || {
        let seen = versions(&cluster);
        let any = seen.values().any(|v| v == "C");
        any.then_some(()).ok_or(format!("{seen:?}"))
    });
    let first = leader(&cluster);
    cluster.machine(first).kill();
    let other = cluster.machine(if first == 1 { 2 } else { 1 });
    wait_until("it has come to its end", Duration::from_secs(90), || {
        let deploy = deploy(other);
        (deploy["stage"] == "done")
            .then_some(())
            .ok_or(format!("{deploy}"))
    });
    cluster.machine(first).start();
    all_run(&cluster, "C");
    // What is wrong goes back everywhere.
    let wrong = web("D").replace("exec httpd", "exit 7; httpd");
    let output = b.coracle(&["deploy", &b.unit("web@.container", &wrong)]);
    assert!(!output.status.success());
    assert!(all(&output).contains("code 7"), "{}", all(&output));
    all_run(&cluster, "C");
    let units = a.ok(&["unit", "list", "-q"]);
    assert!(!units.contains('+'), "{units}");
}

/// A machine dies in the midst of a deploy: its instances come elsewhere, and it is finished, or taken back, without it.
#[test]
fn a_machine_is_lost_in_the_midst() {
    let cluster = joined(3);
    cluster.settles();
    let a = cluster.machine(1);
    let first = a.unit("web@.container", &web("A"));
    let said = a.ok(&["deploy", &first, "--scale", "3"]);
    assert!(said.contains("3 of 3 have it"), "{said}");
    a.ok(&["deploy", &a.unit("web@.container", &web("B")), "--no-block"]);
    wait_until("one has changed", SOON, || {
        let seen = versions(&cluster);
        let any = seen.values().any(|v| v == "B");
        any.then_some(()).ok_or(format!("{seen:?}"))
    });
    // Not the one that is asked, and not who leads: that is another test's.
    let lost = if leader(&cluster) == 3 { 2 } else { 3 };
    cluster.machine(lost).kill_all();
    let end = wait_until("it has come to an end", Duration::from_secs(150), || {
        let told = history(a)?;
        is_over(&told)
            .then(|| told["stage"].as_str().unwrap().to_owned())
            .ok_or(format!("{told}"))
    });
    all_run(&cluster, if end == "done" { "B" } else { "A" });
    // It comes back, and nothing is doubled.
    cluster.machine(lost).start();
    wait_until("nothing is left of it", SOON, || {
        let units = a.ok(&["unit", "list", "-q"]);
        (!units.contains('+')).then_some(()).ok_or(units)
    });
    all_run(&cluster, if end == "done" { "B" } else { "A" });
}

/// Who leads is killed at random moments of good and bad deploys (`CORACLE_ROUNDS` of them, 3): each comes to one of its two ends, and within a bound.
#[test]
fn who_leads_is_killed_at_random_moments() {
    let mut random = Random::from_environment();
    let rounds = std::env::var("CORACLE_ROUNDS").map_or(3, |n| n.parse().unwrap());
    let cluster = joined(3);
    cluster.settles();
    let said = cluster.machine(1).ok(&[
        "deploy",
        &cluster.machine(1).unit("web@.container", &web("v0")),
        "--scale",
        "3",
    ]);
    assert!(said.contains("3 of 3 have it"), "{said}");
    let mut runs = "v0".to_owned();
    for round in 1..=rounds {
        let at = cluster.machine(1 + random.below(3));
        let (version, good) = (format!("v{round}"), random.below(3) > 0);
        let text = match good {
            true => web(&version),
            false => web(&version).replace("exec httpd", "exit 3; httpd"),
        };
        at.ok(&["deploy", &at.unit("web@.container", &text), "--no-block"]);
        let moment = Duration::from_millis(random.next() % 9000);
        let begun = Instant::now();
        // Until the moment, or the deploy's end if that comes first.
        wait_until("the moment", SOON, || {
            let over = begun.elapsed() >= moment || history(at).is_ok_and(|d| is_over(&d));
            over.then_some(()).ok_or_else(String::new)
        });
        let killed = leader(&cluster);
        cluster.machine(killed).kill();
        let other = cluster.machine(1 + killed % 3);
        let end = wait_until("it has come to an end", Duration::from_secs(90), || {
            // Nobody may lead for a moment.
            let told = history(other)?;
            is_over(&told)
                .then(|| told["stage"].as_str().unwrap().to_owned())
                .ok_or(format!("{told}"))
        });
        cluster.machine(killed).start();
        let expected = if good { "done" } else { "restored" };
        assert_eq!(
            end,
            expected,
            "round {round}, {moment:?}: {}",
            deploy(other)
        );
        if good {
            runs = version;
        }
        all_run(&cluster, &runs);
        wait_until("nothing is left of it", SOON, || {
            let units = other.ok(&["unit", "list", "-q"]);
            (!units.contains('+')).then_some(()).ok_or(units)
        });
    }
}
