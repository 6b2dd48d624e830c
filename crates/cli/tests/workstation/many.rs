//! Workstations and the machines of a cluster.

use crate::cluster::{Setup, wait_for};
use crate::common::{errors, programs, text};
use std::process::Stdio;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// What one voter writes holds on every machine, and one directory is good for all of them.
#[test]
fn one_list_for_all_machines() {
    let cluster = Setup::new(3).flag("--api-listen=0.0.0.0:2376").build();
    let (a, b) = (cluster.machine(1), cluster.machine(2));
    for n in 2..=3 {
        let token = a.ok(&["cluster", "token", "-q"]);
        cluster
            .machine(n)
            .ok(&["join", &a.address(), "--token", token.trim()]);
    }
    let dir = cluster.dir().join("ann");
    let path = dir.to_str().unwrap();
    wait_for("all machines' CAs are known", SOON, || {
        let _ = std::fs::remove_dir_all(&dir);
        let made = a.coracle(&["client", "create", "ann", "-o", path]);
        let made = made.status.success()
            && std::fs::read_to_string(dir.join("ca.pem"))
                .unwrap()
                .matches("BEGIN")
                .count()
                == 3;
        if !made {
            a.coracle(&["client", "revoke", "ann"]);
        }
        made
    });
    let ask = |from: usize, to: usize| {
        let mut command = cluster.machine(from).inside(programs());
        let host = format!("tcp://{}:2376", cluster.machine(to).address());
        command
            .env("CORACLE_HOST", host)
            .env("CORACLE_CERT_PATH", &dir);
        command
            .env_remove("CORACLE_RUN_DIR")
            .args(["ps", "-q"])
            .output()
            .unwrap()
    };
    for to in 1..=3 {
        let asked = wait_until_in(|| ask(1, to));
        assert!(asked.status.success(), "m{to}: {}", errors(&asked));
    }
    // A machine's own certificate opens no API, its door takes no client's.
    let machine = cluster.dir().join("machine");
    std::fs::create_dir(&machine).unwrap();
    let keys = b.path(&b.state_dir().join("cluster"));
    for (from, to) in [("machine.pem", "cert.pem"), ("machine.key", "key.pem")] {
        std::fs::copy(keys.join(from), machine.join(to)).unwrap();
    }
    std::fs::copy(dir.join("ca.pem"), machine.join("ca.pem")).unwrap();
    let mut command = b.inside(programs());
    let host = format!("tcp://{}", a.address());
    command
        .env("CORACLE_HOST", host)
        .env("CORACLE_CERT_PATH", &machine);
    let refused = command
        .env_remove("CORACLE_RUN_DIR")
        .args(["ps"])
        .output()
        .unwrap();
    assert!(
        errors(&refused).contains("is a machine's and no client's"),
        "{}",
        errors(&refused)
    );
    let door = |cert: Option<&std::path::Path>| {
        let mut curl = b.inside("curl");
        curl.args(["-sSk", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}"]);
        if let Some(dir) = cert {
            curl.arg("--cert").arg(dir.join("cert.pem"));
            curl.arg("--key").arg(dir.join("key.pem"));
        }
        let door = format!("https://{}:7373/version", a.address());
        curl.arg(door).output().unwrap()
    };
    assert_eq!(text(&door(Some(&machine))), "200");
    assert_eq!(text(&door(None)), "401");
    let client = door(Some(&dir));
    assert!(!client.status.success(), "{}", text(&client));

    // Struck off on one, cut off on all; also where the store cannot be asked since.
    let open: Vec<_> = (1..=3)
        .map(|to| {
            let mut command = cluster.machine(1).inside(programs());
            let host = format!("tcp://{}:2376", cluster.machine(to).address());
            command
                .env("CORACLE_HOST", host)
                .env("CORACLE_CERT_PATH", &dir);
            command.env_remove("CORACLE_RUN_DIR").arg("events");
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    a.ok(&["client", "revoke", "ann"]);
    for (mut child, n) in open.into_iter().zip(1..) {
        wait_for(&format!("m{n} cuts"), SOON, || {
            child.try_wait().unwrap().is_some()
        });
    }
    for to in 1..=3 {
        wait_for(&format!("m{to} refuses"), SOON, || {
            errors(&ask(1, to)).contains("it was revoked")
        });
    }
}

/// Machines that joined follow the list a moment later.
fn wait_until_in(mut ask: impl FnMut() -> std::process::Output) -> std::process::Output {
    let mut last = ask();
    let end = std::time::Instant::now() + SOON;
    while !last.status.success() && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
        last = ask();
    }
    last
}
