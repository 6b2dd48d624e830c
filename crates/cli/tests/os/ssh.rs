//! OpenSSH's client, with a key of its own.
#![allow(dead_code, reason = "not every test needs all of it")]

use crate::{common, machine::Machine};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A person with a key, who remembers the machine.
pub struct Client {
    dir: tempfile::TempDir,
}

impl Client {
    pub fn new() -> Self {
        let client = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for name in ["key", "other"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(client.path(name))
                .output()
                .expect("Debian's package openssh-client");
            assert!(made.status.success(), "{}", common::errors(&made));
        }
        client
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The line that lets it in.
    pub fn public(&self) -> String {
        let line = fs::read_to_string(self.path("key.pub")).unwrap();
        line.trim().to_owned()
    }

    /// `ssh` or `scp`, which takes the machine's key for its own the first time, and no other one afterwards.
    fn program(&self, program: &str, machine: &Machine, key: &str) -> Command {
        let mut command = Command::new(program);
        command
            .args(["-F", "none", "-o", "BatchMode=yes"])
            .args(["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"])
            .args(["-o", "ConnectTimeout=60", "-o", "HostKeyAlias=machine"])
            .args(["-o", "StrictHostKeyChecking=accept-new", "-o"])
            .arg(format!(
                "UserKnownHostsFile={}",
                self.path("known").display()
            ))
            .arg("-o")
            .arg(format!("Port={}", machine.ssh))
            .arg("-i")
            .arg(self.path(key));
        command
    }

    /// Has the machine run something.
    pub fn run(&self, machine: &Machine, line: &str) -> Output {
        let mut ssh = self.program("ssh", machine, "key");
        ssh.args(["root@127.0.0.1", line]).output().unwrap()
    }

    /// Has it run something that has to go well; what it said.
    pub fn ok(&self, machine: &Machine, line: &str) -> String {
        let done = self.run(machine, line);
        assert!(done.status.success(), "{line}: {}", common::errors(&done));
        String::from_utf8(done.stdout).unwrap()
    }

    /// Waits until it is let in.
    pub fn until_in(&self, machine: &Machine) {
        machine.until("nobody gets in by ssh", || {
            self.run(machine, "true").status.success().then_some(())
        });
    }

    /// Docker's own command here, on the machine by ssh. It calls the `ssh` of its path, by itself with no key of this client's.
    pub fn docker(&self, machine: &Machine) -> Command {
        let ssh = self.program("ssh", machine, "key");
        let words = [ssh.get_program()].into_iter().chain(ssh.get_args());
        let words: Vec<_> = words.map(|w| w.to_str().unwrap()).collect();
        let path = self.path("bin");
        fs::create_dir_all(&path).unwrap();
        let real = std::env::var("PATH").unwrap();
        let script = format!(
            "#!/bin/sh\nPATH='{real}'; exec {} \"$@\"\n",
            words.join(" ")
        );
        fs::write(path.join("ssh"), script).unwrap();
        fs::set_permissions(path.join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut docker = Command::new("docker");
        docker
            .env("PATH", format!("{}:{real}", path.display()))
            .env("DOCKER_HOST", "ssh://root@127.0.0.1")
            .env("DOCKER_CONFIG", self.path("docker"))
            .env_remove("DOCKER_CONTEXT");
        docker
    }

    /// What somebody with another key is told.
    pub fn refused(&self, machine: &Machine) -> String {
        let mut ssh = self.program("ssh", machine, "other");
        let done = ssh.args(["root@127.0.0.1", "true"]).output().unwrap();
        assert!(!done.status.success(), "{done:?}");
        common::errors(&done)
    }

    /// What becomes of a connection by way of the machine.
    pub fn forwarded(&self, machine: &Machine, to: &str) -> Output {
        let mut ssh = self.program("ssh", machine, "key");
        ssh.args(["-W", to, "root@127.0.0.1"]).output().unwrap()
    }

    /// Copies a file there and back again.
    pub fn copied(&self, machine: &Machine, file: &Path) -> PathBuf {
        let back = self.path("back");
        let there = "root@127.0.0.1:copied";
        let copy = |from: &Path, to: &Path| {
            let mut scp = self.program("scp", machine, "key");
            let done = scp.arg(from).arg(to).output().unwrap();
            assert!(done.status.success(), "{}", common::errors(&done));
        };
        copy(file, Path::new(there));
        copy(Path::new(there), &back);
        back
    }

    /// The fingerprint of the machine's key, as `ssh` shows it.
    pub fn fingerprint(&self) -> String {
        let told = Command::new("ssh-keygen")
            .arg("-lf")
            .arg(self.path("known"))
            .output()
            .unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        told.split(' ').nth(1).unwrap().to_owned()
    }
}
