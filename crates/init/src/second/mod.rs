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
mod state;
mod trial;
mod units;

use crate::{
    console::{Level, failed, say},
    devices::Devices,
    modprobe, mounts,
};
use button::Buttons;
use children::Children;
use coracle_os::modules::Modules;
use coracle_sys::signals::Signals;
use down::End;
use network::Network;
use phases::Phases;
use rustix::event::{PollFd, PollFlags, poll};
use std::{io, thread, time::Duration};

/// Signals that end the machine, as other programs of this kind have them.
const RESTART: [i32; 2] = [15, 2];
const POWER_OFF: i32 = 12;
/// A year, in a loop.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Brings the machine up, watches over it, and takes it down when it is asked to.
pub fn run() -> ! {
    let signals = Signals::take(&[RESTART[0], RESTART[1], POWER_OFF]);
    let signals = signals.unwrap_or_else(|error| {
        // The kernel has no reason to refuse; without them nobody could take the machine down in order.
        panic!("signals: {error}")
    });
    // Ctrl-Alt-Del comes as a signal.
    rustix::system::reboot(rustix::system::RebootCommand::CadOff).ok();
    let children = Children::start();
    let mut phases = Phases::new();
    let machine = up(&mut phases, &children);
    if let Err(error) = &machine {
        failed("the machine is up in part", error);
    }
    phases.done();
    let over = machine.is_err_and(|error| !daemon::serves() && trial::over(&error));
    let end = if over { End::Restart } else { wait(&signals) };
    down::run(end, &children)
}

fn wait(signals: &Signals) -> End {
    loop {
        // Woken in vain it looks again.
        poll(&mut [PollFd::new(signals, PollFlags::IN)], None).ok();
        match signals.next() {
            Ok(Some(POWER_OFF)) => return End::PowerOff,
            Ok(Some(_)) => return End::Restart,
            _ => {}
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
    let mut devices = phases.run("devices", || {
        let mut devices = Devices::new(Modules::read(&modprobe::directory())?)?;
        devices.look();
        Ok(devices)
    })?;
    let state = phases.run("state", || state::open(&mut devices, children));
    if state.is_err() {
        say(
            Level::Error,
            "there is no state: what runs now is gone with the next restart",
        );
    }
    let mut found = phases.run("configuration", || source::find(&mut devices))?;
    phases.run("etc", || etc::write(&found.config))?;
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
        etc::write(&found.config)?;
    }
    phases.run("daemon", || daemon::start(children))?;
    if let Ok(network) = &network {
        say(
            Level::Notice,
            &format!("this machine is at {}", network.shown()),
        );
    }
    if let Some(join) = &found.config.join {
        phases.run("join", || join::once(join, children))?;
    }
    phases.run("units", || units::apply(&found.config, children))
}
