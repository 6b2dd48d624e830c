//! SSH: a container of the machine's own that runs when the configuration has keys.
//!
//! Its programs are those of the slot that runs, mounted from the verified root; its image has little more than the places for them. So it is
//! made once, and made again only when a release makes it otherwise: a machine whose disk is full has the one that it had.

use super::{
    children::Children,
    daemon::{self, program},
    etc::KEYS,
};
use crate::console::{Level, failed, say};
use coracle_os::{SSH_LABEL, root::hex};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, DirBuilder},
    io::{self, Read},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::DirBuilderExt,
    thread,
    time::{Duration, Instant},
};

const NAME: &str = "coracle-ssh";
/// A name of no registry, so that nobody pulls it.
const IMAGE: &str = "localhost/coracle-ssh";
/// The same while it is made.
const NEXT: &str = "localhost/coracle-ssh:next";
/// The root of the image, and what the container runs; both are the release's.
const ROOT: &str = "/usr/share/coracle/ssh/root.tar";
const START: &str = "/usr/share/coracle/ssh/start";
const PORT: u16 = 22;

/// Host keys, kept for as long as the machine's state is.
const HOST_KEYS: &str = "/var/lib/coracle-os/ssh";
/// The home directory of whoever logs in, and over what it has of keys lie those of the configuration.
const HOME: &str = "/var/root";

/// What the container sees of the machine: from where, where, and whether it may write there. Each under its own name as far as it can be, since
/// `coracle run --volume` asks for names of the machine's.
const MOUNTS: [(&str, &str, bool); 8] = [
    ("/usr", "/usr", false),
    ("/etc", "/host/etc", false),
    ("/run/coracle", "/run/coracle", true),
    ("/run/coracle-os", "/run/coracle-os", false),
    ("/var", "/var", false),
    (HOME, HOME, true),
    (KEYS, "/var/root/.ssh", false),
    (HOST_KEYS, "/etc/dropbear", true),
];

/// Pause before what did not work is tried again; twice as long each time, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// How often it is tried to start a container that is as it is to be, before it is made anew.
const PATIENCE: u32 = 3;
/// How long the server may take until it answers.
const ANSWER: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// Has the container run, or not be there, beside everything else: the machine is up without it too.
pub fn start(wanted: bool, address: Option<Ipv4Addr>, children: &Children) {
    let children = children.clone();
    let keeping = thread::Builder::new().name("ssh".to_owned());
    let started = keeping.spawn(move || {
        let (mut pause, mut tries) = (PAUSE.0, 0);
        // A daemon that begins anew, as it does to join a cluster, breaks off what it is asked.
        while let Err(error) = once(wanted, &children, tries) {
            if daemon::is_ending() {
                return;
            }
            tries += 1;
            failed("ssh", &error);
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSE.1);
        }
        if wanted {
            tell(address);
        }
    });
    if let Err(error) = started {
        failed("ssh", &error);
    }
}

/// One try, of which some have failed before.
fn once(wanted: bool, children: &Children, tries: u32) -> io::Result<()> {
    let known = containers(SSH_LABEL, children)?;
    if !wanted {
        return remove(&known, children);
    }
    for directory in [HOST_KEYS, "/var/root/.ssh"] {
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700).create(directory)?;
    }
    let label = format!("{SSH_LABEL}={}", digest()?);
    let same = containers(&label, children)?;
    let coracle = |arguments: &[&str]| told(arguments, children).map(drop);
    // What somebody has stopped is there again after a restart.
    if !same.is_empty() && same == known {
        match coracle(&["start", NAME]) {
            Err(error) if tries < PATIENCE => return Err(error),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
    }
    // First of all what may have no room: until then there is the container of before.
    coracle(&["import", ROOT, NEXT])?;
    remove(&known, children)?;
    // That of another release; there may be none.
    coracle(&["rmi", "--force", IMAGE]).ok();
    coracle(&["tag", NEXT, IMAGE])?;
    coracle(&["rmi", NEXT]).ok();
    let mut arguments = vec!["run", "--detach", "--label", &label];
    let mounts = mounts();
    arguments.extend(settings(&mounts));
    coracle(&arguments)
}

/// How the container is to be, but for its label.
fn settings(mounts: &[String]) -> Vec<&str> {
    let mut settings = vec!["--name", NAME, "--restart", "always", "--pull", "never"];
    // The machine's network, processes and name are what somebody who logs in wants to look at; `reboot` and `poweroff` reach process 1.
    settings.extend(["--network", "host", "--pid", "host", "--uts", "host"]);
    settings.extend(["--read-only", "--tmpfs", "/tmp"]);
    // Everybody on a network may have something written there.
    settings.extend(["--log-opt", "max-size=1m", "--log-opt", "max-file=2"]);
    for mount in mounts {
        settings.extend(["--mount", mount]);
    }
    settings.extend([IMAGE, START]);
    settings
}

