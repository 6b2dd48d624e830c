//! What registries are asked without pulling, who is let in, and pulls of more than one tag or none.
#![allow(clippy::unwrap_used)]

mod common;

use common::registry::{Index, Registry};
use common::{Daemon, errors, text};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// Status and JSON of an answer.
fn ask(d: &Daemon, method: &str, path: &str, args: &[&str]) -> (u16, Value) {
    let socket = d.run_dir().join("docker.sock");
    let output = Command::new("curl")
        .args(["-s", "-X", method, "-w", "\n%{http_code}", "--unix-socket"])
        .arg(socket)
        .args(args)
        .arg(format!("http://x{path}"))
        .output()
        .unwrap();
    let all = text(&output);
    let (body, status) = all.rsplit_once('\n').unwrap();
    let body = body.lines().next().unwrap_or_default();
    (
        status.parse().unwrap(),
        serde_json::from_str(body).unwrap_or(Value::Null),
    )
}

#[test]
fn what_stands_behind_a_name() {
    let d = Daemon::start();
    let _registry = Registry::start(&d, 5000);
    d.ok(["tag", "bb", "127.0.0.1:5000/team/bb:1"]);
    let pushed = d.ok(["push", "127.0.0.1:5000/team/bb:1"]);
    let digest = pushed.split("digest: ").nth(1).unwrap();
    let digest = digest.split(' ').next().unwrap();
    for name in [
        "127.0.0.1:5000/team/bb:1",
        &format!("127.0.0.1:5000/team/bb@{digest}"),
    ] {
        let (status, found) = ask(&d, "GET", &format!("/v1.44/distribution/{name}/json"), &[]);
        assert_eq!(status, 200, "{found}");
        assert_eq!(found["Descriptor"]["digest"], digest, "{found}");
        assert!(found["Descriptor"]["size"].as_u64().unwrap() > 100);
        let kind = found["Descriptor"]["mediaType"].as_str().unwrap();
        assert!(kind.contains("manifest"), "{found}");
        assert_eq!(found["Platforms"][0]["os"], "linux", "{found}");
        assert!(found["Platforms"][0]["architecture"].is_string());
    }
    for (name, expected) in [
        ("127.0.0.1:5000/team/bb:2", 404),
        ("127.0.0.1:5000/nobody:1", 404),
        ("127.0.0.1:1/none:1", 500),
        ("Upper:1", 400),
    ] {
        let (status, said) = ask(&d, "GET", &format!("/distribution/{name}/json"), &[]);
        assert_eq!(status, expected, "{name}: {said}");
        assert!(said["message"].as_str().unwrap().len() > 10, "{said}");
    }
    // A pull that cannot begin is an answer with a status, not a stream.
    let from = "/images/create?fromImage=127.0.0.1:5000/team/bb&tag=2";
    let (status, said) = ask(&d, "POST", from, &[]);
    assert_eq!(status, 404, "{said}");
}

#[test]
fn all_tags_or_the_latest() {
    let d = Daemon::start();
    let _registry = Registry::start(&d, 5000);
    let name = "127.0.0.1:5000/many";
    let tags = ["latest", "1", "2"];
    let all = tags.map(|t| format!("{name}:{t}"));
    for tag in &all {
        d.ok(["tag", "bb", tag]);
    }
    d.ok(["push", "-a", name]);
    let forget = || {
        for tag in &all {
            d.coracle(["rmi", tag]);
        }
    };
    let here = || {
        let mut here: Vec<String> = d
            .ok(["images", "--format", "{{.Tag}}", name])
            .lines()
            .map(str::to_owned)
            .collect();
        here.sort();
        here
    };
    forget();
    assert_eq!(here(), [""; 0]);
    assert!(d.ok(["pull", name]).contains("default tag: latest"));
    assert_eq!(here(), ["latest"]);
    forget();
    d.ok(["pull", "-a", name]);
    assert_eq!(here(), ["1", "2", "latest"]);
    forget();
    d.docker_ok(["pull", "-a", name]);
    assert_eq!(here(), ["1", "2", "latest"]);
    let refused = d.coracle(["pull", "-a", &all[0]]);
    assert!(errors(&refused).contains("--all-tags"), "{refused:?}");
    let missing = d.coracle(["pull", "-a", "127.0.0.1:5000/nobody"]);
    assert!(!missing.status.success());
}

