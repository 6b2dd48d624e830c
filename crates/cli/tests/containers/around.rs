//! What is around containers: volumes, networks, names and ports.

use crate::common::{Daemon, errors, text, until};

#[test]
fn volumes_keep_and_are_filled_once() {
    let d = Daemon::start();
    let data = ["run", "--rm", "-v", "vol:/data", "bb"];
    let run = |command: &str| {
        let output = d
            .command()
            .args(data)
            .args(["sh", "-c", command])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", errors(&output));
        text(&output)
    };
    assert_eq!(
        run("cat /data/from-image; echo mine > /data/new; echo changed > /data/from-image"),
        "image"
    );
    assert_eq!(run("cat /data/from-image /data/new"), "changed\nmine");
    let empty = d.coracle([
        "run",
        "--rm",
        "-v",
        "none:/data:nocopy",
        "bb",
        "ls",
        "/data",
    ]);
    assert_eq!((text(&empty).as_str(), empty.status.code()), ("", Some(0)));
    d.ok(["volume", "rm", "none"]);
    // What is mounted in it shows on the host only where the host shares.
    let private = d.dir.path().join("private");
    std::fs::create_dir(&private).unwrap();
    let mount = |program: &str, flags: &[&str]| {
        let mut command = std::process::Command::new(program);
        let done = command.args(flags).arg(&private).status().unwrap();
        assert!(done.success(), "{program} {flags:?}");
    };
    mount("mount", &["-t", "tmpfs", "x"]);
    mount("mount", &["--make-private"]);
    let bind = format!("{}:/x:rshared", private.display());
    let upwards = d.coracle(["run", "--rm", "-v", &bind, "bb", "true"]);
    mount("umount", &[]);
    let said = errors(&upwards);
    assert!(said.contains("not a shared mount"), "{said}");
    let bound = d.dir.path().join("bound");
    std::fs::create_dir(&bound).unwrap();
    let bind = format!("{}:/data:ro", bound.display());
    assert!(
        !d.coracle(["run", "--rm", "-v", &bind, "bb", "touch", "/data/x"])
            .status
            .success()
    );
    assert!(
        d.ok(["run", "--rm", "--tmpfs", "/t:size=1m", "bb", "mount"])
            .contains("/t type tmpfs")
    );
    assert_eq!(d.ok(["volume", "ls", "-q"]), "vol");
    d.ok(["create", "--name", "user", "-v", "vol:/data", "bb"]);
    let used = d.coracle(["volume", "rm", "vol"]);
    assert!(errors(&used).contains("user"), "{}", errors(&used));
    d.ok(["rm", "user"]);
    d.ok(["volume", "rm", "vol"]);
}

#[test]
fn names_ports_and_networks() {
    let d = Daemon::start();
    d.ok(["network", "create", "back"]);
    d.ok([
        "run",
        "-d",
        "--name",
        "server",
        "--network",
        "back",
        "--network-alias",
        "db",
        "-p",
        "8080:80",
        "bb",
        "sh",
        "-c",
        "mkdir /www; echo it works > /www/index.html; httpd -f -p 80 -h /www",
    ]);
    for name in ["server", "db", "server.coracle.internal"] {
        until("the server answers by name", || {
            let url = format!("http://{name}/");
            text(&d.coracle([
                "run",
                "--rm",
                "--network",
                "back",
                "bb",
                "wget",
                "-q",
                "-O",
                "-",
                &url,
            ])) == "it works"
        });
    }
    let apart = d.coracle(["run", "--rm", "bb", "nslookup", "server"]);
    assert!(
        !apart.status.success(),
        "names are seen on shared networks only"
    );
    // From the host's own namespace, by every address it has.
    for address in ["127.0.0.1", "10.210.0.1"] {
        let output = d
            .inside("curl")
            .args(["-fsS", &format!("http://{address}:8080/")])
            .output()
            .unwrap();
        assert_eq!(text(&output), "it works", "{address}: {}", errors(&output));
    }
    let taken = d.coracle(["run", "--rm", "-p", "8080:80", "bb", "true"]);
    assert_eq!(taken.status.code(), Some(125));
    assert!(
        errors(&taken).contains("8080/tcp failed: port is already allocated"),
        "{}",
        errors(&taken)
    );
    assert_eq!(d.ok(["port", "server", "80"]), "0.0.0.0:8080");
    d.ok(["run", "-d", "--name", "late", "bb", "sleep", "1000"]);
    d.ok(["network", "connect", "back", "late"]);
    assert_eq!(
        d.ok(["exec", "late", "wget", "-q", "-O", "-", "http://server/"]),
        "it works"
    );
    d.ok(["network", "disconnect", "back", "late"]);
    assert!(
        !d.coracle([
            "exec",
            "late",
            "timeout",
            "1",
            "wget",
            "-q",
            "-O",
            "-",
            "http://server/"
        ])
        .status
        .success()
    );
    let used = d.coracle(["network", "rm", "back"]);
    assert!(errors(&used).contains("server"), "{}", errors(&used));
    assert_eq!(
        d.ok([
            "run",
            "--rm",
            "--network",
            "none",
            "bb",
            "sh",
            "-c",
            "ls /sys/class/net | grep -v lo || echo only lo"
        ]),
        "only lo"
    );
    d.ok(["rm", "-f", "server", "late"]);
    d.ok(["network", "rm", "back"]);
}
