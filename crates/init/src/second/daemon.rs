//! The daemon: started, waited for until it serves, started again when it ends.

use super::children::{Child, Children};
use crate::console::{Level, failed, say};
use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const NOTIFY: &str = "/run/coracle-os/notify";
/// Where its log is.
pub const LOGS: &str = "/var/log/coracle";
/// Bytes of the daemon's log; as many of the former one are kept.
const LOG: u64 = 8 << 20;
/// How long it may take to serve: a cluster may have to be waited for.
const START: Duration = Duration::from_secs(300);
/// Pause before it is started again; twice as long each time, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// One that ran this long begins with the short pause again.
const STEADY: Duration = Duration::from_secs(60);

/// Ends before it has served once that are no accident any more: with their pauses, some 20 seconds.
const ENDS: u32 = 8;

/// How often it has ended.
static ENDED: AtomicU32 = AtomicU32::new(0);
/// Whether it has served.
static SERVED: OnceLock<()> = OnceLock::new();
/// Whether the machine goes down.
static ENDING: OnceLock<()> = OnceLock::new();

/// A program of the image, with what it needs to find others.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin")
        .env("HOME", "/var/root")
        .env("LANG", "C.UTF-8")
        .stdin(Stdio::null());
    command
}

/// Starts the daemon and returns when it serves.
///
/// # Errors
/// That it does not.
pub fn start(children: &Children) -> io::Result<()> {
    fs::create_dir_all("/var/root")?;
    fs::create_dir_all(LOGS)?;
    let ready = UnixDatagram::bind(NOTIFY)?;
    ready.set_read_timeout(Some(Duration::from_millis(500)))?;
    let watched = children.clone();
    thread::spawn(move || watch(&watched));
    let end = Instant::now() + START;
    let mut said = [0; 4096];
    let (mut told, mut on_trial) = (false, None);
    loop {
        if Instant::now() > end || ENDED.load(Ordering::Relaxed) >= ENDS {
            let why = late();
            if *on_trial.get_or_insert_with(super::trial::is_on) {
                return Err(why);
            }
            if !std::mem::replace(&mut told, true) {
                // Who would be better than this slot? It is waited for, as long as it takes.
                failed("the machine is up without its daemon", &why);
            }
        }
        match ready.recv(&mut said) {
            Ok(length)
                if said[..length]
                    .split(|b| *b == b'\n')
                    .any(|l| l == b"READY=1") =>
            {
                SERVED.set(()).ok();
                // Later daemons have somebody to tell too.
                thread::spawn(move || drain(&ready));
                return Ok(());
            }
            _ => {}
        }
    }
}

fn late() -> io::Error {
    let why = match ENDED.load(Ordering::Relaxed) {
        ENDS.. => "the daemon ends again and again".to_owned(),
        _ => format!("the daemon does not serve after {} s", START.as_secs()),
    };
    io::Error::other(format!("{why}; its log is in {LOGS}"))
}

fn drain(ready: &UnixDatagram) {
    let mut said = [0; 4096];
    if ready.set_read_timeout(None).is_err() {
        return;
    }
    while ready.recv(&mut said).is_ok() {}
}

/// Starts it again whenever it ends, until the machine goes down.
fn watch(children: &Children) {
    let mut pause = PAUSE.0;
    while ENDING.get().is_none() {
        let begun = Instant::now();
        match spawn(children) {
            Ok(daemon) => {
                let code = daemon.wait();
                if ENDING.get().is_none() {
                    say(
                        Level::Warning,
                        &format!("the daemon ended with {code}; starting it again"),
                    );
                }
            }
            Err(error) => failed("the daemon cannot be started", &error),
        }
        ENDED.fetch_add(1, Ordering::Relaxed);
        if begun.elapsed() > STEADY {
            pause = PAUSE.0;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE.1);
    }
}

fn spawn(children: &Children) -> io::Result<Child> {
    let (reader, writer) = io::pipe()?;
    let mut command = program("/usr/bin/coracle");
    command
        .arg("daemon")
        .env("NOTIFY_SOCKET", NOTIFY)
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let child = children.spawn(&mut command)?;
    // The command keeps the ends of the pipe that it was given.
    drop(command);
    thread::spawn(move || log(reader));
    Ok(child)
}

/// Writes what it says into a file that does not grow for ever.
fn log(mut from: impl Read) {
    let path = Path::new(LOGS).join("daemon.log");
    let open = || OpenOptions::new().create(true).append(true).open(&path);
    let mut file = open().ok();
    let mut size = file
        .as_ref()
        .and_then(|f| f.metadata().ok())
        .map_or(0, |m| m.len());
    let mut buffer = [0; 8192];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if size > LOG {
            fs::rename(&path, path.with_extension("log.1")).ok();
            (file, size) = (open().ok(), 0);
        }
        // A full disk loses the log and nothing else: what is not read here would halt the daemon.
        if let Some(file) = &mut file {
            file.write_all(&buffer[..length]).ok();
        }
        size += length as u64;
    }
}

/// From now on it is not started again.
pub fn ending() {
    ENDING.set(()).ok();
}

/// Whether the machine goes down.
pub fn is_ending() -> bool {
    ENDING.get().is_some()
}

/// Whether it has served since the machine started.
pub fn serves() -> bool {
    SERVED.get().is_some()
}
