//! What is around a daemon's machine, and how pages are asked for from there.

use super::{Daemon, errors, text};
use std::process::{Child, Command, Output, Stdio};

/// A namespace beside the daemon's: there 2001:db8::1 and 192.0.2.1 are the machine.
pub struct Outside(Child);

impl Outside {
    pub fn of(d: &Daemon) -> Self {
        let sleeper = [
            "--net",
            "sh",
            "-c",
            "ip link set lo up; echo; exec sleep infinity",
        ];
        let mut child = Command::new("unshare")
            .args(sleeper)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The line says that the namespace is there.
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let outside = Self(child);
        let peer = outside.0.id().to_string();
        let ip = |line: &str| succeed(d.inside("ip").args(line.split(' ')));
        ip(&format!(
            "link add up0 type veth peer name out0 netns {peer}"
        ));
        ip("addr add 2001:db8::1/64 dev up0 nodad");
        ip("addr add 192.0.2.1/24 dev up0");
        ip("link set up0 up");
        for line in [
            "addr add 2001:db8::2/64 dev out0 nodad",
            "addr add 192.0.2.2/24 dev out0",
            "link set out0 up",
            "route add default via 2001:db8::1",
        ] {
            succeed(outside.inside("ip").args(line.split(' ')));
        }
        outside
    }

    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let net = format!("--net=/proc/{}/ns/net", self.0.id());
        command.args([&net, "--", program]);
        command
    }
}

/// A program that runs until this is dropped.
pub struct Running(Child);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Must succeed; what it says.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", errors(&output));
    text(&output)
}

/// What is at `url`, nothing if nobody answers.
pub fn page(mut curl: Command, url: &str) -> Option<String> {
    let output = curl.args(["-gfs", "-m", "5", url]).output().unwrap();
    output.status.success().then(|| text(&output))
}

/// What a command that must fail says.
pub fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{}", text(output));
    errors(output)
}

/// What the server at `host`, port 80, has as `/from-image`, asked from within a container; nothing if nobody answers. The
/// image's wget cannot give up by itself.
pub fn fetch(d: &Daemon, from: &str, host: &str) -> Option<String> {
    let ask = "printf 'GET /from-image HTTP/1.0\\r\\n\\r\\n' | nc -w 5 $0 80 | tail -n 1";
    let said = text(&d.coracle(["exec", from, "sh", "-c", ask, host]));
    Some(said).filter(|s| !s.is_empty())
}