#[test]
fn who_is_let_in() {
    let d = Daemon::start();
    let _registry = Registry::start_with_password(&d, 5000, "ann", "secret");
    let server = "127.0.0.1:5000";
    let auth = |password: &str| {
        let body = json!({ "username": "ann", "password": password, "serveraddress": server });
        ask(&d, "POST", "/v1.51/auth", &["-d", &body.to_string()])
    };
    assert_eq!(auth("secret").0, 200);
    let (status, said) = auth("guess");
    assert_eq!(status, 401, "{said}");
    assert!(
        said["message"].as_str().unwrap().contains("refuses access"),
        "{said}"
    );
    let (status, said) = ask(&d, "POST", "/auth", &["-d", "{}"]);
    assert_eq!(status, 400, "{said}");

    // A helper keeps the password; docker's file only says that there is one.
    let home = d.dir.path().join("docker");
    let bin = d.dir.path().join("helpers");
    fs::create_dir_all(&home).unwrap();
    fs::create_dir_all(&bin).unwrap();
    let helper = bin.join("docker-credential-test");
    let kept = d.dir.path().join("kept");
    let script = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat > {0} ;;\nerase) rm -f {0} ;;\n\
         get) [ -e {0} ] && cat {0} || {{ echo credentials not found in native keychain; exit 1; }} ;;\nesac\n",
        kept.display()
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let config = home.join("config.json");
    fs::write(&config, r#"{"credsStore":"test"}"#).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let ours = |args: &[&str]| {
        d.command()
            .env("DOCKER_CONFIG", &home)
            .env("PATH", &path)
            .args(args)
            .output()
            .unwrap()
    };
    let wrong = ours(&["login", "-u", "ann", "-p", "guess", server]);
    assert!(errors(&wrong).contains("refuses access"), "{wrong:?}");
    assert!(!kept.exists());
    let login = ours(&["login", "-u", "ann", "-p", "secret", server]);
    assert!(text(&login).contains("Login Succeeded"), "{login:?}");
    let secret: Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
    assert_eq!(
        secret,
        json!({ "ServerURL": server, "Username": "ann", "Secret": "secret" })
    );
    let file = fs::read_to_string(&config).unwrap();
    assert!(file.contains(server) && !file.contains("auth\""), "{file}");
    d.ok(["tag", "bb", "127.0.0.1:5000/bb:1"]);
    let push = ours(&["push", "127.0.0.1:5000/bb:1"]);
    assert!(push.status.success(), "{push:?}");
    let logout = ours(&["logout", server]);
    assert!(text(&logout).contains("Removing login"), "{logout:?}");
    assert!(!kept.exists());
    let push = ours(&["push", "127.0.0.1:5000/bb:1"]);
    assert!(!push.status.success(), "{push:?}");
}

#[test]
fn searches() {
    let d = Daemon::bare();
    let results = json!({ "num_results": 2, "results": [
        { "name": "redis", "description": "Redis is\nfast", "star_count": 12, "is_official": true },
        { "name": "me/redis", "description": "", "star_count": 0, "is_official": false },
    ] });
    let _index = Index::start(&d, &results.to_string());
    let term = format!("{}/redis", Index::ADDRESS);
    for said in [d.ok(["search", &term]), d.docker_ok(["search", &term])] {
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[0].starts_with("NAME"), "{said}");
        assert!(
            lines[1].starts_with("redis") && lines[1].contains("[OK]"),
            "{said}"
        );
        assert!(
            lines[2].starts_with("me/redis") && !lines[2].contains("[OK]"),
            "{said}"
        );
    }
    for filter in ["is-official=true", "stars=3"] {
        let said = d.ok(["search", "--filter", filter, "--format", "{{.Name}}", &term]);
        assert_eq!(said, "redis");
    }
    assert_eq!(
        d.ok(["search", "--limit", "1", "--format", "{{.Name}}", &term]),
        "redis"
    );
    let path = |query: &str| format!("/images/search?{query}");
    for (query, expected) in [
        (String::new(), 400),
        (format!("term={term}&limit=101"), 400),
        (
            format!("term={term}&filters=%7B%22x%22:%5B%22y%22%5D%7D"),
            400,
        ),
        ("term=127.0.0.1:1/x".to_owned(), 500),
    ] {
        let (status, said) = ask(&d, "GET", &path(&query), &[]);
        assert_eq!(status, expected, "{query}: {said}");
    }
    // docker.io's index, however it is named; from here nobody can be reached.
    for term in ["far", "docker.io/far", "index.docker.io/far"] {
        let (status, said) = ask(&d, "GET", &path(&format!("term={term}&limit=7")), &[]);
        assert_eq!(status, 500, "{term}: {said}");
        for words in [
            "cannot ask docker.io",
            "https://index.docker.io/v1/search?q=far&n=7",
        ] {
            let message = said["message"].as_str().unwrap();
            assert!(message.contains(words), "{term}: {said}");
        }
    }
}

#[test]
fn versions_that_are_served() {
    let d = Daemon::bare();
    for version in ["v1.24", "v1.40", "v1.44", "v1.51"] {
        let (status, said) = ask(&d, "GET", &format!("/{version}/version"), &[]);
        assert_eq!(status, 200);
        assert_eq!(said["ApiVersion"], "1.51");
        assert_eq!(said["MinAPIVersion"], "1.24");
    }
    for (version, words) in [
        (
            "v1.23",
            "client version 1.23 is too old. Minimum supported API version is 1.24",
        ),
        (
            "v1.52",
            "client version 1.52 is too new. Maximum supported API version is 1.51",
        ),
    ] {
        let (status, said) = ask(&d, "GET", &format!("/{version}/version"), &[]);
        assert_eq!(status, 400);
        assert!(
            said["message"].as_str().unwrap().starts_with(words),
            "{said}"
        );
    }
    let socket = d.run_dir().join("docker.sock");
    let head = Command::new("curl")
        .args(["-sI", "--unix-socket"])
        .arg(socket)
        .arg("http://x/_ping")
        .output()
        .unwrap();
    assert!(text(&head).to_lowercase().contains("api-version: 1.51"));
}
