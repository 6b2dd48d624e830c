//! What is beside the machines on their bridge: the gateway of their default route, which leads nowhere, and a registry.

use super::holding::{self, Holding};
use super::network::{self, OUTSIDE};
use super::signals::{self, Signal};
use super::wait::MINUTE;
use super::{Shared, processes, wait_for};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// Where [`Outside::registry`] is. Daemons are told that it has no TLS.
pub const REGISTRY: &str = "--insecure-registry=192.0.2.254:5000";

pub struct Outside {
    holding: Holding,
    dir: PathBuf,
    running: Mutex<Vec<Child>>,
}

impl Outside {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let holding = shared.room.outside();
        let network = shared.network.lock().unwrap();
        network.plug(&shared.room, OUTSIDE, OUTSIDE, &holding);
        drop(network);
        Self {
            holding,
            dir: shared.dir.join("outside"),
            running: Mutex::default(),
        }
    }

    pub fn address(&self) -> String {
        network::address(OUTSIDE)
    }

    /// A program there.
    pub fn inside(&self, program: &str) -> Command {
        self.holding.command(program)
    }

    /// Starts Debian's registry, and gives its `host:port`. It goes with the cluster.
    pub fn registry(&self) -> String {
        let address = format!("{}:5000", self.address());
        fs::create_dir_all(&self.dir).unwrap();
        let file = self.dir.join("registry.yml");
        let settings = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage:\n  delete: {{ enabled: true }}\n  \
             filesystem: {{ rootdirectory: {}/registry }}\nhttp:\n  addr: {address}\n",
            self.dir.display()
        );
        fs::write(&file, settings).unwrap();
        let mut registry = self.inside("docker-registry");
        registry
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none");
        let requests = fs::File::create(self.requests_file()).unwrap();
        self.run_with(&mut registry, requests.into());
        let url = format!("http://{address}/v2/");
        wait_for("the registry answers", MINUTE, || {
            let asked = self.inside("curl").args(["-fs", &url]).output();
            asked.unwrap().status.success()
        });
        address
    }

    fn requests_file(&self) -> PathBuf {
        self.dir.join("requests")
    }

    /// What [`Self::registry`] was asked so far: method and path of each request.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.requests_file()).unwrap_or_default();
        // `address - - [time] "GET /v2/ HTTP/1.1" 200 …`
        let request = |line: &str| Some(line.split('"').nth(1)?.rsplit_once(' ')?.0.to_owned());
        log.lines().filter_map(request).collect()
    }

    /// Starts a program that goes with the cluster.
    pub fn run(&self, program: &mut Command) {
        self.run_with(program, Stdio::null());
    }

    fn run_with(&self, program: &mut Command, output: Stdio) {
        let program = program.stdin(Stdio::null()).stdout(output);
        let child = program.stderr(Stdio::null()).spawn().unwrap();
        self.running.lock().unwrap().push(child);
    }

    pub(super) fn let_go(&self) {
        let mut running = self.running.lock().unwrap_or_else(|e| e.into_inner());
        for child in running.iter_mut() {
            for pid in processes::children(child.id()) {
                signals::send(pid, Signal::KILL);
            }
            let _ = child.kill();
            holding::wait(child);
        }
        self.holding.end();
    }
}
