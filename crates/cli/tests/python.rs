//! docker-py, unchanged, against our socket.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, errors, text};
use std::path::Path;
use std::process::Command;

#[test]
fn what_programs_do_with_docker_py() {
    let d = Daemon::start();
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/py/scenario.py");
    // Debian's own: another in the path need not have the package.
    let output = Command::new("timeout")
        .args(["120", "/usr/bin/python3"])
        .arg(scenario)
        .env(
            "DOCKER_HOST",
            format!("unix://{}", d.run_dir().join("docker.sock").display()),
        )
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}\n{}", errors(&output), d.log());
    assert_eq!(text(&output), "done");
    assert_eq!(d.ok(["ps", "-aq"]), "");
}
