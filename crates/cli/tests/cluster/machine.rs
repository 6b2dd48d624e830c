//! One machine: its boots, its daemon, and what can befall them.

use super::disk::Disk;
use super::holding::{self, Holding};
use super::signals::{self, Signal};
use super::wait::MINUTE;
use super::{Shared, network, processes, sweep, wait_for, wait_until};
use crate::common::{errors, programs, text};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A command that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(300);
/// The same for one that only asks whether the daemon is there: clients wait for a daemon that is not.
const ANSWER: Duration = Duration::from_secs(10);

/// One machine of a cluster. What befalls it can be done from any thread.
pub struct Machine {
    n: usize,
    id: String,
    dir: PathBuf,
    pub(super) disk: Disk,
    pub(super) shared: Arc<Shared>,
    power: Mutex<Power>,
    /// The number that its addresses are made of; its own until it moves.
    pub(super) at: AtomicUsize,
}

/// What a machine has only while it is on.
#[derive(Default)]
pub(super) struct Power {
    pub(super) boot: Option<Holding>,
    daemon: Option<Child>,
}

impl Machine {
    pub(super) fn new(shared: &Arc<Shared>, n: usize, id: &str, disk_mib: u32) -> Self {
        let dir = shared.dir.join(format!("m{n}"));
        for inner in ["run", "units"] {
            fs::create_dir_all(dir.join(inner)).unwrap();
        }
        let disk = Disk::make(&shared.room, dir.join("disk"), disk_mib);
        let state = shared.room.path(&disk.dir().join("state"));
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("machine-id"), format!("{id}\n")).unwrap();
        Self {
            n,
            id: id.to_owned(),
            dir,
            disk,
            shared: shared.clone(),
            power: Mutex::default(),
            at: AtomicUsize::new(n),
        }
    }

    pub(super) fn power(&self) -> MutexGuard<'_, Power> {
        self.power.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn note(&self, what: &str) {
        self.shared.note(format!("m{} {what}", self.n));
    }

    /// Its number, from 1.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Its host name, `m1`.
    pub fn name(&self) -> String {
        format!("m{}", self.n)
    }

    /// Its machine id, 32 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The state directory, as the machine calls it. [`Self::path`] is how the test reaches it.
    pub fn state_dir(&self) -> PathBuf {
        self.disk.dir().join("state")
    }

    /// The run directory, as the machine calls it; empty after each boot.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Where a path of this machine is for the test. What is on the disk is there also while the machine is off.
    pub fn path(&self, path: &Path) -> PathBuf {
        let power = self.power();
        power.boot.as_ref().unwrap_or(&self.shared.room).path(path)
    }

    /// A program in this machine.
    pub fn inside(&self, program: impl AsRef<OsStr>) -> Command {
        let power = self.power();
        let boot = power.boot.as_ref();
        let mut command = boot
            .unwrap_or_else(|| panic!("m{} is off", self.n))
            .command(program);
        command
            .env("CORACLE_STATE_DIR", self.state_dir())
            .env("CORACLE_RUN_DIR", self.run_dir());
        command
    }

    /// Our own command in this machine.
    pub fn command(&self) -> Command {
        self.inside(programs())
    }

    /// As [`Self::command`], which is ended with exit status 124 after this time.
    pub fn limited(&self, limit: Duration) -> Command {
        let mut command = self.inside("timeout");
        command.arg(limit.as_secs_f64().to_string()).arg(programs());
        command
    }

    /// Runs our own command in this machine, for no longer than five minutes.
    pub fn coracle(&self, args: &[&str]) -> Output {
        self.limited(LIMIT).args(args).output().unwrap()
    }

    /// Starts our own command in this machine, and lets it go on. What it prints can be read.
    pub fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command();
        let command = command.args(args).stdout(Stdio::piped());
        command.stderr(Stdio::null()).spawn().unwrap()
    }

    /// As [`Self::coracle`], which must succeed; what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.coracle(args);
        let (said, wrong) = (text(&output), errors(&output));
        assert!(
            output.status.success(),
            "m{} {args:?}: {said}{wrong}",
            self.n
        );
        said
    }

    /// As [`Self::coracle`], which must fail with these words.
    pub fn refused(&self, args: &[&str], words: &str) {
        let output = self.coracle(args);
        let said = errors(&output);
        assert!(
            !output.status.success(),
            "m{} {args:?}: {}",
            self.n,
            text(&output)
        );
        assert!(said.contains(words), "m{} {args:?}: {said}", self.n);
    }

    /// One field of a container.
    pub fn field(&self, container: &str, field: &str) -> String {
        self.ok(&[
            "inspect",
            "--format",
            &format!("{{{{{field}}}}}"),
            container,
        ])
    }

    /// Writes a unit file and gives its path, which is the same within the machine.
    pub fn unit(&self, name: &str, text: &str) -> String {
        let path = self.dir.join("units").join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Imports an archive of a root file system, whose command is `/bin/sh`.
    pub fn load(&self, archive: &Path, image: &str) {
        let archive = fs::File::open(archive).unwrap();
        let mut command = self.command();
        command.args(["import", "--change", "CMD [\"/bin/sh\"]", "-", image]);
        let output = command.stdin(archive).output().unwrap();
        assert!(output.status.success(), "m{}: {}", self.n, errors(&output));
    }

    /// What its daemons wrote, from the first boot on.
    pub fn log(&self) -> String {
        let log = fs::read(self.dir.join("daemon.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    pub fn is_on(&self) -> bool {
        self.power().boot.is_some()
    }

    /// All of its processes, as the test sees them.
    pub fn processes(&self) -> Vec<processes::Process> {
        let init = self.power().boot.as_ref().map(Holding::pid);
        init.map(processes::of).unwrap_or_default()
    }

    /// The first of its processes, as the test sees it.
    pub fn init(&self) -> Option<u32> {
        self.power().boot.as_ref().map(Holding::pid)
    }

    /// The daemon, as the test sees it; nothing if it does not run.
    pub fn daemon(&self) -> Option<u32> {
        let starter = self.power().daemon.as_ref()?.id();
        processes::children(starter).first().copied()
    }

    /// Switches it on without starting a daemon.
    pub fn boot(&self) {
        let mut power = self.power();
        assert!(power.boot.is_none(), "m{} is on already", self.n);
        let boot_id = self.dir.join("boot-id");
        let fresh = fs::read("/proc/sys/kernel/random/uuid").unwrap();
        fs::write(&boot_id, fresh).unwrap();
        let room = &self.shared.room;
        let boot = room.machine(&self.name(), &self.run_dir(), &boot_id);
        self.shared.network.lock().unwrap().plug(
            room,
            self.n,
            self.at.load(Ordering::SeqCst),
            &boot,
        );
        power.boot = Some(boot);
        drop(power);
        self.note("is switched on");
    }

    /// Starts the daemon, on a machine that is switched on if it is not yet, and waits until it answers.
    pub fn start(&self) {
        self.launch();
        self.ready();
    }

    /// As [`Self::start`], without waiting.
    pub fn launch(&self) {
        self.launch_from(&programs());
    }

    /// As [`Self::launch`], of a daemon that is installed elsewhere.
    pub fn launch_from(&self, program: &Path) {
        if !self.is_on() {
            self.boot();
        }
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("daemon.log"))
            .unwrap();
        let mut command = self.inside(program);
        command
            .args(["daemon", "--config"])
            .arg(&self.shared.config);
        command.arg("--state-dir").arg(self.state_dir());
        command.arg("--run-dir").arg(self.run_dir());
        for flag in &self.shared.flags {
            command.arg(flag.replace("{address}", &self.address()));
        }
        let mut power = self.power();
        assert!(power.daemon.is_none(), "m{}'s daemon runs already", self.n);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        power.daemon = Some(child);
        drop(power);
        self.note("its daemon is started");
    }

    /// Waits until the daemon answers.
    pub fn ready(&self) {
        wait_until(&format!("m{}'s daemon answers", self.n), MINUTE, || {
            if let Some(daemon) = self.power().daemon.as_mut() {
                let ended = daemon.try_wait().unwrap();
                assert!(
                    ended.is_none(),
                    "m{}'s daemon ended ({ended:?}):\n{}",
                    self.n,
                    self.log()
                );
            }
            let output = self.limited(ANSWER).arg("info").output().unwrap();
            output
                .status
                .success()
                .then_some(())
                .ok_or_else(|| errors(&output))
        });
    }

    /// Waits until the daemon has ended by itself.
    pub fn gone(&self) {
        wait_for(&format!("m{}'s daemon ends", self.n), MINUTE, || {
            let mut power = self.power();
            let daemon = power.daemon.as_mut();
            daemon.is_none_or(|d| d.try_wait().unwrap().is_some())
        });
        self.power().daemon = None;
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) {
        let daemon = self
            .daemon()
            .unwrap_or_else(|| panic!("m{} has no daemon", self.n));
        self.note(&format!("its daemon gets {signal:?}"));
        signals::send(daemon, signal);
    }

    /// Kills the daemon, and nothing else.
    pub fn kill(&self) {
        self.end(Signal::KILL);
    }

    /// Ends the daemon as an upgrade does.
    pub fn terminate(&self) {
        self.end(Signal::TERM);
    }

    fn end(&self, signal: Signal) {
        self.signal(signal);
        let child = self.power().daemon.take();
        child
            .into_iter()
            .for_each(|mut child| holding::wait(&mut child));
    }

    /// The power is gone: nothing of it runs, and nobody was told. Its disk stays.
    pub fn kill_all(&self) {
        self.note("dies");
        let mut power = self.power();
        let boot = power.boot.take();
        let boot = boot.unwrap_or_else(|| panic!("m{} is off already", self.n));
        // The plug first: processes that are killed would close their connections.
        self.shared
            .network
            .lock()
            .unwrap()
            .unplug(&self.shared.room, self.n);
        // Helpers that stopped with a child of theirs have to collect it, or the others could not leave.
        let members = processes::of(boot.pid());
        for starter in processes::starters(&members) {
            signals::send(starter.pid, Signal::CONT);
        }
        boot.end();
        if let Some(mut daemon) = power.daemon.take() {
            holding::wait(&mut daemon);
        }
        sweep::remove_groups(&self.id);
    }

    /// Dies and comes back: another boot, on the same disk.
    pub fn reboot(&self) {
        if self.is_on() {
            self.kill_all();
        }
        self.start();
    }

    /// Stops all of its processes where they are, as a machine that hangs.
    pub fn pause(&self) {
        self.note("is paused");
        self.everything(Signal::STOP, |state| matches!(state, 'T' | 't' | 'Z' | 'X'));
    }

    /// Lets all of its processes go on.
    pub fn resume(&self) {
        self.everything(Signal::CONT, |state| state != 'T');
        self.note("goes on");
    }

    fn everything(&self, signal: Signal, done: impl Fn(char) -> bool) {
        // Whoever is started meanwhile is found in the next round.
        wait_for(&format!("m{} has {signal:?}", self.n), MINUTE, || {
            let mut members = self.processes();
            if signal == Signal::CONT {
                members.extend(processes::starters(&members));
            }
            members.retain(|process| !done(process.state));
            for process in &members {
                signals::send(process.pid, signal);
            }
            members.is_empty()
        });
    }

    fn network(&self, what: &str, change: impl FnOnce(&mut network::Faults)) {
        self.note(what);
        let mut network = self.shared.network.lock().unwrap();
        network.change(&self.shared.room, change);
    }

    /// No packet comes or goes.
    pub fn cut(&self) {
        self.network("is cut off", |faults| {
            faults.deaf.insert(self.n);
            faults.mute.insert(self.n);
        });
    }

    /// Nothing reaches it; what it sends arrives.
    pub fn cut_in(&self) {
        self.network("hears nothing", |faults| {
            faults.deaf.insert(self.n);
        });
    }

    /// Nothing that it sends arrives.
    pub fn cut_out(&self) {
        self.network("is not heard", |faults| {
            faults.mute.insert(self.n);
        });
    }

    /// It and machine `n` do not reach each other; others reach both.
    pub fn cut_from(&self, n: usize) {
        self.network(&format!("is cut off from m{n}"), |faults| {
            faults.apart.extend([(self.n, n), (n, self.n)]);
        });
    }

    /// Loses so many percent of its packets, each way; 0 for none.
    pub fn lose(&self, percent: u8) {
        self.network(&format!("loses {percent} %"), |faults| {
            faults.loss.insert(self.n, percent);
            faults.loss.retain(|_, percent| *percent > 0);
        });
    }

    /// Ends what [`Self::cut`], [`Self::cut_in`] and [`Self::cut_out`] did.
    pub fn uncut(&self) {
        self.network("is connected again", |faults| {
            faults.deaf.remove(&self.n);
            faults.mute.remove(&self.n);
        });
    }

    /// Ends what [`Self::cut_from`] did.
    pub fn join_with(&self, n: usize) {
        self.network(&format!("is connected with m{n} again"), |faults| {
            faults.apart.remove(&(self.n, n));
            faults.apart.remove(&(n, self.n));
        });
    }

    /// Its packets take so many milliseconds longer, each way; 0 for no longer.
    pub fn delay(&self, milliseconds: u32) {
        self.note(&format!("is {milliseconds} ms away"));
        let mut network = self.shared.network.lock().unwrap();
        network.delay(&self.shared.room, self.n, milliseconds);
    }

    /// Ends all faults of its network, also those that others have with it.
    pub fn heal(&self) {
        self.note("its network is healed");
        self.shared
            .network
            .lock()
            .unwrap()
            .heal(&self.shared.room, self.n);
    }

    /// Nothing more has room on its disk.
    pub fn fill_disk(&self) {
        self.disk.fill(&self.shared.room);
        self.note("its disk is full");
    }

    /// Its disk has its size again.
    pub fn free_disk(&self) {
        self.disk.empty(&self.shared.room);
        self.note("its disk has room again");
    }

    /// Before the room ends: helpers that were stopped can collect their children.
    pub(super) fn let_go(&self) {
        for starter in processes::starters(&self.processes()) {
            signals::send(starter.pid, Signal::CONT);
        }
    }

    /// After the room has ended.
    pub(super) fn reap(&self) {
        let mut power = self.power();
        power.boot.iter().for_each(Holding::reap);
        if let Some(mut daemon) = power.daemon.take() {
            holding::wait(&mut daemon);
        }
    }
}
