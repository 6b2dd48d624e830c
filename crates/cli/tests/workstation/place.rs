//! A daemon that serves its API over TLS, and the directories of its clients.

use crate::common::{Daemon, errors, programs, text, until};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where the daemon is, as docker writes it.
pub const HERE: &str = "tcp://127.0.0.1:2376";

/// See the module.
pub struct Place {
    pub daemon: Daemon,
}

impl Place {
    /// A daemon with these lines in its configuration besides, without images.
    pub fn new(config: &str) -> Self {
        let mut place = Self {
            daemon: Daemon::unstarted(),
        };
        place.configure(&format!("api_listen = \"0.0.0.0:2376\"\n{config}"));
        place.up();
        place
    }

    /// Another configuration for the next start.
    pub fn configure(&self, config: &str) {
        std::fs::write(self.config(), config).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.daemon.dir.path().join("coracle.toml")
    }

    /// Starts the daemon, and waits until its port is as it is to be.
    pub fn up(&mut self) {
        let config = self.config();
        self.daemon.up_with(&config);
        let off = std::fs::read_to_string(&config).unwrap().contains("none");
        until("its port is as it is to be", || {
            (self.sockets(&["0A"]) == 0) == off
        });
    }

    /// The directory of that client.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.daemon.dir.path().join("clients").join(name)
    }

    /// Makes a client by the machine's own socket; what is said of it.
    pub fn client(&self, name: &str, more: &[&str]) -> String {
        let mut command = self.daemon.command();
        command.args(["client", "create", name, "-o"]);
        let output = command.arg(self.dir(name)).args(more).output().unwrap();
        assert!(output.status.success(), "{}", errors(&output));
        // The list goes by way of the store.
        until("it is let in", || {
            let asked = self.over(programs(), name).args(["ps", "-q"]).output();
            asked.unwrap().status.success()
        });
        text(&output)
    }

    /// Nothing but that directory tells the program where to go.
    pub fn clean(&self, command: &mut Command, dir: &str) {
        let dir = self.dir(dir);
        command
            .env_remove("CORACLE_RUN_DIR")
            .env_remove("CORACLE_HOST")
            .env_remove("CORACLE_CERT_PATH")
            .env("DOCKER_CERT_PATH", &dir)
            .env("DOCKER_CONFIG", &dir)
            .env("DOCKER_BUILDKIT", "0")
            .stdin(Stdio::null());
    }

    /// A program of that client's, in docker's environment. What it says can be read.
    pub fn over(&self, program: impl AsRef<OsStr>, dir: &str) -> Command {
        let mut command = self.daemon.inside(program);
        self.clean(&mut command, dir);
        command
            .env("DOCKER_HOST", HERE)
            .env("DOCKER_TLS_VERIFY", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Our command as that client, which must succeed; its output.
    pub fn coracle(&self, dir: &str, args: &[&str]) -> String {
        let output = self.over(programs(), dir).args(args).output().unwrap();
        let said = errors(&output);
        assert!(
            output.status.success(),
            "{args:?}: {said}\n{}",
            self.daemon.log()
        );
        text(&output)
    }

    /// Our command as that client is not let in, with these words.
    pub fn coracle_refused(&self, dir: &str, words: &str) {
        let output = self.over(programs(), dir).arg("ps").output().unwrap();
        let said = errors(&output);
        assert!(!output.status.success(), "{}", text(&output));
        assert!(said.contains(words), "{said}");
    }

    /// How many connections workstations have to the API, half closed ones too.
    pub fn connections(&self) -> usize {
        self.sockets(&["01", "08"])
    }

    /// How many sockets port 2376 has in these states, as the kernel numbers them.
    fn sockets(&self, states: &[&str]) -> usize {
        let output = self
            .daemon
            .inside("cat")
            .args(["/proc/net/tcp"])
            .output()
            .unwrap();
        let is_one = |line: &&str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words[1].ends_with(":0948") && states.contains(&words[3])
        };
        text(&output).lines().skip(1).filter(is_one).count()
    }
}
