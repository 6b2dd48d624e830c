//! Who is not let in.

use crate::common::{errors, programs, text, until};
use crate::place::{HERE, Place};
use std::path::Path;
use std::process::Command;

fn openssl(args: &[&str], dir: &Path) {
    let made = Command::new("openssl").args(args).current_dir(dir).output();
    let made = made.expect("openssl (Debian package openssl)");
    assert!(made.status.success(), "{}", errors(&made));
}

#[test]
fn nobody_else_is_let_in() {
    let p = Place::new("");
    p.client("ann", &[]);
    let url = "https://127.0.0.1:2376/_ping";
    let curl = |args: &[&str]| {
        let mut curl = p.daemon.inside("curl");
        curl.args(["-sS", "-m", "20"]).args(args);
        curl.output().unwrap()
    };
    let file = |dir: &str, file: &str| p.dir(dir).join(file).to_str().unwrap().to_owned();
    let (ca, cert, key) = (
        file("ann", "ca.pem"),
        file("ann", "cert.pem"),
        file("ann", "key.pem"),
    );
    let with = ["--cacert", &ca, "--cert", &cert, "--key", &key, url];
    let good = curl(&with);
    assert_eq!(text(&good), "OK", "{}", errors(&good));
    // Older TLS, no TLS, no certificate.
    let old = curl(&[&["--tls-max", "1.2"][..], &with].concat());
    assert!(!old.status.success() && text(&old).is_empty());
    for args in [
        &["http://127.0.0.1:2376/_ping"][..],
        &["--cacert", &ca, url],
        &["-k", url],
    ] {
        let refused = curl(args);
        assert!(
            !refused.status.success() && text(&refused).is_empty(),
            "{args:?}"
        );
    }
    let plain = p
        .over("docker", "ann")
        .env("DOCKER_TLS_VERIFY", "")
        .arg("ps")
        .output();
    assert!(!plain.unwrap().status.success());

    // Certificates that others made: with a client's name, or without one.
    for (name, subject, names) in [
        ("foreign", "/CN=ann", "DNS:ann.client.coracle.internal"),
        ("docker", "/CN=client", "DNS:client"),
    ] {
        let dir = p.dir(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::copy(&ca, dir.join("ca.pem")).unwrap();
        let config = "[req]\ndistinguished_name = name\n[name]\n";
        std::fs::write(dir.join("openssl.cnf"), config).unwrap();
        openssl(
            &[
                "req",
                "-x509",
                "-config",
                "openssl.cnf",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "9",
                "-keyout",
                "key.pem",
                "-out",
                "cert.pem",
                "-subj",
                subject,
                "-addext",
                &format!("subjectAltName={names}"),
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-addext",
                "extendedKeyUsage=clientAuth",
            ],
            &dir,
        );
    }
    p.coracle_refused("foreign", "never added");
    p.coracle_refused("docker", "is none that `coracle client create`");
    let docker = p.over("docker", "docker").arg("ps").output().unwrap();
    assert!(
        errors(&docker).contains("unknown certificate authority"),
        "{}",
        errors(&docker)
    );
    // A certificate shown with another's key proves nothing.
    std::fs::copy(&cert, p.dir("foreign").join("cert.pem")).unwrap();
    p.coracle_refused("foreign", "are no pair");
    // The machine's own, for the API, is a server's.
    let own = p.dir("own");
    std::fs::create_dir(&own).unwrap();
    std::fs::copy(&ca, own.join("ca.pem")).unwrap();
    let api = p.daemon.state_dir().join("api");
    std::fs::copy(api.join("server.pem"), own.join("cert.pem")).unwrap();
    std::fs::copy(api.join("server.key"), own.join("key.pem")).unwrap();
    p.coracle_refused("own", "is none that `coracle client create`");

    // Its time is over; connections that are open end with it.
    p.client("short", &["--valid", "20s"]);
    let mut events = p.over(programs(), "short").arg("events").spawn().unwrap();
    until("its time is over", || events.try_wait().unwrap().is_some());
    p.coracle_refused("short", "has run out");
    let docker = p.over("docker", "short").arg("ps").output().unwrap();
    assert!(
        errors(&docker).contains("expired certificate"),
        "{}",
        errors(&docker)
    );
    assert!(p.daemon.ok(["client", "ls"]).contains("ran out"));

    // ann is let in all the while.
    p.coracle("ann", &["ps"]);
}

#[test]
fn errors_name_the_thing_and_the_way_out() {
    let p = Place::new("");
    p.client("ann", &[]);
    let at = |host: &str, dir: &str, words: &str| {
        let mut command = p.over(programs(), dir);
        let output = command.env("DOCKER_HOST", host).arg("ps").output().unwrap();
        assert!(!output.status.success());
        assert!(
            errors(&output).contains(words),
            "{host} {dir}: {}",
            errors(&output)
        );
    };
    at(
        "tcp://127.0.0.1:9",
        "ann",
        "127.0.0.1:9 does not answer; is the machine up",
    );
    at(
        HERE,
        "nobody",
        "ca.pem cannot be read; `coracle client request NAME`",
    );
    at("tcp://:1", "ann", "is no address of a machine");
    // A name that the certificate is not for.
    let ip = p
        .daemon
        .inside("ip")
        .args(["address", "add", "192.0.2.9/24", "dev", "lo"])
        .status();
    assert!(ip.unwrap().success());
    at("tcp://192.0.2.99:2376", "ann", "api_names");
    // Somebody else answers.
    let other = Place::new("");
    other.client("ann", &[]);
    std::fs::copy(other.dir("ann").join("ca.pem"), p.dir("ann").join("ca.pem")).unwrap();
    at(HERE, "ann", "none of the machines that ca.pem is of");
    // What answers speaks no TLS: the store's door.
    at("tcp://127.0.0.1:2379", "ann", "does not speak TLS");
    std::fs::write(p.dir("ann").join("key.pem"), "no key").unwrap();
    at(HERE, "ann", "key.pem is no key in PEM");
    let http = p
        .daemon
        .inside(programs())
        .args(["--host", "http://a", "ps"])
        .output()
        .unwrap();
    assert!(errors(&http).contains("write unix:///path, or tcp://HOST:2376"));
}
