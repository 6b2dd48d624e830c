//! Whether machines reach each other, asked of the kernel and not of what is tested.

use super::Machine;
use super::holding::wait;
use crate::common::text;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};

/// Prints that it listens, and then one datagram.
const LISTENER: &str = "import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', int(sys.argv[1])))
print('ready', flush=True)
print(s.recv(1000).decode(), flush=True)
";

/// What pings brought.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pings {
    /// How many of 100 were answered.
    pub answered: u32,
    /// The shortest round trip in milliseconds; nothing if none was answered.
    pub shortest: Option<f64>,
}

impl Machine {
    /// Whether `address` answers one of two echo requests within two seconds.
    pub fn pings(&self, address: &str) -> bool {
        let mut ping = self.inside("busybox");
        ping.args(["ping", "-c", "2", "-W", "1", address]);
        ping.output().unwrap().status.success()
    }

    /// Sends 100 echo requests.
    pub fn many_pings(&self, address: &str) -> Pings {
        let mut ping = self.inside("busybox");
        ping.args(["ping", "-c", "100", "-i", "0.01", "-W", "1", address]);
        let said = text(&ping.output().unwrap());
        let answered = said.lines().filter(|l| l.contains(" seq=")).count();
        let shortest = said.lines().find_map(|l| l.split_once("min/avg/max = "));
        Pings {
            answered: answered.try_into().unwrap(),
            shortest: shortest.and_then(|(_, times)| times.split('/').next()?.parse().ok()),
        }
    }

    /// What a server at this address says, nothing if there is no connection within two seconds.
    pub fn connects(&self, address: &str, port: u16) -> Option<String> {
        let mut client = self.inside("timeout");
        client.args(["2", "bash", "-c", "exec 3<>/dev/tcp/$0/$1 && head -n 1 <&3"]);
        let output = client.args([address, &port.to_string()]).output().unwrap();
        output.status.success().then(|| text(&output))
    }

    /// Starts a program made by [`Machine::inside`], which goes with the machine at the latest.
    pub fn serves(&self, program: &mut Command) -> Server {
        let program = program.stdout(Stdio::null()).stderr(Stdio::null());
        Server(program.spawn().unwrap())
    }

    /// Says one line to everybody who connects, until it is dropped.
    pub fn says(&self, line: &str, port: u16) -> Server {
        let mut server = self.inside("busybox");
        server.args(["nc", "-ll", "-p", &port.to_string(), "-e", "echo", line]);
        self.serves(&mut server)
    }

    /// Waits for one datagram.
    pub fn hears(&self, port: u16) -> Ear {
        let mut listener = self.inside("/usr/bin/python3");
        let listener = listener.args(["-c", LISTENER, &port.to_string()]);
        let mut child = listener.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        let output = child.stdout.as_mut().unwrap();
        output.read_exact(&mut ready).unwrap();
        Ear(child)
    }

    /// Sends one datagram and knows not whether it arrives. Nothing is asked before: the neighbour's Ethernet address is given.
    pub fn tells(&self, to: &Machine, port: u16, word: &str) {
        let hardware = super::network::hardware(to.n());
        let mut neighbour = self.inside("ip");
        neighbour.args(["neigh", "replace", &to.address(), "lladdr", &hardware]);
        assert!(neighbour.args(["dev", "eth0"]).status().unwrap().success());
        let send = "printf %s \"$2\" >/dev/udp/$0/$1";
        let mut sender = self.inside("bash");
        sender.args(["-c", send, &to.address(), &port.to_string(), word]);
        assert!(sender.status().unwrap().success());
    }
}

/// A program that runs until this is dropped.
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        stop(&mut self.0);
    }
}

/// A listener of [`Machine::hears`].
pub struct Ear(Child);

impl Ear {
    /// Waits for the word, which must come.
    pub fn heard(mut self, word: &str) {
        let mut said = vec![0; word.len()];
        let output = self.0.stdout.as_mut().unwrap();
        output.read_exact(&mut said).unwrap();
        assert_eq!(String::from_utf8_lossy(&said), word);
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        stop(&mut self.0);
    }
}

/// Ends what runs below a helper, which then ends too.
fn stop(helper: &mut Child) {
    for pid in super::processes::children(helper.id()) {
        super::signals::send(pid, super::signals::Signal::KILL);
    }
    wait(helper);
}
