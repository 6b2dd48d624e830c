//! A machine of its own with Debian's kernel and systemd. It takes longer than `make test` has time for: `make test-os` runs it.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "vm/guests.rs"]
mod guests;
#[path = "vm/qemu.rs"]
mod qemu;

/// Installed as `make install` does it: the daemon is restarted, stopped and killed under what runs; the machine goes down in
/// order, and comes back; its power goes, and all that was acknowledged is there.
#[test]
fn a_machine_with_systemd_is_restarted_and_loses_its_power() {
    guests::run("guest-systemd", true);
}
