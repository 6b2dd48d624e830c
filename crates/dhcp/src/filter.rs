//! The kernel's filter by the way back, which an interface without an address never passes.

use std::path::PathBuf;

/// The `rp_filter` setting (the kernel's `ip-sysctl`) that drops what comes to `interface` while it has no address, if there is one.
/// The larger of the interface's own and that for all of them counts; both 1 and 2 ask for a route to the sender.
pub(crate) fn in_the_way(interface: &str) -> Option<PathBuf> {
    [interface, "all"]
        .iter()
        .map(|of| PathBuf::from(format!("/proc/sys/net/ipv4/conf/{of}/rp_filter")))
        .find(|path| std::fs::read_to_string(path).is_ok_and(|value| value.trim() != "0"))
}
