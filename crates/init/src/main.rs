//! Process 1 of the image, and whom the kernel asks for modules.
//!
//! The kernel starts it as `/init` of the file system inside the kernel image: that finds the slot whose content the command line names,
//! opens it under verity and goes on as `/sbin/init` of it ([`first`]). That mounts, finds devices, opens the state, reads the
//! configuration, brings up the network, starts the daemon and the units, and stays ([`second`]). As `modprobe` it loads what the
//! kernel asks for.
//!
//! # A worked example
//!
//! `coracle.root=9f…:24000` → partition `coracle-b` begins its tree with the block of that hash → `/dev/dm-0` → `/sbin/init` → phases
//! `mounts`, `sysctls`, `devices`, `state`, `configuration`, `network`, `daemon`, `units`, each with its time in `/run/coracle-os/boot.json` → the
//! daemon says READY=1 → 10.0.0.5 is on the console. SIGTERM: what runs is stopped in order, the state is unmounted, the machine restarts.

mod console;
mod devices;
mod first;
mod modprobe;
mod mounts;
mod second;
mod watchdog;

use std::path::Path;

fn main() {
    let mut arguments = std::env::args();
    let called = arguments.next().unwrap_or_default();
    let called = Path::new(&called).file_name().unwrap_or_default();
    if called == "modprobe" {
        std::process::exit(modprobe::run(arguments));
    }
    if std::process::id() != 1 {
        eprintln!(
            "coracle-pid1 is process 1 of the image; `coracle os` says how the machine is, and restarts it"
        );
        std::process::exit(2);
    }
    if Path::new(first::MARK).exists() {
        first::run()
    } else {
        second::run()
    }
}
