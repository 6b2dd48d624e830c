//! The second stage: process 1 of the machine.

mod button;
mod children;
mod daemon;
mod down;
mod etc;
mod join;
mod network;
mod phases;
mod source;
mod ssh;
mod state;
mod sysctls;
mod trial;
mod units;

use crate::{
    console::{Level, failed, say},
    devices::Devices,
    modprobe, mounts, watchdog,
};
use button::Buttons;
use children::Children;
use coracle_os::modules::Modules;
use coracle_sys::{signals::Signals, watchdog::Watchdog};
use down::End;
use network::Network;
use phases::Phases;
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Resource, Rlimit, setrlimit},
};
use std::{fs, io, thread, time::Duration};

/// Signals that end the machine, as other programs of this kind have them.
const RESTART: [i32; 2] = [15, 2];
const POWER_OFF: i32 = 12;
/// Files that a process may have open: each published port and each container costs the daemon some.
const FILES: u64 = 1 << 20;
/// What workstations know the machine by, as the daemon says it.
const FINGERPRINT: &str = "/var/lib/coracle/api/fingerprint";
/// A year, in a loop.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Brings the machine up, watches over it, and takes it down when it is asked to.
pub fn run() -> ! {
    let watchdog = watchdog::take();
    let signals = Signals::take(&[RESTART[0], RESTART[1], POWER_OFF]);
    let signals = signals.unwrap_or_else(|error| {
        // The kernel has no reason to refuse; without them nobody could take the machine down in order.
        panic!("signals: {error}")
    });
    // Ctrl-Alt-Del comes as a signal.
    rustix::system::reboot(rustix::system::RebootCommand::CadOff).ok();
    let limits = Rlimit {
        current: Some(FILES),
        maximum: Some(FILES),
    };
    if let Err(error) = setrlimit(Resource::Nofile, limits) {
        failed("the number of open files", &error);
    }
    let children = Children::start();
    let end = match begin(&children) {
        Ok((coming, over)) => wait(&signals, coming, &over, watchdog.as_ref()),
        Err(error) => {
            failed("the machine cannot come up", &error);
            End::Restart
        }
    };
    if let Some(watchdog) = watchdog {
        watchdog::going_down(watchdog);
    }
    down::run(end, &children)
}

/// Whether the machine has to restart once it is up; nothing if what brought it up broke off.
type Coming = thread::JoinHandle<bool>;

/// Brings the machine up beside the thread that looks after signals. What is returned ends when that is over.
fn begin(children: &Children) -> io::Result<(Coming, io::PipeReader)> {
    let (over, tell) = io::pipe()?;
    let children = children.clone();
    let coming = thread::Builder::new().name("up".to_owned());
    let coming = coming.spawn(move || {
        let _over = tell;
        let mut phases = Phases::new();
        let machine = up(&mut phases, &children);
        if let Err(error) = &machine {
            failed("the machine is up in part", error);
        }
        phases.done();
        machine.is_err_and(|error| !daemon::serves() && trial::over(&error))
    })?;
    Ok((coming, over))
}

/// Waits until the machine is to go down, and feeds its watchdog.
fn wait(signals: &Signals, coming: Coming, over: &io::PipeReader, fed: Option<&Watchdog>) -> End {
    let mut coming = Some(coming);
    let mut trial = trial::Trial::default();
    let pause = fed.and_then(|_| watchdog::FEED.try_into().ok());
    loop {
        let mut waited = vec![PollFd::new(signals, PollFlags::IN)];
        if coming.is_some() {
            waited.push(PollFd::new(over, PollFlags::IN));
        }
        // Woken in vain it looks again.
        poll(&mut waited, pause.as_ref()).ok();
        if !trial.is_hopeless() {
            fed.into_iter().for_each(watchdog::feed);
        }
        match signals.next() {
            Ok(Some(POWER_OFF)) => return End::PowerOff,
            Ok(Some(_)) => return End::Restart,
            _ => {}
        }
        let closed = waited.get(1).is_some_and(|p| !p.revents().is_empty());
        let Some(coming) = coming.take_if(|_| closed) else {
            continue;
        };
        let restarts = coming.join().unwrap_or_else(|_| {
            let broken = io::Error::other("what brings the machine up broke off");
            failed("the machine is up in part", &broken);
            !daemon::serves() && trial::over(&broken)
        });
        if restarts {
            return End::Restart;
        }
    }
}

/// One phase after the other. What fails is told, and all is tried that does not need it.
fn up(phases: &mut Phases, children: &Children) -> io::Result<()> {
    phases.run("mounts", || {
        // Those of the kernel came along from the first stage.
        mounts::machine()?;
        mounts::optional();
        etc::skeleton()
    })?;
    // Before there are links, which take theirs when they come. A machine without one of them is better than none.
    phases
        .run("sysctls", || {
            let reserve = sysctls::limit_reserve();
            sysctls::apply().and(reserve)
        })
        .ok();
    let mut devices = phases.run("devices", || {
        let mut devices = Devices::new(Modules::read(&modprobe::directory())?)?;
        devices.look();
        Ok(devices)
    })?;
    let state = phases.run("state", || state::open(&mut devices, children));
    if state.is_err() {
        phases.run("no state", state::none)?;
        say(
            Level::Error,
            "there is no state: what runs now is gone with the next restart",
        );
    }
    let mut found = phases.run("configuration", || source::find(&mut devices))?;
    // A file that cannot be written is told, and no reason to be out of reach.
    phases.run("etc", || etc::write(&found.config)).ok();
    // From here on devices are looked after beside everything else.
    thread::spawn(move || {
        let mut buttons = Buttons::default();
        loop {
            devices.until(FOR_EVER, || {
                buttons.look();
                None::<()>
            });
        }
    });
    let network = phases.run("network", || network::up(&found.config));
    if let Some(address) = network.as_ref().ok().and_then(Network::first)
        && found.address(address)
    {
        phases.run("addresses", || etc::write(&found.config)).ok();
    }
    phases.run("daemon", || daemon::start(children))?;
    if let Ok(network) = &network {
        say(
            Level::Notice,
            &format!("this machine is at {}", network.shown()),
        );
    }
    if let Some(address) = &found.config.api_listen {
        let line = match fs::read_to_string(FINGERPRINT) {
            Ok(key) => format!(
                "its API for workstations is at {address}, as {}",
                key.trim()
            ),
            Err(error) => format!(
                "no API for workstations at {address}: {FINGERPRINT}: {error}; the daemon's log in {} says why",
                daemon::LOGS
            ),
        };
        say(Level::Notice, &line);
    }
    let address = network.as_ref().ok().and_then(Network::first);
    ssh::start(
        !found.config.ssh_authorized_keys.is_empty(),
        address,
        children,
    );
    let joined = match &found.config.join {
        Some(join) => phases.run("join", || join::once(join, children)),
        None => Ok(()),
    };
    let mut known = units::applied();
    let applied = phases.run("units", || {
        units::apply(&found.config, children, &mut known)
    });
    if applied.is_err() {
        units::keep_applying(found.config, children.clone(), known);
    }
    joined.and(applied)
}