/// Without what is mounted below: the EFI partition, say, would stay in use by a copy.
fn mounts() -> Vec<String> {
    let one = |(source, target, writable)| {
        let mode = if writable { "" } else { ",readonly" };
        format!("type=bind,source={source},target={target},bind-nonrecursive{mode}")
    };
    MOUNTS.into_iter().map(one).collect()
}

/// Tells containers apart that are made otherwise.
fn digest() -> io::Result<String> {
    let mut digest = Sha256::new();
    digest.update(fs::read(ROOT).map_err(|e| io::Error::new(e.kind(), format!("{ROOT}: {e}")))?);
    for setting in settings(&mounts()) {
        digest.update(setting);
        digest.update([0]);
    }
    let digest = digest.finalize();
    Ok(hex(&digest[..16]))
}

/// The ids of this machine's containers with a label.
fn containers(label: &str, children: &Children) -> io::Result<Vec<String>> {
    let filter = format!("label={label}");
    let ids = told(&["ps", "--all", "--quiet", "--filter", &filter], children)?;
    // The command also says what it waits for.
    let is_id = |line: &&str| line.len() >= 12 && line.bytes().all(|b| b.is_ascii_hexdigit());
    Ok(ids.lines().filter(is_id).map(str::to_owned).collect())
}

fn remove(ids: &[String], children: &Children) -> io::Result<()> {
    for id in ids {
        told(&["rm", "--force", id], children)?;
    }
    Ok(())
}

/// Runs the command and returns what it said; if it failed, that is the error.
fn told(arguments: &[&str], children: &Children) -> io::Result<String> {
    let (mut reader, writer) = io::pipe()?;
    let mut command = program("/usr/bin/coracle");
    command
        .args(arguments)
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let child = children.spawn(&mut command)?;
    // The command keeps the ends of the pipe that it was given.
    drop(command);
    let mut said = String::new();
    reader.read_to_string(&mut said)?;
    match child.wait() {
        0 => Ok(said),
        _ => Err(io::Error::other(format!(
            "`coracle {}`: {}",
            arguments.first().copied().unwrap_or_default(),
            said.trim()
        ))),
    }
}

/// Tells how to log in, once the server answers.
fn tell(address: Option<Ipv4Addr>) {
    let end = Instant::now() + ANSWER;
    while let Err(error) = answers() {
        if daemon::is_ending() {
            return;
        }
        if Instant::now() > end {
            let what = format!("port {PORT}: {error}; `coracle logs {NAME}` may say why");
            failed("ssh does not answer", &io::Error::other(what));
            return;
        }
        thread::sleep(LOOK);
    }
    let shown = fs::read_to_string(format!("{HOST_KEYS}/ed25519.txt")).unwrap_or_default();
    let key = match fingerprint(&shown) {
        Some(fingerprint) => format!("its host key is {fingerprint} (ED25519)"),
        None => "its host key is not known here".to_owned(),
    };
    let address = address.map_or("this machine".to_owned(), |a| a.to_string());
    say(Level::Notice, &format!("ssh root@{address}; {key}"));
}

fn answers() -> io::Result<()> {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let mut server = TcpStream::connect_timeout(&to, ANSWER)?;
    server.set_read_timeout(Some(ANSWER))?;
    let mut begin = [0; 4];
    server.read_exact(&mut begin)?;
    match &begin {
        b"SSH-" => Ok(()),
        _ => Err(io::Error::other("something else than SSH is there")),
    }
}

/// The fingerprint in what `dropbearkey -y` says of a key.
fn fingerprint(shown: &str) -> Option<&str> {
    let line = shown
        .lines()
        .find_map(|l| l.strip_prefix("Fingerprint: "))?;
    line.starts_with("SHA256:").then_some(line.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_those_that_clients_show() {
        let shown = "Public key portion is:\nssh-ed25519 AAAA root@web1\nFingerprint: SHA256:GhsDTk/ijzqDDJu2frgFjMCzE2uq9OYRr40z46n2AWY\n";
        let found = fingerprint(shown);
        assert_eq!(
            found,
            Some("SHA256:GhsDTk/ijzqDDJu2frgFjMCzE2uq9OYRr40z46n2AWY")
        );
        assert_eq!(fingerprint("Fingerprint: sha1!! 00:11\n"), None);
        assert_eq!(fingerprint(""), None);
    }

    #[test]
    fn only_home_sockets_and_host_keys_can_be_written() {
        let mounts = mounts();
        let writable = mounts.iter().filter(|m| !m.ends_with(",readonly"));
        let writable: Vec<_> = writable.map(|m| m.split([',', '=']).nth(3)).collect();
        assert_eq!(
            writable,
            [Some("/run/coracle"), Some(HOME), Some(HOST_KEYS)]
        );
    }
}
