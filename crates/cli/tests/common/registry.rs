//! Debian's registry in a daemon's network namespace.

use super::{Daemon, until};
use std::fs;
use std::process::{Child, Command, Stdio};

/// Runs until it is dropped. Its data are in the daemon's directory.
pub struct Registry(Child);

impl Registry {
    /// Without a password, at 127.0.0.1 and this port.
    pub fn start(d: &Daemon, port: u16) -> Self {
        Self::run(d, port, None)
    }

    /// One that lets in `name` with `password`, and nobody else.
    pub fn start_with_password(d: &Daemon, port: u16, name: &str, password: &str) -> Self {
        Self::run(d, port, Some((name, password)))
    }

    fn run(d: &Daemon, port: u16, user: Option<(&str, &str)>) -> Self {
        let dir = d.dir.path();
        let mut settings = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage:\n  delete: {{ enabled: true }}\n  \
             filesystem: {{ rootdirectory: {0}/registry-{port} }}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            dir.display()
        );
        let mut who = String::new();
        if let Some((name, password)) = user {
            let users = Command::new("htpasswd")
                .args(["-Bbn", name, password])
                .output()
                .expect("htpasswd runs (Debian package apache2-utils)");
            let file = dir.join(format!("users-{port}"));
            fs::write(&file, users.stdout).unwrap();
            settings += &format!(
                "auth:\n  htpasswd: {{ realm: x, path: {} }}\n",
                file.display()
            );
            who = format!("{name}:{password}@");
        }
        let file = dir.join(format!("registry-{port}.yml"));
        fs::write(&file, settings).unwrap();
        let child = d
            .inside("docker-registry")
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self(child);
        let url = format!("http://{who}127.0.0.1:{port}/v2/");
        until("the registry answers", || {
            let asked = d.inside("curl").args(["-fs", &url]).output();
            asked.unwrap().status.success()
        });
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What answers searches as docker's index does: the same answer whatever is asked. Runs until it is dropped.
pub struct Index(Child);

impl Index {
    /// Where it is.
    pub const ADDRESS: &str = "127.0.0.1:8099";

    /// `answer` is the answer's JSON.
    pub fn start(d: &Daemon, answer: &str) -> Self {
        let root = d.dir.path().join("index");
        fs::create_dir_all(root.join("v1")).unwrap();
        fs::write(root.join("v1/search"), answer).unwrap();
        let child = d
            .inside("busybox")
            .args(["httpd", "-f", "-p", Self::ADDRESS, "-h"])
            .arg(&root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let index = Self(child);
        let url = format!("http://{}/v1/search", Self::ADDRESS);
        until("the index answers", || {
            let asked = d.inside("curl").args(["-fs", &url]).output();
            asked.unwrap().status.success()
        });
        index
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
