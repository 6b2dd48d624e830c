//! What IPv6 networks need of the machine and of a container's namespace: settings below `/proc/sys/net/ipv6`.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::NetworkError;
use crate::networks::{is_ours, sysctl};

const CONF: &str = "/proc/sys/net/ipv6/conf";

/// Whether the kernel has IPv6 at all. Once it has, it keeps it.
pub(crate) fn in_kernel() -> bool {
    static SEEN: AtomicBool = AtomicBool::new(false);
    if !SEEN.load(Ordering::Relaxed) && Path::new(CONF).exists() {
        SEEN.store(true, Ordering::Relaxed);
    }
    SEEN.load(Ordering::Relaxed)
}

fn now(key: &str) -> Option<String> {
    let text = std::fs::read_to_string(Path::new("/proc/sys").join(key)).ok()?;
    Some(text.trim().to_owned())
}

/// Lets the machine pass IPv6 packets on.
///
/// A machine that passes packets on stops listening to routers, and forgets the routes that it has from them, unless
/// `accept_ra` is 2. So it is made 2 first wherever it is 1, the default of links to come included: the machine keeps its
/// own way out. Bridges of ours never listen, see [`never_listen`].
pub(crate) fn forward() -> Result<(), NetworkError> {
    let all = "net/ipv6/conf/all/forwarding";
    if now(all).as_deref() == Some("1") {
        return Ok(());
    }
    let links = std::fs::read_dir(CONF).into_iter().flatten().flatten();
    let mut kept = Vec::new();
    for name in links.map(|l| l.file_name().to_string_lossy().into_owned()) {
        let key = format!("net/ipv6/conf/{name}/accept_ra");
        if matches!(name.as_str(), "all" | "lo")
            || is_ours(&name)
            || now(&key).as_deref() != Some("1")
        {
            continue;
        }
        match sysctl(&key, "2") {
            Ok(()) => kept.push(name),
            // The link went.
            Err(_) if !Path::new(CONF).join(&name).exists() => {}
            Err(error) => return Err(error),
        }
    }
    sysctl(all, "1")?;
    let links = kept.join(", ");
    tracing::info!(
        links,
        "this machine passes IPv6 packets on now; these still listen to routers (accept_ra=2)"
    );
    Ok(())
}

/// Keeps a bridge from taking routes that a container makes up (CVE-2020-13401).
pub(crate) fn never_listen(bridge: &str) -> Result<(), NetworkError> {
    sysctl(&format!("net/ipv6/conf/{bridge}/accept_ra"), "0")
}

/// Lets a link of the machine have IPv6 addresses, also where IPv6 is off for new links.
pub(crate) fn enable(link: &str) -> Result<(), NetworkError> {
    sysctl(&format!("net/ipv6/conf/{link}/disable_ipv6"), "0")
}

/// As [`enable`], for the namespace of the calling thread: its loopback and links to come.
pub(crate) fn enable_namespace() -> Result<(), NetworkError> {
    ["all", "default", "lo"].into_iter().try_for_each(enable)
}
