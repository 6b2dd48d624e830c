//! A machine of its own with Debian's kernel: control groups of version 2 alone, modules that come when they are needed, and
//! an overlayfs that is older than the one here may be.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "vm/guests.rs"]
mod guests;
#[path = "vm/qemu.rs"]
mod qemu;

#[test]
fn containers_run_on_debians_kernel_with_control_groups_of_version_2() {
    guests::run("guest", false);
}
